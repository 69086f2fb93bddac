#pragma once
// Phase-based magnification (Wadhwa, Rubinstein, Durand and Freeman, SIGGRAPH 2013), streaming, on
// luma: each coefficient of a complex steerable pyramid is turned by alpha times its band-passed
// phase.
//
// For each frame and each sub-band: transform back, take the phase's increment since the frame
// before, filter it, smooth the result over space with the amplitude as weight, turn the
// coefficient by it, and add the real part's spectrum to the result's. Only a few sub-bands exist
// at a time.
#include <complex>
#include <vector>

#include "core/buffer.h"
#include "core/dispatch.h"
#include "ops/magnification/increments.h"
#include "ops/pyramid/steerable.h"

namespace marey {

struct PhaseMagnifierOptions {
  SteerableOptions pyramid;
  int64_t channels = 1;     // 1 or 3 (RGB)
  DType dtype = DType::u8;  // of frames: uint8, or float32 in [0, 1]
  IncrementFilter filter;
  HalfKernel smoothing;
};

class PhaseMagnifier {
 public:
  explicit PhaseMagnifier(const PhaseMagnifierOptions& options);

  // frames, out: (T, H, W) or (T, H, W, C) alike; out's rows are contiguous and overlap nothing. If
  // it throws, the state is what it was before.
  void feed(const View& frames, const View& out);

  // (1 + rows of the filter's state, coefficients) float32: the phases of the last frame, then the
  // filter's state; meaningless before the first frame.
  View state() const;
  bool started() const { return started_; }
  void set_started(bool started) { started_ = started; }
  int64_t workspace_bytes() const;

 private:
  void feed_frame(const View& frame, const View& out, const float* state_in, float* state_out,
                  bool started);

  PhaseMagnifierOptions options_;
  Steerable<float> transform_;
  Steerable<float>::Workspace analysis_;
  Steerable<float>::Workspace synthesis_;
  std::vector<int64_t> offsets_;  // of each scale's coefficients in a row of the state
  int64_t coefficients_ = 0;
  Buffer luma_;
  Buffer bands_;   // complex
  Buffer turned_;  // real parts of the results
  Buffer shifts_;  // amplitude times phase shift
  Buffer amplitudes_;
  Buffer state_;
  Buffer next_state_;
  bool started_ = false;
};

// A range of coefficients of one scale.
struct PhaseRange {
  const std::complex<float>* coefficients;
  const float* state_in;  // row r at r * stride
  float* state_out;
  int64_t stride;
  float* turned;  // the result, if there is no smoothing
  float* shifts;  // amplitude times shift, and amplitude, if there is
  float* amplitudes;
  const IncrementFilter* filter;
  bool started;
  bool smooth;
};

// One sub-band, to be smoothed; borders are circular, as the pyramid's.
struct PhaseSmoothing {
  const std::complex<float>* coefficients;
  const float* shifts;
  const float* amplitudes;
  float* turned;
  int64_t height;
  int64_t width;
  const float* taps;
  int64_t radius;
};

struct PhaseKernel {
  void (*filter)(const PhaseRange&, int64_t begin, int64_t end);
  void (*smooth)(const PhaseSmoothing&, int64_t begin, int64_t end, std::byte* scratch);
  int64_t (*smooth_scratch_bytes)(int64_t width, int64_t radius);
};

using SelectPhase = PhaseKernel();
MAREY_DECLARE_KERNEL(select_phase, SelectPhase)

}  // namespace marey
