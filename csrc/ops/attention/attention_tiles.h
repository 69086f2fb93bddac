#pragma once
// Attention of bfloat16 by the tiles of AMX, for attention_kernel.cpp. Rows are queries here, so
// that keys and values are packed once for all queries of a call, and weights are an operand as
// they lie:
//
//   scores (rows, keys) = Q (rows, D) K^T (D, keys)      Q stays in tiles while keys pass
//   O (rows, Dv)       += P (rows, keys) V (keys, Dv)
//
// A panel is two tiles of rows, or one. The scores of a block of 256 keys are stored (34 KiB),
// become weights in place, and are multiplied with the values. What tiles load and store counts
// beside their products, above all where another thread shares the core: with D = Dv = 64, for
// eight products of each kind, four loads and four stores for scores, nine loads and one store for
// O.
//
// Scores are in units of log2. What is subtracted from them is not their running maximum but a
// whole number (0 if the sizes of queries and keys say that no score is far from it, so that
// nobody looks for the maximum; else one from which the maximum is less than kSlack away). Sums and
// O are scaled by powers of two when it moves, which is exact, so that no bit of a result depends
// on when. Being whole, it goes into the addition that rounds a score to a sixteenth
// (attention_exp2.h).
//
// Measured on two virtual cores of an Emerald Rapids, (1, 8, 4096, 64): products of scores take a
// quarter of the time, those of weights and values a little more. Tried without gain: blocks of 128
// keys, of 64 (a fifth slower), values fetched while weights are computed. Products of one panel
// while another's exponentials are computed: a core that no other thread shares does either: four
// products of tiles, 67 cycles, and 128 multiply-adds of vectors, 68, take 133 together, however
// they are mixed. Fewer of these do hide, and where the core is shared all do.
#include "ops/attention/attention_exp2.h"
#include "ops/attention/lanes.h"

namespace marey::MAREY_ISA_NS {

class TileAttention {
 public:
  static constexpr int W = 16;
  static constexpr int64_t kKeys = kAttentionTileKeys;
  static constexpr int64_t kPitch = kKeys + 16;  // of a row of scores, so that tiles' rows meet
                                                 // in no set of the cache
  static constexpr int64_t kKeysOfTile = 32;
  static constexpr int64_t kPanel = 32;
  static constexpr int64_t kTile = 512;  // items of bfloat16
  static constexpr float kLowest = -std::numeric_limits<float>::infinity();

  explicit TileAttention(const AttentionRows& p)
      : p_(p),
        queries_(p_),
        rows_(up_to_multiple<int64_t>(p.end - p.begin, W)),
        depth_tiles_((p.depth + 31) / 32),
        value_tiles_((p.value_depth + 15) / 16) {
    ScratchParts parts(p.scratch);
    parts.take(scores_, kPanel * kPitch);
    parts.take(reference_, rows_);
    parts.take(sum_, rows_ * W);
    parts.take(norm_, rows_ / kPanel + 1);
    parts.take(empty_, rows_ / kPanel + 1);
    parts.take(q_, rows_ * depth_tiles_ * 32);
    parts.take(out_, rows_ * value_tiles_ * 16);
    parts.take(keys_, kKeys / 16 * depth_tiles_ * kTile);
    parts.take(values_, kKeys / kKeysOfTile * value_tiles_ * kTile);
    factor_ = static_cast<float>(p.softcap > 0 ? p.scale / p.softcap : p.scale * kLog2E);
    late_factor_ = p.softcap <= 0 && p.bias.data == nullptr && factor_ > 0;
  }

  void run() {
    const TileRegion region;
    prepare_tiles();
    int64_t low = queries_.limited() ? p_.keys : 0;
    int64_t high = queries_.limited() ? 0 : p_.keys;
    for_each_panel([&]<int kBlocks>(const Panel& panel) {
      begin(panel);
      if (!queries_.limited()) return;
      const Range any = queries_.reach_of(panel).any;
      low = at_most(low, any.first);
      high = at_least(high, any.last);
    });
    for (int64_t first = low / kKeys * kKeys; first < high; first += kKeys) {
      const Range block{first, at_most(first + kKeys, p_.keys)};
      pack(block);
      const Range next{block.last, at_most(block.last + kKeys, high)};
      for_each_panel([&]<int kBlocks>(const Panel& panel) {
        fetch(panel, next);
        attend<kBlocks>(panel, block);
      });
    }
    if (p_.more_k.data != nullptr) attend_one_more();
    for_each_panel([&]<int kBlocks>(const Panel& panel) { finish(panel); });
  }

 private:
  // panel.vector: the first row's place in the call.
  template <class Body>
  void for_each_panel(const Body& body) const {
    const int64_t rows = p_.end - p_.begin;
    for (int64_t done = 0; done < rows; done += kPanel) {
      const auto count = static_cast<int>(at_most(rows - done, kPanel));
      const Panel panel{done, p_.begin + done, count};
      if (count > 16) {
        body.template operator()<2>(panel);
      } else {
        body.template operator()<1>(panel);
      }
    }
  }

  bfloat16* q(const Panel& panel) const { return q_ + panel.vector * depth_tiles_ * 32; }
  float* out(const Panel& panel) const { return out_ + panel.vector * value_tiles_ * 16; }
  static int64_t padded(const Panel& panel) { return panel.lanes > 16 ? 32 : 16; }

  // Up to 32 items of a row, then zeros.
  static __m512i items(const bfloat16* from, int64_t step, int64_t count) {
    if (step == 1) {
      if (count >= 32) return _mm512_loadu_si512(from);
      return _mm512_maskz_loadu_epi16((__mmask32{1} << count) - 1, from);
    }
    alignas(64) bfloat16 row[32] = {};
    for (int64_t d = 0; d < at_most<int64_t>(count, 32); ++d) row[d] = from[d * step];
    return _mm512_load_si512(row);
  }

  static __m512 add_squares(__m512 sum, __m512i pairs) {
    return _mm512_dpbf16_ps(sum, std::bit_cast<__m512bh>(pairs), std::bit_cast<__m512bh>(pairs));
  }
  // The largest, or NaN if one is.
  static float worst(float before, const Vec<float>& sizes) {
    if (stdx::any_of(sizes != sizes)) return std::numeric_limits<float>::quiet_NaN();
    const float largest = stdx::hmax(sizes);
    return before >= largest || before != before ? before : largest;
  }

  [[gnu::noinline, gnu::flatten]] void begin(const Panel& panel) {
    bfloat16* to = q(panel);
    float size = 0.0F;
    for (int64_t first = 0; first < padded(panel); first += 16) {
      Vec<float> squares[16];
      for (int64_t i = 0; i < 16; ++i) {
        const bool real = first + i < panel.lanes;
        const auto* from =
            real ? queries_.address<const bfloat16>(p_.q, panel.row + first + i) : nullptr;
        __m512 sum = _mm512_setzero_ps();
        for (int64_t d = 0; d < p_.depth; d += 32, to += 32) {
          const __m512i some =
              real ? items(from + d * p_.q.item, p_.q.item, p_.depth - d) : _mm512_setzero_si512();
          _mm512_storeu_si512(to, some);
          sum = add_squares(sum, some);
        }
        squares[i] = Vec<float>(sum);
        store(sum_ + (panel.vector + first + i) * W, Vec<float>(0.0F));
      }
      size = worst(size, sum_of_lanes<float>(squares));
      store(reference_ + panel.vector + first, Vec<float>(kLowest));
    }
    norm_[panel.vector / kPanel] = size;
    empty_[panel.vector / kPanel] = true;
  }

  // What comes next, while a panel is computed: a share of the next block's keys and values, or, if
  // this is the last, where its results go.
  void fetch(const Panel& panel, const Range& next) const {
    if (next.count() <= 0) {
      for (int i = 0; i < panel.lanes; ++i) {
        AttentionOperand row = p_.out;
        row.data = queries_.address<bfloat16>(p_.out, panel.row + i);
        fetch_rows<bfloat16, true>(row, 0, 1, p_.value_depth);
      }
      return;
    }
    const int64_t rows = p_.end - p_.begin;
    const int64_t begin = panel.row - p_.begin;
    const int64_t first = next.first + next.count() * begin / rows;
    const int64_t last = next.first + next.count() * (begin + panel.lanes) / rows;
    fetch_rows<bfloat16>(p_.k, first, last, p_.depth);
    fetch_rows<bfloat16>(p_.v, first, last, p_.value_depth);
  }

  // Keys: for each sixteen of them tiles (pairs of the depth, keys). Values: for each 32 of them
  // tiles (pairs of keys, head size). What is missing is zero.
  [[gnu::noinline, gnu::flatten]] void pack(const Range& block) {
    const int64_t padded = up_to_multiple(block.count(), kKeysOfTile);
    const auto* k = static_cast<const bfloat16*>(p_.k.data) + block.first * p_.k.row;
    bfloat16* to = keys_;
    key_norm_ = 0.0F;
    for (int64_t s = 0; s < padded; s += 16) {
      __m512 squares = _mm512_setzero_ps();
      for (int64_t d = 0; d < p_.depth; d += 32, to += kTile) {
        const int64_t keys = block.count() - s;
        const bfloat16* from = k + s * p_.k.row + d * p_.k.item;
        Vec<float> square[16];
        if (p_.k.item == 1 && keys >= 16 && p_.depth - d >= 32) {
#pragma GCC unroll 16
          for (int i = 0; i < 16; ++i) {
            square[i] = std::bit_cast<Vec<float>>(_mm512_loadu_si512(from + i * p_.k.row));
          }
        } else {
          for (int i = 0; i < 16; ++i) {
            square[i] = std::bit_cast<Vec<float>>(
                i < keys ? items(from + i * p_.k.row, p_.k.item, p_.depth - d)
                         : _mm512_setzero_si512());
          }
        }
        transpose<float>(square);
#pragma GCC unroll 16
        for (int i = 0; i < 16; ++i) {
          _mm512_storeu_si512(to + i * 32, std::bit_cast<__m512i>(square[i]));
          squares = add_squares(squares, std::bit_cast<__m512i>(square[i]));
        }
      }
      key_norm_ = worst(key_norm_, Vec<float>(squares));
    }
    const auto* v = static_cast<const bfloat16*>(p_.v.data) + block.first * p_.v.row;
    for (int64_t s = 0; s < padded; s += kKeysOfTile) {
      to = values_ + s / kKeysOfTile * value_tiles_ * kTile;
      for (int64_t d = 0; d < p_.value_depth; d += 32, to += 2 * kTile) {
        const int64_t keys = block.count() - s;
        const bfloat16* from = v + s * p_.v.row + d * p_.v.item;
        if (p_.v.item == 1 && keys >= 32 && p_.value_depth - d >= 32) {
#pragma GCC unroll 4
          for (int64_t i = 0; i < 16; ++i) {
            interleave(_mm512_loadu_si512(from + 2 * i * p_.v.row),
                       _mm512_loadu_si512(from + (2 * i + 1) * p_.v.row), to + i * 32, true);
          }
        } else {
          const auto row = [&](int64_t i) {
            return i < keys ? items(from + i * p_.v.row, p_.v.item, p_.value_depth - d)
                            : _mm512_setzero_si512();
          };
          for (int64_t i = 0; i < 16; ++i) {
            interleave(row(2 * i), row(2 * i + 1), to + i * 32, p_.value_depth - d > 16);
          }
        }
      }
    }
  }
  // A row of pairs of each of two tiles.
  [[gnu::always_inline]] static void interleave(__m512i even, __m512i odd, bfloat16* to,
                                                bool both) {
    // Unpacking is by quarters of a vector: now it finds the first sixteen items below.
    const __m512i order = _mm512_setr_epi64(0, 4, 1, 5, 2, 6, 3, 7);
    even = _mm512_permutexvar_epi64(order, even);
    odd = _mm512_permutexvar_epi64(order, odd);
    _mm512_storeu_si512(to, _mm512_unpacklo_epi16(even, odd));
    if (both) _mm512_storeu_si512(to + kTile, _mm512_unpackhi_epi16(even, odd));
  }

  void attend_one_more() {
    p_.k = p_.more_k;
    p_.v = p_.more_v;
    p_.mask = p_.bias = {};
    p_.keys = 1;
    p_.left = p_.right = AttentionOptions::kUnlimited;
    queries_ = Queries(p_);
    const Range block{0, 1};
    pack(block);
    for_each_panel([&]<int kBlocks>(const Panel& panel) { attend<kBlocks>(panel, block); });
  }

  template <int kBlocks>
  [[gnu::noinline]] void attend(const Panel& panel, const Range& block) {
    const Reach reach = queries_.reach_of(panel);
    Range range{at_least(block.first, reach.any.first), at_most(block.last, reach.any.last)};
    if (range.count() <= 0) return;
    // Whole tiles of keys, which are summed in the same parts whatever the rows see.
    const int64_t skipped = (range.first - block.first) / kKeysOfTile * kKeysOfTile;
    range.first = block.first + skipped;
    const int64_t keys = up_to_multiple(range.count(), kKeysOfTile);
    if (depth_tiles_ == 2) {
      score_products<kBlocks, 2>(panel, skipped, keys);
    } else {
      score_products<kBlocks, 0>(panel, skipped, keys);
    }
    int64_t safe = 0;
    float bound = std::numeric_limits<float>::infinity();
    if (late_factor_ && p_.mask.data == nullptr && range.first >= reach.every.first &&
        range.last <= reach.every.last) {
      safe = range.count() / kKeysOfTile * kKeysOfTile;
      bound = std::sqrt(norm_[panel.vector / kPanel] * key_norm_) * factor_ * 1.01F;
      if (safe < keys) {
        for (int64_t i = 0; i < 16 * kBlocks; ++i) {
          float* const x = scores_ + i * kPitch;
          for (int64_t s = range.count(); s < keys; ++s) x[s] = kLowest;
        }
      }
    } else {
      finish_rows(panel, range, reach, keys);
    }
    bool& empty = empty_[panel.vector / kPanel];
    softmax<kBlocks>(panel, keys, safe, bound, empty);
    value_products<kBlocks>(panel, skipped, keys, empty);
    empty = false;
  }

  // kDepth: tiles of the depth, or 0 for any number. Two tiles of two blocks of rows stay.
  template <int kBlocks, int kDepth>
  [[gnu::noinline]] void score_products(const Panel& panel, int64_t skipped, int64_t keys) const {
    const bfloat16* a = q(panel);
    const int64_t pitch = depth_tiles_ * 64;
    const bfloat16* b = keys_ + skipped / 16 * depth_tiles_ * kTile;
    constexpr int64_t kBytes = kPitch * 4;
    asm volatile("" ::: "memory");
    if constexpr (kDepth == 2) {
      _tile_loadd(4, a, pitch);
      _tile_loadd(5, a + 32, pitch);
      if constexpr (kBlocks > 1) {
        _tile_loadd(6, a + 16 * 64, pitch);
        _tile_loadd(7, a + 16 * 64 + 32, pitch);
      }
      for (int64_t s = 0; s < keys; s += 16, b += 2 * kTile) {
        float* c = scores_ + s;
        _tile_zero(0);
        _tile_loadd(2, b, 64);
        _tile_dpbf16ps(0, 4, 2);
        if constexpr (kBlocks > 1) {
          _tile_zero(1);
          _tile_dpbf16ps(1, 6, 2);
        }
        _tile_loadd(3, b + kTile, 64);
        _tile_dpbf16ps(0, 5, 3);
        if constexpr (kBlocks > 1) _tile_dpbf16ps(1, 7, 3);
        _tile_stored(0, c, kBytes);
        if constexpr (kBlocks > 1) _tile_stored(1, c + 16 * kPitch, kBytes);
      }
    } else {
      for (int64_t s = 0; s < keys; s += 32, b += 2 * depth_tiles_ * kTile) {
        float* c = scores_ + s;
        zero_sums<kBlocks, 2>();
        for (int64_t d = 0; d < depth_tiles_; ++d) {
          const bfloat16* at = b + d * kTile;
          _tile_loadd(4, a + d * 32, pitch);
          _tile_loadd(6, at, 64);
          _tile_dpbf16ps(0, 4, 6);
          _tile_loadd(7, at + depth_tiles_ * kTile, 64);
          _tile_dpbf16ps(1, 4, 7);
          if constexpr (kBlocks > 1) {
            _tile_loadd(5, a + (16 * depth_tiles_ + d) * 32, pitch);
            _tile_dpbf16ps(2, 5, 6);
            _tile_dpbf16ps(3, 5, 7);
          }
        }
        store_sums<kBlocks, 2>(c, kBytes);
      }
    }
    asm volatile("" ::: "memory");
  }

  // O += P V, the sums of 32 items of the head at a time.
  template <int kBlocks>
  [[gnu::noinline]] void value_products(const Panel& panel, int64_t skipped, int64_t keys,
                                        bool empty) const {
    const bfloat16* v = values_ + skipped / kKeysOfTile * value_tiles_ * kTile;
    float* c = out(panel);
    const int64_t pitch = value_tiles_ * 64;
    int64_t d = 0;
    for (; d + 2 <= value_tiles_; d += 2)
      add_values<kBlocks, 2>(v + d * kTile, keys, c + d * 16, pitch, empty);
    if (d < value_tiles_) add_values<kBlocks, 1>(v + d * kTile, keys, c + d * 16, pitch, empty);
  }
  template <int kBlocks, int NV>
  [[gnu::always_inline]] void add_values(const bfloat16* v, int64_t keys, float* c, int64_t pitch,
                                         bool empty) const {
    const auto* p = reinterpret_cast<const std::byte*>(scores_);
    if (empty) {
      zero_sums<kBlocks, NV>();
    } else {
      load_sums<kBlocks, NV>(c, pitch);
    }
    asm volatile("" ::: "memory");
    for (int64_t s = 0; s < keys; s += kKeysOfTile, p += 64, v += value_tiles_ * kTile) {
      _tile_loadd(6, v, 64);
      _tile_loadd(4, p, kPitch * 4);
      _tile_dpbf16ps(0, 4, 6);
      if constexpr (NV > 1) {
        _tile_loadd(7, v + kTile, 64);
        _tile_dpbf16ps(1, 4, 7);
      }
      if constexpr (kBlocks > 1) {
        _tile_loadd(5, p + 16 * kPitch * 4, kPitch * 4);
        _tile_dpbf16ps(2, 5, 6);
        if constexpr (NV > 1) _tile_dpbf16ps(3, 5, 7);
      }
    }
    store_sums<kBlocks, NV>(c, pitch);
    asm volatile("" ::: "memory");
  }

  // What becomes of scores between the product and the exponential: as in lanes.h, row by row.
  [[gnu::noinline, gnu::flatten]] void finish_rows(const Panel& panel, const Range& range,
                                                   const Reach& every, int64_t keys) {
    const bool limits = range.first < every.every.first || range.last > every.every.last;
    using V = Vec<float>;
    const __m512 lowest = _mm512_set1_ps(kLowest);
    for (int64_t i = 0; i < padded(panel); ++i) {
      float* const x = scores_ + i * kPitch;
      if (!late_factor_) scale_scores<float>(x, keys, factor_);
      if (p_.softcap > 0) {
        cap_scores<float>(x, keys, static_cast<float>(p_.softcap * kLog2E), nullptr);
      }
      const int64_t row = panel.row + at_most<int64_t>(i, panel.lanes - 1);
      Range seen{0, range.count()};
      if (limits) {
        const Range reach = queries_.reach_of(row);
        seen = {at_most(at_least(reach.first, range.first), range.last) - range.first,
                at_least(at_most(reach.last, range.last), range.first) - range.first};
      }
      if (p_.bias.data != nullptr) {
        const auto* bias = queries_.address<const float>(p_.bias, row) + range.first * p_.bias.item;
        if (p_.bias.item == 1) {
          for (int64_t s = 0; s < range.count(); s += W) {
            const auto some =
                static_cast<__mmask16>((1U << at_most<int64_t>(W, range.count() - s)) - 1U);
            store(x + s, load<V>(x + s) + V(_mm512_maskz_loadu_ps(some, bias + s)) *
                                              V(static_cast<float>(kLog2E)));
          }
        } else {
          for (int64_t s = 0; s < range.count(); ++s) {
            x[s] += bias[s * p_.bias.item] * static_cast<float>(kLog2E);
          }
        }
      }
      if (p_.mask.data != nullptr) {
        const auto* mask =
            queries_.address<const uint8_t>(p_.mask, row) + range.first * p_.mask.item;
        if (p_.mask.item == 1) {
          for (int64_t s = 0; s < range.count(); s += W) {
            const auto some =
                static_cast<__mmask16>((1U << at_most<int64_t>(W, range.count() - s)) - 1U);
            const __mmask16 forbidden = _mm_mask_cmpeq_epi8_mask(
                some, _mm_maskz_loadu_epi8(some, mask + s), _mm_setzero_si128());
            _mm512_mask_storeu_ps(x + s, forbidden, lowest);
          }
        } else {
          for (int64_t s = 0; s < range.count(); ++s) {
            if (mask[s * p_.mask.item] == 0) x[s] = kLowest;
          }
        }
      }
      for (int64_t s = 0; s < seen.first; ++s) x[s] = kLowest;
      for (int64_t s = at_least(seen.last, seen.first); s < keys; ++s) x[s] = kLowest;
    }
  }

  static constexpr float kRound = TableExp2::kRound;
  static constexpr float kSlack = 8.0F;
  // Scores so far from a reference have weights that leave values room on both sides.
  static constexpr float kFarthest = 32.0F;
  static constexpr float kFar = 65536.0F;  // references beyond which are subtracted beforehand

  // `safe` keys from the first on have scores less than `bound` away from zero.
  template <int kBlocks>
  [[gnu::noinline, gnu::flatten]] void softmax(const Panel& panel, int64_t keys, int64_t safe,
                                               float bound, bool empty) {
    using V = Vec<float>;
    const float factor = late_factor_ ? factor_ : 1.0F;
    for (int64_t first = 0; first < 16 * kBlocks; first += 16) {
      float* const x = scores_ + first * kPitch;
      float* const sums = sum_ + (panel.vector + first) * W;
      float* const reference = reference_ + panel.vector + first;
      const V before = load<V>(reference);
      V subtract = before;
      stdx::where(before == V(kLowest), subtract) = V(0.0F);
      const bool known = stdx::all_of(stdx::abs(subtract) + V(bound) < V(kFarthest));
      if (known) {
        store(reference, subtract);
      } else {
        const V wanted = stdx::ceil(maxima(x, keys) * V(factor));
        const auto moved = wanted > before + V(kSlack);
        if (stdx::any_of(moved)) {
          stdx::where(moved, subtract) = wanted;
          V now = before;
          stdx::where(moved, now) = wanted;
          store(reference, now);
          if (!empty) {
            alignas(64) float decay[16];
            store(decay, math::exp2_nonpositive<float>(before - subtract));
            rescale(panel, first, decay);
          }
        }
      }
      alignas(64) float offset[16];
      alignas(64) float factors[16];
      store(offset, V(kRound) - subtract);
      store(factors, V(factor));
      if (!stdx::all_of(stdx::abs(subtract) < V(kFar))) {
        for (int i = 0; i < 16; ++i) {
          if (const float far = subtract[i]; !(std::abs(far) < kFar)) {
            for (int64_t s = 0; s < keys; s += W) {
              float* at = x + i * kPitch + s;
              store(at, fma(load<V>(at), V(factor), V(-far)));
            }
            offset[i] = kRound;
            factors[i] = 1.0F;
          }
        }
      }
      weights(x, known ? safe : 0, keys, factors, offset, sums);
    }
  }

  // Of sixteen rows, one a lane.
  [[gnu::always_inline]] static Vec<float> maxima(const float* x, int64_t keys) {
    using V = Vec<float>;
    V highest[16];
    for (int i = 0; i < 16; ++i) {
      const float* row = x + i * kPitch;
      V even = load<V>(row);
      V odd = load<V>(row + W);
      for (int64_t s = 2 * W; s < keys; s += 2 * W) {
        even = stdx::max(even, load<V>(row + s));
        odd = stdx::max(odd, load<V>(row + s + W));
      }
      highest[i] = stdx::max(even, odd);
    }
    transpose<float>(highest);
    V top = highest[0];
    for (int i = 1; i < 16; ++i) top = stdx::max(top, highest[i]);
    return top;
  }

  [[gnu::noinline]] void rescale(const Panel& panel, int64_t first, const float* decay) {
    using V = Vec<float>;
    const int64_t pitch = value_tiles_ * 16;
    for (int64_t i = 0; i < 16; ++i) {
      const V by(decay[i]);
      float* sum = sum_ + (panel.vector + first + i) * W;
      store(sum, load<V>(sum) * by);
      float* row = out(panel) + (first + i) * pitch;
      for (int64_t d = 0; d < pitch; d += W) store(row + d, load<V>(row + d) * by);
    }
  }

  // Scores become weights of bfloat16 in place; of the first `safe` keys none is too small.
  [[gnu::always_inline]] static void weights(float* x, int64_t safe, int64_t keys,
                                             const float* factors, const float* offset,
                                             float* sums) {
    const TableExp2 exp2;
    for (int i = 0; i < 16; ++i) {
      float* const row = x + i * kPitch;
      auto* const to = reinterpret_cast<bfloat16*>(row);
      const TableExp2::Row of_row(factors[i], offset[i]);
      __m512 even = _mm512_loadu_ps(sums + i * W);
      __m512 odd = _mm512_setzero_ps();
      const auto step = [&]<bool kSafe>(int64_t s) {
        const __m512 low = exp2.weight<kSafe>(_mm512_loadu_ps(row + s), of_row);
        const __m512 high = exp2.weight<kSafe>(_mm512_loadu_ps(row + s + W), of_row);
        even = _mm512_add_ps(even, low);
        odd = _mm512_add_ps(odd, high);
        _mm512_storeu_si512(to + s, std::bit_cast<__m512i>(_mm512_cvtne2ps_pbh(high, low)));
      };
      int64_t s = 0;
      for (; s < safe; s += 2 * W) step.template operator()<true>(s);
      for (; s < keys; s += 2 * W) step.template operator()<false>(s);
      _mm512_storeu_ps(sums + i * W, _mm512_add_ps(even, odd));
    }
  }

  [[gnu::noinline, gnu::flatten]] void finish(const Panel& panel) {
    using V = Vec<float>;
    const int64_t pitch = value_tiles_ * 16;
    if (empty_[panel.vector / kPanel]) {
      std::memset(out(panel), 0, sizeof(float) * static_cast<std::size_t>(padded(panel) * pitch));
    }
    for (int first = 0; first < panel.lanes; first += 16) {
      const int64_t at = panel.vector + first;
      V sums[16];
      for (int i = 0; i < 16; ++i) sums[i] = load<V>(sum_ + (at + i) * W);
      const V sum = sum_of_lanes<float>(sums);
      V inverse = V(1.0F) / sum;
      stdx::where(sum == V(0.0F), inverse) = V(0.0F);
      alignas(64) float by[16];
      store(by, inverse);
      for (int i = 0; i < at_most(16, panel.lanes - first); ++i) {
        const float* row = out_ + (at + i) * pitch;
        auto* to = queries_.address<bfloat16>(p_.out, panel.row + first + i);
        if (p_.out.item == 1) {
          const __m512 scale = _mm512_set1_ps(by[i]);
          // The last vector may read what follows the row, for lanes that are not stored.
          for (int64_t d = 0; d < p_.value_depth; d += 32) {
            const __m512bh both =
                _mm512_cvtne2ps_pbh(_mm512_mul_ps(_mm512_loadu_ps(row + d + W), scale),
                                    _mm512_mul_ps(_mm512_loadu_ps(row + d), scale));
            const int64_t count = at_most<int64_t>(p_.value_depth - d, 32);
            _mm512_mask_storeu_epi16(to + d, ~__mmask32{0} >> (32 - count),
                                     std::bit_cast<__m512i>(both));
          }
        } else {
          for (int64_t d = 0; d < p_.value_depth; ++d) to[d * p_.out.item] = narrow(row[d] * by[i]);
        }
      }
      if (p_.lse.data == nullptr) continue;
      alignas(64) float total[16];
      store(total, sum);
      for (int i = 0; i < at_most(16, panel.lanes - first); ++i) {
        *queries_.address<float>(p_.lse, panel.row + first + i) =
            total[i] == 0.0F ? kLowest
                             : static_cast<float>(static_cast<double>(reference_[at + i]) * kLn2 +
                                                  ::log(static_cast<double>(total[i])));
      }
    }
  }

  AttentionRows p_;
  Queries queries_;
  int64_t rows_;
  int64_t depth_tiles_;  // of 32 items
  int64_t value_tiles_;  // of 16 items
  float factor_;
  bool late_factor_;    // the factor comes with the exponential
  float* scores_;       // (rows of a panel, keys of a block), then weights
  float* reference_;    // for each row, what is subtracted from its scores
  float* norm_;         // for each panel, the largest square of a row's size, or NaN
  bool* empty_;         // whether a panel has met no key yet, and O is not written
  float key_norm_ = 0;  // that of the block's keys
  float* sum_;          // for each row, sums of every sixteenth weight
  bfloat16* q_;         // (rows, depth)
  float* out_;          // (rows, head size of the values)
  bfloat16* keys_;
  bfloat16* values_;
};

}  // namespace marey::MAREY_ISA_NS
