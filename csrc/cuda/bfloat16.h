#pragma once
// The numbers that kernels compute with, from and to what is in memory.
#include "core/bfloat16.h"
#include "cuda/kernel.h"

#ifdef __CUDACC__
#include <cuda_bf16.h>
#endif

namespace marey::cuda {

template <class T, class S>
MAREY_DEVICE T to(S x) {
  if constexpr (sizeof(S) == 2) {
    const union {
      uint32_t bits;
      float value;
    } pun{static_cast<uint32_t>(x.bits) << 16};
    return static_cast<T>(pun.value);
  } else {
    return static_cast<T>(x);
  }
}

// To nearest even.
template <class S, class T>
MAREY_DEVICE S from(T x) {
  if constexpr (sizeof(S) == 2) {
#ifdef __CUDACC__
    return S{__bfloat16_as_ushort(__float2bfloat16_rn(static_cast<float>(x)))};
#else
    return narrow(static_cast<float>(x));
#endif
  } else {
    return static_cast<S>(x);
  }
}

// Two neighbouring items, the first in the lower half.
MAREY_DEVICE uint32_t pack_bfloat16(float first, float second) {
#ifdef __CUDACC__
  const __nv_bfloat162 pair = __floats2bfloat162_rn(first, second);
  return *reinterpret_cast<const uint32_t*>(&pair);
#else
  return static_cast<uint32_t>(narrow(second).bits) << 16 | narrow(first).bits;
#endif
}

}  // namespace marey::cuda
