#pragma once
// What Winograd's convolutions by multiply-adds and by tiles share, for kernel files: a block's
// place and window, and the transforms of weights and of results.
#include "core/tile.h"
#include "ops/conv/activation.h"
#include "ops/conv/conv3d.h"
#include "ops/conv/conv3d_tile.h"
#include "ops/conv/conv3d_window.h"

namespace marey::MAREY_ISA_NS {

class WinogradBlock {
 public:
  using V = Vec<float>;
  static constexpr int W = kLanesOf<float>;
  static constexpr int64_t kPanel = kConvVectors * W;
  static constexpr int64_t kPoints = 16;
  static constexpr int64_t kLine = 16;  // floats of a cache line

  static int64_t lanes_before(const ConvProblem& p, int64_t panel) {
    return at_most(panel * kPanel, round_up(p.filters, W));
  }
  static int64_t lanes_of(const ConvProblem& p, int64_t panel) {
    return lanes_before(p, panel + 1) - lanes_before(p, panel);
  }

  // f(i, c, lane, points) for each vector of filters of a panel, transformed, of tap i along time
  // and channel c.
  template <class F>
  [[gnu::always_inline]] static void each_weight(const ConvProblem& p, const ConvWeights& w,
                                                 int64_t panel, const F& f) {
    const int64_t lanes = lanes_of(p, panel);
    for (int64_t lane = 0; lane < lanes; lane += W) {
      const int64_t filter = panel * kPanel + lane;
      const int64_t count = at_most(W, p.filters - filter);
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
          f(i, c, lane, points);
        }
      }
    }
  }

 protected:
  explicit WinogradBlock(const ConvBlock& b) : b_(b), p_(*b.problem) {
    frames_ = b.end[0] - b.begin[0];
    const ConvTaps& time = p_.taps[0];
    first_frame_ = b.begin[0] * time.step + time.offset[0];
    in_frames_ = (frames_ - 1) * time.step + time.offset[time.count - 1] - time.offset[0] + 1;
    tile_rows_ = (b.end[1] - b.begin[1] + 1) / 2;
    tile_columns_ = (b.end[2] - b.begin[2] + 1) / 2;
    tiles_ = tile_rows_ * tile_columns_;
    first_lane_ = lanes_before(p_, b.first_panel);
    lanes_ = lanes_before(p_, b.last_panel) - first_lane_;
  }

  void take_parts(ScratchParts& parts) {
    parts.take(bias_, lanes_);
    parts.take(rows_, (2 * 2 * tile_columns_ + W) * kPanel);
    // The last channels are read as whole steps of tiles.
    parts.take(window_, window_rows() * window_columns() * p_.channels + 2 * W);
  }

  // transform(t) for each frame of the inputs that is inside, when it is in the window.
  template <class Transform>
  void pack_frames(const Transform& transform) {
    for (int64_t t = 0; t < in_frames_; ++t) {
      const int64_t frame = first_frame_ + t;
      if (frame < 0 || frame >= p_.in[0]) continue;
      pack_frame(frame);
      transform(t);
    }
  }

  // G w G', all lanes at once.
  static void transform_weights(const V (&w)[9], V (&u)[kPoints]) {
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

  // Floats of a plane of a transform: an odd number of lines.
  static int64_t plane(int64_t items) { return round_up(items, 2 * kLine) + kLine; }

  int64_t window_columns() const { return 2 * tile_columns_ + 2; }
  int64_t window_rows() const { return 2 * tile_rows_ + 2; }

  void pack_frame(int64_t frame) {
    const bool past = frame < b_.history;
    const ConvStrides& strides = past ? b_.past_strides : b_.x_strides;
    const float* x = static_cast<const float*>(past ? b_.past : b_.x) +
                     (past ? frame : frame - b_.history) * strides.s[0];
    const int64_t top = b_.begin[1] + p_.taps[1].offset[0];
    const int64_t left = b_.begin[2] + p_.taps[2].offset[0];
    const int64_t row_items = window_columns() * p_.channels;
    for (int64_t h = 0; h < window_rows(); ++h) {
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

  // A' of four points.
  static void transform_back(const V& a, const V& b, const V& c, const V& d, V& first, V& second) {
    first = a + b + c;
    second = b - c - d;
  }

  // `sums`: planes of (frame, tile, lanes) of a panel of filters, one for each point.
  [[gnu::flatten]] void finish(int64_t panel, const float* sums) {
    const int64_t lanes = lanes_of(p_, panel);
    const int64_t lane = lanes_before(p_, panel) - first_lane_;
    const int64_t filters = at_most(lanes, p_.filters - first_lane_ - lane);
    const float* bias = b_.bias != nullptr ? bias_ + lane : nullptr;
    const int64_t columns = b_.end[2] - b_.begin[2];
    const int64_t row = 2 * tile_columns_ * lanes;
    for (int64_t t = 0; t < frames_; ++t) {
      for (int64_t r = 0; r < tile_rows_; ++r) {
        const float* tile = sums + (t * tiles_ + r * tile_columns_) * lanes;
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
  int64_t sums_plane_ = 0;
  int64_t first_lane_, lanes_;
  float* bias_ = nullptr;
  float* rows_ = nullptr;
  float* window_ = nullptr;
};

}  // namespace marey::MAREY_ISA_NS
