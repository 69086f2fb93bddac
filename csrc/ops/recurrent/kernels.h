#pragma once
// The kernels of recurrent networks, and the layouts that they share.
//
// Hidden units are taken in blocks of two vectors: `lanes` units. The weights of a gate for the
// units of a block are a panel (core/tile.h) of the whole depth; the panels of a block's gates lie
// side by side, so that all that makes one unit's next state is read as one stream by one thread:
//
//   weights  [block][gate][depth][lanes]    depth in items of the product: bfloat16 in pairs
//   bias     [block][gate][lanes]
//   gates    [block][gate][row][lanes]      what the cell is applied to; `gate_stride` from gate to
//                                           gate, `gates * gate_stride` from block to block
//
// States are rows of whole blocks, `pitch` apart. Units beyond the last one compute something
// finite from zeros, and are never read.
//
// The gates of a GRU: r, z, the part of n that comes from the input, and the part of n that comes
// from the state, which r multiplies. The weights have three: r, z, n.
#include "core/dispatch.h"
#include "core/view.h"

namespace marey {

// `linear` hands its sums on: the projection of an LSTM is a step of it.
enum class Cell : int { lstm, gru, gru_before, rnn_tanh, rnn_relu, linear };

constexpr int weight_gates(Cell cell) {
  return cell == Cell::lstm ? 4 : cell == Cell::gru || cell == Cell::gru_before ? 3 : 1;
}
constexpr int panel_gates(Cell cell) { return cell == Cell::gru ? 4 : weight_gates(cell); }
// Which of these the product of the state with the weights of a gate is a part of.
constexpr int state_gate(Cell cell, int gate) { return cell == Cell::gru && gate == 2 ? 3 : gate; }

// What a recurrent kernel keeps of a row and unit for the way back: an LSTM i, f, g, o and c; a GRU
// r, z, n and what r multiplies (before: r times the state, which follows from them); an RNN
// nothing, since its derivative follows from its result. [row][kept][units of whole blocks].
constexpr int kept_gates(Cell cell) {
  return cell == Cell::lstm ? 5 : cell == Cell::gru ? 4 : cell == Cell::gru_before ? 3 : 0;
}

// More that an LSTM keeps: with a projection o tanh(c), which goes into it; behind that with layer
// norm the normalised products of the input (4) and of the state (4), the normalised c, and the
// three factors that normalised them.
struct LstmKept {
  bool projected, normed;
  static constexpr int output = 5;
  int from_x() const { return projected ? 6 : 5; }
  int from_h() const { return from_x() + 4; }
  int cell() const { return from_h() + 4; }
  int factors() const { return cell() + 1; }
  int count() const { return normed ? factors() + 1 : from_x(); }
};

// Weights of `gates` gates, (gates * hidden, depth), with strides in items. Storage: the dtype's.
struct PackArgs {
  const void* weight;
  int64_t row_stride, item_stride;
  int gates;
  int64_t hidden, depth;
  int64_t block_begin, block_end;
  void* to;  // of block 0
};

// to = bias + rows of a times weights, or += without a bias; `to` as gates, above.
struct ProjectArgs {
  int64_t rows;
  const void* a;  // storage, item stride 1; bfloat16 padded to an even depth with zeros
  int64_t a_pitch;
  const void* weights;
  int64_t depth;  // in numbers
  const void* bias;
  void* to;
  int64_t gate_stride;
  int weight_gates, gates;  // in weights; in bias and `to`
  int64_t block_begin, block_end;
};

// One step of some rows and blocks: the product with the state, and the cell.
struct StepArgs {
  Cell cell;
  int64_t row_begin, row_end;
  int64_t block_begin, block_end;
  bool descending;  // takes the blocks from the last to the first
  const void* h;    // rows of states, storage
  int64_t h_pitch;
  void* h_next;  // of an LSTM with a projection: what goes into it
  int64_t next_pitch;
  void* c;  // LSTM: rows of cell states, replaced
  int64_t c_pitch;
  const void* weights;  // null: the gates have it already
  int64_t depth;
  void* gates;  // this step's row 0
  int64_t gate_stride;
  void* const* y;      // where each row's results go, storage; null, or null for a row: nowhere
  void* const* kept;   // where each row's `kept_gates` go; null: nowhere
  int64_t kept_pitch;  // from one kept gate to the next
  bool keep_output;    // LSTM: LstmKept::output too
  int64_t hidden;
  const void* peephole;  // LSTM: [i, f, o][units of whole blocks], or null
  // gru_before: phase 0 computes r, z and reset = r * h; phase 1 the rest, from `reset`.
  int phase;
  void* reset;  // as h
};

struct RecurrentKernels {
  int64_t lanes;      // units in a block
  int64_t item_size;  // of a packed weight: 4 for a pair of bfloat16
  void (*pack)(const PackArgs&);
  void (*project)(const ProjectArgs&);
  void (*step)(const StepArgs&);
  // Of bfloat16 where there are no dot products of it, else null: many rows go through panels of
  // float32, since pairs would be widened for every tile of rows. `widen` makes such a panel of one
  // of pairs, of so many numbers deep; in `step_widened` states are rows of float32 that bfloat16
  // has. Results are those of pairs, bit by bit.
  void (*widen)(const void* panel, int64_t depth, void* to) = nullptr;
  void (*step_widened)(const StepArgs&) = nullptr;
};

// For float32, float64 or bfloat16.
using SelectRecurrent = const RecurrentKernels*(DType dtype);
MAREY_DECLARE_KERNEL(select_recurrent, SelectRecurrent)

}  // namespace marey
