#pragma once
// What phase-based and Riesz magnification share: a phase is filtered by its increments, and
// smoothed over space with the amplitude as weight.
//
// A band-pass has a zero at frequency 0, H(z) = (1 - 1/z) G(z), so filtering a phase that was
// unwrapped along time with H is filtering its wrapped increments with G. Nothing then grows with
// the length of the stream, and the zero state is the steady state of a still.
#include <vector>

#include "core/view.h"

namespace marey {

struct IncrementFilter {
  // Sections b0 b1 b2 a1 a2 in cascade, of G.
  std::vector<float> band;
  // The same in parallel with the above, or empty: what takes away motion faster than the band.
  std::vector<float> fast;
  float alpha = 0.0F;  // times the band's output; the two outputs are added

  int64_t state_rows() const { return static_cast<int64_t>(2 * (band.size() + fast.size()) / 5); }
};

// Half of a symmetric kernel, from its centre on; one tap for none.
using HalfKernel = std::vector<float>;

}  // namespace marey
