#pragma once
// Magnification of luma alone: Y of NTSC YIQ (ITU-R BT.601) is taken out of a frame, and what it is
// to change by is added to red, green and blue alike, which leaves I and Q as they are.
#include <string_view>

#include "core/dispatch.h"
#include "core/view.h"

namespace marey {

// frame: (H, W) or (H, W, 3), uint8 or float32, any strides; luma: (H, W) float32, C-ordered.
// Throws ValueError for values that are not finite, or beyond kMostLuma.
void take_luma(std::string_view function, const View& frame, float* luma);
// out = frame + change, rounded and limited to [0, 255], or limited to [0, 1]. out: shape and type
// of the frame, with contiguous rows.
void add_to_luma(const View& frame, const float* change, const View& out);

// Of values that are meant to be in [0, 1]. Products of four of them, as the phase of a Riesz
// pyramid takes, are far from float32's end, beyond which one pixel would spoil a stream for ever.
inline constexpr float kMostLuma = 1e6F;

struct LumaRow {
  const std::byte* frame;
  int64_t pixel_stride;  // in bytes
  int64_t channel_stride;
  int64_t channels;
  int64_t width;
};

struct LumaKernel {
  // Returns false if a value is not finite, or beyond kMostLuma.
  bool (*take)(const LumaRow&, float* luma);
  void (*add)(const LumaRow&, const float* change, void* out);
};

using SelectLuma = LumaKernel(DType frame);
MAREY_DECLARE_KERNEL(select_luma, SelectLuma)

}  // namespace marey
