// Lanes are queries for the scores, as in the long kernel, and the head size for the result:
//
//   scores (keys, lanes) = K (keys, D) Q^T (D, lanes)
//   O (rows, lanes of Dv) = P^T (rows, keys) V (keys, Dv)
//
// so that the result needs no transpose, which takes as long as the products of eight queries and
// keys. Keys and values are copied first: rows of a video's frames lie a multiple of the page
// apart, where sixteen of them do not fit in one set of the cache, and each is read as often as it
// has items. There is one pass over the keys, hence no running maximum. The next problem's operands
// are fetched while this one is computed, a part at each step, because a core waits when it has
// more fetches than it can keep in flight.
#include "ops/attention/lanes.h"
#include "ops/attention/short.h"

namespace marey::MAREY_ISA_NS {
namespace {

template <class S, class T>
class Problem {
 public:
  using V = Vec<T>;
  static constexpr int W = kLanesOf<T>;
  static constexpr T kLowest = -std::numeric_limits<T>::infinity();

  explicit Problem(const AttentionRows& p)
      : p_(p), queries_(p), all_keys_(p.keys + (p.more_k.data != nullptr ? 1 : 0)) {
    std::byte* memory = p.scratch;
    const auto take = [&](T*& part, int64_t count) {
      part = reinterpret_cast<T*>(memory);
      memory += up_to_multiple<int64_t>(count * static_cast<int64_t>(sizeof(T)), 64);
    };
    take(keys_, kShortKeys * p.depth);
    take(values_, kShortKeys * up_to_multiple<int64_t>(p.value_depth, W));
    take(q_, p.depth * W);
    take(scores_, kShortKeys * W);
    take(added_, kShortKeys * W);
    take(out_, W * kWide * W);
  }

  void run() {
    fetch_rows<S, true>(p_.out, 0, p_.queries / 2, p_.value_depth);
    copy_rows<T, S>(data(p_.k), p_.k.row, p_.k.item, p_.keys, p_.depth, keys_);
    if (all_keys_ > p_.keys) {
      copy_rows<T, S>(data(p_.more_k), 0, p_.more_k.item, 1, p_.depth, keys_ + p_.keys * p_.depth);
    }
    if (p_.next != nullptr) fetch_rows<S>(p_.next->k, 0, p_.keys / 2, p_.depth);
    for_each_depth_panel<W>(p_.value_depth, [&]<int NV>(int64_t d) {
      const int64_t lanes = at_most<int64_t>(NV * W, p_.value_depth - d);
      T* const to = values_ + d * all_keys_;
      copy_panel<NV>(data(p_.v) + d * p_.v.item, p_.v.row, p_.v.item, p_.keys, lanes, to);
      if (all_keys_ > p_.keys) {
        copy_panel<NV>(data(p_.more_v) + d * p_.more_v.item, 0, p_.more_v.item, 1, lanes,
                       to + p_.keys * NV * W);
      }
    });
    fetch_rows<S, true>(p_.out, p_.queries / 2, p_.queries, p_.value_depth);
    const int64_t rows = p_.end - p_.begin;
    for (int64_t row = 0; row < rows; row += W) {
      attend(Panel{row / W, row, static_cast<int>(at_most<int64_t>(W, rows - row))});
    }
  }

 private:
  static const S* data(const AttentionOperand& operand) {
    return static_cast<const S*>(operand.data);
  }

  template <int NV>
  [[gnu::noinline, gnu::flatten]] static void copy_panel(const S* from, int64_t stride,
                                                         int64_t step, int64_t rows, int64_t lanes,
                                                         T* to) {
    for (int64_t s = 0; s < rows; ++s, from += stride, to += NV * W) {
      if (step == 1 && lanes == NV * W) {
        for (int j = 0; j < NV; ++j) store(to + j * W, load_as<V>(from + j * W));
      } else {
        for (int64_t i = 0; i < NV * W; ++i) to[i] = i < lanes ? convert<T>(from[i * step]) : T(0);
      }
    }
  }

  void attend(const Panel& panel) {
    const S* items[W];
    queries_.rows_of(p_.q, panel, 0, items);
    const double factor = p_.softcap > 0 ? p_.scale / p_.softcap : p_.scale * kLog2E;
    gather_lanes<T, S>(items, p_.q.item, p_.depth, static_cast<T>(factor), q_, W);
    const AttentionRows* const next = panel.row == 0 ? p_.next : nullptr;
    const int64_t half = p_.keys / 2;
    if (next != nullptr) fetch_rows<S>(next->k, half, p_.keys, p_.depth);
    panel_product_from<kTileRows[1], 1, T>(all_keys_, Rows<T>{keys_, p_.depth}, q_, p_.depth,
                                           scores_, false);
    if (next != nullptr) fetch_rows<S>(next->v, 0, half, p_.value_depth);
    if (p_.softcap > 0) {
      cap_scores<T>(scores_, all_keys_ * W, static_cast<T>(p_.softcap * kLog2E), nullptr);
    }
    const Range range{0, p_.keys};
    if (p_.bias.data != nullptr) add_bias<T>(queries_, panel, range, 1, scores_, added_);
    if (p_.mask.data != nullptr) apply_mask<T>(queries_, panel, range, 1, scores_, added_);
    if (queries_.limited()) apply_limits<T>(queries_, panel, range, 1, scores_);
    softmax(panel);
    if (next != nullptr) fetch_rows<S>(next->v, half, p_.keys, p_.value_depth);
    for_each_depth_panel<W>(p_.value_depth, [&]<int NV>(int64_t d) {
      // Tiles of eight rows are whole for the sequences in use.
      panel_product_from<at_most(8, kTileRows[NV]), NV, T>(
          panel.lanes, Columns<T>{scores_, W}, values_ + d * all_keys_, all_keys_, out_, false);
      if (next != nullptr && d == 0) fetch_rows<S>(next->q, 0, p_.queries, p_.depth);
      write<NV>(panel, d);
    });
  }

  // Scores become weights.
  [[gnu::noinline, gnu::flatten]] void softmax(const Panel& panel) {
    V top(kLowest);
    for (int64_t s = 0; s < all_keys_; ++s) top = stdx::max(top, load<V>(scores_ + s * W));
    V subtract = top;
    stdx::where(top == V(kLowest), subtract) = V(T(0));
    V sum(T(0));
    for (int64_t s = 0; s < all_keys_; ++s) {
      const V p = math::exp2_nonpositive<T>(load<V>(scores_ + s * W) - subtract);
      store(scores_ + s * W, p);
      sum += p;
    }
    V inverse = V(T(1)) / sum;
    stdx::where(sum == V(T(0)), inverse) = V(T(0));
    for (int64_t s = 0; s < all_keys_; ++s) {
      store(scores_ + s * W, load<V>(scores_ + s * W) * inverse);
    }
    if (p_.lse.data == nullptr) return;
    for (int i = 0; i < panel.lanes; ++i) {
      const T total = sum[static_cast<std::size_t>(i)];
      *queries_.address<T>(p_.lse, panel.row + i) =
          total == T(0)
              ? kLowest
              : static_cast<T>(static_cast<double>(top[static_cast<std::size_t>(i)]) * kLn2 +
                               ::log(static_cast<double>(total)));
    }
  }

  template <int NV>
  [[gnu::noinline, gnu::flatten]] void write(const Panel& panel, int64_t d) {
    const int64_t lanes = at_most<int64_t>(NV * W, p_.value_depth - d);
    for (int i = 0; i < panel.lanes; ++i) {
      S* to = queries_.address<S>(p_.out, panel.row + i) + d * p_.out.item;
      const T* from = out_ + i * NV * W;
      if (p_.out.item == 1 && lanes == NV * W) {
        for (int j = 0; j < NV; ++j) store_as(to + j * W, load<V>(from + j * W));
      } else {
        for (int64_t k = 0; k < lanes; ++k) assign(to[k * p_.out.item], from[k]);
      }
    }
  }

  const AttentionRows& p_;
  const Queries queries_;
  int64_t all_keys_;
  T* keys_;    // (keys, D)
  T* values_;  // panels of the head size (keys, lanes of Dv)
  T* q_;       // (D, lanes)
  T* scores_;  // (keys, lanes)
  T* added_;   // the bias or mask
  T* out_;     // (rows, lanes of a panel of Dv)
};

template <class S, class T>
void run(const AttentionRows& rows) {
  Problem<S, T>(rows).run();
}

}  // namespace

AttentionRowsFn* select_short_attention(DType dtype) {
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
