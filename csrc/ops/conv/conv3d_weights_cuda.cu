// The gradients of weights and bias: a matrix product whose rows are the filters of a group, whose
// columns are its channels and taps, in the order of the weights, and whose depth is every position
// of the result (cuda/partial_sums.h). The column behind the last one is the bias'.
#include "cuda/divisor.h"
#include "cuda/gemm.h"
#include "cuda/partial_sums.h"
#include "ops/conv/conv3d_arguments_cuda.h"
#include "ops/conv/conv_cuda.h"

namespace marey::cuda {
namespace {

struct ConvWeightArguments {
  const char* grad;
  const char* x;
  char* sums;
  int64_t grad_stride[5], x_stride[5];  // in bytes
  int64_t extent[3], step[3], dilation[3], before[3];
  Divisor out_extent[3];
  Divisor kernel[3];
  int64_t positions, part_positions;
  int64_t filters, channels;  // of a group
  int64_t rows, columns;
  Divisor parts, column_blocks, row_blocks;
};

// S: items in memory, T: sums.
template <class S, class T>
MAREY_KERNEL(kGemmThreads)
conv3d_weights_kernel(MAREY_GRID_CONSTANT ConvWeightArguments a) {
  auto& shared = *shared_memory<GemmShared<S, T>>();
  const int64_t tile = a.parts.quotient(blockIdx.x);
  const int64_t part = blockIdx.x - tile * a.parts.value();
  const int64_t line = a.column_blocks.quotient(tile);
  const int64_t first_column = (tile - line * a.column_blocks.value()) * kGemmColumns;
  const int64_t group = a.row_blocks.quotient(line);
  const int64_t first_filter = (line - group * a.row_blocks.value()) * kGemmRows;
  const int thread = static_cast<int>(threadIdx.x);

  // The row and the column that this thread loads.
  const int64_t filter = first_filter + gemm_load_row(thread);
  const bool filter_inside = filter < a.filters;
  const char* grad = a.grad + (group * a.filters + (filter_inside ? filter : 0)) * a.grad_stride[1];
  const int64_t column = first_column + gemm_load_row(thread);
  int64_t tap[3];
  int64_t rest = column < a.columns ? column : 0;
#pragma unroll
  for (int axis = 2; axis >= 0; --axis) {
    const int64_t next = a.kernel[axis].quotient(rest);
    tap[axis] = (rest - next * a.kernel[axis].value()) * a.dilation[axis] - a.before[axis];
    rest = next;
  }
  const char* x = a.x + (group * a.channels + rest) * a.x_stride[1];

  const auto load_a = [&](int64_t position) {
    if (!filter_inside) return T{0};
    const ConvPosition q = conv_position(a.out_extent, position);
    return to<T>(
        *reinterpret_cast<const S*>(grad + q.n * a.grad_stride[0] + q.at[0] * a.grad_stride[2] +
                                    q.at[1] * a.grad_stride[3] + q.at[2] * a.grad_stride[4]));
  };
  const auto load_b = [&](int64_t position) {
    if (column >= a.columns) return column == a.columns ? T{1} : T{0};
    const ConvPosition q = conv_position(a.out_extent, position);
    const char* item = x + q.n * a.x_stride[0];
    bool inside = true;
#pragma unroll
    for (int axis = 0; axis < 3; ++axis) {
      const int64_t at = q.at[axis] * a.step[axis] + tap[axis];
      inside = inside && at >= 0 && at < a.extent[axis];
      item += at * a.x_stride[axis + 2];
    }
    return inside ? to<T>(*reinterpret_cast<const S*>(item)) : T{0};
  };
  const int64_t begin = part * a.part_positions;
  const int64_t end =
      begin + a.part_positions < a.positions ? begin + a.part_positions : a.positions;
  GemmSums<T> sums;
  partial_product<T>(shared, begin, end, load_a, load_b, sums);

  T* to_part = reinterpret_cast<T*>(a.sums) + part * a.rows * (a.columns + 1);
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const int64_t row = first_filter + gemm_row(thread) + i;
    if (row >= a.filters) continue;
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      const int64_t c = first_column + gemm_column(thread) + j;
      if (c <= a.columns) {
        to_part[(group * a.filters + row) * (a.columns + 1) + c] = sums.v[i][j];
      }
    }
  }
}

int64_t positions_of(const View& grad) {
  return grad.shape[0] * grad.shape[2] * grad.shape[3] * grad.shape[4];
}

PartialPlan plan_of(const View& grad, const Shape& weight, const Conv3dOptions& options) {
  const int64_t columns = weight[1] * weight[2] * weight[3] * weight[4];
  return partial_plan(weight[0], weight[0] / options.groups, columns, positions_of(grad),
                      grad.dtype == DType::f64 ? 8 : 4);
}

template <class S, class T>
void run(const Queue& queue, ConvWeightArguments& a, const PartialPlan& plan, int64_t groups,
         void* grad_weight, void* grad_bias) {
  const Grid grid{groups * a.row_blocks.value() * a.column_blocks.value() * plan.parts,
                  kGemmThreads, sizeof(GemmShared<S, T>)};
  launch(queue, grid, &conv3d_weights_kernel<S, T>, a);
  add_parts<S, T>(queue, plan, a.sums, grad_weight, grad_bias);
}

}  // namespace

int64_t conv3d_backward_workspace(const View& grad, const Shape& weight,
                                  const Conv3dOptions& options) {
  return plan_of(grad, weight, options).items() * (grad.dtype == DType::f64 ? 8 : 4);
}

void conv3d_backward_weight(const Queue& queue, const View& grad, const View& x,
                            const Shape& weight, const Conv3dOptions& options,
                            const View* grad_weight, const View* grad_bias, void* workspace) {
  if (weight[0] == 0) return;
  const PartialPlan plan = plan_of(grad, weight, options);
  ConvWeightArguments a{};
  a.grad = grad.as<const char>();
  a.x = x.as<const char>();
  a.sums = static_cast<char*>(workspace);
  for (int axis = 0; axis < 5; ++axis) {
    a.grad_stride[axis] = grad.stride(axis);
    a.x_stride[axis] = x.stride(axis);
  }
  for (int axis = 0; axis < 3; ++axis) {
    const auto at = static_cast<std::size_t>(axis);
    a.extent[axis] = x.shape[axis + 2];
    a.step[axis] = options.stride[at];
    a.dilation[axis] = options.dilation[at];
    a.before[axis] = options.before[at];
    a.out_extent[axis] = Divisor(grad.shape[axis + 2] > 0 ? grad.shape[axis + 2] : 1);
    a.kernel[axis] = Divisor(weight[axis + 2]);
  }
  a.positions = plan.depth;
  a.part_positions = plan.part_depth;
  a.filters = weight[0] / options.groups;
  a.channels = weight[1];
  a.rows = plan.rows;
  a.columns = plan.columns;
  a.parts = Divisor(plan.parts);
  a.column_blocks = Divisor(blocks_for(plan.columns + 1, kGemmColumns));
  a.row_blocks = Divisor(blocks_for(a.filters, kGemmRows));
  void* to_weight = grad_weight == nullptr ? nullptr : grad_weight->data;
  void* to_bias = grad_bias == nullptr ? nullptr : grad_bias->data;
  if (x.dtype == DType::f64) {
    return run<double, double>(queue, a, plan, options.groups, to_weight, to_bias);
  }
  if (x.dtype == DType::bf16) {
    return run<bfloat16, float>(queue, a, plan, options.groups, to_weight, to_bias);
  }
  run<float, float>(queue, a, plan, options.groups, to_weight, to_bias);
}

}  // namespace marey::cuda
