// What this machine does at most: the yardsticks beside every measured row.

#include <omp.h>

#include <cstdint>
#include <cstring>

#if defined(__AVX512BF16__)
#include <immintrin.h>
#endif
#if defined(__AMX_BF16__) && defined(__linux__)
#include <sys/syscall.h>
#include <unistd.h>
#endif

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
// On Zen 4 twelve dot products in flight reach 0.6 of what 24 do.
constexpr int dot_accumulators = 24;

}  // namespace

extern "C" {

// Every thread does `rounds` multiply-adds on each of its accumulators and touches no memory.
// sink: one float a thread, so that the loops have a result. Returns the operations done.
double multiply_add(std::int64_t rounds, int threads, float* sink) {
#pragma omp parallel num_threads(threads)
  {
    const vec a = vec{} + 0.999f, b = vec{} + 0.001f;
    vec sum[accumulators];
    // Not from 1: a sum of 1 stays 1, which the compiler sees, and one multiply-add would be
    // missing.
    for (int i = 0; i < accumulators; ++i) sum[i] = vec{} + static_cast<float>(i + 2);
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

// The same with dot products of bfloat16, two multiply-adds a lane; 0 where there are none.
double bfloat16_dot([[maybe_unused]] std::int64_t rounds, [[maybe_unused]] int threads,
                    [[maybe_unused]] float* sink) {
#if defined(__AVX512BF16__)
#pragma omp parallel num_threads(threads)
  {
    const __m512bh a = reinterpret_cast<__m512bh>(_mm512_set1_epi32(0x3F803F80));
    const __m512bh b = reinterpret_cast<__m512bh>(_mm512_set1_epi32(0x38003800));
    __m512 sum[dot_accumulators];
    for (int i = 0; i < dot_accumulators; ++i) sum[i] = _mm512_set1_ps(static_cast<float>(i));
    for (std::int64_t r = 0; r < rounds; ++r) {
#pragma GCC unroll 24
      for (int i = 0; i < dot_accumulators; ++i) sum[i] = _mm512_dpbf16_ps(sum[i], a, b);
    }
    __m512 total = sum[0];
    for (int i = 1; i < dot_accumulators; ++i) total = _mm512_add_ps(total, sum[i]);
    sink[omp_get_thread_num()] = _mm512_cvtss_f32(total);
  }
  return 4.0 * lanes * dot_accumulators * static_cast<double>(rounds) * threads;
#else
  return 0.0;
#endif
}

// The same with tiles: 8192 multiply-adds an instruction. 0 where there are none, or where the
// operating system refuses them.
double bfloat16_tiles([[maybe_unused]] std::int64_t rounds, [[maybe_unused]] int threads,
                      [[maybe_unused]] float* sink) {
#if defined(__AMX_BF16__) && defined(__linux__)
  constexpr long request_permission = 0x1023;  // ARCH_REQ_XCOMP_PERM
  constexpr long tile_data = 18;
  if (syscall(SYS_arch_prctl, request_permission, tile_data) != 0) return 0.0;
  // Whole tiles: 16 rows of 64 bytes.
  alignas(64) std::uint8_t config[64] = {1};
  for (int i = 0; i < 8; ++i) {
    config[16 + 2 * i] = 64;
    config[48 + i] = 16;
  }
  rounds /= 8;
#pragma omp parallel num_threads(threads)
  {
    _tile_loadconfig(config);
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
    _tile_zero(4);
    _tile_zero(5);
    _tile_zero(6);
    _tile_zero(7);
    for (std::int64_t r = 0; r < rounds; ++r) {
      _tile_dpbf16ps(0, 4, 6);
      _tile_dpbf16ps(1, 4, 7);
      _tile_dpbf16ps(2, 5, 6);
      _tile_dpbf16ps(3, 5, 7);
    }
    float sums[16 * 16];
    _tile_stored(0, sums, 64);
    _tile_release();
    sink[omp_get_thread_num()] = sums[0];
  }
  return 4.0 * 16384 * static_cast<double>(rounds) * threads;
#else
  return 0.0;
#endif
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
