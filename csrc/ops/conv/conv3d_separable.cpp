#include <algorithm>

#include "core/buffer.h"
#include "core/error.h"
#include "core/parallel.h"
#include "ops/conv/conv3d_plan.h"

namespace marey {
namespace {

void check_kernels(const Conv3d::Plan& spatial, const Conv3d::Plan& temporal) {
  if (spatial.weight[2] != 1) {
    throw ValueError(spatial.function, "spatial_weight", "shape (M, C, 1, kH, kW)",
                     to_string(spatial.weight));
  }
  if (temporal.weight[3] != 1 || temporal.weight[4] != 1 ||
      temporal.weight[1] != spatial.weight[0]) {
    throw ValueError(spatial.function, "temporal_weight",
                     "shape (K, " + std::to_string(spatial.weight[0]) + ", kT, 1, 1)",
                     to_string(temporal.weight));
  }
  if (temporal.dtype != spatial.dtype) {
    throw TypeError(spatial.function, "temporal_weight", name(spatial.dtype), name(temporal.dtype));
  }
}

}  // namespace

Shape separable_shape(const Conv3d& spatial, const Conv3d& temporal, const Shape& x) {
  check_kernels(spatial.plan(), temporal.plan());
  const Shape between =
      conv3d_shape(spatial.plan().function, x, spatial.plan().weight, spatial.plan().options);
  return conv3d_shape(spatial.plan().function, between, temporal.plan().weight,
                      temporal.plan().options);
}

void separable_conv3d(const Conv3d& spatial, const Conv3d& temporal, const View& x,
                      const View& out) {
  const Conv3d::Plan& space = spatial.plan();
  const Conv3d::Plan& time = temporal.plan();
  const Shape expected = separable_shape(spatial, temporal, x.shape);
  if (x.dtype != space.dtype)
    throw TypeError(space.function, "x", name(space.dtype), name(x.dtype));
  if (!(out.shape == expected)) {
    throw ValueError(space.function, "out", "shape " + to_string(expected), to_string(out.shape));
  }
  if (expected.count() == 0) return;
  const int64_t item = item_size(x.dtype);
  const int64_t middle = space.weight[0];
  const int64_t frames = x.shape[2];
  const int64_t width = expected[4];
  const int64_t step = time.options.stride[0];
  const int64_t kernel = time.weight[2];

  // Rows and frames of a tile.
  const auto frames_of = [&](int64_t results) {
    return std::min((results - 1) * step + kernel, std::max<int64_t>(frames, 1));
  };
  const int64_t row_bytes = middle * width * item;
  int64_t results = expected[2];
  while (results > kSeparableFrames && frames_of(results) * row_bytes > kSeparableBytes) {
    results = (results + 1) / 2;
  }
  const int64_t rows = std::clamp<int64_t>(
      kSeparableBytes / std::max<int64_t>(frames_of(results) * row_bytes, 1), 1, expected[3]);
  const Buffer buffer(frames_of(results) * rows * row_bytes);

  const ConvArray source = conv_array(x);
  const ConvArray target = conv_array(out);
  for (int64_t n = 0; n < expected[0]; ++n) {
    for (int64_t h = 0; h < expected[3]; h += rows) {
      for (int64_t t = 0; t < expected[2]; t += results) {
        check_interrupted();
        const int64_t here = std::min(results, expected[2] - t);
        const int64_t rows_here = std::min(rows, expected[3] - h);
        const int64_t first = std::clamp<int64_t>(t * step - time.options.before[0], 0, frames);
        const int64_t last = std::clamp<int64_t>(
            (t + here - 1) * step - time.options.before[0] + kernel, first, frames);

        // The tile: (frames, rows, W, M).
        ConvArray tile;
        tile.data = buffer.data();
        tile.strides.c = 1;
        tile.strides.s = {rows_here * width * middle, width * middle, middle};

        Convolution::Extents extents;
        extents.batch = 1;
        extents.in = {frames, x.shape[3], x.shape[4]};
        extents.out = {last - first, rows_here, width};
        extents.first = {first, h, 0};
        Convolution::Arrays arrays;
        arrays.x = source;
        arrays.x.data = static_cast<std::byte*>(source.data) + n * source.batch * item;
        arrays.out = tile;
        arrays.bias = space.bias();
        arrays.activation = space.options.activation;
        if (last > first) space.convolution->run(extents, arrays);

        extents.in = {frames, rows_here, width};
        extents.out = {here, rows_here, width};
        extents.first = {t, 0, 0};
        arrays.x = tile;
        arrays.x.data = buffer.data() - first * tile.strides.s[0] * item;
        arrays.out = target;
        arrays.out.data =
            static_cast<std::byte*>(target.data) +
            (n * target.batch + t * target.strides.s[0] + h * target.strides.s[1]) * item;
        arrays.bias = time.bias();
        arrays.activation = time.options.activation;
        time.convolution->run(extents, arrays);
      }
    }
  }
}

}  // namespace marey
