// Lanes are queries, so that the softmax over keys runs down the rows of a panel: maxima, sums and
// rescaling are vertical, and the result of one product is, in place, the operand of the next.
//
//   scores (keys, lanes) = K (keys, D) Q^T (D, lanes)        keys broadcast, read where they lie
//   O^T (Dv, lanes)     += V^T (Dv, keys) P (keys, lanes)    values broadcast, packed in strips
//
// A call takes up to 240 queries: their Q^T and O^T stay in the second-level cache (120 KiB at
// D = 64) while blocks of 128 keys pass, each packed once for all of them. In the first level stand
// the scores of one panel (12 KiB for 24 lanes), its Q^T and its O^T; keys and values stream
// through. Scores are in units of log2, with the scale folded into Q^T once.
#include <cmath>
#include <limits>

#include "core/math.h"
#include "core/tile.h"
#include "ops/attention/attention.h"

namespace marey::MAREY_ISA_NS {
namespace {

constexpr double kLog2E = 1.4426950408889634074;
constexpr double kLn2 = 0.6931471805599453094;

template <class X>
constexpr X at_least(X a, X b) {
  return a > b ? a : b;
}
template <class X>
constexpr X at_most(X a, X b) {
  return a < b ? a : b;
}

// S: the type in memory; T: of the computation.
template <class S, class T>
class Block {
 public:
  using V = Vec<T>;
  static constexpr int W = kLanesOf<T>;

  explicit Block(const AttentionRows& p) : p_(p) {
    rows_ = p.end - p.begin;
    vectors_ = (rows_ + W - 1) / W;
    limited_ = p.left < p.keys + p.queries || p.right < p.keys + p.queries;
    padded_depth_ = (p.value_depth + kStrip - 1) / kStrip * kStrip;
    const int64_t lanes = vectors_ * W;
    T* memory = reinterpret_cast<T*>(p.scratch);
    const auto take = [&](int64_t count) {
      T* part = memory;
      memory += (count + 15) / 16 * 16;
      return part;
    };
    scores_ = take(kMaxVectors * W * kAttentionKeys);
    top_ = take(lanes);
    sum_ = take(lanes);
    q_ = take(lanes * p.depth);
    out_ = take(lanes * padded_depth_);
    values_ = take(kAttentionKeys * padded_depth_);
    keys_ = take(kAttentionKeys * p.depth);
    added_ = take(kMaxVectors * W * kAttentionKeys);
  }

  void run() {
    keys_in_place_ = std::is_same_v<S, T> && p_.k.item == 1;
    // Packing pays when several panels read the block.
    values_in_place_ = std::is_same_v<S, T> && p_.v.item == 1 && vectors_ <= kMaxVectors;
    for_each_panel([&]<int NV>(Panel panel) { begin<NV>(panel); });
    int64_t low = 0;
    int64_t high = p_.keys;
    if (limited_) {
      low = p_.keys;
      high = 0;
      for_each_panel([&]<int NV>(Panel panel) {
        const Range any = reach_[panel.vector].any;
        low = at_most(low, any.first);
        high = at_least(high, any.last);
      });
    }
    // Blocks start at multiples of their size, so that sums do not depend on the rows of a call.
    for (int64_t first = low / kAttentionKeys * kAttentionKeys; first < high;
         first += kAttentionKeys) {
      const Range block{first, at_most(first + kAttentionKeys, p_.keys)};
      if (!keys_in_place_) pack_keys(block);
      if (!values_in_place_) {
        pack_strips<T>(values() + block.first * p_.v.row, p_.v.row, p_.v.item, block.count(),
                       p_.value_depth, values_);
      }
      for_each_panel([&]<int NV>(Panel panel) { attend<NV>(panel, block); });
    }
    for_each_panel([&]<int NV>(Panel panel) { finish<NV>(panel); });
  }

 private:
  struct Panel {
    int64_t vector;  // the first
    int64_t row;     // the first
    int lanes;
  };
  struct Range {
    int64_t first, last;
    int64_t count() const { return last - first; }
  };
  // The keys that any lane of a panel may attend to, and those that every lane may.
  struct Reach {
    Range any, every;
  };
  struct Query {
    int64_t head, l;
  };

  const S* values() const { return static_cast<const S*>(p_.v.data); }
  const S* keys() const { return static_cast<const S*>(p_.k.data); }
  Query query(int64_t row) const {
    if (row < p_.queries) return {0, row};  // spares the division where heads share no keys
    return {row / p_.queries, row % p_.queries};
  }
  template <class X>
  X* address(const AttentionOperand& operand, int64_t row) const {
    const Query at = query(row);
    return static_cast<X*>(operand.data) + at.head * operand.head + at.l * operand.row;
  }

  // Panels as wide as there are rows; four vectors left are two and two, not three and a lone one.
  template <class Body>
  void for_each_panel(const Body& body) const {
    int64_t vector = 0;
    while (vector < vectors_) {
      const int64_t left = vectors_ - vector;
      const int64_t width = left == 4 ? 2 : at_most<int64_t>(left, kMaxVectors);
      const int64_t lanes = at_most(width * W, rows_ - vector * W);
      const Panel panel{vector, p_.begin + vector * W, static_cast<int>(lanes)};
      if (width == 3) {
        body.template operator()<3>(panel);
      } else if (width == 2) {
        body.template operator()<2>(panel);
      } else {
        body.template operator()<1>(panel);
      }
      vector += width;
    }
  }

  // Keys that a query may attend to by the causal order and the window.
  Range reach_of(int64_t row) const {
    const int64_t p = query(row).l + p_.offset;
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

  template <int NV>
  [[gnu::flatten]] void begin(const Panel& panel) {
    reach_[panel.vector] = reach_of(panel);
    T* q = q_ + panel.vector * W * p_.depth;
    const double factor = p_.softcap > 0 ? p_.scale / p_.softcap : p_.scale * kLog2E;
    pack_lanes<T, NV>([&](int j) { return address<const S>(p_.q, panel.row + j); }, p_.q.item,
                      panel.lanes, p_.depth, static_cast<T>(factor), q);
    const V lowest(-std::numeric_limits<T>::infinity());
    for (int j = 0; j < NV; ++j) {
      store(top_ + (panel.vector + j) * W, lowest);
      store(sum_ + (panel.vector + j) * W, V(T(0)));
    }
    T* out = out_ + panel.vector * W * padded_depth_;
    for (int64_t i = 0; i < padded_depth_ * NV; ++i) store(out + i * W, V(T(0)));
  }

  [[gnu::flatten]] void pack_keys(const Range& block) {
    for (int64_t s = block.first; s < block.last; ++s) {
      const S* from = keys() + s * p_.k.row;
      T* to = keys_ + (s - block.first) * p_.depth;
      int64_t d = 0;
      if (p_.k.item == 1) {
        for (; d + W <= p_.depth; d += W) store(to + d, load_as<V>(from + d));
      }
      for (; d < p_.depth; ++d) to[d] = convert<T>(from[d * p_.k.item]);
    }
  }

  template <int NV>
  [[gnu::flatten]] void attend(const Panel& panel, const Range& block) {
    const Reach& reach = reach_[panel.vector];
    const Range range{at_least(block.first, reach.any.first), at_most(block.last, reach.any.last)};
    if (range.count() <= 0) return;
    constexpr int64_t kPitch = NV * W;
    const T* q = q_ + panel.vector * W * p_.depth;
    if constexpr (std::is_same_v<S, T>) {
      if (keys_in_place_) {
        const Rows<T> rows{keys() + range.first * p_.k.row, p_.k.row};
        panel_product<NV, T>(range.count(), rows, q, p_.depth, scores_, false);
      }
    }
    if (!keys_in_place_) {
      const Rows<T> rows{keys_ + (range.first - block.first) * p_.depth, p_.depth};
      panel_product<NV, T>(range.count(), rows, q, p_.depth, scores_, false);
    }
    if (p_.softcap > 0) cap<NV>(range.count());
    if (p_.bias.data != nullptr) add_bias<NV>(panel, range);
    if (p_.mask.data != nullptr) apply_mask<NV>(panel, range);
    if (range.first < reach.every.first || range.last > reach.every.last) {
      apply_limits<NV>(panel, range);
    }

    // The running softmax.
    T* const top = top_ + panel.vector * W;
    T* const sum = sum_ + panel.vector * W;
    T* const out = out_ + panel.vector * W * padded_depth_;
    V highest[NV];
    for (int j = 0; j < NV; ++j) highest[j] = load<V>(top + j * W);
    for (int64_t s = 0; s < range.count(); ++s) {
      for (int j = 0; j < NV; ++j) {
        highest[j] = stdx::max(highest[j], load<V>(scores_ + s * kPitch + j * W));
      }
    }
    V total[NV];
    V subtract[NV];
    V decay[NV];
    bool rescale = false;
    for (int j = 0; j < NV; ++j) {
      const V before = load<V>(top + j * W);
      store(top + j * W, highest[j]);
      subtract[j] = highest[j];
      stdx::where(highest[j] == V(-std::numeric_limits<T>::infinity()), subtract[j]) = V(T(0));
      decay[j] = math::exp2_nonpositive<T>(before - subtract[j]);
      total[j] = load<V>(sum + j * W) * decay[j];
      rescale = rescale || stdx::any_of(before != highest[j]);
    }
    for (int64_t s = 0; s < range.count(); ++s) {
      for (int j = 0; j < NV; ++j) {
        T* at = scores_ + s * kPitch + j * W;
        const V p = math::exp2_nonpositive<T>(load<V>(at) - subtract[j]);
        store(at, p);
        total[j] += p;
      }
    }
    for (int j = 0; j < NV; ++j) store(sum + j * W, total[j]);
    if (rescale) {
      for (int64_t d = 0; d < padded_depth_; ++d) {
        for (int j = 0; j < NV; ++j) {
          T* at = out + d * kPitch + j * W;
          store(at, load<V>(at) * decay[j]);
        }
      }
    }

    if constexpr (std::is_same_v<S, T>) {
      if (values_in_place_) {
        const Columns<T> columns{values() + range.first * p_.v.row, p_.v.row};
        panel_product<NV, T>(p_.value_depth, columns, scores_, range.count(), out, true);
        return;
      }
    }
    const Strips<T> strips{values_ + (range.first - block.first) * kStrip, kStrip * block.count()};
    panel_product<NV, T>(padded_depth_, strips, scores_, range.count(), out, true);
  }

  template <int NV>
  [[gnu::flatten]] void cap(int64_t count) {
    const V factor(static_cast<T>(p_.softcap * kLog2E));
    for (int64_t i = 0; i < count * NV; ++i) {
      store(scores_ + i * W, math::tanh<T>(load<V>(scores_ + i * W)) * factor);
    }
  }

  template <int NV>
  [[gnu::flatten]] void add_bias(const Panel& panel, const Range& range) {
    pack_lanes<T, NV>(
        [&](int j) {
          return address<const T>(p_.bias, panel.row + j) + range.first * p_.bias.item;
        },
        p_.bias.item, panel.lanes, range.count(), static_cast<T>(kLog2E), added_);
    for (int64_t i = 0; i < range.count() * NV; ++i) {
      store(scores_ + i * W, load<V>(scores_ + i * W) + load<V>(added_ + i * W));
    }
  }

  template <int NV>
  [[gnu::flatten]] void apply_mask(const Panel& panel, const Range& range) {
    pack_lanes<T, NV>(
        [&](int j) {
          return address<const uint8_t>(p_.mask, panel.row + j) + range.first * p_.mask.item;
        },
        p_.mask.item, panel.lanes, range.count(), T(1), added_);
    for (int64_t i = 0; i < range.count() * NV; ++i) {
      V x = load<V>(scores_ + i * W);
      stdx::where(load<V>(added_ + i * W) == V(T(0)), x) = V(-std::numeric_limits<T>::infinity());
      store(scores_ + i * W, x);
    }
  }

  template <int NV>
  [[gnu::flatten]] void apply_limits(const Panel& panel, const Range& range) {
    constexpr int64_t kPitch = NV * W;
    alignas(64) T first[kPitch];
    alignas(64) T last[kPitch];
    for (int j = 0; j < kPitch; ++j) {
      Range one = range;
      if (j < panel.lanes) {
        const Range mine = reach_of(panel.row + j);
        one = {at_most(mine.first, range.last), at_most(mine.last, range.last)};
      }
      first[j] = static_cast<T>(one.first - range.first);
      last[j] = static_cast<T>(one.last - range.first);
    }
    for (int j = 0; j < NV; ++j) {
      const V low = load<V>(first + j * W);
      const V high = load<V>(last + j * W);
      for (int64_t s = 0; s < range.count(); ++s) {
        T* at = scores_ + s * kPitch + j * W;
        const V here(static_cast<T>(s));
        V x = load<V>(at);
        stdx::where(here < low || here >= high, x) = V(-std::numeric_limits<T>::infinity());
        store(at, x);
      }
    }
  }

  template <int NV>
  [[gnu::flatten]] void finish(const Panel& panel) {
    alignas(64) T inverse[NV * W];
    for (int j = 0; j < NV; ++j) {
      const V sum = load<V>(sum_ + (panel.vector + j) * W);
      V factor = V(T(1)) / sum;
      stdx::where(sum == V(T(0)), factor) = V(T(0));
      store(inverse + j * W, factor);
    }
    unpack_lanes<T, NV>(
        out_ + panel.vector * W * padded_depth_, inverse, panel.lanes, p_.value_depth,
        [&](int j) { return address<S>(p_.out, panel.row + j); }, p_.out.item);
    if (p_.lse.data == nullptr) return;
    for (int j = 0; j < panel.lanes; ++j) {
      const T top = top_[panel.vector * W + j];
      const T sum = sum_[panel.vector * W + j];
      *address<T>(p_.lse, panel.row + j) =
          sum == T(0)
              ? -std::numeric_limits<T>::infinity()
              : static_cast<T>(static_cast<double>(top) * kLn2 + ::log(static_cast<double>(sum)));
    }
  }

  const AttentionRows& p_;
  int64_t rows_;
  int64_t vectors_;
  int64_t padded_depth_;
  bool limited_;
  Reach reach_[kAttentionRows / W + 1];  // by a panel's first vector
  bool keys_in_place_ = false;
  bool values_in_place_ = false;
  T* scores_;  // (keys of a block, lanes of a panel)
  T* top_;     // for each row, the running maximum
  T* sum_;     // and the running sum
  T* q_;       // panels (D, lanes)
  T* out_;     // panels (Dv, lanes)
  T* values_;  // Strips of a block
  T* keys_;    // a block (keys, D)
  T* added_;   // the bias or mask of a tile
};

template <class S, class T>
void run(const AttentionRows& rows) {
  Block<S, T>(rows).run();
}

}  // namespace

AttentionRowsFn* select_attention_rows(DType dtype) {
  switch (dtype) {
    case DType::f32:
      return run<float, float>;
    case DType::f64:
      return run<double, double>;
    case DType::bf16:
      return run<bfloat16, float>;
    default:
      return nullptr;
  }
}

}  // namespace marey::MAREY_ISA_NS
