#pragma once
// Back-propagation through time, for one layer and direction.
//
// With the gradients g of the gates before their non-linearities, step by step from the last one:
//   dL/dh_{t-1} = U^T g_t + what the cell hands on directly,  dL/dx_t = W^T g_t
//   dL/dW = sum_t g_t x_t^T,  dL/dU = sum_t g_t h_{t-1}^T,  dL/db = sum_t g_t
// P. Werbos, "Backpropagation Through Time: What It Does and How to Do It", 1990. All products are
// in the type of the computation: float32 for bfloat16.
#include "ops/recurrent/sequence.h"

namespace marey {

struct BackwardArgs {
  Cell cell = Cell::lstm;
  WeightViews weights;
  View x;  // (T, N, I)
  View y;  // (T, N, P), the last axis contiguous; P is H without a projection
  const int64_t* lengths = nullptr;
  bool reverse = false;
  const View* h0 = nullptr;
  const View* c0 = nullptr;
  const View* grad_y = nullptr;     // (T, N, P), the last axis contiguous; null: zeros
  const View* grad_hn = nullptr;    // (N, P); null: zeros
  const View* grad_cn = nullptr;    // (N, H), the same
  const std::byte* kept = nullptr;  // of the way there

  // C-ordered. Those of x and h0 are storage, all others of the type of the computation.
  View grad_x;         // (T, N, I); zeros after a sequence's end
  View grad_ih;        // (gates * H, I)
  View grad_hh;        // (gates * H, P)
  View grad_bias_ih;   // (gates * H,)
  View grad_bias_hh;   // (gates * H,)
  View grad_h0;        // (N, P)
  View grad_c0;        // LSTM: (N, H)
  View grad_peephole;  // with peepholes: (3, H)
  View grad_hr;        // with a projection: (P, H)
  View grad_norm_ih;   // with layer norm: (4 * H,)
  View grad_norm_hh;   // the same
  View grad_norm_c;    // (2, H)
};

// Shapes and types are right: the caller has made a CellWeights of the same weights.
// Workspace: the gradients of the gates of about 256 rows, or of N, twice; and the weights and
// their gradients once more.
void run_backward(std::string_view function, const BackwardArgs& args);

}  // namespace marey
