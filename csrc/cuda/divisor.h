#pragma once
// Division by a number that is known at the launch: a multiplication and shifts, where the device
// would call a function (Granlund and Montgomery, "Division by invariant integers using
// multiplication", PLDI 1994, figure 4.1).
#include <bit>
#include <cstdint>

#include "cuda/kernel.h"

namespace marey::cuda {

class Divisor {
 public:
  Divisor() : Divisor(1) {}
  // divisor >= 1.
  explicit Divisor(int64_t divisor) : divisor_(divisor) {
    const auto d = static_cast<uint64_t>(divisor);
    const int bits = static_cast<int>(std::bit_width(d - 1));  // 2^bits >= d
    __extension__ using uint128_t = unsigned __int128;
    const uint128_t power = uint128_t{1} << bits;
    multiplier_ = static_cast<uint64_t>(((power - d) << 64) / d + 1);
    shift1_ = bits < 1 ? bits : 1;
    shift2_ = bits < 1 ? 0 : bits - 1;
  }

  MAREY_HOST_DEVICE int64_t value() const { return divisor_; }

  // n >= 0.
  MAREY_HOST_DEVICE int64_t quotient(int64_t n) const {
    const auto u = static_cast<uint64_t>(n);
    const uint64_t high = multiply_high(multiplier_, u);
    return static_cast<int64_t>((high + ((u - high) >> shift1_)) >> shift2_);
  }

  MAREY_HOST_DEVICE int64_t remainder(int64_t n) const { return n - quotient(n) * divisor_; }

 private:
  static MAREY_HOST_DEVICE uint64_t multiply_high(uint64_t a, uint64_t b) {
#ifdef __CUDA_ARCH__
    return __umul64hi(a, b);
#else
    __extension__ using uint128_t = unsigned __int128;
    return static_cast<uint64_t>((static_cast<uint128_t>(a) * b) >> 64);
#endif
  }

  int64_t divisor_;
  uint64_t multiplier_;
  int shift1_, shift2_;
};

}  // namespace marey::cuda
