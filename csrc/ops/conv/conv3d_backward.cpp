#include "ops/conv/conv3d_backward.h"

#include <algorithm>
#include <cstring>
#include <string>
#include <utility>
#include <vector>

#include "core/bfloat16.h"
#include "core/error.h"
#include "core/parallel.h"
#include "ops/conv/conv3d_patches.h"
#include "ops/conv/conv3d_plan.h"

namespace marey {

MAREY_STUB_NO_BF16(select_conv3d_weights, SelectConvGrad)
MAREY_STUB_NO_BF16(select_conv3d_depthwise_weights, SelectConvGrad)

namespace {

constexpr std::string_view kName = "marey.conv3d_backward";

// Positions of a block: a depth that makes loading and storing the sums cheap, while the gradients
// stay in the first-level cache or near it. Depthwise sums are few, and halos cost more.
constexpr int64_t kPositions = 224;
constexpr int64_t kDepthwisePositions = 1792;
// Bytes of sums that a task keeps in the second-level cache.
constexpr int64_t kSumBytes = int64_t{480} << 10;
constexpr int64_t kMostChannels = 256;
// Multiply-adds that are worth partial sums of their own, how many tasks there should be at least,
// and how many bytes all partial sums may take. Not the number of threads: the order of the sums
// must not depend on it.
constexpr int64_t kPartWork = int64_t{1} << 28;
constexpr int64_t kFewestTasks = 16;
constexpr int64_t kPartialBytes = int64_t{64} << 20;

int64_t divide_up(int64_t a, int64_t b) { return (a + b - 1) / b; }

void check_type(const char* argument, const View& x, DType expected) {
  if (x.dtype != expected) throw TypeError(kName, argument, name(expected), name(x.dtype));
}

void check_gradient(const View& grad, const Shape& x, const Shape& weight,
                    const Conv3dOptions& options) {
  const Shape expected = conv3d_shape(kName, x, weight, options);
  if (!(grad.shape == expected)) {
    throw ValueError(kName, "grad", "shape " + to_string(expected) + ", that of the result",
                     to_string(grad.shape));
  }
}

// The taps that inputs of a phase are read by, and what they read of the gradient.
ConvAxis phase_axis(int64_t kernel, int64_t stride, int64_t dilation, int64_t before,
                    int64_t phase) {
  ConvAxis axis;
  for (int64_t i = kernel - 1; i >= 0; --i) {
    const int64_t distance = phase + before - i * dilation;
    if (distance % stride != 0) continue;
    axis.offset.push_back(distance / stride);
    axis.source.push_back(i);
  }
  return axis;
}

}  // namespace

void conv3d_backward_input(const View& grad, const View& weight, const Conv3dOptions& options,
                           const View& grad_x) {
  check_gradient(grad, grad_x.shape, weight.shape, options);
  check_type("grad", grad, grad_x.dtype);
  check_type("weight", weight, grad_x.dtype);
  if (input_is_of_patches(grad, weight, options, grad_x)) {
    patches_backward_input(grad, weight, grad_x);
    return;
  }
  const int64_t item = item_size(weight.dtype);
  const int64_t channels = weight.shape[0] / options.groups;
  const int64_t filters = weight.shape[1];
  ConvWeights weights;
  weights.data = weight.data;
  weights.filter = weight.stride(1) / item;
  weights.channel = weight.stride(0) / item;
  Convolution::Extents extents;
  extents.batch = grad_x.shape[0];
  for (std::size_t axis = 0; axis < 3; ++axis) {
    weights.tap[axis] = weight.stride(static_cast<int>(axis) + 2) / item;
    extents.in[axis] = grad.shape[static_cast<int>(axis) + 2];
  }
  Convolution::Arrays arrays;
  arrays.x = conv_array(grad);
  const ConvArray whole = conv_array(grad_x);
  const Triple& stride = options.stride;
  for (int64_t t = 0; t < std::min(stride[0], grad_x.shape[2]); ++t) {
    for (int64_t h = 0; h < std::min(stride[1], grad_x.shape[3]); ++h) {
      for (int64_t w = 0; w < std::min(stride[2], grad_x.shape[4]); ++w) {
        const Triple phase{t, h, w};
        std::array<ConvAxis, 3> axes;
        arrays.out = whole;
        int64_t first = 0;
        for (std::size_t axis = 0; axis < 3; ++axis) {
          axes[axis] = phase_axis(weight.shape[static_cast<int>(axis) + 2], stride[axis],
                                  options.dilation[axis], options.before[axis], phase[axis]);
          extents.out[axis] =
              divide_up(grad_x.shape[static_cast<int>(axis) + 2] - phase[axis], stride[axis]);
          first += phase[axis] * whole.strides.s[axis];
          arrays.out.strides.s[axis] *= stride[axis];
        }
        arrays.out.data = static_cast<std::byte*>(whole.data) + first * item;
        const Convolution convolution(weight.dtype, options.groups, channels, filters,
                                      std::move(axes), weights, channels * weights.channel,
                                      options.algorithm);
        convolution.run(extents, arrays);
      }
    }
  }
}

namespace {

// How the gradient of the weights is summed: tasks of some channels, filters and blocks of
// positions.
struct GradPlan {
  ConvProblem problem;
  std::array<ConvAxis, 3> axes;
  int64_t groups = 1;
  int64_t batch = 0;
  Triple size{}, count{};                   // of blocks of positions
  int64_t channels = 1, channel_parts = 1;  // of a task
  int64_t filters = 1, filter_parts = 1;
  int64_t parts = 1;  // of the blocks of positions
  int64_t sums = 0;   // items of the sums of a task
  int64_t blocks() const { return batch * count[0] * count[1] * count[2]; }
};

GradPlan plan_gradient(const ConvGradKernel& kernel, const View& grad, const View& x,
                       const Shape& weight, const Conv3dOptions& options, bool depthwise) {
  GradPlan plan;
  plan.batch = x.shape[0];
  plan.groups = depthwise ? 1 : options.groups;
  ConvProblem& problem = plan.problem;
  problem.depthwise = depthwise;
  problem.channels = depthwise ? x.shape[1] : weight[1];
  problem.filters = weight[0] / plan.groups;
  for (int axis = 0; axis < 3; ++axis) {
    const auto a = static_cast<std::size_t>(axis);
    plan.axes[a] =
        forward_axis(weight[axis + 2], options.stride[a], options.dilation[a], options.before[a]);
    problem.in[a] = x.shape[axis + 2];
    problem.out[a] = grad.shape[axis + 2];
  }
  for (std::size_t a = 0; a < 3; ++a) problem.taps[a] = plan.axes[a].taps();

  int64_t left = depthwise ? kDepthwisePositions : kPositions;
  for (const std::size_t a : {2U, 1U, 0U}) {
    plan.size[a] = std::clamp<int64_t>(left, 1, std::max<int64_t>(problem.out[a], 1));
    plan.count[a] = divide_up(problem.out[a], plan.size[a]);
    plan.size[a] = divide_up(problem.out[a], std::max<int64_t>(plan.count[a], 1));
    left /= std::max<int64_t>(plan.size[a], 1);
  }

  const int64_t taps = problem.tap_count();
  const int64_t most = kSumBytes / 4;
  if (depthwise) {
    plan.filters = kernel.panel;
    plan.filter_parts = divide_up(problem.filters, std::max<int64_t>(plan.filters, 1));
    plan.sums = taps * kernel.panel;
  } else {
    plan.channels = std::min(problem.channels, kMostChannels);
    plan.filters = divide_up(problem.filters, kernel.panel) * kernel.panel;
    while (plan.filters > 2 * kernel.panel && taps * plan.channels * plan.filters > most) {
      plan.filters = divide_up(plan.filters / 2, kernel.panel) * kernel.panel;
    }
    while (plan.channels > 16 && taps * plan.channels * plan.filters > most) {
      plan.channels = divide_up(plan.channels, 2);
    }
    plan.channel_parts = divide_up(problem.channels, std::max<int64_t>(plan.channels, 1));
    plan.filter_parts = divide_up(problem.filters, std::max<int64_t>(plan.filters, 1));
    plan.sums = taps * plan.channels * plan.filters;
  }
  const int64_t tasks = plan.groups * plan.channel_parts * plan.filter_parts;
  const int64_t work = plan.batch * problem.out[0] * problem.out[1] * problem.out[2] * taps *
                       problem.filters * (depthwise ? 1 : problem.channels);
  plan.parts = std::max(work / kPartWork, divide_up(kFewestTasks, std::max<int64_t>(tasks, 1)));
  plan.parts = std::min(plan.parts, kPartialBytes / std::max<int64_t>(tasks * plan.sums * 4, 1));
  plan.parts = std::clamp<int64_t>(plan.parts, 1, std::max<int64_t>(plan.blocks(), 1));
  return plan;
}

// The block of positions `index`, of one group.
ConvGradBlock place_block(const GradPlan& plan, const ConvArray& x, const ConvArray& grad,
                          int64_t item, int64_t group, int64_t index) {
  ConvGradBlock result;
  ConvBlock& block = result.block;
  block.problem = &plan.problem;
  for (int axis = 2; axis >= 0; --axis) {
    const auto a = static_cast<std::size_t>(axis);
    block.begin[a] = index % plan.count[a] * plan.size[a];
    block.end[a] = std::min(block.begin[a] + plan.size[a], plan.problem.out[a]);
    index /= plan.count[a];
  }
  block.x = static_cast<const std::byte*>(x.data) +
            (index * x.batch + group * plan.problem.channels * x.strides.c) * item;
  block.x_strides = x.strides;
  result.grad = static_cast<const std::byte*>(grad.data) +
                (index * grad.batch + group * plan.problem.filters * grad.strides.c) * item;
  result.grad_strides = grad.strides;
  return result;
}

void sum_weights(const ConvGradKernel& kernel, const GradPlan& plan, const ConvArray& x,
                 const ConvArray& grad, const View& to) {
  const int64_t item = item_size(to.dtype);
  const int64_t sum_item = to.dtype == DType::f64 ? 8 : 4;
  const int64_t blocks = plan.blocks();
  const int64_t tasks = plan.groups * plan.channel_parts * plan.filter_parts;
  const Buffer partial(tasks * plan.parts * plan.sums * sum_item);

  // Channels and filters of a task.
  const auto choose = [&](ConvGradBlock& block, int64_t task) {
    block.first_channel = task / plan.filter_parts % plan.channel_parts * plan.channels;
    block.channels = std::min(plan.channels, plan.problem.channels - block.first_channel);
    block.first_filter = task % plan.filter_parts * plan.filters;
    block.filters = std::min(plan.filters, plan.problem.filters - block.first_filter);
  };
  ConvGradBlock largest;
  largest.block.problem = &plan.problem;
  largest.block.end = plan.size;
  largest.channels = plan.channels;
  largest.filters = plan.filters;
  parallel_for(tasks * plan.parts, 1, static_cast<std::size_t>(kernel.scratch(largest)),
               [&](int64_t begin, int64_t end, std::byte* scratch) {
                 for (int64_t i = begin; i < end; ++i) {
                   const int64_t task = i / plan.parts;
                   const int64_t part = i % plan.parts;
                   std::byte* sums = partial.data() + i * plan.sums * sum_item;
                   std::memset(sums, 0, static_cast<std::size_t>(plan.sums * sum_item));
                   const int64_t group = task / (plan.filter_parts * plan.channel_parts);
                   for (int64_t b = blocks * part / plan.parts;
                        b < blocks * (part + 1) / plan.parts; ++b) {
                     ConvGradBlock block = place_block(plan, x, grad, item, group, b);
                     choose(block, task);
                     block.sums = sums;
                     block.block.scratch = scratch;
                     kernel.run(block);
                   }
                 }
               });
  const int64_t taps = plan.problem.tap_count();
  const int64_t filter_stride = taps * (plan.problem.depthwise ? 1 : plan.problem.channels);
  parallel_for(tasks, 1, 0, [&](int64_t begin, int64_t end, std::byte*) {
    for (int64_t task = begin; task < end; ++task) {
      ConvGradBlock block;
      block.block.problem = &plan.problem;
      choose(block, task);
      block.sums = partial.data() + task * plan.parts * plan.sums * sum_item;
      const int64_t group = task / (plan.filter_parts * plan.channel_parts);
      const int64_t at = (group * plan.problem.filters + block.first_filter) * filter_stride +
                         (plan.problem.depthwise ? 0 : block.first_channel * taps);
      kernel.finish(block, plan.parts, plan.sums, to.as<std::byte>() + at * item, filter_stride);
    }
  });
}

void sum_bias(const ConvGradKernel& kernel, GradPlan plan, const ConvArray& x,
              const ConvArray& grad, const View& to) {
  // All groups at once, filters by panels.
  plan.problem.filters *= plan.groups;
  constexpr int64_t kFilters = 16;
  const int64_t filters = plan.problem.filters;
  const int64_t item = item_size(to.dtype);
  const auto scratch = static_cast<std::size_t>(plan.size[2] * 64 + 64);
  parallel_for(divide_up(filters, kFilters), 1, scratch,
               [&](int64_t begin, int64_t end, std::byte* memory) {
                 for (int64_t i = begin; i < end; ++i) {
                   double total[kFilters] = {};
                   const int64_t first = i * kFilters;
                   const int64_t count = std::min(kFilters, filters - first);
                   for (int64_t b = 0; b < plan.blocks(); ++b) {
                     ConvGradBlock block = place_block(plan, x, grad, item, 0, b);
                     block.first_filter = first;
                     block.filters = count;
                     block.block.scratch = memory;
                     kernel.sum_grad(block, total);
                   }
                   for (int64_t k = 0; k < count; ++k) {
                     std::byte* at = to.as<std::byte>() + (first + k) * item;
                     switch (to.dtype) {
                       case DType::f64:
                         *reinterpret_cast<double*>(at) = total[k];
                         break;
                       case DType::bf16:
                         *reinterpret_cast<bfloat16*>(at) = narrow(static_cast<float>(total[k]));
                         break;
                       default:
                         *reinterpret_cast<float*>(at) = static_cast<float>(total[k]);
                     }
                   }
                 }
               });
}

}  // namespace

void conv3d_backward_weight(const View& grad, const View& x, const Shape& weight,
                            const Conv3dOptions& options, const View* grad_weight,
                            const View* grad_bias) {
  check_gradient(grad, x.shape, weight, options);
  check_type("grad", grad, x.dtype);
  const bool depthwise = options.groups > 1 && weight[1] == 1 && weight[0] == options.groups;
  const ConvGradKernel kernel =
      (depthwise ? select_conv3d_depthwise_weights_stub : select_conv3d_weights_stub)
          .get()(x.dtype);
  const GradPlan plan = plan_gradient(kernel, grad, x, weight, options, depthwise);
  const ConvArray inputs = conv_array(x);
  const ConvArray gradients = conv_array(grad);
  if (grad_weight != nullptr && weight_is_of_patches(grad, weight, options)) {
    patches_backward_weight(grad, x, weight, *grad_weight);
  } else if (grad_weight != nullptr) {
    sum_weights(kernel, plan, inputs, gradients, *grad_weight);
  }
  if (grad_bias != nullptr) sum_bias(kernel, plan, inputs, gradients, *grad_bias);
}

}  // namespace marey
