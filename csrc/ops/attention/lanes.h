#pragma once
// What the forward and the backward kernel share, for kernel files: queries as the lanes of panels,
// which keys they see, and what becomes of their scores between the product and the exponential.
// A panel is kWide vectors of queries wide (core/lanes.h), the last ones fewer.
#include <cmath>
#include <limits>

#include "core/lanes.h"
#include "core/math.h"
#include "core/scratch.h"
#include "ops/attention/attention.h"

namespace marey::MAREY_ISA_NS {

inline constexpr double kLog2E = 1.4426950408889634074;
inline constexpr double kLn2 = 0.6931471805599453094;

struct Range {
  int64_t first, last;
  int64_t count() const { return last - first; }
};

// The keys that any lane of a panel may attend to, and those that every lane may.
struct Reach {
  Range any, every;
};

// Fetches rows [first, last) of an operand to read or to write them soon. Rows of a video's frames
// lie pages apart, more of them than a processor's prefetching follows.
template <class S, bool kWrite = false>
[[gnu::always_inline]] inline void fetch_rows(const AttentionOperand& x, int64_t first,
                                              int64_t last, int64_t items) {
  if (x.item != 1) return;
  asm volatile("");  // or compilers take the caller for a function without effect, and drop it
  constexpr int64_t kLine = 64 / static_cast<int64_t>(sizeof(S));
  const S* row = static_cast<const S*>(x.data) + first * x.row;
  for (int64_t i = first; i < last; ++i, row += x.row) {
    for (int64_t d = 0; d < items; d += kLine) __builtin_prefetch(row + d, kWrite);
  }
}

struct Panel {
  int64_t vector;  // the first, of the call
  int64_t row;     // the first
  int lanes;
};

// Calls body<NV>(d) with the first lane of each panel of a head size, padded to whole vectors.
template <int W, class Body>
void for_each_depth_panel(int64_t depth, const Body& body) {
  int64_t d = 0;
  const auto panels = [&]<int NV>() {
    for (; depth - d > (NV - 1) * W; d += NV * W) body.template operator()<NV>(d);
  };
  panels.template operator()<kWide>();
  if constexpr (kWide > 2) panels.template operator()<2>();
  panels.template operator()<1>();
}

// The rows of a call: where their operands lie and which keys they see.
class Queries {
 public:
  explicit Queries(const AttentionRows& p) : p_(&p), limited_(p.limited()) {}

  bool limited() const { return limited_; }

  template <class X>
  X* address(const AttentionOperand& operand, int64_t row) const {
    const int64_t head = row < p_->queries ? 0 : row / p_->queries;  // spares the division
    const int64_t l = row - head * p_->queries;
    return static_cast<X*>(operand.data) + head * operand.head + l * operand.row;
  }

  // Calls body<NV> with the panels of the call, the widest first.
  template <int W, class Body>
  void for_each_panel(const Body& body) const {
    const int64_t rows = p_->end - p_->begin;
    int64_t done = 0;
    const auto panels = [&]<int NV>() {
      for (; rows - done > (NV - 1) * W; done += NV * W) {
        const auto lanes = static_cast<int>(at_most<int64_t>(rows - done, NV * W));
        body.template operator()<NV>(Panel{done / W, p_->begin + done, lanes});
      }
    };
    panels.template operator()<kWide>();
    if constexpr (kWide > 2) panels.template operator()<2>();
    panels.template operator()<1>();
  }

  // Keys that a query may attend to by the causal order and the window.
  Range reach_of(int64_t row) const {
    const int64_t p = row % p_->queries + p_->offset;
    return {at_most(at_least<int64_t>(p - p_->left, 0), p_->keys),
            at_least<int64_t>(at_most(p + p_->right + 1, p_->keys), 0)};
  }
  Reach reach_of(const Panel& panel) const {
    if (!limited_) return {{0, p_->keys}, {0, p_->keys}};
    Reach reach{{p_->keys, 0}, {0, p_->keys}};
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

  const AttentionRows& operands() const { return *p_; }

 private:
  const AttentionRows* p_;
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
