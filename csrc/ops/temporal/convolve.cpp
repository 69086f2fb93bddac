#include "ops/temporal/convolve.h"

#include <string>
#include <vector>

#include "core/error.h"

namespace marey {

MAREY_STUB_NO_BF16(select_convolve, SelectConvolve)

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

template <class T>
void derivative_tiles(const View& x, int axis, double rate, const View& y) {
  const std::vector<double> difference = {-rate, rate};
  const std::vector<double> halved = {-rate / 2, rate / 2};
  const Weights<T> at_ends(difference);
  const Weights<T> within(halved);
  TileJob job({&x}, y, axis);
  const int64_t steps = x.shape[axis];
  job.scratch_bytes = (steps + 2) * static_cast<int64_t>(sizeof(std::byte*));
  ConvolveFn* run = select_convolve_stub.get()(x.dtype, y.dtype);
  for_each_tile(job, [&](const SeriesTile& tile) {
    const auto** rows = reinterpret_cast<const std::byte**>(tile.scratch);
    // `count` results from `first` on, `step` apart, each of two rows, `row_step` apart.
    const auto differ = [&](const Weights<T>& weights, int64_t first, int64_t step, int64_t count,
                            int64_t row, int64_t row_step) {
      for (int64_t k = 0; k <= count; ++k) rows[k] = tile.in[0].row(row + k * row_step);
      run({rows, weights.earliest_first.data(), weights.table.data(), 2, tile.out.row(first),
           step * tile.out.stride, count, tile.width, tile.streaming});
    };
    differ(at_ends, 0, 1, 1, 0, 1);
    differ(at_ends, steps - 1, 1, 1, steps - 2, 1);
    // The odd steps lie between the even ones, and the other way round.
    differ(within, 1, 2, (steps - 1) / 2, 0, 2);
    if (steps > 3) differ(within, 2, 2, (steps - 2) / 2, 1, 2);
  });
}

}  // namespace

void derivative(std::string_view function, const View& x, int axis, double rate, const View& y) {
  if (x.shape[axis] < 2) {
    throw ValueError(function, "x", "at least two steps along axis " + std::to_string(axis),
                     "shape " + to_string(x.shape));
  }
  if (y.dtype == DType::f64) return derivative_tiles<double>(x, axis, rate, y);
  derivative_tiles<float>(x, axis, rate, y);
}

void convolve(std::string_view function, const View& x, int axis, const View& taps,
              const Window& window, const View& y) {
  const std::vector<double> values = checked_weights(function, taps);
  check_window(function, window, x, axis);
  if (y.dtype == DType::f64) return convolve_tiles(x, axis, Weights<double>(values), window, y);
  convolve_tiles(x, axis, Weights<float>(values), window, y);
}

}  // namespace marey
