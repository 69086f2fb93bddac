#pragma once
// The register tile of convolutions for pairs of bfloat16 where there are tiles (core/tile_amx.h):
// 32 positions of one or two vectors of filters. The weights are the tiles of B as they are packed,
// and the inputs of a tap those of A as they lie in the window, 16 pairs at a time. A tap's last
// pairs that fill no tile are copied beside zeros, both of the inputs, which may be NaN behind
// them, and of the weights.
#include <algorithm>

#include "core/tile_amx.h"
#include "ops/conv/conv3d_tile.h"

namespace marey::MAREY_ISA_NS {

// Up to 16 * kBlocks rows; those behind `rows` are read, too, and thrown away.
template <int kBlocks, int NV>
[[gnu::noinline, gnu::flatten]] void conv_tiles(int64_t rows, const Pair* input, int64_t stride,
                                                const TapAt* taps, int64_t count, int64_t depth,
                                                const Pair* weight, float* out, bool accumulate) {
  constexpr int64_t kItems = NV * kTileItems;  // of a row of weights and sums
  alignas(64) Pair copied[kBlocks * kTileItems * kTileItems];
  alignas(64) Pair rest[kTileItems * kItems];
  const auto copy = [&](const Pair* a, int64_t pairs) {
    for (int block = 0; block < kBlocks; ++block) {
      const int64_t first = block * kTileItems;
      copy_tile(PairRows{reinterpret_cast<const bfloat16*>(a + first * stride), 2 * stride},
                kTileItems, pairs, copied + first * kTileItems);
    }
  };
  const int64_t tiles = depth / kTileItems * kTileItems;
  const int64_t last = depth - tiles;
  zero_sums<kBlocks, NV>();
  for (int64_t tap = 0; tap < count; ++tap) {
    const Pair* a = input + taps[tap].input;
    const Pair* b = weight + taps[tap].weight;
    for (int64_t k = 0; k < tiles; k += kTileItems) {
      add_tiles<kBlocks, NV>(a + k, stride * 4, b + k * kItems, kItems * 4);
    }
    if (last != 0) {
      copy(a + tiles, last);
      std::memcpy(static_cast<void*>(rest), b + tiles * kItems,
                  static_cast<std::size_t>(last * kItems * 4));
      std::memset(static_cast<void*>(rest + last * kItems), 0,
                  static_cast<std::size_t>((kTileItems - last) * kItems * 4));
      add_tiles<kBlocks, NV>(copied, kTilePitch, rest, kItems * 4);
    }
  }
  if (rows == kBlocks * kTileItems && !accumulate) {
    store_sums<kBlocks, NV>(out, kItems * 4);
    return;
  }
  alignas(64) float sums[kBlocks * kTileItems * kItems];
  store_sums<kBlocks, NV>(sums, kItems * 4);
  using V = Vec<float>;
  for (int64_t i = 0; i < rows * kItems; i += kTileItems) {
    const V sum = load<V>(sums + i);
    store(out + i, accumulate ? load<V>(out + i) + sum : sum);
  }
}

// As conv_row, for inputs whose depth is one run.
template <int NV>
inline void conv_row_of_tiles(int64_t positions, const Pair* input, int64_t stride,
                              const TapAt* taps, int64_t count, int64_t depth, const Pair* weight,
                              float* out, bool accumulate) {
  prepare_tiles();
  for (int64_t left = positions; left > 0;) {
    const bool two = left > kTileItems;
    const int64_t rows = std::min<int64_t>(left, two ? 2 * kTileItems : kTileItems);
    (two ? conv_tiles<2, NV> : conv_tiles<1, NV>)(rows, input, stride, taps, count, depth, weight,
                                                  out, accumulate);
    input += rows * stride;
    out += rows * NV * kTileItems;
    left -= rows;
  }
}

}  // namespace marey::MAREY_ISA_NS
