#pragma once
// Around the register tiles of core/tile.h, for kernel files: products of panels in a few widths
// and three heights of a tile, which keeps the number of compiled tiles small, and what moves rows
// of arrays into the lanes of panels and back.
#include "core/tile.h"

namespace marey::MAREY_ISA_NS {

// Vectors in a wide panel; what is left over goes in narrower ones.
#if defined(__AVX512F__) || defined(__aarch64__)
inline constexpr int kWide = 2;
#else
inline constexpr int kWide = 3;
#endif

template <class X>
constexpr X at_least(X a, X b) {
  return a > b ? a : b;
}
template <class X>
constexpr X at_most(X a, X b) {
  return a < b ? a : b;
}
template <class X>
constexpr X up_to_multiple(X x, X of) {
  return (x + of - 1) / of * of;
}

// As panel_product, but rows that are left over go in fours and alone; their results are the same.
template <int NV, class Unit, class A>
[[gnu::noinline]] void product(int64_t rows, const A& a, const Unit* b, int64_t depth,
                               SumOf<Unit>* c, bool accumulate) {
#if defined(__AMX_BF16__)
  if constexpr (std::is_same_v<Unit, Pair>) {
    if (tiles_active()) return tiles_product<NV>(rows, a, b, depth, c, accumulate);
  }
#endif
  constexpr int kTile = kRowsOfTile<A, NV>;
  constexpr int64_t kPitch = NV * kLanesOf<Unit>;
  A at = a;
  for (; rows >= kTile; rows -= kTile, at = at.below(kTile), c += kTile * kPitch) {
    tile_product<kTile, NV, Unit>(at, b, depth, c, accumulate);
  }
  if constexpr (kTile > 4) {
    for (; rows >= 4; rows -= 4, at = at.below(4), c += 4 * kPitch) {
      tile_product<4, NV, Unit>(at, b, depth, c, accumulate);
    }
  }
  for (; rows > 0; --rows, at = at.below(1), c += kPitch) {
    tile_product<1, NV, Unit>(at, b, depth, c, accumulate);
  }
}

// One vector of lanes: to[k * pitch + j] = items[j][k * stride] * factor.
template <class T, class S>
[[gnu::noinline, gnu::flatten]] void gather_lanes(const S* const (&items)[kLanesOf<T>],
                                                  int64_t stride, int64_t depth, T factor, T* to,
                                                  int64_t pitch) {
  using V = Vec<T>;
  constexpr int W = kLanesOf<T>;
  int64_t k = 0;
  if (stride == 1) {
    for (; k + W <= depth; k += W) {
      V square[W];
#pragma GCC unroll 16
      for (int j = 0; j < W; ++j) square[j] = load_as<V>(items[j] + k) * V(factor);
      transpose<T>(square);
#pragma GCC unroll 16
      for (int i = 0; i < W; ++i) store(to + (k + i) * pitch, square[i]);
    }
  }
  for (; k < depth; ++k) {
    for (int j = 0; j < W; ++j) to[k * pitch + j] = convert<T>(items[j][k * stride]) * factor;
  }
}

// The same for pairs: `depth` counts items of bfloat16, and an odd one is padded with a zero.
[[gnu::noinline, gnu::flatten]] inline void gather_lanes(
    const bfloat16* const (&items)[kLanesOf<Pair>], int64_t stride, int64_t depth, Pair* to,
    int64_t pitch) {
  using V = Vec<float>;
  constexpr int W = kLanesOf<Pair>;
  int64_t k = 0;
  if (stride == 1) {
    for (; k + 2 * W <= depth; k += 2 * W) {
      V square[W];
#pragma GCC unroll 16
      for (int j = 0; j < W; ++j) {
        float pairs[W];
        std::memcpy(pairs, items[j] + k, sizeof pairs);
        square[j] = load<V>(pairs);
      }
      transpose<float>(square);
#pragma GCC unroll 16
      for (int i = 0; i < W; ++i) store(to_floats(to + (k / 2 + i) * pitch), square[i]);
    }
  }
  for (; k < depth; k += 2) {
    for (int j = 0; j < W; ++j) {
      const bfloat16* at = items[j] + k * stride;
      to[k / 2 * pitch + j] = {at[0], k + 1 < depth ? at[stride] : bfloat16{0}};
    }
  }
}

// The reverse, for the first `count` lanes: items[j][k * stride] = from[k * pitch + j] * factor[j].
// kStreaming: past the caches, what is aligned and whole vectors of T.
template <class T, class S, bool kStreaming = false>
[[gnu::noinline, gnu::flatten]] void scatter_lanes(const T* from, int64_t pitch, const T* factor,
                                                   S* const (&items)[kLanesOf<T>], int count,
                                                   int64_t stride, int64_t depth) {
  using V = Vec<T>;
  constexpr int W = kLanesOf<T>;
  const V scale = load<V>(factor);
  const auto put = [](S* to, const V& v) {
    if constexpr (kStreaming) {
      stream(to, v);
    } else {
      store_as(to, v);
    }
  };
  int64_t k = 0;
  if (stride == 1) {
    for (; k + W <= depth; k += W) {
      V square[W];
#pragma GCC unroll 16
      for (int i = 0; i < W; ++i) square[i] = load<V>(from + (k + i) * pitch) * scale;
      transpose<T>(square);
      if (count == W) {
#pragma GCC unroll 16
        for (int j = 0; j < W; ++j) put(items[j] + k, square[j]);
      } else {
        for (int j = 0; j < count; ++j) put(items[j] + k, square[j]);
      }
    }
  }
  for (; k < depth; ++k) {
    for (int j = 0; j < count; ++j) assign(items[j][k * stride], from[k * pitch + j] * factor[j]);
  }
}

// Rows of S, `stride` apart with items `step` apart, as adjacent ones of T.
template <class T, class S>
[[gnu::noinline, gnu::flatten]] void copy_rows(const S* from, int64_t stride, int64_t step,
                                               int64_t rows, int64_t depth, T* to) {
  using V = Vec<T>;
  constexpr int W = kLanesOf<T>;
  for (int64_t i = 0; i < rows; ++i, from += stride, to += depth) {
    int64_t d = 0;
    if (step == 1) {
      for (; d + W <= depth; d += W) store(to + d, load_as<V>(from + d));
    }
    for (; d < depth; ++d) to[d] = convert<T>(from[d * step]);
  }
}

// Each two rows of bfloat16 as one of pairs; a last odd one is paired with zeros.
[[gnu::noinline, gnu::flatten]] inline void pair_rows(const bfloat16* from, int64_t stride,
                                                      int64_t step, int64_t rows, int64_t depth,
                                                      Pair* to, int64_t pitch) {
  using Bits = stdx::rebind_simd_t<uint32_t, Vec<float>>;
  constexpr int W = kLanesOf<Pair>;
  for (int64_t i = 0; i < rows; i += 2, from += 2 * stride, to += pitch) {
    const bool both = i + 1 < rows;
    int64_t d = 0;
    if (step == 1) {
      const auto* low = reinterpret_cast<const uint16_t*>(from);
      const auto* high = reinterpret_cast<const uint16_t*>(from + (both ? stride : 0));
      for (; d + W <= depth; d += W) {
        const Bits upper = load<Bits>(high + d) << 16;
        store(reinterpret_cast<uint32_t*>(to + d), load<Bits>(low + d) | (both ? upper : Bits(0U)));
      }
    }
    for (; d < depth; ++d) {
      to[d] = {from[d * step], both ? from[stride + d * step] : bfloat16{0}};
    }
  }
}

#if defined(__AMX_BF16__)
// A tile for each 16 of 32 columns: row r of `tile` is column 8 * (r / 4) + r % 4, or 4 more with
// kHigh, which is how the halves of two rows interleave.
template <bool kHigh>
[[gnu::always_inline]] inline void turn_half(const bfloat16* from, int64_t stride, int64_t items,
                                             bfloat16* to, int64_t pitch) {
  Vec<float> square[kTileItems];
#pragma GCC unroll 16
  for (int i = 0; i < kTileItems; ++i) {
    const bfloat16* at = from + 2 * i * stride;
    const __m512i low = 2 * i < items ? _mm512_loadu_si512(at) : _mm512_setzero_si512();
    const __m512i high =
        2 * i + 1 < items ? _mm512_loadu_si512(at + stride) : _mm512_setzero_si512();
    square[i] = std::bit_cast<Vec<float>>(kHigh ? _mm512_unpackhi_epi16(low, high)
                                                : _mm512_unpacklo_epi16(low, high));
  }
  transpose<float>(square);
#pragma GCC unroll 16
  for (int i = 0; i < kTileItems; ++i) {
    const int column = 8 * (i / 4) + i % 4 + (kHigh ? 4 : 0);
    _mm512_storeu_si512(to + column * pitch, std::bit_cast<__m512i>(square[i]));
  }
}

// Columns as rows of pairs, which tiles read as they lie: to[i * pitch + k] = item (k, i) of a
// matrix whose depth lies `stride` apart and whose rows `step`. The depth ends with zeros up to a
// multiple of 32, which `pitch` must have room for.
[[gnu::noinline, gnu::flatten]] inline void turn_columns(const bfloat16* from, int64_t stride,
                                                         int64_t step, int64_t rows, int64_t depth,
                                                         bfloat16* to, int64_t pitch) {
  alignas(64) Pair paired[kTileItems * kTileItems];
  alignas(64) Pair tile[kTileItems * kTileItems];
  for (int64_t k = 0; k < depth; k += 2 * kTileItems) {
    const int64_t items = at_most<int64_t>(2 * kTileItems, depth - k);
    int64_t row = 0;
    if (step == 1) {
      for (; row + 2 * kTileItems <= rows; row += 2 * kTileItems) {
        turn_half<false>(from + k * stride + row, stride, items, to + row * pitch + k, pitch);
        turn_half<true>(from + k * stride + row, stride, items, to + row * pitch + k, pitch);
      }
    }
    for (; row < rows; row += kTileItems) {
      const int64_t count = at_most<int64_t>(kTileItems, rows - row);
      pair_rows(from + k * stride + row * step, stride, step, items, count, paired, kTileItems);
      copy_tile(Columns<Pair>{paired, kTileItems}, count, (items + 1) / 2, tile);
      for (int64_t i = 0; i < count; ++i) {
        _mm512_storeu_si512(to + (row + i) * pitch + k, _mm512_load_si512(tile + i * kTileItems));
      }
    }
  }
}
#endif

}  // namespace marey::MAREY_ISA_NS
