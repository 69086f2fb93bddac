#include <pybind11/stl.h>

#include <array>
#include <optional>
#include <string>
#include <vector>

#include "bindings/arrays.h"
#include "bindings/register.h"
#include "core/error.h"
#include "ops/conv/conv3d.h"
#include "ops/conv/conv3d_backward.h"
#include "ops/conv/conv3d_causal.h"

namespace marey::python {
namespace {

// Padding before and after each axis.
using Six = std::array<int64_t, 6>;

Conv3dOptions make_options(const Triple& stride, const Six& padding, const Triple& dilation,
                           int64_t groups, int activation, int algorithm) {
  Conv3dOptions options;
  options.stride = stride;
  options.dilation = dilation;
  options.before = {padding[0], padding[2], padding[4]};
  options.after = {padding[1], padding[3], padding[5]};
  options.groups = groups;
  options.activation = static_cast<Activation>(activation);
  options.algorithm = static_cast<ConvAlgorithm>(algorithm);
  return options;
}

// The axes in the order N, C, T, H, W.
View in_order(const View& view, bool channels_last) {
  if (!channels_last || view.ndim() != 5) return view;
  constexpr std::array<int, 5> kOrder{0, 4, 1, 2, 3};
  View result = view;
  for (int axis = 0; axis < 5; ++axis) {
    result.shape[axis] = view.shape[kOrder[static_cast<std::size_t>(axis)]];
    result.stride(axis) = view.stride(kOrder[static_cast<std::size_t>(axis)]);
  }
  return result;
}

Shape in_layout(const Shape& shape, bool channels_last) {
  if (!channels_last) return shape;
  Shape result;
  for (const int axis : {0, 2, 3, 4, 1}) result.push_back(shape[axis]);
  return result;
}

// Weights packed for the instruction set that was in use then, which it goes on with. Keeps nothing
// of Python's.
class PyConv3d {
 public:
  PyConv3d(std::string function, const py::object& weight, const py::object& bias,
           const Triple& stride, const Six& padding, const Triple& dilation, int64_t groups,
           bool channels_last, int activation, int algorithm, bool by_frames)
      : function_(std::move(function)), channels_last_(channels_last) {
    const View filters = view_of(function_, "weight", weight, kWithBfloat16);
    const std::optional<View> added = optional_view(function_, "bias", bias);
    options_ = make_options(stride, padding, dilation, groups, activation, algorithm);
    options_.by_frames = by_frames;
    weight_ = filters.shape;
    // The views stay valid: the arguments are held by the caller.
    const py::gil_scoped_release release;
    conv_.emplace(function_, filters, pointer(added), options_);
  }

  py::array call(const py::object& x, const py::object& past, const py::object& out) const {
    return convolve(x, past, out, nullptr);
  }

  // Of the next frames of a stream: the result, and the last frames seen, as many as `past` has.
  // `backwards`: they may lie in the reverse order in memory.
  py::tuple stream(const py::object& x, const py::object& past, const py::object& out,
                   bool backwards) const {
    const View given = view_of(function_, "x", x, kWithBfloat16);
    const View before = view_of(function_, "state", past, kWithBfloat16);
    const int time = channels_last_ ? 1 : 2;
    Shape expected = given.shape;
    if (expected.ndim == 5 && before.ndim() == 5) expected[time] = before.shape[time];
    if (!(before.shape == expected)) {
      throw ValueError(function_, "state", "frames as those of x " + to_string(given.shape),
                       to_string(before.shape));
    }
    if (before.dtype != given.dtype) {
      throw TypeError(function_, "state", name(given.dtype), name(before.dtype));
    }
    const bool some = given.ndim() == 5 && given.shape[time] != 0;
    if (given.ndim() != 5 || before.shape.count() == 0) {
      py::array y = call(x, some ? past : py::none(), out);
      return py::make_tuple(y, new_array(before.shape, given.dtype));
    }
    const View frames = in_order(given, channels_last_);
    const View past_frames = in_order(before, channels_last_);
    auto kept =
        std::make_unique<KeptFrames>(past_frames, frames.shape[2], channels_last_, backwards);
    const LastFrames last(past_frames, frames, *kept);
    py::array y = convolve(x, some ? past : py::none(), out, &last);
    return py::make_tuple(y, state_array(std::move(kept)));
  }

  // x through this convolution in space, then through `temporal`.
  py::array separable(const PyConv3d& temporal, const py::object& x, const py::object& out) const {
    const View source = in_order(view_of(function_, "x", x, kWithBfloat16), channels_last_);
    const Shape expected = separable_shape(*conv_, *temporal.conv_, source.shape);
    py::array result =
        result_array(function_, out, in_layout(expected, channels_last_), source.dtype, source);
    const View target = in_order(view_of(function_, "out", result, kWithBfloat16), channels_last_);
    {
      // The views stay valid: the arguments are held by the caller, the result by this frame.
      const py::gil_scoped_release release;
      separable_conv3d(*conv_, *temporal.conv_, source, target);
    }
    return result;
  }

  Shape shape_of(const std::vector<int64_t>& extents) const {
    if (extents.size() != 5) {
      throw ValueError(function_, "shape", "five axes", std::to_string(extents.size()));
    }
    Shape shape;
    constexpr std::array<std::size_t, 5> kOrder{0, 4, 1, 2, 3};
    for (std::size_t axis = 0; axis < 5; ++axis) {
      shape.push_back(extents[channels_last_ ? kOrder[axis] : axis]);
    }
    return shape;
  }
  int64_t workspace(const std::vector<int64_t>& extents) const {
    return conv_->workspace(shape_of(extents));
  }
  std::string algorithm(const std::vector<int64_t>& extents) const {
    return conv_->algorithm(shape_of(extents));
  }
  int64_t packed_bytes() const { return conv_->packed_bytes(); }

 private:
  py::array convolve(const py::object& x, const py::object& past, const py::object& out,
                     const LastFrames* last) const {
    const View source = in_order(view_of(function_, "x", x, kWithBfloat16), channels_last_);
    std::optional<View> before = optional_view(function_, "state", past);
    if (before) before = in_order(*before, channels_last_);
    Shape shape = source.shape;
    if (before && shape.ndim == 5 && before->ndim() == 5) shape[2] += before->shape[2];
    const Shape expected = conv3d_shape(function_, shape, weight_, options_);
    py::array result =
        result_array(function_, out, in_layout(expected, channels_last_), source.dtype, source);
    const View target = in_order(view_of(function_, "out", result, kWithBfloat16), channels_last_);
    if (before) check_no_overlap(function_, target, *before);
    {
      // The views stay valid: the arguments are held by the caller, the result by this frame.
      const py::gil_scoped_release release;
      conv_->run(source, pointer(before), target, last);
    }
    return result;
  }

  // The array owns the frames.
  py::array state_array(std::unique_ptr<KeptFrames> kept) const {
    const View view = kept->view();
    constexpr std::array<int, 5> kLast{0, 2, 3, 4, 1};
    std::vector<py::ssize_t> shape;
    std::vector<py::ssize_t> strides;
    for (int i = 0; i < 5; ++i) {
      const int axis = channels_last_ ? kLast[static_cast<std::size_t>(i)] : i;
      shape.push_back(view.shape[axis]);
      strides.push_back(view.stride(axis));
    }
    const py::capsule owner(kept.release(), [](void* p) { delete static_cast<KeptFrames*>(p); });
    return {numpy_dtype(view.dtype), shape, strides, view.data, owner};
  }

  std::string function_;
  bool channels_last_;
  Conv3dOptions options_;
  Shape weight_;
  std::optional<Conv3d> conv_;
};

// (grad_x, grad_weight, grad_bias), each None if it is not needed.
py::tuple py_conv3d_backward(const py::object& grad, const py::object& x, const py::object& weight,
                             const Triple& stride, const Six& padding, const Triple& dilation,
                             int64_t groups, bool channels_last, int algorithm,
                             const std::array<bool, 3>& needs) {
  constexpr std::string_view kName = "marey.conv3d_backward";
  const Conv3dOptions options = make_options(stride, padding, dilation, groups, 0, algorithm);
  const View gradient = in_order(view_of(kName, "grad", grad, kWithBfloat16), channels_last);
  const View source = view_of(kName, "x", x, kWithBfloat16);
  const View inputs = in_order(source, channels_last);
  const View filters = view_of(kName, "weight", weight, kWithBfloat16);
  conv3d_shape(kName, inputs.shape, filters.shape, options);
  if (inputs.dtype == DType::u8) {
    throw TypeError(kName, "x", "float32, float64 or bfloat16", name(inputs.dtype));
  }
  if (filters.dtype != inputs.dtype) {
    throw TypeError(kName, "weight", name(inputs.dtype), name(filters.dtype));
  }
  py::object grad_x = py::none();
  py::object grad_weight = py::none();
  py::object grad_bias = py::none();
  std::array<View, 3> to;
  if (needs[0]) {
    grad_x = new_array(source.shape, source.dtype);
    to[0] = in_order(view_of(kName, "grad_x", grad_x, kWithBfloat16), channels_last);
  }
  if (needs[1]) {
    grad_weight = new_array(filters.shape, source.dtype);
    to[1] = view_of(kName, "grad_weight", grad_weight, kWithBfloat16);
  }
  if (needs[2]) {
    Shape shape;
    shape.push_back(filters.shape[0]);
    grad_bias = new_array(shape, source.dtype);
    to[2] = view_of(kName, "grad_bias", grad_bias, kWithBfloat16);
  }
  {
    // The views stay valid: the arguments are held by the caller, the results by this frame.
    const py::gil_scoped_release release;
    if (needs[0]) conv3d_backward_input(gradient, filters, options, to[0]);
    if (needs[1] || needs[2]) {
      conv3d_backward_weight(gradient, inputs, filters.shape, options, needs[1] ? &to[1] : nullptr,
                             needs[2] ? &to[2] : nullptr);
    }
  }
  return py::make_tuple(grad_x, grad_weight, grad_bias);
}

}  // namespace

void register_conv(py::module_& module) {
  py::class_<PyConv3d>(module, "Conv3d")
      .def(py::init<std::string, const py::object&, const py::object&, const Triple&, const Six&,
                    const Triple&, int64_t, bool, int, int, bool>(),
           py::arg("function"), py::arg("weight"), py::arg("bias"), py::arg("stride"),
           py::arg("padding"), py::arg("dilation"), py::arg("groups"), py::arg("channels_last"),
           py::arg("activation"), py::arg("algorithm"), py::arg("by_frames") = false)
      .def("__call__", &PyConv3d::call, py::arg("x"), py::arg("past"), py::arg("out"))
      .def("stream", &PyConv3d::stream, py::arg("x"), py::arg("past"), py::arg("out"),
           py::arg("backwards"))
      .def("separable", &PyConv3d::separable, py::arg("temporal"), py::arg("x"), py::arg("out"))
      .def("workspace", &PyConv3d::workspace, py::arg("shape"))
      .def("algorithm", &PyConv3d::algorithm, py::arg("shape"))
      .def("packed_bytes", &PyConv3d::packed_bytes);
  module.def("conv3d_backward", &py_conv3d_backward, py::arg("grad"), py::arg("x"),
             py::arg("weight"), py::arg("stride"), py::arg("padding"), py::arg("dilation"),
             py::arg("groups"), py::arg("channels_last"), py::arg("algorithm"), py::arg("needs"));
}

}  // namespace marey::python
