#include "core/simd.h"
#include "ops/magnification/linear.h"

namespace marey::MAREY_ISA_NS {

void attenuate_chroma(float* pixels, int64_t count, float chroma) {
  // Y of NTSC YIQ (ITU-R BT.601).
  constexpr float kRed = 0.299F;
  constexpr float kGreen = 0.587F;
  constexpr float kBlue = 0.114F;
  for (int64_t k = 0; k < count; ++k) {
    const float r = pixels[3 * k];
    const float g = pixels[3 * k + 1];
    const float b = pixels[3 * k + 2];
    const float grey = (1.0F - chroma) * fma(kRed, r, fma(kGreen, g, kBlue * b));
    pixels[3 * k] = fma(chroma, r, grey);
    pixels[3 * k + 1] = fma(chroma, g, grey);
    pixels[3 * k + 2] = fma(chroma, b, grey);
  }
}

bool all_finite(const float* items, int64_t count) {
  // 0 * x is 0 for finite x and NaN for all others, and sums keep a NaN.
  using V = Vec<float>;
  constexpr int64_t kLanes = static_cast<int64_t>(V::size());
  const float zero = 0.0F;
  V sum = zero;
  int64_t k = 0;
  for (; k + kLanes <= count; k += kLanes) sum += zero * load<V>(items + k);
  if (k < count) sum += zero * load_partial<V>(items + k, count - k);
  return stdx::reduce(sum) == 0.0F;
}

}  // namespace marey::MAREY_ISA_NS
