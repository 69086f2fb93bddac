#include "ops/temporal/convolve.h"

#include <vector>

namespace marey {

MAREY_STUB(select_convolve, SelectConvolve)

namespace {

// The weights as doubles or floats, and the table of blocks.
template <class T>
struct Weights {
  explicit Weights(const std::vector<double>& values)
      : earliest_first(values.begin(), values.end()) {
    const auto size = static_cast<int64_t>(values.size());
    table.assign(static_cast<std::size_t>((size + kConvolveSteps - 1) * kConvolveSteps), T{0});
    for (int64_t j = 0; j < size + kConvolveSteps - 1; ++j) {
      for (int64_t s = 0; s < kConvolveSteps; ++s) {
        if (j - s < 0 || j - s >= size) continue;
        table[static_cast<std::size_t>(j * kConvolveSteps + s)] =
            earliest_first[static_cast<std::size_t>(j - s)];
      }
    }
  }
  std::vector<T> earliest_first;
  std::vector<T> table;
};

template <class T>
void convolve_tiles(const View& x, int axis, const Weights<T>& weights, const Window& window,
                    const View& y) {
  TileJob job({&x, window.history}, y, axis);
  const WindowRows rows(window, job);
  job.scratch_bytes = rows.scratch_bytes();
  ConvolveFn* run = select_convolve_stub.get()(x.dtype, y.dtype);
  for_each_tile(job, [&](const SeriesTile& tile) {
    run({rows.of(tile), weights.earliest_first.data(), weights.table.data(), window.size,
         tile.out.data, tile.out.stride, tile.steps, tile.width, tile.streaming});
  });
}

}  // namespace

void convolve(std::string_view function, const View& x, int axis, const View& taps,
              const Window& window, const View& y) {
  const std::vector<double> values = checked_weights(function, taps);
  check_window(function, window, x, axis);
  if (y.dtype == DType::f64) return convolve_tiles(x, axis, Weights<double>(values), window, y);
  convolve_tiles(x, axis, Weights<float>(values), window, y);
}

}  // namespace marey
