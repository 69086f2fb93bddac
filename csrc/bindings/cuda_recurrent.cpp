#include <pybind11/stl.h>

#include <optional>
#include <string>

#include "bindings/cuda_arrays.h"
#include "bindings/cuda_register.h"
#include "core/error.h"
#include "ops/recurrent/recurrent_cuda.h"

namespace marey::python {
namespace {

constexpr Cell kCells[] = {Cell::lstm, Cell::gru, Cell::gru_before, Cell::rnn_tanh, Cell::rnn_relu};

void check_shape(std::string_view function, const char* argument, const View& view,
                 std::initializer_list<int64_t> extents) {
  Shape expected;
  for (const int64_t extent : extents) expected.push_back(extent);
  bool fits = view.ndim() == expected.ndim;
  for (int axis = 0; fits && axis < expected.ndim; ++axis) {
    fits = expected[axis] < 0 || view.shape[axis] == expected[axis];
  }
  if (!fits) {
    throw ValueError(function, argument, "shape " + to_string(expected) + " (-1: any)",
                     to_string(view.shape));
  }
}

// Views of one layer's weights; they must live as long.
struct Weights {
  View ih, hh;
  std::optional<View> bias_ih, bias_hh;
  cuda::RecurrentWeights layer;

  Weights(const std::string& function, int cell, const py::handle& weight_ih,
          const py::handle& weight_hh, const py::handle& first, const py::handle& second)
      : ih(device_view(function, "weight_ih", weight_ih)),
        hh(device_view(function, "weight_hh", weight_hh)),
        bias_ih(optional_device_view(function, "bias_ih", first)),
        bias_hh(optional_device_view(function, "bias_hh", second)) {
    layer.cell = kCells[cell];
    if (layer.cell == Cell::gru_before) {
      throw ValueError(function, "reset", "'after' on a CUDA device", "'before'");
    }
    const int64_t gates = weight_gates(layer.cell);
    if (ih.dtype == DType::u8) {
      throw TypeError(function, "weight_ih", "float32, float64 or bfloat16", name(ih.dtype));
    }
    if (hh.ndim() != 2 || hh.shape[0] != gates * hh.shape[1]) {
      throw ValueError(function, "weight_hh", "shape (" + std::to_string(gates) + " * H, H)",
                       to_string(hh.shape));
    }
    check_shape(function, "weight_ih", ih, {hh.shape[0], -1});
    if (bias_ih) check_shape(function, "bias_ih", *bias_ih, {hh.shape[0]});
    if (bias_hh) check_shape(function, "bias_hh", *bias_hh, {hh.shape[0]});
    for (const auto& [argument, view] : {std::pair<const char*, const View*>{"weight_hh", &hh},
                                         {"bias_ih", pointer(bias_ih)},
                                         {"bias_hh", pointer(bias_hh)}}) {
      if (view != nullptr && view->dtype != ih.dtype) {
        throw TypeError(function, argument, name(ih.dtype), name(view->dtype));
      }
    }
    layer.ih = ih;
    layer.hh = hh;
    layer.bias_ih = pointer(bias_ih);
    layer.bias_hh = pointer(bias_hh);
  }
};

int64_t py_recurrent_check(const std::string& function, int cell, const py::handle& weight_ih,
                           const py::handle& weight_hh, const py::handle& bias_ih,
                           const py::handle& bias_hh) {
  const Weights weights(function, cell, weight_ih, weight_hh, bias_ih, bias_hh);
  return weights.hh.shape[1];
}

int64_t py_recurrent_workspace(const std::string& function, int cell, const py::handle& weight_ih,
                               const py::handle& weight_hh, const py::handle& x) {
  const Weights weights(function, cell, weight_ih, weight_hh, py::none(), py::none());
  const View source = device_view(function, "x", x);
  check_shape(function, "x", source, {-1, -1, weights.ih.shape[1]});
  if (source.dtype != weights.ih.dtype) {
    throw TypeError(function, "x", name(weights.ih.dtype), name(source.dtype));
  }
  return cuda::recurrent_workspace(weights.layer, source.shape[0], source.shape[1]);
}

void py_recurrent(const std::string& function, int cell, const py::handle& weight_ih,
                  const py::handle& weight_hh, const py::handle& bias_ih, const py::handle& bias_hh,
                  const py::handle& x, const py::handle& lengths, bool reverse, const py::handle& y,
                  const py::handle& first, const py::handle& second, const py::handle& c,
                  const py::handle& gates, const py::handle& kept, const py::handle& queue) {
  const Weights weights(function, cell, weight_ih, weight_hh, bias_ih, bias_hh);
  cuda::RecurrentSequence sequence;
  sequence.x = device_view(function, "x", x);
  const int64_t hidden = weights.hh.shape[1];
  const Shape shape{3, {sequence.x.shape[0], sequence.x.shape[1], hidden}};
  sequence.y = device_result(function, y, shape, weights.ih.dtype, sequence.x);
  for (const View* input : {&weights.ih, &weights.hh}) {
    check_no_device_overlap(function, sequence.y, *input);
  }
  sequence.lengths = static_cast<const int64_t*>(workspace_pointer(lengths));
  sequence.reverse = reverse;
  sequence.state[0] = workspace_pointer(first);
  sequence.state[1] = workspace_pointer(second);
  sequence.c = workspace_pointer(c);
  sequence.gates = workspace_pointer(gates);
  sequence.kept = workspace_pointer(kept);
  const DeviceQueue where(queue);
  // The views stay valid: the caller holds the arrays.
  const py::gil_scoped_release release;
  cuda::run_recurrent(*where, weights.layer, sequence);
}

int64_t py_recurrent_backward_workspace(const std::string& function, int cell,
                                        const py::handle& weight_ih, const py::handle& weight_hh,
                                        const py::handle& x) {
  const Weights weights(function, cell, weight_ih, weight_hh, py::none(), py::none());
  const View source = device_view(function, "x", x);
  check_shape(function, "x", source, {-1, -1, weights.ih.shape[1]});
  return cuda::recurrent_backward_workspace(weights.layer, source.shape[0], source.shape[1]);
}

// `gradients`: the pointers of new C-ordered arrays, as RecurrentGradients has them.
void py_recurrent_backward(const std::string& function, int cell, const py::handle& weight_ih,
                           const py::handle& weight_hh, const py::handle& x, const py::handle& y,
                           const py::handle& h0, const py::handle& c0, const py::handle& lengths,
                           bool reverse, const py::handle& grad, const py::handle& grad_h,
                           const py::handle& grad_c, const py::handle& kept,
                           const py::tuple& gradients, const py::handle& workspace,
                           const py::handle& queue) {
  const Weights weights(function, cell, weight_ih, weight_hh, py::none(), py::none());
  const DType dtype = weights.ih.dtype;
  const DType real = dtype == DType::f64 ? DType::f64 : DType::f32;
  const int64_t hidden = weights.hh.shape[1];
  const auto given = [&](const char* argument, const py::handle& array, DType expected,
                         std::initializer_list<int64_t> shape) {
    const std::optional<View> view = optional_device_view(function, argument, array);
    if (!view) return view;
    check_shape(function, argument, *view, shape);
    if (view->dtype != expected) {
      throw TypeError(function, argument, name(expected), name(view->dtype));
    }
    return view;
  };
  cuda::RecurrentGradients g;
  g.x = *given("x", x, dtype, {-1, -1, weights.ih.shape[1]});
  const int64_t steps = g.x.shape[0];
  const int64_t rows = g.x.shape[1];
  g.y = *given("y", y, dtype, {steps, rows, hidden});
  const std::optional<View> grad_y = given("grad", grad, dtype, {steps, rows, hidden});
  const std::optional<View> first_h = given("h0", h0, dtype, {rows, hidden});
  const std::optional<View> first_c = given("c0", c0, real, {rows, hidden});
  const std::optional<View> last_h = given("grad_h", grad_h, dtype, {rows, hidden});
  const std::optional<View> last_c = given("grad_c", grad_c, real, {rows, hidden});
  const int64_t count = kept_gates(weights.layer.cell) * hidden;
  const View memory = *given("kept", kept, real, {steps * rows, count});
  if (memory.shape.count() != 0 && !is_contiguous(memory, 0, 2)) {
    throw ValueError(function, "kept", "what the forward call with keep=True returned",
                     "other strides");
  }
  g.kept = memory.data;
  g.grad_y = pointer(grad_y);
  g.h0 = pointer(first_h);
  g.c0 = pointer(first_c);
  g.grad_hn = pointer(last_h);
  g.grad_cn = pointer(last_c);
  g.lengths = static_cast<const int64_t*>(workspace_pointer(lengths));
  g.reverse = reverse;
  void** to[] = {&g.grad_x,       &g.grad_ih, &g.grad_hh, &g.grad_bias_ih,
                 &g.grad_bias_hh, &g.grad_h0, &g.grad_c0};
  for (std::size_t k = 0; k < std::size(to); ++k) *to[k] = workspace_pointer(gradients[k]);
  g.workspace = workspace_pointer(workspace);
  const DeviceQueue where(queue);
  // The views stay valid: the caller holds the arrays.
  const py::gil_scoped_release release;
  cuda::run_recurrent_backward(*where, weights.layer, g);
}

}  // namespace

void register_cuda_recurrent(py::module_& module) {
  module.def("recurrent_check", &py_recurrent_check, py::arg("function"), py::arg("cell"),
             py::arg("weight_ih"), py::arg("weight_hh"), py::arg("bias_ih"), py::arg("bias_hh"));
  module.def("recurrent_workspace", &py_recurrent_workspace, py::arg("function"), py::arg("cell"),
             py::arg("weight_ih"), py::arg("weight_hh"), py::arg("x"));
  module.def("recurrent", &py_recurrent, py::arg("function"), py::arg("cell"), py::arg("weight_ih"),
             py::arg("weight_hh"), py::arg("bias_ih"), py::arg("bias_hh"), py::arg("x"),
             py::arg("lengths"), py::arg("reverse"), py::arg("y"), py::arg("first"),
             py::arg("second"), py::arg("c"), py::arg("gates"), py::arg("kept"), py::arg("queue"));
  module.def("recurrent_kept", [](int cell) { return kept_gates(kCells[cell]); }, py::arg("cell"));
  module.def("recurrent_backward_workspace", &py_recurrent_backward_workspace, py::arg("function"),
             py::arg("cell"), py::arg("weight_ih"), py::arg("weight_hh"), py::arg("x"));
  module.def("recurrent_backward", &py_recurrent_backward, py::arg("function"), py::arg("cell"),
             py::arg("weight_ih"), py::arg("weight_hh"), py::arg("x"), py::arg("y"), py::arg("h0"),
             py::arg("c0"), py::arg("lengths"), py::arg("reverse"), py::arg("grad"),
             py::arg("grad_h"), py::arg("grad_c"), py::arg("kept"), py::arg("gradients"),
             py::arg("workspace"), py::arg("queue"));
}

}  // namespace marey::python
