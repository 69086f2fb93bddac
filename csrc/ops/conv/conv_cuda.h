#pragma once
// Convolution on a CUDA device: the contract of conv3d.h. Views hold device pointers, in the order
// N, C, T, H, W, and work is put on `queue` and not waited for.
#include "core/view.h"
#include "cuda/kernel.h"
#include "ops/conv/conv3d.h"

namespace marey::cuda {

// x, weight and out of one type: float32, float64 or bfloat16, which is summed in float32. bias:
// null or (K,) of that type, or float32 with bfloat16. past: null, or the frames before those of x.
// out has conv3d_shape. `workspace`: conv3d_workspace bytes. Returns the name of the kernel: "sm90"
// or "generic".
int64_t conv3d_workspace(const View& weight);
const char* conv3d(const Queue& queue, const View& x, const View* past, const View& weight,
                   const View* bias, const Conv3dOptions& options, const View& out,
                   void* workspace);

// The contract of conv3d_backward.h, of one type each. grad_weight and grad_bias are C-ordered, or
// null; `workspace` is of conv3d_backward_workspace bytes, at most 64 MiB, or as much as the
// gradient if that is more.
void conv3d_backward_input(const Queue& queue, const View& grad, const View& weight,
                           const Conv3dOptions& options, const View& grad_x, void* workspace);
int64_t conv3d_backward_workspace(const View& grad, const Shape& weight,
                                  const Conv3dOptions& options);
void conv3d_backward_weight(const Queue& queue, const View& grad, const View& x,
                            const Shape& weight, const Conv3dOptions& options,
                            const View* grad_weight, const View* grad_bias, void* workspace);

}  // namespace marey::cuda
