#include "ops/pyramid/image.h"

#include <algorithm>

#include "core/error.h"

namespace marey {

ImageAxes image_axes(std::string_view function, std::string_view argument, const Shape& shape,
                     std::optional<int> channel_axis) {
  const int needed = channel_axis ? 3 : 2;
  if (shape.ndim < needed) {
    throw ValueError(function, argument,
                     channel_axis ? "at least 3 axes, one of them channels (pass channel_axis=None "
                                    "for an image without channels)"
                                  : "at least 2 axes",
                     "shape " + to_string(shape));
  }
  int channel = -1;
  if (channel_axis) {
    channel = *channel_axis < 0 ? *channel_axis + shape.ndim : *channel_axis;
    if (channel < 0 || channel >= shape.ndim) {
      throw ValueError(function, "channel_axis", "an axis of shape " + to_string(shape),
                       std::to_string(*channel_axis));
    }
  }
  ImageAxes axes;
  std::array<int, kMaxDims> others{};
  int count = 0;
  for (int axis = 0; axis < shape.ndim; ++axis) {
    if (axis != channel) others[static_cast<std::size_t>(count++)] = axis;
  }
  axes.row = others[static_cast<std::size_t>(count - 2)];
  axes.column = others[static_cast<std::size_t>(count - 1)];
  const bool interleaved = channel == shape.ndim - 1;
  if (interleaved) axes.channel = channel;
  for (int axis = 0; axis < shape.ndim; ++axis) {
    if (axis == axes.row || axis == axes.column || axis == axes.channel) continue;
    axes.batch[static_cast<std::size_t>(axes.batch_count++)] = axis;
  }
  return axes;
}

int64_t plane_count(const Shape& shape, const ImageAxes& axes) {
  int64_t count = 1;
  for (int b = 0; b < axes.batch_count; ++b)
    count *= shape[axes.batch[static_cast<std::size_t>(b)]];
  return count;
}

Plane plane_at(const View& view, const ImageAxes& axes, int64_t index) {
  int64_t offset = 0;
  for (int b = axes.batch_count - 1; b >= 0; --b) {
    const int axis = axes.batch[static_cast<std::size_t>(b)];
    offset += index % view.shape[axis] * view.stride(axis);
    index /= view.shape[axis];
  }
  Plane plane;
  plane.data = view.as<std::byte>() + offset;
  plane.height = view.shape[axes.row];
  plane.width = view.shape[axes.column];
  plane.row_stride = view.stride(axes.row);
  plane.pixel_stride = view.stride(axes.column);
  plane.channels = axes.channel < 0 ? 1 : view.shape[axes.channel];
  plane.channel_stride = axes.channel < 0 ? item_size(view.dtype) : view.stride(axes.channel);
  return plane;
}

Shape with_size(const Shape& shape, const ImageAxes& axes, int64_t height, int64_t width) {
  Shape result = shape;
  result[axes.row] = height;
  result[axes.column] = width;
  return result;
}

void check_writable_rows(std::string_view function, std::string_view argument, const View& view,
                         const ImageAxes& axes) {
  if (view.shape.count() == 0) return;
  const Plane plane = plane_at(view, axes, 0);
  const int64_t item = item_size(view.dtype);
  const bool channels_adjacent = plane.channels == 1 || plane.channel_stride == item;
  const bool pixels_adjacent = plane.width == 1 || plane.pixel_stride == plane.channels * item;
  if (!(channels_adjacent && pixels_adjacent)) {
    throw ValueError(function, argument, "an array whose rows are contiguous",
                     "strides that leave gaps between the items of a row");
  }
}

int64_t row_grain(int64_t row_items) {
  constexpr int64_t kItems = int64_t{1} << 16;
  return std::max<int64_t>(8, kItems / std::max<int64_t>(1, row_items));
}

}  // namespace marey
