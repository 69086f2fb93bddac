#pragma once
// The functions of core/math.h over arrays, so that tests can hold them to their stated error.
#include "core/dispatch.h"
#include "core/view.h"

namespace marey {

enum class MathFunction : int { exp2, exp2_nonpositive, tanh, sigmoid };

// x and y: `count` items of float32 or float64.
using MathProbe = void(MathFunction function, DType dtype, const void* x, void* y, int64_t count);
MAREY_DECLARE_KERNEL(math_probe, MathProbe)

void run_math_probe(MathFunction function, DType dtype, const void* x, void* y, int64_t count);

}  // namespace marey
