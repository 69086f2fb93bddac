#include "core/bfloat16.h"
#include "core/buffer.h"
#include "core/parallel.h"
#include "ops/conv/pool.h"

namespace marey {

MAREY_STUB_NO_BF16(select_sum, SelectSum)

namespace {

// Items of x that one task is worth a thread for.
constexpr int64_t kGrain = int64_t{1} << 15;
// Into how many parts along T a mean over everything is cut at most, and how long these are at
// least.
constexpr int64_t kSegments = 16;
constexpr int64_t kSegment = int64_t{1} << 14;

int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

}  // namespace

void global_avg_pool3d(std::string_view function, const View& x, const View& out) {
  check_pooled_video(function, x.shape);
  Shape shape = x.shape;
  shape.ndim = 2;
  check_pooled_types(function, x, out, shape);
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
