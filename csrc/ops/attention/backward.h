#pragma once
// Gradients of attention (Dao et al. 2022, "FlashAttention", algorithm 4). With P[l, s] =
// exp(x[l, s] - lse[l]), recomputed block by block, and the names of attention.h:
//
//   delta[l]     = grad[l] . out[l]
//   dx[l, s]     = P[l, s] (grad[l] . v[s] - delta[l])
//   grad_bias    = dx, summed over the axes that the bias is broadcast along
//   dscore[l, s] = dx[l, s] (1 - tanh(score / c)^2)          the factor only with a softcap
//   grad_q[l]    = scale sum_s dscore[l, s] k[s]
//   grad_k[s]    = scale sum_l dscore[l, s] q[l]             over the queries of all heads that
//   grad_v[s]    = sum_l P[l, s] grad[l]                     share the key head
//
// A query with nothing to attend to (lse = -inf) has gradient zero, and gives none.
#include "ops/attention/attention.h"

namespace marey {

struct AttentionGradients {
  const View& q;
  const View& k;
  const View& v;
  // Null unless asked for: (..., h, L, S) of the type of the computation, initialised with zeros;
  // the strides of the axes that the bias is broadcast along are zero.
  const View* bias;
};

// The operands of attention() and its results, `grad` of the shape and type of `out`; the gradients
// have the shapes and types of what they are gradients of, any strides, and overlap no input. Each
// thread's scratch is at most 256 rows of q and out, three times, twelve panels of scores (64 keys,
// up to 32 queries), and a head's keys and values in the type of the computation; where there are
// few heads, up to eight times those of each head beside it. Results do not depend on the number of
// threads.
void attention_backward(const View& grad, const View& q, const View& k, const View& v,
                        const View& out, const View& lse, const View* mask, const View* bias,
                        const AttentionOptions& options, const AttentionGradients& gradients);

// The same for attention_varlen(), whose caller has checked shapes and types.
void attention_varlen_backward(const View& grad, const View& q, const View& k, const View& v,
                               const View& out, const View& lse, const int64_t* cu_seqlens_q,
                               const int64_t* cu_seqlens_k, int64_t sequences,
                               const AttentionOptions& options,
                               const AttentionGradients& gradients);

// The rows of a call and their gradients. `sums` is padded_depth(D) + padded_depth(Dv) items for
// each key, of the type of the computation: what the gradients of keys and values are summed in,
// before the scale.
struct AttentionBackwardRows {
  AttentionRows forward;
  AttentionOperand grad, grad_q, grad_k, grad_v, grad_bias;
  void* sums;
};

inline constexpr int64_t kDepthLanes = 16;
constexpr int64_t padded_depth(int64_t depth) {
  return (depth + kDepthLanes - 1) / kDepthLanes * kDepthLanes;
}

struct AttentionBackwardKernel {
  // grad_q of the rows, written; grad_k and grad_v, added to `sums`; grad_bias, added to.
  void (*rows)(const AttentionBackwardRows&) = nullptr;
  // grad_k and grad_v from `parts` arrays of sums, one after the other.
  void (*finish)(const AttentionBackwardRows&, int64_t parts) = nullptr;
};
using SelectAttentionBackward = AttentionBackwardKernel(DType);
MAREY_DECLARE_KERNEL(select_attention_backward, SelectAttentionBackward)

// Bytes of scratch for rows of a call.
std::size_t attention_backward_scratch(const AttentionRows& rows, int64_t count, int64_t item);

}  // namespace marey
