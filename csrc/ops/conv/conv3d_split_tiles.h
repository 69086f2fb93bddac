#pragma once
// Sums of split operands over the runs of a window (core/tile_split.h), for kernel files.
#include <algorithm>
#include <optional>

#include "core/tile_split.h"
#include "ops/conv/conv3d_window.h"

namespace marey::MAREY_ISA_NS {

// The parts of 32 numbers, the first of them in `mask`.
[[gnu::always_inline]] inline void store_parts(__m512 low, __m512 high, bfloat16* to, int64_t part,
                                               __mmask32 mask) {
  const Parts a = parts_of(low);
  const Parts b = parts_of(high);
#pragma GCC unroll 3
  for (int i = 0; i < kSplitParts; ++i) {
    const __m512i items = step_of(a, b, i);
    if (mask == ~__mmask32{0}) {
      _mm512_storeu_si512(to + i * part, items);
    } else {
      _mm512_mask_storeu_epi16(to + i * part, mask, items);
    }
  }
}

// The inputs that the next block reads, which tiles fetch into the second-level cache while they
// multiply: to read them from memory when they are needed would leave the tiles idle.
class WindowAhead {
 public:
  // Spread over `calls` of fetch().
  WindowAhead(const ConvBlock* next, int64_t calls) {
    if (next == nullptr) return;
    block_ = next;
    place_.emplace(*next);
    const ConvStrides& strides = next->x_strides;
    const int64_t pixels = place_->width.extent * place_->width.stride;
    // Stretches of memory: all channels of a row, or those of one channel.
    const bool last = strides.c == 1;
    if (!last && strides.s[2] != 1) return;
    channels_ = last ? 1 : next->problem->channels;
    bytes_ = pixels * (last ? strides.s[2] : 1) * kFloat;
    channel_ = channels_;
    rows_ = place_->time.extent * place_->height.extent;
    const int64_t lines = rows_ * channels_ * ((bytes_ + kLine - 1) / kLine);
    at_once_ = (lines + calls - 1) / std::max<int64_t>(calls, 1);
  }

  [[gnu::always_inline]] void fetch() {
    for (int64_t i = 0; i < at_once_; ++i) {
      if (at_ >= end_ && !find_row()) return;
      __builtin_prefetch(at_, 0, 2);
      at_ += kLine;
    }
  }

 private:
  static constexpr int64_t kLine = 64;
  static constexpr auto kFloat = static_cast<int64_t>(sizeof(float));

  // The next stretch that is inside; false: there is none.
  [[gnu::noinline]] bool find_row() {
    if (channel_ == channels_ && !find_line()) {
      at_once_ = 0;
      return false;
    }
    at_ = line_ + channel_ * channel_bytes_;
    end_ = at_ + bytes_;
    ++channel_;
    return true;
  }

  // The next row that is inside.
  bool find_line() {
    const Triple& in = block_->problem->in;
    for (; row_ < rows_; ++row_) {
      int64_t frame = place_->time.first + row_ / place_->height.extent * place_->time.stride;
      const int64_t row =
          place_->height.first + row_ % place_->height.extent * place_->height.stride;
      if (frame < 0 || frame >= in[0] || row < 0 || row >= in[1]) continue;
      const bool past = frame < block_->history;
      const ConvStrides& x = past ? block_->past_strides : block_->x_strides;
      if (!past) frame -= block_->history;
      const int64_t at =
          frame * x.s[0] + row * x.s[1] + std::max<int64_t>(place_->width.first, 0) * x.s[2];
      line_ = static_cast<const std::byte*>(past ? block_->past : block_->x) + at * kFloat;
      channel_bytes_ = x.c * kFloat;
      channel_ = 0;
      ++row_;
      return true;
    }
    return false;
  }

  const ConvBlock* block_ = nullptr;
  std::optional<WindowPlace> place_;
  int64_t channels_ = 1, channel_ = 1;
  int64_t channel_bytes_ = 0;
  int64_t bytes_ = 0;
  int64_t row_ = 0, rows_ = 0;
  int64_t at_once_ = 0;
  const std::byte* line_ = nullptr;  // a row's first channel
  const std::byte* at_ = nullptr;
  const std::byte* end_ = nullptr;
};

// The parts of A: `stride` bytes from one row to the next, `part` items from one part to the next,
// `step` from 32 of the depth to the next.
struct SplitPlanes {
  const bfloat16* data;
  int64_t stride;
  int64_t part;
  int64_t step;
};

// A run of the depth is `items` long.
struct SplitRun {
  int64_t items;
  int64_t steps;
};

// Sums without what lies behind the runs.
template <int kBlocks, int NV, bool kTurned>
[[gnu::noinline, gnu::cold]] void add_runs_apart(const SplitPlanes& a, const TapAt* taps,
                                                 int64_t count, const SplitRun& run,
                                                 const Split* weights) {
  constexpr int64_t kRows = kBlocks * kTileItems;
  alignas(64) bfloat16 rows[kSplitParts * kRows * kSplitDepth];
  const int64_t whole = run.items / kSplitDepth;
  const int64_t rest = run.items % kSplitDepth;
  const auto mask = static_cast<__mmask32>((uint64_t{1} << rest) - 1);
  for (int64_t tap = 0; tap < count; ++tap) {
    const bfloat16* from = a.data + taps[tap].input;
    const Split* b = weights + taps[tap].weight;
    add_split<kBlocks, NV, kTurned>(from, a.stride, b, whole, a.part, a.step);
    if (rest == 0) continue;
    from += whole * a.step;
    for (int64_t part = 0; part < kSplitParts; ++part) {
      for (int64_t i = 0; i < kRows; ++i) {
        const auto* at = reinterpret_cast<const std::byte*>(from + part * a.part) + i * a.stride;
        _mm512_store_si512(rows + (part * kRows + i) * kSplitDepth,
                           _mm512_maskz_loadu_epi16(mask, at));
      }
    }
    add_split<kBlocks, NV, kTurned>(rows, kTilePitch, b + whole * kTileItems * NV * kTileItems, 1,
                                    kRows * kSplitDepth, kSplitDepth);
  }
}

// The sums of a row and sixteen lanes from `lane` on, by multiply-adds.
template <int NV>
[[gnu::noinline, gnu::cold]] Vec<float> sums_of_runs(const SplitPlanes& a, int64_t row,
                                                     const TapAt* taps, int64_t count,
                                                     const SplitRun& run, const Split* weights,
                                                     int64_t lane) {
  Vec<float> sums(0.0F);
  for (int64_t tap = 0; tap < count; ++tap) {
    const auto* from = reinterpret_cast<const bfloat16*>(
        reinterpret_cast<const std::byte*>(a.data + taps[tap].input) + row * a.stride);
    const auto* b = reinterpret_cast<const Pair*>(weights + taps[tap].weight) + lane;
    for (int64_t k = 0; k < run.items; ++k) {
      const bfloat16* item = from + k / kSplitDepth * a.step + k % kSplitDepth;
      const int64_t pairs = k / kSplitDepth * kSplitParts * kTileItems + k % kSplitDepth / 2;
      sums = fma(Vec<float>(joined(item[0], item[a.part], item[2 * a.part])),
                 joined_lanes<NV>(b + pairs * NV * kTileItems, k % 2 != 0), sums);
    }
  }
  return sums;
}

template <int NV>
bool all_finite(const float* sums, int64_t rows) {
  __mmask16 odd = 0;
  for (int64_t i = 0; i < rows * NV; ++i) odd |= not_finite(_mm512_loadu_ps(sums + i * kTileItems));
  return odd == 0;
}

// Sums of `rows` rows of A, at most 16 * kBlocks; `out` has place for all of them. Inputs are A, or
// B (`kTurned`). `ahead` fetches what will be read later.
template <int kBlocks, int NV, bool kTurned, class Ahead = WindowAhead>
[[gnu::noinline, gnu::flatten]] void sum_runs(int64_t rows, const SplitPlanes& a, const TapAt* taps,
                                              int64_t count, const SplitRun& run,
                                              const Split* weights, float* out, bool accumulate,
                                              Ahead& ahead) {
  constexpr int64_t kLanes = NV * kTileItems;
  constexpr int64_t kPitch = NV * kTilePitch;
  alignas(64) float partial[kBlocks * kTileItems * kLanes];
  float* const sums = accumulate ? partial : out;
  auto beside = [&] { ahead.fetch(); };
  zero_sums<kBlocks, NV>();
  // Behind the last run come the next rows.
  const auto* const next_rows = reinterpret_cast<const bfloat16*>(
      reinterpret_cast<const std::byte*>(a.data) + kBlocks * kTileItems * a.stride);
  for (int64_t tap = 0; tap < count; ++tap) {
    const bool last = tap + 1 == count;
    const TapAt& next = taps[last ? 0 : tap + 1];
    add_split<kBlocks, NV, kTurned>(
        a.data + taps[tap].input, a.stride, weights + taps[tap].weight, run.steps, a.part, a.step,
        (last ? next_rows : a.data) + next.input, weights + next.weight, beside);
  }
  store_sums<kBlocks, NV>(sums, kPitch);
  asm volatile("" ::: "memory");
  if (__builtin_expect(!all_finite<NV>(sums, rows), 0)) {
    zero_sums<kBlocks, NV>();
    add_runs_apart<kBlocks, NV, kTurned>(a, taps, count, run, weights);
    store_sums<kBlocks, NV>(sums, kPitch);
    asm volatile("" ::: "memory");
    for (int64_t i = 0; i < rows * kLanes; i += kTileItems) {
      const __mmask16 odd = not_finite(_mm512_loadu_ps(sums + i));
      if (odd == 0) continue;
      const Vec<float> again =
          sums_of_runs<NV>(a, i / kLanes, taps, count, run, weights, i % kLanes);
      _mm512_mask_storeu_ps(sums + i, odd, static_cast<__m512>(again));
    }
  }
  if (!accumulate) return;
  for (int64_t i = 0; i < rows * kLanes; i += kTileItems) {
    store(out + i, load<Vec<float>>(out + i) + load<Vec<float>>(partial + i));
  }
}

}  // namespace marey::MAREY_ISA_NS
