#include "ops/background/difference.h"

#include <algorithm>
#include <cmath>
#include <string>

#include "core/error.h"
#include "core/parallel.h"
#include "core/rows.h"

namespace marey {

MAREY_STUB_NO_BF16(select_difference, SelectDifference)

namespace {

constexpr std::string_view kName = "marey.background.difference";
constexpr int64_t kSerialPixels = int64_t{1} << 15;

}  // namespace

void difference(const View& frames, const View& background, double threshold, uint8_t foreground,
                const View& mask) {
  const int64_t channels = frames.ndim() == 4 ? frames.shape[3] : 1;
  if (frames.ndim() < 3 || frames.ndim() > 4 || (channels != 1 && channels != 3)) {
    throw ValueError(kName, "frames", "shape (T, H, W) or (T, H, W, 3)", to_string(frames.shape));
  }
  if (frames.dtype == DType::f64) {
    throw TypeError(kName, "frames", "uint8 or float32", name(frames.dtype));
  }
  Shape picture;
  for (int axis = 1; axis < frames.ndim(); ++axis) picture.push_back(frames.shape[axis]);
  if (!(background.shape == picture)) {
    throw ValueError(kName, "background", "shape " + to_string(picture),
                     to_string(background.shape));
  }
  if (background.dtype != frames.dtype) {
    throw TypeError(kName, "background", name(frames.dtype), name(background.dtype));
  }
  if (!is_contiguous(background, 0, background.ndim())) {
    throw ValueError(kName, "background", "a C-contiguous array", "other strides");
  }
  if (std::isnan(threshold)) throw ValueError(kName, "threshold", "a number", "NaN");

  const int64_t height = frames.shape[1];
  const int64_t width = frames.shape[2];
  DifferenceFn* const run = select_difference_stub.get()(frames.dtype, channels);
  const FrameRows rows(frames);
  parallel_for(frames.shape[0] * height,
               std::max<int64_t>(1, kSerialPixels / std::max<int64_t>(1, width)),
               rows.scratch_bytes(width), [&](int64_t begin, int64_t end, std::byte* scratch) {
                 for (int64_t row = begin; row < end; ++row) {
                   const int64_t t = row / height;
                   const int64_t y = row % height;
                   run(rows.pixels(t, y, 0, width, scratch),
                       background.as<std::byte>() + y * width * rows.pixel_bytes(), width,
                       threshold, foreground, mask.as<uint8_t>() + row * width);
                 }
               });
}

}  // namespace marey
