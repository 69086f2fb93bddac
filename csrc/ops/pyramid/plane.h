#pragma once
// The geometry that the pyramid kernels share: planes of pixels, level sizes, borders.
#include <cstddef>
#include <cstdint>

#include "core/view.h"

namespace marey {

// One image inside a batch. Strides are in bytes, of any sign.
struct Plane {
  std::byte* data = nullptr;
  int64_t height = 0;
  int64_t width = 0;
  int64_t channels = 1;
  int64_t row_stride = 0;
  int64_t pixel_stride = 0;
  int64_t channel_stride = 0;

  int64_t row_items() const { return width * channels; }
};

constexpr int64_t half(int64_t extent) { return (extent + 1) / 2; }

// Reflection about the edge sample (reflect-101): -1 is 1, n is n - 2. Any index, any n > 0.
constexpr int64_t reflect101(int64_t index, int64_t n) {
  if (n == 1) return 0;
  const int64_t period = 2 * (n - 1);
  index %= period;
  if (index < 0) index += period;
  return index < n ? index : period - index;
}

// The same for -2 <= index <= n + 1 where n > 2, -2 <= index <= n where not: no division.
constexpr int64_t reflect101_near(int64_t index, int64_t n) {
  if (n == 1) return 0;
  const int64_t i = index < 0 ? -index : index;
  return i < n ? i : 2 * (n - 1) - i;
}

// The neighbour rows of row `i` when an image of `n` rows is doubled: reflect-101 on the doubled
// grid, on which sample i stands at 2 i, so that -1 is 1 and n is n - 1.
constexpr int64_t before(int64_t i, int64_t n) { return i > 0 ? i - 1 : (n > 1 ? 1 : 0); }
constexpr int64_t after(int64_t i, int64_t n) { return i + 1 < n ? i + 1 : n - 1; }

}  // namespace marey
