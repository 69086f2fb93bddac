#pragma once
// Products of float32 by split operands (core/tile_split.h) as the kernels of attention take them,
// for kernel files: panel by panel, with sums that go on in place. Whether sums can be other than
// finite is asked of the operands, of each block once, instead of every sum.
//
// Pairs are of items sixteen apart within a step, in A as in B, instead of neighbours: then two
// vectors make them without a permutation, which takes as long as to split the numbers.
#include "ops/attention/lanes.h"
#if defined(__AMX_BF16__)
#include "core/tile_split.h"
#endif

namespace marey::MAREY_ISA_NS {

class SplitBlock;

#if defined(__AMX_BF16__)

// Rows of split operands lie a cache line more than their items apart, so that they fall in
// different sets.
constexpr int64_t split_pitch(int64_t steps) { return steps * kSplitStep + kSplitDepth; }

// The largest size among float32, as bits: above those of infinity where there are NaN.
class Largest {
 public:
  [[gnu::always_inline]] void among(__m512 x) {
    const __m512i size = _mm512_set1_epi32(0x7FFFFFFF);
    lanes_ = _mm512_max_epu32(lanes_, _mm512_and_si512(_mm512_castps_si512(x), size));
  }
  double size() const {
    const unsigned bits = _mm512_reduce_max_epu32(lanes_);
    return static_cast<double>(std::bit_cast<float>(bits));
  }

 private:
  __m512i lanes_ = _mm512_setzero_si512();
};

// Whether sums of `depth` products may leave the finite numbers; NaN do.
inline bool may_overflow(double a, double b, int64_t depth) {
  return !(a * b * static_cast<double>(depth) < 1e38);
}

// Sums of a block, read or set to zero, and stored, with `between` between the instructions of
// tiles (core/tile_amx.h).
template <int kBlocks, int NV>
[[gnu::always_inline]] inline void begin_sums(const float* c, bool accumulate,
                                              const auto& between) {
  constexpr int64_t kPitch = NV * kTilePitch;
  if (!accumulate) {
    zero_sums<kBlocks, NV>();
    return;
  }
  asm volatile("" ::: "memory");  // GCC's intrinsics for loads do not say that they read memory
  const float* below = c + kTileItems * NV * kTileItems;
  _tile_loadd(0, c, kPitch);
  between();
  if constexpr (NV > 1) _tile_loadd(1, c + kTileItems, kPitch);
  if constexpr (NV > 1) between();
  if constexpr (kBlocks > 1) _tile_loadd(2, below, kPitch);
  if constexpr (kBlocks > 1) between();
  if constexpr (kBlocks > 1 && NV > 1) _tile_loadd(3, below + kTileItems, kPitch);
  if constexpr (kBlocks > 1 && NV > 1) between();
}

template <int kBlocks, int NV>
[[gnu::always_inline]] inline void end_sums(float* c, const auto& between) {
  constexpr int64_t kPitch = NV * kTilePitch;
  float* below = c + kTileItems * NV * kTileItems;
  _tile_stored(0, c, kPitch);
  between();
  if constexpr (NV > 1) _tile_stored(1, c + kTileItems, kPitch);
  if constexpr (NV > 1) between();
  if constexpr (kBlocks > 1) _tile_stored(2, below, kPitch);
  if constexpr (kBlocks > 1) between();
  if constexpr (kBlocks > 1 && NV > 1) _tile_stored(3, below + kTileItems, kPitch);
  if constexpr (kBlocks > 1 && NV > 1) between();
}

// Products with nothing else to do but to fetch what they read next.
struct Alone {};

// C (rows, lanes) = or += A (rows, depth) B (depth, lanes), of `steps` of the depth. C has room for
// rows up to a multiple of sixteen. `other` is work to do between the instructions of tiles, if it
// has any, up to its end.
template <int NV, class Other = Alone>
[[gnu::noinline, gnu::flatten]] void split_panel(int64_t rows, SplitRows a, const Split* b,
                                                 int64_t steps, float* c, bool accumulate,
                                                 const Other& other = {}) {
  constexpr bool kAlone = std::is_same_v<Other, Alone>;
  const TileRegion region;
  prepare_tiles();
  Other beside = other;
  if constexpr (!kAlone) beside.begin();
  const auto between = [&]() __attribute__((always_inline)) {
    if constexpr (kAlone) {
      space_tiles();
    } else {
      beside.work();
    }
  };
  for (; rows > kTileItems; rows -= 2 * kTileItems, a = a.below(2 * kTileItems)) {
    begin_sums<2, NV>(c, accumulate, between);
    add_split<2, NV>(a, b, steps, beside);
    end_sums<2, NV>(c, between);
    c += 2 * kTileItems * NV * kTileItems;
  }
  if (rows > 0) {
    begin_sums<1, NV>(c, accumulate, between);
    add_split<1, NV>(a, b, steps, beside);
    end_sums<1, NV>(c, between);
  }
  if constexpr (!kAlone) {
    while (beside.left()) beside.work();
  }
}

// Takes sums that are not finite again, by multiply-adds: whole ones, that began at zero.
template <int NV>
[[gnu::noinline, gnu::cold]] void mend_sums(int64_t rows, const SplitRows& a, const Split* b,
                                            int64_t steps, float* c) {
  for (int64_t i = 0; i < rows * NV; ++i, c += kTileItems) {
    const __mmask16 odd = not_finite(_mm512_loadu_ps(c));
    if (odd == 0) continue;
    const auto* lanes = reinterpret_cast<const Pair*>(b) + i % NV * kTileItems;
    const Vec<float> again = split_sums<NV>(a.data + i / NV * a.stride, lanes, steps);
    _mm512_mask_storeu_ps(c, odd, static_cast<__m512>(again));
  }
}

// Where the first part of item k of the depth lies in a panel, and of that sixteen further.
template <int NV>
[[gnu::always_inline]] inline Pair* split_row(Split* b, int64_t k) {
  constexpr int64_t kLanes = NV * kTileItems;
  return reinterpret_cast<Pair*>(b + k / kSplitDepth * kTileItems * kLanes) +
         k % kTileItems * kLanes;
}

// Rows as split ones, zeros behind the depth.
[[gnu::noinline, gnu::flatten]] inline void split_items(const float* from, int64_t stride,
                                                        int64_t step, int64_t rows, int64_t depth,
                                                        bfloat16* to, int64_t pitch,
                                                        Largest& largest) {
  for (int64_t i = 0; i < rows; ++i, from += stride, to += pitch) {
    for (int64_t k = 0; k < depth; k += kSplitDepth) {
      const __m512 low = load_some(from + k * step, step, depth - k);
      const __m512 high = load_some(from + (k + kTileItems) * step, step, depth - k - kTileItems);
      largest.among(low);
      largest.among(high);
      store_split_pairs(low, high, to + k * kSplitParts, kSplitDepth);
    }
  }
}

// The same of columns: item (k, i) of a matrix of `depth` rows is item k of row i.
[[gnu::noinline, gnu::flatten]] inline void split_columns(const float* from, int64_t stride,
                                                          int64_t step, int64_t rows, int64_t depth,
                                                          bfloat16* to, int64_t pitch,
                                                          Largest& largest) {
  alignas(64) float turned[kTileItems * kTileItems];
  for (int64_t k = 0; k < depth; k += kSplitDepth) {
    for (int64_t i = 0; i < rows; i += kTileItems) {
      Vec<float> square[kTileItems];
      const auto turn = [&](int64_t first) {
#pragma GCC unroll 16
        for (int j = 0; j < kTileItems; ++j) {
          const int64_t row = first + j;
          const __m512 x =
              load_some(from + row * stride + i * step, step, row < depth ? rows - i : 0);
          largest.among(x);
          square[j] = Vec<float>(x);
        }
        transpose<float>(square);
      };
      turn(k);
#pragma GCC unroll 16
      for (int j = 0; j < kTileItems; ++j) store(turned + j * kTileItems, square[j]);
      turn(k + kTileItems);
      bfloat16* at = to + i * pitch + k * kSplitParts;
#pragma GCC unroll 16
      for (int j = 0; j < kTileItems; ++j) {
        store_split_pairs(_mm512_load_ps(turned + j * kTileItems), static_cast<__m512>(square[j]),
                          at + j * pitch, kSplitDepth);
      }
    }
  }
}

// A panel of `lanes` lanes from rows of as many.
[[gnu::noinline, gnu::flatten]] inline void split_lanes(const float* from, int64_t depth,
                                                        int64_t lanes, Split* to,
                                                        Largest& largest) {
  for (int64_t k = 0; k < depth; k += kSplitDepth, to += kTileItems * lanes) {
    Pair* row = reinterpret_cast<Pair*>(to);
    for (int64_t i = k; i < k + kTileItems; ++i, row += lanes) {
      for (int64_t j = 0; j < lanes; j += kTileItems) {
        const auto at = [&](int64_t item) {
          return item < depth ? _mm512_load_ps(from + item * lanes + j) : _mm512_setzero_ps();
        };
        const __m512 low = at(i);
        const __m512 high = at(i + kTileItems);
        largest.among(low);
        largest.among(high);
        store_split_pairs(low, high, row + j, 2 * kTileItems * lanes);
      }
    }
  }
}

// C (items, lanes) += the rows of `from` (keys, items), turned, times B (keys, lanes), by
// multiply-adds, for keys [first, last) of B. Infinite and NaN items come out as of float32.
template <int NV>
[[gnu::noinline, gnu::cold]] void add_unsplit(const float* from, int64_t stride, int64_t step,
                                              int64_t items, Split* b, int64_t first, int64_t last,
                                              float* c) {
  constexpr int64_t kLanes = NV * kTileItems;
  const __m512i upper = _mm512_set1_epi32(static_cast<int>(0xFFFF0000U));
  for (int64_t key = first; key < last; ++key, from += stride) {
    for (int j = 0; j < NV; ++j) {
      const Pair* at = split_row<NV>(b, key) + j * kTileItems;
      __m512 parts[kSplitParts];
      for (int part = 0; part < kSplitParts; ++part) {
        const __m512i pair = _mm512_load_si512(at + part * kTileItems * kLanes);
        parts[part] =
            _mm512_castsi512_ps(key % kSplitDepth < kTileItems ? _mm512_slli_epi32(pair, 16)
                                                               : _mm512_and_si512(pair, upper));
      }
      const __m512 weight = _mm512_add_ps(parts[0], _mm512_add_ps(parts[1], parts[2]));
      for (int64_t d = 0; d < items; ++d) {
        float* sum = c + d * kLanes + j * kTileItems;
        _mm512_store_ps(
            sum, _mm512_fmadd_ps(_mm512_set1_ps(from[d * step]), weight, _mm512_load_ps(sum)));
      }
    }
  }
}

// The weights of a panel, which waits for them while tiles multiply the next one's scores: two
// vectors of scores at a time become exponentials, and those the parts of pairs.
template <int NV>
class MakeWeights {
 public:
  static constexpr int64_t kLanes = NV * kTileItems;

  // Of `count` scores, for which there is room up to whole steps and which their weights replace:
  // those begin `before` items before them. `lanes` has what is to be subtracted from each
  // lane's scores, then its total.
  MakeWeights(float* scores, int64_t count, int64_t before, float* lanes)
      : from_(scores), lanes_(lanes), steps_(split_steps(count)) {
    const __m512 none = _mm512_set1_ps(-std::numeric_limits<float>::infinity());
    for (int64_t i = count * kLanes; i < steps_ * kSplitDepth * kLanes; i += kTileItems) {
      _mm512_store_ps(scores + i, none);
    }
    back_ = steps_ * kStep - before;
    // As variables, which are kept, and not as constants, which are made again for each use.
    asm volatile("" : "+v"(halves_.upper), "+v"(halves_.rounding), "+k"(halves_.high));
  }

  [[gnu::always_inline]] void begin() { second_ = false; }
  [[gnu::always_inline]] bool left() const { return steps_ > 0; }

  // One vector. Which of two it is the compiler knows, where the calls between two are as many.
#if defined(__SANITIZE_ADDRESS__)  // in line some forty times, it takes minutes to compile
  [[gnu::noinline]]
#else
  [[gnu::always_inline]]
#endif
  void work() {
    second_ = !second_;
    if (steps_ == 0) return;
    float* const subtract = lanes_ + (vectors_ & (NV - 1)) * kTileItems;
    if (second_) {
      low_ = weight(from_, subtract);
      return;
    }
    const __m512 high = weight(from_ + kStep, subtract);
    float* const total = subtract + kLanes;
    _mm512_store_ps(total, _mm512_add_ps(_mm512_add_ps(_mm512_load_ps(total), low_), high));
    store_split_pairs(low_, high, from_ + back_ - steps_ * kStep, 2 * kStep, halves_);
    from_ += kTileItems;
    if (--vectors_ > 0) return;
    vectors_ = kTileItems * NV;
    from_ += kStep;
    --steps_;
  }

 private:
  static constexpr int64_t kStep = kTileItems * kLanes;  // half of a step's scores

  [[gnu::always_inline]] static __m512 weight(const float* score, const float* subtract) {
    const __m512 x = _mm512_sub_ps(_mm512_load_ps(score), _mm512_load_ps(subtract));
    return static_cast<__m512>(math::exp2_nonpositive<float>(Vec<float>(x)));
  }

  float* from_;
  float* lanes_;
  int64_t steps_;
  int64_t back_;
  int64_t vectors_ = kTileItems * NV;
  bool second_ = false;
  __m512 low_ = _mm512_setzero_ps();
  Halves halves_;
};

// A block of keys and values as split operands, for the forward kernel.
class SplitBlock {
 public:
  void begin(const AttentionRows& p, int64_t lanes, ScratchParts& parts) {
    steps_ = split_steps(p.depth);
    pitch_ = split_pitch(steps_);
    lanes_ = lanes;
    parts.take(keys_, kAttentionKeys * pitch_);
    parts.take(values_, up_to_multiple<int64_t>(p.value_depth, kTileItems) * kValuePitch);
    parts.take(weights_, lanes * kAttentionKeys / 2);
    parts.take(next_, lanes * kAttentionKeys / 2);
    parts.take(of_lanes_, 2 * lanes);
  }

  // Memory for the scores of a panel: the end of that of their weights, which replace them step by
  // step. Of two, since one panel's scores wait while the next one's are made.
  float* scores_memory() const {
    return reinterpret_cast<float*>(next_) + lanes_ * kAttentionKeys / 2;
  }

  // Items [first, first + depth) of the queries under the lanes of a panel.
  void pack_queries(const float* from, int64_t first, int64_t depth, int64_t lanes, Split* to) {
    split_lanes(from, depth, lanes, to + first / 2 * lanes, query_size_);
  }

  void pack(const AttentionRows& p, const Range& block) {
    const auto* k = static_cast<const float*>(p.k.data) + block.first * p.k.row;
    const auto* v = static_cast<const float*>(p.v.data) + block.first * p.v.row;
    Largest key;
    Largest value;
    split_items(k, p.k.row, p.k.item, block.count(), p.depth, keys_, pitch_, key);
    split_columns(v, p.v.row, p.v.item, p.value_depth, block.count(), values_, kValuePitch, value);
    large_scores_ = may_overflow(key.size(), query_size_.size(), p.depth);
    large_values_ = may_overflow(value.size(), 1.0, p.keys);
  }

  // Of keys from `first` of the block on, while the weights of the panel that waits are made.
  template <int NV>
  void scores(int64_t first, int64_t count, const Split* q) {
    const SplitRows rows{keys_ + first * pitch_, pitch_};
    float* const to = scores_memory();
    bool alone = true;
    if constexpr (NV == kWide) {
      if (waiting_ > 0) {
        split_panel<NV>(count, rows, q, steps_, to, false, waiting<NV>());
        waiting_ = 0;
        alone = false;
      }
    }
    if (alone) split_panel<NV>(count, rows, q, steps_, to, false);
    if (large_scores_) mend_sums<NV>(count, rows, q, steps_, to);
  }

  // `count` scores, done but for their exponentials, 2^(x - subtract), which are added to total.
  template <int NV>
  void wait(int64_t count, int vector, Vec<float> subtract, Vec<float> total) {
    store(of_lanes_ + vector * kTileItems, subtract);
    store(of_lanes_ + (NV + vector) * kTileItems, total);
    waiting_ = count;
  }
  void swap() { std::swap(weights_, next_); }

  // What waits has its weights once this is called, and its totals.
  template <int NV>
  const float* end_wait() {
    MakeWeights<NV> weights = waiting<NV>();
    while (waiting_ > 0 && weights.left()) weights.work();
    waiting_ = 0;
    return of_lanes_ + NV * kTileItems;
  }

  // The values times their weights, which are of keys from `first` of the block on; keys before
  // `seen` have none.
  template <int NV>
  void add_values(const AttentionRows& p, const Range& block, int64_t first, int64_t seen,
                  int64_t count, float* out) const {
    if (large_values_) {
      const auto* v = static_cast<const float*>(p.v.data) + (block.first + seen) * p.v.row;
      add_unsplit<NV>(v, p.v.row, p.v.item, p.value_depth, weights_, seen - first, count, out);
    } else {
      const SplitRows rows{values_ + first * kSplitParts, kValuePitch};
      split_panel<NV>(p.value_depth, rows, weights_, split_steps(count), out, true);
    }
  }

 private:
  static constexpr int64_t kValuePitch = split_pitch(kAttentionKeys / kSplitDepth);

  template <int NV>
  MakeWeights<NV> waiting() const {
    const int64_t before = lanes_ * kAttentionKeys / 2;
    return {reinterpret_cast<float*>(weights_) + before, waiting_, before, of_lanes_};
  }

  int64_t steps_, pitch_, lanes_;
  int64_t waiting_ = 0;  // keys
  bfloat16* keys_;       // (keys, D)
  bfloat16* values_;     // (Dv, keys)
  Split* weights_;       // (keys, lanes of a panel), or scores that become them
  Split* next_;          // those of the next panel
  float* of_lanes_;      // of the panel that waits: what is subtracted, and the totals
  Largest query_size_;
  bool large_scores_ = false;
  bool large_values_ = false;
};

#endif

}  // namespace marey::MAREY_ISA_NS
