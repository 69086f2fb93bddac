#pragma once
// Direct convolution of float32 by the tiles of AMX where positions along W lie side by side and
// one tap reads them (NCTHW with kernels like 1x1x1 and 3x1x1), for kernel files: positions are
// lanes of B and filters rows of A, so that neither inputs nor outputs are turned.
//
// The window has, for each row that the block reads, panels of positions as core/tile_split.h has
// them; the weights are (step, part, filters, 32 channels) for each tap, whose tiles lie as one
// run. What fills a step or a panel up is zeros on either side.
#include <algorithm>

#include "ops/conv/activation.h"
#include "ops/conv/conv3d_split_tiles.h"

namespace marey::MAREY_ISA_NS {

class SplitRowsDirect {
 public:
  static constexpr int64_t W = kTileItems;
  static constexpr int64_t kPanel = 2 * W;

  // Whether a call may take its inputs so (ConvInputs::rows).
  static bool possible(const ConvProblem& p) {
    const ConvTaps& width = p.taps[2];
    return width.count == 1 && width.step == 1 && width.offset[0] >= 0;
  }

  static int64_t lanes_before(const ConvProblem& p, int64_t panel) {
    return at_most(panel * kPanel, round_up(p.filters, W));
  }
  static int64_t lanes_of(const ConvProblem& p, int64_t panel) {
    return lanes_before(p, panel + 1) - lanes_before(p, panel);
  }

  // ---- weights: chunks of channels, in each panels of filters, in each taps ----

  // Items of a filter, in one tap.
  static int64_t of_tap(int64_t channels) { return split_steps(channels) * kSplitStep; }
  static int64_t weights_at(const ConvProblem& p, int64_t first, int64_t channels, int64_t panel) {
    const int64_t chunks = first / p.chunk;
    int64_t items = chunks * of_tap(p.chunk);
    if (first % p.chunk != 0) items += of_tap(first % p.chunk);
    return p.tap_count() *
           (items * round_up(p.filters, W) + of_tap(channels) * lanes_before(p, panel));
  }
  static int64_t packed_bytes(const ConvProblem& p) {
    return weights_at(p, p.channels, 0, 0) * static_cast<int64_t>(sizeof(bfloat16));
  }

  [[gnu::flatten]] static void pack(const ConvProblem& p, const ConvWeights& w, int64_t first_panel,
                                    int64_t last_panel, void* packed) {
    for (int64_t c = 0; c < p.channels; c += p.chunk) {
      const int64_t channels = at_most(p.chunk, p.channels - c);
      for (int64_t panel = first_panel; panel < last_panel; ++panel) {
        const int64_t lanes = lanes_of(p, panel);
        const int64_t part = lanes * kSplitDepth;
        bfloat16* to = static_cast<bfloat16*>(packed) + weights_at(p, c, channels, panel);
        for (int64_t i = 0; i < p.taps[0].count; ++i) {
          for (int64_t j = 0; j < p.taps[1].count; ++j, to += of_tap(channels) * lanes) {
            const float* tap = static_cast<const float*>(w.data) + p.taps[0].source[i] * w.tap[0] +
                               p.taps[1].source[j] * w.tap[1] + p.taps[2].source[0] * w.tap[2];
            for (int64_t k = 0; k < lanes; ++k) {
              const int64_t filter = panel * kPanel + k;
              const int64_t count = filter < p.filters ? channels : 0;
              const float* from = tap + (count != 0 ? filter * w.filter : 0) + c * w.channel;
              bfloat16* at = to + k * kSplitDepth;
              for (int64_t item = 0; item < channels; item += kSplitDepth, at += 3 * part) {
                const float* high = from + (item + W) * w.channel;
                store_parts(load_some(from + item * w.channel, w.channel, count - item),
                            load_some(high, w.channel, count - item - W), at, part, ~__mmask32{0});
              }
            }
          }
        }
      }
    }
  }

  static int64_t scratch(const ConvBlock& b) { return SplitRowsDirect(b).scratch_bytes_; }
  static double positions(const ConvBlock& b) {
    const SplitRowsDirect block(b);
    return static_cast<double>(block.rows_ * round_up(block.positions_, W));
  }
  // `weights`: what pack() filled.
  static void run(const ConvBlock& b, const void* weights) { SplitRowsDirect(b).run(weights); }

 private:
  explicit SplitRowsDirect(const ConvBlock& b) : b_(b), p_(*b.problem), place_(b) {
    positions_ = b.end[2] - b.begin[2];
    rows_ = (b.end[0] - b.begin[0]) * (b.end[1] - b.begin[1]);
    several_ = p_.channels > p_.chunk;
    first_lane_ = lanes_before(p_, b.first_panel);
    lanes_ = lanes_before(p_, b.last_panel) - first_lane_;
    const int64_t width = round_up(positions_, W);
    const int64_t kept = several_ ? rows_ * width * lanes_ : kPanel * kPanel;
    const int64_t window_rows = place_.time.extent * place_.height.extent;
    const int64_t depth = split_steps(at_most(p_.chunk, p_.channels)) * kTileItems;
    ScratchParts parts(b.scratch);
    parts.take(taps_, p_.tap_count());
    parts.take(bias_, lanes_);
    parts.take(sums_, kept);
    parts.take(window_, window_rows * width * depth);
    scratch_bytes_ = parts.bytes();
  }

  void run(const void* weights) {
    if (rows_ <= 0 || positions_ <= 0) return;
    prepare_tiles();
    copy_bias(b_, first_lane_, lanes_, bias_);
    int64_t c = 0;
    do {  // once without channels, too
      first_channel_ = c;
      channels_ = at_most(p_.chunk, p_.channels - c);
      c += p_.chunk;
      pack_rows();
      sum_chunk(static_cast<const bfloat16*>(weights), first_channel_ == 0, c >= p_.channels);
    } while (c < p_.channels);
  }

  int64_t depth() const { return split_steps(channels_) * kTileItems; }  // items of Split of a lane
  int64_t row_pitch() const { return round_up(positions_, W) * depth(); }
  int64_t lanes_at(int64_t position) const {
    return at_most(kPanel, round_up(positions_ - position, W));
  }

  void pack_rows() {
    Split* to = window_;
    for (int64_t t = 0; t < place_.time.extent; ++t) {
      const FrameAt<float> frame = place_.frame<float>(b_, t);
      for (int64_t h = 0; h < place_.height.extent; ++h, to += row_pitch()) {
        const int64_t row = place_.height.first + h * place_.height.stride;
        if (frame.data == nullptr || row < 0 || row >= p_.in[1]) continue;
        const float* from = frame.data + first_channel_ * frame.channel + row * frame.row +
                            place_.width.first * frame.pixel;
        for (int64_t q = 0; q < positions_; q += kPanel) {
          (lanes_at(q) == W ? pack_split<1> : pack_split<2>)(from + q, frame.channel, 1, channels_,
                                                             at_most(kPanel, positions_ - q),
                                                             to + q * depth());
        }
      }
    }
  }

  void sum_chunk(const bfloat16* packed, bool first, bool last) {
    const SplitRun run{channels_, split_steps(channels_)};
    constexpr int64_t kCallsOfStep = 6;
    WindowAhead ahead(last ? b_.next : nullptr, (b_.last_panel - b_.first_panel) * rows_ *
                                                    ((positions_ + kPanel - 1) / kPanel) *
                                                    p_.tap_count() * run.steps * kCallsOfStep);
    float* sums = sums_;
    for (int64_t panel = b_.first_panel; panel < b_.last_panel; ++panel) {
      const int64_t lanes = lanes_of(p_, panel);
      const int64_t lane = lanes_before(p_, panel) - first_lane_;
      const int64_t filters = at_most(lanes, p_.filters - first_lane_ - lane);
      const float* bias = b_.bias != nullptr ? bias_ + lane : nullptr;
      const SplitPlanes weights{packed + weights_at(p_, first_channel_, channels_, panel),
                                kTilePitch, lanes * kSplitDepth, kSplitParts * lanes * kSplitDepth};
      for (int64_t t = b_.begin[0]; t < b_.end[0]; ++t) {
        for (int64_t h = b_.begin[1]; h < b_.end[1]; ++h) {
          int64_t taps = 0;
          place_.each_row(b_, t, h, [&](int64_t i, int64_t j, int64_t, int64_t) {
            taps_[taps++] = {(i * p_.taps[1].count + j) * of_tap(channels_) * lanes,
                             place_.row_of(b_, t, h, i, j) * row_pitch()};
          });
          float* const to = static_cast<float*>(b_.out) + (first_lane_ + lane) * b_.out_strides.c +
                            t * b_.out_strides.s[0] + h * b_.out_strides.s[1] + b_.begin[2];
          for (int64_t q = 0; q < positions_; q += kPanel) {
            const bool two = lanes_at(q) > W;
            const auto sum = lanes == W ? (two ? sum_runs<1, 2, true> : sum_runs<1, 1, true>)
                                        : (two ? sum_runs<2, 2, true> : sum_runs<2, 1, true>);
            sum(filters, weights, taps_, taps, run, window_ + q * depth(), sums, !first, ahead);
            if (last) {
              finish_rows<float>(sums, filters, lanes_at(q), bias, b_.activation,
                                 at_most(kPanel, positions_ - q), to + q, b_.out_strides.c);
            }
            if (several_) sums += lanes * lanes_at(q);
          }
        }
      }
    }
  }

  const ConvBlock& b_;
  const ConvProblem& p_;
  WindowPlace place_;
  int64_t positions_;  // of a row
  int64_t rows_;
  bool several_;  // chunks
  int64_t first_lane_, lanes_;
  int64_t first_channel_ = 0, channels_ = 0;  // of this chunk
  int64_t scratch_bytes_;
  TapAt* taps_ = nullptr;
  float* bias_ = nullptr;
  float* sums_ = nullptr;
  Split* window_ = nullptr;
};

}  // namespace marey::MAREY_ISA_NS
