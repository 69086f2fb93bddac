// Lanes are queries, so that the softmax over keys runs down the rows of a panel: maxima, sums and
// rescaling are vertical, and the result of one product is, in place, the operand of the next.
//
//   scores (keys, lanes) = K (keys, D) Q^T (D, lanes)        keys broadcast, read where they lie
//   O^T (Dv, lanes)     += V^T (Dv, keys) P (keys, lanes)    values broadcast, read where they lie
//
// A call takes up to 256 queries: their Q^T and O^T stay in the second-level cache (128 KiB at
// D = 64) while blocks of 128 keys pass. In the first level stand the scores of one panel (16 KiB
// for 32 lanes), its Q^T and its O^T; keys and values stream through. Scores are in units of log2.
//
// The products are of float or double, with the scale folded into Q^T, or of pairs of bfloat16
// where the instruction set multiplies those: then Q and K stay as they are, the scale comes with
// the exponential, and P is rounded to bfloat16 in place. bfloat16 elsewhere is widened as it is
// packed: a product that widens as it goes takes twice as long. By the tiles of AMX float32 is
// split in parts of bfloat16 (ops/attention/split.h), and P as it is made, which vectors do between
// the tile instructions of the next panel's scores; bfloat16 goes another way (attention_tiles.h).
//
// Tried without gain: values packed in strips of four rows (4% of the time, for products no
// faster); panels of three vectors with AVX-512 (the scores of a panel then fill the first level);
// blocks of 64 keys, and one block of 196. The next head's operands fetched a few lines at a time
// between tiles, or a share of them with each panel: 2 to 3% less.
#include "core/select.h"
#include "ops/attention/lanes.h"
#include "ops/attention/split.h"
#if defined(__AMX_BF16__)
#include "ops/attention/attention_tiles.h"
#endif

namespace marey::MAREY_ISA_NS {
namespace {

// Keys and values whose rows lie further apart than this meet in few sets of the first-level cache,
// where a block of them is read for each panel.
constexpr int64_t kNearBytes = 1024;

// Keys in a step of core/tile_split.h.
constexpr int64_t kTileKeys = 32;

// S: the type in memory; Unit: what the products are of.
template <class S, class Unit>
class Block {
 public:
  using T = std::conditional_t<std::is_same_v<Unit, Split>, float, SumOf<Unit>>;
  using V = Vec<T>;
  static constexpr int W = kLanesOf<T>;
  static constexpr bool kPairs = std::is_same_v<Unit, Pair>;
  static constexpr bool kSplit = std::is_same_v<Unit, Split>;
  static constexpr int kStep = kPairs ? 2 : 1;  // items of the depth in a unit
  static constexpr bool kMayStream = std::is_same_v<S, T> && W * sizeof(T) == 64;  // whole lines
  static constexpr T kLowest = -std::numeric_limits<T>::infinity();

  explicit Block(const AttentionRows& p) : p_(p), queries_(p_) {
    const int64_t lanes = up_to_multiple<int64_t>(p.end - p.begin, W);
    units_ = kSplit ? up_to_multiple(p.depth, kTileKeys) / 2 : (p.depth + kStep - 1) / kStep;
    out_rows_ = kSplit ? up_to_multiple<int64_t>(p.value_depth, W) : p.value_depth;
    ScratchParts parts(p.scratch);
    if constexpr (kSplit) {
      split_.begin(p, kWide * W, parts);
      scores_ = split_.scores_memory();
    } else {
      parts.take(scores_, kWide * W * kAttentionKeys);
      parts.take(keys_, kAttentionKeys * units_ * kStep);
      parts.take(values_, kAttentionKeys * p.value_depth);
    }
    parts.take(added_, kWide * W * kAttentionKeys);
    parts.take(top_, lanes);
    parts.take(sum_, lanes);
    parts.take(q_, lanes * units_);
    parts.take(out_, lanes * out_rows_);
    // In units of log2, or of the cap. Pairs are not scaled before they are multiplied.
    factor_ = static_cast<T>(p.softcap > 0 ? p.scale / p.softcap : p.scale * kLog2E);
    late_factor_ = kPairs && p.softcap <= 0 && p.bias.data == nullptr && factor_ > 0;
  }

  void run() {
    const auto in_place = [&](const AttentionOperand& x) {
      return x.item == 1 && (x.row * static_cast<int64_t>(sizeof(S)) <= kNearBytes ||
                             p_.end - p_.begin <= kWide * W);
    };
    if constexpr (std::is_same_v<S, Unit>) {
      keys_in_place_ = in_place(p_.k);
      values_in_place_ = in_place(p_.v);
    } else if constexpr (kPairs) {
      keys_in_place_ = in_place(p_.k) && p_.depth % 2 == 0;
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
    const bool one_more = p_.more_k.data != nullptr;
    bool finished = false;
    // Blocks start at multiples of their size, so that sums do not depend on the rows of a call.
    for (int64_t first = low / kAttentionKeys * kAttentionKeys; first < high;
         first += kAttentionKeys) {
      const Range block{first, at_most(first + kAttentionKeys, p_.keys)};
      pack(block);
      const Range next{block.last, at_most(block.last + kAttentionKeys, high)};
      queries_.template for_each_panel<W>([&]<int NV>(const Panel& panel) {
        fetch(panel, next);
        attend<NV>(panel, block);
        if (!kSplit && next.count() <= 0 && !one_more) finish(panel, NV);
      });
      if constexpr (kSplit) add_waiting();
      finished = !kSplit && next.count() <= 0 && !one_more;
    }
    if (one_more) attend_one_more();
    if (!finished) {
      queries_.template for_each_panel<W>([&]<int NV>(const Panel& panel) { finish(panel, NV); });
    }
    if (kMayStream && p_.streaming) stream_fence();
  }

 private:
  const S* keys(int64_t s) const { return static_cast<const S*>(p_.k.data) + s * p_.k.row; }
  const S* values(int64_t s) const { return static_cast<const S*>(p_.v.data) + s * p_.v.row; }

  void begin(const Panel& panel, int vectors) {
    const int64_t pitch = vectors * W;
    Unit* const q = q_ + panel.vector * W * units_;
    // To split them, queries are turned into lanes where scores will be, a part at a time.
    const int64_t part = kSplit ? kAttentionKeys : p_.depth;
    for (int64_t d = 0; d < p_.depth; d += part) {
      const int64_t depth = at_most(part, p_.depth - d);
      for (int j = 0; j < vectors; ++j) {
        const S* items[W];
        queries_.rows_of(p_.q, panel, j, items);
        if constexpr (kPairs) {
          gather_lanes(items, p_.q.item, depth, q + j * W, pitch);
        } else if constexpr (kSplit) {
          for (const S*& item : items) item += d * p_.q.item;
          gather_lanes<T, S>(items, p_.q.item, depth, factor_, scores_ + j * W, pitch);
        } else {
          gather_lanes<T, S>(items, p_.q.item, depth, factor_, q + j * W, pitch);
        }
      }
      if constexpr (kSplit) split_.pack_queries(scores_, d, depth, pitch, q);
    }
    for (int64_t i = 0; i < pitch; i += W) {
      store(top_ + panel.vector * W + i, V(kLowest));
      store(sum_ + panel.vector * W + i, V(T(0)));
    }
    T* out = out_ + panel.vector * W * out_rows_;
    for (int64_t i = 0; i < out_rows_ * pitch; i += W) store(out + i, V(T(0)));
  }

  void pack(const Range& block) {
    if constexpr (kSplit) {
      split_.pack(p_, block);
    } else {
      pack_keys(block);
      pack_values(block);
    }
  }

  void pack_keys(const Range& block) {
    if (!keys_in_place_) {
      if constexpr (kPairs) {
        for (int64_t s = 0; s < block.count(); ++s) {
          const bfloat16* from = keys(block.first + s);
          bfloat16* to = keys_ + s * units_ * 2;
          if (p_.k.item == 1) {
            std::memcpy(to, from, static_cast<std::size_t>(p_.depth) * sizeof(bfloat16));
          } else {
            for (int64_t d = 0; d < p_.depth; ++d) to[d] = from[d * p_.k.item];
          }
          if (p_.depth % 2 != 0) to[p_.depth] = bfloat16{0};
        }
      } else {
        copy_rows<T, S>(keys(block.first), p_.k.row, p_.k.item, block.count(), p_.depth, keys_);
      }
    }
  }

  void pack_values(const Range& block) {
    if (values_in_place_) return;
    if constexpr (kPairs) {
      pair_rows(values(block.first), p_.v.row, p_.v.item, block.count(), p_.value_depth, values_,
                p_.value_depth);
    } else {
      copy_rows<T, S>(values(block.first), p_.v.row, p_.v.item, block.count(), p_.value_depth,
                      values_);
    }
  }

  // What comes next, while a panel is computed: a share of the next block's keys and values, or, if
  // this is the last, where its results go: to wait for those took a quarter of the time of a
  // video's frames.
  void fetch(const Panel& panel, const Range& next) const {
    if (next.count() <= 0) {
      if (kMayStream && p_.streaming) return;
      for (int i = 0; i < panel.lanes; ++i) {
        AttentionOperand row = p_.out;
        row.data = queries_.address<S>(p_.out, panel.row + i);
        fetch_rows<S, true>(row, 0, 1, p_.value_depth);
      }
      return;
    }
    const int64_t rows = p_.end - p_.begin;
    const int64_t begin = panel.row - p_.begin;
    const int64_t first = next.first + next.count() * begin / rows;
    const int64_t last = next.first + next.count() * (begin + panel.lanes) / rows;
    if (!keys_in_place_) fetch_rows<S>(p_.k, first, last, p_.depth);
    if (!values_in_place_) fetch_rows<S>(p_.v, first, last, p_.value_depth);
  }

  // A key that every query sees, as a block of its own.
  void attend_one_more() {
    p_.k = p_.more_k;
    p_.v = p_.more_v;
    p_.mask = p_.bias = {};
    p_.keys = 1;
    p_.left = p_.right = AttentionOptions::kUnlimited;
    queries_ = Queries(p_);
    keys_in_place_ = values_in_place_ = false;
    const Range block{0, 1};
    pack(block);
    queries_.template for_each_panel<W>(
        [&]<int NV>(const Panel& panel) { attend<NV>(panel, block); });
    if constexpr (kSplit) add_waiting();
  }

  template <int NV>
  [[gnu::noinline]] void attend(const Panel& panel, const Range& block) {
    const Reach reach = queries_.reach_of(panel);
    Range range{at_least(block.first, reach.any.first), at_most(block.last, reach.any.last)};
    if (range.count() <= 0) return;
    // Whole pairs of keys, or whole tiles of them, which are summed in the same parts whatever the
    // lanes of a panel see: the keys before the first are forbidden below.
    [[maybe_unused]] const int64_t seen = range.first - block.first;
    if constexpr (kPairs || kSplit) range.first -= seen % (kSplit ? kTileKeys : 2);
    const int64_t at = range.first - block.first;
    const Unit* q = q_ + panel.vector * W * units_;
    if constexpr (kSplit) {
      if (NV < waiting_.vectors) add_waiting();
      scores_ = split_.scores_memory();
      split_.template scores<NV>(at, range.count(), q);
      add_waiting();
    } else {
      const KeyRows rows = keys_in_place_ ? key_rows(keys(range.first), p_.k.row)
                                          : key_rows(keys_ + at * units_ * kStep, units_ * kStep);
      product<NV, Unit>(range.count(), rows, q, units_, scores_, false);
    }
    if (kPairs && !late_factor_) scale_scores(scores_, range.count() * NV * W, factor_);
    if (p_.softcap > 0) {
      cap_scores<T>(scores_, range.count() * NV * W, static_cast<T>(p_.softcap * kLog2E), nullptr);
    }
    if (p_.bias.data != nullptr) add_bias<T>(queries_, panel, range, NV, scores_, added_);
    if (p_.mask.data != nullptr) apply_mask<T>(queries_, panel, range, NV, scores_, added_);
    if (range.first < reach.every.first || range.last > reach.every.last) {
      apply_limits<T>(queries_, panel, range, NV, scores_);
    }
    T* const out = out_ + panel.vector * W * out_rows_;
    softmax<NV>(range.count(), top_ + panel.vector * W, sum_ + panel.vector * W, out);
    if constexpr (kSplit) {
      split_.swap();
      waiting_ = {NV, panel, block, at, seen, range.count()};
    } else {
      add_values<NV>(range, at, out);
    }
  }

  // The values of the panel whose weights wait, times these.
  void add_waiting() {
    if (waiting_.vectors == kWide) add_waiting_values<kWide>();
    if (waiting_.vectors == 1) add_waiting_values<1>();
    waiting_.vectors = 0;
  }
  template <int NV>
  void add_waiting_values() {
    const Waiting& w = waiting_;
    const float* total = split_.template end_wait<NV>();
    T* const sum = sum_ + w.panel.vector * W;
    for (int j = 0; j < NV; ++j) store(sum + j * W, load<V>(total + j * W));
    split_.template add_values<NV>(p_, w.block, w.at, w.seen, w.count,
                                   out_ + w.panel.vector * W * out_rows_);
  }

  template <int NV>
  void add_values([[maybe_unused]] const Range& range, int64_t at, T* out) {
    const int64_t depth = (range.count() + kStep - 1) / kStep;
    Columns<Unit> columns{values_ + at / kStep * p_.value_depth, p_.value_depth};
    if constexpr (std::is_same_v<S, Unit>) {
      if (values_in_place_) columns = {values(range.first), p_.v.row};
    }
    product<NV, Unit>(p_.value_depth, columns, reinterpret_cast<const Unit*>(scores_), depth, out,
                      true);
  }

  using KeyItem = std::conditional_t<kPairs, bfloat16, T>;
  using KeyRows = std::conditional_t<kPairs, PairRows, Rows<T>>;
  static KeyRows key_rows(const KeyItem* data, int64_t stride) { return {data, stride}; }
  template <class X>
  static KeyRows key_rows(const X*, int64_t) {  // never in place
    return {};
  }

  // Scores become exponentials; the running maximum and sum go on, and with them the output.
  template <int NV>
  [[gnu::noinline, gnu::flatten]] void softmax(int64_t count, T* top, T* sum, T* out) {
    constexpr int64_t kPitch = NV * W;
    if constexpr (kPairs) {
      if (count % 2 != 0) {
        for (int j = 0; j < NV; ++j) store(scores_ + count * kPitch + j * W, V(kLowest));
        ++count;
      }
    }
    // Two maxima of every other key, since one would wait for itself.
    V highest[NV];
    V second[NV];
    for (int j = 0; j < NV; ++j) highest[j] = second[j] = load<V>(scores_ + j * W);
    int64_t key = 1;
    for (; key + 2 <= count; key += 2) {
      for (int j = 0; j < NV; ++j) {
        const T* at = scores_ + key * kPitch + j * W;
        highest[j] = stdx::max(highest[j], load<V>(at));
        second[j] = stdx::max(second[j], load<V>(at + kPitch));
      }
    }
    for (int j = 0; j < NV; ++j) {
      if (key < count) second[j] = stdx::max(second[j], load<V>(scores_ + key * kPitch + j * W));
      highest[j] = stdx::max(highest[j], second[j]);
    }
    const V factor(late_factor_ ? factor_ : T(1));
    V total[NV];
    V subtract[NV];
    V decay[NV];
    bool rescale = false;
    for (int j = 0; j < NV; ++j) {
      const V before = load<V>(top + j * W);
      if constexpr (kPairs) highest[j] *= factor;
      highest[j] = stdx::max(before, highest[j]);
      store(top + j * W, highest[j]);
      subtract[j] = highest[j];
      stdx::where(highest[j] == V(kLowest), subtract[j]) = V(T(0));
      decay[j] = math::exp2_nonpositive<T>(before - subtract[j]);
      total[j] = load<V>(sum + j * W) * decay[j];
      rescale = rescale || stdx::any_of(before != highest[j]);
    }
    if constexpr (kPairs) {
      for (int64_t s = 0; s < count; s += 2) {
        for (int j = 0; j < NV; ++j) {
          const T* at = scores_ + s * kPitch + j * W;
          const V even = math::exp2_nonpositive<T>(load<V>(at) * factor - subtract[j]);
          const V odd = math::exp2_nonpositive<T>(load<V>(at + kPitch) * factor - subtract[j]);
          total[j] += even;
          total[j] += odd;
          store_pairs(reinterpret_cast<Pair*>(scores_ + s / 2 * kPitch + j * W), even, odd);
        }
      }
    } else if constexpr (kSplit) {
      for (int j = 0; j < NV; ++j) split_.template wait<NV>(count, j, subtract[j], total[j]);
    } else {
      for (int64_t s = 0; s < count; ++s) {
        for (int j = 0; j < NV; ++j) {
          T* at = scores_ + s * kPitch + j * W;
          const V p = math::exp2_nonpositive<T>(load<V>(at) - subtract[j]);
          store(at, p);
          total[j] += p;
        }
      }
    }
    if constexpr (!kSplit) {
      for (int j = 0; j < NV; ++j) store(sum + j * W, total[j]);
    }
    if (!rescale) return;
    for (int64_t d = 0; d < p_.value_depth; ++d) {
      for (int j = 0; j < NV; ++j) {
        T* at = out + d * kPitch + j * W;
        store(at, load<V>(at) * decay[j]);
      }
    }
  }

  void finish(const Panel& panel, int vectors) {
    for (int j = 0; j < vectors && j * W < panel.lanes; ++j) {
      const int count = at_most(panel.lanes - j * W, W);
      T* const top = top_ + (panel.vector + j) * W;
      T* const sum = sum_ + (panel.vector + j) * W;
      alignas(64) T inverse[W];
      for (int i = 0; i < W; ++i) inverse[i] = sum[i] == T(0) ? T(0) : T(1) / sum[i];
      S* items[W];
      queries_.rows_of(p_.out, panel, j, items);
      const T* from = out_ + panel.vector * W * out_rows_ + j * W;
      bool streaming = false;
      if constexpr (kMayStream) streaming = p_.streaming;
      if (streaming) {
        scatter_lanes<T, S, kMayStream>(from, vectors * W, inverse, items, count, p_.out.item,
                                        p_.value_depth);
      } else {
        scatter_lanes<T, S>(from, vectors * W, inverse, items, count, p_.out.item, p_.value_depth);
      }
      if (p_.lse.data == nullptr) continue;
      for (int i = 0; i < count; ++i) {
        *queries_.address<T>(p_.lse, panel.row + j * W + i) =
            sum[i] == T(0) ? kLowest
                           : static_cast<T>(static_cast<double>(top[i]) * kLn2 +
                                            ::log(static_cast<double>(sum[i])));
      }
    }
  }

  AttentionRows p_;
  Queries queries_;
  int64_t units_;
  int64_t out_rows_;  // of a panel's results
  T factor_;
  bool late_factor_;  // the factor comes with the exponential
  bool keys_in_place_ = false;
  bool values_in_place_ = false;
  T* scores_;                                      // (keys of a block, lanes of a panel)
  T* added_;                                       // the bias or mask of a panel
  T* top_;                                         // for each row, the running maximum
  T* sum_;                                         // and the running sum
  Unit* q_;                                        // panels (D, lanes)
  T* out_;                                         // panels (Dv, lanes)
  std::conditional_t<kPairs, bfloat16, T>* keys_;  // a block (keys, D)
  Unit* values_;                                   // a block (keys, Dv)
  // The panel whose scores become weights while the next one's are made, and what it sees.
  struct Waiting {
    int vectors;
    Panel panel;
    Range block;
    int64_t at, seen, count;
  };
  Waiting waiting_{};
  struct Nothing {};
  [[no_unique_address]] std::conditional_t<kSplit, SplitBlock, Nothing> split_;
};

template <class S, class Unit>
void run(const AttentionRows& rows) {
#if defined(__AMX_BF16__)
  if constexpr (std::is_same_v<Unit, Pair>) {
    if (tiles_active()) return TileAttention(rows).run();
  }
#endif
  Block<S, Unit>(rows).run();
}

#if defined(__AMX_BF16__)
// Float32, by tiles where there are keys enough.
void run_split(const AttentionRows& rows) {
  if (keys_for_tiles(rows)) return run<float, Split>(rows);
#if defined(MAREY_ONLY_BF16)
  isa_avx512::select_attention_rows(DType::f32)(rows);
#else
  run<float, float>(rows);
#endif
}
#endif

}  // namespace

AttentionRowsFn* select_attention_rows(DType dtype) {
#if defined(__AMX_BF16__)
  if (dtype == DType::f32 && tiles_active()) return run_split;
#endif
  return of_type(dtype, []<class S>() -> AttentionRowsFn* { return run<S, UnitOf<S>>; });
}

}  // namespace marey::MAREY_ISA_NS
