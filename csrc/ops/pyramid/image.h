#pragma once
// Which axes of an array are rows, columns and channels; all others are batch.
#include <array>
#include <optional>
#include <string_view>

#include "core/view.h"
#include "ops/pyramid/plane.h"

namespace marey {

struct ImageAxes {
  int row = 0;
  int column = 0;
  int channel = -1;  // -1: none, or not the last axis (each channel is then a plane of its own)
  int batch_count = 0;
  std::array<int, kMaxDims> batch{};
};

// `channel_axis` as in scikit-image: nullopt for images without one. Rows and columns are the last
// two of the other axes. Throws ValueError when there are too few axes or the axis is out of range.
ImageAxes image_axes(std::string_view function, std::string_view argument, const Shape& shape,
                     std::optional<int> channel_axis);

int64_t plane_count(const Shape& shape, const ImageAxes& axes);
Plane plane_at(const View& view, const ImageAxes& axes, int64_t index);

// The same shape with rows and columns replaced.
Shape with_size(const Shape& shape, const ImageAxes& axes, int64_t height, int64_t width);

// Results are written a row at a time: throws ValueError unless items within a row are adjacent.
void check_writable_rows(std::string_view function, std::string_view argument, const View& view,
                         const ImageAxes& axes);

// Rows handed to a thread at a time: enough work to pay for the hand-over, and for rows computed
// twice at the seams.
int64_t row_grain(int64_t row_items);

// Results larger than this are written past the caches: they would only evict the inputs.
inline constexpr int64_t kStreamBytes = int64_t{8} << 20;

// Calls f(plane, row_begin, row_end) for the pieces of a range of rows counted over all planes.
template <class F>
void for_each_piece(int64_t begin, int64_t end, int64_t rows_per_plane, F&& f) {
  while (begin < end) {
    const int64_t plane = begin / rows_per_plane;
    const int64_t row = begin % rows_per_plane;
    const int64_t stop = row + end - begin < rows_per_plane ? row + end - begin : rows_per_plane;
    f(plane, row, stop);
    begin += stop - row;
  }
}

}  // namespace marey
