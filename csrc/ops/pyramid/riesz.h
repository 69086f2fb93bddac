#pragma once
// The approximate Riesz transform of a Laplacian band (Wadhwa, Rubinstein, Durand and Freeman,
// "Riesz Pyramids for Fast Phase-Based Video Magnification", ICCP 2014): differences of three taps.
//
//   x[y, x] = c (band[y, x - 1] - band[y, x + 1]),   y[y, x] = c (band[y - 1, x] - band[y + 1, x])
//
// The transform's gain is 1 at all frequencies, that of the differences 2 c |sin w|. Borders are
// reflected about the edge pixel, so the component across a border is 0 on it.
#include "core/dispatch.h"
#include "core/view.h"
#include "ops/pyramid/plane.h"

namespace marey {

// Exact at w = pi / 4 and 3 pi / 4. (The paper has 0.5, exact at pi / 2 only: Laplacian bands have
// most of their energy below, and motion came out a quarter short; 0.7 gives 96 to 98 % of it.)
inline constexpr double kRieszTap = 0.70710678118654752440;

// band: (..., H, W) float32 or float64, its rows contiguous; x, y: alike.
void riesz_transform(std::string_view function, const View& band, const View& x, const View& y);

// Rows above, at and below, and where the two components go.
struct RieszRow {
  const void* above;
  const void* here;
  const void* below;
  void* x;
  void* y;
  int64_t width;
};

using RieszRowFn = void(const RieszRow&);
using SelectRieszRow = RieszRowFn*(DType band);
MAREY_DECLARE_KERNEL(select_riesz_row, SelectRieszRow)

}  // namespace marey
