#pragma once
// median: the median of all values along one axis, as numpy.median: of an even number of values the
// mean of the middle two; NaN where there is a NaN.
#include "core/dispatch.h"
#include "core/view.h"

namespace marey {

// x: uint8, float32 or float64, with at least one step along `axis`. y: x's shape with `axis` of
// length one, float32 for uint8 (exact: the result is a multiple of one half) and else x's type; no
// memory of x. Each thread's scratch is the steps of 64 to 1024 series (uint8: 4096), at most 320
// KiB unless 64 series need more; twice or four times that for more than 255 or 65,535 steps of
// uint8. Where there are fewer series than 64, the steps of a column of 64 bytes.
void median(const View& x, int axis, const View& y);

inline constexpr int64_t kMedianColumnBytes = 64;

struct MedianComparator {
  int32_t i, j;  // i < j: row i gets the smaller values
};

struct MedianTile {
  const void* x;
  int64_t x_stride;  // in bytes
  int64_t steps;
  int64_t width;
  void* y;  // one row
  // A network that sorts `steps` rows as far as the middle needs it, or null to select by counting.
  const MedianComparator* network;
  int64_t comparators;
  void* scratch;  // steps * width items of the counting type, width rounded up to whole columns
};

using MedianFn = void(const MedianTile&);
using SelectMedian = MedianFn*(DType x, int64_t steps);
MAREY_DECLARE_KERNEL(select_median, SelectMedian)

}  // namespace marey
