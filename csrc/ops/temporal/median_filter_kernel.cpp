// Vectors run across neighbouring series (pixels): 32 of uint8 an AVX2 instruction.
//
// Small windows: a sorting network in registers. The windows of steps t and t + 1 share size - 1
// values: those are sorted once for both, and each median is the value that only its window has,
// clamped between the two middle ones. The compiler drops what these two do not need of the network
// (five comparators of four values become eight instructions for two medians of five).
//
// Large windows: the window is kept sorted, a vector for each rank. From one step to the next a
// pass over the ranks drops the oldest value and inserts the newest: four instructions a rank and
// none depends on the one before, where sorting anew takes a number of comparisons that grows with
// log^2. The columns that are taken together keep their sorted windows in the first-level cache up
// to sizes of about 100.
#include <limits>

#include "core/simd.h"
#include "ops/temporal/median_filter.h"
#include "ops/temporal/sorting_network.h"

namespace marey::MAREY_ISA_NS {
namespace {

// Windows up to this size are sorted by networks.
constexpr int64_t kLargestNetwork = 15;

// uint8 is worked on as int8 with the top bit flipped, which keeps the order: there are no
// comparisons of unsigned bytes.
template <class T>
struct Order {
  using Item = T;
  using V = Vec<T>;
  static constexpr bool kHasNan = true;
  static constexpr T kHighest = std::numeric_limits<T>::infinity();
  static V encode(const V& v) { return v; }
  static V decode(const V& v) { return v; }
};

template <>
struct Order<uint8_t> {
  using Item = int8_t;
  using V = Vec<int8_t>;
  static constexpr bool kHasNan = false;
  static constexpr int8_t kHighest = 127;
  static V encode(const Vec<uint8_t>& v) { return std::bit_cast<V>(v ^ uint8_t{0x80}); }
  static Vec<uint8_t> decode(const V& v) {
    return std::bit_cast<Vec<uint8_t>>(v) ^ uint8_t { 0x80 };
  }
};

template <class V>
inline V smaller(const V& a, const V& b) {
  return stdx::min(a, b);
}
template <class V>
inline V larger(const V& a, const V& b) {
  return stdx::max(a, b);
}

// Reads and writes a column of vectors at item k; kPartial: its first `rest` lanes only. Whether it
// streams is asked at each write: a branch that is always predicted, beside a network of
// comparators for each window size that would otherwise be compiled twice.
template <class T, bool kPartial>
struct Column {
  using O = Order<T>;
  using V = typename O::V;

  const MedianFilterTile& tile;
  int64_t k;
  int64_t rest;

  V read(int64_t j) const {
    const T* p = reinterpret_cast<const T*>(tile.rows[j]) + k;
    if constexpr (kPartial) {
      return O::encode(load_partial<Vec<T>>(p, rest));
    } else {
      return O::encode(load<Vec<T>>(p));
    }
  }
  void write(int64_t t, const V& v) const {
    T* p = reinterpret_cast<T*>(static_cast<std::byte*>(tile.y) + t * tile.y_stride) + k;
    if constexpr (kPartial) {
      store_partial(p, O::decode(v), rest);
    } else if (tile.streaming) {
      stream(p, O::decode(v));
    } else {
      store(p, O::decode(v));
    }
  }
};

template <class V>
inline void set_nan(V& v, const typename V::mask_type& where_nan) {
  using T = typename V::value_type;
  stdx::where(where_nan, v) = V(std::numeric_limits<T>::quiet_NaN());
}

template <int kItems>
struct Network {
  static constexpr int kCount = [] {
    int count = 0;
    for_each_comparator(kItems, [&](int64_t, int64_t) { ++count; });
    return count;
  }();
  struct Comparator {
    int i, j;
  };
  struct Comparators {
    Comparator at[kCount == 0 ? 1 : kCount];
  };
  static constexpr Comparators kComparators = [] {
    Comparators list{};
    int count = 0;
    for_each_comparator(kItems, [&](int64_t i, int64_t j) {
      list.at[count++] = {static_cast<int>(i), static_cast<int>(j)};
    });
    return list;
  }();

  template <class V, std::size_t... kIndex>
  static inline void sort(V (&v)[kItems], std::index_sequence<kIndex...>) {
    [[maybe_unused]] const auto compare = [&v](int i, int j) {
      const V low = smaller(v[i], v[j]);
      v[j] = larger(v[i], v[j]);
      v[i] = low;
    };
    (compare(kComparators.at[kIndex].i, kComparators.at[kIndex].j), ...);
  }
};

// The medians of steps t and t + 1, or (kSteps = 1) of t alone.
template <class T, int kSize, int kSteps, class C>
inline void network_step(const C& column, int64_t t) {
  using O = Order<T>;
  using V = typename O::V;
  constexpr int kShared = kSize - 1;
  constexpr int kRank = kSize / 2;
  V v[kShared];
#pragma GCC unroll 16
  for (int j = 0; j < kShared; ++j) v[j] = column.read(t + 1 + j);
  [[maybe_unused]] typename V::mask_type shared_nan{};
  if constexpr (O::kHasNan) {
#pragma GCC unroll 16
    for (int j = 0; j < kShared; ++j) shared_nan = shared_nan || v[j] != v[j];
  }
  Network<kShared>::sort(v, std::make_index_sequence<Network<kShared>::kCount>());
  for (int s = 0; s < kSteps; ++s) {
    const V own = column.read(t + s * kSize);
    V median = own;
    if constexpr (kRank < kShared) median = smaller(median, v[kRank]);
    median = larger(median, v[kRank - 1]);
    if constexpr (O::kHasNan) set_nan(median, shared_nan || own != own);
    column.write(t + s, median);
  }
}

template <class T, int kSize, int kSteps>
void network_row(const MedianFilterTile& tile, int64_t t) {
  constexpr int64_t kLanes = static_cast<int64_t>(Vec<T>::size());
  int64_t k = 0;
  for (; k + kLanes <= tile.width; k += kLanes) {
    network_step<T, kSize, kSteps>(Column<T, false>{tile, k, 0}, t);
  }
  if (k < tile.width) {
    network_step<T, kSize, kSteps>(Column<T, true>{tile, k, tile.width - k}, t);
  }
}

template <class T, int kSize>
void run_network(const MedianFilterTile& tile) {
  int64_t t = 0;
  for (; t + 2 <= tile.steps; t += 2) network_row<T, kSize, 2>(tile, t);
  if (t < tile.steps) network_row<T, kSize, 1>(tile, t);
  if (tile.streaming) stream_fence();
}

// The window of one column, sorted; NaNs are kept as infinities and counted.
template <class T>
class SortedWindow {
 public:
  using O = Order<T>;
  using V = typename O::V;
  using Item = typename O::Item;

  void clear(void* memory, int64_t size) {
    ranks_ = static_cast<Item*>(memory);
    size_ = size;
    for (int64_t r = 0; r < size_; ++r) put(r, V(O::kHighest));
    nans_ = V(Item{0});
  }

  // The `held`-th value: the ranks from there on are still free.
  void insert(V value, int64_t held) {
    count_nans(value, Item{1});
    V below = value;  // no smaller rank yet: min(rank 0, value) is what remains
    V previous = V(O::kHighest);
    for (int64_t r = 0; r <= held; ++r) {
      const V at = get(r);
      V placed = smaller(at, below);
      if (r > 0) placed = larger(placed, previous);
      previous = at;
      put(r, placed);
    }
  }

  // With the value inserted, rank r is e[r] = max(s[r - 1], min(s[r], value)), e[0] = min(s[0],
  // value) and e[size] = max(s[size - 1], value); without the first rank that is not below
  // `oldest`, it is e[r] before that one and e[r + 1] after it.
  void replace(V oldest, V value) {
    count_nans(oldest, static_cast<Item>(-1));
    count_nans(value, Item{1});
    V at = get(0);
    V inserted = smaller(at, value);
    for (int64_t r = 0; r + 1 < size_; ++r) {
      const V next = get(r + 1);
      const V next_inserted = larger(at, smaller(next, value));
      put(r, kept(inserted, next_inserted, oldest));
      at = next;
      inserted = next_inserted;
    }
    put(size_ - 1, kept(inserted, larger(at, value), oldest));
  }

  V median() const {
    V result = get(size_ / 2);
    if constexpr (O::kHasNan) set_nan(result, nans_ > V(Item{0}));
    return result;
  }

 private:
  static V kept(const V& inserted, const V& next, const V& oldest) {
    V result = next;
    stdx::where(inserted < oldest, result) = inserted;
    return result;
  }
  void count_nans([[maybe_unused]] V& value, [[maybe_unused]] Item sign) {
    if constexpr (O::kHasNan) {
      const auto is_nan = value != value;
      stdx::where(is_nan, nans_) += V(sign);
      stdx::where(is_nan, value) = V(O::kHighest);
    }
  }
  V get(int64_t r) const { return V(ranks_ + r * kLanes, stdx::vector_aligned); }
  void put(int64_t r, const V& v) { v.copy_to(ranks_ + r * kLanes, stdx::vector_aligned); }

  static constexpr int64_t kLanes = static_cast<int64_t>(V::size());
  Item* ranks_ = nullptr;
  int64_t size_ = 0;
  V nans_{};
};

template <class T, int kColumns, bool kPartial>
void sorted_columns(const MedianFilterTile& tile, int64_t k, int64_t rest) {
  using C = Column<T, kPartial>;
  constexpr int64_t kLanes = static_cast<int64_t>(Vec<T>::size());
  const auto column = [&](int c) { return C{tile, k + c * kLanes, rest}; };
  SortedWindow<T> sorted[kColumns];
  for (int c = 0; c < kColumns; ++c) {
    sorted[c].clear(static_cast<T*>(tile.sorted) + c * tile.size * kLanes, tile.size);
    for (int64_t j = 0; j < tile.size; ++j) sorted[c].insert(column(c).read(j), j);
    column(c).write(0, sorted[c].median());
  }
  for (int64_t t = 1; t < tile.steps; ++t) {
    for (int c = 0; c < kColumns; ++c) {
      sorted[c].replace(column(c).read(t - 1), column(c).read(t - 1 + tile.size));
      column(c).write(t, sorted[c].median());
    }
  }
}

template <class T>
void run_sorted(const MedianFilterTile& tile) {
  if (tile.steps == 0) return;
  constexpr int kColumns = kMedianFilterVectors;
  constexpr int64_t kLanes = static_cast<int64_t>(Vec<T>::size());
  int64_t k = 0;
  for (; k + kColumns * kLanes <= tile.width; k += kColumns * kLanes) {
    sorted_columns<T, kColumns, false>(tile, k, 0);
  }
  for (; k + kLanes <= tile.width; k += kLanes) {
    sorted_columns<T, 1, false>(tile, k, 0);
  }
  if (k < tile.width) sorted_columns<T, 1, true>(tile, k, tile.width - k);
  if (tile.streaming) stream_fence();
}

template <class T>
void copy_rows(const MedianFilterTile& tile) {
  constexpr int64_t kLanes = static_cast<int64_t>(Vec<T>::size());
  for (int64_t t = 0; t < tile.steps; ++t) {
    int64_t k = 0;
    for (; k + kLanes <= tile.width; k += kLanes) {
      const Column<T, false> column{tile, k, 0};
      column.write(t, column.read(t));
    }
    if (k < tile.width) {
      const Column<T, true> column{tile, k, tile.width - k};
      column.write(t, column.read(t));
    }
  }
  if (tile.streaming) stream_fence();
}

template <class T, int kSize = 2>
MedianFilterFn* select(int64_t size) {
  if (size == 1) return copy_rows<T>;
  if constexpr (kSize <= kLargestNetwork) {
    return size == kSize ? run_network<T, kSize> : select<T, kSize + 1>(size);
  } else {
    return run_sorted<T>;
  }
}

}  // namespace

MedianFilterFn* select_median_filter(DType x, int64_t size) {
  if (x == DType::u8) return select<uint8_t>(size);
  return x == DType::f32 ? select<float>(size) : select<double>(size);
}

}  // namespace marey::MAREY_ISA_NS
