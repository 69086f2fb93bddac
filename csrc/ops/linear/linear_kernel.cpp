// Lanes are columns of C. B is packed in panels of kWide vectors, once for all rows; a block of
// rows of A is copied for each group of panels, so that tiles read it at one near stride (rows a
// multiple of 4096 bytes apart would meet in one set of the first-level cache).
//
// In registers stands a tile of C; the depth runs in blocks of 384: 48 KiB of a panel, which every
// tile of the block of rows reads from the second-level cache, beside the block of A (144 KiB) and
// the sums of the group (96 KiB).
//
// With sixteen registers blocks of 256 leave a panel (24 KiB) in the first-level cache, beside the
// rows of A that a tile reads, which are packed as strips for that (rows took 5 to 8% longer in a
// loop of tiles, columns 15%). To pack them pays because groups have three times the panels.
#include "core/erf.h"
#include "core/lanes.h"
#include "core/select.h"
#include "ops/linear/linear.h"
#if defined(__AMX_BF16__)
#include "core/tile_split.h"
#endif

namespace marey::MAREY_ISA_NS {
namespace {

template <class S>
const S* item_at(const Matrix& m, int64_t row, int64_t item) {
  return static_cast<const S*>(m.data) + row * m.row + item * m.item;
}

// The sums, panel by panel `panel_sums` apart, to C, row by row. Of S in memory, computed in T.
template <class S, class T>
[[gnu::noinline, gnu::flatten]] void finish(const LinearRows& p, const T* sums,
                                            int64_t panel_sums) {
  using V = Vec<T>;
  constexpr int W = kLanesOf<T>;
  constexpr int64_t kLanes = kWide * W;
  for (int64_t i = 0; i < p.rows; ++i) {
    for (int64_t column = 0; column < p.columns; column += W) {
      const int64_t lanes = at_most<int64_t>(W, p.columns - column);
      V x = load<V>(sums + column / kLanes * panel_sums + i * kLanes + column % kLanes);
      // In C's type, or beyond its last column.
      const auto values_of = [&](const S* from, int64_t step) {
        if (lanes == W && step == 1) return load_as<V>(from);
        alignas(64) T values[W] = {};
        for (int64_t k = 0; k < lanes; ++k) values[k] = convert<T>(from[k * step]);
        return load<V>(values);
      };
      if (p.bias != nullptr) x += values_of(static_cast<const S*>(p.bias) + column, 1);
      if (p.activation == Activation::relu) {
        stdx::where(x < V(T(0)), x) = V(T(0));
      } else if (p.activation == Activation::gelu) {
        x = x * V(T(0.5)) * (V(T(1)) + math::erf<T>(x * V(T(0.70710678118654752440))));
      }
      if (p.residual.data != nullptr) {
        x += values_of(item_at<S>(p.residual, i, column), p.residual.item);
      }
      S* to = const_cast<S*>(item_at<S>(p.c, i, column));
      if (lanes == W && p.c.item == 1) {
        store_as(to, x);
      } else {
        alignas(64) T values[W];
        store(values, x);
        for (int64_t k = 0; k < lanes; ++k) assign(to[k * p.c.item], values[k]);
      }
    }
  }
}

template <class S, class T>
[[gnu::flatten]] void sum_rows(const Matrix& a, int64_t rows, int64_t columns, void* to) {
  using V = Vec<T>;
  constexpr int W = kLanesOf<T>;
  T* sums = static_cast<T*>(to);
  for (int64_t n = 0; n < columns; ++n) sums[n] = T(0);
  for (int64_t m = 0; m < rows; ++m) {
    const S* from = item_at<S>(a, m, 0);
    int64_t n = 0;
    if (a.item == 1) {
      for (; n + W <= columns; n += W) store(sums + n, load<V>(sums + n) + load_as<V>(from + n));
    }
    for (; n < columns; ++n) sums[n] += convert<T>(from[n * a.item]);
  }
}

// S: the type in memory; Unit: what the products are of.
template <class S, class Unit>
struct Kernel {
  using T = SumOf<Unit>;
  using V = Vec<T>;
  static constexpr int W = kLanesOf<T>;
  static constexpr int64_t kLanes = kWide * W;
  static constexpr bool kPairs = std::is_same_v<Unit, Pair>;
  static constexpr int64_t kStep = kPairs ? 2 : 1;
  static constexpr bool kStrips = kTileRows[kWide] == kStrip && !kPairs;
  static constexpr int64_t kRows = 96, kPanels = kStrips ? 24 : 8;  // in a call
  static constexpr int64_t kDepth = kStrips ? 256 : kLinearDepth;
  using Item = std::conditional_t<kPairs, bfloat16, T>;
  using ItemRows = std::conditional_t<kPairs, PairRows, Rows<T>>;
  // A cache line more than a block, so that rows fall in different sets.
  static constexpr int64_t kPitch = kDepth * kStep + 64 / static_cast<int64_t>(sizeof(Item));

  static const S* at(const Matrix& m, int64_t row, int64_t item) {
    return item_at<S>(m, row, item);
  }

  static void pack(const Matrix& b, int64_t depth, int64_t columns, int64_t first, void* to) {
    Unit* panel = static_cast<Unit*>(to);
    const int64_t lanes = at_most(kLanes, columns - first);
    if (b.row == 1) {  // the depth is contiguous: columns are gathered
      for (int j = 0; j < kWide; ++j) {
        const S* items[W];
        for (int i = 0; i < W; ++i) {
          items[i] = at(b, 0, first + at_most<int64_t>(j * W + i, lanes - 1));
        }
        if constexpr (kPairs) {
          gather_lanes(items, 1, depth, panel + j * W, kLanes);
        } else {
          gather_lanes<T, S>(items, 1, depth, T(1), panel + j * W, kLanes);
        }
      }
      return;
    }
    for (int64_t k = 0; k < depth; k += kStep, panel += kLanes) {
      if (lanes < kLanes) {
        for (int64_t j = 0; j < kLanes; ++j) panel[j] = Unit{};
      }
      if constexpr (kPairs) {
        pair_rows(at(b, k, first), b.row, b.item, at_most<int64_t>(2, depth - k), lanes, panel,
                  kLanes);
      } else {
        copy_rows<T, S>(at(b, k, first), 0, b.item, 1, lanes, panel);
      }
    }
  }

  // Rows of A, one block of the depth: by rows if those are contiguous or nothing is, else by
  // columns.
  static void pack_rows(const Matrix& a, int64_t rows, int64_t first, int64_t depth, Item* to) {
    for (int64_t i = 0; i < rows; ++i, to += kPitch) {
      const S* from = at(a, i, first);
      if constexpr (kPairs) {
        if (a.item == 1) {
          std::memcpy(to, from, static_cast<std::size_t>(depth) * sizeof(S));
        } else {
          for (int64_t k = 0; k < depth; ++k) to[k] = from[k * a.item];
        }
        if (depth % 2 != 0) to[depth] = bfloat16{0};
      } else {
        copy_rows<T, S>(from, 0, a.item, 1, depth, to);
      }
    }
  }
  static void pack_columns(const Matrix& a, int64_t rows, int64_t first, int64_t depth, Unit* to) {
    if constexpr (kPairs) {
      pair_rows(at(a, 0, first), a.item, a.row, depth, rows, to, kRows);
    } else {
      for (int64_t k = 0; k < depth; ++k) {
        copy_rows<T, S>(at(a, 0, first + k), 0, a.row, 1, rows, to + k * kRows);
      }
    }
  }

  static constexpr int64_t kBlockBytes = kRows * kPitch * static_cast<int64_t>(sizeof(Item));
  static constexpr int64_t kScratchBytes =
      kBlockBytes + kRows * kPanels * kLanes * static_cast<int64_t>(sizeof(T));

  static bool have_tiles() {
#if defined(__AMX_BF16__)
    return kPairs && tiles_active();
#else
    return false;
#endif
  }
  // In place where the items are adjacent and pairs whole: to copy takes as long as the products.
  static ItemRows rows_for_tiles(const LinearRows& p, int64_t first, int64_t depth) {
    Item* const packed = reinterpret_cast<Item*>(p.scratch);
#if defined(__AMX_BF16__)
    if constexpr (kPairs) {
      if (p.a.item == 1 && depth % 2 == 0) return {at(p.a, 0, first), p.a.row};
      if (p.a.row == 1) {
        turn_columns(at(p.a, 0, first), p.a.item, p.a.row, p.rows, depth, packed, kPitch);
        return {packed, kPitch};
      }
    }
#endif
    pack_rows(p.a, p.rows, first, depth, packed);
    return {packed, kPitch};
  }

  // Rows of A, one block of the depth, as strips; what pads the last one is thrown away.
  [[gnu::flatten]] static void pack_strips_of_rows(const Matrix& a, int64_t rows, int64_t first,
                                                   int64_t depth, T* to) {
    constexpr int kLanesOfStrips = W < kStrip ? kStrip : W;
    for (int64_t i = 0; i < rows; i += kLanesOfStrips, to += kLanesOfStrips * depth) {
      const S* items[kLanesOfStrips];
      for (int j = 0; j < kLanesOfStrips; ++j) items[j] = at(a, at_most(i + j, rows - 1), first);
      const int64_t strips = at_most<int64_t>(kLanesOfStrips, rows - i + kStrip - 1) / kStrip;
      int64_t k = 0;
      if constexpr (W >= kStrip) {
        using Quad = stdx::simd<T, stdx::simd_abi::deduce_t<T, kStrip>>;
        for (; a.item == 1 && k + W <= depth; k += W) {
          V square[W];
#pragma GCC unroll 16
          for (int j = 0; j < W; ++j) square[j] = load_as<V>(items[j] + k);
          transpose<T>(square);
#pragma GCC unroll 16
          for (int j = 0; j < W; ++j) {
            const auto parts = stdx::split<Quad>(square[j]);
            T* strip = to + (k + j) * kStrip;
            for (int64_t s = 0; s < strips; ++s, strip += kStrip * depth) {
              store(strip, parts[static_cast<std::size_t>(s)]);
            }
          }
        }
      }
      for (; k < depth; ++k) {
        for (int64_t j = 0; j < strips * kStrip; ++j) {
          to[(j / kStrip * depth + k) * kStrip + j % kStrip] = convert<T>(items[j][k * a.item]);
        }
      }
    }
  }

  // All panels of a block of the depth.
  template <class A>
  static void multiply(const LinearRows& p, int64_t rows, const A& a, int64_t first,
                       int64_t depth) {
    T* sums = reinterpret_cast<T*>(p.scratch + kBlockBytes);
    for (int64_t panel = 0; panel < p.panels; ++panel, sums += kRows * kLanes) {
      const Unit* b =
          reinterpret_cast<const Unit*>(p.b + panel * p.panel_bytes) + first / kStep * kLanes;
      product<kWide, Unit>(rows, a, b, (depth + kStep - 1) / kStep, sums, first > 0);
    }
  }

  static void rows(const LinearRows& p) {
    auto* const packed = reinterpret_cast<Item*>(p.scratch);
    const bool columns = p.a.item != 1 && p.a.row == 1;
    int64_t first = 0;
    do {
      const int64_t depth = at_most(kDepth * kStep, p.depth - first);
      if constexpr (kStrips) {
        if (columns) {
          pack_strips<T, S>(at(p.a, 0, first), p.a.item, 1, depth, p.rows, packed);
        } else {
          pack_strips_of_rows(p.a, p.rows, first, depth, packed);
        }
        multiply(p, up_to_multiple<int64_t>(p.rows, kStrip), Strips<T>{packed, kStrip * depth},
                 first, depth);
      } else if (have_tiles()) {
        multiply(p, p.rows, rows_for_tiles(p, first, depth), first, depth);
      } else if (columns) {
        auto* const units = reinterpret_cast<Unit*>(p.scratch);
        pack_columns(p.a, p.rows, first, depth, units);
        multiply(p, p.rows, Columns<Unit>{units, kRows}, first, depth);
      } else {
        pack_rows(p.a, p.rows, first, depth, packed);
        multiply(p, p.rows, ItemRows{packed, kPitch}, first, depth);
      }
      first += depth;
    } while (first < p.depth);
    finish<S, T>(p, reinterpret_cast<const T*>(p.scratch + kBlockBytes), kRows * kLanes);
  }

  static LinearKernel make() {
    return {.lanes = kLanes,
            .unit_items = kStep,
            .unit_bytes = static_cast<int64_t>(sizeof(Unit)),
            .rows_of_call = kRows,
            .panels_of_call = kPanels,
            .tile_rows = 12,
            .scratch_bytes = kScratchBytes,
            .pack = pack,
            .rows = rows,
            .sum_rows = sum_rows<S, T>};
  }
};

#if defined(__AMX_BF16__)
// Float32 as parts of bfloat16. A block has more rows, because panels of three parts do not all fit
// the second-level cache and come from the third for each, and sums of more panels beside it,
// because its rows are split once for all of them.
struct SplitKernel {
  static constexpr int64_t kLanes = kWide * kLanesOf<float>;
  static constexpr int64_t kRows = 128, kPanels = 24;
  static constexpr int64_t kDepth = 2 * kLinearDepth;  // sums go through memory less often
  static constexpr int64_t kPitch = kDepth * kSplitParts + kSplitDepth;
  static constexpr int64_t kBlockBytes = kRows * kPitch * static_cast<int64_t>(sizeof(bfloat16));
  static constexpr int64_t kScratchBytes =
      kBlockBytes + kRows * kPanels * kLanes * static_cast<int64_t>(sizeof(float));

  static void pack(const Matrix& b, int64_t depth, int64_t columns, int64_t first, void* to) {
    pack_split<kWide>(item_at<float>(b, 0, first), b.row, b.item, depth,
                      at_most(kLanes, columns - first), static_cast<Split*>(to));
  }

  static void rows(const LinearRows& p) {
    auto* const block = reinterpret_cast<bfloat16*>(p.scratch);
    auto* const sums = reinterpret_cast<float*>(p.scratch + kBlockBytes);
    int64_t first = 0;
    do {
      const int64_t depth = at_most(kDepth, p.depth - first);
      split_rows(item_at<float>(p.a, 0, first), p.a.row, p.a.item, p.rows, depth, block, kPitch);
      const int64_t step = first / 2 * kLanes;
      for (int64_t panel = 0; panel < p.panels; ++panel) {
        const auto* b = reinterpret_cast<const Split*>(p.b + panel * p.panel_bytes) + step;
        const auto* next = reinterpret_cast<const Split*>(p.b + (panel + 1) * p.panel_bytes) + step;
        split_product<kWide>(p.rows, {block, kPitch}, b, split_steps(depth),
                             sums + panel * kRows * kLanes, first > 0,
                             panel + 1 < p.panels ? next : nullptr);
      }
      first += depth;
    } while (first < p.depth);
    finish<float, float>(p, sums, kRows * kLanes);
  }

  static LinearKernel make() {
    return {.lanes = kLanes,
            .unit_items = kSplitDepth,
            .unit_bytes = kSplitDepth / 2 * static_cast<int64_t>(sizeof(Split)),
            .rows_of_call = kRows,
            .panels_of_call = kPanels,
            .tile_rows = 2 * kTileItems,
            .scratch_bytes = kScratchBytes,
            .pack = pack,
            .rows = rows,
            .sum_rows = sum_rows<float, float>};
  }
};
#endif

}  // namespace

LinearKernel select_split_linear() {
#if defined(__AMX_BF16__)
  return SplitKernel::make();
#else
  return {};
#endif
}

LinearKernel select_linear(DType dtype) {
  return of_type(dtype, []<class S>() { return Kernel<S, UnitOf<S>>::make(); });
}

}  // namespace marey::MAREY_ISA_NS
