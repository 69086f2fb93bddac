// Winograd's convolution (conv3d_winograd_kernel.cpp) by the tiles of AMX: the 16 matrix products
// of a block are of split operands (core/tile_split.h). Other instruction sets have none, and
// little to compile.
//
// Transformed inputs are split when they are stored, (point, part, frame, tile, channels), and take
// 6 bytes a number, transformed weights 6 as well. A panel of weights is read once for each block,
// and soon from the third-level cache: so a block has more positions than by multiply-adds, and one
// point at a time goes through all panels of filters, because the inputs and the weights of a point
// fit in the second-level cache together. Frames of outputs that see the same frames are
// rows of one product.
#include "ops/conv/conv3d.h"
#if defined(__AMX_BF16__)
#include "ops/conv/conv3d_split_tiles.h"
#include "ops/conv/conv3d_winograd.h"
#endif

namespace marey::MAREY_ISA_NS {

#if defined(__AMX_BF16__)
namespace {

constexpr int64_t kBlockBytes = int64_t{6} << 20;
constexpr double kCopyCost = 56.0;

// Lines of a stretch that tiles fetch into the second-level cache, so many at a time.
class LinesBeside {
 public:
  LinesBeside(const void* at, int64_t bytes, int64_t calls)
      : at_(static_cast<const char*>(at)), end_(at_ + bytes) {
    at_once_ = (bytes / 64 + calls - 1) / std::max<int64_t>(calls, 1);
  }
  [[gnu::always_inline]] void fetch() {
    for (int64_t i = 0; i < at_once_ && at_ < end_; ++i, at_ += 64) _mm_prefetch(at_, _MM_HINT_T1);
  }

 private:
  const char* at_;
  const char* end_;
  int64_t at_once_;
};

class WinogradTiles : public WinogradBlock {
 public:
  // ---- weights: 16 points, in each panels of filters, in each (time taps, depth, lanes) ----

  // Of a vector of filters, in items of Split.
  static int64_t of_tap(const ConvProblem& p) { return split_steps(p.channels) * kTileItems; }
  static int64_t point_pitch(const ConvProblem& p) {
    return p.taps[0].count * of_tap(p) * round_up(p.filters, W);
  }
  static int64_t packed_bytes(const ConvProblem& p) {
    return kPoints * point_pitch(p) * static_cast<int64_t>(sizeof(Split));
  }

  static int64_t pack_scratch(const ConvProblem& p) {
    return kPoints * p.taps[0].count * p.channels * kPanel * static_cast<int64_t>(sizeof(float));
  }
  [[gnu::flatten]] static void pack(const ConvProblem& p, const ConvWeights& w, int64_t first,
                                    int64_t last, void* packed, std::byte* scratch) {
    const int64_t of_point = p.taps[0].count * p.channels * kPanel;
    auto* const transformed = reinterpret_cast<float*>(scratch);
    for (int64_t panel = first; panel < last; ++panel) {
      const int64_t lanes = lanes_of(p, panel);
      each_weight(p, w, panel, [&](int64_t i, int64_t c, int64_t lane, const V(&points)[kPoints]) {
        for (int64_t q = 0; q < kPoints; ++q) {
          store(transformed + q * of_point + (i * p.channels + c) * lanes + lane, points[q]);
        }
      });
      for (int64_t q = 0; q < kPoints; ++q) {
        Split* const to = static_cast<Split*>(packed) + weights_at(p, q, panel);
        for (int64_t i = 0; i < p.taps[0].count; ++i) {
          (lanes == W ? pack_split<1>
                      : pack_split<2>)(transformed + q * of_point + i * p.channels * lanes, lanes,
                                       1, p.channels, lanes, to + i * of_tap(p) * lanes);
        }
      }
    }
  }

  // ---- a block ----

  explicit WinogradTiles(const ConvBlock& b) : WinogradBlock(b) {
    pitch_ = round_up(p_.channels, kSplitDepth);
    // Tiles read whole blocks of rows, also behind the last one. An odd number of lines, so that
    // the planes fall into different sets of the first-level cache.
    constexpr int64_t kItems = 2 * kLine;
    part_ = round_up((in_frames_ * tiles_ + kBlock) * pitch_, 2 * kItems) + kItems;
    sums_plane_ = plane(frames_ * tiles_ * lanes_ + kBlock * kPanel);
    ScratchParts parts(b.scratch);
    parts.take(taps_, p_.taps[0].count);
    take_parts(parts);
    parts.take(inputs_, kPoints * kSplitParts * part_);
    parts.take(sums_, kPoints * sums_plane_);
    scratch_bytes_ = parts.bytes();
  }

  int64_t scratch_bytes() const { return scratch_bytes_; }
  // With those that fill tiles up.
  double positions() const {
    return static_cast<double>(4 * round_up(frames_ * tiles_, kTileItems));
  }

  void run() {
    if (frames_ <= 0 || tiles_ <= 0) return;
    prepare_tiles();
    copy_bias(b_, first_lane_, lanes_, bias_);
    pack_frames([&](int64_t t) { transform_frame(inputs_ + t * tiles_ * pitch_); });
    for (int64_t q = 0; q < kPoints; ++q) {
      for (int64_t panel = b_.first_panel; panel < b_.last_panel; ++panel) multiply(q, panel);
    }
    for (int64_t panel = b_.first_panel; panel < b_.last_panel; ++panel) {
      finish(panel, sums_ + frames_ * tiles_ * (lanes_before(p_, panel) - first_lane_));
    }
  }

 private:
  static constexpr int64_t kBlock = 2 * kTileItems;

  static int64_t weights_at(const ConvProblem& p, int64_t point, int64_t panel) {
    return point * point_pitch(p) + p.taps[0].count * of_tap(p) * lanes_before(p, panel);
  }

  // The window as (point, part, tile, channel) from `to` on.
  [[gnu::flatten]] void transform_frame(bfloat16* to) const {
    const int64_t channels = p_.channels;
    const int64_t row = window_columns() * channels;
    for (int64_t r = 0; r < tile_rows_; ++r) {
      for (int64_t c = 0; c < channels; c += kSplitDepth) {
        // What lies behind the channels meets weights that are zeros.
        const float* at = window_ + 2 * r * row + c;
        bfloat16* tile = to + r * tile_columns_ * pitch_ + c;
        V left[2][4], right[2][4];
#pragma GCC unroll 2
        for (int half = 0; half < 2; ++half) {
          transform_column(at + half * W, row, left[half]);
          transform_column(at + half * W + channels, row, right[half]);
        }
        for (int64_t j = 0; j < tile_columns_; ++j, tile += pitch_) {
          at += 2 * channels;
          V points[2][kPoints];
#pragma GCC unroll 2
          for (int half = 0; half < 2; ++half) {
            V third[4], fourth[4];
            transform_column(at + half * W, row, third);
            transform_column(at + half * W + channels, row, fourth);
#pragma GCC unroll 4
            for (int i = 0; i < 4; ++i) {
              points[half][4 * i] = left[half][i] - third[i];
              points[half][4 * i + 1] = right[half][i] + third[i];
              points[half][4 * i + 2] = third[i] - right[half][i];
              points[half][4 * i + 3] = right[half][i] - fourth[i];
              left[half][i] = third[i];
              right[half][i] = fourth[i];
            }
          }
#pragma GCC unroll 16
          for (int64_t q = 0; q < kPoints; ++q) {
            store_parts(static_cast<__m512>(points[0][q]), static_cast<__m512>(points[1][q]),
                        tile + q * kSplitParts * part_, part_, ~__mmask32{0});
          }
        }
      }
    }
  }

  // The taps of a frame of outputs that lie inside; how many.
  int64_t list_taps(int64_t t, int64_t lanes) {
    const ConvTaps& time = p_.taps[0];
    int64_t count = 0;
    for (int64_t i = 0; i < time.count; ++i) {
      const int64_t frame = (b_.begin[0] + t) * time.step + time.offset[i];
      if (frame < 0 || frame >= p_.in[0]) continue;
      taps_[count++] = {(frame - first_frame_) * tiles_ * pitch_, i * of_tap(p_) * lanes};
    }
    return count;
  }
  // Whether all taps of a frame of outputs lie inside.
  bool sees_all(int64_t t) const {
    const ConvTaps& time = p_.taps[0];
    const int64_t first = (b_.begin[0] + t) * time.step;
    return first + time.offset[0] >= 0 && first + time.offset[time.count - 1] < p_.in[0];
  }

  void multiply(int64_t q, int64_t panel) {
    const int64_t lanes = lanes_of(p_, panel);
    const auto* const packed = static_cast<const Split*>(b_.packed);
    const Split* const weights = packed + weights_at(p_, q, panel);
    const SplitRun run{p_.channels, split_steps(p_.channels)};
    const bfloat16* const inputs = inputs_ + q * kSplitParts * part_;
    float* sums =
        sums_ + q * sums_plane_ + frames_ * tiles_ * (lanes_before(p_, panel) - first_lane_);
    // The weights of the panel that is next, or of the next point.
    const bool more = panel + 1 < b_.last_panel;
    const Split* const next = packed + (more ? weights_at(p_, q, panel + 1)
                                             : weights_at(p_, (q + 1) % kPoints, b_.first_panel));
    const int64_t taps = p_.taps[0].count;
    constexpr int64_t kCallsOfStep = 6;
    LinesBeside ahead(next, taps * of_tap(p_) * lanes * static_cast<int64_t>(sizeof(Split)),
                      (frames_ * tiles_ + kBlock - 1) / kBlock * taps * run.steps * kCallsOfStep);
    for (int64_t t = 0; t < frames_;) {
      const int64_t count = list_taps(t, lanes);
      const int64_t first = t++;
      if (p_.taps[0].step == 1 && sees_all(first)) {
        while (t < frames_ && sees_all(t)) ++t;
      }
      int64_t left = (t - first) * tiles_;
      SplitPlanes a{inputs, pitch_ * static_cast<int64_t>(sizeof(bfloat16)), part_, kSplitDepth};
      for (; left > 0; left -= kBlock) {
        const bool two = left > kTileItems;
        const auto sum =
            lanes == W
                ? (two ? sum_runs<2, 1, false, LinesBeside> : sum_runs<1, 1, false, LinesBeside>)
                : (two ? sum_runs<2, 2, false, LinesBeside> : sum_runs<1, 2, false, LinesBeside>);
        const int64_t rows = at_most(left, kBlock);
        sum(rows, a, taps_, count, run, weights, sums, false, ahead);
        a.data += rows * pitch_;
        sums += rows * lanes;
      }
    }
  }

  int64_t pitch_;  // items of a tile's channels
  int64_t part_;   // items from one part to the next
  int64_t scratch_bytes_;
  TapAt* taps_ = nullptr;
  bfloat16* inputs_ = nullptr;
  float* sums_ = nullptr;
};

int64_t scratch(const ConvBlock& b) { return WinogradTiles(b).scratch_bytes(); }
double positions(const ConvBlock& b) { return WinogradTiles(b).positions(); }
void run(const ConvBlock& b) { WinogradTiles(b).run(); }

}  // namespace
#endif

ConvKernel select_conv3d_winograd_split([[maybe_unused]] DType dtype) {
#if defined(__AMX_BF16__)
  if (dtype == DType::f32 && tiles_active()) {
    return {.panel = WinogradTiles::kPanel,
            .tile = 2,
            .block_bytes = kBlockBytes,
            .product_cost = 0.375 * 16.0 / 36.0,
            .copy_cost = kCopyCost,
            .weight_cost = 6.0,
            .packed_bytes = WinogradTiles::packed_bytes,
            .pack = WinogradTiles::pack,
            .pack_scratch = WinogradTiles::pack_scratch,
            .scratch = scratch,
            .positions = positions,
            .run = run};
  }
#endif
  return {};
}

}  // namespace marey::MAREY_ISA_NS
