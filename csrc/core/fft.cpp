#include "core/fft.h"

#include <bit>
#include <cmath>
#include <complex>
#include <numbers>

namespace marey {
namespace {

using Complex = std::complex<double>;

// exp(-2 pi i k / n), exact in the quadrants.
Complex root_of_unity(int64_t k, int64_t n) {
  const double angle =
      -2.0 * std::numbers::pi * static_cast<double>(k % n) / static_cast<double>(n);
  return {std::cos(angle), std::sin(angle)};
}

// Empty if a prime factor is above kLargestPrime.
std::vector<int> factorise(int64_t n) {
  std::vector<int> factors;
  const auto take = [&](int p) {
    for (; n % p == 0; n /= p) factors.push_back(p);
  };
  for (const int p : {31, 29, 23, 19, 17, 13, 11, 7, 5, 3}) take(p);
  // Twos last: the innermost stage loads the input, and does so best four or eight at a time.
  int twos = std::countr_zero(static_cast<uint64_t>(n));
  n >>= twos;
  if (n != 1) return {};
  if (twos % 2 == 1) {
    if (twos >= 3) {
      factors.push_back(8);
      twos -= 3;
    } else {
      factors.push_back(2);
      twos -= 1;
    }
  }
  for (; twos > 0; twos -= 2) factors.push_back(4);
  return factors;
}

// In place, length a power of two: only for making tables.
void transform(std::vector<Complex>& x) {
  const std::size_t n = x.size();
  for (std::size_t i = 1, j = 0; i < n; ++i) {
    std::size_t bit = n >> 1;
    for (; (j & bit) != 0; bit >>= 1) j ^= bit;
    j ^= bit;
    if (i < j) std::swap(x[i], x[j]);
  }
  for (std::size_t size = 2; size <= n; size *= 2) {
    for (std::size_t k = 0; k < size / 2; ++k) {
      const Complex w = root_of_unity(static_cast<int64_t>(k), static_cast<int64_t>(size));
      for (std::size_t start = k; start < n; start += size) {
        const Complex odd = w * x[start + size / 2];
        x[start + size / 2] = x[start] - odd;
        x[start] += odd;
      }
    }
  }
}

template <class T>
void append(std::vector<T>& table, const Complex& value) {
  table.push_back(static_cast<T>(value.real()));
  table.push_back(static_cast<T>(value.imag()));
}

}  // namespace

template <class T>
FftPlan<T>::FftPlan(int64_t length) {
  table_.length = length;
  factors_ = factorise(length);
  if (length > 1 && factors_.empty()) {
    plan_bluestein();
  } else {
    plan_factors();
  }
}

template <class T>
void FftPlan<T>::plan_factors() {
  int64_t n = table_.length;
  for (const int p : factors_) {
    const int64_t m = n / p;
    std::vector<T>& twiddles = twiddles_.emplace_back();
    for (int64_t k = 0; k < m; ++k) {
      for (int r = 1; r < p; ++r) append(twiddles, root_of_unity(r * k, n));
    }
    std::vector<T>& roots = roots_.emplace_back();
    for (int k = 0; k < p; ++k) append(roots, root_of_unity(k, p));
    n = m;
  }
  for (const auto& table : twiddles_) twiddle_pointers_.push_back(table.data());
  for (const auto& table : roots_) root_pointers_.push_back(table.data());
  table_.depth = static_cast<int>(factors_.size());
  table_.factors = factors_.data();
  table_.twiddles = twiddle_pointers_.data();
  table_.roots = root_pointers_.data();
}

template <class T>
void FftPlan<T>::plan_bluestein() {
  const int64_t n = table_.length;
  const auto m = static_cast<int64_t>(std::bit_ceil(static_cast<uint64_t>(2 * n - 1)));
  std::vector<Complex> conjugate(static_cast<std::size_t>(m));
  for (int64_t j = 0; j < n; ++j) {
    const Complex c = root_of_unity(j * j % (2 * n), 2 * n);
    append(chirp_, c);
    conjugate[static_cast<std::size_t>(j)] = std::conj(c);
    conjugate[static_cast<std::size_t>((m - j) % m)] = std::conj(c);
  }
  transform(conjugate);
  for (const Complex& c : conjugate) append(chirp_spectrum_, c / static_cast<double>(m));
  inner_ = std::make_unique<FftPlan>(m);
  table_.inner = &inner_->table_;
  table_.chirp = chirp_.data();
  table_.chirp_spectrum = chirp_spectrum_.data();
}

template class FftPlan<float>;
template class FftPlan<double>;

}  // namespace marey
