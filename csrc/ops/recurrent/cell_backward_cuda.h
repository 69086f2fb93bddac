#pragma once
// One step of one row and unit back through a recurrent network, on a device.
#include "core/view.h"
#include "cuda/bfloat16.h"
#include "cuda/divisor.h"
#include "cuda/math.h"
#include "ops/recurrent/kernels.h"

namespace marey::cuda {

// (T, N, H) or (N, H), in bytes.
struct Operand {
  const char* data;
  int64_t time, row, item;
};

inline Operand operand(const View* view) {
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

// The gradients of the gates, of the type of the weights, so that products with these are those of
// the tensor cores where that is bfloat16.
struct Gates {
  char* rows;   // (T * N, columns)
  char* extra;  // GRU: (T * N, hidden), of n towards the state
  int64_t columns, hidden;

  // Towards the state, if `state`.
  template <class S, class T>
  MAREY_DEVICE T item(bool state, int64_t row, int64_t column) const {
    if (state && extra != nullptr && column >= 2 * hidden) {
      return to<T>(reinterpret_cast<const S*>(extra)[row * hidden + column - 2 * hidden]);
    }
    return to<T>(reinterpret_cast<const S*>(rows)[row * columns + column]);
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
  int64_t step;   // steps - 1 to 0, and then -1; of launches of one step
  int64_t rows;
  Divisor unit_blocks;
};

// From the gradient of h to those of the gates: those of this row, `hidden` apart. Returns what
// goes to the step before.
template <class S, class T>
MAREY_DEVICE T back(const BackArguments& a, int64_t step, int64_t row, int64_t unit, int64_t length,
                    T dh) {
  const int64_t hidden = a.gates.hidden;
  const int count = kept_gates(a.cell);
  const int64_t place = step * a.rows + row;
  const T* kept = reinterpret_cast<const T*>(a.kept) + place * count * hidden + unit;
  S* gates = reinterpret_cast<S*>(a.gates.rows) + place * a.gates.columns + unit;
  const T one{1};
  switch (a.cell) {
    case Cell::lstm: {
      const T i = kept[0], f = kept[hidden], g = kept[2 * hidden], o = kept[3 * hidden];
      const T t = tanh_of(kept[4 * hidden]);
      const T before =
          step > 0 ? kept[4 * hidden - a.rows * count * hidden] : item_of<T, T>(a.c0, 0, row, unit);
      T* cell_gradient = reinterpret_cast<T*>(a.dc) + row * hidden + unit;
      const T dc = *cell_gradient + dh * o * (one - t * t);
      gates[0] = from<S>(dc * g * i * (one - i));
      gates[hidden] = from<S>(dc * before * f * (one - f));
      gates[2 * hidden] = from<S>(dc * i * (one - g * g));
      gates[3 * hidden] = from<S>(dh * t * o * (one - o));
      *cell_gradient = dc * f;
      return T{0};
    }
    case Cell::gru:
    case Cell::gru_before: {
      const T r = kept[0], z = kept[hidden], n = kept[2 * hidden];
      const T before = step > 0 ? item_of<S, T>(a.y, a.times.time(length, step - 1), row, unit)
                                : item_of<S, T>(a.h0, 0, row, unit);
      const T dn = dh * (one - z) * (one - n * n);
      gates[0] = from<S>(dn * kept[3 * hidden] * r * (one - r));
      gates[hidden] = from<S>(dh * (before - n) * z * (one - z));
      gates[2 * hidden] = from<S>(dn);
      reinterpret_cast<S*>(a.gates.extra)[place * hidden + unit] = from<S>(dn * r);
      return dh * z;
    }
    case Cell::rnn_tanh:
    case Cell::rnn_relu: {
      const T y = item_of<S, T>(a.y, a.times.time(length, step), row, unit);
      gates[0] = from<S>(a.cell == Cell::rnn_tanh ? dh * (one - y * y) : y <= T{0} ? T{0} : dh);
      return T{0};
    }
    case Cell::linear:
      break;
  }
  return T{0};
}

// One row and unit of a step: `sum` is what the gates of the step behind it hand back.
template <class S, class T>
MAREY_DEVICE void finish_back(const BackArguments& a, int64_t step, int64_t row, int64_t unit,
                              T sum) {
  const int64_t hidden = a.gates.hidden;
  T* carry = reinterpret_cast<T*>(a.carry) + row * hidden + unit;
  T dh = sum + *carry;
  if (step < 0) {
    reinterpret_cast<S*>(a.grad_h0)[row * hidden + unit] = from<S>(dh);
    return;
  }
  const int64_t length = a.times.length(row);
  if (step < length) {
    dh += item_of<S, T>(a.grad_y, a.times.time(length, step), row, unit);
    dh = back<S, T>(a, step, row, unit, length, dh);
  } else {
    const int64_t place = step * a.rows + row;
    for (int64_t at = unit; at < a.gates.columns; at += hidden) {
      reinterpret_cast<S*>(a.gates.rows)[place * a.gates.columns + at] = S{};
    }
    if (a.gates.extra != nullptr) {
      reinterpret_cast<S*>(a.gates.extra)[place * hidden + unit] = S{};
    }
  }
  *carry = dh;
}

// recurrent_back_sequence_cuda.cu: all steps in one launch, where the weights fit into the shared
// memory of a grid that runs at once; false, and nothing done, if they do not, or if the launch
// finds that the grid does not. `counter` is a zero on the device.
bool run_whole_sequence_back(const Queue& queue, const BackArguments& a, DType dtype,
                             void* counter);

}  // namespace marey::cuda
