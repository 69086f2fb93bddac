#pragma once
// difference: the pixels of which any channel is further from a background picture than a
// threshold,
//
//   mask[t, y, x] = foreground  if  max over c of |frames[t, y, x, c] - background[y, x, c]| >
//   threshold
#include "core/dispatch.h"
#include "core/view.h"

namespace marey {

// frames: (T, H, W), or (T, H, W, C) with C = 1 or 3, uint8 or float32, any strides. background:
// their shape without T and their type, C-contiguous. mask: (T, H, W) uint8, C-contiguous, takes 0
// and `foreground`. threshold: in the units of the frames, not NaN; for uint8 its integer part
// counts.
void difference(const View& frames, const View& background, double threshold, uint8_t foreground,
                const View& mask);

// `width` contiguous pixels.
using DifferenceFn = void(const void* frame, const void* background, int64_t width,
                          double threshold, uint8_t foreground, uint8_t* mask);
using SelectDifference = DifferenceFn*(DType dtype, int64_t channels);
MAREY_DECLARE_KERNEL(select_difference, SelectDifference)

}  // namespace marey
