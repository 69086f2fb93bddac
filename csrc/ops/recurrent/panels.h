#pragma once
// What the recurrent kernels' files share: storage types, and products of rows of states with the
// panels of several gates.
#include <algorithm>

#include "core/math.h"
#include "core/tile.h"
#include "ops/recurrent/kernels.h"

namespace marey::MAREY_ISA_NS {
namespace recurrent {

// Vectors in a panel. Two: a tile of 12 rows of 2 vectors reads a panel half as often as one of 6
// rows of 4 would, and the panels of a layer do not fit into the first cache. To take a panel by
// parts of its depth that do fit changed nothing: the second cache keeps up (168 of 168 GFLOP/s).
inline constexpr int kVectors = 2;

// Items of storage S as the product takes them.
template <class S>
using ItemOf = std::conditional_t<std::is_same_v<S, bfloat16>, Pair, S>;
template <class S>
using RealOf = SumOf<ItemOf<S>>;
template <class S>
using RowsOf = std::conditional_t<std::is_same_v<S, bfloat16>, PairRows, Rows<S>>;
template <class S>
using VecOf = Vec<RealOf<S>>;

template <class S>
inline constexpr int64_t kWidth = VecOf<S>::size();
template <class S>
inline constexpr int64_t kBlock = kVectors * kWidth<S>;

// Depth in items of the product.
template <class S>
constexpr int64_t items_of(int64_t depth) {
  return std::is_same_v<S, bfloat16> ? (depth + 1) / 2 : depth;
}

// The first `count` lanes, for the last block's results.
template <class S>
inline void store_lanes(S* p, const VecOf<S>& v, int64_t count) {
  if (count >= kWidth<S>) {
    store_as(p, v);
  } else if (count > 0) {
    alignas(64) S lanes[kWidth<S>];
    store_as(lanes, v);
    std::memcpy(p, lanes, static_cast<std::size_t>(count) * sizeof(S));
  }
}
template <class V, class S>
inline V load_lanes(const S* p, int64_t count) {
  if (count >= static_cast<int64_t>(V::size())) return load_as<V>(p);
  alignas(64) S lanes[V::size()] = {};
  if (count > 0) std::memcpy(lanes, p, static_cast<std::size_t>(count) * sizeof(S));
  return load_as<V>(static_cast<const S*>(lanes));
}

// A few rows with kPanels panels at once. A product of one row is bound by reading the weights; one
// panel alone would be bound by the latency of its two sums. The order of each sum is the tile's.
template <int kRows, int kPanels, class Item, class A>
[[gnu::noinline, gnu::flatten]] void narrow_product(const A& a, const Item* b, int64_t panel_stride,
                                                    int64_t depth, SumOf<Item>* const* c) {
  using V = Vec<SumOf<Item>>;
  constexpr int W = kLanesOf<Item>;
  constexpr int64_t kPitch = kVectors * W;
  V sum[kRows][kPanels][kVectors];
#pragma GCC unroll 4
  for (int i = 0; i < kRows; ++i) {
#pragma GCC unroll 4
    for (int p = 0; p < kPanels; ++p) {
#pragma GCC unroll 2
      for (int j = 0; j < kVectors; ++j) sum[i][p][j] = load<V>(c[p] + i * kPitch + j * W);
    }
  }
  for (int64_t k = 0; k < depth; ++k) {
    decltype(Step<Item>::item(a.at(0, k))) item[kRows];
#pragma GCC unroll 4
    for (int i = 0; i < kRows; ++i) item[i] = Step<Item>::item(a.at(i, k));
#pragma GCC unroll 4
    for (int p = 0; p < kPanels; ++p) {
#pragma GCC unroll 2
      for (int j = 0; j < kVectors; ++j) {
        const auto row = Step<Item>::row(b + p * panel_stride + k * kPitch + j * W);
#pragma GCC unroll 4
        for (int i = 0; i < kRows; ++i) Step<Item>::add(sum[i][p][j], item[i], row);
      }
    }
  }
#pragma GCC unroll 4
  for (int i = 0; i < kRows; ++i) {
#pragma GCC unroll 4
    for (int p = 0; p < kPanels; ++p) {
#pragma GCC unroll 2
      for (int j = 0; j < kVectors; ++j) store(c[p] + i * kPitch + j * W, sum[i][p][j]);
    }
  }
}

// Rows below which a product reads several panels at once.
#if defined(__AVX512F__) || defined(__aarch64__)
inline constexpr int64_t kNarrowRows = 4;
#else
inline constexpr int64_t kNarrowRows = 2;
#endif

// Whether panel_product takes tiles of AMX, which sum in another order than dot products: then all
// rows are summed in theirs, so that a row's result does not depend on how many there are.
template <class Item>
inline bool takes_tiles() {
#if defined(__AMX_BF16__)
  return std::is_same_v<Item, Pair> && tiles_active();
#else
  return false;
#endif
}

#if defined(__AMX_BF16__)
// narrow_product of one row, in the order of tiles: of sixteen pairs all low items are summed, all
// high ones, then both. A tile for one row would read fifteen of zeros beside it, and took twice
// as long (a layer of 512 units).
template <int kPanels>
[[gnu::noinline, gnu::flatten]] void row_as_tiles(const PairRows& a, const Pair* b,
                                                  int64_t panel_stride, int64_t depth,
                                                  float* const* c) {
  using V = Vec<float>;
  using Bits = Step<Pair>::Bits;
  constexpr int W = kLanesOf<Pair>;
  constexpr int64_t kPitch = kVectors * W;
  const Bits upper(0xFFFF0000U);
  for (int64_t first = 0; first < depth; first += kTileItems) {
    V low[kPanels][kVectors] = {}, high[kPanels][kVectors] = {};
    const int64_t end = std::min<int64_t>(first + kTileItems, depth);
    for (int64_t k = first; k < end; ++k) {
      const Bits item = Step<Pair>::item(a.at(0, k));
      const V low_item = std::bit_cast<V>(item << 16);
      const V high_item = std::bit_cast<V>(item & upper);
#pragma GCC unroll 4
      for (int p = 0; p < kPanels; ++p) {
#pragma GCC unroll 2
        for (int j = 0; j < kVectors; ++j) {
          const Bits row = Step<Pair>::row(b + p * panel_stride + k * kPitch + j * W);
          multiply_add(low[p][j], low_item, std::bit_cast<V>(row << 16));
          multiply_add(high[p][j], high_item, std::bit_cast<V>(row & upper));
        }
      }
    }
#pragma GCC unroll 4
    for (int p = 0; p < kPanels; ++p) {
#pragma GCC unroll 2
      for (int j = 0; j < kVectors; ++j) {
        store(c[p] + j * W, load<V>(c[p] + j * W) + (low[p][j] + high[p][j]));
      }
    }
  }
}
#endif

// c[p] += rows of a times panel p.
template <int kPanels, class Item, class A>
inline void panels_product(int64_t rows, const A& a, const Item* b, int64_t panel_stride,
                           int64_t depth, SumOf<Item>* const* c) {
#if defined(__AMX_BF16__)
  if constexpr (std::is_same_v<Item, Pair>) {
    if (rows == 1 && tiles_active()) return row_as_tiles<kPanels>(a, b, panel_stride, depth, c);
  }
#endif
  if (rows >= kNarrowRows || takes_tiles<Item>()) {
    for (int p = 0; p < kPanels; ++p) {
      panel_product<kVectors, Item>(rows, a, b + p * panel_stride, depth, c[p], true);
    }
    return;
  }
  if (rows == 1) narrow_product<1, kPanels, Item>(a, b, panel_stride, depth, c);
  if constexpr (kNarrowRows > 2) {
    if (rows == 2) narrow_product<2, kPanels, Item>(a, b, panel_stride, depth, c);
    if (rows == 3) narrow_product<3, kPanels, Item>(a, b, panel_stride, depth, c);
  }
}

}  // namespace recurrent
}  // namespace marey::MAREY_ISA_NS
