#pragma once
// Gradients of conv3d without activation:
//
//   grad_x[n, c, i]    = sum over k, tap, outputs q that read input i through tap of
//                        weight[k, c, tap] grad[n, k, q]
//   grad_weight[k, c, tap] = sum over n, q of grad[n, k, q] x[n, c, q s + tap d - p]
//   grad_bias[k]       = sum over n, q of grad[n, k, q]
//
// The first is a convolution of grad for each phase of the stride: inputs i = q' s + phase are read
// by the taps with phase + p - tap d divisible by s, at output q' + (phase + p - tap d) / s. The
// second is a matrix product whose depth is positions.
#include "ops/conv/conv3d.h"

namespace marey {

// grad (N, K, T', H', W') of the shape that conv3d_shape gives, weight (K, C / groups, kT, kH, kW),
// grad_x (N, C, T, H, W); all of one type, any strides; grad_x overlaps neither.
void conv3d_backward_input(const View& grad, const View& weight, const Conv3dOptions& options,
                           const View& grad_x);

// grad_weight: null, or C-ordered (K, C / groups, kT, kH, kW); grad_bias: null, or C-ordered (K,);
// of the type of x. `weight` is the shape of the weights.
void conv3d_backward_weight(const View& grad, const View& x, const Shape& weight,
                            const Conv3dOptions& options, const View* grad_weight,
                            const View* grad_bias);

// Positions [begin, end) of the output of one batch entry and group: problem, x, x_strides, begin,
// end and scratch of a ConvBlock, and the gradient.
struct ConvGradBlock {
  ConvBlock block;
  const void* grad = nullptr;  // at filter 0 of the group
  ConvStrides grad_strides;
  int64_t first_channel = 0, channels = 0;
  int64_t first_filter = 0, filters = 0;
  // Sums, of the type of the computation: (taps, channels, lanes) for each panel of filters; for
  // depthwise convolution (taps, lanes) for each.
  void* sums = nullptr;
};

// The first dimension of these is positions of the gradient, which is summed in the type of the
// computation whatever the type in memory.
struct ConvGradKernel {
  int64_t panel;
  int64_t (*scratch)(const ConvGradBlock&);
  // sums of these channels and filters += those of the positions.
  void (*run)(const ConvGradBlock&);
  // The sum of `parts` partial sums, `stride` items apart, to grad_weight: (filters, channels,
  // taps) with `filter_stride` items from one filter to the next.
  void (*finish)(const ConvGradBlock&, int64_t parts, int64_t stride, void* to,
                 int64_t filter_stride);
  // total[0 .. filters) += the sums of the positions of these filters.
  void (*sum_grad)(const ConvGradBlock&, double* total);
};

using SelectConvGrad = ConvGradKernel(DType);
MAREY_DECLARE_KERNEL(select_conv3d_weights, SelectConvGrad)
MAREY_DECLARE_KERNEL(select_conv3d_depthwise_weights, SelectConvGrad)

}  // namespace marey
