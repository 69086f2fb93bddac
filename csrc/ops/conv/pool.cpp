#include "ops/conv/pool.h"

#include <string>

#include "core/error.h"
#include "core/parallel.h"

namespace marey {

MAREY_STUB_NO_BF16(select_pool, SelectPool)

namespace {

constexpr const char* kAxes[] = {"T", "H", "W"};
// Items of x and of the result that one task is worth a thread for.
constexpr int64_t kGrain = int64_t{1} << 15;

int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

void check_range(std::string_view function, const char* argument, const Triple& values,
                 int64_t least) {
  for (const int64_t value : values) {
    if (value < least || value > (int64_t{1} << 31)) {
      throw ValueError(function, argument, std::to_string(least) + " to 2**31",
                       std::to_string(value));
    }
  }
}

PoolAxis axis_of(const PoolOptions& options, std::size_t axis, int64_t in, int64_t out) {
  PoolAxis result;
  result.in = in;
  result.out = out;
  result.kernel = options.kernel[axis];
  result.stride = options.stride[axis];
  result.dilation = options.dilation[axis];
  result.before = options.before[axis];
  result.after = options.after[axis];
  return result;
}

// Whether the channels of both lie side by side, so that vectors run along them.
bool channels_side_by_side(const View& x, const View& out) {
  return x.shape[1] > 1 && x.stride(1) == item_size(x.dtype) &&
         out.stride(1) == item_size(out.dtype);
}

}  // namespace

void check_pooled_video(std::string_view function, const Shape& x) {
  if (x.ndim != 5) {
    throw ValueError(function, "x", "5 axes", to_string(x));
  }
}

void check_pooled_types(std::string_view function, const View& x, const View& out,
                        const Shape& shape) {
  if (x.dtype == DType::u8) {
    throw TypeError(function, "x", "float32, float64 or bfloat16", name(x.dtype));
  }
  if (out.dtype != x.dtype) throw TypeError(function, "out", name(x.dtype), name(out.dtype));
  if (!(out.shape == shape)) {
    throw ValueError(function, "out", "shape " + to_string(shape), to_string(out.shape));
  }
}

Shape pool3d_shape(std::string_view function, const Shape& x, const PoolOptions& options) {
  check_pooled_video(function, x);
  check_range(function, "kernel", options.kernel, 1);
  check_range(function, "stride", options.stride, 1);
  check_range(function, "dilation", options.dilation, 1);
  check_range(function, "padding", options.before, 0);
  check_range(function, "padding", options.after, 0);
  Shape shape = x;
  for (std::size_t axis = 0; axis < 3; ++axis) {
    const int64_t in = x[static_cast<int>(axis) + 2];
    const int64_t extent = options.dilation[axis] * (options.kernel[axis] - 1) + 1;
    if (std::max(options.before[axis], options.after[axis]) >= extent) {
      throw ValueError(
          function, "padding",
          "less than the " + std::to_string(extent) + " that the kernel spans along " + kAxes[axis],
          std::to_string(std::max(options.before[axis], options.after[axis])));
    }
    const int64_t span = in + options.before[axis] + options.after[axis] - extent;
    if (span < 0) {
      throw ValueError(function, "kernel",
                       "at most the " + std::to_string(span + extent) +
                           " that padded x has along " + kAxes[axis],
                       std::to_string(extent));
    }
    const int64_t stride = options.stride[axis];
    int64_t count = span / stride + 1;
    if (options.ceil_mode && span % stride != 0 && count * stride < in + options.before[axis]) {
      ++count;
    }
    shape[static_cast<int>(axis) + 2] = count;
  }
  return shape;
}

PoolProblem pool_problem(const View& x, const PoolOptions& options, const View& out) {
  const int64_t item = item_size(x.dtype);
  PoolProblem problem;
  problem.t = axis_of(options, 0, x.shape[2], out.shape[2]);
  problem.h = axis_of(options, 1, x.shape[3], out.shape[3]);
  problem.w = axis_of(options, 2, x.shape[4], out.shape[4]);
  problem.count_include_pad = options.count_include_pad;
  problem.channels = channels_side_by_side(x, out) ? x.shape[1] : 1;
  problem.x_c = x.stride(1) / item;
  problem.x_t = x.stride(2) / item;
  problem.x_h = x.stride(3) / item;
  problem.x_w = x.stride(4) / item;
  problem.out_c = out.stride(1) / item;
  problem.out_h = out.stride(3) / item;
  problem.out_w = out.stride(4) / item;
  return problem;
}

void pool3d(std::string_view function, const View& x, const PoolOptions& options, const View& out) {
  check_pooled_types(function, x, out, pool3d_shape(function, x.shape, options));
  if (out.shape.count() == 0) return;
  const PoolProblem problem = pool_problem(x, options, out);
  const int64_t outer = x.shape[1] / problem.channels;

  // A task is a band of rows of one frame of the result.
  const int64_t frames = x.shape[0] * outer * problem.t.out;
  const int64_t row_work = problem.channels * (problem.w.out + problem.w.in * problem.h.stride);
  const int64_t wanted = ceil_div(4 * num_threads(), frames);
  const int64_t band =
      std::max(ceil_div(problem.h.out, wanted),
               std::min(problem.h.out, ceil_div(kGrain, std::max<int64_t>(row_work, 1))));
  const int64_t bands = ceil_div(problem.h.out, band);
  const int64_t grain = std::max<int64_t>(kGrain / std::max<int64_t>(row_work * band, 1), 1);
  const PoolKernel kernel = select_pool_stub.get()(x.dtype, options.kind);
  parallel_for(frames * bands, grain, static_cast<std::size_t>(kernel.scratch_bytes(problem)),
               [&](int64_t begin, int64_t end, std::byte* scratch) {
                 for (int64_t task = begin; task < end; ++task) {
                   const int64_t frame = task / bands;
                   const int64_t n = frame / problem.t.out / outer;
                   const int64_t c = frame / problem.t.out % outer;
                   PoolRows rows{};
                   rows.problem = &problem;
                   rows.t = frame % problem.t.out;
                   rows.x = x.as<std::byte>() + n * x.stride(0) + c * x.stride(1);
                   rows.out = out.as<std::byte>() + n * out.stride(0) + c * out.stride(1) +
                              rows.t * out.stride(2);
                   rows.begin = task % bands * band;
                   rows.end = std::min(rows.begin + band, problem.h.out);
                   rows.scratch = scratch;
                   kernel.run(rows);
                 }
               });
}

}  // namespace marey
