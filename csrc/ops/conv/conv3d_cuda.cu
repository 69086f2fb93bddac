// An implicit matrix product: rows are output positions (n, t, h, w), columns filters of one group,
// the depth goes through the taps and, fastest, the channels. Nothing is gathered in memory: a
// thread knows where its row's first tap lies, and adds the tap's and the channel's offset; what is
// outside of x is zero. Frames before those of x come from `past`, so that a causal stream copies
// nothing.
//
// Ordinary cores, any strides and types: the kernel that others are compared with.
#include <cmath>

#include "cuda/divisor.h"
#include "cuda/gemm.h"
#include "ops/conv/conv_cuda.h"

namespace marey::cuda {

struct ConvArguments {
  const char* x;
  const char* past;  // null: none
  const char* weight;
  const char* bias;  // null: none
  char* out;
  int64_t x_stride[5], past_stride[5], weight_stride[5], out_stride[5];  // in bytes
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

struct ConvPosition {
  int64_t n, at[3];
};
MAREY_HOST_DEVICE ConvPosition conv_position(const ConvArguments& a, int64_t position) {
  ConvPosition p;
  for (int axis = 2; axis >= 0; --axis) {
    const int64_t next = a.out_extent[axis].quotient(position);
    p.at[axis] = position - next * a.out_extent[axis].value();
    position = next;
  }
  p.n = position;
  return p;
}

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

namespace {

template <class T>
MAREY_DEVICE T exp_of(T x);
template <>
MAREY_DEVICE float exp_of(float x) {
  return expf(x);
}
template <>
MAREY_DEVICE double exp_of(double x) {
  return exp(x);
}
MAREY_DEVICE float erf_of(float x) { return erff(x); }
MAREY_DEVICE double erf_of(double x) { return erf(x); }

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

// S: items in memory, T: sums.
template <class S, class T>
MAREY_KERNEL(kGemmThreads)
conv3d_kernel(MAREY_GRID_CONSTANT ConvArguments a) {
  auto& shared = *shared_memory<GemmShared<T>>();
  const int64_t line = a.column_blocks.quotient(blockIdx.x);
  const int64_t first_filter = (blockIdx.x - line * a.column_blocks.value()) * kGemmColumns;
  const int64_t group = a.row_blocks.quotient(line);
  const int64_t first_position = (line - group * a.row_blocks.value()) * kGemmRows;
  const int thread = static_cast<int>(threadIdx.x);

  // The row and the column that this thread loads.
  const int64_t row = first_position + gemm_load_row(thread);
  const bool row_inside = row < a.positions;
  const ConvPosition p = conv_position(a, row_inside ? row : 0);
  int64_t start[3];
#pragma unroll
  for (int axis = 0; axis < 3; ++axis) start[axis] = p.at[axis] * a.step[axis] - a.before[axis];
  const int64_t first_channel = group * a.channels.value();
  const int64_t filter = first_filter + gemm_load_row(thread);
  const bool filter_inside = filter < a.filters;
  const char* weight =
      a.weight + (group * a.filters + (filter_inside ? filter : 0)) * a.weight_stride[0];

  const auto load_a = [&](int, int k) {
    const ConvTap tap = conv_tap(a, k);
    int64_t at[3];
    bool inside = row_inside;
#pragma unroll
    for (int axis = 0; axis < 3; ++axis) {
      at[axis] = start[axis] + tap.at[axis] * a.dilation[axis];
      inside = inside && at[axis] >= 0 && at[axis] < a.extent[axis];
    }
    if (!inside) return T{0};
    const bool old = at[0] < a.history;
    const int64_t* stride = old ? a.past_stride : a.x_stride;
    const char* item =
        (old ? a.past : a.x) + p.n * stride[0] + (first_channel + tap.channel) * stride[1] +
        (old ? at[0] : at[0] - a.history) * stride[2] + at[1] * stride[3] + at[2] * stride[4];
    return to<T>(*reinterpret_cast<const S*>(item));
  };
  const auto load_b = [&](int k, int) {
    if (!filter_inside) return T{0};
    const ConvTap tap = conv_tap(a, k);
    const char* item = weight + tap.channel * a.weight_stride[1] + tap.at[0] * a.weight_stride[2] +
                       tap.at[1] * a.weight_stride[3] + tap.at[2] * a.weight_stride[4];
    return to<T>(*reinterpret_cast<const S*>(item));
  };
  GemmSums<T> sums;
  sums.clear();
  block_product<T>(shared, a.depth, load_a, load_b, sums);

#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const int64_t position = first_position + gemm_row(thread) + i;
    if (position >= a.positions) continue;
    const ConvPosition q = conv_position(a, position);
    char* to_row = a.out + q.n * a.out_stride[0] + q.at[0] * a.out_stride[2] +
                   q.at[1] * a.out_stride[3] + q.at[2] * a.out_stride[4];
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      const int64_t column = first_filter + gemm_column(thread) + j;
      if (column >= a.filters) continue;
      const int64_t k = group * a.filters + column;
      T v = sums.v[i][j];
      if (a.bias != nullptr) {
        const char* item = a.bias + k * a.bias_stride;
        v += a.wide_bias ? *reinterpret_cast<const T*>(item)
                         : to<T>(*reinterpret_cast<const S*>(item));
      }
      *reinterpret_cast<S*>(to_row + k * a.out_stride[1]) = from<S>(activated(v, a.activation));
    }
  }
}

template <class S, class T>
void run(const Queue& queue, const ConvArguments& a, int64_t groups) {
  const Grid grid{groups * a.row_blocks.value() * a.column_blocks.value(), kGemmThreads,
                  sizeof(GemmShared<T>)};
  launch(queue, grid, &conv3d_kernel<S, T>, a);
}

}  // namespace

void conv3d(const Queue& queue, const View& x, const View* past, const View& weight,
            const View* bias, const Conv3dOptions& options, const View& out) {
  if (out.shape.count() == 0) return;
  ConvArguments a{};
  a.x = x.as<const char>();
  a.weight = weight.as<const char>();
  a.out = out.as<char>();
  if (bias != nullptr) {
    a.bias = bias->as<const char>();
    a.bias_stride = bias->stride(0);
    a.wide_bias = bias->dtype != weight.dtype;
  }
  if (past != nullptr && past->shape[2] > 0) {
    a.past = past->as<const char>();
    a.history = past->shape[2];
  }
  for (int axis = 0; axis < 5; ++axis) {
    a.x_stride[axis] = x.stride(axis);
    a.past_stride[axis] = past == nullptr ? 0 : past->stride(axis);
    a.weight_stride[axis] = weight.stride(axis);
    a.out_stride[axis] = out.stride(axis);
  }
  int64_t taps = 1;
  a.positions = out.shape[0];
  for (int axis = 0; axis < 3; ++axis) {
    const auto at = static_cast<std::size_t>(axis);
    a.extent[axis] = x.shape[axis + 2] + (axis == 0 ? a.history : 0);
    a.step[axis] = options.stride[at];
    a.dilation[axis] = options.dilation[at];
    a.before[axis] = options.before[at];
    a.out_extent[axis] = Divisor(out.shape[axis + 2]);
    a.kernel[axis] = Divisor(weight.shape[axis + 2] > 0 ? weight.shape[axis + 2] : 1);
    taps *= weight.shape[axis + 2];
    a.positions *= out.shape[axis + 2];
  }
  a.channels = Divisor(weight.shape[1] > 0 ? weight.shape[1] : 1);
  a.depth = static_cast<int>(taps * weight.shape[1]);
  a.filters = weight.shape[0] / options.groups;
  a.column_blocks = Divisor(blocks_for(a.filters, kGemmColumns));
  a.row_blocks = Divisor(blocks_for(a.positions, kGemmRows));
  a.activation = options.activation;
  if (x.dtype == DType::f64) return run<double, double>(queue, a, options.groups);
  if (x.dtype == DType::bf16) return run<bfloat16, float>(queue, a, options.groups);
  run<float, float>(queue, a, options.groups);
}

}  // namespace marey::cuda
