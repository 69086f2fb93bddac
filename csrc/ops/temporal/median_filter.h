#pragma once
// median_filter: the median of a window that slides along one axis, as scipy.ndimage.median_filter.
//
// Of a window of `size` values the one at index size / 2 of the sorted order is taken: with an even
// size the upper of the middle two. A window that holds a NaN gives NaN.
#include <string_view>

#include "core/dispatch.h"
#include "core/view.h"
#include "ops/temporal/window.h"

namespace marey {

// function: what errors name. x: uint8, float32 or float64. y: x's shape and type; no memory of x
// or of window.history. Each thread's scratch is a pointer for each step, window.size vectors and,
// for an axis whose series are not adjacent, 64 series of x and y.
void median_filter(std::string_view function, const View& x, int axis, const Window& window,
                   const View& y);

// rows: steps + size - 1 rows. sorted: kMedianFilterVectors * size vectors of up to 64 bytes,
// aligned to them.
inline constexpr int64_t kMedianFilterVectors = 4;

struct MedianFilterTile {
  const std::byte* const* rows;
  int64_t size;
  void* y;
  int64_t y_stride;  // in bytes
  int64_t steps;
  int64_t width;
  void* sorted;
  bool streaming;
};

using MedianFilterFn = void(const MedianFilterTile&);
using SelectMedianFilter = MedianFilterFn*(DType x, int64_t size);
MAREY_DECLARE_KERNEL(select_median_filter, SelectMedianFilter)

}  // namespace marey
