#pragma once
// Rows of frames, read where they lie if they are contiguous and gathered into scratch if not.
#include <cstring>

#include "core/view.h"

namespace marey {

// Over a view (T, H, W) or (T, H, W, C).
class FrameRows {
 public:
  explicit FrameRows(const View& frames)
      : frames_(frames),
        channels_(frames.ndim() == 4 ? frames.shape[3] : 1),
        item_(item_size(frames.dtype)),
        contiguous_(is_contiguous(frames, 2, frames.ndim())) {}

  bool contiguous() const { return contiguous_; }
  int64_t pixel_bytes() const { return channels_ * item_; }
  // What `pixels` needs, for this many.
  std::size_t scratch_bytes(int64_t count) const {
    return contiguous_ ? 0 : static_cast<std::size_t>(count * pixel_bytes());
  }

  // Pixels [first, first + count) of row `y` of frame `t`; `scratch` is used if they are scattered.
  const std::byte* pixels(int64_t t, int64_t y, int64_t first, int64_t count,
                          std::byte* scratch) const {
    const std::byte* row = frames_.as<std::byte>() + t * frames_.stride(0) + y * frames_.stride(1) +
                           first * frames_.stride(2);
    if (contiguous_) return row;
    const int64_t channel_stride = frames_.ndim() == 4 ? frames_.stride(3) : 0;
    std::byte* to = scratch;
    for (int64_t x = 0; x < count; ++x) {
      for (int64_t c = 0; c < channels_; ++c, to += item_) {
        std::memcpy(to, row + x * frames_.stride(2) + c * channel_stride,
                    static_cast<std::size_t>(item_));
      }
    }
    return scratch;
  }

 private:
  const View& frames_;
  int64_t channels_;
  int64_t item_;
  bool contiguous_;
};

}  // namespace marey
