#pragma once
// One step of a recurrent network from weights as they are: nothing is packed, so that one call
// costs little more than reading the weights once.
//
// Sums over the depth are taken lane by lane: their order is another than that of sequences.
#include "core/dispatch.h"
#include "core/view.h"
#include "ops/recurrent/weights.h"

namespace marey {

// All of one storage type, states c of the type of the computation. Rows of whole arrays are
// contiguous (item stride 1) but for x and h, which are copied first; h_next may be h, c_next c.
struct CellStep {
  Cell cell = Cell::lstm;
  WeightViews weights;      // ih and hh with a contiguous last axis, biases and peephole contiguous
  View x;                   // (N, I)
  View h;                   // (N, H)
  const View* c = nullptr;  // LSTM: (N, H), contiguous last axis
  View h_next;
  const View* c_next = nullptr;
};

struct CellStepArgs {
  Cell cell;
  const void *ih, *hh, *bias_ih, *bias_hh, *peephole;
  int64_t ih_stride, hh_stride;  // items from a row to the next
  int64_t input, hidden, batch;
  const void *x, *h;  // packed: N rows of `input` and of `hidden`
  const void* c;
  int64_t c_stride;
  void* h_next;
  int64_t h_next_stride;
  void* c_next;
  int64_t c_next_stride;
  int64_t unit_begin, unit_end;
  // gru_before: phase 0 computes r, z and reset = r * h, phase 1 the rest. Rows of `hidden`.
  int phase;
  void *reset, *update;  // storage; type of the computation
  void* gates;           // scratch of this thread: 4 * N vectors
};

using CellStepKernel = void (*)(const CellStepArgs&);
using SelectCellStep = CellStepKernel(DType dtype);
MAREY_DECLARE_KERNEL(select_cell_step, SelectCellStep)

// Units whose work a thread takes are a multiple of this: lanes of the widest vector.
inline constexpr int64_t kStepUnits = 16;

// Shapes and types are checked, also those of the weights.
void run_cell_step(std::string_view function, const CellStep& step);

}  // namespace marey
