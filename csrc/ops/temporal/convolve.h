#pragma once
// convolve: a finite impulse response along one axis, as scipy.ndimage.convolve1d.
//
//   y[t] = sum over j of taps[size - 1 - j] x[t - before + j]
//
// summed from the earliest step to the latest, so that the result does not depend on where a stream
// was cut.
#include <string_view>
#include <vector>

#include "core/dispatch.h"
#include "core/view.h"
#include "ops/temporal/window.h"

namespace marey {

// function: what errors name. x: uint8, float32 or float64. taps: (size,) float64, contiguous,
// finite; rounded to y's type. y: x's shape, float32 for uint8 and else x's type; no memory of x or
// of window.history. window.size is the number of taps. Each thread's scratch is a pointer for each
// step and, for an axis whose series are not adjacent, 64 series of x and y.
void convolve(std::string_view function, const View& x, int axis, const View& taps,
              const Window& window, const View& y);

// The taps, checked, as weights of the steps of a window, the earliest first.
std::vector<double> checked_weights(std::string_view function, const View& taps);

// A block of so many steps is computed together where there are as many taps.
inline constexpr int64_t kConvolveSteps = 6;

// rows: steps + size - 1 rows of x's type. weights: size items of y's type, for the earliest step
// first. table: what row j of a block's size + kConvolveSteps - 1 counts in each of its steps, item
// [j][s] = weights[j - s], or anything where there is none.
struct ConvolveTile {
  const std::byte* const* rows;
  const void* weights;
  const void* table;
  int64_t size;
  void* y;
  int64_t y_stride;  // in bytes
  int64_t steps;
  int64_t width;
  bool streaming;
};

using ConvolveFn = void(const ConvolveTile&);
using SelectConvolve = ConvolveFn*(DType x, DType y);
MAREY_DECLARE_KERNEL(select_convolve, SelectConvolve)

}  // namespace marey
