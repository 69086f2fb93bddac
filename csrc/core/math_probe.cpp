#include "core/math_probe.h"

namespace marey {

MAREY_STUB_NO_BF16(math_probe, MathProbe)

void run_math_probe(MathFunction function, DType dtype, const void* x, void* y, int64_t count) {
  math_probe_stub.get()(function, dtype, x, y, count);
}

}  // namespace marey
