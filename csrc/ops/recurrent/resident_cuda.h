#pragma once
// A product with weights that stay in shared memory from step to step: what all steps of a sequence
// in one launch are made of, there and back.
//
// A block of 256 threads multiplies 16 rows, of states or of gradients of gates, with kColumns
// columns of the weights. Threads share the depth; each has sums of its own, which are added up in
// a fixed order once they are in shared memory.
//
// On ordinary cores a thread has one column and a part of the depth, four depths at a time, for all
// 16 rows: it reads each weight once, and the rows by broadcast. On tensor cores, for what is
// bfloat16 in memory, a warp has all columns and each eighth 32 depths.
#include <type_traits>

#include "cuda/async_copy.h"
#include "cuda/bfloat16.h"
#include "cuda/kernel.h"
#include "cuda/mma.h"

namespace marey::cuda {

inline constexpr int kResidentThreads = 256;
inline constexpr int kResidentRows = 16;

template <class T, int kColumns>
struct OrdinaryResident {
  static constexpr int kParts = kResidentThreads / kColumns;
  static constexpr int kFour = 4;
  // Four depths of all columns, and a gap where a warp has several parts, so that they lie in
  // different banks.
  static constexpr int kGroup = kFour * kColumns + (kColumns < 32 ? kColumns : 0);

  // Items of a row, zeros behind the last one; from one row to the next; of the weights.
  static MAREY_HOST_DEVICE int depth(int64_t items) {
    return static_cast<int>((items + kParts * kFour - 1) / (kParts * kFour)) * kParts * kFour;
  }
  static MAREY_HOST_DEVICE int pitch(int depth) { return depth; }
  static MAREY_HOST_DEVICE int weights(int depth) { return depth / kFour * kGroup; }
  static MAREY_HOST_DEVICE int weight(int, int column, int d) {
    return d / kFour * kGroup + d % kFour * kColumns + column;
  }

  T sum[kResidentRows];

  MAREY_DEVICE void clear() {
#pragma unroll
    for (int r = 0; r < kResidentRows; ++r) sum[r] = T{0};
  }
  MAREY_DEVICE void add(int depth, const T* rows, const T* held) {
    using Four = Pack<T, kFour>;
    const int thread = static_cast<int>(threadIdx.x);
    const int column = thread % kColumns;
    for (int d = thread / kColumns * kFour; d < depth; d += kParts * kFour) {
      T w[kFour];
#pragma unroll
      for (int k = 0; k < kFour; ++k) w[k] = held[weight(depth, column, d + k)];
#pragma unroll
      for (int r = 0; r < kResidentRows; ++r) {
        const Four four = *reinterpret_cast<const Four*>(rows + r * depth + d);
#pragma unroll
        for (int k = 0; k < kFour; ++k) sum[r] += four.v[k] * w[k];
      }
    }
  }
  // sums: (kParts, 16, kColumns + 1).
  MAREY_DEVICE void store(T* sums) const {
    const int thread = static_cast<int>(threadIdx.x);
    T* to = sums + thread / kColumns * kResidentRows * (kColumns + 1) + thread % kColumns;
#pragma unroll
    for (int r = 0; r < kResidentRows; ++r) to[r * (kColumns + 1)] = sum[r];
  }
};

template <int kColumns>
struct TensorResident {
  static constexpr int kParts = kResidentThreads / 32;
  static constexpr int kStep = 32;

  static MAREY_HOST_DEVICE int depth(int64_t items) {
    return static_cast<int>((items + kStep - 1) / kStep) * kStep;
  }
  // Rows and columns begin at 16 bytes, eight of them in different banks.
  static MAREY_HOST_DEVICE int pitch(int depth) { return depth + 8; }
  static MAREY_HOST_DEVICE int weights(int depth) { return kColumns * pitch(depth); }
  static MAREY_HOST_DEVICE int weight(int depth, int column, int d) {
    return column * pitch(depth) + d;
  }

  float sum[kColumns / 8][4];

  MAREY_DEVICE void clear() {
#pragma unroll
    for (int j = 0; j < kColumns / 8; ++j) {
#pragma unroll
      for (int i = 0; i < 4; ++i) sum[j][i] = 0.0F;
    }
  }
  MAREY_DEVICE void add(int depth, const bfloat16* rows, const bfloat16* held) {
    const int lane = static_cast<int>(threadIdx.x) % 32;
    const int warp = static_cast<int>(threadIdx.x) / 32;
    const bfloat16* row = rows + lane % 16 * pitch(depth) + lane / 16 * 8;
    const bfloat16* column = held + lane % 8 * pitch(depth) + lane / 8 * 8;
    for (int d = warp * kStep; d < depth; d += kParts * kStep) {
      uint32_t a[2][4];
      load_matrices(a[0], row + d);
      load_matrices(a[1], row + d + 16);
#pragma unroll
      for (int j = 0; j < kColumns / 8; ++j) {
        uint32_t b[4];
        load_matrices(b, column + 8 * j * pitch(depth) + d);
        multiply(sum[j], a[0], b[0], b[1]);
        multiply(sum[j], a[1], b[2], b[3]);
      }
    }
  }
  MAREY_DEVICE void store(float* sums) const {
    const int lane = static_cast<int>(threadIdx.x) % 32;
    float* to = sums + static_cast<int>(threadIdx.x) / 32 * kResidentRows * (kColumns + 1);
#pragma unroll
    for (int j = 0; j < kColumns / 8; ++j) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        to[(lane / 4 + i / 2 * 8) * (kColumns + 1) + 8 * j + lane % 4 * 2 + i % 2] = sum[j][i];
      }
    }
  }
};

// Items that are S in memory and sums T.
template <class S, class T, int kColumns>
using Resident =
    std::conditional_t<sizeof(S) == 2, TensorResident<kColumns>, OrdinaryResident<T, kColumns>>;

template <class S, class T, int kColumns>
constexpr std::size_t resident_sums_bytes() {
  // Whole packs, so that what lies behind begins at 16 bytes.
  return (sizeof(T) * Resident<S, T, kColumns>::kParts * kResidentRows * (kColumns + 1) + 15) / 16 *
         16;
}

// One sum of all parts.
template <int kColumns, int kParts, class T>
MAREY_DEVICE T resident_sum(const T* sums, int row, int column) {
  T total{0};
  for (int p = 0; p < kParts; ++p) {
    total += sums[(p * kResidentRows + row) * (kColumns + 1) + column];
  }
  return total;
}

// Asks for 16 rows of `items` items, which blocks of this grid may have written, zeros behind
// `items` and `count` rows. They are there after copy_commit, copy_wait and the block's barrier.
// `packs`: rows are multiples of 16 bytes and begin at one.
template <class S>
MAREY_DEVICE void ask_for_rows(S* to, int pitch, int depth, const S* from, int64_t from_pitch,
                               int64_t count, int items, bool packs) {
  constexpr int kPack = 16 / static_cast<int>(sizeof(S));
  constexpr int kLanes = kResidentThreads / kResidentRows;
  const int row = static_cast<int>(threadIdx.x) / kLanes;
  const int lane = static_cast<int>(threadIdx.x) % kLanes;
  const bool row_inside = row < count;
  const S* source = from + (row_inside ? row : 0) * from_pitch;
  S* target = to + row * pitch;
  if (packs) {
    for (int d = lane * kPack; d < depth; d += kLanes * kPack) {
      const bool inside = row_inside && d < items;
      copy_async(target + d, source + (inside ? d : 0), inside);
    }
    return;
  }
  for (int d = lane; d < depth; d += kLanes) {
    target[d] = row_inside && d < items ? load_of_grid(source + d) : S{};
  }
}

// Whether they are: rows of `items`, one behind the other.
template <class S>
MAREY_DEVICE bool in_packs(const void* rows, int64_t items) {
  return items * int64_t{sizeof(S)} % 16 == 0 && reinterpret_cast<uintptr_t>(rows) % 16 == 0;
}

}  // namespace marey::cuda
