#pragma once
// Pooling over windows in time, height and width:
//
//   max   y[n, c, t, h, w] = max over i, j, l of x[n, c, t sT + i dT - pT, h sH + j dH - pH, ...]
//   mean  the same with a sum, divided by how many positions of the window count
//
// over the positions inside of x. A window with none gives -inf, or 0 for the mean. NaN is larger
// than any number. The mean counts positions of the padding only with count_include_pad, and those
// beyond it (ceil_mode) never.
//
// Axes are in the order N, C, T, H, W whatever the memory's: a layout is nothing but strides.
#include <algorithm>
#include <array>
#include <cstddef>
#include <string_view>

#include "core/dispatch.h"
#include "core/view.h"

namespace marey {

// One value for each of time, height and width.
using Triple = std::array<int64_t, 3>;

enum class Pooling : int { max, average };

struct PoolOptions {
  Pooling kind = Pooling::max;
  Triple kernel{1, 1, 1};
  Triple stride{1, 1, 1};
  Triple dilation{1, 1, 1};
  Triple before{0, 0, 0};  // padding
  Triple after{0, 0, 0};
  bool ceil_mode = false;  // windows may go beyond the padding, but not begin there
  bool count_include_pad = true;
};

// (N, C, T', H', W') for x (N, C, T, H, W). Throws ValueError in the name of `function` for options
// that make no sense, or a kernel that does not fit into the padded x.
Shape pool3d_shape(std::string_view function, const Shape& x, const PoolOptions& options);

// x (N, C, T, H, W) and out, of the shape above, both float32, float64 or bfloat16 (summed in
// float32), any strides; out does not overlap x. Scratch of a thread: rows of x for twice the
// height of the dilated kernel, or 24 KiB of them if that is more; and where rows do not lie in
// one piece, one for each step of the kernel along time.
void pool3d(std::string_view function, const View& x, const PoolOptions& options, const View& out);

// out (N, C): the mean over T, H and W, 0 where there is nothing. Sums of float32 and bfloat16 are
// carried on in float64 every few dozen items. Workspace: 16 float64 for each item of out.
void global_avg_pool3d(std::string_view function, const View& x, const View& out);

// ---- what the kernels take ----

// Inlined always, because kernel files call them (see core/dispatch.h).
struct PoolAxis {
  int64_t in = 1;
  int64_t out = 1;
  int64_t kernel = 1;
  int64_t stride = 1;
  int64_t dilation = 1;
  int64_t before = 0;
  int64_t after = 0;

  [[gnu::always_inline]] int64_t extent() const { return dilation * (kernel - 1) + 1; }
  [[gnu::always_inline]] bool trivial() const {
    return kernel == 1 && stride == 1 && before == 0 && out == in;
  }

  // The positions of window q that lie inside: `count` of them from `first` on, `dilation` apart.
  struct Inside {
    int64_t first, count;
  };
  [[gnu::always_inline]] Inside inside(int64_t q) const {
    const int64_t start = q * stride - before;
    if (start >= 0 && start + extent() <= in) return {start, kernel};  // without a division
    const int64_t skipped = start < 0 ? (dilation - 1 - start) / dilation : 0;
    const int64_t end = std::min(kernel, (in - start + dilation - 1) / dilation);
    return {start + skipped * dilation, std::max<int64_t>(end - skipped, 0)};
  }
  // How many positions of window q count for the mean.
  [[gnu::always_inline]] int64_t counted(int64_t q, bool include_pad) const {
    if (!include_pad) return inside(q).count;
    const int64_t start = q * stride - before;
    if (start + extent() <= in + after) return kernel;  // without a division
    return (in + after - start + dilation - 1) / dilation;
  }
};

// A row is what the vectors run along: W positions of `channels` channels side by side, 1 where
// each channel has its own rows. Strides are in items.
struct PoolProblem {
  PoolAxis t, h, w;
  bool count_include_pad = true;
  int64_t channels = 1;
  int64_t x_t = 0, x_h = 0, x_w = 0, x_c = 0;
  int64_t out_h = 0, out_w = 0, out_c = 0;

  [[gnu::always_inline]] bool x_in_rows() const { return in_rows(w.in, x_w, x_c); }
  [[gnu::always_inline]] bool out_in_rows() const { return in_rows(w.out, out_w, out_c); }

 private:
  [[gnu::always_inline]] bool in_rows(int64_t width, int64_t stride_w, int64_t stride_c) const {
    return (channels == 1 || stride_c == 1) && (width == 1 || stride_w == channels);
  }
};

// The problem of a view x and a result `out`: for each channel, unless channels lie side by side in
// both.
PoolProblem pool_problem(const View& x, const PoolOptions& options, const View& out);

// Throw unless x has five axes; and unless x and `out` are of one type, and `out` of this shape.
void check_pooled_video(std::string_view function, const Shape& x);
void check_pooled_types(std::string_view function, const View& x, const View& out,
                        const Shape& shape);

// Rows [begin, end) of frame t of the result of one problem.
struct PoolRows {
  const PoolProblem* problem;
  const void* x;
  void* out;  // at frame t
  int64_t t, begin, end;
  std::byte* scratch;
};

struct PoolKernel {
  int64_t (*scratch_bytes)(const PoolProblem&);
  void (*run)(const PoolRows&);
};
using SelectPool = PoolKernel(DType, Pooling);
MAREY_DECLARE_KERNEL(select_pool, SelectPool)

// sum[0..lanes) += `count` rows of so many lanes side by side, `pitch` items apart.
using SumLanesFn = void(const void* x, int64_t count, int64_t pitch, int64_t lanes, double* sum);
// sum += `count` items side by side.
using SumRunFn = void(const void* x, int64_t count, double* sum);
struct SumKernel {
  SumLanesFn* lanes;
  SumRunFn* run;
};
using SelectSum = SumKernel(DType);
MAREY_DECLARE_KERNEL(select_sum, SelectSum)

}  // namespace marey
