// Vectors run across neighbouring series (pixels). A tile is copied, row by row as it lies in
// memory, into columns of 64 bytes: all steps of such a column stay in the first-level cache (up to
// some 500), where the passes over them run.
//
// Selection by counting: the median is found bit by bit, from the top. Whether a bit is set is
// decided by how many values are smaller than the number made of the bits known so far and this
// one: two instructions a vector and bit, with no branch and no data moved. For 8 bits nothing
// beats it; floats are mapped to integers of the same order and take 32 or 64 passes.
//
// Few floats are sorted by a network, pruned to what the middle ranks need: with 60 steps eight
// comparators a value.
#include <limits>

#include "core/simd.h"
#include "ops/temporal/median.h"

namespace marey::MAREY_ISA_NS {
namespace {

// Values of type S as integers of type I, in the same order.
template <class S, class I>
struct Keys {
  using V = Vec<I>;
  static constexpr int kBits = 8 * static_cast<int>(sizeof(S));
  // Signed comparisons of full-width integers: the top bit is flipped.
  static constexpr I kLowest = sizeof(S) == sizeof(I) ? std::numeric_limits<I>::min() : I{0};

  static V encode(const S* p) {
    if constexpr (std::is_same_v<S, uint8_t>) {
      if constexpr (sizeof(I) == 1) {
        return std::bit_cast<V>(load<Vec<uint8_t>>(p)) ^ V(kLowest);
      } else {
        return load<V>(p);
      }
    } else {
      return ordered(std::bit_cast<V>(load<Vec<S>>(p)));
    }
  }
  static S decode(I key) {
    if constexpr (std::is_same_v<S, uint8_t>) {
      return static_cast<uint8_t>(key ^ kLowest);
    } else {
      return std::bit_cast<S>(key < 0 ? key ^ std::numeric_limits<I>::max() : key);
    }
  }
  // Negative floats grow with their magnitude: all bits but the sign are flipped.
  static V ordered(V bits) {
    stdx::where(bits < V(I{0}), bits) = bits ^ V(std::numeric_limits<I>::max());
    return bits;
  }
};

// A column's lanes, in as many vectors as it takes.
template <class I>
struct Lanes {
  using V = Vec<I>;
  static constexpr int kVectors =
      static_cast<int>(kMedianColumnBytes / static_cast<int64_t>(sizeof(V)));
  static constexpr int64_t kLanes = static_cast<int64_t>(V::size());
  static constexpr int64_t kItems = kVectors * kLanes;
  V v[kVectors];
};

template <class I>
inline Lanes<I> lanes_at(const I* p) {
  Lanes<I> lanes;
  for (int k = 0; k < Lanes<I>::kVectors; ++k) {
    lanes.v[k] = typename Lanes<I>::V(p + k * Lanes<I>::kLanes, stdx::vector_aligned);
  }
  return lanes;
}

template <class I>
inline void put_lanes(I* p, const Lanes<I>& lanes) {
  for (int k = 0; k < Lanes<I>::kVectors; ++k) {
    lanes.v[k].copy_to(p + k * Lanes<I>::kLanes, stdx::vector_aligned);
  }
}

// count + 1 where x < limit. A comparison gives -1, and a difference takes one instruction where a
// masked sum takes two; with AVX-512 it gives a mask, and the masked sum is the one instruction.
template <class I>
inline Vec<I> count_less(const Vec<I>& count, const Vec<I>& x, const Vec<I>& limit) {
#if defined(__AVX512F__)
  Vec<I> result = count;
  stdx::where(x < limit, result) += Vec<I>(I{1});
  return result;
#else
  using Lane [[gnu::vector_size(sizeof(Vec<I>))]] = I;
  const Lane less = std::bit_cast<Lane>(x) < std::bit_cast<Lane>(limit);
  return count - std::bit_cast<Vec<I>>(less);
#endif
}

// How many of a column's values are below `limit`, less 2^(bits - 1) so that all of 0 .. 2^bits - 1
// fit in a signed integer.
template <class I>
inline Lanes<I> count_below(const I* column, int64_t steps, const Lanes<I>& limit) {
  using V = Vec<I>;
  Lanes<I> count;
  for (V& c : count.v) c = V(std::numeric_limits<I>::min());
  for (int64_t t = 0; t < steps; ++t) {
    const Lanes<I> x = lanes_at(column + t * Lanes<I>::kItems);
    for (int k = 0; k < Lanes<I>::kVectors; ++k) {
      count.v[k] = count_less<I>(count.v[k], x.v[k], limit.v[k]);
    }
  }
  return count;
}

// A count as count_below gives it.
template <class I>
constexpr I counted(int64_t count) {
  return static_cast<I>(count + std::numeric_limits<I>::min());
}

// The value of rank steps / 2: the highest number that at most that many values are below.
template <class S, class I>
Lanes<I> select_upper(const I* column, int64_t steps) {
  using V = Vec<I>;
  const V rank(counted<I>(steps / 2));
  Lanes<I> result;
  for (V& r : result.v) r = V(Keys<S, I>::kLowest);
  for (int bit = Keys<S, I>::kBits - 1; bit >= 0; --bit) {
    const V flip(static_cast<I>(std::make_unsigned_t<I>{1} << bit));
    Lanes<I> candidate;
    for (int k = 0; k < Lanes<I>::kVectors; ++k) candidate.v[k] = result.v[k] ^ flip;
    const Lanes<I> count = count_below(column, steps, candidate);
    for (int k = 0; k < Lanes<I>::kVectors; ++k) {
      stdx::where(count.v[k] <= rank, result.v[k]) = candidate.v[k];
    }
  }
  return result;
}

// The value of rank steps / 2 - 1, of an even number of them.
template <class S, class I>
Lanes<I> select_lower(const I* column, int64_t steps, const Lanes<I>& upper) {
  using V = Vec<I>;
  const V half(counted<I>(steps / 2));
  const Lanes<I> count = count_below(column, steps, upper);
  Lanes<I> below;
  for (V& b : below.v) b = V(Keys<S, I>::kLowest);
  for (int64_t t = 0; t < steps; ++t) {
    const Lanes<I> x = lanes_at(column + t * Lanes<I>::kItems);
    for (int k = 0; k < Lanes<I>::kVectors; ++k) {
      stdx::where(x.v[k] < upper.v[k], below.v[k]) = stdx::max(below.v[k], x.v[k]);
    }
  }
  Lanes<I> result = upper;
  for (int k = 0; k < Lanes<I>::kVectors; ++k) {
    stdx::where(count.v[k] >= half, result.v[k]) = below.v[k];
  }
  return result;
}

template <class S, class T>
inline T middle(S lower, S upper) {
  return lower == upper ? static_cast<T>(upper)
                        : (static_cast<T>(lower) + static_cast<T>(upper)) * T{0.5};
}

// Lays the tile out in columns of 64 bytes of keys.
template <class I, class S, class Encode>
void make_columns(const MedianTile& tile, const Encode& encode) {
  using L = Lanes<I>;
  I* columns = static_cast<I*>(tile.scratch);
  for (int64_t t = 0; t < tile.steps; ++t) {
    const S* row =
        reinterpret_cast<const S*>(static_cast<const std::byte*>(tile.x) + t * tile.x_stride);
    I* place = columns + t * L::kItems;
    int64_t k = 0;
    for (; k + L::kItems <= tile.width; k += L::kItems) {
      for (int v = 0; v < L::kVectors; ++v) {
        encode(row + k + v * L::kLanes).copy_to(place + v * L::kLanes, stdx::vector_aligned);
      }
      place += tile.steps * L::kItems;
    }
    if (const int64_t rest = tile.width - k; rest > 0) {
      alignas(64) S lanes[L::kItems] = {};
      std::memcpy(lanes, row + k, static_cast<std::size_t>(rest) * sizeof(S));
      for (int v = 0; v < L::kVectors; ++v) {
        encode(lanes + v * L::kLanes).copy_to(place + v * L::kLanes, stdx::vector_aligned);
      }
    }
  }
}

template <class S, class T, class I>
void run_counting(const MedianTile& tile) {
  using L = Lanes<I>;
  using K = Keys<S, I>;
  make_columns<I, S>(tile, [](const S* p) { return K::encode(p); });
  T* y = static_cast<T*>(tile.y);
  for (int64_t first = 0; first < tile.width; first += L::kItems) {
    const I* column = static_cast<const I*>(tile.scratch) + first * tile.steps;
    const Lanes<I> upper = select_upper<S>(column, tile.steps);
    const Lanes<I> lower = tile.steps % 2 != 0 ? upper : select_lower<S>(column, tile.steps, upper);
    alignas(64) I uppers[L::kItems];
    alignas(64) I lowers[L::kItems];
    put_lanes(uppers, upper);
    put_lanes(lowers, lower);
    [[maybe_unused]] alignas(64) I extremes[2][L::kItems];
    if constexpr (!std::is_same_v<S, uint8_t>) {
      Lanes<I> highest = lanes_at(column);
      Lanes<I> lowest = highest;
      for (int64_t t = 1; t < tile.steps; ++t) {
        const Lanes<I> x = lanes_at(column + t * L::kItems);
        for (int v = 0; v < L::kVectors; ++v) {
          highest.v[v] = stdx::max(highest.v[v], x.v[v]);
          lowest.v[v] = stdx::min(lowest.v[v], x.v[v]);
        }
      }
      put_lanes(extremes[0], lowest);
      put_lanes(extremes[1], highest);
    }
    const int64_t rest = tile.width - first;
    const int64_t count = rest < L::kItems ? rest : L::kItems;
    for (int64_t k = 0; k < count; ++k) {
      y[first + k] = middle<S, T>(K::decode(lowers[k]), K::decode(uppers[k]));
      if constexpr (!std::is_same_v<S, uint8_t>) {
        // NaNs lie beyond the infinities on either side.
        for (const auto& extreme : extremes) {
          const T value = K::decode(extreme[k]);
          if (value != value) y[first + k] = value;
        }
      }
    }
  }
}

template <class T>
void run_network(const MedianTile& tile) {
  using L = Lanes<T>;
  make_columns<T, T>(tile, [](const T* p) { return load<Vec<T>>(p); });
  T* y = static_cast<T*>(tile.y);
  for (int64_t first = 0; first < tile.width; first += L::kItems) {
    T* column = static_cast<T*>(tile.scratch) + first * tile.steps;
    // A sum that is NaN though no value is (of infinities) costs a check of the values, no more.
    typename Vec<T>::mask_type nan[L::kVectors] = {};
    for (int64_t t = 0; t < tile.steps; ++t) {
      const L x = lanes_at(column + t * L::kItems);
      for (int v = 0; v < L::kVectors; ++v) nan[v] = nan[v] || x.v[v] != x.v[v];
    }
    for (int64_t c = 0; c < tile.comparators; ++c) {
      T* a = column + tile.network[c].i * L::kItems;
      T* b = column + tile.network[c].j * L::kItems;
      const L x = lanes_at(a);
      const L z = lanes_at(b);
      L low;
      L high;
      for (int v = 0; v < L::kVectors; ++v) {
        low.v[v] = stdx::min(x.v[v], z.v[v]);
        high.v[v] = stdx::max(x.v[v], z.v[v]);
      }
      put_lanes(a, low);
      put_lanes(b, high);
    }
    L upper = lanes_at(column + tile.steps / 2 * L::kItems);
    const L lower = lanes_at(column + (tile.steps - 1) / 2 * L::kItems);
    for (int v = 0; v < L::kVectors; ++v) {
      // Equal infinities have no mean by a sum of opposite signs; all else has.
      const Vec<T> mean = (lower.v[v] + upper.v[v]) * T{0.5};
      stdx::where(lower.v[v] != upper.v[v], upper.v[v]) = mean;
      stdx::where(nan[v], upper.v[v]) = Vec<T>(std::numeric_limits<T>::quiet_NaN());
    }
    alignas(64) T medians[L::kItems];
    put_lanes(medians, upper);
    const int64_t rest = tile.width - first;
    std::memcpy(y + first, medians,
                static_cast<std::size_t>(rest < L::kItems ? rest : L::kItems) * sizeof(T));
  }
}

template <class T, class I>
void run_floats(const MedianTile& tile) {
  tile.network != nullptr ? run_network<T>(tile) : run_counting<T, T, I>(tile);
}

}  // namespace

MedianFn* select_median(DType x, int64_t steps) {
  if (x == DType::f32) return run_floats<float, int32_t>;
  if (x == DType::f64) return run_floats<double, int64_t>;
  if (steps <= 255) return run_counting<uint8_t, float, int8_t>;
  return steps <= 65535 ? run_counting<uint8_t, float, int16_t>
                        : run_counting<uint8_t, float, int32_t>;
}

}  // namespace marey::MAREY_ISA_NS
