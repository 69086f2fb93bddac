#pragma once
// The register-tile matrix product, for kernel files: C (rows, lanes) = or += A (rows, depth) B
// (depth, lanes).
//
// C and B are panels: rows of kVectors vectors side by side, NV * Vec<T>::size() items apart. The
// items of A are broadcast one by one. A tile of kRows rows of C stays in registers while the depth
// runs:
//
//   registers for C = rows x vectors, one more for each vector of B, one for the item of A
//
// With sixteen registers that is 4 x 3 (12 + 3 + 1) or 6 x 2, with thirty-two 8 x 3 (24 + 3 + 1).
// The product needs vectors + rows loads for vectors x rows multiply-adds, so that two loads a
// cycle feed two multiply-add units; both sizes divide the head sizes and channel counts in use.
// Panels of one or two vectors take more rows, because two units of latency four need eight sums in
// flight.
//
// A comes in one of the layouts of core/operands.h, all read in place.
//
// The sum over k runs in one order, whatever the tile: a row's result does not depend on which rows
// or lanes stand beside it.
//
// T is float, double or Pair. A Pair is two neighbours along the depth as bfloat16: k counts pairs,
// C is float32, and the product is one instruction a vector where there are dot products of
// bfloat16 (a lane gains a.high * b.high, then a.low * b.low), else two multiply-adds of what is
// widened on the way, in the order of the depth. An odd depth is padded with zeros in A and in B,
// since zero times NaN is no zero. Where avx512_amx is active, panel_product takes tiles for pairs
// (core/tile_amx.h).
#include <utility>

#include "core/operands.h"
#include "core/transpose.h"
#if defined(__AMX_BF16__)
#include "core/tile_amx.h"
#endif

namespace marey::MAREY_ISA_NS {

// Vectors in the widest panel, and the rows of a tile for each width.
inline constexpr int kMaxVectors = 3;
#if defined(__AVX512F__) || defined(__aarch64__)
inline constexpr int kTileRows[kMaxVectors + 1] = {0, 16, 12, 8};
#else
inline constexpr int kTileRows[kMaxVectors + 1] = {0, 8, 6, 4};
#endif

// sum += item * row. Written out: GCC may have the sum replace the item, which ends where the item
// was, and then moves sums from register to register in the innermost loop, and some through memory
// (3 to 5% of a tile's time with thirty-two registers, 7% with sixteen).
template <class V>
inline void multiply_add(V& sum, const V& item, const V& row) {
#if defined(__AVX512F__)
  if constexpr (std::is_same_v<V, Vec<float>>) {
    auto bits = static_cast<__m512>(sum);
    asm("vfmadd231ps %2, %1, %0"
        : "+v"(bits)
        : "v"(static_cast<__m512>(item)), "v"(static_cast<__m512>(row)));
    sum = V(bits);
    return;
  }
#elif defined(__FMA__)
  if constexpr (std::is_same_v<V, Vec<float>>) {
    auto bits = static_cast<__m256>(sum);
    asm("vfmadd231ps %2, %1, %0"
        : "+x"(bits)
        : "x"(static_cast<__m256>(item)), "x"(static_cast<__m256>(row)));
    sum = V(bits);
    return;
  } else if constexpr (std::is_same_v<V, Vec<double>>) {
    auto bits = static_cast<__m256d>(sum);
    asm("vfmadd231pd %2, %1, %0"
        : "+x"(bits)
        : "x"(static_cast<__m256d>(item)), "x"(static_cast<__m256d>(row)));
    sum = V(bits);
    return;
  }
#endif
  sum += item * row;
}

// The operands of one step as the multiply-adds take them, and sum += item * row.
template <class T>
struct Step {
  using V = Vec<T>;
  static V row(const T* p) { return load<V>(p); }
  static V item(const T* p) { return V(*p); }
  static void add(V& sum, const V& item, const V& row) { multiply_add(sum, item, row); }
};

template <>
struct Step<Pair> {
  using V = Vec<float>;
  using Bits = stdx::rebind_simd_t<uint32_t, V>;
  static Bits row(const Pair* p) { return load<Bits>(reinterpret_cast<const uint32_t*>(p)); }
  // Pairs read in place are as aligned as a bfloat16.
  static Bits item(const void* p) {
    uint32_t bits;
    std::memcpy(&bits, p, sizeof bits);
    return Bits(bits);
  }
  static void add(V& sum, const Bits& item, const Bits& row) {
#if defined(__AVX512BF16__)
    sum = V(_mm512_dpbf16_ps(static_cast<__m512>(sum), std::bit_cast<__m512bh>(item),
                             std::bit_cast<__m512bh>(row)));
#else
    const Bits upper(0xFFFF0000U);
    multiply_add(sum, std::bit_cast<V>(item << 16), std::bit_cast<V>(row << 16));
    multiply_add(sum, std::bit_cast<V>(item & upper), std::bit_cast<V>(row & upper));
#endif
  }
};

// sums[j] += *item * row[j], for row i of a tile. Every third row's item is read by the multiply-
// adds themselves, for all lanes, where these can: a tenth fewer instructions, and no more loads
// than there are cycles for. Instructions count where another thread shares the core, which leaves
// every other cycle to issue them: a tile took 3 to 15% less time there, and 0 to 2% less alone.
template <class T, int NV, class V, class R, class P>
inline void add_row([[maybe_unused]] int i, V (&sums)[NV], const P* item, const R (&row)[NV]) {
#if defined(__AVX512F__)
  if constexpr (std::is_same_v<T, float>) {
    if (NV == 1 || i % 3 == 0) {
#pragma GCC unroll 4
      for (int j = 0; j < NV; ++j) {
        auto sum = static_cast<__m512>(sums[j]);
        asm("vfmadd231ps %2%{1to16%}, %1, %0"
            : "+v"(sum)
            : "v"(static_cast<__m512>(row[j])), "m"(*item));
        sums[j] = V(sum);
      }
      return;
    }
  }
#endif
  const auto of_lanes = Step<T>::item(item);
#pragma GCC unroll 4
  for (int j = 0; j < NV; ++j) Step<T>::add(sums[j], of_lanes, row[j]);
}

// Not inlined, so that the registers are its own.
template <int kRows, int NV, class T, class A>
[[gnu::noinline, gnu::flatten]] void tile_product(const A& a, const T* b, int64_t depth,
                                                  SumOf<T>* c, bool accumulate) {
  using V = Vec<SumOf<T>>;
  constexpr int W = kLanesOf<T>;
  constexpr int64_t kPitch = NV * W;
  V sum[kRows][NV];
#pragma GCC unroll 16
  for (int i = 0; i < kRows; ++i) {
#pragma GCC unroll 4
    for (int j = 0; j < NV; ++j) {
      sum[i][j] = accumulate ? load<V>(c + i * kPitch + j * W) : V(SumOf<T>(0));
    }
  }
  constexpr int kPointers = (kRows + A::kNear - 1) / A::kNear;
  A near[kPointers];
#pragma GCC unroll 16
  for (int g = 0; g < kPointers; ++g) near[g] = a.below(g * A::kNear);
  const auto step = [&](int k) {
    decltype(Step<T>::row(b)) row[NV];
#pragma GCC unroll 4
    for (int j = 0; j < NV; ++j) row[j] = Step<T>::row(b + j * W);
    b += kPitch;
#pragma GCC unroll 16
    for (int i = 0; i < kRows; ++i) {
      add_row<T>(i, sum[i], near[i / A::kNear].at(i % A::kNear, k), row);
    }
  };
  const auto move = [&](int steps) {
#pragma GCC unroll 16
    for (int g = 0; g < kPointers; ++g) {
      near[g] = near[g].along(steps);
      // The compiler shall not make a pointer of every row's address.
      if constexpr (A::kNear > 1) asm("" : "+r"(near[g].data));
    }
  };
  // Short enough a loop for its end to be predicted at the depths in use.
  for (; depth >= 4; depth -= 4) {
#pragma GCC unroll 4
    for (int k = 0; k < 4; ++k) {
      step(k % A::kSteps);
      if ((k + 1) % A::kSteps == 0) move(A::kSteps);
    }
  }
  for (; depth > 0; --depth) {
    step(0);
    move(1);
  }
#pragma GCC unroll 16
  for (int i = 0; i < kRows; ++i) {
#pragma GCC unroll 4
    for (int j = 0; j < NV; ++j) store(c + i * kPitch + j * W, sum[i][j]);
  }
}

// Any number of rows: whole tiles, then halves of them. Strips must be padded to whole ones, and so
// must the rows of C under them.
template <int kRows, int NV, class T, class A>
inline void panel_product_from(int64_t rows, const A& a, const T* b, int64_t depth, SumOf<T>* c,
                               bool accumulate) {
  A at = a;
  int64_t i = 0;
  for (; i + kRows <= rows; i += kRows) {
    // Two tiles of 4 rows and not one of 2, which has too few sums in flight.
    if (kRows == 6 && rows - i == 8) break;
    tile_product<kRows, NV, T>(at, b, depth, c + i * (NV * kLanesOf<T>), accumulate);
    at = at.below(kRows);
  }
  if constexpr (kRows > 1) {
    // 12 goes to 8 and 6 to 4, then by halves.
    constexpr int kNext = kRows == 12 ? 8 : kRows == 6 ? 4 : kRows / 2;
    if (i < rows) {
      panel_product_from<kNext, NV, T>(rows - i, at, b, depth, c + i * (NV * kLanesOf<T>),
                                       accumulate);
    }
  }
}

// Rows of a tile of A that is NV vectors wide: of strips, whole ones.
template <class A>
inline constexpr bool kOfStrips = false;
template <class T>
inline constexpr bool kOfStrips<Strips<T>> = true;
template <class A, int NV>
inline constexpr int kRowsOfTile = kOfStrips<A> ? kTileRows[NV] / kStrip * kStrip : kTileRows[NV];

template <int NV, class T, class A>
inline void panel_product(int64_t rows, const A& a, const T* b, int64_t depth, SumOf<T>* c,
                          bool accumulate) {
#if defined(__AMX_BF16__)
  if constexpr (std::is_same_v<T, Pair>) {
    if (tiles_active()) return tiles_product<NV>(rows, a, b, depth, c, accumulate);
  }
#endif
  panel_product_from<kRowsOfTile<A, NV>, NV, T>(rows, a, b, depth, c, accumulate);
}

// Items of storage type S as numbers of T.
template <class T, class S>
inline T convert(S x) {
  return static_cast<T>(x);
}
template <>
inline float convert<float, bfloat16>(bfloat16 x) {
  return widen(x);
}

template <class V, class S>
inline V load_as(const S* p) {
  return load<V>(p);
}
template <class V>
inline V load_as(const bfloat16* p) {
  using B = stdx::rebind_simd_t<uint32_t, V>;
  return std::bit_cast<V>(load<B>(reinterpret_cast<const uint16_t*>(p)) << 16);
}

template <class V>
inline void store_as(typename V::value_type* p, const V& v) {
  store(p, v);
}
// The bits of float32 rounded to bfloat16, to nearest even, in the lower half of each lane; NaN
// stays NaN.
template <class V>
inline stdx::rebind_simd_t<uint32_t, V> narrow_bits(const V& v) {
  using B = stdx::rebind_simd_t<uint32_t, V>;
  const B bits = std::bit_cast<B>(v);
  B rounded = bits + B(0x7FFFU) + ((bits >> 16) & B(1U));
  const auto nan = (bits & B(0x7FFFFFFFU)) > B(0x7F800000U);
  stdx::where(nan, rounded) = bits | B(0x400000U);
  return rounded >> 16;
}
template <class V>
inline void store_as(bfloat16* p, const V& v) {
#if defined(__AVX512F__)
  if constexpr (std::is_same_v<V, Vec<float>>) {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(p),
                        _mm512_cvtepi32_epi16(std::bit_cast<__m512i>(narrow_bits(v))));
    return;
  }
#endif
  store(reinterpret_cast<uint16_t*>(p), narrow_bits(v));
}

// Neighbours along the depth as the pairs of a vector: the lanes of `even` below, those of `odd`
// above, rounded to bfloat16. The instruction makes denormals zeros, as dot products take them.
inline void store_pairs(Pair* p, const Vec<float>& even, const Vec<float>& odd) {
#if defined(__AVX512BF16__)
  alignas(64) static constexpr uint16_t kInterleaved[32] = {
      0, 16, 1, 17, 2,  18, 3,  19, 4,  20, 5,  21, 6,  22, 7,  23,
      8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31};
  const __m512bh both = _mm512_cvtne2ps_pbh(static_cast<__m512>(odd), static_cast<__m512>(even));
  _mm512_storeu_si512(
      p, _mm512_permutexvar_epi16(_mm512_load_si512(kInterleaved), std::bit_cast<__m512i>(both)));
#else
  store(reinterpret_cast<uint32_t*>(p), narrow_bits(even) | (narrow_bits(odd) << 16));
#endif
}

// Lane j of a panel from the items source(j)[0..depth), times `factor`: to[k * pitch + j]. `source`
// gives the address of a lane's first item, which lie `stride` apart. The lanes of a vector that
// are not among the first `lanes` repeat one that is: their results are thrown away.
template <class T, int NV, class Source>
[[gnu::flatten]] inline void pack_lanes(const Source& source, int64_t stride, int lanes,
                                        int64_t depth, T factor, T* to) {
  using V = Vec<T>;
  constexpr int W = kLanesOf<T>;
  constexpr int64_t kPitch = NV * W;
  for (int group = 0; group < NV; ++group) {
    const int first = group * W;
    const int count = lanes - first < W ? lanes - first : W;
    if (count <= 0) {
      for (int64_t k = 0; k < depth; ++k) store(to + k * kPitch + first, V(T(0)));
      continue;
    }
    decltype(source(0)) items[W];
    for (int j = 0; j < W; ++j) items[j] = source(first + (j < count ? j : 0));
    int64_t k = 0;
    if (stride == 1) {
      for (; k + W <= depth; k += W) {
        V square[W];
#pragma GCC unroll 16
        for (int j = 0; j < W; ++j) square[j] = load_as<V>(items[j] + k) * V(factor);
        transpose<T>(square);
#pragma GCC unroll 16
        for (int i = 0; i < W; ++i) store(to + (k + i) * kPitch + first, square[i]);
      }
    }
    for (; k < depth; ++k) {
      for (int j = 0; j < W; ++j) {
        to[k * kPitch + first + j] = convert<T>(items[j][k * stride]) * factor;
      }
    }
  }
}

// The same for pairs: the depth is of bfloat16, and padded to an even one with zeros.
template <int NV, class Source>
[[gnu::flatten]] inline void pack_pair_lanes(const Source& source, int64_t stride, int lanes,
                                             int64_t depth, Pair* to) {
  using V = Vec<float>;
  constexpr int W = kLanesOf<Pair>;
  constexpr int64_t kPitch = NV * W;
  const int64_t pairs = (depth + 1) / 2;
  for (int group = 0; group < NV; ++group) {
    const int first = group * W;
    const int count = lanes - first < W ? lanes - first : W;
    if (count <= 0) {
      for (int64_t k = 0; k < pairs; ++k) store(to_floats(to + k * kPitch + first), V(0.0F));
      continue;
    }
    const bfloat16* items[W];
    for (int j = 0; j < W; ++j) items[j] = source(first + (j < count ? j : 0));
    int64_t k = 0;
    if (stride == 1) {
      for (; 2 * (k + W) <= depth; k += W) {
        V square[W];
#pragma GCC unroll 16
        for (int j = 0; j < W; ++j) {
          float pairs_of_lane[W];
          std::memcpy(pairs_of_lane, items[j] + 2 * k, sizeof pairs_of_lane);
          square[j] = load<V>(pairs_of_lane);
        }
        transpose<float>(square);
#pragma GCC unroll 16
        for (int i = 0; i < W; ++i) store(to_floats(to + (k + i) * kPitch + first), square[i]);
      }
    }
    for (; k < pairs; ++k) {
      for (int j = 0; j < W; ++j) {
        const bfloat16* at = items[j] + 2 * k * stride;
        to[k * kPitch + first + j] = {at[0], 2 * k + 1 < depth ? at[stride] : bfloat16{0}};
      }
    }
  }
}

template <class T, class U>
inline void assign(T& to, U value) {
  to = value;
}
inline void assign(bfloat16& to, float value) { to = narrow(value); }

// The reverse: lane j of a panel to target(j)[0..depth), times factor[j]. `factor` has a value for
// each lane of the panel.
template <class T, int NV, class Target>
[[gnu::flatten]] inline void unpack_lanes(const T* from, const T* factor, int lanes, int64_t depth,
                                          const Target& target, int64_t stride) {
  using V = Vec<T>;
  constexpr int W = kLanesOf<T>;
  constexpr int64_t kPitch = NV * W;
  for (int group = 0; group < NV; ++group) {
    const int first = group * W;
    const int count = lanes - first < W ? lanes - first : W;
    if (count <= 0) return;
    const V scale = load<V>(factor + first);
    decltype(target(0)) items[W];
    for (int j = 0; j < W; ++j) items[j] = target(first + (j < count ? j : 0));
    int64_t k = 0;
    if (stride == 1) {
      for (; k + W <= depth; k += W) {
        V square[W];
#pragma GCC unroll 16
        for (int i = 0; i < W; ++i) square[i] = load<V>(from + (k + i) * kPitch + first) * scale;
        transpose<T>(square);
        if (count == W) {
#pragma GCC unroll 16
          for (int j = 0; j < W; ++j) store_as(items[j] + k, square[j]);
        } else {
          for (int j = 0; j < count; ++j) store_as(items[j] + k, square[j]);
        }
      }
    }
    for (; k < depth; ++k) {
      for (int j = 0; j < count; ++j) {
        assign(items[j][k * stride], from[k * kPitch + first + j] * factor[first + j]);
      }
    }
  }
}

// A row-major matrix as Strips: to[(i / 4) * 4 * depth + k * 4 + i % 4] = row k's item i, for a
// matrix stored with its depth as rows (`from[k * stride + i * step]`). The last strip is padded
// with zeros.
template <class T, class S>
[[gnu::flatten]] inline void pack_strips(const S* from, int64_t stride, int64_t step, int64_t depth,
                                         int64_t rows, T* to) {
  using Quad = stdx::simd<T, stdx::simd_abi::deduce_t<T, kStrip>>;
  const int64_t whole = step == 1 ? rows / kStrip * kStrip : 0;
  // Four of the depth at a time, so that whole cache lines are written: strips may lie a power of
  // two apart, where a cache holds few of them.
  int64_t first = 0;
  for (; first + 4 <= depth; first += 4) {
    const S* row = from + first * stride;
    T* at = to + first * kStrip;
    for (int64_t i = 0; i < whole; i += kStrip, at += kStrip * depth) {
      for (int k = 0; k < 4; ++k) store(at + k * kStrip, load_as<Quad>(row + k * stride + i));
    }
  }
  for (int64_t k = 0; k < depth; ++k) {
    const S* row = from + k * stride;
    int64_t i = k < first ? whole : 0;
    T* at = to + i * depth + k * kStrip;
    for (; i < whole; i += kStrip, at += kStrip * depth) store(at, load_as<Quad>(row + i));
    for (; i < rows; i += kStrip, at += kStrip * depth) {
      for (int j = 0; j < kStrip; ++j)
        at[j] = i + j < rows ? convert<T>(row[(i + j) * step]) : T(0);
    }
  }
}

}  // namespace marey::MAREY_ISA_NS
