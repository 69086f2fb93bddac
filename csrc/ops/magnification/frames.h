#pragma once
// Frames of a stream, as the magnifiers take them.
#include <optional>
#include <string_view>

#include "core/error.h"
#include "core/view.h"
#include "ops/pyramid/image.h"

namespace marey {

// Throws unless frames is (T, H, W) for one channel, or (T, H, W, channels), of this type.
inline void check_frames(std::string_view function, const View& frames, int64_t height,
                         int64_t width, int64_t channels, DType dtype) {
  Shape expected;
  for (int64_t extent : {height, width, channels}) expected.push_back(extent);
  if (channels == 1 && frames.ndim() == 3) expected.ndim = 2;
  Shape frame;
  for (int axis = 1; axis < frames.ndim(); ++axis) frame.push_back(frames.shape[axis]);
  if (frames.ndim() == 0 || !(frame == expected)) {
    throw ValueError(function, "frames", "shape (T, " + to_string(expected).substr(1),
                     to_string(frames.shape));
  }
  if (frames.dtype != dtype) throw TypeError(function, "frames", name(dtype), name(frames.dtype));
}

// Throws unless the rows of frames as above can be written to.
inline void check_writable_frames(std::string_view function, const View& out) {
  const std::optional<int> channels = out.ndim() == 4 ? std::optional<int>(-1) : std::nullopt;
  check_writable_rows(function, "out", out, image_axes(function, "out", out.shape, channels));
}

// Frame t: (H, W) or (H, W, C).
inline View frame_of(const View& frames, int64_t t) {
  View frame;
  frame.data = frames.as<std::byte>() + t * frames.stride(0);
  frame.dtype = frames.dtype;
  for (int axis = 1; axis < frames.ndim(); ++axis) {
    frame.stride(frame.shape.ndim) = frames.stride(axis);
    frame.shape.push_back(frames.shape[axis]);
  }
  return frame;
}

}  // namespace marey
