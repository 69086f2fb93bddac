#include <pybind11/stl.h>

#include <algorithm>
#include <array>
#include <optional>
#include <string>
#include <vector>

#include "bindings/cuda_arrays.h"
#include "bindings/cuda_register.h"
#include "core/error.h"
#include "ops/conv/conv_cuda.h"

namespace marey::python {
namespace {

constexpr std::array<int, 5> kChannelsLast{0, 4, 1, 2, 3};

// The axes in the order N, C, T, H, W.
View in_order(const View& view, bool channels_last) {
  if (!channels_last || view.ndim() != 5) return view;
  View result = view;
  for (int axis = 0; axis < 5; ++axis) {
    const int from = kChannelsLast[static_cast<std::size_t>(axis)];
    result.shape[axis] = view.shape[from];
    result.stride(axis) = view.stride(from);
  }
  return result;
}

Conv3dOptions options_of(const Triple& stride, const std::array<int64_t, 6>& padding,
                         const Triple& dilation, int64_t groups, int activation) {
  Conv3dOptions options;
  options.stride = stride;
  options.dilation = dilation;
  options.before = {padding[0], padding[2], padding[4]};
  options.after = {padding[1], padding[3], padding[5]};
  options.groups = groups;
  options.activation = static_cast<Activation>(activation);
  return options;
}

Shape with_history(const View& x, const std::optional<View>& past) {
  Shape shape = x.shape;
  if (past && shape.ndim == 5 && past->ndim() == 5) shape[2] += past->shape[2];
  return shape;
}

// The shape of the result, in the layout of x; everything but `out` is checked.
std::vector<int64_t> py_conv3d_shape(const std::string& function, const py::handle& x,
                                     const py::handle& past, const py::handle& weight,
                                     const py::handle& bias, const Triple& stride,
                                     const std::array<int64_t, 6>& padding, const Triple& dilation,
                                     int64_t groups, bool channels_last, int activation) {
  const View filters = device_view(function, "weight", weight);
  const std::optional<View> added = optional_device_view(function, "bias", bias);
  const Conv3dOptions options = options_of(stride, padding, dilation, groups, activation);
  check_conv3d(function, filters, pointer(added), options);
  const View source = in_order(device_view(function, "x", x), channels_last);
  std::optional<View> before = optional_device_view(function, "state", past);
  if (before) before = in_order(*before, channels_last);
  for (const auto& [argument, view] : {std::pair{"x", &source}, {"state", pointer(before)}}) {
    if (view != nullptr && view->dtype != filters.dtype) {
      throw TypeError(function, argument, name(filters.dtype), name(view->dtype));
    }
  }
  const Shape shape = conv3d_shape(function, with_history(source, before), filters.shape, options);
  if (before) {
    Shape expected = source.shape;
    expected[2] = before->ndim() == 5 ? before->shape[2] : 0;
    if (!(before->shape == expected)) {
      throw ValueError(function, "state", "shape " + to_string(expected), to_string(before->shape));
    }
  }
  if (!channels_last) return {shape[0], shape[1], shape[2], shape[3], shape[4]};
  return {shape[0], shape[2], shape[3], shape[4], shape[1]};
}

// Returns the name of the kernel that ran.
std::string py_conv3d(const std::string& function, const py::handle& x, const py::handle& past,
                      const py::handle& weight, const py::handle& bias, const Triple& stride,
                      const std::array<int64_t, 6>& padding, const Triple& dilation, int64_t groups,
                      bool channels_last, int activation, const py::handle& out,
                      const py::handle& workspace, const py::handle& queue) {
  const View filters = device_view(function, "weight", weight);
  const std::optional<View> added = optional_device_view(function, "bias", bias);
  const Conv3dOptions options = options_of(stride, padding, dilation, groups, activation);
  const View given = device_view(function, "x", x);
  Shape shape;
  for (const int64_t extent : py_conv3d_shape(function, x, past, weight, bias, stride, padding,
                                              dilation, groups, channels_last, activation)) {
    shape.push_back(extent);
  }
  const View target = device_result(function, out, shape, given.dtype, given);
  check_no_device_overlap(function, target, filters);
  std::optional<View> before = optional_device_view(function, "state", past);
  if (before) check_no_device_overlap(function, target, *before);
  if (added) check_no_device_overlap(function, target, *added);
  if (before) before = in_order(*before, channels_last);
  void* memory = workspace_pointer(workspace);
  const DeviceQueue where(queue);
  // The views stay valid: the caller holds the arrays.
  const py::gil_scoped_release release;
  return cuda::conv3d(*where, in_order(given, channels_last), pointer(before), filters,
                      pointer(added), options, in_order(target, channels_last), memory);
}

// Views of a backward call, checked. They are in the order N, C, T, H, W.
struct Backward {
  View grad, x, weight;
  Conv3dOptions options;

  Backward(const std::string& function, const py::handle& gradient, const py::handle& source,
           const py::handle& filters, const Triple& stride, const std::array<int64_t, 6>& padding,
           const Triple& dilation, int64_t groups, bool channels_last)
      : grad(in_order(device_view(function, "grad", gradient), channels_last)),
        x(in_order(device_view(function, "x", source), channels_last)),
        weight(device_view(function, "weight", filters)),
        options(options_of(stride, padding, dilation, groups, 0)) {
    const Shape expected = conv3d_shape(function, x.shape, weight.shape, options);
    if (x.dtype == DType::u8) {
      throw TypeError(function, "x", "float32, float64 or bfloat16", name(x.dtype));
    }
    for (const auto& [argument, view] : {std::pair{"weight", &weight}, {"grad", &grad}}) {
      if (view->dtype != x.dtype) {
        throw TypeError(function, argument, name(x.dtype), name(view->dtype));
      }
    }
    if (!(grad.shape == expected)) {
      throw ValueError(function, "grad", "shape " + to_string(expected) + ", that of the result",
                       to_string(grad.shape));
    }
  }
};

int64_t py_conv3d_backward_workspace(const std::string& function, const py::handle& grad,
                                     const py::handle& x, const py::handle& weight,
                                     const Triple& stride, const std::array<int64_t, 6>& padding,
                                     const Triple& dilation, int64_t groups, bool channels_last) {
  const Backward given(function, grad, x, weight, stride, padding, dilation, groups, channels_last);
  return std::max(cuda::conv3d_backward_workspace(given.grad, given.weight.shape, given.options),
                  cuda::conv3d_workspace(given.weight));
}

// The results, each of which may be None, are new arrays: C-ordered, of the shapes of x, of the
// weights and (K,).
void py_conv3d_backward(const std::string& function, const py::handle& grad, const py::handle& x,
                        const py::handle& weight, const Triple& stride,
                        const std::array<int64_t, 6>& padding, const Triple& dilation,
                        int64_t groups, bool channels_last, const py::handle& grad_x,
                        const py::handle& grad_weight, const py::handle& grad_bias,
                        const py::handle& workspace, const py::handle& queue) {
  const Backward given(function, grad, x, weight, stride, padding, dilation, groups, channels_last);
  std::optional<View> to_x = optional_device_view(function, "grad_x", grad_x);
  if (to_x) to_x = in_order(*to_x, channels_last);
  const std::optional<View> to_weight = optional_device_view(function, "grad_weight", grad_weight);
  const std::optional<View> to_bias = optional_device_view(function, "grad_bias", grad_bias);
  void* memory = workspace_pointer(workspace);
  const DeviceQueue where(queue);
  // The views stay valid: the caller holds the arrays.
  const py::gil_scoped_release release;
  if (to_x)
    cuda::conv3d_backward_input(*where, given.grad, given.weight, given.options, *to_x, memory);
  if (to_weight || to_bias) {
    cuda::conv3d_backward_weight(*where, given.grad, given.x, given.weight.shape, given.options,
                                 pointer(to_weight), pointer(to_bias), memory);
  }
}

}  // namespace

void register_cuda_conv(py::module_& module) {
  module.def("conv3d_shape", &py_conv3d_shape, py::arg("function"), py::arg("x"), py::arg("past"),
             py::arg("weight"), py::arg("bias"), py::arg("stride"), py::arg("padding"),
             py::arg("dilation"), py::arg("groups"), py::arg("channels_last"),
             py::arg("activation"));
  module.def("conv3d", &py_conv3d, py::arg("function"), py::arg("x"), py::arg("past"),
             py::arg("weight"), py::arg("bias"), py::arg("stride"), py::arg("padding"),
             py::arg("dilation"), py::arg("groups"), py::arg("channels_last"),
             py::arg("activation"), py::arg("out"), py::arg("workspace"), py::arg("queue"));
  module.def("conv3d_backward_workspace", &py_conv3d_backward_workspace, py::arg("function"),
             py::arg("grad"), py::arg("x"), py::arg("weight"), py::arg("stride"),
             py::arg("padding"), py::arg("dilation"), py::arg("groups"), py::arg("channels_last"));
  module.def("conv3d_backward", &py_conv3d_backward, py::arg("function"), py::arg("grad"),
             py::arg("x"), py::arg("weight"), py::arg("stride"), py::arg("padding"),
             py::arg("dilation"), py::arg("groups"), py::arg("channels_last"), py::arg("grad_x"),
             py::arg("grad_weight"), py::arg("grad_bias"), py::arg("workspace"), py::arg("queue"));
}

}  // namespace marey::python
