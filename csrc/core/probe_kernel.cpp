#include "core/probe.h"
#include "core/simd.h"

namespace marey::MAREY_ISA_NS {

ProbeResult probe(double a, double b) {
#if defined(__AVX512BF16__)
  const char* isa = "avx512_bf16";
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
