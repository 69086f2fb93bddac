#pragma once
// Vectors for kernel files. Everything here lives in the namespace of the instruction set that the
// including file is compiled for, so the linker cannot merge one set's code with another's.
// The one file to change when std::simd arrives.
#include <bit>
#include <cstdint>
#include <cstring>
#include <experimental/simd>
#include <type_traits>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

#ifndef MAREY_ISA_NS
#error "core/simd.h is for kernel files, which are compiled once for each instruction set"
#endif

namespace marey::MAREY_ISA_NS {

namespace stdx = std::experimental;

// The widest vector of T that the instruction set has.
template <class T>
using Vec = stdx::native_simd<T>;

// As many lanes of T as Vec<U> has: the partner in a conversion.
template <class T, class U>
using VecLike = stdx::rebind_simd_t<T, Vec<U>>;

// Loads, converting each item to V's type.
template <class V, class S>
inline V load(const S* p) {
  return V(p, stdx::element_aligned);
}

template <class V, class D>
inline void store(D* p, const V& v) {
  v.copy_to(p, stdx::element_aligned);
}

// Loads the first `count` < V::size() lanes; the others are zero. Tails go through the same vector
// code as the rest, so that a result does not depend on where a range was cut.
template <class V, class S>
inline V load_partial(const S* p, int64_t count) {
  alignas(64) S lanes[V::size()] = {};
  std::memcpy(lanes, p, static_cast<std::size_t>(count) * sizeof(S));
  return load<V>(lanes);
}

template <class V, class D>
inline void store_partial(D* p, const V& v, int64_t count) {
  alignas(64) D lanes[V::size()];
  store(lanes, v);
  std::memcpy(p, lanes, static_cast<std::size_t>(count) * sizeof(D));
}

// a * b + c with one rounding where the instruction set can, for float and double, scalars and
// vectors. The compiler fuses a lone product by itself; of two products in one sum it may fuse
// either, and not the same one in every copy of a loop, so that results would depend on where a
// range is cut. There, say which.
template <class T>
inline T fma(T a, T b, T c)
  requires std::is_floating_point_v<T>
{
#if defined(__FMA__)
  if constexpr (std::is_same_v<T, float>) {
    return __builtin_fmaf(a, b, c);
  } else {
    return __builtin_fma(a, b, c);
  }
#else
  return a * b + c;
#endif
}

inline Vec<float> fma(const Vec<float>& a, const Vec<float>& b, const Vec<float>& c) {
#if defined(__AVX512F__)
  return Vec<float>(
      _mm512_fmadd_ps(static_cast<__m512>(a), static_cast<__m512>(b), static_cast<__m512>(c)));
#elif defined(__FMA__)
  return Vec<float>(
      _mm256_fmadd_ps(static_cast<__m256>(a), static_cast<__m256>(b), static_cast<__m256>(c)));
#else
  return a * b + c;
#endif
}

inline Vec<double> fma(const Vec<double>& a, const Vec<double>& b, const Vec<double>& c) {
#if defined(__AVX512F__)
  return Vec<double>(
      _mm512_fmadd_pd(static_cast<__m512d>(a), static_cast<__m512d>(b), static_cast<__m512d>(c)));
#elif defined(__FMA__)
  return Vec<double>(
      _mm256_fmadd_pd(static_cast<__m256d>(a), static_cast<__m256d>(b), static_cast<__m256d>(c)));
#else
  return a * b + c;
#endif
}

// What <experimental/simd> has no word for, or compiles to many instructions (GCC 12).

// Non-temporal store: does not read the line before it writes, and does not evict the inputs.
// `p` must be aligned to the vector. Call stream_fence() once after the last.
template <class T>
inline void stream(T* p, const Vec<T>& v) {
#if defined(__AVX512F__)
  _mm512_stream_si512(reinterpret_cast<__m512i*>(p), std::bit_cast<__m512i>(v));
#elif defined(__AVX__)
  _mm256_stream_si256(reinterpret_cast<__m256i*>(p), std::bit_cast<__m256i>(v));
#elif defined(__SSE2__)
  _mm_stream_si128(reinterpret_cast<__m128i*>(p), std::bit_cast<__m128i>(v));
#else
  v.copy_to(p, stdx::vector_aligned);
#endif
}

inline void stream_fence() {
#if defined(__SSE2__)
  _mm_sfence();
#endif
}

// Rounds to nearest even, saturates to [0, 255] and stores one byte a lane. Not for NaN.
inline void store_saturated(uint8_t* p, const Vec<float>& v) {
  const Vec<float> limited = stdx::min(v, Vec<float>(255.0F));
#if defined(__AVX512F__)
  const __m512i i = _mm512_cvtps_epi32(static_cast<__m512>(limited));
  const __m512i positive = _mm512_max_epi32(i, _mm512_setzero_si512());
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm512_cvtusepi32_epi8(positive));
#elif defined(__AVX2__)
  const __m256i i = _mm256_cvtps_epi32(static_cast<__m256>(limited));
  const __m128i h = _mm_packus_epi32(_mm256_castsi256_si128(i), _mm256_extracti128_si256(i, 1));
  _mm_storel_epi64(reinterpret_cast<__m128i*>(p), _mm_packus_epi16(h, h));
#elif defined(__SSE4_1__)
  const __m128i i = _mm_cvtps_epi32(static_cast<__m128>(limited));
  const __m128i h = _mm_packus_epi32(i, i);
  const int bytes = _mm_cvtsi128_si32(_mm_packus_epi16(h, h));
  std::memcpy(p, &bytes, sizeof bytes);
#else
  store(p, stdx::nearbyint(stdx::max(limited, Vec<float>(0.0F))));
#endif
}

// Stores the low byte of each lane; the values are in [0, 255].
inline void store_narrow(uint8_t* p, const Vec<uint16_t>& v) {
#if defined(__AVX512BW__)
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p),
                      _mm512_cvtepi16_epi8(std::bit_cast<__m512i>(v)));
#elif defined(__AVX2__)
  const __m256i h = std::bit_cast<__m256i>(v);
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p),
                   _mm_packus_epi16(_mm256_castsi256_si128(h), _mm256_extracti128_si256(h, 1)));
#elif defined(__SSE2__)
  const __m128i h = std::bit_cast<__m128i>(v);
  _mm_storel_epi64(reinterpret_cast<__m128i*>(p), _mm_packus_epi16(h, h));
#else
  store(p, v);
#endif
}

// Splits 16 pixels of three interleaved bytes (48 bytes at `p`) into one row of 16 for each
// channel.
inline void deinterleave3(const uint8_t* p, uint8_t* c0, uint8_t* c1, uint8_t* c2) {
#if defined(__SSSE3__)
  const __m128i a = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
  const __m128i b = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p + 16));
  const __m128i c = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p + 32));
  const auto pick = [&](const __m128i& from_a, const __m128i& from_b, const __m128i& from_c) {
    return _mm_or_si128(_mm_or_si128(_mm_shuffle_epi8(a, from_a), _mm_shuffle_epi8(b, from_b)),
                        _mm_shuffle_epi8(c, from_c));
  };
  constexpr char z = -1;  // makes a zero
  const __m128i first = pick(_mm_setr_epi8(0, 3, 6, 9, 12, 15, z, z, z, z, z, z, z, z, z, z),
                             _mm_setr_epi8(z, z, z, z, z, z, 2, 5, 8, 11, 14, z, z, z, z, z),
                             _mm_setr_epi8(z, z, z, z, z, z, z, z, z, z, z, 1, 4, 7, 10, 13));
  const __m128i second = pick(_mm_setr_epi8(1, 4, 7, 10, 13, z, z, z, z, z, z, z, z, z, z, z),
                              _mm_setr_epi8(z, z, z, z, z, 0, 3, 6, 9, 12, 15, z, z, z, z, z),
                              _mm_setr_epi8(z, z, z, z, z, z, z, z, z, z, z, 2, 5, 8, 11, 14));
  const __m128i third = pick(_mm_setr_epi8(2, 5, 8, 11, 14, z, z, z, z, z, z, z, z, z, z, z),
                             _mm_setr_epi8(z, z, z, z, z, 1, 4, 7, 10, 13, z, z, z, z, z, z),
                             _mm_setr_epi8(z, z, z, z, z, z, z, z, z, z, 0, 3, 6, 9, 12, 15));
  _mm_storeu_si128(reinterpret_cast<__m128i*>(c0), first);
  _mm_storeu_si128(reinterpret_cast<__m128i*>(c1), second);
  _mm_storeu_si128(reinterpret_cast<__m128i*>(c2), third);
#else
  for (int k = 0; k < 16; ++k) {
    c0[k] = p[3 * k];
    c1[k] = p[3 * k + 1];
    c2[k] = p[3 * k + 2];
  }
#endif
}

}  // namespace marey::MAREY_ISA_NS
