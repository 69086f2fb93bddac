#pragma once
// Halving: the taps (1 4 6 4 1) / 16 first down the columns, which vectorises over any number of
// channels, and then along the row. There pixels are split into even and odd ones, whose taps are
// plain loads at distances of one pixel. A is the type of the sums: float, double, or uint16_t for
// uint8 images, whose largest sum, 255 * 256 + 128, fits it exactly.
//
// Arithmetic and the first-level cache are the limit, not memory: fetching the next rows ahead made
// it a tenth slower. Splitting the column sums on their way from the registers took a full-HD frame
// of three float channels on AVX-512 from 1.48 to 0.91 ms on two threads.
#include <algorithm>
#include <cstdint>
#include <type_traits>

#include "core/simd.h"
#include "ops/pyramid/pixel_pairs.h"
#include "ops/pyramid/pixels.h"
#include "ops/pyramid/plane.h"
#include "ops/pyramid/row_buffers.h"

namespace marey::MAREY_ISA_NS {

template <class V>
struct VectorPair {
  V first, second;
};

// The taps down the columns for two neighbouring coarse rows, so that the rows that they share are
// read once: p[2 d] + 4 p[2 d + 1] + 6 p[2 d + 2] + 4 p[2 d + 3] + p[2 d + 4], where get(k) is a
// vector of row p[k].
template <class V, class Get>
inline VectorPair<V> column_taps(Get&& get) {
  using A = typename V::value_type;
  const A six = 6;
  const A four = 4;
  const V p2 = get(2);
  const V p3 = get(3);
  const V p4 = get(4);
  return {(get(0) + p4) + four * (get(1) + p3) + six * p2,
          (p2 + get(6)) + four * (p3 + get(5)) + six * p4};
}

// The same for items [begin, end) of the rows. Reads exactly those.
template <class S, class A>
inline void column_sums(const S* const (&p)[7], A* dst0, A* dst1, int64_t begin, int64_t end) {
  using V = Vec<A>;
  const auto taps = [&](int64_t k, auto&& read) {
    const auto [first, second] = column_taps<V>([&](int row) { return read(p[row] + k); });
    store(dst0 + k, first);
    store(dst1 + k, second);
  };
  const int64_t n = end - begin;
  if (n < static_cast<int64_t>(V::size())) {
    taps(begin, [n](const S* row) { return load_partial<V>(row, n); });
    return;
  }
  for_each_vector<V>(
      n, [&](int64_t k) { taps(begin + k, [](const S* row) { return load<V>(row); }); });
}

// A vector of sums times 256, as stored: rounded for uint8, as OpenCV does.
template <class D, class A>
inline void store_down(D* p, const Vec<A>& sum) {
  if constexpr (std::is_same_v<D, uint8_t>) {
    store_narrow(p, (sum + A{128}) >> 8);
  } else if constexpr (std::is_same_v<A, uint16_t>) {
    // Widened through memory: lanes of uint16_t fill two vectors of D.
    alignas(64) A sums[Vec<A>::size()];
    store(sums, sum);
    for (std::size_t k = 0; k < Vec<A>::size(); k += Vec<D>::size()) {
      store(p + k, load<Vec<D>>(sums + k) * D(1.0 / 256.0));
    }
  } else {
    store(p, sum * A(1.0 / 256.0));
  }
}

// Produces single rows of down(plane); cheapest in ascending order.
template <class S, class A, class D>
class DownRows {
 public:
  DownRows(const Plane& plane, RowReader<S>& read, Arena& arena) : plane_(plane), read_(read) {
    for (Sums& sums : sums_) {
      sums.columns = arena.take<A>(buffer_items<A>(plane.width, plane.channels));
      sums.even = arena.take<A>(half_items(plane)) + front(plane);
      sums.odd = arena.take<A>(half_items(plane)) + front(plane);
    }
    row_ = arena.take<D>(buffer_items<D>(half(plane.width), plane.channels));
  }

  static int64_t scratch_bytes(const Plane& plane) {
    return 2 * Arena::bytes<A>(buffer_items<A>(plane.width, plane.channels)) +
           4 * Arena::bytes<A>(half_items(plane)) +
           Arena::bytes<D>(buffer_items<D>(half(plane.width), plane.channels));
  }

  void operator()(int64_t i, D* dst) {
    const int64_t c = plane_.channels;
    const int64_t out_width = half(plane_.width);
    const Sums& sums = down_columns(i);
    if constexpr (std::is_same_v<A, D>) {
      if (by_pixel<A>(c)) {
        return c == 3 ? down_pixels<3>(sums.columns, dst, out_width)
                      : down_pixels<kPixelLanes>(sums.columns, dst, out_width);
      }
    }
    using V = Vec<A>;
    constexpr int64_t kLanes = static_cast<int64_t>(V::size());
    const int64_t n = out_width * c;
    const A six = 6;
    const A four = 4;
    const auto sum = [&, even = sums.even, odd = sums.odd](int64_t k) {
      const V outer = load<V>(even + k - c) + load<V>(even + k + c);
      const V inner = load<V>(odd + k - c) + load<V>(odd + k);
      return outer + four * inner + six * load<V>(even + k);
    };
    if (n < kLanes) {
      store_down<D, A>(row_, sum(0));
      std::copy_n(row_, n, dst);
      return;
    }
    for_each_vector<V>(n, [&](int64_t k) { store_down<D, A>(dst + k, sum(k)); });
  }

 private:
  // The taps down the columns for one row of the result, from pixel -2 of the source to two beyond:
  // by_pixel in one piece; else as pixels 0, 2, 4, ... and 1, 3, 5, ..., both of which start at a
  // multiple of the vector: a store of 64 bytes that crosses a cache line takes two turns.
  struct Sums {
    A* columns;
    A* even;
    A* odd;
  };

  static int64_t front(const Plane& plane) {
    constexpr int64_t kVector = 64 / static_cast<int64_t>(sizeof(A));
    return (plane.channels + kVector - 1) / kVector * kVector;
  }
  static int64_t half_items(const Plane& plane) {
    return front(plane) + buffer_items<A>(half(plane.width), plane.channels);
  }

  // For row i of the result; made together with the next one's.
  const Sums& down_columns(int64_t i) {
    if (i == next_) return sums_[1];
    next_ = i + 1;
    const S* rows[7];
    for (int64_t k = 0; k < 7; ++k) rows[k] = read_(reflect101(2 * i - 2 + k, plane_.height));
    const int64_t c = plane_.channels;
    const int64_t w = plane_.width;
    auto& [first, second] = sums_;
    int64_t done = 0;  // pairs of pixels
    if constexpr (kPicks) {
      if (c == 3) done = split_columns<3>(rows);
      if (c == 4) done = split_columns<4>(rows);
    }
    const int64_t border = 2 * c;
    if (2 * done < w) {
      column_sums(rows, first.columns + border, second.columns + border, 2 * done * c, w * c);
    }
    for (const Sums& sums : sums_) {
      const A* columns = sums.columns + border;
      const bool in_one_piece = std::is_same_v<A, D> && by_pixel<A>(c);
      if (!in_one_piece) {
        split(columns + 2 * done * c, sums.even + done * c, sums.odd + done * c, half(w) - done, c);
      }
      const auto pixel = [&](int64_t x) {
        if (in_one_piece) return sums.columns + border + x * c;
        return (x % 2 == 0 ? sums.even : sums.odd) + (x >> 1) * c;
      };
      for (const int64_t x : {int64_t{-2}, int64_t{-1}, w, w + 1}) {
        std::copy_n(pixel(reflect101(x, w)), c, pixel(x));
      }
    }
    return first;
  }

  // Whole pieces of both rows, split on the way from the registers. Returns how many pairs.
  template <int kChannels>
  int64_t split_columns(const S* const (&rows)[7]) {
    using V = Vec<A>;
    constexpr int64_t kLanes = static_cast<int64_t>(V::size());
    auto& [first, second] = sums_;
    int64_t k = 0;
    for (; 2 * (k + kLanes) <= plane_.width; k += kLanes) {
      V pieces[2][2 * kChannels];
      for (int v = 0; v < 2 * kChannels; ++v) {
        const int64_t at = 2 * k * kChannels + v * kLanes;
        const auto [a, b] = column_taps<V>([&](int row) { return load<V>(rows[row] + at); });
        pieces[0][v] = a;
        pieces[1][v] = b;
      }
      split_piece<kChannels, A>(pieces[0], first.even + k * kChannels, first.odd + k * kChannels);
      split_piece<kChannels, A>(pieces[1], second.even + k * kChannels, second.odd + k * kChannels);
    }
    return k;
  }

  const Plane& plane_;
  RowReader<S>& read_;
  Sums sums_[2];
  D* row_;
  int64_t next_ = -1;  // the row of sums_[1]
};

}  // namespace marey::MAREY_ISA_NS
