#pragma once
// patch_means: the mean colour of each patch of a grid, in every frame.
//
//   means[t, i, j, c] = sum of frames[t, y, x, c] / number of pixels,
//   over row_edges[i] <= y < row_edges[i + 1], column_edges[j] <= x < column_edges[j + 1], and,
//   with a mask, only where it is set; NaN where that is nowhere
//
// uint8 is summed in integers, so the result is the correctly rounded one; float32 in float64.
#include <vector>

#include "core/dispatch.h"
#include "core/view.h"

namespace marey {

// frames: (T, H, W, 3) uint8 or float32, any strides. The edges rise strictly within [0, H] and [0,
// W]. mask: null, or (H, W) uint8 of 0 and 1, C-contiguous. means: (T, rows, columns, 3) float64,
// C-contiguous. A thread's scratch is about 30 bytes for each item of a row.
void patch_means(const View& frames, const std::vector<int64_t>& row_edges,
                 const std::vector<int64_t>& column_edges, const View* mask, const View& means);

// Adds rows of `items` contiguous items to `sums`. `select`, if not null, has 255 (uint8) or 1
// (float32) for the items that count and else 0. For uint8, `sums` are uint16 and take 257 rows at
// most.
using AddRows = void(void* sums, const void* row, const uint8_t* select, int64_t items);
using SelectAddRows = AddRows*(DType dtype);
MAREY_DECLARE_KERNEL(select_add_rows, SelectAddRows)

}  // namespace marey
