#include "ops/temporal/convolve.h"

#include <algorithm>
#include <cmath>
#include <string>
#include <vector>

#include "core/error.h"

namespace marey {

MAREY_STUB(select_convolve, SelectConvolve)

namespace {

std::vector<double> checked_taps(std::string_view function, const View& taps) {
  if (taps.dtype != DType::f64) throw TypeError(function, "taps", "float64", name(taps.dtype));
  if (taps.ndim() != 1 || taps.shape[0] < 1 || !is_contiguous(taps, 0, 1)) {
    throw ValueError(function, "taps", "shape (size,) with at least one tap",
                     to_string(taps.shape));
  }
  std::vector<double> values(taps.as<const double>(), taps.as<const double>() + taps.shape[0]);
  for (const double value : values) {
    if (!std::isfinite(value)) {
      throw ValueError(function, "taps", "finite numbers", std::to_string(value));
    }
  }
  return values;
}

}  // namespace

void convolve(std::string_view function, const View& x, int axis, const View& taps,
              const Window& window, const View& y) {
  std::vector<double> weights = checked_taps(function, taps);
  std::reverse(weights.begin(), weights.end());
  const std::vector<float> narrow(weights.begin(), weights.end());
  check_window(function, window, x, axis);

  TileJob job({&x, window.history}, y, axis);
  const WindowRows rows(window, job);
  job.scratch_bytes = rows.scratch_bytes();
  ConvolveFn* run = select_convolve_stub.get()(x.dtype, y.dtype);
  const void* typed = y.dtype == DType::f64 ? static_cast<const void*>(weights.data())
                                            : static_cast<const void*>(narrow.data());
  for_each_tile(job, [&](const SeriesTile& tile) {
    run({rows.of(tile), typed, window.size, tile.out.data, tile.out.stride, tile.steps, tile.width,
         tile.streaming});
  });
}

}  // namespace marey
