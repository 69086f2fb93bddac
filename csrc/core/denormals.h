#pragma once
// Recursive filters fade out through denormal numbers, with which some processors are a hundred
// times slower.
#include <cstdint>

#if defined(__SSE2__)
#include <xmmintrin.h>
#endif

namespace marey {

// While one of these lives, this thread takes denormal operands and results for zero.
class FlushDenormals {
 public:
  FlushDenormals(const FlushDenormals&) = delete;
  FlushDenormals& operator=(const FlushDenormals&) = delete;
#if defined(__SSE2__)
  FlushDenormals() : previous_(_mm_getcsr()) {
    constexpr unsigned kFlushToZero = 0x8000;
    constexpr unsigned kDenormalsAreZero = 0x0040;
    _mm_setcsr(previous_ | kFlushToZero | kDenormalsAreZero);
  }
  ~FlushDenormals() { _mm_setcsr(previous_); }

 private:
  unsigned previous_;
#elif defined(__aarch64__)
  FlushDenormals() {
    constexpr std::uint64_t kFlushToZero = std::uint64_t{1} << 24;
    asm volatile("mrs %0, fpcr" : "=r"(previous_));
    asm volatile("msr fpcr, %0" : : "r"(previous_ | kFlushToZero));
  }
  ~FlushDenormals() { asm volatile("msr fpcr, %0" : : "r"(previous_)); }

 private:
  std::uint64_t previous_;
#else
  FlushDenormals() = default;
#endif
};

}  // namespace marey
