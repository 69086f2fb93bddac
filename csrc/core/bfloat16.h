#pragma once
// bfloat16: the upper half of a float32. Stored as two bytes, computed with as float32.
#include <bit>
#include <cstdint>

namespace marey {

struct bfloat16 {
  uint16_t bits;
};

// Nothing here may be called from kernel files but through these always-inlined functions.
[[gnu::always_inline]] inline float widen(bfloat16 x) {
  return std::bit_cast<float>(static_cast<uint32_t>(x.bits) << 16);
}

// To nearest even; NaN stays NaN.
[[gnu::always_inline]] inline bfloat16 narrow(float x) {
  const auto bits = std::bit_cast<uint32_t>(x);
  if ((bits & 0x7FFFFFFFU) > 0x7F800000U) return {static_cast<uint16_t>((bits >> 16) | 0x40U)};
  return {static_cast<uint16_t>((bits + 0x7FFFU + ((bits >> 16) & 1U)) >> 16)};
}

}  // namespace marey
