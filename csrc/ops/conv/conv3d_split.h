#pragma once
// Direct convolution of float32 by the tiles of AMX, for kernel files: an implicit matrix product
// of split operands (core/tile_split.h), positions being rows of A and filters lanes of B.
//
// The window that a block reads is copied as the other kernels do, (T, H, W, channels) with zeros
// outside, but as three planes, one of each part. Inputs of neighbouring taps along W and of all
// channels are then one run of a plane, and so a row of A, at any address: a run's steps of 32 are
// padded once, not each tap's. What lies behind a run is multiplied by weights that are zeros.
// Where channels are few, a pixel has those of all frames that an output sees, so that the taps
// along time are in the run too: 63 numbers, and 64 with padding, for the three channels, frames
// and seven columns of a stem.
//
// Positions of all rows of a frame of the block are rows of A, one after the other, with those
// between that no output is at: a tile has 16 of them, and rows of images are 7, 14, 28, 56 wide.
//
// What lies behind a run may be infinite or NaN, and zero times that is no zero. A sum that is not
// finite is therefore taken again by the same tiles without it, so that an output is the same sum
// whatever lies beside its inputs; and if it still is not, by multiply-adds.
#include <algorithm>

#include "ops/conv/activation.h"
#include "ops/conv/conv3d_filters.h"
#include "ops/conv/conv3d_split_rows.h"
#include "ops/conv/conv3d_split_tiles.h"

namespace marey::MAREY_ISA_NS {

// ---- windows ----

inline __mmask32 first_items(int64_t count) {
  return count >= kSplitDepth ? ~__mmask32{0} : static_cast<__mmask32>((1U << count) - 1U);
}

// A run of numbers to three planes, and zeros up to `padded` items.
[[gnu::noinline, gnu::flatten]] inline void split_run(const float* from, int64_t items,
                                                      int64_t padded, bfloat16* to, int64_t part) {
  for (int64_t k = 0; k < padded; k += kSplitDepth) {
    store_parts(load_some(from + k, 1, items - k),
                load_some(from + k + kTileItems, 1, items - k - kTileItems), to + k, part,
                first_items(padded - k));
  }
}

// Pixels that are neighbours in memory as (pixel, channels), and zeros up to `pitch` items.
[[gnu::noinline, gnu::flatten]] inline void split_turned(const float* from, int64_t channel_stride,
                                                         int64_t pixels, int64_t channels,
                                                         bfloat16* to, int64_t pitch,
                                                         int64_t part) {
  alignas(64) float turned[kTileItems * kSplitDepth];
  for (int64_t w = 0; w < pixels; w += kTileItems) {
    const int64_t count = at_most(kTileItems, pixels - w);
    for (int64_t c = 0; c < channels; c += kSplitDepth) {
      for (int64_t half = 0; half < kSplitDepth; half += kTileItems) {
        const auto pixels_of = [&](int j) {
          const int64_t channel = c + half + j;
          return load_some(from + channel * channel_stride + w, 1, channel < channels ? count : 0);
        };
        turn_square(pixels_of, turned + half, kSplitDepth);
      }
      const __mmask32 mask = first_items(pitch - c);
      for (int64_t j = 0; j < count; ++j) {
        const float* row = turned + j * kSplitDepth;
        store_parts(_mm512_load_ps(row), _mm512_load_ps(row + kTileItems), to + (w + j) * pitch + c,
                    part, mask);
      }
    }
  }
}

// ---- a block ----

class SplitDirect {
 public:
  static constexpr int64_t W = kTileItems;
  static constexpr int64_t kPanel = 2 * W;

  // What a pixel of the window holds, and what runs the depth of a chunk of channels consists of.
  struct Depth {
    bool folded;  // a pixel has the taps along time
    bool merged;  // a run has the taps along W
    bool padded;  // a pixel ends with zeros
    // Each position has a run of its own in the window, filled up: rows of A are then whole cache
    // lines, where pixels that runs share are not.
    bool gathered;
    int64_t pixel;  // items
    SplitRun run;
    int64_t runs;

    Depth(const ConvProblem& p, int64_t channels) {
      const auto& taps = p.taps;
      merged = contiguous(taps[2]);
      const int64_t columns = merged ? taps[2].count : 1;
      folded = false;
      if (taps[0].count > 1 && p.channels <= p.chunk) {
        // Frames are then copied once for each tap.
        constexpr int64_t kMostItems = 64;
        const int64_t together = split_steps(p.channels * taps[0].count * columns);
        const int64_t apart = split_steps(p.channels * columns) * taps[0].count;
        folded = p.channels * taps[0].count <= kMostItems && 5 * together <= 4 * apart;
      }
      pixel = channels * (folded ? taps[0].count : 1);
      run.items = pixel * columns;
      padded = false;
      if (columns == 1 && !folded) {
        // The step is filled up anyway: rows of A are then whole cache lines.
        const int64_t whole = round_up(channels, kSplitDepth);
        padded = whole != channels && 4 * whole <= 5 * channels;
        if (padded) pixel = whole;
      }
      run.steps = split_steps(run.items);
      gathered = folded && merged && columns > 1 && taps[2].step > 1;
      runs = (folded ? 1 : taps[0].count) * taps[1].count * (merged ? 1 : taps[2].count);
    }
    // Of the weights of a vector of filters, in items of Split.
    int64_t of_lanes() const { return runs * run.steps * kTileItems * W; }
  };

  static int64_t lanes_before(const ConvProblem& p, int64_t panel) {
    return at_most(panel * kPanel, round_up(p.filters, W));
  }
  static int64_t lanes_of(const ConvProblem& p, int64_t panel) {
    return lanes_before(p, panel + 1) - lanes_before(p, panel);
  }

  // ---- weights: chunks of channels, in each panels of filters, in each (runs, depth, lanes) ----

  static int64_t weights_at(const ConvProblem& p, int64_t first, int64_t channels, int64_t panel) {
    const int64_t chunks = first / p.chunk;
    int64_t vectors = chunks * Depth(p, p.chunk).of_lanes() * (round_up(p.filters, W) / W);
    if (first % p.chunk != 0) {
      vectors += Depth(p, first % p.chunk).of_lanes() * (round_up(p.filters, W) / W);
    }
    return vectors + Depth(p, channels).of_lanes() * (lanes_before(p, panel) / W);
  }
  // Whether calls may take SplitRowsDirect, whose weights then stand behind. Taps along time that
  // are in the run would give other sums.
  static bool may_be_rows(const ConvProblem& p) {
    return SplitRowsDirect::possible(p) && !Depth(p, at_most(p.chunk, p.channels)).folded;
  }
  static int64_t packed_bytes(const ConvProblem& p) {
    return rows_at(p) + (may_be_rows(p) ? SplitRowsDirect::packed_bytes(p) : 0);
  }
  static int64_t rows_at(const ConvProblem& p) {
    return weights_at(p, p.channels, 0, 0) * static_cast<int64_t>(sizeof(Split));
  }

  static int64_t packed_at_once(const ConvProblem& p) {
    return p.tap_count() * at_most(p.chunk, p.channels) * kPanel;
  }
  static int64_t pack_scratch(const ConvProblem& p) {
    return 2 * packed_at_once(p) * static_cast<int64_t>(sizeof(float));
  }
  static void pack(const ConvProblem& p, const ConvWeights& w, int64_t first_panel,
                   int64_t last_panel, void* packed, std::byte* scratch) {
    if (may_be_rows(p)) {
      SplitRowsDirect::pack(p, w, first_panel, last_panel,
                            static_cast<std::byte*>(packed) + rows_at(p));
    }
    const int64_t items = packed_at_once(p);
    auto* const rows = reinterpret_cast<float*>(scratch);
    for (int64_t c = 0; c < p.channels; c += p.chunk) {
      const int64_t channels = at_most(p.chunk, p.channels - c);
      const Depth depth(p, channels);
      for (int64_t panel = first_panel; panel < last_panel; ++panel) {
        const int64_t lanes = lanes_of(p, panel);
        for (int64_t lane = 0; lane < lanes; lane += W) {
          pack_filters<float>(p, w, c, channels, panel * kPanel + lane, lanes, rows + lane);
        }
        const float* from = rows;
        if (depth.folded) from = fold(p, channels, lanes, rows, rows + items);
        Split* to = static_cast<Split*>(packed) + weights_at(p, c, channels, panel);
        for (int64_t run = 0; run < depth.runs; ++run) {
          (lanes == W ? pack_split<1> : pack_split<2>)(from, lanes, 1, depth.run.items, lanes, to);
          from += depth.run.items * lanes;
          to += depth.run.steps * kTileItems * lanes;
        }
      }
    }
  }

  static bool of_rows(const ConvBlock& b) {
    return b.problem->inputs == ConvInputs::rows && may_be_rows(*b.problem);
  }
  static int64_t scratch(const ConvBlock& b) {
    return of_rows(b) ? SplitRowsDirect::scratch(b) : SplitDirect(b).scratch_bytes_;
  }
  static double positions(const ConvBlock& b) {
    if (of_rows(b)) return SplitRowsDirect::positions(b);
    // Of two tiles one above the other; one alone takes more than half as long.
    constexpr double kAlone = 20.0;
    const SplitDirect block(b);
    const int64_t left = block.length_ % kPanel;
    const double rest = left == 0 ? 0.0 : (left > W ? static_cast<double>(kPanel) : kAlone);
    return static_cast<double>(block.frames_ * block.stretches_) *
           (static_cast<double>(block.length_ - left) + rest);
  }
  static void run(const ConvBlock& b) {
    if (!of_rows(b)) return SplitDirect(b).run();
    SplitRowsDirect::run(b, static_cast<const std::byte*>(b.packed) + rows_at(*b.problem));
  }

 private:
  // (T, H, W, channels, lanes) as (H, W, T, channels, lanes).
  static const float* fold(const ConvProblem& p, int64_t channels, int64_t lanes, const float* from,
                           float* to) {
    const int64_t pixel = channels * lanes;
    const int64_t plane = p.taps[1].count * p.taps[2].count;
    for (int64_t q = 0; q < plane; ++q) {
      for (int64_t i = 0; i < p.taps[0].count; ++i) {
        std::memcpy(to + (q * p.taps[0].count + i) * pixel, from + (i * plane + q) * pixel,
                    static_cast<std::size_t>(pixel) * sizeof(float));
      }
    }
    return to;
  }

  explicit SplitDirect(const ConvBlock& b)
      : b_(b), p_(*b.problem), place_(b), depth_(p_, at_most(p_.chunk, p_.channels)) {
    positions_ = b.end[2] - b.begin[2];
    frames_ = b.end[0] - b.begin[0];
    rows_ = b.end[1] - b.begin[1];
    several_ = p_.channels > p_.chunk;
    pitch_ = depth_.gathered ? positions_ : place_.width.extent;
    const int64_t flat = (rows_ - 1) * pitch_ + positions_;
    flat_ = (depth_.gathered || (place_.width.step == 1 && place_.height.step == 1)) &&
            round_up(flat, W) <= rows_ * round_up(positions_, W);
    stretches_ = flat_ ? 1 : rows_;
    length_ = flat_ ? flat : positions_;
    first_lane_ = lanes_before(p_, b.first_panel);
    lanes_ = lanes_before(p_, b.last_panel) - first_lane_;
    window_frames_ = depth_.folded ? frames_ : place_.time.extent;
    row_items_ = pitch_ * place_items();
    // Rows behind the last position are read, and what lies behind a run. An odd number of lines,
    // so that the planes fall into different sets of the first-level cache.
    const int64_t behind = 2 * W * position_items() + 2 * kSplitDepth;
    constexpr int64_t kLine = 32;
    part_ = round_up(window_frames_ * row_slots() * row_items_ + behind, 2 * kLine) + kLine;
    const int64_t kept = several_ ? frames_ * lanes_ : kPanel;
    ScratchParts parts(b.scratch);
    parts.take(taps_, depth_.runs);
    parts.take(bias_, lanes_);
    parts.take(sums_, kept * frame_rows() + W * kPanel);
    parts.take(row_, std::max(row_items_, place_.width.extent * depth_.pixel));
    parts.take(window_, kSplitParts * part_);
    scratch_bytes_ = parts.bytes();
  }

  // Items of what stands side by side in a row of the window, and from one position to the next.
  int64_t place_items() const {
    return depth_.gathered ? depth_.run.steps * kSplitDepth : depth_.pixel;
  }
  int64_t position_items() const {
    return depth_.gathered ? place_items() : place_.width.step * depth_.pixel;
  }

  // Where a row stands in a frame of the window. Of gathered rows those that neighbours among the
  // outputs read are neighbours, so that the positions of all rows are one stretch.
  int64_t row_step() const { return depth_.gathered ? place_.height.step : 1; }
  int64_t row_slots() const {
    return (place_.height.extent + row_step() - 1) / row_step() * row_step();
  }
  int64_t slot_of(int64_t row) const {
    return row % row_step() * (row_slots() / row_step()) + row / row_step();
  }

  // Rows of sums of a frame: stretches are filled up to whole tiles.
  int64_t frame_rows() const { return stretches_ * round_up(length_, W); }

  void run() {
    if (frames_ <= 0 || rows_ <= 0 || positions_ <= 0) return;
    prepare_tiles();
    copy_bias(b_, first_lane_, lanes_, bias_);
    int64_t c = 0;
    do {  // once without channels, too
      first_channel_ = c;
      channels_ = at_most(p_.chunk, p_.channels - c);
      depth_ = Depth(p_, channels_);
      row_items_ = pitch_ * place_items();
      c += p_.chunk;
      pack_window();
      sum_chunk(first_channel_ == 0, c >= p_.channels);
    } while (c < p_.channels);
  }

  // ---- the window ----

  void clear_planes(bfloat16* to, int64_t items) const {
    for (int64_t part = 0; part < kSplitParts; ++part) clear(to + part * part_, items);
  }

  void pack_window() {
    const ConvTaps& time = p_.taps[0];
    for (int64_t t = 0; t < window_frames_; ++t) {
      for (int64_t h = 0; h < place_.height.extent; ++h) {
        bfloat16* const to = window_ + (t * row_slots() + slot_of(h)) * row_items_;
        if (!depth_.folded) {
          pack_row(place_.time.first + t * place_.time.stride, h, to);
          continue;
        }
        for (int64_t i = 0; i < time.count; ++i) {
          pack_few((b_.begin[0] + t) * time.step + time.offset[i], h, row_ + i * channels_);
        }
        if (!depth_.gathered) {
          split_run(row_, row_items_, row_items_, to, part_);
          continue;
        }
        for (int64_t w = 0; w < positions_; ++w) {
          split_run(row_ + w * place_.width.step * depth_.pixel, depth_.run.items, place_items(),
                    to + w * place_items(), part_);
        }
      }
    }
    clear_planes(window_ + window_frames_ * row_slots() * row_items_, kSplitDepth);
  }

  // The first channel of the first pixel of a row of the input; null: it is outside.
  const float* find_row(int64_t frame, int64_t h, ConvStrides& strides) const {
    const int64_t row = place_.height.first + h * place_.height.stride;
    if (frame < 0 || frame >= p_.in[0] || row < 0 || row >= p_.in[1]) return nullptr;
    const bool past = frame < b_.history;
    strides = past ? b_.past_strides : b_.x_strides;
    if (!past) frame -= b_.history;
    return static_cast<const float*>(past ? b_.past : b_.x) + first_channel_ * strides.c +
           frame * strides.s[0] + row * strides.s[1];
  }

  // Pixels of a row that are inside: [low, high) of the window, which begin at input `first`.
  struct Inside {
    int64_t low, high, first;
  };
  Inside inside() const {
    const Span& width = place_.width;
    const int64_t low = width.first >= 0 ? 0 : (-width.first + width.stride - 1) / width.stride;
    const int64_t first = width.first + low * width.stride;
    const int64_t left =
        p_.in[2] > first ? (p_.in[2] - first + width.stride - 1) / width.stride : 0;
    const int64_t from = at_most(low, width.extent);
    return {from, at_most(low + left, width.extent), first};
  }

  void pack_row(int64_t frame, int64_t h, bfloat16* to) {
    ConvStrides strides;
    const float* from = find_row(frame, h, strides);
    if (from == nullptr) return clear_planes(to, row_items_);
    const Inside in = inside();
    const int64_t pixels = in.high - in.low;
    const int64_t step = strides.s[2] * place_.width.stride;
    from += in.first * strides.s[2];
    const int64_t pixel = depth_.pixel;
    clear_planes(to, in.low * pixel);
    clear_planes(to + in.high * pixel, (pitch_ - in.high) * pixel);
    to += in.low * pixel;
    if (pixels <= 0) return;
    const int64_t items = pixels * pixel;
    if (strides.c == 1) {
      if (!depth_.padded && step == pixel) return split_run(from, items, items, to, part_);
      for (int64_t w = 0; w < pixels; ++w) {
        split_run(from + w * step, channels_, pixel, to + w * pixel, part_);
      }
      return;
    }
    if (step == 1 && channels_ >= W / 2) {
      return split_turned(from, strides.c, pixels, channels_, to, pixel, part_);
    }
    if (depth_.padded) std::fill_n(row_, items, 0.0F);
    take_few(from, strides.c, step, pixels, pixel, row_);
    split_run(row_, items, items, to, part_);
  }

  // A row of few channels, `depth_.pixel` items apart.
  void pack_few(int64_t frame, int64_t h, float* to) {
    ConvStrides strides;
    const float* from = find_row(frame, h, strides);
    const Inside in = from != nullptr ? inside() : Inside{0, 0, 0};
    for (int64_t w = 0; w < place_.width.extent; ++w) {
      if (w == in.low) w = std::max(in.high, in.low);
      if (w < place_.width.extent) std::fill_n(to + w * depth_.pixel, channels_, 0.0F);
    }
    if (in.high <= in.low) return;
    take_few(from + in.first * strides.s[2], strides.c, strides.s[2] * place_.width.stride,
             in.high - in.low, depth_.pixel, to + in.low * depth_.pixel);
  }

  [[gnu::noinline]] void take_few(const float* from, int64_t channel_stride, int64_t pixel_stride,
                                  int64_t pixels, int64_t pitch, float* to) const {
    for (int64_t c = 0; c < channels_; ++c) {
      for (int64_t w = 0; w < pixels; ++w) {
        to[w * pitch + c] = from[c * channel_stride + w * pixel_stride];
      }
    }
  }

  // ---- sums ----

  // The runs of a frame of outputs that lie inside along time, counted.
  int64_t list_runs(int64_t t, int64_t lanes) const {
    const auto& taps = p_.taps;
    const int64_t weights = depth_.run.steps * kTileItems * lanes;
    const int64_t columns = depth_.merged ? 1 : taps[2].count;
    int64_t count = 0;
    for (int64_t i = 0; i < (depth_.folded ? 1 : taps[0].count); ++i) {
      int64_t frame = t - b_.begin[0];
      if (!depth_.folded) {
        const int64_t read = t * taps[0].step + taps[0].offset[i];
        if (read < 0 || read >= p_.in[0]) continue;
        frame = frame * place_.time.step + taps[0].offset[i] - taps[0].offset[0];
      }
      for (int64_t j = 0; j < taps[1].count; ++j) {
        const int64_t row = taps[1].offset[j] - taps[1].offset[0];
        for (int64_t l = 0; l < columns; ++l) {
          const int64_t column = taps[2].count > 0 ? taps[2].offset[l] - taps[2].offset[0] : 0;
          taps_[count++] = {
              (frame * row_slots() + slot_of(row)) * row_items_ + column * depth_.pixel,
              ((i * taps[1].count + j) * columns + l) * weights};
        }
      }
    }
    return count;
  }

  void sum_frame(int64_t t, int64_t lanes, const Split* weights, float* sums, bool accumulate,
                 WindowAhead& ahead) {
    const int64_t count = list_runs(t, lanes);
    const int64_t stride = position_items();
    const int64_t whole = round_up(length_, W);
    for (int64_t s = 0; s < stretches_; ++s, sums += whole * lanes) {
      const bfloat16* row = window_ + s * (depth_.gathered ? 1 : place_.height.step) * row_items_;
      for (int64_t q = 0; q < length_; q += kPanel) {
        const int64_t left = at_most(kPanel, length_ - q);
        const bool two = left > W;
        const auto sum = lanes == W ? (two ? sum_runs<2, 1, false> : sum_runs<1, 1, false>)
                                    : (two ? sum_runs<2, 2, false> : sum_runs<1, 2, false>);
        sum(left,
            {row + q * stride, stride * static_cast<int64_t>(sizeof(bfloat16)), part_, kSplitDepth},
            taps_, count, depth_.run, weights, sums + q * lanes, accumulate, ahead);
      }
    }
  }

  void finish_frame(int64_t t, int64_t lane, int64_t lanes, float* sums) const {
    const float* bias = b_.bias != nullptr ? bias_ + lane : nullptr;
    const int64_t filters = at_most(lanes, p_.filters - first_lane_ - lane);
    const int64_t rows = flat_ ? pitch_ : round_up(length_, W);
    for (int64_t h = 0; h < rows_; ++h, sums += rows * lanes) {
      finish_sums<float>(sums, positions_, lanes, bias, b_.activation);
      float* to = static_cast<float*>(b_.out) + (first_lane_ + lane) * b_.out_strides.c +
                  t * b_.out_strides.s[0] + (b_.begin[1] + h) * b_.out_strides.s[1] +
                  b_.begin[2] * b_.out_strides.s[2];
      unpack_pixels(sums, lanes, positions_, filters, to, b_.out_strides.c, b_.out_strides.s[2]);
    }
  }

  void sum_chunk(bool first, bool last) {
    float* sums = sums_;
    constexpr int64_t kCallsOfStep = 6;
    const int64_t tiles = frames_ * stretches_ * ((length_ + kPanel - 1) / kPanel);
    WindowAhead ahead(last ? b_.next : nullptr, (b_.last_panel - b_.first_panel) * tiles *
                                                    depth_.runs * depth_.run.steps * kCallsOfStep);
    for (int64_t panel = b_.first_panel; panel < b_.last_panel; ++panel) {
      const int64_t lanes = lanes_of(p_, panel);
      const int64_t lane = lanes_before(p_, panel) - first_lane_;
      const Split* weights =
          static_cast<const Split*>(b_.packed) + weights_at(p_, first_channel_, channels_, panel);
      for (int64_t t = b_.begin[0]; t < b_.end[0]; ++t) {
        sum_frame(t, lanes, weights, sums, !first, ahead);
        if (last) finish_frame(t, lane, lanes, sums);
        if (several_) sums += frame_rows() * lanes;
      }
    }
  }

  const ConvBlock& b_;
  const ConvProblem& p_;
  WindowPlace place_;
  Depth depth_;  // of this chunk
  int64_t frames_, rows_, positions_;
  bool several_;                // chunks
  bool flat_;                   // positions of all rows are one stretch
  int64_t stretches_, length_;  // of a frame
  int64_t pitch_;               // pixels of a row of the window
  int64_t window_frames_;
  int64_t row_items_;
  int64_t part_;  // items of a plane
  int64_t first_lane_, lanes_;
  int64_t first_channel_ = 0, channels_ = 0;  // of this chunk
  int64_t scratch_bytes_;
  TapAt* taps_ = nullptr;
  float* bias_ = nullptr;
  float* sums_ = nullptr;
  float* row_ = nullptr;
  bfloat16* window_ = nullptr;
};

}  // namespace marey::MAREY_ISA_NS
