// A thread makes kRows results below each other, of one item (a channel of a pixel): it sums five
// neighbours of a source row, keeps the sums of the last five rows in registers, and so reads a
// row's five once: ten loads a result, neighbouring threads' from the same lines of the first-level
// cache. No shared memory, no barrier, any strides and any number of channels.
#include "ops/pyramid/down.h"
#include "ops/pyramid/planes_cuda.h"
#include "ops/pyramid/pyramid_cuda.h"

namespace marey::cuda {
namespace {

constexpr int kThreads = 128;
constexpr int kRows = 8;

struct DownArguments {
  SeriesMap<2> batch;  // image, out
  PlaneGrid grid;
  PlaneShape source, target;
  Divisor channels;
  const char* image;
  char* out;
};

// S: items, A: sums (exact for uint8: at most 256 * 255), O: results.
template <class A, class O>
MAREY_DEVICE O scaled(A sum) {
  return static_cast<O>(sum) * static_cast<O>(1.0 / 256.0);
}
template <>
MAREY_DEVICE uint8_t scaled<int, uint8_t>(int sum) {
  return static_cast<uint8_t>((sum + 128) >> 8);
}

template <class S, class A, class O>
MAREY_KERNEL(kThreads)
down_kernel(MAREY_GRID_CONSTANT DownArguments a) {
  const PlaneGrid::Place place = a.grid.at(blockIdx.x, kThreads);
  const int64_t item = place.first_item + threadIdx.x;
  if (item >= a.target.width * a.target.channels) return;
  const int64_t x = a.channels.quotient(item);
  const int64_t channel = item - x * a.target.channels;
  int64_t offset[2];
  a.batch.offsets(place.plane, offset);
  const char* image = a.image + offset[0] + channel * a.source.channel_stride;
  int64_t columns[5];
#pragma unroll
  for (int k = 0; k < 5; ++k) {
    columns[k] = reflect101_near(2 * x + k - 2, a.source.width) * a.source.pixel_stride;
  }
  const auto row_sum = [&](int64_t y) {
    const char* row = image + reflect101_near(y, a.source.height) * a.source.row_stride;
    A v[5];
#pragma unroll
    for (int k = 0; k < 5; ++k) {
      v[k] = static_cast<A>(*reinterpret_cast<const S*>(row + columns[k]));
    }
    return (v[0] + v[4]) + A{4} * (v[1] + v[3]) + A{6} * v[2];
  };

  const int64_t begin = place.row_block * kRows;
  const int64_t end = begin + kRows < a.target.height ? begin + kRows : a.target.height;
  char* out = a.out + offset[1] + x * a.target.pixel_stride + channel * a.target.channel_stride;
  A sums[5];
#pragma unroll
  for (int k = 0; k < 3; ++k) sums[k + 2] = row_sum(2 * begin + k - 2);
  for (int64_t y = begin; y < end; ++y) {
    sums[0] = sums[2];
    sums[1] = sums[3];
    sums[2] = sums[4];
    sums[3] = row_sum(2 * y + 1);
    sums[4] = row_sum(2 * y + 2);
    const A sum = (sums[0] + sums[4]) + A{4} * (sums[1] + sums[3]) + A{6} * sums[2];
    *reinterpret_cast<O*>(out + y * a.target.row_stride) = scaled<A, O>(sum);
  }
}

}  // namespace

void down(const Queue& queue, std::string_view function, const View& image,
          std::optional<int> channel_axis, const View& out) {
  const ImageAxes axes = image_axes(function, "image", image.shape, channel_axis);
  if (out.shape.count() == 0) return;
  DownArguments a{};
  const View* const views[2] = {&image, &out};
  a.batch = batch_map<2>(views, axes);
  a.source = plane_shape(image, axes);
  a.target = plane_shape(out, axes);
  a.channels = Divisor(a.target.channels);
  a.image = image.as<const char>();
  a.out = out.as<char>();
  a.grid.columns = Divisor(blocks_for(a.target.width * a.target.channels, kThreads));
  a.grid.rows = Divisor(blocks_for(a.target.height, kRows));
  const Grid grid{a.batch.count * a.grid.rows.value() * a.grid.columns.value(), kThreads};
  if (image.dtype == DType::u8 && out.dtype == DType::u8) {
    return launch(queue, grid, &down_kernel<uint8_t, int, uint8_t>, a);
  }
  if (image.dtype == DType::u8) return launch(queue, grid, &down_kernel<uint8_t, int, float>, a);
  if (image.dtype == DType::f32) return launch(queue, grid, &down_kernel<float, float, float>, a);
  launch(queue, grid, &down_kernel<double, double, double>, a);
}

}  // namespace marey::cuda
