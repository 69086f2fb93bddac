#include "ops/conv/pool.h"

#include <string>

#include "core/bfloat16.h"
#include "core/buffer.h"
#include "core/error.h"
#include "core/parallel.h"

namespace marey {

MAREY_STUB(select_pool, SelectPool)
MAREY_STUB(select_sum, SelectSum)

namespace {

constexpr const char* kAxes[] = {"T", "H", "W"};
// Items of x and of the result that one task is worth a thread for.
constexpr int64_t kGrain = int64_t{1} << 15;
// Into how many parts along T a mean over everything is cut at most, and how long these are at
// least.
constexpr int64_t kSegments = 16;
constexpr int64_t kSegment = int64_t{1} << 14;

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

void check_video(std::string_view function, const Shape& x) {
  if (x.ndim != 5) {
    throw ValueError(function, "x", "5 axes", to_string(x));
  }
}

void check_types(std::string_view function, const View& x, const View& out, const Shape& shape) {
  if (x.dtype == DType::u8) {
    throw TypeError(function, "x", "float32, float64 or bfloat16", name(x.dtype));
  }
  if (out.dtype != x.dtype) throw TypeError(function, "out", name(x.dtype), name(out.dtype));
  if (!(out.shape == shape)) {
    throw ValueError(function, "out", "shape " + to_string(shape), to_string(out.shape));
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

Shape pool3d_shape(std::string_view function, const Shape& x, const PoolOptions& options) {
  check_video(function, x);
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

void pool3d(std::string_view function, const View& x, const PoolOptions& options, const View& out) {
  check_types(function, x, out, pool3d_shape(function, x.shape, options));
  if (out.shape.count() == 0) return;
  const int64_t item = item_size(x.dtype);
  const bool inner = channels_side_by_side(x, out);
  const int64_t channels = x.shape[1];
  const int64_t outer = inner ? 1 : channels;

  PoolProblem problem;
  problem.t = axis_of(options, 0, x.shape[2], out.shape[2]);
  problem.h = axis_of(options, 1, x.shape[3], out.shape[3]);
  problem.w = axis_of(options, 2, x.shape[4], out.shape[4]);
  problem.count_include_pad = options.count_include_pad;
  problem.channels = inner ? channels : 1;
  problem.x_c = x.stride(1) / item;
  problem.x_t = x.stride(2) / item;
  problem.x_h = x.stride(3) / item;
  problem.x_w = x.stride(4) / item;
  problem.out_c = out.stride(1) / item;
  problem.out_h = out.stride(3) / item;
  problem.out_w = out.stride(4) / item;

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

void global_avg_pool3d(std::string_view function, const View& x, const View& out) {
  check_video(function, x.shape);
  Shape shape = x.shape;
  shape.ndim = 2;
  check_types(function, x, out, shape);
  if (out.shape.count() == 0) return;
  const int64_t N = x.shape[0];
  const int64_t C = x.shape[1];
  const int64_t T = x.shape[2];
  const int64_t H = x.shape[3];
  const int64_t W = x.shape[4];
  const int64_t item = item_size(x.dtype);
  const bool inner = x.stride(1) == item && C > 1;
  const bool in_rows = W == 1 || x.stride(4) == item;
  // Positions the same distance apart: all, those of a frame, or those of a row.
  const bool frame = H == 1 || x.stride(3) == W * x.stride(4);
  const bool clip = frame && (T == 1 || x.stride(2) == H * W * x.stride(4));
  const int64_t rows = frame ? 1 : H;
  const int64_t width = frame ? H * W : W;
  const int64_t outer = inner ? 1 : C;
  const int64_t lanes = inner ? C : 1;

  const int64_t frame_items = std::max<int64_t>(H * W * lanes, 1);
  const int64_t frames = std::max(ceil_div(T, kSegments), ceil_div(kSegment, frame_items));
  const int64_t segments = ceil_div(T, frames);
  const Buffer buffer(N * C * segments * static_cast<int64_t>(sizeof(double)));
  auto* const partial = reinterpret_cast<double*>(buffer.data());
  const SumKernel kernel = select_sum_stub.get()(x.dtype);
  const int64_t work = std::min(frames, T) * frame_items;
  parallel_for(N * outer * segments, std::max<int64_t>(kGrain / std::max<int64_t>(work, 1), 1), 0,
               [&](int64_t begin, int64_t end, std::byte*) {
                 for (int64_t task = begin; task < end; ++task) {
                   const int64_t n = task / segments / outer;
                   const int64_t c = task / segments % outer;
                   const int64_t first = task % segments * frames;
                   double* sum = partial + task * lanes;
                   std::fill_n(sum, lanes, 0.0);
                   const std::byte* at = x.as<std::byte>() + n * x.stride(0) + c * x.stride(1);
                   const int64_t last = std::min(first + frames, T);
                   for (int64_t t = first; t < last; t = clip ? last : t + 1) {
                     const int64_t positions = clip ? (last - t) * width : width;
                     for (int64_t h = 0; h < rows; ++h) {
                       const std::byte* from = at + t * x.stride(2) + h * x.stride(3);
                       if (!inner && in_rows) {
                         kernel.run(from, positions, sum);
                       } else {
                         kernel.lanes(from, positions, x.stride(4) / item, lanes, sum);
                       }
                     }
                   }
                 }
               });

  const double count = static_cast<double>(T) * static_cast<double>(H) * static_cast<double>(W);
  for (int64_t n = 0; n < N; ++n) {
    for (int64_t c = 0; c < C; ++c) {
      double sum = 0.0;
      for (int64_t s = 0; s < segments; ++s) {
        sum += inner ? partial[(n * segments + s) * C + c] : partial[(n * C + c) * segments + s];
      }
      const double mean = count > 0 ? sum / count : 0.0;
      std::byte* to = out.as<std::byte>() + n * out.stride(0) + c * out.stride(1);
      switch (out.dtype) {
        case DType::f32:
          *reinterpret_cast<float*>(to) = static_cast<float>(mean);
          break;
        case DType::f64:
          *reinterpret_cast<double*>(to) = mean;
          break;
        case DType::bf16:
          *reinterpret_cast<bfloat16*>(to) = narrow(static_cast<float>(mean));
          break;
        case DType::u8:
          break;
      }
    }
  }
}

}  // namespace marey
