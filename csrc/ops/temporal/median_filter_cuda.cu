// A thread makes kSteps results of one series. Windows up to 32 are sorted by a network in
// registers, filled up to the next of 4, 8, 16 and 32 values with as many of the least and of the
// greatest number as leave the middle in the middle. Longer ones are selected bit by bit (8 to 64
// passes over the window, from the caches), which needs no memory for any length.
#include <limits>

#include "core/error.h"
#include "ops/temporal/median_filter.h"
#include "ops/temporal/ranks_cuda.h"
#include "ops/temporal/temporal_cuda.h"
#include "ops/temporal/window_cuda.h"

namespace marey::cuda {
namespace {

constexpr int kThreads = 128;
constexpr int kSteps = 8;

struct MedianFilterArguments {
  SeriesMap<3> map;  // x, y, history
  WindowSteps window;
  char* y;
  int64_t y_step;
  Divisor time_blocks;
  int64_t size;
};

// kPlaces 0: any size.
template <class S, int kPlaces>
MAREY_KERNEL(kThreads)
median_filter_kernel(MAREY_GRID_CONSTANT MedianFilterArguments a) {
  using K = Keys<S>;
  using Key = typename K::Key;
  const int64_t group = a.time_blocks.quotient(blockIdx.x);
  const int64_t series = group * kThreads + threadIdx.x;
  const int64_t begin = (blockIdx.x - group * a.time_blocks.value()) * kSteps;
  if (series >= a.map.count) return;
  int64_t offset[3];
  a.map.offsets(series, offset);
  const auto read = [&](int64_t i) {
    return a.window.template read<S, 1>(i, offset[0], offset[2]).v[0];
  };
  const int64_t end = begin + kSteps < a.window.steps ? begin + kSteps : a.window.steps;
  for (int64_t t = begin; t < end; ++t) {
    const int64_t first = t - a.window.before;
    bool any_nan = false;
    Key middle{};
    if constexpr (kPlaces == 0) {
      for (int64_t i = 0; i < a.size; ++i) any_nan = any_nan || K::is_nan(read(first + i));
      middle = select_rank<S>(a.size, a.size / 2, [&](int64_t i) { return read(first + i); });
    } else {
      // Behind the window come `low` of the least keys, then the greatest.
      const int size = static_cast<int>(a.size);
      const int low = kPlaces / 2 - size / 2;
      Key keys[kPlaces];
#pragma unroll
      for (int i = 0; i < kPlaces; ++i) {
        if (i < size) {
          const S value = read(first + i);
          any_nan = any_nan || K::is_nan(value);
          keys[i] = K::key(value);
        } else {
          keys[i] = i < size + low ? Key{0} : static_cast<Key>(~Key{0});
        }
      }
      sort_values<kPlaces>(keys);
      middle = keys[kPlaces / 2];
    }
    S result = K::value(middle);
    if constexpr (std::numeric_limits<S>::has_quiet_NaN) {
      if (any_nan) result = std::numeric_limits<S>::quiet_NaN();
    }
    *reinterpret_cast<S*>(a.y + offset[1] + t * a.y_step) = result;
  }
}

template <class S>
void run(const Queue& queue, const View& x, int axis, const Window& window, const View& y) {
  MedianFilterArguments a{};
  int width = 1;
  const SeriesOperand operands[3] = {
      {&x, axis, sizeof(S)}, {&y, axis, sizeof(S)}, {window.history, axis, sizeof(S)}};
  a.map = series_map<3>(operands, &width);
  a.window = window_steps(window, x, axis);
  a.y = y.as<char>();
  a.y_step = y.stride(axis);
  a.time_blocks = Divisor(blocks_for(x.shape[axis], kSteps));
  a.size = window.size;
  const Grid grid{blocks_for(a.map.count, kThreads) * a.time_blocks.value(), kThreads};
  if (a.size <= 4) return launch(queue, grid, &median_filter_kernel<S, 4>, a);
  if (a.size <= 8) return launch(queue, grid, &median_filter_kernel<S, 8>, a);
  if (a.size <= 16) return launch(queue, grid, &median_filter_kernel<S, 16>, a);
  if (a.size <= 32) return launch(queue, grid, &median_filter_kernel<S, 32>, a);
  launch(queue, grid, &median_filter_kernel<S, 0>, a);
}

}  // namespace

void median_filter(const Queue& queue, std::string_view function, const View& x, int axis,
                   const Window& window, const View& y) {
  if (window.size < 1) throw ValueError(function, "size", "1 or more", std::to_string(window.size));
  check_window(function, window, x, axis);
  if (x.shape.count() == 0) return;
  if (x.dtype == DType::u8) {
    run<uint8_t>(queue, x, axis, window, y);
  } else if (x.dtype == DType::f32) {
    run<float>(queue, x, axis, window, y);
  } else {
    run<double>(queue, x, axis, window, y);
  }
}

}  // namespace marey::cuda
