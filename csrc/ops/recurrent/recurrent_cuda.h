#pragma once
// A layer of a recurrent network on a CUDA device: sequence.h's, forward, without peepholes and
// without the GRU whose reset gate acts before the product. Views hold device pointers, and work is
// put on `queue` and not waited for.
#include "core/view.h"
#include "cuda/kernel.h"
#include "ops/recurrent/kernels.h"

namespace marey::cuda {

struct RecurrentWeights {
  Cell cell;
  View ih;                        // (gates * H, I), any strides, float32, float64 or bfloat16
  View hh;                        // (gates * H, H)
  const View* bias_ih = nullptr;  // (gates * H,), of the same type
  const View* bias_hh = nullptr;
};

struct RecurrentSequence {
  View x;                            // (T, N, I), any strides
  const int64_t* lengths = nullptr;  // on the device: (N,), or null: all T
  bool reverse = false;
  View y;  // (T, N, H), any strides
  // Two states (N, H), C-ordered, of the weights' type: the first is h0 on entry; the last step's
  // is in state[T % 2].
  void* state[2] = {nullptr, nullptr};
  void* c = nullptr;      // LSTM: (N, H) of the type of the computation, c0 on entry, c_n after
  void* gates = nullptr;  // workspace
};

// Bytes of `gates`: the products with the input of all steps.
int64_t recurrent_workspace(const RecurrentWeights& weights, int64_t steps, int64_t rows);

void run_recurrent(const Queue& queue, const RecurrentWeights& weights,
                   const RecurrentSequence& sequence);

}  // namespace marey::cuda
