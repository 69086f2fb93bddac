// A thread takes the median of one series: it copies the series into its own column of shared
// memory and selects there bit by bit, 8 passes for uint8, 32 for float32. No two threads share a
// column, so there is nothing to synchronise. Neighbouring threads read neighbouring items: no bank
// is asked twice. A series that is too long for that is read from memory in every pass.
#include <string>

#include "core/error.h"
#include "cuda/series_map.h"
#include "ops/temporal/median.h"
#include "ops/temporal/ranks_cuda.h"
#include "ops/temporal/temporal_cuda.h"

namespace marey::cuda {
namespace {

// What every device since sm_80 lets a block have.
constexpr int64_t kSharedBytes = 96 * 1024;
constexpr int kMostThreads = 128;
constexpr int kFewestThreads = 32;

struct MedianArguments {
  SeriesMap<2> map;  // x, y
  const char* x;
  char* y;
  int64_t x_step;
  int64_t steps;
  bool shared;
};

template <class S, class T>
MAREY_KERNEL(kMostThreads)
median_kernel(MAREY_GRID_CONSTANT MedianArguments a) {
  using K = Keys<S>;
  using Key = typename K::Key;
  const int64_t series = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (series >= a.map.count) return;
  int64_t offset[2];
  a.map.offsets(series, offset);
  const char* x = a.x + offset[0];
  S* column = shared_memory<S>() + threadIdx.x;
  const int pitch = static_cast<int>(blockDim.x);
  bool any_nan = false;
  for (int64_t t = 0; t < a.steps; ++t) {
    const S value = *reinterpret_cast<const S*>(x + t * a.x_step);
    any_nan = any_nan || K::is_nan(value);
    if (a.shared) column[t * pitch] = value;
  }
  T result{};
  if (any_nan) {
    if constexpr (std::numeric_limits<S>::has_quiet_NaN) {
      result = std::numeric_limits<T>::quiet_NaN();
    }
  } else {
    const auto median = [&](const auto& read) {
      const int64_t lower = (a.steps - 1) / 2;
      const int64_t upper = a.steps / 2;
      const Key low = select_rank<S>(a.steps, lower, read);
      Key high = low;
      if (upper != lower) {
        // The next rank: the same value if there are so many of it, else the least greater one.
        int64_t up_to = 0;
        Key next = static_cast<Key>(~Key{0});
        for (int64_t i = 0; i < a.steps; ++i) {
          const Key key = K::key(read(i));
          up_to += key <= low ? 1 : 0;
          if (key > low && key < next) next = key;
        }
        if (up_to <= upper) high = next;
      }
      if (upper == lower) return static_cast<T>(K::value(low));
      return (static_cast<T>(K::value(low)) + static_cast<T>(K::value(high))) * static_cast<T>(0.5);
    };
    result = a.shared
                 ? median([&](int64_t i) { return column[i * pitch]; })
                 : median([&](int64_t i) { return *reinterpret_cast<const S*>(x + i * a.x_step); });
  }
  *reinterpret_cast<T*>(a.y + offset[1]) = result;
}

template <class S, class T>
void run(const Queue& queue, const View& x, int axis, const View& y) {
  MedianArguments a{};
  int width = 1;
  const SeriesOperand operands[2] = {{&x, axis, sizeof(S)}, {&y, axis, sizeof(T)}};
  a.map = series_map<2>(operands, &width);
  a.x = x.as<const char>();
  a.y = y.as<char>();
  a.x_step = x.stride(axis);
  a.steps = x.shape[axis];
  int threads = kMostThreads;
  const int64_t bytes = a.steps * static_cast<int64_t>(sizeof(S));
  while (threads > kFewestThreads && bytes * threads > kSharedBytes) threads /= 2;
  a.shared = bytes * threads <= kSharedBytes;
  if (!a.shared) threads = kMostThreads;
  const auto shared = static_cast<std::size_t>(a.shared ? bytes * threads : 0);
  launch(queue, {blocks_for(a.map.count, threads), threads, shared}, &median_kernel<S, T>, a);
}

}  // namespace

void median(const Queue& queue, const View& x, int axis, const View& y) {
  if (x.shape[axis] == 0) {
    throw ValueError("marey.median", "x", "at least one step along axis " + std::to_string(axis),
                     to_string(x.shape));
  }
  if (x.shape.count() == 0) return;
  if (x.dtype == DType::u8) {
    run<uint8_t, float>(queue, x, axis, y);
  } else if (x.dtype == DType::f32) {
    run<float, float>(queue, x, axis, y);
  } else {
    run<double, double>(queue, x, axis, y);
  }
}

}  // namespace marey::cuda
