#pragma once
// An adaptive Gaussian mixture for each pixel (Z. Zivkovic, "Improved adaptive Gaussian mixture
// model for background subtraction", ICPR 2004), streaming.
//
// A pixel has up to `modes` Gaussians with weight w, mean m (a value for each channel) and one
// variance v, heaviest first. With the pixel's value x, learning rate a and D = |x - m|^2, for each
// in order:
//
//   background if D < threshold v and the weights before it sum to less than background_ratio
//   it owns x  if D < match_threshold v, and none before it does
//   w <- (1 - a) w - a complexity  (+ a for the owner);  no mode any more where that falls below
//                                                        a complexity
//   owner: k = a / w,  m <- m + k (x - m),  v <- v + k (D - v), held within its limits
//
// then the weights are divided by their sum. A value without owner makes a new mode (m = x, w = a,
// v = initial_variance, the others times 1 - a), in place of the lightest if all are taken; the
// only mode has weight 1. The term `complexity` is the paper's prior that keeps the number of modes
// small.
//
// A pixel that is not background is shadow if it is a darker version of a background mode (A. Prati
// et al., PAMI 2003): with s = x.m / m.m,  darkest <= s <= 1  and  |s m - x|^2 < threshold v s^2.
//
// With a = 0 nothing is written.
#include <vector>

#include "core/buffer.h"
#include "core/dispatch.h"
#include "core/view.h"

namespace marey {

// Pixels side by side in the state, whatever the instruction set.
inline constexpr int64_t kMixtureBlock = 16;
inline constexpr int kMixtureMaxModes = 8;

struct MixtureParameters {
  int modes = 5;
  float threshold = 16;
  float match_threshold = 9;
  float background_ratio = 0.9F;
  float initial_variance = 36;
  float minimum_variance = 16;
  float maximum_variance = 80;
  float complexity = 0.05F;
  float darkest = 0.5F;
  bool shadows = false;
};

class Mixture {
 public:
  // channels: 1 or 3. dtype of frames: uint8, or float32, which is multiplied by 255.
  Mixture(int64_t height, int64_t width, int64_t channels, DType dtype,
          const MixtureParameters& parameters);

  // frames: (T, H, W) if channels is 1, else (T, H, W, 3), any strides. labels: (T, H, W) uint8,
  // C-contiguous; takes 0, `shadow` or `foreground`. rates: T learning rates in [0, 1].
  // If it is interrupted, some pixels have seen more frames than others.
  void feed(const View& frames, const std::vector<float>& rates, const View& labels, uint8_t shadow,
            uint8_t foreground);

  // (modes, H, ceil(W / 16), 2 + channels, 16) float32: in a block of 16 pixels the weights, then
  // the variances, then each channel's means. A weight of 0 is no mode.
  View state() const;
  // To be called when the state has been written from outside.
  void count_modes();

  // out: (H, W) or (H, W, 3) float64, C-contiguous: the mean of the background modes by weight, in
  // units of uint8 frames; 0 before the first frame.
  void background(const View& out) const;

  int64_t width() const { return width_; }
  int64_t channels() const { return channels_; }

 private:
  int64_t height_;
  int64_t width_;
  int64_t channels_;
  DType dtype_;
  MixtureParameters parameters_;
  int64_t blocks_;  // in a row
  Buffer state_;
  std::vector<uint8_t> used_;  // for each block the largest number of modes of its pixels
};

// A piece of one row over several frames.
struct MixtureTile {
  const void* pixels;    // contiguous within a frame
  int64_t frame_stride;  // in bytes
  uint8_t* labels;
  int64_t label_stride;
  int64_t frames;
  int64_t width;  // in pixels
  const float* rates;
  float* state;         // of the first block and mode
  int64_t mode_stride;  // in items
  uint8_t* used;
  const MixtureParameters* parameters;
  uint8_t shadow;
  uint8_t foreground;
};

using MixtureFn = void(const MixtureTile&);
using SelectMixture = MixtureFn*(DType dtype, int64_t channels, bool shadows);
MAREY_DECLARE_KERNEL(select_mixture, SelectMixture)

}  // namespace marey
