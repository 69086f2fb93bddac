#pragma once
// Linear Eulerian magnification (Wu et al., SIGGRAPH 2012), streaming.
//
// Published: band-pass every level of each frame's pyramid along time, multiply level l by alpha_l,
// collapse, and add to the frame. Pyramid and filter are both linear and act on different axes, so
// they commute. With b = the first level that is amplified, it is enough to filter G_b, the
// Gaussian level b (a quarter of the pixels or fewer, since the finest band is never amplified),
// and to build the rest of the pyramid from the filtered B_b:
//
//   sum over l of alpha_l up^l(B_l - up(B_{l+1}))   =   up^b(E_b),
//   E_l = (alpha_l - alpha_{l-1}) B_l + up(E_{l+1}),  alpha_{b-1} = 0,  E_L = -alpha_{L-1} B_L
//
// for bands b .. L - 1 and low-pass residual L, which is not amplified. The colour transform is
// linear too: attenuating I and Q of YIQ by c is  x -> c x + (1 - c) Y(x) (1, 1, 1), done once on
// E_b. What remains at full size is to read each frame twice and to write it once.
#include <vector>

#include "core/buffer.h"
#include "core/dispatch.h"
#include "core/view.h"

namespace marey {

struct LinearMagnifierOptions {
  int64_t height = 0;
  int64_t width = 0;
  int64_t channels = 1;     // 1 or 3 (RGB)
  DType dtype = DType::u8;  // of frames: uint8, or float32 in [0, 1]
  // The level that is filtered, at least 1.
  int base_level = 1;
  // alpha_l of the Laplacian bands base_level, base_level + 1, ...; or, if `gaussian`, the one
  // factor of the Gaussian level base_level.
  std::vector<double> alphas;
  bool gaussian = false;
  double chroma = 1.0;
  std::vector<double> sos;        // (sections, 6)
  std::vector<double> steady_zi;  // (sections, 2): the state for a constant input of 1
};

class LinearMagnifier {
 public:
  explicit LinearMagnifier(const LinearMagnifierOptions& options);

  // frames, out: (T, H, W) or (T, H, W, C) alike; out's rows are contiguous and overlap nothing. If
  // it throws, the state is what it was before.
  void feed(const View& frames, const View& out);

  // The filter state, (sections, 2, pixels * channels) float32 of the base level; meaningless
  // before the first frame.
  View state() const;
  bool started() const { return started_; }
  void set_started(bool started) { started_ = started; }
  int64_t workspace_bytes() const;

 private:
  void feed_chunk(const View& frames, const View& out);
  View level_view(const std::vector<Buffer>& buffers, int level, int64_t frames) const;

  LinearMagnifierOptions options_;
  int top_level_;                  // the coarsest level in use
  int64_t chunk_;                  // frames at a time
  std::vector<Shape> shapes_;      // (chunk, H, W, C) of each level
  std::vector<Buffer> filtered_;   // by level: G, then B
  std::vector<Buffer> amplified_;  // by level: E
  Buffer state_;
  Buffer next_state_;
  bool started_ = false;
};

// In place, pixel by pixel (3 items each): x = chroma * x + (1 - chroma) * luma(x).
using AttenuateChroma = void(float* pixels, int64_t count, float chroma);
MAREY_DECLARE_KERNEL(attenuate_chroma, AttenuateChroma)
// False if any item is infinite or not a number.
using AllFinite = bool(const float* items, int64_t count);
MAREY_DECLARE_KERNEL(all_finite, AllFinite)

}  // namespace marey
