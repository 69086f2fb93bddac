#pragma once
// Windows along time on the device: the counterpart of window.h's WindowRows.
#include "cuda/divisor.h"
#include "cuda/kernel.h"
#include "cuda/series_map.h"
#include "ops/temporal/window.h"

namespace marey::cuda {

// source_step of window.h, for the device; `period` divides by what the signal repeats after.
MAREY_HOST_DEVICE int64_t source_step_by(int64_t i, int64_t n, Boundary boundary,
                                         const Divisor& period) {
  if (i >= 0 && i < n) return i;
  if (boundary == Boundary::constant) return -1;
  if (boundary == Boundary::nearest) return i < 0 ? 0 : n - 1;
  // -1 - i, counted from the far end of a period, for what lies before the signal.
  const int64_t whole = period.value();
  const int64_t m = i >= 0 ? period.remainder(i) : whole - 1 - period.remainder(-1 - i);
  if (m < n) return m;
  return boundary == Boundary::reflect ? whole - 1 - m : whole - m;
}

inline Divisor boundary_period(int64_t n, Boundary boundary) {
  if (boundary == Boundary::reflect) return Divisor(2 * n);
  if (boundary == Boundary::mirror) return Divisor(n > 1 ? 2 * n - 2 : 1);
  return Divisor(n > 0 ? n : 1);
}

// The steps of one signal, with what is beyond its ends.
struct WindowSteps {
  const char* x;
  const char* history;  // null: `boundary` is for the beginning too
  int64_t x_step, history_step;
  int64_t steps;
  int64_t before;
  Boundary boundary;
  double cval;
  Divisor period;

  // Step i, from -before to steps - 1 + size - 1 - before: its group of series; x_offset and
  // history_offset are the group's in the two arrays.
  template <class S, int kWidth>
  MAREY_DEVICE Pack<S, kWidth> read(int64_t i, int64_t x_offset, int64_t history_offset) const {
    using In = Pack<S, kWidth>;
    if (i < 0 && history != nullptr) {
      return *reinterpret_cast<const In*>(history + history_offset + (i + before) * history_step);
    }
    const int64_t t = source_step_by(i, steps, boundary, period);
    if (t < 0) {
      In constant;
#pragma unroll
      for (int k = 0; k < kWidth; ++k) constant.v[k] = static_cast<S>(cval);
      return constant;
    }
    return *reinterpret_cast<const In*>(x + x_offset + t * x_step);
  }
};

inline WindowSteps window_steps(const Window& window, const View& x, int axis) {
  WindowSteps steps{};
  steps.x = x.as<const char>();
  steps.x_step = x.stride(axis);
  steps.steps = x.shape[axis];
  steps.before = window.before;
  steps.boundary = window.boundary;
  steps.cval = window.cval;
  steps.period = boundary_period(steps.steps, window.boundary);
  // A history of no steps is none, whatever its pointer.
  if (window.history != nullptr && window.before > 0) {
    steps.history = window.history->as<const char>();
    steps.history_step = window.history->stride(axis);
  }
  return steps;
}

}  // namespace marey::cuda
