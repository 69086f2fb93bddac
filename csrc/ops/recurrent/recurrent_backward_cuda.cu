// Back-propagation through time. All steps, from the last one, are one launch
// (recurrent_back_sequence_cuda.cu), or where the weights are too many, or the rows, one each: a
// block takes 64 rows of the batch and 64 units, adds up what the gates of the next step hand back
// (their gradients times the weights of the state), what the cell hands back directly, and what
// came from outside, and goes through the cell. The order of launches is the only barrier. The
// gradients of the gates of all steps stay; those of the inputs and of the weights are one product
// each, at the end.
//
// Gates are rows of gates * H, steps in the order in which they were taken. A GRU's n has another
// gradient towards the state than towards the input (r stands between): it lies beside the rows.
// Beyond a sequence's end gradients of gates are zeros, and states are handed on. With bfloat16
// they are rounded to it, and all products are on tensor cores.
#include "cuda/divisor.h"
#include "cuda/gemm.h"
#include "cuda/partial_sums.h"
#include "ops/recurrent/cell_backward_cuda.h"
#include "ops/recurrent/recurrent_cuda.h"

namespace marey::cuda {
namespace {

template <class S, class T>
MAREY_KERNEL(kGemmThreads)
recurrent_back_kernel(MAREY_GRID_CONSTANT BackArguments a) {
  auto& shared = *shared_memory<GemmShared<S, T>>();
  const int thread = static_cast<int>(threadIdx.x);
  const int64_t hidden = a.gates.hidden;
  const int64_t block_row = a.unit_blocks.quotient(blockIdx.x);
  const int64_t first_row = block_row * kGemmRows;
  const int64_t first_unit = (blockIdx.x - block_row * a.unit_blocks.value()) * kGemmColumns;
  const int64_t load_row = first_row + gemm_load_row(thread);
  const int64_t load_unit = first_unit + gemm_load_row(thread);
  const int64_t next = (a.step + 1) * a.rows + load_row;
  const bool last = a.step + 1 == a.times.steps;
  GemmSums<T> sums;
  sums.clear();
  block_product<T>(
      shared, last ? 0 : static_cast<int>(a.gates.columns),
      [&](int, int k) { return load_row < a.rows ? a.gates.item<S, T>(true, next, k) : T{0}; },
      [&](int k, int) {
        return load_unit < hidden ? item_of<S, T>(a.weight, 0, k, load_unit) : T{0};
      },
      sums);
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const int64_t row = first_row + gemm_row(thread) + i;
    if (row >= a.rows) continue;
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      const int64_t unit = first_unit + gemm_column(thread) + j;
      if (unit < hidden) finish_back<S, T>(a, a.step, row, unit, sums.v[i][j]);
    }
  }
}

struct BeginArguments {
  Operand grad_hn, grad_cn;
  char* carry;
  char* dc;  // null: none
  int64_t count, hidden;
  unsigned* counter;  // set to zero, for the launch that follows
};

template <class S, class T>
MAREY_KERNEL(kPartialThreads)
recurrent_back_begin_kernel(MAREY_GRID_CONSTANT BeginArguments a) {
  const int64_t at = int64_t{blockIdx.x} * kPartialThreads + threadIdx.x;
  if (at == 0) *a.counter = 0;
  if (at >= a.count) return;
  const int64_t row = at / a.hidden;
  const int64_t unit = at - row * a.hidden;
  reinterpret_cast<T*>(a.carry)[at] = item_of<S, T>(a.grad_hn, 0, row, unit);
  if (a.dc != nullptr) reinterpret_cast<T*>(a.dc)[at] = item_of<T, T>(a.grad_cn, 0, row, unit);
}

struct InputArguments {
  Gates gates;
  Times times;
  Operand weight;  // (gates * H, I)
  char* grad_x;    // (T * N, I)
  int64_t rows, inputs;
  Divisor batch, column_blocks;
};

// The gradient of x: a row for each time and sequence.
template <class S, class T>
MAREY_KERNEL(kGemmThreads)
recurrent_input_kernel(MAREY_GRID_CONSTANT InputArguments a) {
  auto& shared = *shared_memory<GemmShared<S, T>>();
  const int thread = static_cast<int>(threadIdx.x);
  const int64_t block_row = a.column_blocks.quotient(blockIdx.x);
  const int64_t first_row = block_row * kGemmRows;
  const int64_t first_column = (blockIdx.x - block_row * a.column_blocks.value()) * kGemmColumns;
  const int64_t row = first_row + gemm_load_row(thread);
  const int64_t column = first_column + gemm_load_row(thread);
  const bool row_inside = row < a.rows;
  const int64_t time = a.batch.quotient(row_inside ? row : 0);
  const int64_t sequence = (row_inside ? row : 0) - time * a.batch.value();
  const int64_t length = a.times.length(sequence);
  // Beyond the end the gates of the step of the same number are zeros.
  const int64_t step = time < length ? a.times.time(length, time) : time;
  const int64_t place = step * a.batch.value() + sequence;
  GemmSums<T> sums;
  sums.clear();
  block_product<T>(
      shared, static_cast<int>(a.gates.columns),
      [&](int, int k) { return row_inside ? a.gates.item<S, T>(false, place, k) : T{0}; },
      [&](int k, int) { return column < a.inputs ? item_of<S, T>(a.weight, 0, k, column) : T{0}; },
      sums);
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const int64_t r = first_row + gemm_row(thread) + i;
    if (r >= a.rows) continue;
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      const int64_t c = first_column + gemm_column(thread) + j;
      if (c < a.inputs) reinterpret_cast<S*>(a.grad_x)[r * a.inputs + c] = from<S>(sums.v[i][j]);
    }
  }
}

struct WeightArguments {
  Gates gates;
  Times times;
  bool state;      // of weight_hh: the states before each step; else of weight_ih
  Operand source;  // y or x
  Operand first;   // what stands before y: h0
  char* sums;
  Divisor batch, parts, column_blocks;
  int64_t depth, part_depth, columns;
};

template <class S, class T>
MAREY_KERNEL(kGemmThreads)
recurrent_weights_kernel(MAREY_GRID_CONSTANT WeightArguments a) {
  auto& shared = *shared_memory<GemmShared<S, T>>();
  const int thread = static_cast<int>(threadIdx.x);
  const int64_t tile = a.parts.quotient(blockIdx.x);
  const int64_t part = blockIdx.x - tile * a.parts.value();
  const int64_t block_row = a.column_blocks.quotient(tile);
  const int64_t first_row = block_row * kGemmRows;
  const int64_t first_column = (tile - block_row * a.column_blocks.value()) * kGemmColumns;
  const int64_t row = first_row + gemm_load_row(thread);
  const int64_t column = first_column + gemm_load_row(thread);
  const auto load_a = [&](int64_t place) {
    return row < a.gates.columns ? a.gates.item<S, T>(a.state, place, row) : T{0};
  };
  const auto load_b = [&](int64_t place) {
    if (column >= a.columns) return column == a.columns ? T{1} : T{0};
    int64_t step = a.batch.quotient(place);
    const int64_t sequence = place - step * a.batch.value();
    const int64_t length = a.times.length(sequence);
    if (step >= length) return T{0};
    if (a.state && step == 0) return item_of<S, T>(a.first, 0, sequence, column);
    if (a.state) --step;
    return item_of<S, T>(a.source, a.times.time(length, step), sequence, column);
  };
  const int64_t begin = part * a.part_depth;
  const int64_t end = begin + a.part_depth < a.depth ? begin + a.part_depth : a.depth;
  GemmSums<T> sums;
  partial_product<T>(shared, begin, end, load_a, load_b, sums);
  T* to_part = reinterpret_cast<T*>(a.sums) + part * a.gates.columns * (a.columns + 1);
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const int64_t r = first_row + gemm_row(thread) + i;
    if (r >= a.gates.columns) continue;
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      const int64_t c = first_column + gemm_column(thread) + j;
      if (c <= a.columns) to_part[r * (a.columns + 1) + c] = sums.v[i][j];
    }
  }
}

int64_t real_item(DType dtype) { return dtype == DType::f64 ? 8 : 4; }

// Parts of the workspace begin at 16 bytes.
int64_t whole_packs(int64_t bytes) { return (bytes + 15) / 16 * 16; }

PartialPlan plan_of(const RecurrentWeights& w, const View& weight, int64_t depth) {
  return partial_plan(weight.shape[0], weight.shape[0], weight.shape[1], depth,
                      real_item(w.ih.dtype));
}

template <class S, class T>
void weight_gradient(const Queue& queue, const RecurrentWeights& w, const View& weight,
                     WeightArguments a, void* grad, void* bias) {
  const PartialPlan plan = plan_of(w, weight, a.depth);
  a.parts = Divisor(plan.parts);
  a.part_depth = plan.part_depth;
  a.columns = plan.columns;
  a.column_blocks = Divisor(blocks_for(plan.columns + 1, kGemmColumns));
  const Grid grid{blocks_for(plan.rows, kGemmRows) * a.column_blocks.value() * plan.parts,
                  kGemmThreads, sizeof(GemmShared<S, T>)};
  launch(queue, grid, &recurrent_weights_kernel<S, T>, a);
  // Of the type of the computation, whatever that of the weights.
  add_parts<T, T>(queue, plan, a.sums, grad, bias);
}

template <class S, class T>
void run(const Queue& queue, const RecurrentWeights& w, const RecurrentGradients& g) {
  const int64_t steps = g.x.shape[0];
  const int64_t rows = g.x.shape[1];
  const int64_t inputs = g.x.shape[2];
  const int64_t hidden = w.hh.shape[1];
  const int64_t columns = w.hh.shape[0];
  const bool is_gru = w.cell == Cell::gru;

  char* memory = static_cast<char*>(g.workspace);
  const auto take = [&](int64_t bytes) {
    char* from = memory;
    memory += whole_packs(bytes);
    return from;
  };
  constexpr int64_t kStored = sizeof(S);
  Gates gates{take(steps * rows * columns * kStored), nullptr, columns, hidden};
  if (is_gru) gates.extra = take(steps * rows * hidden * kStored);
  char* carry = take(rows * hidden * int64_t{sizeof(T)});
  auto* counter = reinterpret_cast<unsigned*>(take(sizeof(unsigned)));
  char* sums = take(0);
  const Times times{g.lengths, g.reverse, steps};

  const BeginArguments begin{operand(g.grad_hn),
                             operand(g.grad_cn),
                             carry,
                             static_cast<char*>(g.grad_c0),
                             rows * hidden,
                             hidden,
                             counter};
  launch(queue, {blocks_for(begin.count, kPartialThreads), kPartialThreads, 0},
         &recurrent_back_begin_kernel<S, T>, begin);

  BackArguments a{};
  a.cell = w.cell;
  a.gates = gates;
  a.times = times;
  a.weight = operand(&w.hh);
  a.y = operand(&g.y);
  a.h0 = operand(g.h0);
  a.c0 = operand(g.c0);
  a.grad_y = operand(g.grad_y);
  a.kept = static_cast<const char*>(g.kept);
  a.carry = carry;
  a.dc = static_cast<char*>(g.grad_c0);
  a.grad_h0 = static_cast<char*>(g.grad_h0);
  a.rows = rows;
  a.unit_blocks = Divisor(blocks_for(hidden, kGemmColumns));
  if (!run_whole_sequence_back(queue, a, w.ih.dtype, counter)) {
    const Grid grid{blocks_for(rows, kGemmRows) * a.unit_blocks.value(), kGemmThreads,
                    sizeof(GemmShared<S, T>)};
    for (a.step = steps - 1; a.step >= -1; --a.step) {
      launch(queue, grid, &recurrent_back_kernel<S, T>, a);
    }
  }

  InputArguments input{gates,
                       times,
                       operand(&w.ih),
                       static_cast<char*>(g.grad_x),
                       steps * rows,
                       inputs,
                       Divisor(rows > 0 ? rows : 1),
                       Divisor(inputs > 0 ? blocks_for(inputs, kGemmColumns) : 1)};
  if (inputs > 0) {
    launch(queue,
           {blocks_for(input.rows, kGemmRows) * input.column_blocks.value(), kGemmThreads,
            sizeof(GemmShared<S, T>)},
           &recurrent_input_kernel<S, T>, input);
  }

  WeightArguments weight{};
  weight.gates = gates;
  weight.times = times;
  weight.sums = sums;
  weight.batch = input.batch;
  weight.depth = steps * rows;
  weight.source = operand(&g.x);
  weight_gradient<S, T>(queue, w, w.ih, weight, g.grad_ih, g.grad_bias_ih);
  weight.state = true;
  weight.source = operand(&g.y);
  weight.first = operand(g.h0);
  weight_gradient<S, T>(queue, w, w.hh, weight, g.grad_hh, g.grad_bias_hh);
}

}  // namespace

int64_t recurrent_backward_workspace(const RecurrentWeights& weights, int64_t steps, int64_t rows) {
  const int64_t hidden = weights.hh.shape[1];
  const int64_t depth = steps * rows;
  const int64_t real = real_item(weights.ih.dtype);
  const int64_t stored = weights.ih.dtype == DType::bf16 ? 2 : real;
  const int64_t extra = weights.cell == Cell::gru ? whole_packs(depth * hidden * stored) : 0;
  const int64_t ih = plan_of(weights, weights.ih, depth).items();
  const int64_t hh = plan_of(weights, weights.hh, depth).items();
  return whole_packs(depth * weights.hh.shape[0] * stored) + extra +
         whole_packs(rows * hidden * real) + 16 + (ih > hh ? ih : hh) * real;
}

void run_recurrent_backward(const Queue& queue, const RecurrentWeights& weights,
                            const RecurrentGradients& gradients) {
  if (weights.hh.shape.count() == 0) return;
  if (weights.ih.dtype == DType::f64) return run<double, double>(queue, weights, gradients);
  if (weights.ih.dtype == DType::bf16) return run<bfloat16, float>(queue, weights, gradients);
  run<float, float>(queue, weights, gradients);
}

}  // namespace marey::cuda
