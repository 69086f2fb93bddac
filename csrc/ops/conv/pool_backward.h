#pragma once
// Gradients of pooling (pool.h):
//
//   max   grad_x[n, c, p] = the sum of grad[n, c, q] over the windows q whose maximum is at p
//   mean  the same over all windows q that p is in, each grad[n, c, q] divided by how many
//   positions
//         of q count
//
// Where several places of a window have its maximum the first of them has it, time before height
// before width; NaN is larger than any number.
#include <string_view>

#include "ops/conv/pool.h"

namespace marey {

// grad (N, C, T', H', W'), and grad_x (N, C, T, H, W), which pool3d reads as x; for the maximum x,
// too, else null. All of one type, float32, float64 or bfloat16 (summed in float32), any strides;
// grad_x overlaps none of the others. Windows of the maximum hold at most kMostPlaces. Workspace:
// for the maximum 4 bytes for each item of grad (8 for float64), of so many clips or channels at
// once that it is 64 MiB, or of one; and rows of x for each thread.
inline constexpr int64_t kMostPlaces = int64_t{1} << 24;
void pool3d_backward(std::string_view function, const View& grad, const View* x,
                     const PoolOptions& options, const View& grad_x);

// ---- what the kernels take ----

// Rows [begin, end) of frame t: of the result for `find`, of x for `gather`.
struct PoolGradRows {
  const PoolProblem* problem;  // out: of grad
  int64_t grad_t;              // its stride along time
  const void* x;               // frame 0
  const void* grad;
  void* place;  // (T', H', W', channels) of the type of the sums: which place has the maximum
  void* grad_x;
  int64_t t, begin, end;
  std::byte* scratch;
};

struct PoolGradKernel {
  int64_t (*scratch_bytes)(const PoolProblem&);
  void (*find)(const PoolGradRows&);    // writes `place`; null for the mean
  void (*gather)(const PoolGradRows&);  // writes grad_x
};
using SelectPoolGrad = PoolGradKernel(DType, Pooling);
MAREY_DECLARE_KERNEL(select_pool_grad, SelectPoolGrad)

}  // namespace marey
