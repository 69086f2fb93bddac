#pragma once
// What the forward and the backward kernel share, for kernel files: queries as the lanes of panels,
// which keys they see, and what becomes of their scores between the product and the exponential.
//
// A panel is kWide vectors of queries wide, or one: two widths, and three heights of a tile, keep
// the number of compiled tiles small. A row left over goes alone; its result is the same.
#include <cmath>
#include <limits>

#include "core/math.h"
#include "core/tile.h"
#include "ops/attention/attention.h"

namespace marey::MAREY_ISA_NS {

inline constexpr double kLog2E = 1.4426950408889634074;
inline constexpr double kLn2 = 0.6931471805599453094;

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

// Bounds the instantiations of panel_product: see above.
template <int NV, class Unit, class A>
[[gnu::noinline]] void product(int64_t rows, const A& a, const Unit* b, int64_t depth,
                               SumOf<Unit>* c, bool accumulate) {
  constexpr int kTile = kTileRows[NV];
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
template <class T, class S>
[[gnu::noinline, gnu::flatten]] void scatter_lanes(const T* from, int64_t pitch, const T* factor,
                                                   S* const (&items)[kLanesOf<T>], int count,
                                                   int64_t stride, int64_t depth) {
  using V = Vec<T>;
  constexpr int W = kLanesOf<T>;
  const V scale = load<V>(factor);
  int64_t k = 0;
  if (stride == 1) {
    for (; k + W <= depth; k += W) {
      V square[W];
#pragma GCC unroll 16
      for (int i = 0; i < W; ++i) square[i] = load<V>(from + (k + i) * pitch) * scale;
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

struct Range {
  int64_t first, last;
  int64_t count() const { return last - first; }
};

// The keys that any lane of a panel may attend to, and those that every lane may.
struct Reach {
  Range any, every;
};

struct Panel {
  int64_t vector;  // the first, of the call
  int64_t row;     // the first
  int lanes;
};

// The rows of a call: where their operands lie and which keys they see.
class Queries {
 public:
  explicit Queries(const AttentionRows& p)
      : p_(p), limited_(p.left < p.keys + p.queries || p.right < p.keys + p.queries) {}

  bool limited() const { return limited_; }

  template <class X>
  X* address(const AttentionOperand& operand, int64_t row) const {
    const int64_t head = row < p_.queries ? 0 : row / p_.queries;  // spares the division
    const int64_t l = row - head * p_.queries;
    return static_cast<X*>(operand.data) + head * operand.head + l * operand.row;
  }

  // Calls body<kWide> and body<1> with the panels of the call.
  template <int W, class Body>
  void for_each_panel(const Body& body) const {
    const int64_t rows = p_.end - p_.begin;
    int64_t done = 0;
    for (; rows - done > (kWide - 1) * W; done += kWide * W) {
      const auto lanes = static_cast<int>(at_most<int64_t>(rows - done, kWide * W));
      body.template operator()<kWide>(Panel{done / W, p_.begin + done, lanes});
    }
    for (; done < rows; done += W) {
      const auto lanes = static_cast<int>(at_most<int64_t>(rows - done, W));
      body.template operator()<1>(Panel{done / W, p_.begin + done, lanes});
    }
  }

  // Keys that a query may attend to by the causal order and the window.
  Range reach_of(int64_t row) const {
    const int64_t p = row % p_.queries + p_.offset;
    return {at_most(at_least<int64_t>(p - p_.left, 0), p_.keys),
            at_least<int64_t>(at_most(p + p_.right + 1, p_.keys), 0)};
  }
  Reach reach_of(const Panel& panel) const {
    if (!limited_) return {{0, p_.keys}, {0, p_.keys}};
    Reach reach{{p_.keys, 0}, {0, p_.keys}};
    for (int j = 0; j < panel.lanes; ++j) {
      const Range one = reach_of(panel.row + j);
      reach.every = {at_least(reach.every.first, one.first), at_most(reach.every.last, one.last)};
      if (one.count() <= 0) continue;
      reach.any = {at_most(reach.any.first, one.first), at_least(reach.any.last, one.last)};
    }
    return reach;
  }

  // The operand's rows under the lanes of a vector of the panel. Lanes beyond the last repeat it:
  // their results are thrown away.
  template <class X, int W>
  void rows_of(const AttentionOperand& operand, const Panel& panel, int vector,
               X* (&items)[W]) const {
    for (int j = 0; j < W; ++j) {
      const int lane = at_most(vector * W + j, panel.lanes - 1);
      items[j] =
          j > 0 && vector * W + j > lane ? items[j - 1] : address<X>(operand, panel.row + lane);
    }
  }

  const AttentionRows& operands() const { return p_; }

 private:
  const AttentionRows& p_;
  bool limited_;
};

// Scores x (keys of `range`, lanes of `vectors` vectors) after the product, in units of log2 once
// this is done: x * factor, capped, with bias; -inf where the mask or the limits forbid. `added`
// has as many items as x.
template <class T>
[[gnu::noinline, gnu::flatten]] void scale_scores(T* x, int64_t items, T factor) {
  using V = Vec<T>;
  for (int64_t i = 0; i < items; i += kLanesOf<T>) store(x + i, load<V>(x + i) * V(factor));
}

// c tanh(x), with the derivative 1 - tanh(x)^2 in `slope` unless that is null.
template <class T>
[[gnu::noinline, gnu::flatten]] void cap_scores(T* x, int64_t items, T c, T* slope) {
  using V = Vec<T>;
  for (int64_t i = 0; i < items; i += kLanesOf<T>) {
    const V t = math::tanh<T>(load<V>(x + i));
    if (slope != nullptr) store(slope + i, V(T(1)) - t * t);
    store(x + i, t * V(c));
  }
}

template <class T>
[[gnu::noinline, gnu::flatten]] void add_bias(const Queries& queries, const Panel& panel,
                                              const Range& range, int vectors, T* x, T* added) {
  using V = Vec<T>;
  constexpr int W = kLanesOf<T>;
  const AttentionOperand& bias = queries.operands().bias;
  for (int j = 0; j < vectors; ++j) {
    const T* items[W];
    queries.rows_of(bias, panel, j, items);
    for (const T*& item : items) item += range.first * bias.item;
    gather_lanes<T, T>(items, bias.item, range.count(), static_cast<T>(kLog2E), added + j * W,
                       vectors * W);
  }
  for (int64_t i = 0; i < range.count() * vectors * W; i += W) {
    store(x + i, load<V>(x + i) + load<V>(added + i));
  }
}

template <class T>
[[gnu::noinline, gnu::flatten]] void apply_mask(const Queries& queries, const Panel& panel,
                                                const Range& range, int vectors, T* x, T* added) {
  using V = Vec<T>;
  constexpr int W = kLanesOf<T>;
  const AttentionOperand& mask = queries.operands().mask;
  for (int j = 0; j < vectors; ++j) {
    const uint8_t* items[W];
    queries.rows_of(mask, panel, j, items);
    for (const uint8_t*& item : items) item += range.first * mask.item;
    gather_lanes<T, uint8_t>(items, mask.item, range.count(), T(1), added + j * W, vectors * W);
  }
  for (int64_t i = 0; i < range.count() * vectors * W; i += W) {
    V v = load<V>(x + i);
    stdx::where(load<V>(added + i) == V(T(0)), v) = V(-std::numeric_limits<T>::infinity());
    store(x + i, v);
  }
}

template <class T>
[[gnu::noinline, gnu::flatten]] void apply_limits(const Queries& queries, const Panel& panel,
                                                  const Range& range, int vectors, T* x) {
  using V = Vec<T>;
  constexpr int W = kLanesOf<T>;
  for (int j = 0; j < vectors; ++j) {
    alignas(64) T first[W] = {};
    alignas(64) T last[W] = {};
    for (int i = 0; i < W && j * W + i < panel.lanes; ++i) {
      const Range one = queries.reach_of(panel.row + j * W + i);
      first[i] = static_cast<T>(at_most(one.first, range.last) - range.first);
      last[i] = static_cast<T>(at_most(one.last, range.last) - range.first);
    }
    const V low = load<V>(first);
    const V high = load<V>(last);
    for (int64_t s = 0; s < range.count(); ++s) {
      T* at = x + (s * vectors + j) * W;
      const V here(static_cast<T>(s));
      V v = load<V>(at);
      stdx::where(here < low || here >= high, v) = V(-std::numeric_limits<T>::infinity());
      store(at, v);
    }
  }
}

}  // namespace marey::MAREY_ISA_NS
