#pragma once
// Halving and doubling along a row where a pixel is a vector: for three or four floating-point
// channels, where no instruction picks lanes from two vectors.
#include <cstdint>
#include <type_traits>

#include "core/simd.h"
#include "ops/pyramid/pixel_pairs.h"
#include "ops/pyramid/plane.h"

namespace marey::MAREY_ISA_NS {

// A pixel of three or four channels, and in the first case an item of the next pixel.
constexpr int kPixelLanes = 4;
template <class A>
using Pixel = stdx::simd<A, stdx::simd_abi::deduce_t<A, kPixelLanes>>;

template <class A>
inline bool by_pixel(int64_t channels) {
  return !kPicks && std::is_floating_point_v<A> && (channels == 3 || channels == kPixelLanes);
}

// dst[k] = v[2 k] + 4 v[2 k + 1] + 6 v[2 k + 2] + 4 v[2 k + 3] + v[2 k + 4], over 256, in pixels.
template <int kChannels, class A>
inline void down_pixels(const A* v, A* dst, int64_t count) {
  using P = Pixel<A>;
  const auto at = [&](int64_t k) { return load<P>(v + k * kChannels); };
  const auto taps = [](const P& a, const P& b, const P& c, const P& d, const P& e) {
    return ((a + e) + A(4) * (b + d) + A(6) * c) * A(1.0 / 256.0);
  };
  P a = at(0);
  P b = at(1);
  P c = at(2);
  int64_t k = 0;
  // The excess of a store is overwritten by the next one; the last pixel has none.
  for (; k + 2 < count; k += 2) {
    const P d = at(2 * k + 3);
    const P e = at(2 * k + 4);
    const P f = at(2 * k + 5);
    const P g = at(2 * k + 6);
    store(dst + k * kChannels, taps(a, b, c, d, e));
    store(dst + (k + 1) * kChannels, taps(c, d, e, f, g));
    a = e;
    b = f;
    c = g;
  }
  for (; k < count; ++k) {
    const P sum = taps(at(2 * k), at(2 * k + 1), at(2 * k + 2), at(2 * k + 3), at(2 * k + 4));
    store_partial(dst + k * kChannels, sum, kChannels);
  }
}

// A row of `count` pixels doubled: dst[2 k] = (v[k - 1] + 6 v[k] + v[k + 1]) / 8 and
// dst[2 k + 1] = (v[k] + v[k + 1]) / 2, in pixels. Writes an item beyond the last if there are
// three channels.
template <int kChannels, class A>
inline void up_pixels(const A* v, A* dst, int64_t count) {
  using P = Pixel<A>;
  const auto at = [&](int64_t k) { return load<P>(v + k * kChannels); };
  const auto put = [&](int64_t k, const P& left, const P& centre, const P& right) {
    store(dst + 2 * k * kChannels, (left + right + A(6) * centre) * A(1.0 / 8.0));
    store(dst + (2 * k + 1) * kChannels, (centre + right) * A(1.0 / 2.0));
  };
  const int64_t last = count - 1;
  const P end = load_partial<P>(v + last * kChannels, kChannels);
  if (last == 0) return put(0, end, end, end);
  P left = before(0, count) == last ? end : at(before(0, count));
  P centre = at(0);
  int64_t k = 0;
  for (; k + 2 < last; k += 2) {
    const P next = at(k + 1);
    const P after_next = at(k + 2);
    put(k, left, centre, next);
    put(k + 1, centre, next, after_next);
    left = next;
    centre = after_next;
  }
  for (; k < last; ++k) {
    const P right = k + 1 < last ? at(k + 1) : end;
    put(k, left, centre, right);
    left = centre;
    centre = right;
  }
  put(last, left, end, end);
}

}  // namespace marey::MAREY_ISA_NS
