#pragma once
// The gradient of a weight is a product whose depth is every position of a batch, and whose sides
// are short: blocks share it along its depth. Each writes what it has to its own part of the
// workspace, and a second kernel adds the parts, always in one order, so that results are the same
// from call to call. How many parts there are depends on shapes alone.
//
// A part is rows of columns + 1 sums: those of the last column are the sums of the rows of the
// first operand, which are the gradient of the bias.
#include <algorithm>

#include "cuda/bfloat16.h"
#include "cuda/gemm.h"
#include "cuda/kernel.h"

namespace marey::cuda {

inline constexpr int64_t kPartialBlocks = 1024;  // some for each multiprocessor of any device
inline constexpr int64_t kPartialBytes = int64_t{64} << 20;
// Depths that are added up before they are added to others: a sum of n numbers in parts of m is off
// by m + n / m roundings, and not by n.
inline constexpr int kPartialDepth = 512;

struct PartialPlan {
  int64_t rows, columns;  // without the last one
  int64_t depth;
  int64_t parts, part_depth;
  int64_t items() const { return parts * rows * (columns + 1); }
};

// rows of all groups; `group_rows` of one, which blocks do not cross.
inline PartialPlan partial_plan(int64_t rows, int64_t group_rows, int64_t columns, int64_t depth,
                                int64_t item) {
  const int64_t groups = group_rows > 0 ? rows / group_rows : 0;
  const int64_t tiles = std::max<int64_t>(
      groups * blocks_for(group_rows, kGemmRows) * blocks_for(columns + 1, kGemmColumns), 1);
  const int64_t bytes = std::max<int64_t>(rows * (columns + 1) * item, 1);
  const int64_t most = std::min(blocks_for(depth, kPartialDepth / 2), kPartialBytes / bytes);
  PartialPlan plan{rows, columns, depth, 1, depth};
  plan.parts = std::max<int64_t>(std::min(blocks_for(kPartialBlocks, tiles), most), 1);
  plan.part_depth = blocks_for(depth, plan.parts);
  return plan;
}

// sums += A B over depths [begin, end); load_a(depth) and load_b(depth) as in block_product, of a
// depth of the whole.
template <class T, class Memory, class LoadA, class LoadB>
MAREY_DEVICE void partial_product(Memory& shared, int64_t begin, int64_t end, const LoadA& load_a,
                                  const LoadB& load_b, GemmSums<T>& sums) {
  sums.clear();
  for (int64_t at = begin; at < end; at += kPartialDepth) {
    const int depth = end - at < kPartialDepth ? static_cast<int>(end - at) : kPartialDepth;
    GemmSums<T> some;
    some.clear();
    block_product<T>(
        shared, depth, [&](int, int k) { return load_a(at + k); },
        [&](int k, int) { return load_b(at + k); }, some);
#pragma unroll
    for (int i = 0; i < 4; ++i) {
#pragma unroll
      for (int j = 0; j < 4; ++j) sums.v[i][j] += some.v[i][j];
    }
  }
}

struct PartialSums {
  const char* sums;
  int64_t parts, rows, columns;
  char* weight;  // C-ordered rows of columns; null: not asked for
  char* bias;    // null: not asked for
};

inline constexpr int kPartialThreads = 256;

// S: of the results, T: of the sums. A thread for each sum.
template <class S, class T>
MAREY_KERNEL(kPartialThreads)
add_parts_kernel(MAREY_GRID_CONSTANT PartialSums a) {
  const int64_t pitch = a.columns + 1;
  const int64_t at = int64_t{blockIdx.x} * kPartialThreads + threadIdx.x;
  if (at >= a.rows * pitch) return;
  const int64_t row = at / pitch;
  const int64_t column = at - row * pitch;
  char* to = column < a.columns ? a.weight : a.bias;
  if (to == nullptr) return;
  T sum{0};
  for (int64_t part = 0; part < a.parts; ++part) {
    sum += reinterpret_cast<const T*>(a.sums)[part * a.rows * pitch + at];
  }
  reinterpret_cast<S*>(to)[column < a.columns ? row * a.columns + column : row] = from<S>(sum);
}

template <class S, class T>
void add_parts(const Queue& queue, const PartialPlan& plan, const void* sums, void* weight,
               void* bias) {
  const PartialSums a{static_cast<const char*>(sums),
                      plan.parts,
                      plan.rows,
                      plan.columns,
                      static_cast<char*>(weight),
                      static_cast<char*>(bias)};
  launch(queue, {blocks_for(plan.rows * (plan.columns + 1), kPartialThreads), kPartialThreads, 0},
         &add_parts_kernel<S, T>, a);
}

}  // namespace marey::cuda
