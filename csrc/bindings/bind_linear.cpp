#include <pybind11/stl.h>

#include <atomic>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "bindings/arrays.h"
#include "bindings/register.h"
#include "core/error.h"
#include "ops/attention/rotary.h"
#include "ops/linear/layer_norm.h"
#include "ops/linear/linear.h"

namespace marey::python {
namespace {

View floats_of(std::string_view function, std::string_view argument, const py::object& object) {
  const View view = view_of(function, argument, object, kWithBfloat16);
  if (view.dtype == DType::u8) {
    throw TypeError(function, argument, "float32, float64 or bfloat16", name(view.dtype));
  }
  return view;
}

Activation activation_of(std::string_view function, const std::optional<std::string>& name) {
  if (!name) return Activation::none;
  if (*name == "relu") return Activation::relu;
  if (*name == "gelu") return Activation::gelu;
  throw ValueError(function, "activation", "None, 'relu' or 'gelu'", "'" + *name + "'");
}

// A weight packed once for calls of many rows, once for those of few if there are any that want
// another form (linear_form), and again if the instruction set is changed.
class Linear {
 public:
  Linear(const py::object& weight, const py::object& bias) : weight_(weight), bias_(bias) {
    constexpr std::string_view kName = "marey.linear";
    view_ = floats_of(kName, "weight", weight);
    bias_view_ = optional_view(kName, "bias", bias);
    const py::gil_scoped_release release;
    packed_[0] = std::make_shared<const PackedMatrix>(pack_weight(view_, kRowsOfTiles));
  }

  py::object call(const py::object& x, const std::optional<std::string>& activation,
                  const py::object& residual, const py::object& out) {
    constexpr std::string_view kName = "marey.linear";
    const View input = floats_of(kName, "x", x);
    if (input.ndim() < 1) throw ValueError(kName, "x", "shape (..., C)", to_string(input.shape));
    const Activation which = activation_of(kName, activation);
    const std::optional<View> more = optional_view(kName, "residual", residual);
    Shape shape = input.shape;
    shape[shape.ndim - 1] = view_.shape[0];
    if (input.shape[input.ndim() - 1] != view_.shape[1]) {
      throw ValueError(kName, "x", "shape (..., " + std::to_string(view_.shape[1]) + ")",
                       to_string(input.shape));
    }
    py::array result = result_array(kName, out, shape, input.dtype, input);
    const View target = view_of(kName, "out", result, {.bfloat16 = true, .dims = kMaxDims});
    if (more) check_no_overlap(kName, target, *more, true);
    {
      // The views stay valid: the arguments are held by the caller, the others by this object.
      const py::gil_scoped_release release;
      const std::shared_ptr<const PackedMatrix> packed = packed_for(rows_of(input));
      linear(input, *packed, pointer(bias_view_), which, pointer(more), target);
    }
    return result;
  }

 private:
  // Held by the caller, because another thread may replace it.
  std::shared_ptr<const PackedMatrix> packed_for(int64_t rows) {
    const LinearForm wanted = linear_form(view_.dtype, rows);
    const bool other = wanted != linear_form(view_.dtype, kRowsOfTiles);
    auto packed = packed_[other].load();
    if (packed == nullptr || packed->form() != wanted) {
      packed = std::make_shared<const PackedMatrix>(pack_weight(view_, rows));
      packed_[other].store(packed);
    }
    return packed;
  }

  py::object weight_;
  py::object bias_;
  View view_;
  std::optional<View> bias_view_;
  std::atomic<std::shared_ptr<const PackedMatrix>> packed_[2];
};

py::object py_linear(const py::object& x, const py::object& weight, const py::object& bias,
                     const std::optional<std::string>& activation, const py::object& residual,
                     const py::object& out) {
  return Linear(weight, bias).call(x, activation, residual, out);
}

py::array like(const View& view) { return new_array(view.shape, view.dtype); }

// Gradients of x, weight and bias; None for those that are not wanted.
py::tuple py_linear_backward(const py::object& grad, const py::object& x, const py::object& weight,
                             bool needs_x, bool needs_weight, bool needs_bias) {
  constexpr std::string_view kName = "marey.linear_backward";
  const View gradient = floats_of(kName, "grad", grad);
  const View input = floats_of(kName, "x", x);
  const View matrix = floats_of(kName, "weight", weight);
  py::object of_x = py::none();
  py::object of_weight = py::none();
  py::object of_bias = py::none();
  if (needs_x) of_x = like(input);
  if (needs_weight) of_weight = like(matrix);
  if (needs_bias) {
    Shape shape;
    shape.push_back(matrix.ndim() > 0 ? matrix.shape[0] : 0);
    of_bias = new_array(shape, matrix.dtype);
  }
  const std::optional<View> to_x = optional_view(kName, "grad_x", of_x);
  const std::optional<View> to_weight = optional_view(kName, "grad_weight", of_weight);
  const std::optional<View> to_bias = optional_view(kName, "grad_bias", of_bias);
  {
    // The views stay valid: the arguments are held by the caller, the results by this frame.
    const py::gil_scoped_release release;
    linear_backward(gradient, input, matrix, pointer(to_x), pointer(to_weight), pointer(to_bias));
  }
  return py::make_tuple(of_x, of_weight, of_bias);
}

py::object py_layer_norm(const py::object& x, const py::object& weight, const py::object& bias,
                         double eps, const py::object& out) {
  constexpr std::string_view kName = "marey.layer_norm";
  const View input = floats_of(kName, "x", x);
  const std::optional<View> scale = optional_view(kName, "weight", weight);
  const std::optional<View> shift = optional_view(kName, "bias", bias);
  py::array result = result_array(kName, out, input.shape, input.dtype, input, true);
  const View target = view_of(kName, "out", result, kWithBfloat16);
  {
    // The views stay valid: the arguments are held by the caller, the result by this frame.
    const py::gil_scoped_release release;
    layer_norm(input, pointer(scale), pointer(shift), eps, target, nullptr, nullptr);
  }
  return result;
}

py::tuple py_layer_norm_backward(const py::object& grad, const py::object& x,
                                 const py::object& weight, double eps) {
  constexpr std::string_view kName = "marey.layer_norm_backward";
  const View gradient = floats_of(kName, "grad", grad);
  const View input = floats_of(kName, "x", x);
  const std::optional<View> scale = optional_view(kName, "weight", weight);
  if (input.ndim() < 1) throw ValueError(kName, "x", "shape (..., C)", to_string(input.shape));
  Shape shape;
  shape.push_back(input.shape[input.ndim() - 1]);
  py::array of_x = like(input);
  py::array of_weight = new_array(shape, input.dtype);
  py::array of_bias = new_array(shape, input.dtype);
  const View to_x = view_of(kName, "grad_x", of_x, kWithBfloat16);
  const View to_weight = view_of(kName, "grad_weight", of_weight, kWithBfloat16);
  const View to_bias = view_of(kName, "grad_bias", of_bias, kWithBfloat16);
  {
    // The views stay valid: the arguments are held by the caller, the results by this frame.
    const py::gil_scoped_release release;
    layer_norm_backward(gradient, input, pointer(scale), eps, &to_x, &to_weight, &to_bias);
  }
  return py::make_tuple(of_x, of_weight, of_bias);
}

py::object py_rotary(const py::object& x, const py::object& cosine, const py::object& sine,
                     const std::vector<int64_t>& sections, bool interleaved,
                     const py::object& out) {
  constexpr std::string_view kName = "marey.rotary";
  const View input = floats_of(kName, "x", x);
  const View of_cosine = view_of(kName, "positions", cosine);
  const View of_sine = view_of(kName, "positions", sine);
  py::array result = result_array(kName, out, input.shape, input.dtype, input, true);
  const View target = view_of(kName, "out", result, kWithBfloat16);
  {
    // The views stay valid: the arguments are held by the caller, the result by this frame.
    const py::gil_scoped_release release;
    rotary(input, of_cosine, of_sine, sections, interleaved, target);
  }
  return result;
}

}  // namespace

void register_linear(py::module_& module) {
  py::class_<Linear>(module, "Linear")
      .def(py::init<const py::object&, const py::object&>(), py::arg("weight"), py::arg("bias"))
      .def("__call__", &Linear::call, py::arg("x"), py::arg("activation"), py::arg("residual"),
           py::arg("out"));
  module.def("linear", &py_linear, py::arg("x"), py::arg("weight"), py::arg("bias"),
             py::arg("activation"), py::arg("residual"), py::arg("out"));
  module.def("linear_backward", &py_linear_backward, py::arg("grad"), py::arg("x"),
             py::arg("weight"), py::arg("needs_x"), py::arg("needs_weight"), py::arg("needs_bias"));
  module.def("layer_norm", &py_layer_norm, py::arg("x"), py::arg("weight"), py::arg("bias"),
             py::arg("eps"), py::arg("out"));
  module.def("rotary", &py_rotary, py::arg("x"), py::arg("cosine"), py::arg("sine"),
             py::arg("sections"), py::arg("interleaved"), py::arg("out"));
  module.def("layer_norm_backward", &py_layer_norm_backward, py::arg("grad"), py::arg("x"),
             py::arg("weight"), py::arg("eps"));
}

}  // namespace marey::python
