#pragma once
// A block's matrix product: what convolution and recurrent networks share. The operands come from
// functions, so that where a row lies, and what is zero, is the caller's business.
//
// A block of 256 threads makes 64 x 64 sums, a thread 4 x 4 of them.
//
// On ordinary cores 16 depths of both operands are in shared memory, A with rows next to each other
// at each depth, so that a thread reads its four rows, as its four columns, in one access; the next
// 16 are loaded into registers meanwhile.
//
// Operands that are bfloat16 in memory go through the tensor cores: 32 depths, rows and columns
// each with their depths next to each other; a warp makes 16 x 32 sums, which are handed to the
// threads that want them through shared memory.
#include <type_traits>

#include "cuda/bfloat16.h"
#include "cuda/kernel.h"
#include "cuda/mma.h"

namespace marey::cuda {

inline constexpr int kGemmThreads = 256;
inline constexpr int kGemmRows = 64;
inline constexpr int kGemmColumns = 64;
inline constexpr int kGemmDepth = 16;

template <class T>
struct OrdinaryShared {
  // Rows of 64 and one pack: columns of threads that load one depth each meet different banks.
  alignas(16) T a[kGemmDepth][kGemmRows + 4];
  alignas(16) T b[kGemmDepth][kGemmColumns + 4];
};

inline constexpr int kTensorDepth = 32;
// Rows of 80 bytes: eight of them lie in different banks, and each begins at 16 bytes.
inline constexpr int kTensorPitch = kTensorDepth + 8;

struct TensorShared {
  union {
    struct {
      alignas(16) bfloat16 a[kGemmRows][kTensorPitch];
      alignas(16) bfloat16 b[kGemmColumns][kTensorPitch];
    } operands;
    alignas(16) float sums[kGemmRows][kGemmColumns + 4];
  };
};

// For operands that are S in memory, and sums T.
template <class S, class T>
using GemmShared = std::conditional_t<sizeof(S) == 2, TensorShared, OrdinaryShared<T>>;

// A thread's sums: rows 4 * row_of(thread) + i, columns 4 * column_of(thread) + j.
template <class T>
struct GemmSums {
  T v[4][4];
  MAREY_DEVICE void clear() {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
#pragma unroll
      for (int j = 0; j < 4; ++j) v[i][j] = T{0};
    }
  }
};

MAREY_HOST_DEVICE int gemm_row(int thread) { return thread / 16 * 4; }
MAREY_HOST_DEVICE int gemm_column(int thread) { return thread % 16 * 4; }

// sums += A B over depths [0, depth). load_a(row, k) and load_b(k, column) return T for the row and
// column in the block; each thread asks for the same row, and the same column, every time:
// load_a_row and load_b_column say which, so that callers can work out addresses before.
MAREY_HOST_DEVICE int gemm_load_row(int thread) { return thread % 64; }
MAREY_HOST_DEVICE int gemm_load_depth(int thread) { return thread / 64 * 4; }

template <class T, class LoadA, class LoadB>
MAREY_DEVICE void block_product(OrdinaryShared<T>& shared, int depth, const LoadA& load_a,
                                const LoadB& load_b, GemmSums<T>& sums) {
  const int thread = static_cast<int>(threadIdx.x);
  const int at = gemm_load_row(thread);
  const int first = gemm_load_depth(thread);
  T next_a[4], next_b[4];
  const auto fetch = [&](int k) {
#pragma unroll
    for (int u = 0; u < 4; ++u) {
      const bool inside = k + first + u < depth;
      next_a[u] = inside ? load_a(at, k + first + u) : T{0};
      next_b[u] = inside ? load_b(k + first + u, at) : T{0};
    }
  };
  fetch(0);
  for (int k = 0; k < depth; k += kGemmDepth) {
    sync_block();  // the last depths have been read
#pragma unroll
    for (int u = 0; u < 4; ++u) {
      shared.a[first + u][at] = next_a[u];
      shared.b[first + u][at] = next_b[u];
    }
    sync_block();
    if (k + kGemmDepth < depth) fetch(k + kGemmDepth);
#pragma unroll
    for (int d = 0; d < kGemmDepth; ++d) {
      using Four = Pack<T, 16 / sizeof(T)>;
      constexpr int kPacks = 4 * static_cast<int>(sizeof(T)) / 16;
      T a[4], b[4];
#pragma unroll
      for (int p = 0; p < kPacks; ++p) {
        constexpr int kItems = 16 / static_cast<int>(sizeof(T));
        const Four row =
            *reinterpret_cast<const Four*>(&shared.a[d][gemm_row(thread) + p * kItems]);
        const Four column =
            *reinterpret_cast<const Four*>(&shared.b[d][gemm_column(thread) + p * kItems]);
#pragma unroll
        for (int i = 0; i < kItems; ++i) {
          a[p * kItems + i] = row.v[i];
          b[p * kItems + i] = column.v[i];
        }
      }
#pragma unroll
      for (int i = 0; i < 4; ++i) {
#pragma unroll
        for (int j = 0; j < 4; ++j) sums.v[i][j] += a[i] * b[j];
      }
    }
  }
}

// The same on tensor cores. What the functions return came from bfloat16: nothing is rounded.
template <class T, class LoadA, class LoadB>
MAREY_DEVICE void block_product(TensorShared& shared, int depth, const LoadA& load_a,
                                const LoadB& load_b, GemmSums<T>& sums) {
  using Eight = Pack<uint32_t, 4>;
  const int thread = static_cast<int>(threadIdx.x);
  const int at = gemm_load_row(thread);
  const int first = thread / 64 * 8;
  const int lane = thread % 32;
  const int warp_row = thread / 64 * 16;
  const int warp_column = thread / 32 % 2 * 32;
  float d[4][4];
#pragma unroll
  for (int j = 0; j < 4; ++j) {
#pragma unroll
    for (int i = 0; i < 4; ++i) d[j][i] = 0.0F;
  }
  Eight next_a, next_b;
  const auto fetch = [&](int k) {
#pragma unroll
    for (int u = 0; u < 4; ++u) {
      const int even = k + first + 2 * u;
      next_a.v[u] = pack_bfloat16(even < depth ? load_a(at, even) : T{0},
                                  even + 1 < depth ? load_a(at, even + 1) : T{0});
      next_b.v[u] = pack_bfloat16(even < depth ? load_b(even, at) : T{0},
                                  even + 1 < depth ? load_b(even + 1, at) : T{0});
    }
  };
  auto& operands = shared.operands;
  fetch(0);
  for (int k = 0; k < depth; k += kTensorDepth) {
    sync_block();  // the last depths, or sums, have been read
    *reinterpret_cast<Eight*>(&operands.a[at][first]) = next_a;
    *reinterpret_cast<Eight*>(&operands.b[at][first]) = next_b;
    sync_block();
    if (k + kTensorDepth < depth) fetch(k + kTensorDepth);
#pragma unroll
    for (int half = 0; half < kTensorDepth; half += 16) {
      uint32_t a[4];
      load_matrices(a, &operands.a[warp_row + lane % 16][half + lane / 16 * 8]);
#pragma unroll
      for (int pair = 0; pair < 2; ++pair) {
        uint32_t b[4];
        const int column = warp_column + 16 * pair + lane / 16 * 8 + lane % 8;
        load_matrices(b, &operands.b[column][half + lane / 8 % 2 * 8]);
        multiply(d[2 * pair], a, b[0], b[1]);
        multiply(d[2 * pair + 1], a, b[2], b[3]);
      }
    }
  }
  sync_block();  // the operands have been read
#pragma unroll
  for (int j = 0; j < 4; ++j) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      shared.sums[warp_row + lane / 4 + i / 2 * 8][warp_column + 8 * j + lane % 4 * 2 + i % 2] =
          d[j][i];
    }
  }
  sync_block();
#pragma unroll
  for (int i = 0; i < 4; ++i) {
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      sums.v[i][j] += shared.sums[gemm_row(thread) + i][gemm_column(thread) + j];
    }
  }
}

}  // namespace marey::cuda
