#include "core/probe.h"
#include "core/tile.h"

namespace marey::MAREY_ISA_NS {

namespace {

#if defined(__AVX512BF16__)
// 1 + 2^25 and 1 - 2^25 times ones, as a product of two pairs. Tiles sum what is low and what is
// high apart, to 2; dot products and multiply-adds round 2^25 + 1, and find 1.
float summed_pairs() {
  constexpr bfloat16 kOne{0x3F80};
  constexpr bfloat16 kLarge{0x4C00};
  constexpr bfloat16 kMinusLarge{0xCC00};
  const Pair a[2] = {{kOne, kLarge}, {kOne, kMinusLarge}};
  constexpr int W = kLanesOf<Pair>;
  Pair b[2 * W];
  for (Pair& pair : b) pair = {kOne, kOne};
  float c[W];
  panel_product<1, Pair>(1, Rows<Pair>{a, 2}, b, 2, c, false);
  return c[0];
}
#endif

}  // namespace

ProbeResult probe(double a, double b) {
#if defined(__AVX512BF16__)
  const char* isa = summed_pairs() == 2.0F ? "avx512_amx" : "avx512_bf16";
#elif defined(__AVX512F__)
  const char* isa = "avx512";
#elif defined(__AVX2__)
  const char* isa = "avx2";
#else
  const char* isa = "baseline";
#endif
  return {isa, static_cast<int>(Vec<float>::size()), a * a - b};
}

}  // namespace marey::MAREY_ISA_NS
