// The products with the input are one matrix product for all steps. Then all steps are one launch
// (recurrent_sequence_cuda.cu), or where the weights are too many, or the rows, one each: a block
// takes 64 rows of the batch and 16 hidden units with all gates of theirs, which are 64 columns of
// the product with the state, and applies the cell to them at once. What a step writes the next
// launch reads, so the order of launches is the only barrier. Either is captured in a graph as it
// is.
#include <stdexcept>

#include "cuda/divisor.h"
#include "cuda/gemm.h"
#include "ops/recurrent/cell_cuda.h"
#include "ops/recurrent/recurrent_cuda.h"

namespace marey::cuda {
namespace {

constexpr int kUnits = 16;  // of a block
static_assert(kUnits * kMostGates == kGemmColumns);

struct ProjectArguments {
  const char* x;
  const char* weight;
  const char* bias;                                                   // null: none
  char* gates;                                                        // (T * N, gates * H)
  int64_t x_time, x_row, x_item, weight_row, weight_item, bias_item;  // in bytes
  Divisor batch;
  int64_t rows, columns;
  Divisor column_blocks;
  int depth;
  unsigned* counter;  // set to zero, for the launch that follows
};

template <class S, class T>
MAREY_KERNEL(kGemmThreads)
project_kernel(MAREY_GRID_CONSTANT ProjectArguments a) {
  auto& shared = *shared_memory<GemmShared<S, T>>();
  const int thread = static_cast<int>(threadIdx.x);
  if (blockIdx.x == 0 && thread == 0) *a.counter = 0;
  const int64_t block_row = a.column_blocks.quotient(blockIdx.x);
  const int64_t first_row = block_row * kGemmRows;
  const int64_t first_column = (blockIdx.x - block_row * a.column_blocks.value()) * kGemmColumns;
  const int64_t row = first_row + gemm_load_row(thread);
  const int64_t column = first_column + gemm_load_row(thread);
  const int64_t time = a.batch.quotient(row);
  const char* x = a.x + time * a.x_time + (row - time * a.batch.value()) * a.x_row;
  const char* weight = a.weight + column * a.weight_row;
  GemmSums<T> sums;
  sums.clear();
  block_product<T>(
      shared, a.depth,
      [&](int, int k) {
        return row < a.rows ? to<T>(*reinterpret_cast<const S*>(x + k * a.x_item)) : T{0};
      },
      [&](int k, int) {
        return column < a.columns ? to<T>(*reinterpret_cast<const S*>(weight + k * a.weight_item))
                                  : T{0};
      },
      sums);
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const int64_t r = first_row + gemm_row(thread) + i;
    if (r >= a.rows) continue;
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      const int64_t c = first_column + gemm_column(thread) + j;
      if (c >= a.columns) continue;
      T v = sums.v[i][j];
      if (a.bias != nullptr) v += to<T>(*reinterpret_cast<const S*>(a.bias + c * a.bias_item));
      reinterpret_cast<T*>(a.gates)[r * a.columns + c] = v;
    }
  }
}

template <class S, class T>
struct StepShared {
  GemmShared<S, T> product;
  T sums[kGemmRows][kGemmColumns + 1];
};

template <class S, class T>
MAREY_KERNEL(kGemmThreads)
recurrent_step_kernel(MAREY_GRID_CONSTANT StepArguments a) {
  auto& shared = *shared_memory<StepShared<S, T>>();
  const int thread = static_cast<int>(threadIdx.x);
  const int64_t block_row = a.unit_blocks.quotient(blockIdx.x);
  const int64_t first_row = block_row * kGemmRows;
  const int64_t first_unit = (blockIdx.x - block_row * a.unit_blocks.value()) * kUnits;
  const int64_t row = first_row + gemm_load_row(thread);
  const int gate = gemm_load_row(thread) / kUnits;
  const int64_t unit = first_unit + gemm_load_row(thread) % kUnits;
  const bool column_inside = gate < a.gate_count && unit < a.hidden;
  const S* h = reinterpret_cast<const S*>(a.h) + row * a.hidden;
  const char* weight = a.weight + (gate * a.hidden + unit) * a.weight_row;
  GemmSums<T> sums;
  sums.clear();
  block_product<T>(
      shared.product, static_cast<int>(a.hidden),
      [&](int, int k) { return row < a.rows ? to<T>(h[k]) : T{0}; },
      [&](int k, int) {
        return column_inside ? to<T>(*reinterpret_cast<const S*>(weight + k * a.weight_item))
                             : T{0};
      },
      sums);
#pragma unroll
  for (int i = 0; i < 4; ++i) {
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      shared.sums[gemm_row(thread) + i][gemm_column(thread) + j] = sums.v[i][j];
    }
  }
  sync_block();

  for (int k = thread; k < kGemmRows * kUnits; k += kGemmThreads) {
    const int local_row = k / kUnits;
    const int local_unit = k % kUnits;
    const int64_t r = first_row + local_row;
    const int64_t u = first_unit + local_unit;
    if (r >= a.rows || u >= a.hidden) continue;
    finish_cell<S, T>(a, a.step, a.h, a.h_next, a.kept, r, u,
                      [&](int g) { return shared.sums[local_row][g * kUnits + local_unit]; });
  }
}

template <class S, class T>
void run(const Queue& queue, const RecurrentWeights& w, const RecurrentSequence& s) {
  const int64_t steps = s.x.shape[0];
  const int64_t rows = s.x.shape[1];
  const int64_t hidden = w.hh.shape[1];
  const int gates = weight_gates(w.cell);

  ProjectArguments p{};
  p.x = s.x.as<const char>();
  p.weight = w.ih.as<const char>();
  p.gates = static_cast<char*>(s.gates);
  p.x_time = s.x.stride(0);
  p.x_row = s.x.stride(1);
  p.x_item = s.x.stride(2);
  p.weight_row = w.ih.stride(0);
  p.weight_item = w.ih.stride(1);
  if (w.bias_ih != nullptr) {
    p.bias = w.bias_ih->as<const char>();
    p.bias_item = w.bias_ih->stride(0);
  }
  p.batch = Divisor(rows);
  p.rows = steps * rows;
  p.columns = gates * hidden;
  p.column_blocks = Divisor(blocks_for(p.columns, kGemmColumns));
  p.depth = static_cast<int>(s.x.shape[2]);
  // Behind the gates.
  p.counter = reinterpret_cast<unsigned*>(p.gates + p.rows * p.columns * int64_t{sizeof(T)});
  launch(queue,
         {blocks_for(p.rows, kGemmRows) * p.column_blocks.value(), kGemmThreads,
          sizeof(GemmShared<S, T>)},
         &project_kernel<S, T>, p);

  StepArguments a{};
  a.cell = w.cell;
  a.weight = w.hh.as<const char>();
  a.weight_row = w.hh.stride(0);
  a.weight_item = w.hh.stride(1);
  if (w.bias_hh != nullptr) {
    a.bias = w.bias_hh->as<const char>();
    a.bias_item = w.bias_hh->stride(0);
  }
  a.gates = p.gates;
  a.c = static_cast<char*>(s.c);
  a.y = s.y.as<char>();
  a.y_time = s.y.stride(0);
  a.y_row = s.y.stride(1);
  a.y_item = s.y.stride(2);
  a.lengths = s.lengths;
  a.reverse = s.reverse;
  a.steps = steps;
  a.rows = rows;
  a.hidden = hidden;
  a.gate_count = gates;
  a.kept = static_cast<char*>(s.kept);
  if (run_whole_sequence(queue, a, w.ih.dtype, s.state, p.counter)) return;
  a.unit_blocks = Divisor(blocks_for(hidden, kUnits));
  const Grid grid{blocks_for(rows, kGemmRows) * a.unit_blocks.value(), kGemmThreads,
                  sizeof(StepShared<S, T>)};
  for (int64_t step = 0; step < steps; ++step) {
    a.step = step;
    a.h = static_cast<const char*>(s.state[step % 2]);
    a.h_next = static_cast<char*>(s.state[(step + 1) % 2]);
    if (s.kept != nullptr) {
      a.kept = static_cast<char*>(s.kept) +
               step * rows * kept_gates(w.cell) * hidden * static_cast<int64_t>(sizeof(T));
    }
    launch(queue, grid, &recurrent_step_kernel<S, T>, a);
  }
}

}  // namespace

int64_t recurrent_workspace(const RecurrentWeights& weights, int64_t steps, int64_t rows) {
  const int64_t item = weights.ih.dtype == DType::f64 ? 8 : 4;
  return steps * rows * weight_gates(weights.cell) * weights.hh.shape[1] * item +
         int64_t{sizeof(unsigned)};
}

void run_recurrent(const Queue& queue, const RecurrentWeights& weights,
                   const RecurrentSequence& sequence) {
  if (sequence.y.shape.count() == 0) return;
  if (weights.ih.dtype == DType::f64) return run<double, double>(queue, weights, sequence);
  if (weights.ih.dtype == DType::bf16) return run<bfloat16, float>(queue, weights, sequence);
  run<float, float>(queue, weights, sequence);
}

}  // namespace marey::cuda
