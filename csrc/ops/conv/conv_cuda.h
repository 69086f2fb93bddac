#pragma once
// Convolution on a CUDA device: the contract of conv3d.h. Views hold device pointers, in the order
// N, C, T, H, W, and work is put on `queue` and not waited for.
#include "core/view.h"
#include "cuda/kernel.h"
#include "ops/conv/conv3d.h"

namespace marey::cuda {

// x, weight and out of one type: float32, float64 or bfloat16, which is summed in float32. bias:
// null or (K,) of that type, or float32 with bfloat16. past: null, or the frames before those of x.
// out has conv3d_shape.
void conv3d(const Queue& queue, const View& x, const View* past, const View& weight,
            const View* bias, const Conv3dOptions& options, const View& out);

}  // namespace marey::cuda
