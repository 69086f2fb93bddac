#include "ops/conv/conv3d.h"

#include <string>
#include <utility>

#include "core/bfloat16.h"
#include "core/error.h"
#include "ops/conv/conv3d_plan.h"

namespace marey {
namespace {

constexpr int64_t kMostExtent = int64_t{1} << 40;
constexpr const char* kAxes[] = {"T", "H", "W"};

std::string triple(const Triple& x) {
  return "(" + std::to_string(x[0]) + ", " + std::to_string(x[1]) + ", " + std::to_string(x[2]) +
         ")";
}

void check_options(std::string_view function, const Conv3dOptions& options) {
  const auto within = [&](const char* argument, const Triple& x, int64_t least) {
    for (const int64_t value : x) {
      if (value < least || value > kMostExtent) {
        throw ValueError(function, argument, "integers of " + std::to_string(least) + " or more",
                         triple(x));
      }
    }
  };
  within("stride", options.stride, 1);
  within("dilation", options.dilation, 1);
  within("padding", options.before, 0);
  within("padding", options.after, 0);
  if (options.groups < 1) {
    throw ValueError(function, "groups", "1 or more", std::to_string(options.groups));
  }
}

void check_weight(std::string_view function, const Shape& weight, const Conv3dOptions& options) {
  if (weight.ndim != 5) {
    throw ValueError(function, "weight", "shape (K, C / groups, kT, kH, kW)", to_string(weight));
  }
  if (weight[0] % options.groups != 0) {
    throw ValueError(
        function, "weight",
        "a number of filters that groups=" + std::to_string(options.groups) + " divides",
        to_string(weight));
  }
  for (int axis = 2; axis < 5; ++axis) {
    if (weight[axis] < 1) {
      throw ValueError(function, "weight", "at least one tap along T, H and W", to_string(weight));
    }
  }
}

}  // namespace

Shape conv3d_shape(std::string_view function, const Shape& x, const Shape& weight,
                   const Conv3dOptions& options) {
  check_options(function, options);
  check_weight(function, weight, options);
  if (x.ndim != 5) {
    throw ValueError(function, "x", "five axes: a batch, channels, T, H and W", to_string(x));
  }
  if (x[1] != weight[1] * options.groups) {
    throw ValueError(function, "x",
                     std::to_string(weight[1] * options.groups) + " channels for weight of shape " +
                         to_string(weight) + " and groups=" + std::to_string(options.groups),
                     std::to_string(x[1]));
  }
  Shape out;
  out.push_back(x[0]);
  out.push_back(weight[0]);
  for (int axis = 0; axis < 3; ++axis) {
    const auto a = static_cast<std::size_t>(axis);
    const int64_t padded = x[axis + 2] + options.before[a] + options.after[a];
    const int64_t reach = options.dilation[a] * (weight[axis + 2] - 1) + 1;
    if (x[axis + 2] != 0 && padded < reach) {
      throw ValueError(function, "x",
                       "at least " + std::to_string(reach) + " along " + kAxes[axis] +
                           " with its padding, which is what the kernel covers",
                       std::to_string(padded));
    }
    out.push_back(padded < reach ? 0 : (padded - reach) / options.stride[a] + 1);
  }
  return out;
}

void Conv3d::Plan::copy_bias(const View& view) {
  for (int64_t k = 0; k < view.shape[0]; ++k) {
    const std::byte* at = view.as<const std::byte>() + k * view.stride(0);
    switch (view.dtype) {
      case DType::f64:
        bias64.push_back(*reinterpret_cast<const double*>(at));
        break;
      case DType::bf16:
        bias32.push_back(widen(*reinterpret_cast<const bfloat16*>(at)));
        break;
      default:
        bias32.push_back(*reinterpret_cast<const float*>(at));
    }
  }
}

Convolution::Extents Conv3d::Plan::extents(const Shape& x) const {
  const Shape out = conv3d_shape(function, x, weight, options);
  Convolution::Extents result;
  result.batch = x[0];
  for (int axis = 0; axis < 3; ++axis) {
    result.in[static_cast<std::size_t>(axis)] = x[axis + 2];
    result.out[static_cast<std::size_t>(axis)] = out[axis + 2];
  }
  return result;
}

Conv3d::Conv3d(std::string_view function, const View& weight, const View* bias,
               const Conv3dOptions& options)
    : plan_(std::make_unique<Plan>()) {
  check_options(function, options);
  check_weight(function, weight.shape, options);
  if (weight.dtype == DType::u8) {
    throw TypeError(function, "weight", "float32, float64 or bfloat16", name(weight.dtype));
  }
  if (bias != nullptr) {
    if (bias->ndim() != 1 || bias->shape[0] != weight.shape[0]) {
      throw ValueError(function, "bias", "shape (" + std::to_string(weight.shape[0]) + ",)",
                       to_string(bias->shape));
    }
    if (bias->dtype != weight.dtype &&
        !(bias->dtype == DType::f32 && weight.dtype == DType::bf16)) {
      throw TypeError(function, "bias", name(weight.dtype), name(bias->dtype));
    }
    plan_->copy_bias(*bias);
  }
  plan_->function = function;
  plan_->weight = weight.shape;
  plan_->dtype = weight.dtype;
  plan_->options = options;
  const int64_t item = item_size(weight.dtype);
  std::array<ConvAxis, 3> axes;
  ConvWeights weights;
  weights.data = weight.data;
  weights.filter = weight.stride(0) / item;
  weights.channel = weight.stride(1) / item;
  for (int axis = 0; axis < 3; ++axis) {
    const auto a = static_cast<std::size_t>(axis);
    axes[a] = forward_axis(weight.shape[axis + 2], options.stride[a], options.dilation[a],
                           options.before[a]);
    weights.tap[a] = weight.stride(axis + 2) / item;
  }
  if (options.algorithm == ConvAlgorithm::winograd && !winograd_fits(weight.dtype, axes)) {
    throw ValueError(function, "algorithm",
                     "'auto' or 'direct' for anything but float32 and kernels (kT, 3, 3) of stride "
                     "and dilation 1 along H and W",
                     "'winograd'");
  }
  const int64_t filters = weight.shape[0] / options.groups;
  plan_->convolution = std::make_unique<Convolution>(weight.dtype, options.groups, weight.shape[1],
                                                     filters, std::move(axes), weights,
                                                     filters * weights.filter, options.algorithm);
}

Conv3d::~Conv3d() = default;
Conv3d::Conv3d(Conv3d&&) noexcept = default;

void Conv3d::run(const View& x, const View* past, const View& out) const {
  const Plan& plan = *plan_;
  Shape shape = x.shape;
  if (x.dtype != plan.dtype) {
    throw TypeError(plan.function, "x", std::string(name(plan.dtype)) + ", as weight is",
                    name(x.dtype));
  }
  Convolution::Arrays arrays;
  if (past != nullptr && x.ndim() == 5) {
    Shape expected = x.shape;
    expected[2] = past->ndim() == 5 ? past->shape[2] : 0;
    if (!(past->shape == expected)) {
      throw ValueError(plan.function, "state", "frames as those of x " + to_string(x.shape),
                       to_string(past->shape));
    }
    if (past->dtype != x.dtype) {
      throw TypeError(plan.function, "state", name(x.dtype), name(past->dtype));
    }
    arrays.history = past->shape[2];
    if (arrays.history != 0) arrays.past = conv_array(*past);
    shape[2] += arrays.history;
  }
  const Shape expected = conv3d_shape(plan.function, shape, plan.weight, plan.options);
  if (!(out.shape == expected)) {
    throw ValueError(plan.function, "out", "shape " + to_string(expected), to_string(out.shape));
  }
  if (out.dtype != plan.dtype) {
    throw TypeError(plan.function, "out", name(plan.dtype), name(out.dtype));
  }
  arrays.x = conv_array(x);
  arrays.out = conv_array(out);
  arrays.bias = plan.bias();
  arrays.activation = plan.options.activation;
  plan.convolution->run(plan.extents(shape), arrays);
}

int64_t Conv3d::workspace(const Shape& x) const {
  return plan_->convolution->workspace(plan_->extents(x));
}
int64_t Conv3d::packed_bytes() const { return plan_->convolution->packed_bytes(); }
const char* Conv3d::algorithm(const Shape&) const { return plan_->convolution->algorithm(); }

}  // namespace marey
