#include "ops/conv/conv3d.h"

#include <string>
#include <utility>

#include "core/bfloat16.h"
#include "core/error.h"
#include "ops/conv/conv3d_plan.h"

namespace marey {
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
  check_conv3d(function, weight, bias, options);
  if (bias != nullptr) plan_->copy_bias(*bias);
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
  plan_->convolution = std::make_unique<Convolution>(
      weight.dtype, options.groups, weight.shape[1], filters, std::move(axes), weights,
      filters * weights.filter, options.algorithm, options.by_frames);
}

Conv3d::~Conv3d() = default;
Conv3d::Conv3d(Conv3d&&) noexcept = default;

void Conv3d::run(const View& x, const View* past, const View& out, const LastFrames* last) const {
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
  arrays.last = last;
  plan.convolution->run(plan.extents(shape), arrays);
}

int64_t Conv3d::workspace(const Shape& x) const {
  return plan_->convolution->workspace(plan_->extents(x));
}
int64_t Conv3d::packed_bytes() const { return plan_->convolution->packed_bytes(); }
const char* Conv3d::algorithm(const Shape&) const { return plan_->convolution->algorithm(); }

}  // namespace marey
