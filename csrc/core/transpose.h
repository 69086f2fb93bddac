#pragma once
// Squares of vectors, for kernel files.
#include <utility>

#include "core/simd.h"

namespace marey::MAREY_ISA_NS {

namespace detail {

template <int kStep, class Pair, int... kLane>
inline void swap_blocks(Pair& a, Pair& b, std::integer_sequence<int, kLane...>) {
  constexpr int W = sizeof...(kLane);
  const Pair low =
      __builtin_shufflevector(a, b, ((kLane & kStep) != 0 ? W + kLane - kStep : kLane)...);
  const Pair high =
      __builtin_shufflevector(a, b, ((kLane & kStep) != 0 ? W + kLane : kLane + kStep)...);
  a = low;
  b = high;
}

template <int kStep, int W, class Pair>
inline void transpose_stage(Pair (&rows)[W]) {
#pragma GCC unroll 16
  for (int i = 0; i < W; ++i) {
    if ((i & kStep) == 0) {
      swap_blocks<kStep>(rows[i], rows[i + kStep], std::make_integer_sequence<int, W>{});
    }
  }
  if constexpr (kStep > 1) transpose_stage<kStep / 2, W>(rows);
}

template <int kStep, int W, class Pair>
inline void fold_stage(Pair (&rows)[W]) {
#pragma GCC unroll 8
  for (int i = 0; i < kStep; ++i) {
    swap_blocks<kStep>(rows[i], rows[i + kStep], std::make_integer_sequence<int, W>{});
    rows[i] += rows[i + kStep];
  }
  if constexpr (kStep > 1) fold_stage<kStep / 2, W>(rows);
}

}  // namespace detail

// A square of vectors, in registers.
template <class T>
inline void transpose(Vec<T> (&rows)[static_cast<int>(Vec<T>::size())]) {
  constexpr int W = static_cast<int>(Vec<T>::size());
  using Raw [[gnu::vector_size(sizeof(Vec<T>))]] = T;
  Raw raw[W];
#pragma GCC unroll 16
  for (int i = 0; i < W; ++i) raw[i] = std::bit_cast<Raw>(rows[i]);
  if constexpr (W > 1) detail::transpose_stage<W / 2, W>(raw);
#pragma GCC unroll 16
  for (int i = 0; i < W; ++i) rows[i] = std::bit_cast<Vec<T>>(raw[i]);
}

// The sums over lanes of a square's vectors, of vector j in lane j: half the shuffles that a
// transposition takes, since every stage adds up what it has swapped.
template <class T>
inline Vec<T> sum_of_lanes(const Vec<T> (&rows)[static_cast<int>(Vec<T>::size())]) {
  constexpr int W = static_cast<int>(Vec<T>::size());
  using Raw [[gnu::vector_size(sizeof(Vec<T>))]] = T;
  Raw raw[W];
#pragma GCC unroll 16
  for (int i = 0; i < W; ++i) raw[i] = std::bit_cast<Raw>(rows[i]);
  if constexpr (W > 1) detail::fold_stage<W / 2, W>(raw);
  return std::bit_cast<Vec<T>>(raw[0]);
}

}  // namespace marey::MAREY_ISA_NS
