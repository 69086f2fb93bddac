#pragma once
// The error function, for kernel files, with a stated error; the polynomials interpolate at
// Chebyshev's nodes, computed with forty digits.
#include "core/math.h"

namespace marey::MAREY_ISA_NS::math {

namespace detail {

template <class T>
struct ErfConstants;

template <>
struct ErfConstants<float> {
  static constexpr float kTop = 4.0F;  // from here on erf is 1
  static constexpr float kMiddle = 2.5F;
  // erf(x) / x in z = x^2 on [0, 1], relative error 1.3e-9
  static constexpr float kSmall[] = {1.12837917F,    -0.376126267F,    0.112835947F,  -0.026854212F,
                                     0.00518908742F, -0.000801686429F, 7.87587506e-5F};
  // log2(erfc(x)) in x - 2.5 on [1, 4], absolute error 1.2e-8
  static constexpr float kLarge[] = {
      -11.2628537F,     -7.72228597F,    -1.36175068F,    -0.0156649457F, 0.00312367984F,
      -0.000607074028F, 0.000111646712F, -1.86478373e-5F, 2.33079091e-6F, -1.09394977e-7F};
};

template <>
struct ErfConstants<double> {
  static constexpr double kTop = 6.0;
  static constexpr double kMiddle = 3.5;
  // relative error 2.4e-21
  static constexpr double kSmall[] = {
      1.1283791670955126,     -0.37612638903183752,   0.1128379167095512,
      -0.026866170645129841,  0.0052239776254232983,  -0.00085483270219348296,
      0.00012055332902888735, -1.4925647567519332e-5, 1.6462045441468419e-6,
      -1.6364642158167615e-7, 1.4792401209404813e-8,  -1.216456005728345e-9,
      8.7090451290531067e-11, -4.2309458242953378e-12};
  // absolute error 4.2e-16
  static constexpr double kLarge[] = {
      -20.359943454935096,     -10.482765842739799,     -1.3947298378408539,
      -0.0075390312021734491,  0.0012604643689662271,   -0.00021250576938155778,
      3.5182100580158245e-5,   -5.6114448192418197e-6,  8.4486227413303828e-7,
      -1.1641543767787294e-7,  1.3751857057911883e-8,   -1.1179370846410013e-9,
      -3.6107147475518187e-11, 4.4221278819338361e-11,  -1.3120688374120663e-11,
      2.9653263505211718e-12,  -5.9969993585343084e-13, 9.6707427738509043e-14,
      -7.5784693625826257e-15, 7.9461755842660708e-16,  -5.9691598983373168e-16,
      2.690295799090805e-17,   4.5733390864876724e-17,  -7.2685502186566287e-18};
};

}  // namespace detail

// erf: within 4 units of 2^-24 (2^-53), odd, NaN stays NaN. A polynomial up to 1; above it
// 1 - erfc(x), and log2(erfc) is a polynomial.
template <class T>
[[gnu::always_inline]] inline Vec<T> erf(const Vec<T>& x) {
  using K = detail::ErfConstants<T>;
  using V = Vec<T>;
  const V size = -detail::not_below<T>(-stdx::abs(x), -K::kTop);
  const V small = x * detail::polynomial(V(x * x), K::kSmall);
  const V log = detail::polynomial(V(size - V(K::kMiddle)), K::kLarge);
  V result = stdx::copysign(V(T(1)) - math::exp2_nonpositive<T>(log), x);
  stdx::where(size < V(T(1)), result) = small;
  return result;
}

}  // namespace marey::MAREY_ISA_NS::math
