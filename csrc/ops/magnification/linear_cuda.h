#pragma once
// Linear magnification on a CUDA device: see linear.h for the algorithm. The state and all levels
// are the caller's; nothing is allocated, and NaN and infinity are not looked for, because that
// would mean to wait for the device.
#include <vector>

#include "core/view.h"
#include "cuda/kernel.h"
#include "ops/magnification/linear.h"

namespace marey::cuda {

// The (T, H, W, C) shapes of levels 0 to the coarsest in use, for T frames.
std::vector<Shape> magnifier_levels(const LinearMagnifierOptions& options, int64_t frames);

// frames, out: (T, H, W, C), T >= 1. filtered: levels 1 to the coarsest. amplified: levels 1 to one
// before it (none if gaussian, but for levels below the base). zi: (sections, 2, series) float32 of
// the base level, or null before the first frame; zf: the same, other memory.
void magnify(const Queue& queue, const LinearMagnifierOptions& options, const View& frames,
             const View& out, const std::vector<View>& filtered, const std::vector<View>& amplified,
             const View* zi, const View& zf);

}  // namespace marey::cuda
