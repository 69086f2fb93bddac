#pragma once
// Batches of planes on the device: where the planes of several arrays lie, and how a grid is laid
// over them.
#include "cuda/divisor.h"
#include "cuda/kernel.h"
#include "cuda/series_map.h"
#include "ops/pyramid/image.h"

namespace marey::cuda {

// A plane's geometry; strides in bytes.
struct PlaneShape {
  int64_t height, width, channels;
  int64_t row_stride, pixel_stride, channel_stride;
};

inline PlaneShape plane_shape(const View& view, const ImageAxes& axes) {
  const Plane plane = plane_at(view, axes, 0);
  return {plane.height,     plane.width,        plane.channels,
          plane.row_stride, plane.pixel_stride, plane.channel_stride};
}

// The batch axes of arrays that are alike but for rows and columns; null for one that is not there.
template <int kOperands>
SeriesMap<kOperands> batch_map(const View* const (&views)[kOperands], const ImageAxes& axes) {
  SeriesMap<kOperands> map;
  for (int b = 0; b < axes.batch_count; ++b) {
    const int axis = axes.batch[static_cast<std::size_t>(b)];
    const int64_t extent = views[0]->shape[axis];
    map.extent[map.axes] = Divisor(extent > 0 ? extent : 1);
    map.count *= extent;
    for (int o = 0; o < kOperands; ++o) {
      map.stride[o][map.axes] = views[o] == nullptr ? 0 : views[o]->stride(axis);
    }
    ++map.axes;
  }
  if (map.axes == 0) {
    map.axes = 1;
    for (int o = 0; o < kOperands; ++o) map.stride[o][0] = 0;
  }
  return map;
}

// A grid over planes: a block takes `threads` neighbouring items of a row, and some rows of them.
struct PlaneGrid {
  Divisor columns, rows;  // blocks in a row, and blocks of rows in a plane

  struct Place {
    int64_t plane, row_block, first_item;
  };
  MAREY_HOST_DEVICE Place at(int64_t block, int threads) const {
    const int64_t line = columns.quotient(block);
    const int64_t plane = rows.quotient(line);
    return {plane, line - plane * rows.value(), (block - line * columns.value()) * threads};
  }
};

}  // namespace marey::cuda
