#pragma once
// Products of pairs of bfloat16 by the tiles of Intel's AMX, for kernel files: included by
// core/tile.h. A tile is 16 rows of 16 items, and one instruction adds to a tile of sums a tile of
// A (16 rows, 16 pairs) times one of B (16 pairs, 16 lanes): 16384 operations in 16 cycles, eight
// times what dot products of vectors do. A panel of pairs is such a B as it lies.
//
//   tmm0 tmm1   sums of the first 16 rows, of two vectors of lanes
//   tmm2 tmm3   of the next 16
//   tmm4 tmm5   A of either
//   tmm6 tmm7   B of either
//
// so that four loads feed four products, which take twice as long. The tiles are configured once
// (core/amx.h): a depth or rows that fill no tile are copied beside zeros, since configuring for
// them takes as long as seventeen products. The sum over k runs in one order, by sixteen pairs,
// whatever the rows: within a tile all low items are summed, all high ones, then both.
//
// The instruction takes denormals as zeros, as dot products do.
#include <cstddef>

#include "core/amx.h"
#include "core/isa.h"
#include "core/operands.h"
#include "core/transpose.h"

namespace marey::MAREY_ISA_NS {

inline constexpr int kTileItems = 16;
inline constexpr int64_t kTilePitch = kTileItems * static_cast<int64_t>(sizeof(Pair));  // bytes

inline bool tiles_active() { return active_isa() == Isa::avx512_amx; }

// Stands behind a tile instruction in long runs of them, if no other work does. While another
// thread shares the core, a step of 24 products and 14 loads takes 600 ns without and 345 with
// eight instructions, of any kind, behind each; 182 and 168 while none does (medians, one core of
// an Emerald Rapids; operands in the first-level cache).
[[gnu::always_inline]] inline void space_tiles() { asm volatile(".rept 8\n\tnop\n\t.endr"); }

// One block of sums, of kBlocks (1 or 2) times 16 rows and NV (1 or 2) vectors; `pitch` in bytes.
// Inside a TileRegion, after prepare_tiles().
inline void prepare_tiles() {
  if (!t_tiles.configured) configure_tiles();
}

template <int kBlocks, int NV>
[[gnu::always_inline]] inline void zero_sums() {
  _tile_zero(0);
  if constexpr (NV > 1) _tile_zero(1);
  if constexpr (kBlocks > 1) {
    _tile_zero(2);
    if constexpr (NV > 1) _tile_zero(3);
  }
}

template <int kBlocks, int NV>
[[gnu::always_inline]] inline void load_sums(const float* c, int64_t pitch) {
  // GCC's intrinsics for loads do not say that they read memory.
  asm volatile("" ::: "memory");
  const float* below = c + kTileItems * pitch / static_cast<int64_t>(sizeof(float));
  _tile_loadd(0, c, pitch);
  if constexpr (NV > 1) _tile_loadd(1, c + kTileItems, pitch);
  if constexpr (kBlocks > 1) {
    _tile_loadd(2, below, pitch);
    if constexpr (NV > 1) _tile_loadd(3, below + kTileItems, pitch);
  }
}

template <int kBlocks, int NV>
[[gnu::always_inline]] inline void store_sums(float* c, int64_t pitch) {
  float* below = c + kTileItems * pitch / static_cast<int64_t>(sizeof(float));
  _tile_stored(0, c, pitch);
  if constexpr (NV > 1) _tile_stored(1, c + kTileItems, pitch);
  if constexpr (kBlocks > 1) {
    _tile_stored(2, below, pitch);
    if constexpr (NV > 1) _tile_stored(3, below + kTileItems, pitch);
  }
}

// Sixteen pairs of the depth: rows of A `a_pitch` bytes apart, rows of B `b_pitch`.
template <int kBlocks, int NV>
[[gnu::always_inline]] inline void add_tiles(const void* a, int64_t a_pitch, const Pair* b,
                                             int64_t b_pitch) {
  asm volatile("" ::: "memory");
  _tile_loadd(6, b, b_pitch);
  space_tiles();
  _tile_loadd(4, a, a_pitch);
  space_tiles();
  _tile_dpbf16ps(0, 4, 6);
  space_tiles();
  if constexpr (NV > 1) {
    _tile_loadd(7, b + kTileItems, b_pitch);
    space_tiles();
    _tile_dpbf16ps(1, 4, 7);
    space_tiles();
  }
  if constexpr (kBlocks > 1) {
    _tile_loadd(5, static_cast<const std::byte*>(a) + kTileItems * a_pitch, a_pitch);
    space_tiles();
    _tile_dpbf16ps(2, 5, 6);
    space_tiles();
    if constexpr (NV > 1) {
      _tile_dpbf16ps(3, 5, 7);
      space_tiles();
    }
  }
}

// Up to 16 rows of up to 16 pairs as a whole tile; what it lacks is zeros.
[[gnu::always_inline]] inline void copy_tile(const PairRows& a, int64_t rows, int64_t pairs,
                                             Pair* to) {
  const auto mask = static_cast<__mmask16>((1U << pairs) - 1U);
  for (int64_t i = 0; i < kTileItems; ++i) {
    _mm512_store_si512(to + i * kTileItems,
                       i < rows ? _mm512_maskz_loadu_epi32(mask, a.at(0, 0) + i * a.stride)
                                : _mm512_setzero_si512());
  }
}

// The same of a transposed A.
[[gnu::noinline]] inline void copy_tile(const Columns<Pair>& a, int64_t rows, int64_t pairs,
                                        Pair* to) {
  const auto mask = static_cast<__mmask16>((1U << rows) - 1U);
  Vec<float> square[kTileItems];
#pragma GCC unroll 16
  for (int k = 0; k < kTileItems; ++k) {
    const __m512i row =
        k < pairs ? _mm512_maskz_loadu_epi32(mask, a.data + k * a.stride) : _mm512_setzero_si512();
    square[k] = std::bit_cast<Vec<float>>(row);
  }
  transpose<float>(square);
#pragma GCC unroll 16
  for (int i = 0; i < kTileItems; ++i) store(to_floats(to + i * kTileItems), square[i]);
}

// The rows of A from pair k on.
inline PairRows deeper(const PairRows& a, int64_t k) { return {a.data + 2 * k, a.stride}; }
inline Columns<Pair> deeper(const Columns<Pair>& a, int64_t k) {
  return {a.data + k * a.stride, a.stride};
}

// Sixteen rows, or fewer with kWhole false, or 32; `b_rest` is the last of B where its depth fills
// no tile.
template <int kBlocks, bool kWhole, int NV, class A>
[[gnu::always_inline]] inline void tiles_of_rows(int64_t rows, const A& a, const Pair* b,
                                                 const Pair* b_rest, int64_t depth, float* c,
                                                 int64_t pitch, bool accumulate) {
  alignas(64) Pair copied[kBlocks * kTileItems * kTileItems];
  alignas(64) float sums[kWhole ? 1 : kTileItems * NV * kTileItems];
  float* to = c;
  int64_t to_pitch = pitch;
  if constexpr (!kWhole) {
    to = sums;
    to_pitch = NV * kTilePitch;
    if (accumulate) {
      for (int64_t i = 0; i < rows; ++i) {
        std::memcpy(sums + i * NV * kTileItems, c + i * pitch / 4, NV * kTilePitch);
      }
    }
  }
  if (accumulate) {
    load_sums<kBlocks, NV>(to, to_pitch);
  } else {
    zero_sums<kBlocks, NV>();
  }
  const auto copy = [&](int64_t k, int64_t pairs) {
    A at = deeper(a, k);
    copy_tile(at, kWhole ? kTileItems : rows, pairs, copied);
    if constexpr (kBlocks > 1)
      copy_tile(at.below(kTileItems), kTileItems, pairs, copied + kTileItems * kTileItems);
  };
  int64_t k = 0;
  for (; k + kTileItems <= depth; k += kTileItems) {
    const Pair* row = b + k * pitch / 4;
    if constexpr (kWhole && std::is_same_v<A, PairRows>) {
      add_tiles<kBlocks, NV>(a.at(0, k), a.stride * 2, row, pitch);
    } else {
      copy(k, kTileItems);
      add_tiles<kBlocks, NV>(copied, kTilePitch, row, pitch);
    }
  }
  if (k < depth) {
    copy(k, depth - k);
    add_tiles<kBlocks, NV>(copied, kTilePitch, b_rest, NV * kTilePitch);
  }
  store_sums<kBlocks, NV>(to, to_pitch);
  if constexpr (!kWhole) {
    for (int64_t i = 0; i < rows; ++i) {
      std::memcpy(c + i * pitch / 4, sums + i * NV * kTileItems, NV * kTilePitch);
    }
  }
}

// NV vectors of lanes of panels whose rows are `pitch` bytes apart, those of B as those of C.
template <int NV, class A>
[[gnu::noinline, gnu::flatten]] void tiles_of_lanes(int64_t rows, const A& a, const Pair* b,
                                                    int64_t depth, float* c, int64_t pitch,
                                                    bool accumulate) {
  alignas(64) Pair rest[kTileItems * NV * kTileItems];
  if (const int64_t last = depth % kTileItems; last != 0) {
    const Pair* from = b + (depth - last) * pitch / 4;
    for (int64_t k = 0; k < kTileItems; ++k) {
      if (k < last) {
        std::memcpy(rest + k * NV * kTileItems, from + k * pitch / 4, NV * kTilePitch);
      } else {
        std::memset(static_cast<void*>(rest + k * NV * kTileItems), 0, NV * kTilePitch);
      }
    }
  }
  A at = a;
  for (; rows >= 2 * kTileItems; rows -= 2 * kTileItems) {
    tiles_of_rows<2, true, NV>(2 * kTileItems, at, b, rest, depth, c, pitch, accumulate);
    at = at.below(2 * kTileItems);
    c += 2 * kTileItems * pitch / 4;
  }
  if (rows >= kTileItems) {
    tiles_of_rows<1, true, NV>(kTileItems, at, b, rest, depth, c, pitch, accumulate);
    at = at.below(kTileItems);
    c += kTileItems * pitch / 4;
    rows -= kTileItems;
  }
  if (rows > 0) tiles_of_rows<1, false, NV>(rows, at, b, rest, depth, c, pitch, accumulate);
}

// As panel_product of core/tile.h.
template <int NV, class A>
inline void tiles_product(int64_t rows, const A& a, const Pair* b, int64_t depth, float* c,
                          bool accumulate) {
  const TileRegion region;
  prepare_tiles();
  constexpr int64_t kPitch = NV * kTilePitch;
  if constexpr (NV >= 2) tiles_of_lanes<2>(rows, a, b, depth, c, kPitch, accumulate);
  if constexpr (NV % 2 == 1) {
    constexpr int kFirst = (NV - 1) * kTileItems;
    tiles_of_lanes<1>(rows, a, b + kFirst, depth, c + kFirst, kPitch, accumulate);
  }
}
template <int NV>
inline void tiles_product(int64_t rows, const Rows<Pair>& a, const Pair* b, int64_t depth, float* c,
                          bool accumulate) {
  const PairRows pairs{reinterpret_cast<const bfloat16*>(a.data), 2 * a.stride};
  tiles_product<NV>(rows, pairs, b, depth, c, accumulate);
}

}  // namespace marey::MAREY_ISA_NS
