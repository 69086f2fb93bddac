#pragma once
// Functions of float32 and float64 under one name.
#include <cmath>

#include "cuda/kernel.h"

namespace marey::cuda {

MAREY_DEVICE float exp_of(float x) { return expf(x); }
MAREY_DEVICE double exp_of(double x) { return exp(x); }
MAREY_DEVICE float exp2_of(float x) { return exp2f(x); }
MAREY_DEVICE double exp2_of(double x) { return exp2(x); }
MAREY_DEVICE float log2_of(float x) { return log2f(x); }
MAREY_DEVICE double log2_of(double x) { return log2(x); }
MAREY_DEVICE float tanh_of(float x) { return tanhf(x); }
MAREY_DEVICE double tanh_of(double x) { return tanh(x); }
MAREY_DEVICE float erf_of(float x) { return erff(x); }
MAREY_DEVICE double erf_of(double x) { return erf(x); }

template <class T>
MAREY_DEVICE T sigmoid_of(T x) {
  return T{1} / (T{1} + exp_of(-x));
}

// Over all lanes of a warp, which all have it.
template <class T>
MAREY_DEVICE T warp_sum(T x) {
#pragma unroll
  for (int lanes = 16; lanes > 0; lanes /= 2) x += shuffle_xor(x, lanes);
  return x;
}

}  // namespace marey::cuda
