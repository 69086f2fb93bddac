#pragma once
// Layer normalisation (Ba, Kiros, Hinton 2016, "Layer Normalization"), over the last axis:
//
//   mean = sum_c x[c] / C,   rstd = 1 / sqrt(sum_c (x[c] - mean)^2 / C + eps)
//   y[c] = (x[c] - mean) rstd weight[c] + bias[c]
//
// and, with g = grad weight and n = (x - mean) rstd:
//
//   grad_x      = rstd (g - mean(g) - n mean(g n)),  means over the last axis
//   grad_weight = sum over rows of grad n,   grad_bias = sum over rows of grad
//
// x, y and the gradients of float32, float64 or bfloat16, which is computed in float32. Sums over
// rows are taken in an order that depends on the shape alone.
#include "core/dispatch.h"
#include "core/view.h"

namespace marey {

// x, y (..., C) of one type, any strides; weight, bias (C) of that type, adjacent, or null. y may
// be x. mean, rstd: null, or one item a row, adjacent, of the type of the computation.
void layer_norm(const View& x, const View* weight, const View* bias, double eps, const View& y,
                void* mean, void* rstd);

// grad_x as x; grad_weight and grad_bias (C), adjacent; any may be null.
void layer_norm_backward(const View& grad, const View& x, const View* weight, double eps,
                         const View* grad_x, const View* grad_weight, const View* grad_bias);

// One row, and its strides in items.
struct LayerNormRow {
  const void* x;
  const void* grad;  // null in the forward pass
  const void* weight;
  const void* bias;
  void* out;  // y, or grad_x; null where it is not wanted
  int64_t x_item, grad_item, out_item;
  int64_t count;
  double eps;
  void* mean;
  void* rstd;
  void* grad_weight;  // added to, of the type of the computation
  void* grad_bias;
  std::byte* scratch;  // 2 C items of the type of the computation, padded to cache lines
};

struct LayerNormKernel {
  void (*forward)(const LayerNormRow&) = nullptr;
  void (*backward)(const LayerNormRow&) = nullptr;
};
using SelectLayerNorm = LayerNormKernel(DType);
MAREY_DECLARE_KERNEL(select_layer_norm, SelectLayerNorm)

}  // namespace marey
