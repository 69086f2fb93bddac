#pragma once
// majority: a mask's pixel is set if more than half of the pixels around it are, in a square window
// that is cut at the border:
//
//   out[y, x] = 1  if  2 * (number of set pixels in the window) > (number of pixels in the window)
#include "core/dispatch.h"
#include "core/view.h"

namespace marey {

inline constexpr int64_t kMajorityLargest = 15;

// mask, out: (T, H, W) uint8 of 0 and 1, C-contiguous, not overlapping. size: odd, 1 to 15.
void majority(const View& mask, int64_t size, const View& out);

// One row: `sums` holds the column sums of the window's rows with `radius` zeros on either side,
// `limits` the largest sum that is no majority, `out` takes `width` items.
using MajorityRow = void(const uint8_t* sums, const uint8_t* limits, int64_t radius, int64_t width,
                         uint8_t* out);
MAREY_DECLARE_KERNEL(majority_row, MajorityRow)
// sums += added - removed, both nullable.
using SlideRows = void(uint8_t* sums, const uint8_t* added, const uint8_t* removed, int64_t width);
MAREY_DECLARE_KERNEL(slide_rows, SlideRows)

}  // namespace marey
