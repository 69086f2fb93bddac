// The shapes of images and their levels, and what the pyramid functions demand, on every device.
#include "core/error.h"
#include "ops/pyramid/down.h"
#include "ops/pyramid/image.h"
#include "ops/pyramid/laplacian.h"
#include "ops/pyramid/up.h"

namespace marey {
namespace {

int64_t checked_extent(std::string_view function, const char* which, int64_t source,
                       std::optional<int64_t> wanted) {
  if (!wanted) return 2 * source;
  const int64_t difference = *wanted < 2 * source ? 2 * source - *wanted : *wanted - 2 * source;
  if (*wanted < 0 || difference != *wanted % 2 || (source == 0 && *wanted != 0)) {
    throw ValueError(function, "shape",
                     std::string(which) + " of " + std::to_string(2 * source) + ", or one off (" +
                         std::to_string(source) + " doubled)",
                     std::to_string(*wanted));
  }
  return *wanted;
}

}  // namespace

Shape down_shape(std::string_view function, const View& image, std::optional<int> channel_axis) {
  const ImageAxes axes = image_axes(function, "image", image.shape, channel_axis);
  return with_size(image.shape, axes, half(image.shape[axes.row]), half(image.shape[axes.column]));
}

Shape up_shape(std::string_view function, const View& image, std::optional<int64_t> height,
               std::optional<int64_t> width, std::optional<int> channel_axis) {
  const ImageAxes axes = image_axes(function, "image", image.shape, channel_axis);
  return with_size(image.shape, axes,
                   checked_extent(function, "a height", image.shape[axes.row], height),
                   checked_extent(function, "a width", image.shape[axes.column], width));
}

std::vector<Shape> pyramid_shapes(std::string_view function, const View& image, int levels,
                                  std::optional<int> channel_axis) {
  const ImageAxes axes = image_axes(function, "image", image.shape, channel_axis);
  constexpr int kMaxLevels = 63;  // by then every size is one pixel
  if (levels < 0 || levels > kMaxLevels) {
    throw ValueError(function, "levels", "0 to " + std::to_string(kMaxLevels),
                     std::to_string(levels));
  }
  std::vector<Shape> shapes{image.shape};
  for (int level = 0; level < levels; ++level) {
    const Shape& last = shapes.back();
    shapes.push_back(with_size(last, axes, half(last[axes.row]), half(last[axes.column])));
  }
  return shapes;
}

void check_collapse(std::string_view function, const std::vector<View>& bands,
                    const ImageAxes& axes) {
  const std::size_t levels = bands.size() - 1;
  for (std::size_t level = 0; level < levels; ++level) {
    const Shape& fine = bands[level].shape;
    const Shape expected = with_size(fine, axes, half(fine[axes.row]), half(fine[axes.column]));
    if (!(bands[level + 1].shape == expected)) {
      throw ValueError(function, "bands[" + std::to_string(level + 1) + "]",
                       "shape " + to_string(expected) + ", half of " + to_string(fine),
                       to_string(bands[level + 1].shape));
    }
  }
}

}  // namespace marey
