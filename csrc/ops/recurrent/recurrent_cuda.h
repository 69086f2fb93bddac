#pragma once
// A layer of a recurrent network on a CUDA device: sequence.h's and backward.h's, without peepholes
// and without the GRU whose reset gate acts before the product. Views hold device pointers, and
// work is put on `queue` and not waited for.
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
  // Null, or (T, N, kept_gates(cell), H) of the type of the computation: what the way back needs.
  // Steps are counted as they are taken; those behind a sequence's end are not written.
  void* kept = nullptr;
};

// Bytes of `gates`: the products with the input of all steps, and a counter.
int64_t recurrent_workspace(const RecurrentWeights& weights, int64_t steps, int64_t rows);

void run_recurrent(const Queue& queue, const RecurrentWeights& weights,
                   const RecurrentSequence& sequence);

struct RecurrentGradients {
  View x, y;  // those of the way there
  const int64_t* lengths = nullptr;
  bool reverse = false;
  const View* h0 = nullptr;  // (N, H), any strides; null: zeros. So the following.
  const View* c0 = nullptr;  // of the type of the computation
  const View* grad_y = nullptr;
  const View* grad_hn = nullptr;
  const View* grad_cn = nullptr;
  const void* kept = nullptr;
  // C-ordered. Those of x and h0 are of the weights' type, all others of that of the computation.
  void* grad_x = nullptr;
  void* grad_ih = nullptr;
  void* grad_hh = nullptr;
  void* grad_bias_ih = nullptr;
  void* grad_bias_hh = nullptr;
  void* grad_h0 = nullptr;
  void* grad_c0 = nullptr;  // LSTM
  void* workspace = nullptr;
};

// Bytes of `workspace`: the gradients of the gates of all steps (a GRU's with one more), a state,
// and parts of the weights' gradients, of which there are at most 64 MiB, or one.
int64_t recurrent_backward_workspace(const RecurrentWeights& weights, int64_t steps, int64_t rows);

void run_recurrent_backward(const Queue& queue, const RecurrentWeights& weights,
                            const RecurrentGradients& gradients);

}  // namespace marey::cuda
