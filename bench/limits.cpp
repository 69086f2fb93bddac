// What this machine does at most: the yardsticks beside every measured row.

#include <omp.h>

#include <cstdint>
#include <cstring>

namespace {

#if defined(__AVX512F__)
constexpr int lanes = 16;
#elif defined(__AVX__)
constexpr int lanes = 8;
#else
constexpr int lanes = 4;
#endif
using vec [[gnu::vector_size(lanes * sizeof(float))]] = float;

// Two multiply-add units of latency four or five need at most ten in flight; twelve fit the sixteen
// registers of AVX2.
constexpr int accumulators = 12;

}  // namespace

extern "C" {

// Every thread does `rounds` multiply-adds on each of its accumulators and touches no memory.
// sink: one float a thread, so that the loops have a result. Returns the operations done.
double multiply_add(std::int64_t rounds, int threads, float* sink) {
#pragma omp parallel num_threads(threads)
  {
    const vec a = vec{} + 0.999f, b = vec{} + 0.001f;
    vec sum[accumulators];
    for (int i = 0; i < accumulators; ++i) sum[i] = vec{} + static_cast<float>(i);
    for (std::int64_t r = 0; r < rounds; ++r) {
#pragma GCC unroll 12
      for (int i = 0; i < accumulators; ++i) sum[i] = sum[i] * a + b;
    }
    vec total{};
    for (int i = 0; i < accumulators; ++i) total += sum[i];
    sink[omp_get_thread_num()] = total[0];
  }
  return 2.0 * lanes * accumulators * static_cast<double>(rounds) * threads;
}

// Every thread copies one part. The C library's memcpy is tuned for the processor, with
// non-temporal stores at such sizes; a loop of them written here was slower as often as faster.
void copy(char* to, const char* from, std::int64_t bytes, int threads) {
#pragma omp parallel num_threads(threads)
  {
    const std::int64_t n = omp_get_num_threads(), i = omp_get_thread_num();
    const std::int64_t begin = bytes * i / n, end = bytes * (i + 1) / n;
    std::memcpy(to + begin, from + begin, static_cast<std::size_t>(end - begin));
  }
}

}  // extern "C"
