#pragma once
// An LSTM with layer norm: what happens between the products, a whole row at a time, because the
// statistics run over all of its units.
//
// Gains and biases `norms`: [4 of the product with x, 4 of that with h, gain of c, bias of c][units
// of whole blocks].
#include "ops/recurrent/backward_kernels.h"
#include "ops/recurrent/kernels.h"

namespace marey {

// What torch.nn.LayerNorm adds to the variance.
inline constexpr double kNormEpsilon = 1e-5;

// Numbers of a row of gradients, gate_width(H) each: those of the product with x (i, f, g, o), of
// that with h, of the gates before their non-linearities, and of the normalised c.
struct NormedGates {
  static constexpr int from_x = 0, from_h = 4, gates = 8, cell = 12, count = 13;
};

struct NormStepArgs {
  StepArgs step;       // without weights; its gates are the product with x alone
  int64_t blocks;      // all
  const void* from_h;  // the product with h: [block][gate][row][lanes], stride as gate_stride
  int64_t from_h_stride;
  const void* bias;  // [block][gate][lanes]
  const void* norms;
  LstmKept kept;
};

struct NormBackArgs {
  CellBackArgs cell;  // its blocks: all
  int64_t row_begin, row_end;
  const void* norms;
  LstmKept kept;
};

// sums[column] += the column's sum of gates times what each row's `others` has there.
struct NormSumArgs {
  const void* gates;
  int64_t gates_pitch, rows;
  const void* const* others;
  int64_t others_offset;
  int64_t column_begin, column_end;
  void* sums;
};

struct NormKernels {
  void (*step)(const NormStepArgs&);
  void (*back)(const NormBackArgs&);
  void (*sums)(const NormSumArgs&);
};

// For the storage float32, float64 or bfloat16.
using SelectNorm = const NormKernels*(DType dtype);
MAREY_DECLARE_KERNEL(select_recurrent_norm, SelectNorm)

}  // namespace marey
