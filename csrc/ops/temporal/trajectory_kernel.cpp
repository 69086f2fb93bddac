// Vectors run along a row of the result. Its sum and the row in between stay in the first-level
// cache. Both are worked on in whole vectors: what lies beyond the end of the row in between is
// never part of the result.
#include "core/simd.h"
#include "ops/temporal/trajectory.h"

namespace marey::MAREY_ISA_NS {
namespace {

// Calls body(k, count) for vectors of `lanes`, the last one shorter.
template <class Body>
inline void for_each_vector(int64_t items, int64_t lanes, const Body& body) {
  int64_t k = 0;
  for (; k + lanes <= items; k += lanes) body(k, lanes);
  if (k < items) body(k, items - k);
}

template <class V, class S>
inline V load_count(const S* p, int64_t count) {
  return count == static_cast<int64_t>(V::size()) ? load<V>(p) : load_partial<V>(p, count);
}

template <class V, class T>
inline void store_count(T* p, const V& v, int64_t count) {
  if (count == static_cast<int64_t>(V::size())) {
    store(p, v);
  } else {
    store_partial(p, v, count);
  }
}

// The row between `rows`.
template <class S, class T, int kRows>
void between_rows(const TrajectoryStep& step, T* result, int64_t items) {
  using V = Vec<T>;
  for_each_vector(items, static_cast<int64_t>(V::size()), [&](int64_t k, int64_t count) {
    V sum = load_count<V>(static_cast<const S*>(step.rows[0]) + k, count);
    if constexpr (kRows > 1) {
      sum *= V(static_cast<T>(step.row_weights[0]));
      for (int a = 1; a < kRows; ++a) {
        sum = fma(V(static_cast<T>(step.row_weights[a])),
                  load_count<V>(static_cast<const S*>(step.rows[a]) + k, count), sum);
      }
    }
    store_count(result + k, sum, count);
  });
}

template <class T, int kColumns>
void add_shifted(const TrajectoryStep& step, const T* between, int64_t channels, T* y,
                 int64_t items) {
  using V = Vec<T>;
  for_each_vector(items, static_cast<int64_t>(V::size()), [&](int64_t k, int64_t count) {
    V sum = load_count<V>(y + k, count);
    for (int b = 0; b < kColumns; ++b) {
      sum = fma(V(static_cast<T>(step.column_weights[b])),
                load_count<V>(between + b * channels + k, count), sum);
    }
    store_count(y + k, sum, count);
  });
}

template <class S, class T>
void run(const TrajectoryRow& row) {
  const int64_t items = row.width * row.channels;
  T* y = static_cast<T*>(row.y);
  for (int64_t k = 0; k < items; ++k) y[k] = static_cast<T>(row.constant);
  // Room for shifts by the width and more, on both sides of the row.
  T* between = static_cast<T*>(row.scratch) + (row.width + 6) * row.channels;
  for (int64_t j = 0; j < row.count; ++j) {
    const TrajectoryStep& step = row.steps[j];
    step.rows_used == 1 ? between_rows<S, T, 1>(step, between, items)
                        : between_rows<S, T, 4>(step, between, items);
    for (int64_t k = -1; k >= step.shift * row.channels; --k)
      between[k] = between[k + row.channels];
    const int64_t end = (row.width + step.shift + step.columns_used - 1) * row.channels;
    for (int64_t k = items; k < end; ++k) between[k] = between[k - row.channels];
    const T* shifted = between + step.shift * row.channels;
    step.columns_used == 1 ? add_shifted<T, 1>(step, shifted, row.channels, y, items)
                           : add_shifted<T, 4>(step, shifted, row.channels, y, items);
  }
}

}  // namespace

TrajectoryFn* select_trajectory(DType x, DType y) {
  if (y == DType::f64) return run<double, double>;
  return x == DType::u8 ? run<uint8_t, float> : run<float, float>;
}

}  // namespace marey::MAREY_ISA_NS
