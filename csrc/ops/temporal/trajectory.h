#pragma once
// trajectory_mean: a weighted mean over time along straight paths through space,
//
//   y[t, r, c] = sum over j of weights[j] x[s, r + vy (s - t), c + vx (s - t)],  s = t - before + j
//
// so that what moves with the velocity (vy, vx) stays sharp. Between pixels the picture is
// interpolated by cubic convolution (R. Keys, Cubic Convolution Interpolation for Digital Image
// Processing, IEEE Transactions on Acoustics, Speech, and Signal Processing 29(6), 1981, a = -1/2:
// exact for polynomials of second degree); beyond its borders it goes on with its outermost pixels.
// Beyond the ends of time, s is the step that stands for it, and so is s - t.
#include <vector>

#include "core/dispatch.h"
#include "core/view.h"
#include "ops/temporal/window.h"

namespace marey {

// x: (T, H, W) or (T, H, W, C) of uint8, float32 or float64, the axes behind H contiguous. window:
// no history, and not wrapped. weights: window.size numbers, for the earliest step first. y: x's
// shape, C-contiguous, float32 for uint8 and else x's type; no memory of x. Each thread's scratch
// is three rows of y and 120 bytes for each weight.
void trajectory_mean(const View& x, const std::vector<double>& weights, const Window& window,
                     double vy, double vx, const View& y);

// One frame's part in a row of the result: up to four rows of the frame make one between them,
// which is taken at up to four places.
struct TrajectoryStep {
  const void* rows[4];
  double row_weights[4];
  int rows_used;
  int columns_used;
  double column_weights[4];  // times the step's weight
  int64_t shift;             // of the first of the places, in pixels; in [-width - 3, width + 3]
};

struct TrajectoryRow {
  const TrajectoryStep* steps;
  int64_t count;
  int64_t width;     // pixels
  int64_t channels;  // items in a pixel
  double constant;   // added: what steps of a constant frame come to
  void* y;
  void* scratch;  // (3 * width + 12) * channels items of y's type
};

using TrajectoryFn = void(const TrajectoryRow&);
using SelectTrajectory = TrajectoryFn*(DType x, DType y);
MAREY_DECLARE_KERNEL(select_trajectory, SelectTrajectory)

}  // namespace marey
