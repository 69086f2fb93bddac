#pragma once
// The discrete Fourier transform of as many lines as a vector has lanes, each lane one line:
//
//   X[k] = sum_j x[j] exp(-2 pi i j k / n)
//
// A line's element j is a pair of vectors (re, im) at 2 * lanes * j. Decimation in time, depth
// first: a sub-transform is done before the next one begins, so that all but the outermost stage
// work in the first-level cache even where the lines together do not fit it. Lanes never mix, so
// there is no shuffling, and any length works alike; lengths with a prime factor above 31 go
// through Bluestein's algorithm (1970) at about five times the cost. For the inverse, swap re and
// im of input and output.
#include "core/fft.h"
#include "core/simd.h"
#include "core/transpose.h"

namespace marey::MAREY_ISA_NS {

template <class T>
struct Complex {
  Vec<T> re;
  Vec<T> im;
};

template <class T>
inline Complex<T> swapped(const Complex<T>& z) {
  return {z.im, z.re};
}

template <class T>
inline constexpr int64_t kLanesOf = static_cast<int64_t>(Vec<T>::size());

template <class T>
inline Complex<T> load_complex(const T* lines, int64_t j) {
  const T* p = lines + 2 * kLanesOf<T> * j;
  return {load<Vec<T>>(p), load<Vec<T>>(p + kLanesOf<T>)};
}

template <class T>
inline void store_complex(T* lines, int64_t j, const Complex<T>& z) {
  T* p = lines + 2 * kLanesOf<T> * j;
  store(p, z.re);
  store(p + kLanesOf<T>, z.im);
}

// Left to itself the compiler calls the smaller transforms, through memory.
#define MAREY_INLINE inline __attribute__((always_inline))

namespace fft_detail {

template <class T>
inline Complex<T> operator+(const Complex<T>& a, const Complex<T>& b) {
  return {a.re + b.re, a.im + b.im};
}
template <class T>
inline Complex<T> operator-(const Complex<T>& a, const Complex<T>& b) {
  return {a.re - b.re, a.im - b.im};
}
template <class T>
inline Complex<T> operator*(T s, const Complex<T>& a) {
  return {s * a.re, s * a.im};
}
// times -i
template <class T>
inline Complex<T> turned(const Complex<T>& a) {
  return {a.im, -a.re};
}
// w: (re, im), the same for all lanes
template <class T>
inline Complex<T> times(const Complex<T>& a, const T* w) {
  const Vec<T> c = w[0];
  const Vec<T> s = w[1];
  return {fma(a.re, c, -(a.im * s)), fma(a.re, s, a.im * c)};
}

template <class T>
MAREY_INLINE void dft2(Complex<T>& a, Complex<T>& b) {
  const Complex<T> sum = a + b;
  b = a - b;
  a = sum;
}

template <class T>
MAREY_INLINE void dft4(Complex<T>& a, Complex<T>& b, Complex<T>& c, Complex<T>& d) {
  const Complex<T> s0 = a + c;
  const Complex<T> d0 = a - c;
  const Complex<T> s1 = b + d;
  const Complex<T> d1 = turned(b - d);
  a = s0 + s1;
  b = d0 + d1;
  c = s0 - s1;
  d = d0 - d1;
}

template <int P, class T>
MAREY_INLINE void dft(Complex<T>* x) {
  if constexpr (P == 2) {
    dft2(x[0], x[1]);
  } else if constexpr (P == 3) {
    constexpr T kSine = T(0.86602540378443864676);
    const Complex<T> sum = x[1] + x[2];
    const Complex<T> turn = kSine * turned(x[1] - x[2]);
    const Complex<T> base = x[0] - T(0.5) * sum;
    x[0] = x[0] + sum;
    x[1] = base + turn;
    x[2] = base - turn;
  } else if constexpr (P == 4) {
    dft4(x[0], x[1], x[2], x[3]);
  } else if constexpr (P == 5) {
    constexpr T kC1 = T(0.30901699437494742410);
    constexpr T kC2 = T(-0.80901699437494742410);
    constexpr T kS1 = T(0.95105651629515357212);
    constexpr T kS2 = T(0.58778525229247312917);
    const Complex<T> s1 = x[1] + x[4];
    const Complex<T> s2 = x[2] + x[3];
    const Complex<T> d1 = turned(x[1] - x[4]);
    const Complex<T> d2 = turned(x[2] - x[3]);
    const Complex<T> b1 = x[0] + kC1 * s1 + kC2 * s2;
    const Complex<T> b2 = x[0] + kC2 * s1 + kC1 * s2;
    const Complex<T> t1 = kS1 * d1 + kS2 * d2;
    const Complex<T> t2 = kS2 * d1 - kS1 * d2;
    x[0] = x[0] + s1 + s2;
    x[1] = b1 + t1;
    x[4] = b1 - t1;
    x[2] = b2 + t2;
    x[3] = b2 - t2;
  } else {
    static_assert(P == 8);
    constexpr T kHalf = T(0.70710678118654752440);
    dft4(x[0], x[2], x[4], x[6]);
    dft4(x[1], x[3], x[5], x[7]);
    const Complex<T> o1 = {kHalf * (x[3].re + x[3].im), kHalf * (x[3].im - x[3].re)};
    const Complex<T> o2 = turned(x[5]);
    const Complex<T> o3 = {kHalf * (x[7].im - x[7].re), -kHalf * (x[7].re + x[7].im)};
    const Complex<T> o0 = x[1];
    const Complex<T> e1 = x[2];
    const Complex<T> e2 = x[4];
    const Complex<T> e3 = x[6];
    const Complex<T> e0 = x[0];
    x[0] = e0 + o0;
    x[4] = e0 - o0;
    x[1] = e1 + o1;
    x[5] = e1 - o1;
    x[2] = e2 + o2;
    x[6] = e2 - o2;
    x[3] = e3 + o3;
    x[7] = e3 - o3;
  }
}

// An odd prime, by its definition: pairs j and p - j share their products. Not unrolled: the larger
// ones are rare, and each would cost as much code as all of the above.
template <class T>
void dft_prime(Complex<T>* x, int p, const T* roots) {
  const int half = p / 2;
  Complex<T> sums[kLargestPrime / 2];
  Complex<T> turns[kLargestPrime / 2];
  Complex<T> total = x[0];
  for (int j = 1; j <= half; ++j) {
    sums[j - 1] = x[j] + x[p - j];
    turns[j - 1] = turned(x[j] - x[p - j]);
    total = total + sums[j - 1];
  }
  for (int k = 1; k <= half; ++k) {
    Complex<T> even = x[0];
    Complex<T> odd = {Vec<T>(T(0)), Vec<T>(T(0))};
    int turn = 0;
    for (int j = 0; j < half; ++j) {
      turn += k;
      if (turn >= p) turn -= p;
      even = even + roots[2 * turn] * sums[j];
      odd = odd + (-roots[2 * turn + 1]) * turns[j];
    }
    x[k] = even + odd;
    x[p - k] = even - odd;
  }
  x[0] = total;
}

template <class T, class Load>
inline void prime_leaf(int p, T* out, int64_t offset, int64_t stride, const T* roots, Load& load) {
  Complex<T> x[kLargestPrime];
  for (int r = 0; r < p; ++r) x[r] = load(offset + r * stride);
  dft_prime(x, p, roots);
  for (int r = 0; r < p; ++r) store_complex(out, r, x[r]);
}

template <class T>
void prime_combine(int p, T* out, int64_t m, const T* twiddles, const T* roots) {
  for (int64_t k = 0; k < m; ++k) {
    Complex<T> x[kLargestPrime];
    x[0] = load_complex(out, k);
    for (int r = 1; r < p; ++r) {
      x[r] = times(load_complex(out, k + r * m), twiddles + 2 * ((p - 1) * k + r - 1));
    }
    dft_prime(x, p, roots);
    for (int r = 0; r < p; ++r) store_complex(out, k + r * m, x[r]);
  }
}

template <int P, class T, class Load>
inline void leaf(T* out, int64_t offset, int64_t stride, Load& load) {
  Complex<T> x[P];
  for (int r = 0; r < P; ++r) x[r] = load(offset + r * stride);
  dft<P>(x);
  for (int r = 0; r < P; ++r) store_complex(out, r, x[r]);
}

template <int P, class T>
inline void combine(T* out, int64_t m, const T* twiddles) {
  for (int64_t k = 0; k < m; ++k) {
    Complex<T> x[P];
    x[0] = load_complex(out, k);
    for (int r = 1; r < P; ++r) {
      x[r] = times(load_complex(out, k + r * m), twiddles + 2 * ((P - 1) * k + r - 1));
    }
    dft<P>(x);
    for (int r = 0; r < P; ++r) store_complex(out, k + r * m, x[r]);
  }
}

template <class T, class Load>
void transform(const FftTable<T>& table, int stage, int64_t length, T* out, int64_t offset,
               int64_t stride, Load& load) {
  const int p = table.factors[stage];
  const int64_t m = length / p;
  if (m == 1) {
    switch (p) {
      case 2:
        return leaf<2>(out, offset, stride, load);
      case 3:
        return leaf<3>(out, offset, stride, load);
      case 4:
        return leaf<4>(out, offset, stride, load);
      case 5:
        return leaf<5>(out, offset, stride, load);
      case 8:
        return leaf<8>(out, offset, stride, load);
      default:
        return prime_leaf(p, out, offset, stride, table.roots[stage], load);
    }
  }
  for (int64_t r = 0; r < p; ++r) {
    transform(table, stage + 1, m, out + 2 * kLanesOf<T> * r * m, offset + r * stride, stride * p,
              load);
  }
  const T* twiddles = table.twiddles[stage];
  switch (p) {
    case 2:
      return combine<2>(out, m, twiddles);
    case 3:
      return combine<3>(out, m, twiddles);
    case 4:
      return combine<4>(out, m, twiddles);
    case 5:
      return combine<5>(out, m, twiddles);
    case 8:
      return combine<8>(out, m, twiddles);
    default:
      return prime_combine(p, out, m, twiddles, table.roots[stage]);
  }
}

template <class T, class Load>
inline void smooth(const FftTable<T>& table, T* out, Load&& load) {
  if (table.depth == 0) {
    store_complex(out, 0, load(0));
  } else {
    transform(table, 0, table.length, out, 0, 1, load);
  }
}

}  // namespace fft_detail

// The transform of `lines`. The result lies at the returned place in `scratch`, of 2 * lanes *
// fft_scratch_length items. Compiled once for each T: it is long.
template <class T>
[[gnu::noinline]] T* fft(const FftTable<T>& table, T* scratch, const T* lines) {
  if (table.inner == nullptr) {
    fft_detail::smooth(table, scratch, [&](int64_t j) { return load_complex(lines, j); });
    return scratch;
  }
  // X[k] = c[k] sum_j (x[j] c[j]) conj(c[k - j]), a convolution.
  using fft_detail::times;
  const FftTable<T>& inner = *table.inner;
  T* spectrum = scratch + 2 * kLanesOf<T> * inner.length;
  const Vec<T> zero = T(0);
  fft_detail::smooth(inner, spectrum, [&](int64_t j) {
    return j < table.length ? times(load_complex(lines, j), table.chirp + 2 * j)
                            : Complex<T>{zero, zero};
  });
  fft_detail::smooth(inner, scratch, [&](int64_t j) {
    return swapped(times(load_complex(spectrum, j), table.chirp_spectrum + 2 * j));
  });
  for (int64_t k = 0; k < table.length; ++k) {
    store_complex(scratch, k, times(swapped(load_complex(scratch, k)), table.chirp + 2 * k));
  }
  return scratch;
}

#undef MAREY_INLINE

}  // namespace marey::MAREY_ISA_NS
