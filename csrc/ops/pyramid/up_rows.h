#pragma once
// Doubling: the taps (1 4 6 4 1) / 16 first along the row, once for every source row, and then down
// the columns, on the way to memory. A is the type of the sums: float, double, or uint16_t for
// uint8 images, whose sums fit it exactly.
#include <algorithm>
#include <cstdint>
#include <type_traits>

#include "core/simd.h"
#include "ops/pyramid/pixel_pairs.h"
#include "ops/pyramid/pixels.h"
#include "ops/pyramid/plane.h"
#include "ops/pyramid/row_buffers.h"

namespace marey::MAREY_ISA_NS {

// Produces single rows of up(source), in A, from rows of the source.
template <class S, class A>
class UpRows {
 public:
  // width: of the result; channels: of both.
  UpRows(int64_t source_height, int64_t source_width, int64_t width, int64_t channels, Arena& arena)
      : h_(source_height),
        w_(source_width),
        width_(width),
        c_(channels),
        stride_(buffer_items<A>(2 * source_width, channels)),
        padded_(arena.take<A>(buffer_items<A>(source_width, channels))),
        even_(arena.take<A>(buffer_items<A>(source_width, channels))),
        odd_(arena.take<A>(buffer_items<A>(source_width, channels))),
        widened_(arena.take<A>(kKept * stride_)) {
    std::fill(rows_, rows_ + kKept, int64_t{-1});
  }

  static int64_t scratch_bytes(int64_t source_width, int64_t channels) {
    return 3 * Arena::bytes<A>(buffer_items<A>(source_width, channels)) +
           Arena::bytes<A>(kKept * buffer_items<A>(2 * source_width, channels));
  }

  // Row y of the result, for rows in ascending order: calls f(u), where u(k) is the vector of items
  // from k on, for any k inside the row. `source(i)` gives row i of the source, and is called once
  // for each.
  template <class Source, class F>
  void operator()(int64_t y, Source&& source, F&& f) {
    if (y == 2 * h_) y -= 2;
    const int64_t i = y / 2;
    // In the order of rows, but for the reflected one at the upper border.
    const A* above = y % 2 == 0 ? widened(before(i, h_), source) : nullptr;
    const A* here = widened(i, source);
    const A* below = widened(after(i, h_), source);
    using V = Vec<A>;
    const A six = 6;
    const A four = 4;
    if (y % 2 == 0) {
      f([=](int64_t k) {
        const V sum = load<V>(above + k) + load<V>(below + k) + six * load<V>(here + k);
        if constexpr (std::is_same_v<A, uint16_t>) return V((sum + A{32}) >> 6);
        return V(sum * A(1.0 / 8.0));
      });
    } else {
      f([=](int64_t k) {
        const V sum = load<V>(here + k) + load<V>(below + k);
        if constexpr (std::is_same_v<A, uint16_t>) return V((four * sum + A{32}) >> 6);
        return V(sum * A(1.0 / 2.0));
      });
    }
  }

 private:
  static constexpr int64_t kKept = 4;  // three are in use; a power of two

  // Row i of the source doubled along the row: times 8 if uint16_t.
  template <class Source>
  const A* widened(int64_t i, Source&& source) {
    A* row = widened_ + i % kKept * stride_;
    if (rows_[i % kKept] != i) {
      rows_[i % kKept] = i;
      widen(source(i), row);
    }
    return row;
  }

  void widen(const S* source, A* row) {
    if constexpr (std::is_same_v<S, A>) {
      if (by_pixel<A>(c_)) {
        c_ == 3 ? up_pixels<3>(source, row, w_) : up_pixels<kPixelLanes>(source, row, w_);
        return repeat_last_column(row);
      }
    }
    using V = Vec<A>;
    constexpr int64_t kLanes = static_cast<int64_t>(V::size());
    const int64_t n = w_ * c_;
    A* v = padded_ + c_;
    if (n < kLanes) {
      store(v, load_partial<V>(source, n));
    } else {
      for_each_vector<V>(n, [&](int64_t k) { store(v + k, load<V>(source + k)); });
    }
    std::copy_n(v + before(0, w_) * c_, c_, v - c_);
    std::copy_n(v + after(w_ - 1, w_) * c_, c_, v + n);
    const A six = 6;
    const A four = 4;
    for (int64_t k = 0; k < n; k += kLanes) {
      const V left = load<V>(v + k - c_);
      const V centre = load<V>(v + k);
      const V right = load<V>(v + k + c_);
      if constexpr (std::is_same_v<A, uint16_t>) {
        store(even_ + k, left + right + six * centre);
        store(odd_ + k, four * (centre + right));
      } else {
        store(even_ + k, (left + right + six * centre) * A(1.0 / 8.0));
        store(odd_ + k, (centre + right) * A(1.0 / 2.0));
      }
    }
    merge(even_, odd_, row, w_, c_);
    repeat_last_column(row);
  }

  // One column more than twice: OpenCV repeats the last column, but the last even row.
  void repeat_last_column(A* row) const {
    if (width_ == 2 * w_ + 1) std::copy_n(row + (2 * w_ - 1) * c_, c_, row + 2 * w_ * c_);
  }

  const int64_t h_;
  const int64_t w_;
  const int64_t width_;
  const int64_t c_;
  const int64_t stride_;
  A* padded_;
  A* even_;
  A* odd_;
  A* widened_;
  int64_t rows_[kKept];
};

}  // namespace marey::MAREY_ISA_NS
