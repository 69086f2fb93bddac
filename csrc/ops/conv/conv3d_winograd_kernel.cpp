// Winograd's convolution of 3 x 3 kernels in space, F(2 x 2, 3 x 3) (Lavin and Gray 2016, "Fast
// Algorithms for Convolutional Neural Networks"), for any kernel along time:
//
//   Y = A' [ sum over c, i of (G w[k, c, i] G') * (B' x[c, t + i] B) ] A
//
// where * is by elements: 16 products for 2 x 2 outputs where the direct sum needs 36. The taps
// along time are summed in the transformed domain, so that each frame is transformed once for all
// of them. float32 only: the larger tiles F(4 x 4, 3 x 3), of four times fewer products, have 5 to
// 20 times the error of the direct sum, and F(2 x 2, 3 x 3) 1.3 to 1.5 times.
//
// A block has some frames and rows of tiles. Its inputs, transformed, are 16 matrices (tiles,
// channels) a frame, in the second-level cache; channels are lanes of the transforms. The products
// are the register tiles of the direct kernel, with tiles for positions and filters for lanes; one
// panel of filters at a time goes through all 16 points and is transformed back. Planes are padded
// so that the 16 streams of a transform fall into different sets of the first-level cache.
#include "ops/conv/conv3d_winograd.h"

namespace marey::MAREY_ISA_NS {
namespace {

constexpr int64_t kBlockBytes = int64_t{1} << 20;
// The transforms, too: measured, for 64 and 128 channels, blocks of one frame and of four.
constexpr double kCopyCost = 48.0;

class Winograd : public WinogradBlock {
 public:
  // ---- weights: 16 points, in each panels of filters, in each (time taps, channels, lanes) ----

  static int64_t point_pitch(const ConvProblem& p) {
    return p.taps[0].count * p.channels * round_up(p.filters, W);
  }
  static int64_t packed_bytes(const ConvProblem& p) {
    return kPoints * point_pitch(p) * static_cast<int64_t>(sizeof(float));
  }

  [[gnu::flatten]] static void pack(const ConvProblem& p, const ConvWeights& w, int64_t first,
                                    int64_t last, void* packed, std::byte*) {
    for (int64_t panel = first; panel < last; ++panel) {
      const int64_t lanes = lanes_of(p, panel);
      float* const to =
          static_cast<float*>(packed) + p.taps[0].count * p.channels * lanes_before(p, panel);
      each_weight(p, w, panel, [&](int64_t i, int64_t c, int64_t lane, const V(&points)[kPoints]) {
        for (int64_t q = 0; q < kPoints; ++q) {
          store(to + q * point_pitch(p) + (i * p.channels + c) * lanes + lane, points[q]);
        }
      });
    }
  }

  // ---- a block ----

  explicit Winograd(const ConvBlock& b) : WinogradBlock(b) {
    pitch_ = padded(p_.channels);
    input_plane_ = plane(in_frames_ * tiles_ * pitch_);
    sums_plane_ = plane(frames_ * tiles_ * kPanel);
    ScratchParts parts(b.scratch);
    parts.take(taps_, p_.taps[0].count);
    take_parts(parts);
    parts.take(inputs_, kPoints * input_plane_);
    parts.take(sums_, kPoints * sums_plane_);
    scratch_bytes_ = parts.bytes();
  }

  int64_t scratch_bytes() const { return scratch_bytes_; }

  void run() {
    copy_bias(b_, first_lane_, lanes_, bias_);
    pack_frames([&](int64_t t) { transform_frame(inputs_ + t * tiles_ * pitch_); });
    for (int64_t panel = b_.first_panel; panel < b_.last_panel; ++panel) {
      multiply(panel);
      finish(panel, sums_);
    }
  }

 private:
  // Floats from one row of channels to the next, not a multiple of a quarter of the cache's way.
  static int64_t padded(int64_t channels) {
    const int64_t pitch = round_up(channels, kLine);
    return pitch % 256 == 0 ? pitch + kLine : pitch;
  }

  // The window as (point, tile, channel) from `to` on.
  [[gnu::flatten]] void transform_frame(float* to) const {
    const int64_t channels = p_.channels;
    const int64_t row = window_columns() * channels;
    for (int64_t r = 0; r < tile_rows_; ++r) {
      for (int64_t c = 0; c < channels; c += W) {
        const float* at = window_ + 2 * r * row + c;
        float* tile = to + r * tile_columns_ * pitch_ + c;
        V left[4], right[4];
        transform_column(at, row, left);
        transform_column(at + channels, row, right);
        for (int64_t j = 0; j < tile_columns_; ++j, tile += pitch_) {
          at += 2 * channels;
          V third[4], fourth[4];
          transform_column(at, row, third);
          transform_column(at + channels, row, fourth);
#pragma GCC unroll 4
          for (int i = 0; i < 4; ++i) {
            store(tile + (4 * i) * input_plane_, left[i] - third[i]);
            store(tile + (4 * i + 1) * input_plane_, right[i] + third[i]);
            store(tile + (4 * i + 2) * input_plane_, third[i] - right[i]);
            store(tile + (4 * i + 3) * input_plane_, right[i] - fourth[i]);
            left[i] = third[i];
            right[i] = fourth[i];
          }
        }
      }
    }
  }

  void multiply(int64_t panel) {
    static constexpr ConvTiles<float> kTiles;
    const int64_t lanes = lanes_of(p_, panel);
    const ConvTaps& time = p_.taps[0];
    for (int64_t q = 0; q < kPoints; ++q) {
      const float* weights = static_cast<const float*>(b_.packed) + q * point_pitch(p_) +
                             time.count * p_.channels * lanes_before(p_, panel);
      for (int64_t t = 0; t < frames_; ++t) {
        int64_t count = 0;
        for (int64_t i = 0; i < time.count; ++i) {
          const int64_t frame = (b_.begin[0] + t) * time.step + time.offset[i];
          if (frame < 0 || frame >= p_.in[0]) continue;
          taps_[count++] = {(frame - first_frame_) * tiles_ * pitch_, i * p_.channels * lanes};
        }
        conv_row(kTiles.of[lanes / W - 1], tiles_, lanes, inputs_ + q * input_plane_, pitch_, 1,
                 taps_, count, p_.channels, weights, sums_ + q * sums_plane_ + t * tiles_ * lanes,
                 false);
      }
    }
  }

  int64_t pitch_;
  int64_t input_plane_;
  int64_t scratch_bytes_;
  TapAt* taps_ = nullptr;
  float* inputs_ = nullptr;
  float* sums_ = nullptr;
};

int64_t scratch(const ConvBlock& b) { return Winograd(b).scratch_bytes(); }
void run(const ConvBlock& b) { Winograd(b).run(); }

}  // namespace

ConvKernel select_conv3d_winograd(DType) {
  return {.panel = Winograd::kPanel,
          .tile = 2,
          .block_bytes = kBlockBytes,
          .product_cost = 16.0 / 36.0,
          .copy_cost = kCopyCost,
          .packed_bytes = Winograd::packed_bytes,
          .pack = Winograd::pack,
          .scratch = scratch,
          .run = run};
}

}  // namespace marey::MAREY_ISA_NS
