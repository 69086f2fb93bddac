#pragma once
// A layer of a recurrent network over sequences.
//
//   LSTM  i, f, o = sigmoid(W x_t + U h_{t-1} + b), g = tanh(...)
//         c_t = f c_{t-1} + i g,  h_t = o tanh(c_t)
//         with peepholes p_i c_{t-1}, p_f c_{t-1} and p_o c_t are added before the sigmoids
//         with a projection h_t = V (o tanh(c_t)), of P units
//         with layer norm N (W x_t), N (U h_{t-1}) and N (c_t) inside the tanh, where
//         N(a) = gain (a - mean(a)) / sqrt(variance(a) + 1e-5) (+ bias) over all gates of a product
//   GRU   r, z = sigmoid(W x_t + b + U h_{t-1} + b'),  h_t = (1 - z) n + z h_{t-1}
//         after:  n = tanh(W x_t + b + r (U h_{t-1} + b'))
//         before: n = tanh(W x_t + b + U (r h_{t-1}) + b')
//   RNN   h_t = tanh or relu(W x_t + b + U h_{t-1} + b')
//
// Hochreiter and Schmidhuber 1997, Gers and Schmidhuber 2000 (peepholes), Sak et al. 2014
// (projection), Ba et al. 2016 (layer norm), Cho et al. 2014 (GRU), Elman 1990.
#include "ops/recurrent/steps.h"
#include "ops/recurrent/weights.h"

namespace marey {

// H, I: of the weights; P is H without a projection. States are storage (the weights' dtype), but
// an LSTM's c is float32 for bfloat16. Nothing overlaps.
struct SequenceArgs {
  View x;                            // (T, N, I), any strides
  const int64_t* lengths = nullptr;  // (N,), or null: all T
  bool reverse = false;
  const View* h0 = nullptr;  // (N, P), any strides, or null: zeros
  const View* c0 = nullptr;  // LSTM: (N, H), the same
  View y;                    // (T, N, P), the last axis contiguous; zeros after a sequence's end
  View hn;                   // (N, P), the last axis contiguous
  View cn;                   // LSTM: (N, H), the same
  // Null, or for each row in the order of Steps: weights.kept() times kept_pitch(H) numbers of
  // the type of the computation, uninitialised.
  std::byte* kept = nullptr;
};

// Units of whole blocks of any instruction set.
constexpr int64_t kept_pitch(int64_t hidden) { return (hidden + 31) / 32 * 32; }

// Workspace: the packed input and the gates of about 100 or 200 rows, or of N, and three states.
void run_sequence(std::string_view function, const CellWeights& weights, const SequenceArgs& args);

}  // namespace marey
