// An implicit matrix product: rows are output positions (n, t, h, w), columns filters of one group,
// the depth goes through the taps and, fastest, the channels. Nothing is gathered in memory: a
// thread knows where its row's first tap lies, and adds the tap's and the channel's offset; what is
// outside of x is zero. Frames before those of x come from `past`, so that a causal stream copies
// nothing.
//
// The gradient of x is a convolution of that of the result for each phase of the stride
// (conv3d_backward.h): the same kernel, with the weights' filters and channels exchanged, those
// taps that meet the phase, and results as far apart as the stride.
//
// Any strides and types: the kernel that others are compared with. bfloat16 goes through the tensor
// cores (cuda/gemm.h).
#include <limits>
#include <numeric>
#include <stdexcept>

#include "cuda/gemm.h"
#include "ops/conv/conv3d_arguments_cuda.h"
#include "ops/conv/conv_cuda.h"

namespace marey::cuda {

namespace {

// S: items in memory, T: sums.
template <class S, class T>
MAREY_KERNEL(kGemmThreads)
conv3d_kernel(MAREY_GRID_CONSTANT ConvArguments a) {
  auto& shared = *shared_memory<GemmShared<S, T>>();
  const int64_t line = a.column_blocks.quotient(blockIdx.x);
  const int64_t first_filter = (blockIdx.x - line * a.column_blocks.value()) * kGemmColumns;
  const int64_t group = a.row_blocks.quotient(line);
  const int64_t first_position = (line - group * a.row_blocks.value()) * kGemmRows;
  const int thread = static_cast<int>(threadIdx.x);

  // The row and the column that this thread loads.
  const int64_t row = first_position + gemm_load_row(thread);
  const bool row_inside = row < a.positions;
  const ConvPosition p = conv_position(a.out_extent, row_inside ? row : 0);
  int64_t start[3];
#pragma unroll
  for (int axis = 0; axis < 3; ++axis) start[axis] = p.at[axis] * a.step[axis] - a.before[axis];
  const int64_t first_channel = group * a.channels.value();
  const int64_t filter = first_filter + gemm_load_row(thread);
  const bool filter_inside = filter < a.filters;
  const char* weight =
      a.weight + group * a.weight_group + (filter_inside ? filter : 0) * a.weight_stride[0];

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
    const ConvPosition q = conv_position(a.out_extent, position);
    char* to_row = a.out + q.n * a.out_stride[0] + q.at[0] * a.out_stride[2] +
                   q.at[1] * a.out_stride[3] + q.at[2] * a.out_stride[4];
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      const int64_t column = first_filter + gemm_column(thread) + j;
      if (column >= a.filters) continue;
      const int64_t k = group * a.filters + column;
      T v = sums.v[i][j];
      if (a.bias != nullptr) v += conv_bias<S, T>(a, k);
      *reinterpret_cast<S*>(to_row + k * a.out_stride[1]) = from<S>(activated(v, a.activation));
    }
  }
}

template <class S, class T>
void run(const Queue& queue, const ConvArguments& a, int64_t groups) {
  const Grid grid{groups * a.row_blocks.value() * a.column_blocks.value(), kGemmThreads,
                  sizeof(GemmShared<S, T>)};
  launch(queue, grid, &conv3d_kernel<S, T>, a);
}

const char* run(const Queue& queue, const ConvArguments& a, DType dtype, int64_t groups,
                void* workspace) {
#if defined(MAREY_HAVE_HOPPER) || !defined(__CUDACC__)
  if (dtype == DType::bf16 && conv3d_fits_sm90(queue, a)) {
    conv3d_sm90(queue, a, groups, workspace);
    return "sm90";
  }
#endif
  if (dtype == DType::f64) {
    run<double, double>(queue, a, groups);
  } else if (dtype == DType::bf16) {
    run<bfloat16, float>(queue, a, groups);
  } else {
    run<float, float>(queue, a, groups);
  }
  return "generic";
}

// What follows from the numbers of positions, filters, taps and channels.
void set_blocks(ConvArguments& a, int64_t positions, int64_t filters, int64_t taps,
                int64_t channels) {
  if (taps * channels > std::numeric_limits<int>::max()) {
    throw std::runtime_error("[marey] CUDA: a convolution with 2^31 or more weights for a filter");
  }
  a.positions = positions;
  a.filters = filters;
  a.channels = Divisor(channels > 0 ? channels : 1);
  a.depth = static_cast<int>(taps * channels);
  a.column_blocks = Divisor(blocks_for(filters, kGemmColumns));
  a.row_blocks = Divisor(blocks_for(positions, kGemmRows));
}

// One axis of a phase of the stride.
struct PhaseAxis {
  int64_t extent;                // of x, every `stride`-th from the phase
  int64_t first, period, count;  // taps that meet it
  int64_t start;                 // which result the first of these takes to the first position
  int64_t step;                  // and how many results before that the next one does
};

PhaseAxis phase_axis(int64_t phase, int64_t extent, int64_t kernel, int64_t stride,
                     int64_t dilation, int64_t before) {
  PhaseAxis axis{};
  axis.extent = (extent - phase + stride - 1) / stride;
  axis.period = stride / std::gcd(stride, dilation);
  axis.step = dilation * axis.period / stride;
  while (axis.first < kernel && (phase + before - axis.first * dilation) % stride != 0) {
    ++axis.first;
  }
  if (axis.first == kernel) return axis;
  axis.count = (kernel - 1 - axis.first) / axis.period + 1;
  axis.start = (phase + before - axis.first * dilation) / stride;
  return axis;
}

}  // namespace

int64_t conv3d_workspace(const View& weight) {
  return weight.dtype == DType::bf16 ? weight.shape.count() * 2 : 0;
}

const char* conv3d(const Queue& queue, const View& x, const View* past, const View& weight,
                   const View* bias, const Conv3dOptions& options, const View& out,
                   void* workspace) {
  if (out.shape.count() == 0) return "";
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
  int64_t positions = out.shape[0];
  for (int axis = 0; axis < 3; ++axis) {
    const auto at = static_cast<std::size_t>(axis);
    a.extent[axis] = x.shape[axis + 2] + (axis == 0 ? a.history : 0);
    a.step[axis] = options.stride[at];
    a.dilation[axis] = options.dilation[at];
    a.before[axis] = options.before[at];
    a.out_extent[axis] = Divisor(out.shape[axis + 2]);
    a.kernel[axis] = Divisor(weight.shape[axis + 2]);
    taps *= weight.shape[axis + 2];
    positions *= out.shape[axis + 2];
  }
  const int64_t filters = weight.shape[0] / options.groups;
  a.weight_group = filters * weight.stride(0);
  a.activation = options.activation;
  set_blocks(a, positions, filters, taps, weight.shape[1]);
  return run(queue, a, x.dtype, options.groups, workspace);
}

void conv3d_backward_input(const Queue& queue, const View& grad, const View& weight,
                           const Conv3dOptions& options, const View& grad_x, void* workspace) {
  if (grad_x.shape.count() == 0) return;
  const int64_t filters = weight.shape[0] / options.groups;
  ConvArguments all{};
  all.x = grad.as<const char>();
  all.weight_group = filters * weight.stride(0);
  for (int axis = 0; axis < 5; ++axis) all.x_stride[axis] = grad.stride(axis);
  all.weight_stride[0] = weight.stride(1);
  all.weight_stride[1] = weight.stride(0);
  all.out_stride[0] = grad_x.stride(0);
  all.out_stride[1] = grad_x.stride(1);
  int64_t phases[3];
  for (int axis = 0; axis < 3; ++axis) {
    const int64_t stride = options.stride[static_cast<std::size_t>(axis)];
    phases[axis] = stride < grad_x.shape[axis + 2] ? stride : grad_x.shape[axis + 2];
    all.extent[axis] = grad.shape[axis + 2];
    all.step[axis] = 1;
  }
  for (int64_t phase = 0; phase < phases[0] * phases[1] * phases[2]; ++phase) {
    ConvArguments a = all;
    a.weight = weight.as<const char>();
    a.out = grad_x.as<char>();
    int64_t taps = 1;
    int64_t positions = grad_x.shape[0];
    int64_t rest = phase;
    for (int axis = 2; axis >= 0; --axis) {
      const auto at = static_cast<std::size_t>(axis);
      const int64_t of_axis = rest % phases[axis];
      rest /= phases[axis];
      const PhaseAxis p = phase_axis(of_axis, grad_x.shape[axis + 2], weight.shape[axis + 2],
                                     options.stride[at], options.dilation[at], options.before[at]);
      a.weight += p.count > 0 ? p.first * weight.stride(axis + 2) : 0;
      a.weight_stride[axis + 2] = p.period * weight.stride(axis + 2);
      a.out += of_axis * grad_x.stride(axis + 2);
      a.out_stride[axis + 2] = options.stride[at] * grad_x.stride(axis + 2);
      a.out_extent[axis] = Divisor(p.extent);
      a.kernel[axis] = Divisor(p.count > 0 ? p.count : 1);
      a.before[axis] = -p.start;
      a.dilation[axis] = -p.step;
      taps *= p.count;
      positions *= p.extent;
    }
    set_blocks(a, positions, weight.shape[1], taps, filters);
    run(queue, a, grad_x.dtype, options.groups, workspace);
  }
}

}  // namespace marey::cuda
