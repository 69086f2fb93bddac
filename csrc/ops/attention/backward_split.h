#pragma once
// The backward kernel's operands as split ones, for kernel files (ops/attention/split.h).
#include "ops/attention/backward.h"
#include "ops/attention/split.h"

namespace marey::MAREY_ISA_NS {

class SplitGradients;

#if defined(__AMX_BF16__)

class SplitGradients {
 public:
  static constexpr int64_t kKeys = 64;  // in a block

  // `rows` of the call, up to whole panels, each of them `lanes` wide.
  void begin(const AttentionRows& p, int64_t rows, int64_t lanes, const auto& take) {
    rows_ = rows;
    steps_ = split_steps(p.depth);
    value_steps_ = split_steps(p.value_depth);
    pitch_ = split_pitch(steps_);
    value_pitch_ = split_pitch(value_steps_);
    take(q_, rows * steps_ * kTileItems);
    take(grad_, rows * value_steps_ * kTileItems);
    take(q_rows_, rows / 2 * padded_depth(p.depth));
    take(grad_rows_, rows / 2 * padded_depth(p.value_depth));
    take(keys_, kKeys * pitch_);
    take(values_, kKeys * value_pitch_);
    take(key_columns_, padded_depth(p.depth) * kColumnPitch);
    take(weight_rows_, kKeys * kRowPitch);
    take(grad_score_rows_, kKeys * kRowPitch);
    take(grad_score_pairs_, kKeys / 2 * lanes);
  }

  // Whether the products of these operands, and those of their products, are sure to be finite.
  static bool stay_finite(const Queries& queries, const AttentionBackwardRows& b,
                          const Range& keys) {
    const AttentionRows& p = b.forward;
    Largest largest;
    const auto among = [&](const float* row, int64_t step, int64_t items) {
      for (int64_t d = 0; d < items; d += kTileItems) {
        largest.among(load_some(row + d * step, step, items - d));
      }
    };
    for (int64_t s = keys.first; s < keys.last; ++s) {
      among(static_cast<const float*>(p.k.data) + s * p.k.row, p.k.item, p.depth);
      among(static_cast<const float*>(p.v.data) + s * p.v.row, p.v.item, p.value_depth);
    }
    for (int64_t row = p.begin; row < p.end; ++row) {
      among(queries.address<const float>(p.q, row), p.q.item, p.depth);
      among(queries.address<const float>(b.grad, row), b.grad.item, p.value_depth);
    }
    return largest.size() < 1e9;
  }

  // Queries, or gradients, under the lanes of the panel from vector `vector` on: items [first,
  // first
  // + depth) of them.
  void pack_queries(const float* from, int64_t vector, int64_t first, int64_t depth,
                    int64_t lanes) {
    pack_lanes(from, first, depth, lanes, q_ + vector * kTileItems * steps_ * kTileItems);
  }
  void pack_grads(const float* from, int64_t vector, int64_t first, int64_t depth, int64_t lanes) {
    pack_lanes(from, first, depth, lanes, grad_ + vector * kTileItems * value_steps_ * kTileItems);
  }
  // The same as depth: a step of them, `lanes` of the head size from `first` on.
  void pack_query_rows(const float* from, int64_t vector, int64_t first, int64_t lanes) {
    pack_lanes(from, 0, kSplitDepth, lanes, q_rows_ + first * (rows_ / 2) + vector * 8 * lanes);
  }
  void pack_grad_rows(const float* from, int64_t vector, int64_t first, int64_t lanes) {
    pack_lanes(from, 0, kSplitDepth, lanes, grad_rows_ + first * (rows_ / 2) + vector * 8 * lanes);
  }

  void pack(const AttentionRows& p, const Range& block) {
    const auto* k = static_cast<const float*>(p.k.data) + block.first * p.k.row;
    const auto* v = static_cast<const float*>(p.v.data) + block.first * p.v.row;
    Largest any;
    split_items(k, p.k.row, p.k.item, block.count(), p.depth, keys_, pitch_, any);
    split_items(v, p.v.row, p.v.item, block.count(), p.value_depth, values_, value_pitch_, any);
    split_columns(k, p.k.row, p.k.item, p.depth, block.count(), key_columns_, kColumnPitch, any);
  }

  // Of keys from `at` of the block on.
  template <int NV>
  void scores(int64_t at, int64_t count, int64_t vector, float* to) const {
    split_panel<NV>(count, {keys_ + at * pitch_, pitch_},
                    q_ + vector * kTileItems * steps_ * kTileItems, steps_, to, false);
  }
  template <int NV>
  void grads(int64_t at, int64_t count, int64_t vector, float* to) const {
    split_panel<NV>(count, {values_ + at * value_pitch_, value_pitch_},
                    grad_ + vector * kTileItems * value_steps_ * kTileItems, value_steps_, to,
                    false);
  }

  // Weights and the gradients of scores (keys, lanes), the latter by pairs of keys too.
  template <int NV>
  [[gnu::noinline, gnu::flatten]] void set_weights(int64_t count, const float* weights,
                                                   const float* grads) {
    constexpr int64_t kLanes = NV * kTileItems;
    const auto at = [&](const float* from, int64_t s, int j) {
      return s < count ? _mm512_load_ps(from + s * kLanes + j * kTileItems) : _mm512_setzero_ps();
    };
    for (int64_t step = 0; step < count; step += kSplitDepth) {
      for (int64_t s = step; s < step + kTileItems; ++s) {
        const __m512 low[2] = {at(grads, s, 0), NV > 1 ? at(grads, s, 1) : _mm512_setzero_ps()};
        const int64_t then = s + kTileItems;
        const __m512 high[2] = {at(grads, then, 0),
                                NV > 1 ? at(grads, then, 1) : _mm512_setzero_ps()};
        store_split_pairs(low[0], low[1], grad_score_rows_ + s * kRowPitch, kSplitDepth);
        store_split_pairs(high[0], high[1], grad_score_rows_ + then * kRowPitch, kSplitDepth);
        for (int j = 0; j < NV; ++j) {
          store_split_pairs(low[j], high[j], split_row<NV>(grad_score_pairs_, s) + j * kTileItems,
                            2 * kTileItems * kLanes);
        }
      }
      for (int64_t s = step; s < step + kSplitDepth; ++s) {
        store_split_pairs(at(weights, s, 0), NV > 1 ? at(weights, s, 1) : _mm512_setzero_ps(),
                          weight_rows_ + s * kRowPitch, kSplitDepth);
      }
    }
  }

  // The gradients of scores times keys from `at` of the block on.
  template <int NV>
  void add_queries(const AttentionRows& p, int64_t at, int64_t count, float* sums) const {
    split_panel<NV>(p.depth, {key_columns_ + at * kSplitParts, kColumnPitch}, grad_score_pairs_,
                    split_steps(count), sums, true);
  }
  // The gradients of scores, turned, times queries, for NV vectors of the head size; weights, times
  // gradients.
  template <int NV>
  void add_keys(int64_t count, int64_t vector, int64_t first, float* sums) const {
    split_panel<NV>(count, {grad_score_rows_, kRowPitch},
                    q_rows_ + first * (rows_ / 2) + vector * 8 * NV * kTileItems, 1, sums, true);
  }
  template <int NV>
  void add_values(int64_t count, int64_t vector, int64_t first, float* sums) const {
    split_panel<NV>(count, {weight_rows_, kRowPitch},
                    grad_rows_ + first * (rows_ / 2) + vector * 8 * NV * kTileItems, 1, sums, true);
  }

 private:
  static constexpr int64_t kColumnPitch = split_pitch(kKeys / kSplitDepth);
  static constexpr int64_t kRowPitch = split_pitch(1);

  static void pack_lanes(const float* from, int64_t first, int64_t depth, int64_t lanes,
                         Split* to) {
    Largest any;
    split_lanes(from, depth, lanes, to + first / 2 * lanes, any);
  }

  int64_t rows_, steps_, value_steps_, pitch_, value_pitch_;
  Split* q_;                   // panels of lanes (D, lanes)
  Split* grad_;                // panels of lanes (Dv, lanes)
  Split* q_rows_;              // panels of the head size (rows, lanes of D)
  Split* grad_rows_;           // panels of the head size (rows, lanes of Dv)
  bfloat16* keys_;             // a block (keys, D)
  bfloat16* values_;           // a block (keys, Dv)
  bfloat16* key_columns_;      // a block (D, keys)
  bfloat16* weight_rows_;      // (keys, lanes of a panel)
  bfloat16* grad_score_rows_;  // (keys, lanes of a panel)
  Split* grad_score_pairs_;    // (keys, lanes of a panel)
};

#endif

}  // namespace marey::MAREY_ISA_NS
