#pragma once
// Where the series of several arrays lie: the device's counterpart of ops/temporal/series.h.
//
// A series is what an array holds along the time axis at one position of all other axes. Series are
// numbered in C order over those. Axes that can be stepped through as one are merged, so that a
// C-ordered video filtered along its first axis has one axis and no division.
#include <cstdint>
#include <initializer_list>

#include "core/view.h"
#include "cuda/divisor.h"
#include "cuda/kernel.h"

namespace marey::cuda {

template <int kOperands>
struct SeriesMap {
  int axes = 0;
  int64_t count = 1;                    // series, or groups of `width` neighbouring ones
  int64_t stride[kOperands][kMaxDims];  // in bytes
  Divisor extent[kMaxDims];

  MAREY_HOST_DEVICE void offsets(int64_t series, int64_t (&result)[kOperands]) const {
    for (int o = 0; o < kOperands; ++o) result[o] = 0;
    for (int a = axes - 1; a > 0; --a) {
      const int64_t next = extent[a].quotient(series);
      const int64_t at = series - next * extent[a].value();
      for (int o = 0; o < kOperands; ++o) result[o] += at * stride[o][a];
      series = next;
    }
    for (int o = 0; o < kOperands; ++o) result[o] += series * stride[o][0];
  }
};

// One array among those of a map: `view` without axis `axis`, whose items are `item` bytes; null
// for an array that is not there.
struct SeriesOperand {
  const View* view = nullptr;
  int axis = 0;
  int64_t item = 1;
};

// The map of arrays that are alike but for the lengths of their time axes. The last axis' steps are
// divided by *width, which on entry is the widest group of neighbouring series that the kernel can
// take at once, and on return that or 1: where a group of every array is adjacent and aligned to
// its own size.
template <int kOperands>
SeriesMap<kOperands> series_map(const SeriesOperand (&operands)[kOperands], int* width) {
  SeriesMap<kOperands> map;
  int64_t extents[kMaxDims] = {};
  const SeriesOperand& first = operands[0];
  for (int a = 0; a < first.view->ndim(); ++a) {
    if (a == first.axis) continue;
    const int64_t extent = first.view->shape[a];
    map.count *= extent;
    if (extent == 1) continue;
    int64_t stride[kOperands];
    bool merges = map.axes > 0;
    for (int o = 0; o < kOperands; ++o) {
      const SeriesOperand& operand = operands[o];
      // Arrays with a leading axis more (a filter's state) count their axes from the back.
      stride[o] = operand.view == nullptr
                      ? 0
                      : operand.view->stride(a + operand.view->ndim() - first.view->ndim());
      merges = merges && map.stride[o][map.axes - 1] == extent * stride[o];
    }
    const int at = merges ? map.axes - 1 : map.axes++;
    extents[at] = merges ? extents[at] * extent : extent;
    for (int o = 0; o < kOperands; ++o) map.stride[o][at] = stride[o];
  }
  if (map.axes == 0) {
    map.axes = 1;
    extents[0] = 1;
    for (int o = 0; o < kOperands; ++o) map.stride[o][0] = 0;
  }
  const int last = map.axes - 1;
  bool adjacent = *width > 1 && extents[last] % *width == 0 && map.count > 0;
  for (int o = 0; o < kOperands && adjacent; ++o) {
    const SeriesOperand& operand = operands[o];
    if (operand.view == nullptr) continue;
    const int64_t bytes = operand.item * *width;
    adjacent = map.stride[o][last] == operand.item &&
               reinterpret_cast<uintptr_t>(operand.view->data) % static_cast<uint64_t>(bytes) == 0;
    for (int a = 0; a < last; ++a) adjacent = adjacent && map.stride[o][a] % bytes == 0;
    for (int a = 0; a < operand.view->ndim(); ++a) {
      // The time axis, and the axes of a state, are stepped through whole.
      const int in_first = a - (operand.view->ndim() - first.view->ndim());
      const bool stepped = in_first < 0 || in_first == first.axis;
      if (stepped && operand.view->shape[a] > 1) {
        adjacent = adjacent && operand.view->stride(a) % bytes == 0;
      }
    }
  }
  if (!adjacent) *width = 1;
  if (*width > 1) {
    extents[last] /= *width;
    map.count /= *width;
    for (int o = 0; o < kOperands; ++o) map.stride[o][last] *= *width;
  }
  for (int a = 0; a < map.axes; ++a) map.extent[a] = Divisor(extents[a] > 0 ? extents[a] : 1);
  return map;
}

}  // namespace marey::cuda
