// Back-propagation through time. Each step, from the last one, is one launch: a block takes 64 rows
// of the batch and 64 units, adds up what the gates of the next step hand back (their gradients
// times the weights of the state), what the cell hands back directly, and what came from outside,
// and goes through the cell. The order of launches is the only barrier. The gradients of the gates
// of all steps stay; those of the inputs and of the weights are one product each, at the end.
//
// Gates are rows of gates * H, steps in the order in which they were taken. A GRU's n has another
// gradient towards the state than towards the input (r stands between): it lies beside the rows.
// Beyond a sequence's end gradients of gates are zeros, and states are handed on.
#include "cuda/divisor.h"
#include "cuda/gemm.h"
#include "cuda/math.h"
#include "cuda/partial_sums.h"
#include "ops/recurrent/recurrent_cuda.h"

namespace marey::cuda {
namespace {

// (T, N, H) or (N, H), in bytes.
struct Operand {
  const char* data;
  int64_t time, row, item;
};

Operand operand(const View* view) {
  if (view == nullptr) return {};
  const int axis = view->ndim() - 2;
  return {view->as<const char>(), axis > 0 ? view->stride(0) : 0, view->stride(axis),
          view->stride(axis + 1)};
}

template <class S, class T>
MAREY_DEVICE T item_of(const Operand& x, int64_t time, int64_t row, int64_t item) {
  if (x.data == nullptr) return T{0};
  return to<T>(*reinterpret_cast<const S*>(x.data + time * x.time + row * x.row + item * x.item));
}

// The gradients of the gates.
struct Gates {
  char* rows;   // (T * N, columns)
  char* extra;  // GRU: (T * N, hidden), of n towards the state
  int64_t columns, hidden;

  // Towards the state, if `state`.
  template <class T>
  MAREY_DEVICE T item(bool state, int64_t row, int64_t column) const {
    if (state && extra != nullptr && column >= 2 * hidden) {
      return reinterpret_cast<const T*>(extra)[row * hidden + column - 2 * hidden];
    }
    return reinterpret_cast<const T*>(rows)[row * columns + column];
  }
};

// When the steps were taken.
struct Times {
  const int64_t* lengths;
  bool reverse;
  int64_t steps;
  MAREY_DEVICE int64_t length(int64_t row) const {
    return lengths == nullptr ? steps : lengths[row];
  }
  // Of a step within the length; it is its own inverse.
  MAREY_DEVICE int64_t time(int64_t length, int64_t step) const {
    return reverse ? length - 1 - step : step;
  }
};

struct BackArguments {
  Cell cell;
  Gates gates;
  Times times;
  Operand weight;  // (gates * H, H): `row` and `item`
  Operand y, h0, c0, grad_y;
  const char* kept;
  char* carry;    // (N, H): what goes to the step before past the gates
  char* dc;       // LSTM: (N, H)
  char* grad_h0;  // (N, H), written by the step -1
  int64_t step;   // steps - 1 to 0, and then -1
  int64_t rows;
  Divisor unit_blocks;
};

// From the gradient of h to those of the gates: those of this row, `hidden` apart. Returns what
// goes to the step before.
template <class S, class T>
MAREY_DEVICE T back(const BackArguments& a, int64_t row, int64_t unit, int64_t length, T dh) {
  const int64_t hidden = a.gates.hidden;
  const int count = kept_gates(a.cell);
  const int64_t place = a.step * a.rows + row;
  const T* kept = reinterpret_cast<const T*>(a.kept) + place * count * hidden + unit;
  T* gates = reinterpret_cast<T*>(a.gates.rows) + place * a.gates.columns + unit;
  const T one{1};
  switch (a.cell) {
    case Cell::lstm: {
      const T i = kept[0], f = kept[hidden], g = kept[2 * hidden], o = kept[3 * hidden];
      const T t = tanh_of(kept[4 * hidden]);
      const T before = a.step > 0 ? kept[4 * hidden - a.rows * count * hidden]
                                  : item_of<T, T>(a.c0, 0, row, unit);
      T* cell_gradient = reinterpret_cast<T*>(a.dc) + row * hidden + unit;
      const T dc = *cell_gradient + dh * o * (one - t * t);
      gates[0] = dc * g * i * (one - i);
      gates[hidden] = dc * before * f * (one - f);
      gates[2 * hidden] = dc * i * (one - g * g);
      gates[3 * hidden] = dh * t * o * (one - o);
      *cell_gradient = dc * f;
      return T{0};
    }
    case Cell::gru:
    case Cell::gru_before: {
      const T r = kept[0], z = kept[hidden], n = kept[2 * hidden];
      const T before = a.step > 0 ? item_of<S, T>(a.y, a.times.time(length, a.step - 1), row, unit)
                                  : item_of<S, T>(a.h0, 0, row, unit);
      const T dn = dh * (one - z) * (one - n * n);
      gates[0] = dn * kept[3 * hidden] * r * (one - r);
      gates[hidden] = dh * (before - n) * z * (one - z);
      gates[2 * hidden] = dn;
      reinterpret_cast<T*>(a.gates.extra)[place * hidden + unit] = dn * r;
      return dh * z;
    }
    case Cell::rnn_tanh:
    case Cell::rnn_relu: {
      const T y = item_of<S, T>(a.y, a.times.time(length, a.step), row, unit);
      gates[0] = a.cell == Cell::rnn_tanh ? dh * (one - y * y) : y <= T{0} ? T{0} : dh;
      return T{0};
    }
    case Cell::linear:
      break;
  }
  return T{0};
}

template <class S, class T>
MAREY_KERNEL(kGemmThreads)
recurrent_back_kernel(MAREY_GRID_CONSTANT BackArguments a) {
  auto& shared = *shared_memory<OrdinaryShared<T>>();
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
      [&](int, int k) { return load_row < a.rows ? a.gates.item<T>(true, next, k) : T{0}; },
      [&](int k, int) {
        return load_unit < hidden ? item_of<S, T>(a.weight, 0, k, load_unit) : T{0};
      },
      sums);
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const int64_t row = first_row + gemm_row(thread) + i;
    if (row >= a.rows) continue;
    const int64_t length = a.times.length(row);
    const bool active = a.step < length;
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      const int64_t unit = first_unit + gemm_column(thread) + j;
      if (unit >= hidden) continue;
      T* carry = reinterpret_cast<T*>(a.carry) + row * hidden + unit;
      T dh = sums.v[i][j] + *carry;
      if (a.step < 0) {
        reinterpret_cast<S*>(a.grad_h0)[row * hidden + unit] = from<S>(dh);
        continue;
      }
      if (active) {
        dh += item_of<S, T>(a.grad_y, a.times.time(length, a.step), row, unit);
        dh = back<S, T>(a, row, unit, length, dh);
      } else {
        const int64_t place = a.step * a.rows + row;
        for (int64_t at = unit; at < a.gates.columns; at += hidden) {
          reinterpret_cast<T*>(a.gates.rows)[place * a.gates.columns + at] = T{0};
        }
        if (a.gates.extra != nullptr) {
          reinterpret_cast<T*>(a.gates.extra)[place * hidden + unit] = T{0};
        }
      }
      *carry = dh;
    }
  }
}

struct BeginArguments {
  Operand grad_hn, grad_cn;
  char* carry;
  char* dc;  // null: none
  int64_t count, hidden;
};

template <class S, class T>
MAREY_KERNEL(kPartialThreads)
recurrent_back_begin_kernel(MAREY_GRID_CONSTANT BeginArguments a) {
  const int64_t at = int64_t{blockIdx.x} * kPartialThreads + threadIdx.x;
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
  auto& shared = *shared_memory<OrdinaryShared<T>>();
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
      [&](int, int k) { return row_inside ? a.gates.item<T>(false, place, k) : T{0}; },
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
  auto& shared = *shared_memory<OrdinaryShared<T>>();
  const int thread = static_cast<int>(threadIdx.x);
  const int64_t tile = a.parts.quotient(blockIdx.x);
  const int64_t part = blockIdx.x - tile * a.parts.value();
  const int64_t block_row = a.column_blocks.quotient(tile);
  const int64_t first_row = block_row * kGemmRows;
  const int64_t first_column = (tile - block_row * a.column_blocks.value()) * kGemmColumns;
  const int64_t row = first_row + gemm_load_row(thread);
  const int64_t column = first_column + gemm_load_row(thread);
  const auto load_a = [&](int64_t place) {
    return row < a.gates.columns ? a.gates.item<T>(a.state, place, row) : T{0};
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
                  kGemmThreads, sizeof(OrdinaryShared<T>)};
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

  T* memory = static_cast<T*>(g.workspace);
  const auto take = [&](int64_t items) {
    T* from = memory;
    memory += items;
    return reinterpret_cast<char*>(from);
  };
  Gates gates{take(steps * rows * columns), nullptr, columns, hidden};
  if (is_gru) gates.extra = take(steps * rows * hidden);
  char* carry = take(rows * hidden);
  char* sums = take(0);
  const Times times{g.lengths, g.reverse, steps};

  const BeginArguments begin{operand(g.grad_hn),
                             operand(g.grad_cn),
                             carry,
                             static_cast<char*>(g.grad_c0),
                             rows * hidden,
                             hidden};
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
  const Grid grid{blocks_for(rows, kGemmRows) * a.unit_blocks.value(), kGemmThreads,
                  sizeof(OrdinaryShared<T>)};
  for (a.step = steps - 1; a.step >= -1; --a.step) {
    launch(queue, grid, &recurrent_back_kernel<S, T>, a);
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
            sizeof(OrdinaryShared<T>)},
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
  const int64_t gates = weights.hh.shape[0] + (weights.cell == Cell::gru ? hidden : 0);
  const int64_t ih = plan_of(weights, weights.ih, depth).items();
  const int64_t hh = plan_of(weights, weights.hh, depth).items();
  return (depth * gates + rows * hidden + (ih > hh ? ih : hh)) * real_item(weights.ih.dtype);
}

void run_recurrent_backward(const Queue& queue, const RecurrentWeights& weights,
                            const RecurrentGradients& gradients) {
  if (weights.hh.shape.count() == 0) return;
  if (weights.ih.dtype == DType::f64) return run<double, double>(queue, weights, gradients);
  if (weights.ih.dtype == DType::bf16) return run<bfloat16, float>(queue, weights, gradients);
  run<float, float>(queue, weights, gradients);
}

}  // namespace marey::cuda
