// What convolution demands of its arguments, on every device.
#include <string>

#include "core/error.h"
#include "ops/conv/conv3d.h"

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

void check_conv3d(std::string_view function, const View& weight, const View* bias,
                  const Conv3dOptions& options) {
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
  }
}

}  // namespace marey
