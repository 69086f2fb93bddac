#pragma once
// What the matrix products of core/tile.h are of, for kernel files: the types of their items, and
// the layouts of A, each of which says where item (row, k) lies:
//   Rows     k contiguous, rows `stride` apart: a plain row-major matrix
//   Columns  rows contiguous, k `stride` apart: its transpose
//   Strips   packed by pack_strips: four rows interleaved, so that whole tiles read one stream
//   PairRows rows of bfloat16 read as pairs
//
// A tile keeps one pointer for kNear rows, whose distance from it addresses hold: where it is no
// constant, that of one row in a register, which is scaled by two for the next. Of tiles of four
// rows, which took 1 to 3% longer that way, addresses are left to the compiler. Pointers move after
// kSteps of the depth, as far as these are a constant distance apart, up to four.
#include "core/bfloat16.h"
#include "core/simd.h"

namespace marey::MAREY_ISA_NS {

// Rows that pack_strips interleaves.
inline constexpr int kStrip = 4;

#if defined(__AVX512F__) || defined(__aarch64__)
inline constexpr int kNearRows = 3;
#else
inline constexpr int kNearRows = 1;
#endif

// Two neighbours along the depth.
struct alignas(4) Pair {
  bfloat16 low, high;
};

// Of two neighbours along the depth, which are float32, the three parts of bfloat16 that they are
// the sums of (core/tile_split.h). How the parts of many lie is said there.
inline constexpr int kSplitParts = 3;
struct Split {
  Pair parts[kSplitParts];
};

// What products of T are summed in.
template <class T>
using SumOf = std::conditional_t<std::is_same_v<T, Pair>, float, T>;

// What products of a type in memory are of: pairs of bfloat16 where there are dot products of them.
#if defined(__AVX512BF16__)
template <class S>
using UnitOf = std::conditional_t<std::is_same_v<S, bfloat16>, Pair, S>;
#else
template <class S>
using UnitOf = std::conditional_t<std::is_same_v<S, bfloat16>, float, S>;
#endif

template <class T>
inline constexpr int kLanesOf = static_cast<int>(Vec<SumOf<T>>::size());

template <class T>
struct Rows {
  static constexpr int kNear = kNearRows, kSteps = 4;
  const T* data;
  int64_t stride;
  const T* at(int row, int64_t k) const { return data + row * stride + k; }
  Rows below(int rows) const { return {data + rows * stride, stride}; }
  Rows along(int64_t k) const { return {data + k, stride}; }
};

template <class T>
struct Columns {
  static constexpr int kNear = 16, kSteps = 1;
  const T* data;
  int64_t stride;
  const T* at(int row, int64_t k) const { return data + k * stride + row; }
  Columns below(int rows) const { return {data + rows, stride}; }
  Columns along(int64_t k) const { return {data + k * stride, stride}; }
};

template <class T>
struct Strips {
  static constexpr int kNear = kStrip, kSteps = 4;
  const T* data;
  int64_t stride;  // from one strip of four rows to the next: kStrip * the depth it was packed with
  const T* at(int row, int64_t k) const {
    return data + row / kStrip * stride + k * kStrip + row % kStrip;
  }
  Strips below(int rows) const { return {data + rows / kStrip * stride, stride}; }
  Strips along(int64_t k) const { return {data + k * kStrip, stride}; }
};

// Rows of bfloat16, read in place as pairs, at any address; `stride` counts items of bfloat16.
struct PairRows {
  static constexpr int kNear = kNearRows, kSteps = 4;
  const bfloat16* data;
  int64_t stride;
  const bfloat16* at(int row, int64_t k) const { return data + row * stride + 2 * k; }
  PairRows below(int rows) const { return {data + rows * stride, stride}; }
  PairRows along(int64_t k) const { return {data + 2 * k, stride}; }
};

// Only ever moved, never computed with, so that every bit stays.
inline float* to_floats(Pair* p) { return reinterpret_cast<float*>(p); }

}  // namespace marey::MAREY_ISA_NS
