#pragma once
// Vector functions with a stated error, for kernel files. The coefficients are minimax fits of the
// relative error (Lawson's iteration in long double) with the leading coefficient fixed, so that
// the functions are exact where they must be: exp2(0) = 1, tanh(x) = x for tiny x. The bounds are
// held by tests/test_math.py, which compares with the next wider type over the whole range.
#include <limits>

#include "core/simd.h"

// Called by their qualified names, math::exp2, because <experimental/simd> has functions of these
// names that go lane by lane through libm.
namespace marey::MAREY_ISA_NS::math {

namespace detail {

template <class T>
struct MathConstants;

template <>
struct MathConstants<float> {
  using Bits = int32_t;
  static constexpr int kMantissa = 23;
  static constexpr float kMinExponent = -127.0F;
  static constexpr float kMaxExponent = 128.0F;
  static constexpr float kRound = 12582912.0F;  // 1.5 * 2^23: adding it rounds to an integer
  // ln 2 in two parts; products of the upper one with the integers that occur are exact.
  static constexpr float kLn2High = 0.693115234375F;
  static constexpr float kLn2Low = 3.19461833e-05F;
  // e^r on [-ln 2 / 2, ln 2 / 2], relative error 1.1e-7
  static constexpr float kExp[] = {1.0F, 0.4999923F, 0.16667115F, 0.04189033F, 0.0083125F};
  // exp of these is normal, and of the upper one the reciprocal is not.
  static constexpr float kMinExp = -87.3F;
  static constexpr float kMaxExp = 88.3F;
  // (2^f - 1) / f on [-1/2, 1/2], relative error of 2^f 9.2e-8
  static constexpr float kExp2[] = {0.693147F, 0.24022242F, 0.055507336F, 0.009671513F,
                                    0.0013264727F};
  // tanh(x) / x as a quotient of polynomials in x^2 on [0, 9.02^2], relative error 2.2e-8
  static constexpr float kTanhTop[] = {1.0F, 0.13382685F, 0.0034974547F, 2.0635773e-05F,
                                       1.3384224e-08F};
  static constexpr float kTanhBottom[] = {1.0F, 0.46716006F, 0.02588435F, 0.00032885124F,
                                          7.7902216e-07F};
  static constexpr float kTanhEnd = 9.02F;  // where it is 1 to half a unit
};

template <>
struct MathConstants<double> {
  using Bits = int64_t;
  static constexpr int kMantissa = 52;
  static constexpr double kMinExponent = -1023.0;
  static constexpr double kMaxExponent = 1024.0;
  static constexpr double kRound = 6755399441055744.0;  // 1.5 * 2^52
  static constexpr double kLn2High = 0.6931471803691238;
  static constexpr double kLn2Low = 1.9082149292705877e-10;
  static constexpr double kMinExp = -708.3;
  static constexpr double kMaxExp = 709.0;
  // relative error 3.6e-18
  static constexpr double kExp2[] = {
      0.6931471805599453,     0.2402265069591013,     0.05550410866482014,    0.009618129107594244,
      0.0013333558146765344,  0.00015403530456935748, 1.5252733500222093e-05, 1.32154353756264e-06,
      1.0178197157665403e-07, 7.07376677307979e-09,   4.4350682227299394e-10};
  // relative error 6.2e-18
  static constexpr double kTanh[] = {
      -0.33333333333333054,   0.1333333333329162,     -0.05396825394639225,
      0.021869487962732408,   -0.008863226749409049,  0.0035920429171075897,
      -0.0014552883053017057, 0.0005876599768006742,  -0.00023217655320302346,
      8.329676673545892e-05,  -2.208707275578244e-05, 2.5708552090588733e-06};
};

// c[0] + c[1] z + ..., by Horner's rule.
template <class V, class T, std::size_t kCount>
[[gnu::always_inline]] inline V polynomial(const V& z, const T (&c)[kCount]) {
  V sum = V(c[kCount - 1]);
  for (std::size_t k = kCount - 1; k-- > 0;) sum = sum * z + V(c[k]);
  return sum;
}

// max(x, low), a NaN in x staying: stdx::max is compiled as if there were none.
template <class T>
[[gnu::always_inline]] inline Vec<T> not_below(const Vec<T>& x, T low) {
  using Raw [[gnu::vector_size(sizeof(Vec<T>))]] = T;
  const Raw a = std::bit_cast<Raw>(Vec<T>(low));
  const Raw b = std::bit_cast<Raw>(x);
  return std::bit_cast<Vec<T>>(a > b ? a : b);
}

// min(x, high), a NaN in x staying.
template <class T>
[[gnu::always_inline]] inline Vec<T> not_above(const Vec<T>& x, T high) {
  using Raw [[gnu::vector_size(sizeof(Vec<T>))]] = T;
  const Raw a = std::bit_cast<Raw>(Vec<T>(high));
  const Raw b = std::bit_cast<Raw>(x);
  return std::bit_cast<Vec<T>>(a < b ? a : b);
}

// 2^x for x <= kMaxExponent.
template <class T>
[[gnu::always_inline]] inline Vec<T> exp2_clamped(const Vec<T>& x) {
  using K = MathConstants<T>;
  using V = Vec<T>;
  using B = stdx::rebind_simd_t<typename K::Bits, V>;
  const V shifted = x + V(K::kRound);
  const V f = x - (shifted - V(K::kRound));
  const V p = polynomial(f, K::kExp2) * f + V(T(1));
  // The integer stands in the low bits of `shifted`. At the lowest exponent the bits of p = 1
  // cancel to those of +0, which is how 2^-inf becomes exactly 0 without a comparison.
  const B exponent = std::bit_cast<B>(shifted) << K::kMantissa;
  return std::bit_cast<V>(std::bit_cast<B>(p) + exponent);
}

#if defined(__AVX512DQ__)
// 2^x for x <= 0 in two thirds of the time: one instruction takes what x lacks to an integer, one
// multiplies by a power of two. It takes a hundred times as long for results that are not normal,
// which become zeros. NaN is not below anything, and stays.
[[gnu::always_inline]] inline Vec<float> exp2_scaled(const Vec<float>& x) {
  constexpr int kFromNearest = 0x08;
  const auto raw = static_cast<__m512>(x);
  const Vec<float> f(_mm512_reduce_ps(raw, kFromNearest));
  const Vec<float> p = polynomial(f, MathConstants<float>::kExp2) * f + Vec<float>(1.0F);
  const __mmask16 normal = _mm512_cmp_ps_mask(raw, _mm512_set1_ps(-126.0F), _CMP_NLT_UQ);
  // Where x is -inf, which has no fraction, 0 stands in this place anyhow.
  return Vec<float>(
      _mm512_maskz_scalef_ps(normal, static_cast<__m512>(p), static_cast<__m512>(x - f)));
}
#endif

}  // namespace detail

// 2^x for x <= 0, the softmax's: within 2.5 ULP where the result is normal. Below the normal
// numbers the absolute error is less than the smallest of them, and from -127 (-1023) downward,
// -inf included, the result is exactly 0. NaN stays NaN.
template <class T>
[[gnu::always_inline]] inline Vec<T> exp2_nonpositive(const Vec<T>& x) {
#if defined(__AVX512DQ__)
  if constexpr (std::is_same_v<T, float>) return detail::exp2_scaled(x);
#endif
  return detail::exp2_clamped<T>(detail::not_below<T>(x, detail::MathConstants<T>::kMinExponent));
}

// 2^x: as exp2_nonpositive, and inf from 128 (1024) upward.
template <class T>
[[gnu::always_inline]] inline Vec<T> exp2(const Vec<T>& x) {
  using K = detail::MathConstants<T>;
  const Vec<T> above = detail::not_below<T>(x, K::kMinExponent);
  return detail::exp2_clamped<T>(detail::not_above<T>(above, K::kMaxExponent));
}

// tanh: odd, at most 1, NaN stays NaN. float32: within 7 ULP (6 where multiply-adds are fused); a
// quotient of polynomials, half the work of the following. float64: within 3 ULP; a polynomial up
// to 0.625, above it 1 - 2 / (exp(2 |x|) + 1), which loses nothing there.
template <class T>
[[gnu::always_inline]] inline Vec<T> tanh(const Vec<T>& x) {
  using V = Vec<T>;
  using K = detail::MathConstants<T>;
  if constexpr (std::is_same_v<T, float>) {
    const V y = detail::not_above<T>(detail::not_below<T>(x, -K::kTanhEnd), K::kTanhEnd);
    const V z = y * y;
    const V t = y * detail::polynomial(z, K::kTanhTop) / detail::polynomial(z, K::kTanhBottom);
    return detail::not_above<T>(detail::not_below<T>(t, T(-1)), T(1));
  } else {
    const V size = stdx::abs(x);
    const V z = x * x;
    const V small = x + x * z * detail::polynomial(z, K::kTanh);
    const V e = math::exp2<T>(size * V(T(2.885390081777926814719849362)));  // 2 / ln 2
    const V large = stdx::copysign(V(T(1)) - V(T(2)) / (e + V(T(1))), x);
    V result = large;
    stdx::where(size < V(T(0.625)), result) = small;
    return result;
  }
}

// The logistic function 1 / (1 + exp(-x)): within 4 ULP where the result is normal, positive and
// less than the smallest normal number below that, exactly 1/2 at 0 and 1 at infinity; NaN stays
// NaN.
template <class T>
[[gnu::always_inline]] inline Vec<T> sigmoid(const Vec<T>& x) {
  using K = detail::MathConstants<T>;
  using V = Vec<T>;
  using B = stdx::rebind_simd_t<typename K::Bits, V>;
  constexpr T kLog2E = T(1.442695040888963407359924681);
  // exp(-x), where its exponent is that of a normal number.
  const V y = detail::not_above<T>(detail::not_below<T>(-x, K::kMinExp), K::kMaxExp);
  const V shifted = y * V(kLog2E) + V(K::kRound);
  const V n = shifted - V(K::kRound);
  const V r = (y - n * V(K::kLn2High)) - n * V(K::kLn2Low);
  V p;
  if constexpr (std::is_same_v<T, float>) {
    p = detail::polynomial(r, K::kExp) * r + V(T(1));
  } else {
    const V f = r * V(kLog2E);
    p = detail::polynomial(f, K::kExp2) * f + V(T(1));
  }
  const B exponent = std::bit_cast<B>(shifted) << K::kMantissa;
  const V e = std::bit_cast<V>(std::bit_cast<B>(p) + exponent);
  return V(T(1)) / (V(T(1)) + e);
}

}  // namespace marey::MAREY_ISA_NS::math
