#pragma once
// One step of one row and unit of a recurrent network, on a device.
#include "cuda/bfloat16.h"
#include "cuda/divisor.h"
#include "cuda/math.h"
#include "ops/recurrent/kernels.h"

namespace marey::cuda {

inline constexpr int kMostGates = 4;
inline constexpr int kMostKept = 5;

// What is the same in all steps, and for launches of one step what is not.
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
  char* kept;  // of all steps, or of a launch's one; null: nowhere
  const int64_t* lengths;
  bool reverse;
  int64_t steps, step;
  int64_t rows, hidden;
  int gate_count;
  Divisor unit_blocks;
};

// What becomes of one row and unit. `from_x` and `from_h` are the parts of the gates; `kept` what
// the way back needs (kept_gates).
template <class T>
MAREY_DEVICE T cell_of(Cell cell, const T (&from_x)[kMostGates], const T (&from_h)[kMostGates], T h,
                       T* c, T (&kept)[kMostKept]) {
  switch (cell) {
    case Cell::lstm: {
      const T i = sigmoid_of(from_x[0] + from_h[0]);
      const T f = sigmoid_of(from_x[1] + from_h[1]);
      const T g = tanh_of(from_x[2] + from_h[2]);
      const T o = sigmoid_of(from_x[3] + from_h[3]);
      *c = f * *c + i * g;
      kept[0] = i;
      kept[1] = f;
      kept[2] = g;
      kept[3] = o;
      kept[4] = *c;
      return o * tanh_of(*c);
    }
    case Cell::gru:
    case Cell::gru_before: {
      const T r = sigmoid_of(from_x[0] + from_h[0]);
      const T z = sigmoid_of(from_x[1] + from_h[1]);
      const T n = tanh_of(from_x[2] + r * from_h[2]);
      kept[0] = r;
      kept[1] = z;
      kept[2] = n;
      kept[3] = from_h[2];
      return n + z * (h - n);
    }
    case Cell::rnn_tanh:
      return tanh_of(from_x[0] + from_h[0]);
    case Cell::rnn_relu: {
      const T v = from_x[0] + from_h[0];
      return v > T{0} ? v : (v == v ? T{0} : v);
    }
    case Cell::linear:  // of the CPU's projections
      break;
  }
  return T{0};
}

// Reads the state from `h`, and writes h, y and what is kept; sum(gate) is the product with the
// state.
template <class S, class T, class Sum>
MAREY_DEVICE void finish_cell(const StepArguments& a, int64_t step, const char* h, char* h_next,
                              char* kept_step, int64_t r, int64_t u, const Sum& sum) {
  const int64_t at = r * a.hidden + u;
  const int64_t length = a.lengths == nullptr ? a.steps : a.lengths[r];
  const S before = reinterpret_cast<const S*>(h)[at];
  // Steps beyond a sequence's end are those of its padding, in either direction.
  const bool active = step < length;
  const int64_t time = active && a.reverse ? length - 1 - step : step;
  S* y = reinterpret_cast<S*>(a.y + time * a.y_time + r * a.y_row + u * a.y_item);
  S* next = reinterpret_cast<S*>(h_next) + at;
  if (!active) {
    *next = before;
    *y = from<S>(T{0});
    return;
  }
  const T* gates =
      reinterpret_cast<const T*>(a.gates) + (time * a.rows + r) * a.gate_count * a.hidden + u;
  T from_x[kMostGates], from_h[kMostGates];
#pragma unroll
  for (int g = 0; g < kMostGates; ++g) {
    from_x[g] = from_h[g] = T{0};
    if (g >= a.gate_count) continue;
    from_x[g] = gates[g * a.hidden];
    from_h[g] = sum(g);
    if (a.bias != nullptr) {
      from_h[g] += to<T>(*reinterpret_cast<const S*>(a.bias + (g * a.hidden + u) * a.bias_item));
    }
  }
  T c = a.c == nullptr ? T{0} : reinterpret_cast<T*>(a.c)[at];
  T kept[kMostKept];
  const S state = from<S>(cell_of<T>(a.cell, from_x, from_h, to<T>(before), &c, kept));
  if (a.c != nullptr) reinterpret_cast<T*>(a.c)[at] = c;
  if (kept_step != nullptr) {
    const int count = kept_gates(a.cell);
    T* to_kept = reinterpret_cast<T*>(kept_step) + r * count * a.hidden + u;
#pragma unroll
    for (int g = 0; g < kMostKept; ++g) {
      if (g < count) to_kept[g * a.hidden] = kept[g];
    }
  }
  *next = state;
  *y = state;
}

// recurrent_sequence_cuda.cu: all steps in one launch, where the weights fit into the shared memory
// of a grid that runs at once; false, and nothing done, if they do not, or if the launch finds that
// the grid does not. `counter` is a zero on the device. The last step's state is in
// state[steps % 2].
bool run_whole_sequence(const Queue& queue, const StepArguments& a, DType dtype,
                        void* const (&state)[2], void* counter);

}  // namespace marey::cuda
