#pragma once
// atan2, sine and cosine of vectors of float32, without branches.
#include "core/simd.h"

namespace marey::MAREY_ISA_NS {

// Within 4e-7 of the angle, in [-pi, pi]; 0 for (0, 0). Finite arguments.
inline Vec<float> atan2(const Vec<float>& y, const Vec<float>& x) {
  using V = Vec<float>;
  constexpr float kHalfPi = 1.57079632679489662F;
  constexpr float kPi = 3.14159265358979324F;
  constexpr float kTiny = 1e-37F;  // below it the division would lose the quotient
  const V ax = stdx::abs(x);
  const V ay = stdx::abs(y);
  const V large = stdx::max(stdx::max(ax, ay), V(kTiny));
  const V t = stdx::min(ax, ay) / large;
  const V u = t * t;
  // atan(t) / t in t^2, of least maximal error on [0, 1] (6e-9 before rounding)
  V p = 0.0024564159102737904F;
  p = p * u - 0.014399985782802105F;
  p = p * u + 0.0397786870598793F;
  p = p * u - 0.07234605401754379F;
  p = p * u + 0.10498800873756409F;
  p = p * u - 0.14161179959774017F;
  p = p * u + 0.19985897839069366F;
  p = p * u - 0.33332595229148865F;
  p = p * u + 0.9999998807907104F;
  V angle = p * t;
  stdx::where(ay > ax, angle) = kHalfPi - angle;
  stdx::where(x < 0.0F, angle) = kPi - angle;
  stdx::where(y < 0.0F, angle) = -angle;
  return angle;
}

struct SineCosine {
  Vec<float> sine;
  Vec<float> cosine;
};

// Each within 2e-7 for |x| < 8000; the error then grows with |x|.
inline SineCosine sincos(const Vec<float>& x) {
  using V = Vec<float>;
  constexpr float kTwoOverPi = 0.636619772367581343F;
  // pi / 2 in three parts, the first two with trailing zeros, so that the products are exact
  constexpr float kPart1 = 1.5703125F;
  constexpr float kPart2 = 4.837512969970703e-4F;
  constexpr float kPart3 = 7.549789948768648e-8F;
  constexpr float kRound = 12582912.0F;  // 1.5 * 2^23: adding it rounds to an integer
  const V n = (x * kTwoOverPi + kRound) - kRound;
  const V r = ((x - n * kPart1) - n * kPart2) - n * kPart3;
  const V u = r * r;
  // Taylor series on [-pi/4, pi/4]
  V s = -1.0F / 5040.0F + u * (1.0F / 362880.0F);
  s = s * u + 1.0F / 120.0F;
  s = s * u - 1.0F / 6.0F;
  s = s * u * r + r;
  V c = -1.0F / 720.0F + u * (1.0F / 40320.0F);
  c = c * u + 1.0F / 24.0F;
  c = c * u - 0.5F;
  c = c * u + 1.0F;
  // The quadrant, n modulo 4 in {-2, ..., 2}, by its half turns and its parity.
  const V quadrant = n - 4.0F * ((n * 0.25F + kRound) - kRound);
  const auto odd = stdx::abs(stdx::abs(quadrant) - 1.0F) < 0.5F;
  V sine = s;
  V cosine = c;
  stdx::where(odd, sine) = c;
  stdx::where(odd, cosine) = s;
  stdx::where(quadrant < -0.5F || quadrant > 1.5F, sine) = -sine;
  stdx::where(quadrant > 0.5F || quadrant < -1.5F, cosine) = -cosine;
  return {sine, cosine};
}

}  // namespace marey::MAREY_ISA_NS
