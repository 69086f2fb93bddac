#pragma once
// The arithmetic of second-order sections on the device, shared by sosfilt and sosfiltfilt.
#include "cuda/kernel.h"

namespace marey::cuda {

// What sosfilt_cuda.cu unrolls: longer cascades go through memory.
inline constexpr int kUnrolledSections = 4;

template <class T>
struct Section {
  T b0, b1, b2, a1, a2;
};

template <class T>
MAREY_HOST_DEVICE Section<T> section(const double* row) {
  return {static_cast<T>(row[0]), static_cast<T>(row[1]), static_cast<T>(row[2]),
          static_cast<T>(row[4]), static_cast<T>(row[5])};
}

MAREY_HOST_DEVICE float multiply_add(float a, float b, float c) { return fmaf(a, b, c); }
MAREY_HOST_DEVICE double multiply_add(double a, double b, double c) { return fma(a, b, c); }

// Direct form II transposed; see sosfilt.h.
template <class T>
MAREY_DEVICE T step(const Section<T>& c, T x, T& z1, T& z2) {
  const T y = multiply_add(c.b0, x, z1);
  z1 = multiply_add(-c.a1, y, multiply_add(c.b1, x, z2));
  z2 = multiply_add(-c.a2, y, c.b2 * x);
  return y;
}

}  // namespace marey::cuda
