// Sixteen pixels at a time. For colour, the absolute differences of three vectors of interleaved
// bytes are split by channel, so that the largest of a pixel's three is a lane's. Memory is the
// limit.
#include "core/simd.h"
#include "ops/background/difference.h"

namespace marey::MAREY_ISA_NS {
namespace {

using Bytes = stdx::simd<uint8_t, stdx::simd_abi::deduce_t<uint8_t, 16>>;
constexpr int64_t kPixels = 16;

inline Bytes absolute_difference(const uint8_t* a, const uint8_t* b) {
  const Bytes x = load<Bytes>(a);
  const Bytes y = load<Bytes>(b);
  return stdx::max(x, y) - stdx::min(x, y);
}

template <int C>
inline Bytes largest_difference(const uint8_t* frame, const uint8_t* background) {
  if constexpr (C == 1) {
    return absolute_difference(frame, background);
  } else {
    alignas(16) uint8_t mixed[3 * kPixels];
    for (int k = 0; k < 3 * kPixels; k += kPixels) {
      store(mixed + k, absolute_difference(frame + k, background + k));
    }
    alignas(16) uint8_t split[3][kPixels];
    deinterleave3(mixed, split[0], split[1], split[2]);
    return stdx::max(stdx::max(load<Bytes>(split[0]), load<Bytes>(split[1])),
                     load<Bytes>(split[2]));
  }
}

template <int C>
void run_bytes(const void* frame, const void* background, int64_t width, double threshold,
               uint8_t foreground, uint8_t* mask) {
  const auto* f = static_cast<const uint8_t*>(frame);
  const auto* b = static_cast<const uint8_t*>(background);
  // Differences of 0 to 255: below 0 every one is larger, from 255 on none.
  const uint8_t least = threshold < 0      ? uint8_t{0}
                        : threshold >= 254 ? uint8_t{255}
                                           : static_cast<uint8_t>(threshold + 1);
  const Bytes yes = threshold >= 255 ? uint8_t{0} : foreground;
  const auto flags = [&](const uint8_t* x, const uint8_t* y) {
    Bytes result = yes;
    stdx::where(largest_difference<C>(x, y) < least, result) = uint8_t{0};
    return result;
  };
  int64_t k = 0;
  for (; k + kPixels <= width; k += kPixels) store(mask + k, flags(f + C * k, b + C * k));
  if (const int64_t rest = width - k; rest > 0) {
    uint8_t x[C * kPixels] = {};
    uint8_t y[C * kPixels] = {};
    std::memcpy(x, f + C * k, static_cast<std::size_t>(C * rest));
    std::memcpy(y, b + C * k, static_cast<std::size_t>(C * rest));
    store_partial(mask + k, flags(x, y), rest);
  }
}

template <int C>
void run_floats(const void* frame, const void* background, int64_t width, double threshold,
                uint8_t foreground, uint8_t* mask) {
  const auto* f = static_cast<const float*>(frame);
  const auto* b = static_cast<const float*>(background);
  const auto limit = static_cast<float>(threshold);
  for (int64_t k = 0; k < width; ++k) {
    bool far = false;
    for (int64_t c = C * k; c < C * k + C; ++c) {
      const float d = f[c] - b[c];
      far |= !(d <= limit && -d <= limit);  // NaN is far from everything
    }
    mask[k] = far ? foreground : uint8_t{0};
  }
}

}  // namespace

DifferenceFn* select_difference(DType dtype, int64_t channels) {
  if (dtype == DType::u8) return channels == 1 ? run_bytes<1> : run_bytes<3>;
  return channels == 1 ? run_floats<1> : run_floats<3>;
}

}  // namespace marey::MAREY_ISA_NS
