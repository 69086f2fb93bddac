#pragma once
// Magnification with Riesz pyramids (Wadhwa, Rubinstein, Durand and Freeman, ICCP 2014), streaming,
// on luma. A coefficient is the quaternion (I, R1, R2) of a Laplacian band and its Riesz transform:
// amplitude A, phase phi and orientation theta with
//
//   I = A cos phi,  R1 = A sin phi cos theta,  R2 = A sin phi sin theta.
//
// The logarithm of r_t r_{t-1}^-1 is the increment of (phi cos theta, phi sin theta), which does
// not change sign where theta turns by pi. Both parts are filtered, smoothed over space with A as
// weight, multiplied by alpha, and the coefficient's real part is turned by them.
#include <vector>

#include "core/buffer.h"
#include "core/dispatch.h"
#include "core/view.h"
#include "ops/magnification/increments.h"

namespace marey {

struct RieszMagnifierOptions {
  int64_t height = 0;
  int64_t width = 0;
  int levels = 1;           // bands, all of them magnified
  int64_t channels = 1;     // 1 or 3 (RGB)
  DType dtype = DType::u8;  // of frames: uint8, or float32 in [0, 1]
  IncrementFilter filter;
  HalfKernel smoothing;
};

class RieszMagnifier {
 public:
  explicit RieszMagnifier(const RieszMagnifierOptions& options);

  // As PhaseMagnifier.
  void feed(const View& frames, const View& out);

  // (3 + 2 * rows of the filter's state, coefficients) float32: I, R1 and R2 of the last frame,
  // then the filter's states for phi cos theta and phi sin theta.
  View state() const;
  bool started() const { return started_; }
  void set_started(bool started) { started_ = started; }
  int64_t workspace_bytes() const;

 private:
  void feed_frame(const View& frame, const View& out, const float* state_in, float* state_out,
                  bool started);

  RieszMagnifierOptions options_;
  std::vector<Shape> shapes_;  // of the bands and the residual
  std::vector<int64_t> offsets_;
  int64_t coefficients_ = 0;
  Buffer luma_;
  std::vector<Buffer> bands_;
  Buffer weighted_;  // A phi cos theta, A phi sin theta and A, of one band
  Buffer state_;
  Buffer next_state_;
  bool started_ = false;
};

// One band.
struct RieszBand {
  float* band;            // in: I; after `turn`: what I is to change by
  const float* state_in;  // row r at r * stride
  float* state_out;
  int64_t stride;
  float* weighted;  // three planes of plane_stride items
  int64_t plane_stride;
  int64_t height;
  int64_t width;
  const IncrementFilter* filter;
  const float* taps;
  int64_t radius;
  bool started;
};

struct RieszKernel {
  // Rows [begin, end).
  void (*filter)(const RieszBand&, int64_t begin, int64_t end);
  void (*turn)(const RieszBand&, int64_t begin, int64_t end, std::byte* scratch);
  int64_t (*turn_scratch_bytes)(int64_t width, int64_t radius);
};

using SelectRiesz = RieszKernel();
MAREY_DECLARE_KERNEL(select_riesz, SelectRiesz)

}  // namespace marey
