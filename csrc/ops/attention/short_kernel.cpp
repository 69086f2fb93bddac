// Lanes are the head size in both products, so that rows are read and written as they lie and
// nothing is transposed, which takes as long as the products of eight queries and keys:
//
//   scores (keys, queries) = K Q^T: the products of four queries and keys, added up over lanes
//   O (queries, Dv) = P^T (queries, keys) V (keys, Dv)
//
// Between them lanes are queries: there is one pass over the keys, hence no running maximum, and
// the softmax runs down the keys. Keys and values that do not lie close together are copied first:
// rows of a video's frames lie a multiple of the page apart, where sixteen of them do not fit in
// one set of the cache, and each is read again for every four queries. The next problem's operands
// are fetched while this one is computed, a part at each step, because a core waits when it has
// more fetches than it can keep in flight.
#include "ops/attention/lanes.h"
#include "ops/attention/short.h"

namespace marey::MAREY_ISA_NS {
namespace {

// Rows further apart are copied. As in attention_kernel.cpp.
constexpr int64_t kNearBytes = 1024;
// Vectors of results that a row has in registers at once.
#if defined(__AVX512F__) || defined(__aarch64__)
constexpr int kVectors = 4;
#else
constexpr int kVectors = 2;
#endif

template <class S, class T>
class Problem {
 public:
  using V = Vec<T>;
  static constexpr int W = kLanesOf<T>;
  // Queries and keys whose products are added up at once.
  static constexpr int kQueries = at_most(4, W);
  static constexpr int kKeys = W / kQueries;
  static constexpr bool kMayStream = std::is_same_v<S, T> && W * sizeof(T) == 64;  // whole lines
  static constexpr T kLowest = -std::numeric_limits<T>::infinity();

  explicit Problem(const AttentionRows& p)
      : p_(p),
        queries_(p),
        streaming_(kMayStream && p.streaming),
        all_keys_(p.keys + (p.more_k.data != nullptr ? 1 : 0)),
        depth_(up_to_multiple<int64_t>(p.depth, W)),
        value_depth_(up_to_multiple<int64_t>(p.value_depth, W)) {
    ScratchParts parts(p.scratch);
    parts.take(keys_, kShortKeys * depth_);
    parts.take(values_, kShortKeys * value_depth_);
    parts.take(q_, W * depth_);
    parts.take(scores_, kShortKeys * W);
    parts.take(added_, kShortKeys * W);
  }

  void run() {
    if (!streaming_) fetch_rows<S, true>(p_.out, 0, p_.queries / 2, p_.value_depth);
    const Rows<T> keys = rows_of(p_.k, p_.more_k, p_.depth, depth_, keys_);
    if (p_.next != nullptr) fetch_rows<S>(p_.next->k, 0, p_.keys / 2, p_.depth);
    const Rows<T> values = rows_of(p_.v, p_.more_v, p_.value_depth, value_depth_, values_);
    if (!streaming_) fetch_rows<S, true>(p_.out, p_.queries / 2, p_.queries, p_.value_depth);
    const int64_t rows = p_.end - p_.begin;
    for (int64_t row = 0; row < rows; row += W) {
      attend(Panel{row / W, row, static_cast<int>(at_most<int64_t>(W, rows - row))}, keys, values);
    }
    if (streaming_ && p_.next == nullptr) stream_fence();  // after the thread's last
  }

 private:
  static const S* data(const AttentionOperand& operand) {
    return static_cast<const S*>(operand.data);
  }

  // Rows that whole vectors are read of, where they lie or copied.
  Rows<T> rows_of(const AttentionOperand& x, const AttentionOperand& more, int64_t depth,
                  int64_t pitch, T* copy) const {
    if constexpr (std::is_same_v<S, T>) {
      if (x.item == 1 && depth == pitch && more.data == nullptr &&
          x.row * static_cast<int64_t>(sizeof(T)) <= kNearBytes) {
        return {data(x), x.row};
      }
    }
    copy_padded(data(x), x.row, x.item, p_.keys, depth, copy, pitch);
    if (more.data != nullptr) {
      copy_padded(data(more), 0, more.item, 1, depth, copy + p_.keys * pitch, pitch);
    }
    return {copy, pitch};
  }

  // With zeros up to the pitch.
  [[gnu::noinline, gnu::flatten]] static void copy_padded(const S* from, int64_t stride,
                                                          int64_t step, int64_t rows, int64_t depth,
                                                          T* to, int64_t pitch) {
    for (int64_t i = 0; i < rows; ++i, from += stride, to += pitch) {
      int64_t d = 0;
      if (step == 1) {
        for (; d + W <= depth; d += W) store(to + d, load_as<V>(from + d));
      }
      for (; d < pitch; ++d) to[d] = d < depth ? convert<T>(from[d * step]) : T(0);
    }
  }

  void attend(const Panel& panel, const Rows<T>& keys, const Rows<T>& values) {
    const AttentionRows* const next = panel.row == 0 ? p_.next : nullptr;
    const int64_t half = p_.keys / 2;
    if (next != nullptr) fetch_rows<S>(next->k, half, p_.keys, p_.depth);
    const S* items[W];
    queries_.rows_of(p_.q, panel, 0, items);
    const T* q[W];
    for (int i = 0; i < W; ++i) {
      q[i] = q_ + i * depth_;
      if constexpr (std::is_same_v<S, T>) {
        if (p_.q.item == 1 && p_.depth == depth_) q[i] = items[i];
      }
      if (i < panel.lanes && q[i] == q_ + i * depth_) {
        copy_padded(items[i], 0, p_.q.item, 1, p_.depth, q_ + i * depth_, depth_);
      }
    }
    multiply(q, panel.lanes, keys);
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
    int64_t d = 0;
    for (; d + kVectors * W <= value_depth_; d += kVectors * W) add_up<kVectors>(panel, values, d);
    if (next != nullptr) fetch_rows<S>(next->q, 0, p_.queries, p_.depth);
    for (; d < value_depth_; d += W) add_up<1>(panel, values, d);
  }

  // Scores in units of log2, or of the cap. Where fewer queries or keys are left than are taken at
  // once, the last one is taken again.
  [[gnu::noinline, gnu::flatten]] void multiply(const T* const (&q)[W], int lanes,
                                                const Rows<T>& keys) {
    const V factor(static_cast<T>(p_.softcap > 0 ? p_.scale / p_.softcap : p_.scale * kLog2E));
    for (int lane = 0; lane < lanes; lane += kQueries) {
      const T* query[kQueries];
      for (int i = 0; i < kQueries; ++i) query[i] = q[at_most(lane + i, lanes - 1)];
      for (int64_t s = 0; s < all_keys_; s += kKeys) {
        const T* key[kKeys];
        for (int j = 0; j < kKeys; ++j) {
          key[j] = keys.data + at_most(s + j, all_keys_ - 1) * keys.stride;
        }
        V sum[W];
#pragma GCC unroll 16
        for (int i = 0; i < W; ++i) sum[i] = V(T(0));
        for (int64_t d = 0; d < depth_; d += W) {
          V x[kQueries];
#pragma GCC unroll 4
          for (int i = 0; i < kQueries; ++i) x[i] = load<V>(query[i] + d);
#pragma GCC unroll 4
          for (int j = 0; j < kKeys; ++j) {
            const V y = load<V>(key[j] + d);
#pragma GCC unroll 4
            for (int i = 0; i < kQueries; ++i) multiply_add(sum[j * kQueries + i], x[i], y);
          }
        }
        alignas(64) T scores[W];
        store(scores, sum_of_lanes<T>(sum) * factor);
#pragma GCC unroll 4
        for (int j = 0; j < kKeys; ++j) {
          std::memcpy(scores_ + (s + j) * W + lane, scores + j * kQueries, kQueries * sizeof(T));
        }
      }
    }
  }

  // Vectors of the result from item d on, of as many queries at once.
  template <int NV>
  [[gnu::noinline, gnu::flatten]] void add_up(const Panel& panel, const Rows<T>& values,
                                              int64_t d) {
    for (int lane = 0; lane < panel.lanes; lane += kQueries) {
      V sum[kQueries][NV];
#pragma GCC unroll 4
      for (int i = 0; i < kQueries; ++i) {
#pragma GCC unroll 4
        for (int j = 0; j < NV; ++j) sum[i][j] = V(T(0));
      }
      const T* value = values.data + d;
      const T* weight = scores_ + lane;
      for (int64_t s = 0; s < all_keys_; ++s, value += values.stride, weight += W) {
        V x[NV];
#pragma GCC unroll 4
        for (int j = 0; j < NV; ++j) x[j] = load<V>(value + j * W);
#pragma GCC unroll 4
        for (int i = 0; i < kQueries; ++i) {
          const V p(weight[i]);
#pragma GCC unroll 4
          for (int j = 0; j < NV; ++j) multiply_add(sum[i][j], p, x[j]);
        }
      }
#pragma GCC unroll 4
      for (int i = 0; i < kQueries; ++i) {
        if (lane + i < panel.lanes) write<NV>(panel.row + lane + i, d, sum[i]);
      }
    }
  }

  template <int NV>
  void write(int64_t row, int64_t d, const V (&sum)[NV]) const {
    S* const to = queries_.address<S>(p_.out, row) + d * p_.out.item;
    const int64_t lanes = at_most<int64_t>(NV * W, p_.value_depth - d);
    if constexpr (kMayStream) {
      if (streaming_) {
#pragma GCC unroll 4
        for (int j = 0; j < NV; ++j) stream(to + j * W, sum[j]);
        return;
      }
    }
    if (p_.out.item == 1 && lanes == NV * W) {
#pragma GCC unroll 4
      for (int j = 0; j < NV; ++j) store_as(to + j * W, sum[j]);
      return;
    }
    alignas(64) T items[NV * W];
    for (int j = 0; j < NV; ++j) store(items + j * W, sum[j]);
    for (int64_t i = 0; i < lanes; ++i) assign(to[i * p_.out.item], items[i]);
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

  const AttentionRows& p_;
  const Queries queries_;
  const bool streaming_;
  int64_t all_keys_;
  int64_t depth_, value_depth_;  // up to whole vectors
  T* keys_;                      // (keys, D), unless they are read in place
  T* values_;                    // (keys, Dv)
  T* q_;                         // (lanes, D)
  T* scores_;                    // (keys, lanes)
  T* added_;                     // the bias or mask
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
