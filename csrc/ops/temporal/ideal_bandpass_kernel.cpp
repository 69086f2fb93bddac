// Vectors run across neighbouring series (pixels). A tile is folded row by row, as it lies in
// memory, into columns two vectors wide that hold all pairs of a series, even beside odd; a column
// stays in the first-level cache up to some 400 steps. Both products, onto the band and back, then
// keep 12 sums in registers (the cosines and sines of three bins, or of three pairs): 12
// multiply-adds for 10 loads. The results replace the pairs, and the tile is unfolded row by row.
//
// The fold halves the arithmetic: 2 multiply-adds an item and bin. Taking the first value off each
// series changes no result, and keeps the rounding of a bright, nearly still pixel from hiding its
// motion.
#include "core/simd.h"
#include "ops/temporal/ideal_bandpass.h"

namespace marey::MAREY_ISA_NS {
namespace {

constexpr int kGroup = static_cast<int>(kIdealGroup);
constexpr int kVectors = 2;

template <class S, class T>
class Tile {
 public:
  using V = Vec<T>;
  static constexpr int64_t kLanes = static_cast<int64_t>(V::size());
  static constexpr int64_t kColumn = kVectors * kLanes;

  explicit Tile(const IdealBandpassTile& tile)
      : tile_(tile),
        pairs_(tile.steps / 2 + 1),
        column_items_(2 * ((pairs_ + kGroup - 1) / kGroup * kGroup) * kColumn),
        columns_(static_cast<T*>(tile.scratch)),
        bins_(columns_ + column_items_ * ((tile.width + kColumn - 1) / kColumn)) {}

  void run() {
    for (int64_t p = 0; p < pairs_; ++p) fold(p);
    for (int64_t k = 0; k < tile_.width; k += kColumn) {
      T* column = columns_ + k / kColumn * column_items_;
      forward(column);
      backward(column);
    }
    // Step 0 last: in place it is the first value of the series.
    for (int64_t p = pairs_ - 1; p >= 0; --p) unfold(p);
  }

 private:
  const S* x(int64_t t) const {
    return reinterpret_cast<const S*>(static_cast<const std::byte*>(tile_.x) + t * tile_.x_stride);
  }
  T* y(int64_t t) const {
    return reinterpret_cast<T*>(static_cast<std::byte*>(tile_.y) + t * tile_.y_stride);
  }
  // even[p], and kColumn items further odd[p], of the column that item k is in.
  T* pair(int64_t p, int64_t k) const {
    return columns_ + k / kColumn * column_items_ + 2 * p * kColumn + k % kColumn;
  }
  int64_t mirrored(int64_t p) const { return p == 0 ? 0 : tile_.steps - p; }

  // Calls body with each vector's first item and a way to load it; the lanes beyond the width are
  // zero.
  template <class Body>
  void for_each_vector(const Body& body) const {
    int64_t k = 0;
    for (; k + kLanes <= tile_.width; k += kLanes) {
      body(k, [](const auto* p) { return load<V>(p); }, kLanes);
    }
    if (const int64_t rest = tile_.width - k; rest > 0) {
      body(k, [rest](const auto* p) { return load_partial<V>(p, rest); }, rest);
    }
    // The column's other vector, if the width ends before it.
    if (const int64_t end = (k + (k < tile_.width ? kLanes : 0)); end % kColumn != 0) {
      body(end, [](const auto*) { return V(T{0}); }, int64_t{0});
    }
  }

  void fold(int64_t p) {
    const S* first = x(0);
    const S* near = x(p);
    const S* far = x(mirrored(p));
    for_each_vector([&](int64_t k, const auto& read, int64_t) {
      const V origin = read(first + k);
      const V a = read(near + k) - origin;
      const V b = read(far + k) - origin;
      T* place = pair(p, k);
      store(place, a + b);
      store(place + kColumn, a - b);
    });
  }

  struct Sums {
    V at[2 * kGroup][kVectors];

    void clear() {
      for (auto& row : at) {
        for (V& v : row) v = V(T{0});
      }
    }
    // Adds table[0 .. 2) [of kGroup] times the even (cosine) and odd (sine) vectors.
    void add(const T* table, const T* even_odd) {
#pragma GCC unroll 2
      for (int half = 0; half < 2; ++half) {
        V x[kVectors];
        for (int v = 0; v < kVectors; ++v) {
          x[v] = load<V>(even_odd + half * kColumn + v * kLanes);
        }
#pragma GCC unroll 3
        for (int g = 0; g < kGroup; ++g) {
          const V weight(table[half * kGroup + g]);
          for (int v = 0; v < kVectors; ++v) {
            V& sum = at[half * kGroup + g][v];
            sum = fma(weight, x[v], sum);
          }
        }
      }
    }
  };

  // The bins' cosine and sine coefficients of a column: kColumn of the one, then of the other.
  void forward(const T* column) {
    const T* table = static_cast<const T*>(tile_.forward);
    for (int64_t group = 0; group < tile_.bins; group += kGroup) {
      Sums sums;
      sums.clear();
      for (int64_t p = 1; p < pairs_; ++p) {
        sums.add(table, column + 2 * p * kColumn);
        table += 2 * kGroup;
      }
      for (int g = 0; g < kGroup; ++g) {
        T* place = bins_ + 2 * (group + g) * kColumn;
        for (int v = 0; v < kVectors; ++v) {
          store(place + v * kLanes, sums.at[g][v]);
          store(place + kColumn + v * kLanes, sums.at[kGroup + g][v]);
        }
      }
    }
  }

  // The even and odd parts of the result in place of those of the input.
  void backward(T* column) {
    const T* table = static_cast<const T*>(tile_.backward);
    for (int64_t group = 0; group < pairs_; group += kGroup) {
      Sums sums;
      sums.clear();
      for (int64_t b = 0; b < tile_.bins; ++b) {
        sums.add(table, bins_ + 2 * b * kColumn);
        table += 2 * kGroup;
      }
      for (int g = 0; g < kGroup; ++g) {
        for (int half = 0; half < 2; ++half) {
          for (int v = 0; v < kVectors; ++v) {
            T* place = column + (2 * (group + g) + half) * kColumn + v * kLanes;
            V part = sums.at[half * kGroup + g][v];
            if (tile_.complement) part = load<V>(place) * T{0.5} - part;
            store(place, part);
          }
        }
      }
    }
  }

  void unfold(int64_t p) {
    const S* first = x(0);
    T* near = y(p);
    T* far = y(mirrored(p));
    for_each_vector([&](int64_t k, const auto& read, int64_t count) {
      if (count == 0) return;
      const T* place = pair(p, k);
      const V origin = tile_.keep_first ? read(first + k) : V(T{0});
      const V even = load<V>(place);
      const V odd = load<V>(place + kColumn);
      write(near + k, origin + (even + odd), count);
      if (near != far) write(far + k, origin + (even - odd), count);
    });
  }

  void write(T* p, const V& v, int64_t count) const {
    if (count < kLanes) {
      store_partial(p, v, count);
    } else if (tile_.streaming) {
      stream(p, v);
    } else {
      store(p, v);
    }
  }

  const IdealBandpassTile& tile_;
  int64_t pairs_;
  int64_t column_items_;
  T* columns_;
  T* bins_;
};

template <class S, class T>
void run(const IdealBandpassTile& tile) {
  Tile<S, T>(tile).run();
  if (tile.streaming) stream_fence();
}

}  // namespace

IdealBandpassFn* select_ideal_bandpass(DType x, DType y) {
  if (y == DType::f64) return run<double, double>;
  return x == DType::u8 ? run<uint8_t, float> : run<float, float>;
}

}  // namespace marey::MAREY_ISA_NS
