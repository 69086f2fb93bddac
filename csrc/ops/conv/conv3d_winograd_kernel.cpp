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
#include "core/tile.h"
#include "ops/conv/activation.h"
#include "ops/conv/conv3d.h"
#include "ops/conv/conv3d_tile.h"
#include "ops/conv/conv3d_window.h"

namespace marey::MAREY_ISA_NS {
namespace {

using V = Vec<float>;
constexpr int W = kLanesOf<float>;
constexpr int64_t kPanel = kConvVectors * W;
constexpr int64_t kPoints = 16;
constexpr int64_t kLine = 16;  // floats of a cache line
constexpr int64_t kBlockBytes = int64_t{1} << 20;
// The transforms, too: measured, for 64 and 128 channels, blocks of one frame and of four.
constexpr double kCopyCost = 48.0;

// Floats from one row of channels to the next, not a multiple of a quarter of the cache's way.
int64_t padded(int64_t channels) {
  const int64_t pitch = round_up(channels, kLine);
  return pitch % 256 == 0 ? pitch + kLine : pitch;
}
// Floats of a plane of a transform: an odd number of lines.
int64_t plane(int64_t items) { return round_up(items, 2 * kLine) + kLine; }

// G w G', all lanes at once.
void transform_weights(const V (&w)[9], V (&u)[kPoints]) {
  V rows[4][3];
  for (int l = 0; l < 3; ++l) {
    const V sum = w[l] + w[6 + l];
    rows[0][l] = w[l];
    rows[1][l] = V(0.5F) * (sum + w[3 + l]);
    rows[2][l] = V(0.5F) * (sum - w[3 + l]);
    rows[3][l] = w[6 + l];
  }
  for (int i = 0; i < 4; ++i) {
    const V sum = rows[i][0] + rows[i][2];
    u[4 * i] = rows[i][0];
    u[4 * i + 1] = V(0.5F) * (sum + rows[i][1]);
    u[4 * i + 2] = V(0.5F) * (sum - rows[i][1]);
    u[4 * i + 3] = rows[i][2];
  }
}

// ---- weights: 16 points, in each panels of filters, in each (time taps, channels, lanes) ----

int64_t lanes_before(const ConvProblem& p, int64_t panel) {
  return at_most(panel * kPanel, round_up(p.filters, W));
}
int64_t lanes_of(const ConvProblem& p, int64_t panel) {
  return lanes_before(p, panel + 1) - lanes_before(p, panel);
}
int64_t point_pitch(const ConvProblem& p) {
  return p.taps[0].count * p.channels * round_up(p.filters, W);
}
int64_t packed_bytes(const ConvProblem& p) {
  return kPoints * point_pitch(p) * static_cast<int64_t>(sizeof(float));
}

[[gnu::flatten]] void pack(const ConvProblem& p, const ConvWeights& w, int64_t first, int64_t last,
                           void* packed) {
  for (int64_t panel = first; panel < last; ++panel) {
    const int64_t lanes = lanes_of(p, panel);
    for (int64_t lane = 0; lane < lanes; lane += W) {
      const int64_t filter = panel * kPanel + lane;
      const int64_t count = at_most(W, p.filters - filter);
      float* const to = static_cast<float*>(packed) +
                        p.taps[0].count * p.channels * lanes_before(p, panel) + lane;
      for (int64_t i = 0; i < p.taps[0].count; ++i) {
        const float* const from =
            static_cast<const float*>(w.data) + filter * w.filter + p.taps[0].source[i] * w.tap[0];
        for (int64_t c = 0; c < p.channels; ++c) {
          alignas(64) float items[9][W] = {};
          for (int64_t k = 0; k < count; ++k) {
            const float* at = from + k * w.filter + c * w.channel;
            for (int64_t j = 0; j < 9; ++j) {
              items[j][k] =
                  at[p.taps[1].source[j / 3] * w.tap[1] + p.taps[2].source[j % 3] * w.tap[2]];
            }
          }
          V taps[9];
          V points[kPoints];
          for (int j = 0; j < 9; ++j) taps[j] = load<V>(items[j]);
          transform_weights(taps, points);
          for (int64_t q = 0; q < kPoints; ++q) {
            store(to + q * point_pitch(p) + (i * p.channels + c) * lanes, points[q]);
          }
        }
      }
    }
  }
}

class Winograd {
 public:
  explicit Winograd(const ConvBlock& b) : b_(b), p_(*b.problem) {
    frames_ = b.end[0] - b.begin[0];
    const ConvTaps& time = p_.taps[0];
    first_frame_ = b.begin[0] * time.step + time.offset[0];
    in_frames_ = (frames_ - 1) * time.step + time.offset[time.count - 1] - time.offset[0] + 1;
    tile_rows_ = (b.end[1] - b.begin[1] + 1) / 2;
    tile_columns_ = (b.end[2] - b.begin[2] + 1) / 2;
    tiles_ = tile_rows_ * tile_columns_;
    pitch_ = padded(p_.channels);
    input_plane_ = plane(in_frames_ * tiles_ * pitch_);
    sums_plane_ = plane(frames_ * tiles_ * kPanel);
    first_lane_ = lanes_before(p_, b.first_panel);
    lanes_ = lanes_before(p_, b.last_panel) - first_lane_;
    int64_t bytes = 0;
    const auto take = [&](int64_t size) {
      const int64_t part = bytes;
      bytes += round_up(size, 64);
      return part;
    };
    constexpr auto kFloat = static_cast<int64_t>(sizeof(float));
    const int64_t taps = take(time.count * static_cast<int64_t>(sizeof(TapAt)));
    const int64_t bias = take(lanes_ * kFloat);
    const int64_t rows = take((2 * 2 * tile_columns_ + W) * kPanel * kFloat);
    const int64_t window =
        take(((2 * tile_rows_ + 2) * window_columns() * p_.channels + W) * kFloat);
    const int64_t inputs = take(kPoints * input_plane_ * kFloat);
    const int64_t sums = take(kPoints * sums_plane_ * kFloat);
    scratch_bytes_ = bytes;
    if (b.scratch == nullptr) return;
    taps_ = reinterpret_cast<TapAt*>(b.scratch + taps);
    bias_ = reinterpret_cast<float*>(b.scratch + bias);
    rows_ = reinterpret_cast<float*>(b.scratch + rows);
    window_ = reinterpret_cast<float*>(b.scratch + window);
    inputs_ = reinterpret_cast<float*>(b.scratch + inputs);
    sums_ = reinterpret_cast<float*>(b.scratch + sums);
  }

  int64_t scratch_bytes() const { return scratch_bytes_; }

  void run() {
    if (b_.bias != nullptr) {
      const float* bias = static_cast<const float*>(b_.bias);
      for (int64_t k = 0; k < lanes_; ++k) {
        bias_[k] = first_lane_ + k < p_.filters ? bias[first_lane_ + k] : 0.0F;
      }
    }
    for (int64_t t = 0; t < in_frames_; ++t) {
      const int64_t frame = first_frame_ + t;
      if (frame < 0 || frame >= p_.in[0]) continue;
      pack_frame(frame);
      transform_frame(inputs_ + t * tiles_ * pitch_);
    }
    for (int64_t panel = b_.first_panel; panel < b_.last_panel; ++panel) {
      multiply(panel);
      finish(panel);
    }
  }

 private:
  int64_t window_columns() const { return 2 * tile_columns_ + 2; }

  void pack_frame(int64_t frame) {
    const bool past = frame < b_.history;
    const ConvStrides& strides = past ? b_.past_strides : b_.x_strides;
    const float* x = static_cast<const float*>(past ? b_.past : b_.x) +
                     (past ? frame : frame - b_.history) * strides.s[0];
    const int64_t top = b_.begin[1] + p_.taps[1].offset[0];
    const int64_t left = b_.begin[2] + p_.taps[2].offset[0];
    const int64_t row_items = window_columns() * p_.channels;
    for (int64_t h = 0; h < 2 * tile_rows_ + 2; ++h) {
      float* to = window_ + h * row_items;
      if (top + h < 0 || top + h >= p_.in[1]) {
        clear(to, row_items);
        continue;
      }
      pack_pixels(x + (top + h) * strides.s[1], strides.c, strides.s[2], left,
                  left + window_columns(), p_.in[2], p_.channels, p_.channels, to);
    }
  }

  // B' of the column of four pixels, one under the other.
  static void transform_column(const float* at, int64_t row, V (&column)[4]) {
    const V d0 = load<V>(at);
    const V d1 = load<V>(at + row);
    const V d2 = load<V>(at + 2 * row);
    const V d3 = load<V>(at + 3 * row);
    column[0] = d0 - d2;
    column[1] = d1 + d2;
    column[2] = d2 - d1;
    column[3] = d1 - d3;
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

  // A' of four points.
  static void transform_back(const V& a, const V& b, const V& c, const V& d, V& first, V& second) {
    first = a + b + c;
    second = b - c - d;
  }

  [[gnu::flatten]] void finish(int64_t panel) {
    const int64_t lanes = lanes_of(p_, panel);
    const int64_t lane = lanes_before(p_, panel) - first_lane_;
    const int64_t filters = at_most(lanes, p_.filters - first_lane_ - lane);
    const float* bias = b_.bias != nullptr ? bias_ + lane : nullptr;
    const int64_t columns = b_.end[2] - b_.begin[2];
    const int64_t row = 2 * tile_columns_ * lanes;
    for (int64_t t = 0; t < frames_; ++t) {
      for (int64_t r = 0; r < tile_rows_; ++r) {
        const float* tile = sums_ + (t * tiles_ + r * tile_columns_) * lanes;
        for (int64_t j = 0; j < tile_columns_; ++j, tile += lanes) {
          for (int64_t k = 0; k < lanes; k += W) {
            V above[4], below[4];
#pragma GCC unroll 4
            for (int l = 0; l < 4; ++l) {
              const float* at = tile + k + l * sums_plane_;
              transform_back(load<V>(at), load<V>(at + 4 * sums_plane_),
                             load<V>(at + 8 * sums_plane_), load<V>(at + 12 * sums_plane_),
                             above[l], below[l]);
            }
            V left, right;
            float* to = rows_ + 2 * j * lanes + k;
            transform_back(above[0], above[1], above[2], above[3], left, right);
            store(to, left);
            store(to + lanes, right);
            transform_back(below[0], below[1], below[2], below[3], left, right);
            store(to + row, left);
            store(to + row + lanes, right);
          }
        }
        const int64_t h = b_.begin[1] + 2 * r;
        for (int64_t i = 0; i < 2 && h + i < b_.end[1]; ++i) {
          finish_sums<float>(rows_ + i * row, columns, lanes, bias, b_.activation);
          float* to = static_cast<float*>(b_.out) + (first_lane_ + lane) * b_.out_strides.c +
                      (b_.begin[0] + t) * b_.out_strides.s[0] + (h + i) * b_.out_strides.s[1] +
                      b_.begin[2] * b_.out_strides.s[2];
          unpack_pixels(rows_ + i * row, lanes, columns, filters, to, b_.out_strides.c,
                        b_.out_strides.s[2]);
        }
      }
    }
  }

  const ConvBlock& b_;
  const ConvProblem& p_;
  int64_t frames_;
  int64_t first_frame_;
  int64_t in_frames_;
  int64_t tile_rows_, tile_columns_, tiles_;
  int64_t pitch_;
  int64_t input_plane_, sums_plane_;
  int64_t first_lane_, lanes_;
  int64_t scratch_bytes_;
  TapAt* taps_ = nullptr;
  float* bias_ = nullptr;
  float* rows_ = nullptr;
  float* window_ = nullptr;
  float* inputs_ = nullptr;
  float* sums_ = nullptr;
};

int64_t scratch(const ConvBlock& b) { return Winograd(b).scratch_bytes(); }
void run(const ConvBlock& b) { Winograd(b).run(); }

}  // namespace

ConvKernel select_conv3d_winograd(DType) {
  return {.panel = kPanel,
          .tile = 2,
          .block_bytes = kBlockBytes,
          .product_cost = 16.0 / 36.0,
          .copy_cost = kCopyCost,
          .packed_bytes = packed_bytes,
          .pack = pack,
          .scratch = scratch,
          .run = run};
}

}  // namespace marey::MAREY_ISA_NS
