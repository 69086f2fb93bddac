// The products with the input are one matrix product for all steps. Then each step is one launch: a
// block takes 64 rows of the batch and 16 hidden units with all gates of theirs, which are 64
// columns of the product with the state, and applies the cell to them at once. What a step writes
// the next launch reads, so the order of launches is the only barrier; a sequence is captured in a
// graph as it is. (A grid that stays, with the weights in shared memory, would save the launches
// and the reading of the weights: not written yet.)
#include <cmath>
#include <stdexcept>

#include "cuda/divisor.h"
#include "cuda/gemm.h"
#include "ops/recurrent/recurrent_cuda.h"

namespace marey::cuda {
namespace {

constexpr int kUnits = 16;  // of a block
constexpr int kMostGates = kGemmColumns / kUnits;

MAREY_DEVICE float exp_of(float x) { return expf(x); }
MAREY_DEVICE double exp_of(double x) { return exp(x); }
MAREY_DEVICE float tanh_of(float x) { return tanhf(x); }
MAREY_DEVICE double tanh_of(double x) { return tanh(x); }
template <class T>
MAREY_DEVICE T sigmoid_of(T x) {
  return T{1} / (T{1} + exp_of(-x));
}

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
};

template <class S, class T>
MAREY_KERNEL(kGemmThreads)
project_kernel(MAREY_GRID_CONSTANT ProjectArguments a) {
  auto& shared = *shared_memory<GemmShared<T>>();
  const int thread = static_cast<int>(threadIdx.x);
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

struct StepArguments {
  Cell cell;
  const char* weight;
  const char* bias;
  int64_t weight_row, weight_item, bias_item;
  const char* gates;
  const char* h;
  char* h_next;
  char* c;
  char* y;
  int64_t y_time, y_row, y_item;
  const int64_t* lengths;
  bool reverse;
  int64_t steps, step;
  int64_t rows, hidden;
  int gate_count;
  Divisor unit_blocks;
};

template <class T>
struct StepShared {
  GemmShared<T> product;
  T sums[kGemmRows][kGemmColumns + 1];
};

// What becomes of one row and unit. `from_x` and `from_h` are the parts of the gates.
template <class T>
MAREY_DEVICE T cell_of(Cell cell, const T (&from_x)[kMostGates], const T (&from_h)[kMostGates], T h,
                       T* c) {
  switch (cell) {
    case Cell::lstm: {
      const T i = sigmoid_of(from_x[0] + from_h[0]);
      const T f = sigmoid_of(from_x[1] + from_h[1]);
      const T g = tanh_of(from_x[2] + from_h[2]);
      const T o = sigmoid_of(from_x[3] + from_h[3]);
      *c = f * *c + i * g;
      return o * tanh_of(*c);
    }
    case Cell::gru:
    case Cell::gru_before: {
      const T r = sigmoid_of(from_x[0] + from_h[0]);
      const T z = sigmoid_of(from_x[1] + from_h[1]);
      const T n = tanh_of(from_x[2] + r * from_h[2]);
      return n + z * (h - n);
    }
    case Cell::rnn_tanh:
      return tanh_of(from_x[0] + from_h[0]);
    case Cell::rnn_relu: {
      const T v = from_x[0] + from_h[0];
      return v > T{0} ? v : (v == v ? T{0} : v);
    }
  }
  return T{0};
}

template <class S, class T>
MAREY_KERNEL(kGemmThreads)
recurrent_step_kernel(MAREY_GRID_CONSTANT StepArguments a) {
  auto& shared = *shared_memory<StepShared<T>>();
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
    const int64_t at = r * a.hidden + u;
    const int64_t length = a.lengths == nullptr ? a.steps : a.lengths[r];
    const S before = reinterpret_cast<const S*>(a.h)[at];
    // Steps beyond a sequence's end are those of its padding, in either direction.
    const bool active = a.step < length;
    const int64_t time = active && a.reverse ? length - 1 - a.step : a.step;
    S* y = reinterpret_cast<S*>(a.y + time * a.y_time + r * a.y_row + u * a.y_item);
    S* next = reinterpret_cast<S*>(a.h_next) + at;
    if (!active) {
      *next = before;
      *y = from<S>(T{0});
      continue;
    }
    const T* gates =
        reinterpret_cast<const T*>(a.gates) + (time * a.rows + r) * a.gate_count * a.hidden + u;
    T from_x[kMostGates], from_h[kMostGates];
#pragma unroll
    for (int g = 0; g < kMostGates; ++g) {
      from_x[g] = from_h[g] = T{0};
      if (g >= a.gate_count) continue;
      from_x[g] = gates[g * a.hidden];
      from_h[g] = shared.sums[local_row][g * kUnits + local_unit];
      if (a.bias != nullptr) {
        from_h[g] += to<T>(*reinterpret_cast<const S*>(a.bias + (g * a.hidden + u) * a.bias_item));
      }
    }
    T c = a.c == nullptr ? T{0} : reinterpret_cast<T*>(a.c)[at];
    const S state = from<S>(cell_of<T>(a.cell, from_x, from_h, to<T>(before), &c));
    if (a.c != nullptr) reinterpret_cast<T*>(a.c)[at] = c;
    *next = state;
    *y = state;
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
  launch(queue,
         {blocks_for(p.rows, kGemmRows) * p.column_blocks.value(), kGemmThreads,
          sizeof(GemmShared<T>)},
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
  a.unit_blocks = Divisor(blocks_for(hidden, kUnits));
  const Grid grid{blocks_for(rows, kGemmRows) * a.unit_blocks.value(), kGemmThreads,
                  sizeof(StepShared<T>)};
  for (int64_t step = 0; step < steps; ++step) {
    a.step = step;
    a.h = static_cast<const char*>(s.state[step % 2]);
    a.h_next = static_cast<char*>(s.state[(step + 1) % 2]);
    launch(queue, grid, &recurrent_step_kernel<S, T>, a);
  }
}

}  // namespace

int64_t recurrent_workspace(const RecurrentWeights& weights, int64_t steps, int64_t rows) {
  const int64_t item = weights.ih.dtype == DType::f64 ? 8 : 4;
  return steps * rows * weight_gates(weights.cell) * weights.hh.shape[1] * item;
}

void run_recurrent(const Queue& queue, const RecurrentWeights& weights,
                   const RecurrentSequence& sequence) {
  if (sequence.y.shape.count() == 0) return;
  if (weights.ih.dtype == DType::f64) return run<double, double>(queue, weights, sequence);
  if (weights.ih.dtype == DType::bf16) return run<bfloat16, float>(queue, weights, sequence);
  run<float, float>(queue, weights, sequence);
}

}  // namespace marey::cuda
