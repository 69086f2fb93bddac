#pragma once
// The kernels of back-propagation through time.
//
// Gradients of the gates are rows of the type of the computation, one for each row of a chunk of
// steps, `pitch` apart; a gate has round_up(H, 4) items, zeros behind H. From left to right:
//   LSTM  i, f, g, o
//   GRU   n (towards the input), r, z, n (towards the state): the first three are those of
//         weight_ih, n first, and the last three those of weight_hh, in their own order
//         before: n, r, z
//   RNN   the only one; so a projection, whose are those of h
// Panels [block][row][lanes] are made of rows of any kind: inputs, states, weights.
#include "ops/recurrent/kernels.h"

namespace marey {

constexpr int64_t gate_width(int64_t hidden) { return (hidden + 3) / 4 * 4; }

// Rows of storage as panels of the type of the computation. A null row gives zeros.
struct GatherArgs {
  const void* const* rows;
  int64_t count, item_stride, depth;
  int64_t block_begin, block_end;
  void* to;  // [block][count][lanes]
};

// The reverse: panels to rows of storage, item stride 1. A null row is skipped.
struct ScatterArgs {
  const void* from;  // [block][count][lanes]
  void* const* rows;
  int64_t count, depth;
  int64_t block_begin, block_end;
};

// One step of some blocks: from the gradient of h to those of the gates.
struct CellBackArgs {
  Cell cell;
  int64_t rows;
  int64_t block_begin, block_end;
  const void* product;        // [block][product_rows][lanes]: what the next step's gates add to it
  int64_t product_rows;       // rows a block has room for
  const void* const* grad_y;  // a row's, storage; null for none
  void* carry;  // rows of what goes to the step before past the gates; in: of this one
  void* dc;     // LSTM: the same of c
  int64_t state_pitch;
  const void* const* kept;    // this step's
  const void* const* c_prev;  // LSTM: c before this step, of the type of the computation
  const void* const* h_prev;  // GRU: h before this step, storage
  const void* const* y;       // RNN: h after this step, storage
  int64_t kept_pitch;
  int64_t hidden;
  void* gates;  // this step's row 0
  int64_t gates_pitch;
  const void* peephole;  // LSTM: [i, f, o][units of whole blocks], or null
  void* grad_peephole;   // the same, added to
  int64_t units;         // of whole blocks
  // gru_before: phase 0 does n and z; then `product` is the gradient of r * h, and phase 1 does r
  // and writes r * h to panels.
  int phase;
  void* reset;  // this step's row 0 of [block][reset_rows][lanes]
  int64_t reset_rows;
};

// to += transposed gates times panels of `rows` rows: the gradient of a weight.
struct WeightGradArgs {
  const void* strips;  // of the gates that count (core/tile.h), packed with this depth of `rows`
  int64_t rows, columns;
  const void* panels;
  int64_t block_begin, block_end;
  void* to;  // [block][columns][lanes]
};

struct StripArgs {
  const void* gates;
  int64_t gates_pitch, rows;
  int64_t column_begin, column_end;  // multiples of 4
  void* strips;
};

// sums[column] += the column's sum.
struct SumArgs {
  const void* gates;
  int64_t gates_pitch, rows;
  int64_t column_begin, column_end;
  void* sums;
};

struct BackwardKernels {
  void (*gather)(const GatherArgs&);
  void (*scatter)(const ScatterArgs&);
  void (*cell)(const CellBackArgs&);
  void (*strips)(const StripArgs&);
  void (*weight)(const WeightGradArgs&);
  void (*sums)(const SumArgs&);
};

// For the storage float32, float64 or bfloat16.
using SelectBackward = const BackwardKernels*(DType dtype);
MAREY_DECLARE_KERNEL(select_recurrent_backward, SelectBackward)

}  // namespace marey
