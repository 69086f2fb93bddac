// Lanes are queries, as in the forward kernel, for three of the five products:
//
//   S (keys, lanes)   = K (keys, D) Q^T (D, lanes)           P = exp2(S - lse), in place
//   G (keys, lanes)   = V (keys, Dv) dO^T (Dv, lanes)        dS = P (G - delta), in place
//   dQ^T (D, lanes)  += K^T (D, keys) dS (keys, lanes)
//
// and the depth of the other two, whose lanes are those of the head size:
//
//   dK (keys, D)     += dS (keys, lanes) Q (lanes, D)
//   dV (keys, Dv)    += P (keys, lanes) dO (lanes, Dv)
//
// so that P and dS are used where they are made, without a transpose, and nothing is computed
// twice. A call takes up to 256 queries: their Q, dO (as lanes and as depth) and dQ stay in the
// second-level cache while blocks of 64 keys pass, and each block's sums dK and dV are read and
// written once for every four panels of queries, whose P and dS wait for that: a panel is too few
// queries for the depth of a product. A call holds all keys of its queries, so dQ is written once;
// dK and dV are summed call after call, in one order.
//
// With pairs of bfloat16, P and dS are rounded to bfloat16 and stored by rows (two queries a pair,
// for dK and dV), and dS by pairs of keys too (for dQ).
#include "core/select.h"
#include "ops/attention/backward.h"
#include "ops/attention/lanes.h"

namespace marey::MAREY_ISA_NS {
namespace {

constexpr int64_t kKeys = 64;         // in a block
constexpr int64_t kNearBytes = 1024;  // as in the forward kernel
constexpr int kGroup = 4;             // panels whose P and dS wait

// Rows (keys) of some panels side by side, each a matrix of its own (keys, kPitch), `kApart` items
// from one to the next, as A of a product.
template <class T, int kPitch, int64_t kApart>
struct PanelRows {
  static constexpr int kNear = 16, kSteps = kPitch % 4 == 0 ? 4 : 2;
  const T* data;
  int left = kPitch;  // in this panel
  const T* at(int row, int64_t k) const { return data + row * kPitch + k; }
  PanelRows below(int rows) const { return {data + rows * kPitch, left}; }
  PanelRows along(int k) const {
    if (left > k) return {data + k, left - k};
    return {data + k + kApart - kPitch, kPitch};
  }
};

template <class T>
[[gnu::always_inline]] inline void narrow_to(bfloat16* p, const Vec<T>& v) {
#if defined(__AVX512BF16__)
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p),
                      std::bit_cast<__m256i>(_mm512_cvtneps_pbh(static_cast<__m512>(v))));
#else
  store_as(p, v);
#endif
}

// S: the type in memory; Unit: what the products are of.
template <class S, class Unit>
class Block {
 public:
  using T = SumOf<Unit>;
  using V = Vec<T>;
  static constexpr int W = kLanesOf<T>;
  static constexpr bool kPairs = std::is_same_v<Unit, Pair>;
  static constexpr int kStep = kPairs ? 2 : 1;  // items of the depth in a unit
  static constexpr int64_t kTile = kWide * W * kKeys;
  static constexpr int kWaiting = kPairs ? 1 : kGroup;
  using Item = std::conditional_t<kPairs, bfloat16, T>;
  using ItemRows = std::conditional_t<kPairs, PairRows, Rows<T>>;

  explicit Block(const AttentionBackwardRows& b) : b_(b), p_(b.forward), queries_(b.forward) {
    rows_ = up_to_multiple<int64_t>(p_.end - p_.begin, kWide * W);
    units_ = (p_.depth + kStep - 1) / kStep;
    value_units_ = (p_.value_depth + kStep - 1) / kStep;
    ScratchParts parts(p_.scratch);
    parts.take(scores_, kWaiting * kTile);
    parts.take(grads_, kWaiting * kTile);
    waiting_.scores = scores_;
    waiting_.grads = grads_;
    parts.take(added_, kTile);
    parts.take(slope_, kTile);
    parts.take(lse_, rows_);
    parts.take(delta_, rows_);
    parts.take(q_, rows_ * units_);
    parts.take(grad_, rows_ * value_units_);
    parts.take(q_rows_, rows_ / kStep * padded_depth(p_.depth));
    parts.take(grad_rows_, rows_ / kStep * padded_depth(p_.value_depth));
    parts.take(grad_q_, rows_ * p_.depth);
    parts.take(keys_, kKeys * units_ * kStep);
    parts.take(values_, kKeys * value_units_ * kStep);
    if (kPairs) {
      parts.take(key_columns_, kKeys / kStep * p_.depth);
      parts.take(weight_rows_, kTile);
      parts.take(grad_score_rows_, kTile);
      parts.take(grad_score_pairs_, kTile / 2);
    }
    key_sums_ = static_cast<T*>(b.sums);
    value_sums_ = key_sums_ + p_.keys * padded_depth(p_.depth);
    factor_ = static_cast<T>(p_.softcap > 0 ? p_.scale / p_.softcap : p_.scale * kLog2E);
    late_factor_ = kPairs && p_.softcap <= 0 && p_.bias.data == nullptr && factor_ > 0;
  }

  void run() {
    if constexpr (kPairs) {
      keys_in_place_ = p_.k.item == 1 && p_.depth % kStep == 0;
      values_in_place_ = p_.v.item == 1 && p_.value_depth % kStep == 0;
    } else if constexpr (std::is_same_v<S, T>) {
      const auto near = [](const AttentionOperand& x) {
        return x.item == 1 && x.row * static_cast<int64_t>(sizeof(T)) <= kNearBytes;
      };
      keys_in_place_ = near(p_.k);
      values_in_place_ = near(p_.v);
    }
    int64_t low = queries_.limited() ? p_.keys : 0;
    int64_t high = queries_.limited() ? 0 : p_.keys;
    queries_.template for_each_panel<W>([&]<int NV>(const Panel& panel) {
      begin(panel, NV);
      if (!queries_.limited()) return;
      const Range any = queries_.reach_of(panel).any;
      low = at_most(low, any.first);
      high = at_least(high, any.last);
    });
    for (int64_t first = low / kKeys * kKeys; first < high; first += kKeys) {
      const Range block{first, at_most(first + kKeys, p_.keys)};
      pack(block);
      queries_.template for_each_panel<W>(
          [&]<int NV>(const Panel& panel) { attend<NV>(panel, block); });
      add_waiting();
    }
    queries_.template for_each_panel<W>([&]<int NV>(const Panel& panel) { finish(panel, NV); });
  }

 private:
  template <class X>
  static const S* row(const X& operand, int64_t s) {
    return static_cast<const S*>(operand.data) + s * operand.row;
  }

  void begin(const Panel& panel, int vectors) {
    const int64_t pitch = vectors * W;
    for (int j = 0; j < vectors; ++j) {
      const S* q[W];
      const S* grad[W];
      queries_.rows_of(p_.q, panel, j, q);
      queries_.rows_of(b_.grad, panel, j, grad);
      Unit* q_lanes = q_ + panel.vector * W * units_ + j * W;
      Unit* grad_lanes = grad_ + panel.vector * W * value_units_ + j * W;
      if constexpr (kPairs) {
        gather_lanes(q, p_.q.item, p_.depth, q_lanes, pitch);
        gather_lanes(grad, b_.grad.item, p_.value_depth, grad_lanes, pitch);
      } else {
        gather_lanes<T, S>(q, p_.q.item, p_.depth, factor_, q_lanes, pitch);
        gather_lanes<T, S>(grad, b_.grad.item, p_.value_depth, T(1), grad_lanes, pitch);
      }
      begin_rows(panel, j, grad);
    }
    pack_depth(p_.q, panel, p_.depth, q_rows_);
    pack_depth(b_.grad, panel, p_.value_depth, grad_rows_);
    T* grad_q = grad_q_ + panel.vector * W * p_.depth;
    for (int64_t i = 0; i < p_.depth * pitch; i += W) store(grad_q + i, V(T(0)));
  }

  // lse, in units of log2, and delta. Lanes that are none, and queries that attend to nothing, get
  // an lse that makes their P zero.
  void begin_rows(const Panel& panel, int vector, const S* const (&grad)[W]) {
    const S* out[W];
    queries_.rows_of(p_.out, panel, vector, out);
    V delta(T(0));
    for (int64_t first = 0; first < p_.value_depth; first += kKeys) {
      const int64_t count = at_most(kKeys, p_.value_depth - first);
      const S* a[W];
      const S* b[W];
      for (int i = 0; i < W; ++i) {
        a[i] = grad[i] + first * b_.grad.item;
        b[i] = out[i] + first * p_.out.item;
      }
      gather_lanes<T, S>(a, b_.grad.item, count, T(1), scores_, W);
      gather_lanes<T, S>(b, p_.out.item, count, T(1), grads_, W);
      for (int64_t d = 0; d < count; ++d) {
        delta += load<V>(scores_ + d * W) * load<V>(grads_ + d * W);
      }
    }
    const int64_t at = (panel.vector + vector) * W;
    store(delta_ + at, delta);
    for (int i = 0; i < W; ++i) {
      T lse = std::numeric_limits<T>::infinity();
      if (vector * W + i < panel.lanes) {
        const T given = *queries_.address<const T>(p_.lse, panel.row + vector * W + i);
        if (given != -lse) lse = given * static_cast<T>(kLog2E);
      }
      lse_[at + i] = lse;
    }
  }

  // The rows of a panel as depth, in panels of the head size.
  void pack_depth(const AttentionOperand& operand, const Panel& panel, int64_t depth, Unit* to) {
    const int64_t first = panel.vector * W;
    for_each_depth_panel<W>(depth, [&]<int NV>(int64_t d) {
      constexpr int64_t kPitch = NV * W;
      const int64_t lanes = at_most(kPitch, depth - d);
      Unit* at = to + d * (rows_ / kStep) + first / kStep * kPitch;
      for (int64_t i = 0; i < panel.lanes; i += kStep, at += kPitch) {
        if (lanes < kPitch) {
          for (int64_t j = 0; j < kPitch; ++j) at[j] = Unit{};
        }
        const S* low = queries_.address<const S>(operand, panel.row + i) + d * operand.item;
        if constexpr (kPairs) {
          const bool both = i + 1 < panel.lanes;
          const S* high =
              both ? queries_.address<const S>(operand, panel.row + i + 1) + d * operand.item : low;
          pair_rows(low, high - low, operand.item, both ? 2 : 1, lanes, at, kPitch);
        } else {
          copy_rows<T, S>(low, 0, operand.item, 1, lanes, at);
        }
      }
    });
  }

  void pack(const Range& block) {
    if (!keys_in_place_) pack_items(p_.k, block, p_.depth, units_ * kStep, keys_);
    if (!values_in_place_) pack_items(p_.v, block, p_.value_depth, value_units_ * kStep, values_);
    if constexpr (kPairs) {
      pair_rows(row(p_.k, block.first), p_.k.row, p_.k.item, block.count(), p_.depth, key_columns_,
                p_.depth);
    }
  }

  void pack_items(const AttentionOperand& operand, const Range& block, int64_t depth, int64_t pitch,
                  Item* to) {
    if constexpr (kPairs) {
      for (int64_t s = 0; s < block.count(); ++s, to += pitch) {
        const bfloat16* from = row(operand, block.first + s);
        for (int64_t d = 0; d < depth; ++d) to[d] = from[d * operand.item];
        if (depth < pitch) to[depth] = bfloat16{0};
      }
    } else {
      copy_rows<T, S>(row(operand, block.first), operand.row, operand.item, block.count(), depth,
                      to);
    }
  }

  ItemRows items(const AttentionOperand& operand, bool in_place, int64_t s, const Item* packed,
                 int64_t at, int64_t pitch) const {
    if constexpr (std::is_same_v<S, Item>) {
      if (in_place) return {row(operand, s), operand.row};
    }
    return {packed + at * pitch, pitch};
  }

  template <int NV>
  [[gnu::noinline]] void attend(const Panel& panel, const Range& block) {
    constexpr int64_t kPitch = NV * W;
    const Reach reach = queries_.reach_of(panel);
    Range range{at_least(block.first, reach.any.first), at_most(block.last, reach.any.last)};
    if (range.count() <= 0) return;
    // Whole pairs of keys: the one before the first is forbidden below.
    if constexpr (kPairs) range.first -= (range.first - block.first) % 2;
    if constexpr (!kPairs) {
      if (NV != kWide || !waiting_.precede(panel, range)) add_waiting();
      scores_ = waiting_.scores + waiting_.panels * kTile;
      grads_ = waiting_.grads + waiting_.panels * kTile;
    }
    const int64_t at = range.first - block.first;
    const int64_t tile = range.count() * kPitch;
    product<NV, Unit>(range.count(),
                      items(p_.k, keys_in_place_, range.first, keys_, at, units_ * kStep),
                      q_ + panel.vector * W * units_, units_, scores_, false);
    if (kPairs && !late_factor_) scale_scores(scores_, tile, factor_);
    if (p_.softcap > 0) {
      cap_scores<T>(scores_, tile, static_cast<T>(p_.softcap * kLog2E), slope_);
    }
    if (p_.bias.data != nullptr) add_bias<T>(queries_, panel, range, NV, scores_, added_);
    if (p_.mask.data != nullptr) apply_mask<T>(queries_, panel, range, NV, scores_, added_);
    if (range.first < reach.every.first || range.last > reach.every.last) {
      apply_limits<T>(queries_, panel, range, NV, scores_);
    }
    product<NV, Unit>(range.count(),
                      items(p_.v, values_in_place_, range.first, values_, at, value_units_ * kStep),
                      grad_ + panel.vector * W * value_units_, value_units_, grads_, false);
    differentiate<NV>(range.count(), lse_ + panel.vector * W, delta_ + panel.vector * W);
    if (b_.grad_bias.data != nullptr) add_to_bias(panel, range, kPitch);
    if (p_.softcap > 0) {
      for (int64_t i = 0; i < tile; i += W) {
        store(grads_ + i, load<V>(grads_ + i) * load<V>(slope_ + i));
      }
    }

    int64_t depth = range.count();
    const Unit* by_key = nullptr;
    ItemRows weights{};
    ItemRows grad_scores{};
    if constexpr (kPairs) {
      narrow<NV>(range.count());
      depth = (depth + 1) / 2;
      by_key = grad_score_pairs_;
      weights = {weight_rows_, kPitch};
      grad_scores = {grad_score_rows_, kPitch};
    } else {
      by_key = grads_;
      weights = {scores_, kPitch};
      grad_scores = {grads_, kPitch};
    }
    Columns<Unit> columns{};
    if constexpr (kPairs) {
      columns = {key_columns_ + at / kStep * p_.depth, p_.depth};
    } else {
      const ItemRows rows = items(p_.k, keys_in_place_, range.first, keys_, at, units_);
      columns = {rows.data, rows.stride};
    }
    product<NV, Unit>(p_.depth, columns, by_key, depth, grad_q_ + panel.vector * W * p_.depth,
                      true);
    const int64_t first = panel.vector * W;
    if constexpr (!kPairs && NV == kWide) {
      if (waiting_.panels == 0) waiting_.begin(first, range);
      waiting_.add(panel.lanes);
      if (waiting_.panels == kGroup) add_waiting();
    } else {
      add_products(first, panel.lanes, range, grad_scores, q_rows_, p_.depth, key_sums_);
      add_products(first, panel.lanes, range, weights, grad_rows_, p_.value_depth, value_sums_);
    }
  }

  void add_waiting() {
    if constexpr (!kPairs) {
      const Waiting& w = waiting_;
      if (w.panels == 0) return;
      using A = PanelRows<T, kWide * W, kTile>;
      add_products(w.first, w.lanes, w.range, A{w.grads}, q_rows_, p_.depth, key_sums_);
      add_products(w.first, w.lanes, w.range, A{w.scores}, grad_rows_, p_.value_depth, value_sums_);
      waiting_.panels = 0;
    }
  }

  // sums (keys, D) += a (keys, queries) rows (queries, D), for `queries` of the call from `first`
  // on, which begin a panel
  template <class A>
  void add_products(int64_t first, int64_t queries, const Range& range, const A& a,
                    const Unit* rows, int64_t depth, T* sums) {
    for_each_depth_panel<W>(depth, [&]<int NV>(int64_t d) {
      product<NV, Unit>(range.count(), a, rows + d * (rows_ / kStep) + first / kStep * (NV * W),
                        (queries + kStep - 1) / kStep, sums + d * p_.keys + range.first * (NV * W),
                        true);
    });
  }

  // Scores become P, and what grad . v is becomes the gradient of the scores.
  template <int NV>
  [[gnu::noinline, gnu::flatten]] void differentiate(int64_t count, const T* lse, const T* delta) {
    constexpr int64_t kPitch = NV * W;
    const V factor(late_factor_ ? factor_ : T(1));
    V subtract[NV];
    V mean[NV];
    for (int j = 0; j < NV; ++j) {
      subtract[j] = load<V>(lse + j * W);
      mean[j] = load<V>(delta + j * W);
    }
    for (int64_t s = 0; s < count; ++s) {
      for (int j = 0; j < NV; ++j) {
        T* x = scores_ + s * kPitch + j * W;
        T* g = grads_ + s * kPitch + j * W;
        const V p = math::exp2_nonpositive<T>(kPairs ? V(load<V>(x) * factor - subtract[j])
                                                     : V(load<V>(x) - subtract[j]));
        store(x, p);
        store(g, p * (load<V>(g) - mean[j]));
      }
    }
  }

  template <int NV>
  [[gnu::noinline, gnu::flatten]] void narrow(int64_t count) {
    constexpr int64_t kPitch = NV * W;
    if (count % 2 != 0) {
      for (int64_t i = 0; i < kPitch; i += W) store(grads_ + count * kPitch + i, V(T(0)));
    }
    for (int64_t s = 0; s < count; s += 2) {
      for (int64_t i = s * kPitch; i < (s + 1) * kPitch; i += W) {
        const V even = load<V>(grads_ + i);
        const V odd = load<V>(grads_ + i + kPitch);
        narrow_to<T>(grad_score_rows_ + i, even);
        narrow_to<T>(grad_score_rows_ + i + kPitch, odd);
        store_pairs(grad_score_pairs_ + i - s / 2 * kPitch, even, odd);
        narrow_to<T>(weight_rows_ + i, load<V>(scores_ + i));
        narrow_to<T>(weight_rows_ + i + kPitch, load<V>(scores_ + i + kPitch));
      }
    }
  }

  void add_to_bias(const Panel& panel, const Range& range, int64_t pitch) {
    for (int j = 0; j < panel.lanes; ++j) {
      T* to = queries_.address<T>(b_.grad_bias, panel.row + j) + range.first * b_.grad_bias.item;
      for (int64_t s = 0; s < range.count(); ++s) {
        to[s * b_.grad_bias.item] += grads_[s * pitch + j];
      }
    }
  }

  void finish(const Panel& panel, int vectors) {
    alignas(64) T scale[W];
    for (int i = 0; i < W; ++i) scale[i] = static_cast<T>(p_.scale);
    for (int j = 0; j < vectors && j * W < panel.lanes; ++j) {
      S* items[W];
      queries_.rows_of(b_.grad_q, panel, j, items);
      scatter_lanes<T, S>(grad_q_ + panel.vector * W * p_.depth + j * W, vectors * W, scale, items,
                          at_most(panel.lanes - j * W, W), b_.grad_q.item, p_.depth);
    }
  }

  const AttentionBackwardRows& b_;
  const AttentionRows& p_;
  const Queries queries_;
  int64_t rows_;  // of the call, up to whole panels
  int64_t units_, value_units_;
  T factor_;
  bool late_factor_;  // the factor comes with the exponential
  bool keys_in_place_ = false;
  bool values_in_place_ = false;
  // Panels whose P and dS have not yet been multiplied, one after the other: of so many queries of
  // the call from the first on, and of these keys.
  struct Waiting {
    T *scores, *grads;  // of kGroup panels
    int panels = 0;
    int64_t first = 0, lanes = 0;
    Range range{};

    bool precede(const Panel& panel, const Range& keys) const {
      return first + panels * kWide * W == panel.vector * W && range.first == keys.first &&
             range.last == keys.last;
    }
    void begin(int64_t query, const Range& keys) {
      first = query;
      lanes = 0;
      range = keys;
    }
    void add(int64_t queries) {
      ++panels;
      lanes += queries;
    }
  };
  Waiting waiting_{};
  T* scores_;          // of the panel at hand: (keys of a block, its lanes), and P
  T* grads_;           // the same: grad . v, and dS
  T* added_;           // the bias or mask of a panel
  T* slope_;           // of the cap
  T* lse_;             // for each row, in units of log2
  T* delta_;           // for each row
  Unit* q_;            // panels of lanes (D, lanes)
  Unit* grad_;         // panels of lanes (Dv, lanes)
  Unit* q_rows_;       // panels of the head size (rows, lanes of D)
  Unit* grad_rows_;    // panels of the head size (rows, lanes of Dv)
  T* grad_q_;          // panels of lanes (D, lanes)
  Item* keys_;         // a block (keys, D)
  Item* values_;       // a block (keys, Dv)
  Unit* key_columns_;  // of pairs: a block (keys / 2, D)
  bfloat16* weight_rows_;
  bfloat16* grad_score_rows_;
  Pair* grad_score_pairs_;
  T* key_sums_;  // panels of the head size (keys, lanes of D)
  T* value_sums_;
};

template <class S, class Unit>
void run(const AttentionBackwardRows& rows) {
  Block<S, Unit>(rows).run();
}

template <class S, class T>
[[gnu::noinline, gnu::flatten]] void write_sums(const T* sums, int64_t parts, int64_t stride,
                                                int64_t keys, int64_t depth, T scale,
                                                const AttentionOperand& to) {
  using V = Vec<T>;
  constexpr int W = kLanesOf<T>;
  for_each_depth_panel<W>(depth, [&]<int NV>(int64_t d) {
    for (int64_t s = 0; s < keys; ++s) {
      for (int j = 0; j < NV && d + j * W < depth; ++j) {
        const T* at = sums + d * keys + (s * NV + j) * W;
        V sum = load<V>(at);
        for (int64_t part = 1; part < parts; ++part) sum += load<V>(at + part * stride);
        sum *= V(scale);
        S* out = static_cast<S*>(to.data) + s * to.row + (d + j * W) * to.item;
        const int64_t lanes = at_most<int64_t>(W, depth - d - j * W);
        if (to.item == 1 && lanes == W) {
          store_as(out, sum);
        } else {
          alignas(64) T values[W];
          store(values, sum);
          for (int64_t i = 0; i < lanes; ++i) assign(out[i * to.item], values[i]);
        }
      }
    }
  });
}

template <class S, class T>
void finish(const AttentionBackwardRows& b, int64_t parts) {
  const AttentionRows& p = b.forward;
  const T* sums = static_cast<const T*>(b.sums);
  const int64_t of_keys = p.keys * padded_depth(p.depth);
  const int64_t stride = of_keys + p.keys * padded_depth(p.value_depth);
  write_sums<S, T>(sums, parts, stride, p.keys, p.depth, static_cast<T>(p.scale), b.grad_k);
  write_sums<S, T>(sums + of_keys, parts, stride, p.keys, p.value_depth, T(1), b.grad_v);
}

}  // namespace

AttentionBackwardKernel select_attention_backward(DType dtype) {
  return of_type(dtype, []<class S>() -> AttentionBackwardKernel {
    return {run<S, UnitOf<S>>, finish<S, SumOf<UnitOf<S>>>};
  });
}

}  // namespace marey::MAREY_ISA_NS
