#pragma once
// What the kernels of a convolution take, and which position of a video, and which tap, the numbers
// of a row and of a depth stand for.
#include "cuda/bfloat16.h"
#include "cuda/divisor.h"
#include "cuda/math.h"
#include "ops/conv/conv3d.h"

namespace marey::cuda {

struct ConvPosition {
  int64_t n, at[3];
};

// `extent`: of time, height and width; positions are numbered in C order, the batch slowest.
MAREY_HOST_DEVICE ConvPosition conv_position(const Divisor (&extent)[3], int64_t position) {
  ConvPosition p;
  for (int axis = 2; axis >= 0; --axis) {
    const int64_t next = extent[axis].quotient(position);
    p.at[axis] = position - next * extent[axis].value();
    position = next;
  }
  p.n = position;
  return p;
}

struct ConvArguments {
  const char* x;
  const char* past;  // null: none
  const char* weight;
  const char* bias;  // null: none
  char* out;
  // In bytes. The first of the weights' is that of what becomes a column, a filter of the group;
  // the second that of what is summed over, a channel.
  int64_t x_stride[5], past_stride[5], weight_stride[5], out_stride[5];
  int64_t weight_group;  // from one group to the next
  int64_t bias_stride;
  int64_t history;    // frames of past
  int64_t extent[3];  // of x and past together
  int64_t step[3], dilation[3], before[3];
  Divisor out_extent[3];
  Divisor kernel[3];
  Divisor channels;  // of a group
  int64_t positions;
  int64_t filters;  // of a group
  Divisor column_blocks, row_blocks;
  int depth;
  Activation activation;
  bool wide_bias;  // float32 beside bfloat16
};

struct ConvTap {
  int64_t channel, at[3];
};
MAREY_HOST_DEVICE ConvTap conv_tap(const ConvArguments& a, int64_t k) {
  ConvTap tap;
  int64_t next = a.channels.quotient(k);
  tap.channel = k - next * a.channels.value();
  for (int axis = 2; axis >= 0; --axis) {
    k = next;
    next = a.kernel[axis].quotient(k);
    tap.at[axis] = k - next * a.kernel[axis].value();
  }
  return tap;
}

template <class T>
MAREY_DEVICE T activated(T x, Activation activation) {
  switch (activation) {
    case Activation::relu:
      return x > T{0} ? x : (x == x ? T{0} : x);
    case Activation::gelu:
      return static_cast<T>(0.5) * x * (T{1} + erf_of(x * static_cast<T>(0.70710678118654752440)));
    case Activation::silu:
      return x / (T{1} + exp_of(-x));
    case Activation::none:
      break;
  }
  return x;
}

template <class S, class T>
MAREY_DEVICE T conv_bias(const ConvArguments& a, int64_t filter) {
  const char* item = a.bias + filter * a.bias_stride;
  return a.wide_bias ? *reinterpret_cast<const T*>(item) : to<T>(*reinterpret_cast<const S*>(item));
}

// conv3d_sm90.cu: bfloat16 on a device of compute capability 9.0, where eight channels of every
// position are 16 aligned bytes. The workspace holds the weights, packed: conv3d_workspace bytes.
bool conv3d_fits_sm90(const Queue& queue, const ConvArguments& a);
void conv3d_sm90(const Queue& queue, const ConvArguments& a, int64_t groups, void* workspace);

}  // namespace marey::cuda
