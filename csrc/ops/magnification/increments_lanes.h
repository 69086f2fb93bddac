#pragma once
// The inner loops to increments.h.
#include "core/simd.h"

namespace marey::MAREY_ISA_NS {

struct Sections {
  const float* coefficients;  // b0 b1 b2 a1 a2
  int count;
};

// One step of a cascade for a vector of series; row r of the state stands at z + r * stride.
inline Vec<float> cascade_step(const Sections& sections, Vec<float> v, const float* z_in,
                               float* z_out, int64_t stride, int64_t n) {
  using V = Vec<float>;
  const bool whole = n == static_cast<int64_t>(V::size());
  for (int s = 0; s < sections.count; ++s) {
    const float* c = sections.coefficients + 5 * s;
    const float* in = z_in + 2 * s * stride;
    float* out = z_out + 2 * s * stride;
    const V z1 = whole ? load<V>(in) : load_partial<V>(in, n);
    const V z2 = whole ? load<V>(in + stride) : load_partial<V>(in + stride, n);
    const V y = fma(V(c[0]), v, z1);
    const V n1 = fma(V(-c[3]), y, fma(V(c[1]), v, z2));
    const V n2 = fma(V(-c[4]), y, V(c[2]) * v);
    if (whole) {
      store(out, n1);
      store(out + stride, n2);
    } else {
      store_partial(out, n1, n);
      store_partial(out + stride, n2, n);
    }
    v = y;
  }
  return v;
}

// dst[x] = sum over taps of the rows above and below, circular or reflected by `row`; whole
// vectors: rows are readable, and dst writable, up to a multiple of the lanes.
template <class Row>
inline void smooth_column(Row&& row, const float* taps, int64_t radius, float* dst, int64_t width) {
  using V = Vec<float>;
  constexpr int64_t kLanes = static_cast<int64_t>(V::size());
  // A strip of four vectors at a time, so that the sums stay in registers.
  const auto strip = [&]<int N>(int64_t x) {
    V sums[N];
    const float* centre = row(0) + x;
    for (int k = 0; k < N; ++k) sums[k] = taps[0] * load<V>(centre + k * kLanes);
    for (int64_t r = 1; r <= radius; ++r) {
      const float* above = row(-r) + x;
      const float* below = row(r) + x;
      const V tap = taps[r];
      for (int k = 0; k < N; ++k) {
        sums[k] += tap * (load<V>(above + k * kLanes) + load<V>(below + k * kLanes));
      }
    }
    for (int k = 0; k < N; ++k) store(dst + x + k * kLanes, sums[k]);
  };
  int64_t x = 0;
  for (; x + 4 * kLanes <= width; x += 4 * kLanes) strip.template operator()<4>(x);
  for (; x < width; x += kLanes) strip.template operator()<1>(x);
}

// The vector of sums at x of a row that has `radius` items of border on each side.
inline Vec<float> smooth_row(const float* row, const float* taps, int64_t radius) {
  using V = Vec<float>;
  V sum = taps[0] * load<V>(row);
  for (int64_t r = 1; r <= radius; ++r) sum += taps[r] * (load<V>(row - r) + load<V>(row + r));
  return sum;
}

}  // namespace marey::MAREY_ISA_NS
