#include <pybind11/stl.h>

#include <memory>
#include <numeric>
#include <optional>
#include <string>
#include <vector>

#include "bindings/arrays.h"
#include "bindings/register.h"
#include "core/error.h"
#include "ops/recurrent/backward.h"
#include "ops/recurrent/sequence.h"
#include "ops/recurrent/step.h"

namespace marey::python {
namespace {

// Views of one layer's weights, None for those that it does not have.
struct Weights {
  std::optional<View> bias_ih, bias_hh, peephole, hr, norms[3];
  WeightViews views;

  Weights(const std::string& function, const py::object& weight_ih, const py::object& weight_hh,
          const py::object& first, const py::object& second, const py::object& peepholes,
          const py::object& weight_hr, const py::object& layer_norm)
      : bias_ih(optional_view(function, "bias_ih", first)),
        bias_hh(optional_view(function, "bias_hh", second)),
        peephole(optional_view(function, "peephole", peepholes)),
        hr(optional_view(function, "weight_hr", weight_hr)) {
    views.ih = view_of(function, "weight_ih", weight_ih, kWithBfloat16);
    views.hh = view_of(function, "weight_hh", weight_hh, kWithBfloat16);
    views.bias_ih = pointer(bias_ih);
    views.bias_hh = pointer(bias_hh);
    views.peephole = pointer(peephole);
    views.hr = pointer(hr);
    if (layer_norm.is_none()) return;
    const auto given = layer_norm.cast<py::tuple>();
    constexpr const char* kNames[] = {"norm_ih", "norm_hh", "norm_c"};
    for (std::size_t k = 0; k < 3; ++k)
      norms[k] = view_of(function, kNames[k], given[k], kWithBfloat16);
    views.norm_ih = pointer(norms[0]);
    views.norm_hh = pointer(norms[1]);
    views.norm_c = pointer(norms[2]);
  }
  Weights(const Weights&) = delete;
  Weights& operator=(const Weights&) = delete;
};

std::shared_ptr<CellWeights> make_weights(const std::string& function, int cell,
                                          const py::object& ih, const py::object& hh,
                                          const py::object& bias_ih, const py::object& bias_hh,
                                          const py::object& peephole, const py::object& hr,
                                          const py::object& layer_norm) {
  const Weights weights(function, ih, hh, bias_ih, bias_hh, peephole, hr, layer_norm);
  // The views stay valid: the arguments are held by the caller.
  const py::gil_scoped_release release;
  return std::make_shared<CellWeights>(function, static_cast<Cell>(cell), weights.views);
}

using Lengths = std::optional<py::array_t<int64_t, py::array::c_style>>;

const int64_t* lengths_of(const std::string& function, const Lengths& lengths, int64_t N) {
  if (!lengths) return nullptr;
  if (lengths->ndim() != 1 || lengths->shape(0) != N) {
    throw ValueError(function, "lengths", "shape (" + std::to_string(N) + ",)",
                     std::to_string(lengths->size()) + " items");
  }
  return lengths->data();
}

View sequence_view(const std::string& function, const char* argument, const py::object& object,
                   int64_t last, const char* letters) {
  const View view = view_of(function, argument, object, kWithBfloat16);
  if (view.ndim() != 3 || view.shape[2] != last) {
    throw ValueError(function, argument, letters + std::to_string(last) + ")",
                     to_string(view.shape));
  }
  return view;
}

// y, h_n, c_n (None but for an LSTM), and with `keep` what the way back needs. x is (T, N, I).
py::tuple run(const CellWeights& weights, const std::string& function, const py::object& x,
              const py::object& h0, const py::object& c0, const Lengths& lengths, bool reverse,
              bool keep, const py::object& out) {
  SequenceArgs args;
  args.x = sequence_view(function, "x", x, weights.input(), "shape (T, N, ");
  const int64_t N = args.x.shape[1];
  args.lengths = lengths_of(function, lengths, N);
  args.reverse = reverse;
  const std::optional<View> h = optional_view(function, "h0", h0);
  const std::optional<View> c = optional_view(function, "c0", c0);
  args.h0 = pointer(h);
  args.c0 = pointer(c);

  const Shape shape{3, {args.x.shape[0], N, weights.state()}};
  py::array y = result_array(function, out, shape, weights.dtype(), args.x);
  args.y = view_of(function, "out", y, kWithBfloat16);
  if (args.y.shape.count() != 0 && args.y.shape[2] > 1 &&
      args.y.stride(2) != item_size(args.y.dtype)) {
    throw ValueError(function, "out", "a contiguous last axis", "another stride");
  }
  for (const View* state : {args.h0, args.c0}) {
    if (state != nullptr) check_no_overlap(function, args.y, *state);
  }
  py::array hn = new_array({2, {N, weights.state()}}, weights.dtype());
  args.hn = view_of(function, "h_n", hn, kWithBfloat16);
  py::object cn = py::none();
  if (weights.cell() == Cell::lstm) {
    cn = new_array({2, {N, weights.hidden()}}, weights.real());
    args.cn = view_of(function, "c_n", cn, kWithBfloat16);
  }
  py::object kept = py::none();
  if (keep) {
    int64_t rows = args.x.shape[0] * N;
    if (args.lengths != nullptr) rows = std::accumulate(args.lengths, args.lengths + N, int64_t{0});
    py::array memory =
        new_array({2, {rows, weights.kept() * kept_pitch(weights.hidden())}}, weights.real());
    args.kept = static_cast<std::byte*>(memory.mutable_data());
    kept = memory;
  }
  {
    // The views stay valid: the arguments are held by the caller, the results by this frame.
    const py::gil_scoped_release release;
    run_sequence(function, weights, args);
  }
  return py::make_tuple(y, hn, cn, kept);
}

// Gradients of x, weight_ih, weight_hh, bias_ih, bias_hh, h0, c0, peephole, weight_hr and the three
// of layer norm (from c0 on None where there are none). `weights`: weight_ih, weight_hh, peephole,
// weight_hr, layer_norm. The arrays are those of the call that kept `kept`, whose shapes were
// checked.
py::tuple run_back(const std::string& function, int cell, const py::tuple& weights,
                   const py::object& x, const py::object& y, const py::object& h0,
                   const py::object& c0, const Lengths& lengths, bool reverse,
                   const py::object& grad_y, const py::object& grad_hn, const py::object& grad_cn,
                   const py::array& kept) {
  BackwardArgs args;
  args.cell = static_cast<Cell>(cell);
  const Weights given_weights(function, weights[0], weights[1], py::none(), py::none(), weights[2],
                              weights[3], weights[4]);
  args.weights = given_weights.views;
  check_weights(function, args.cell, args.weights);
  const int64_t hidden = args.weights.hidden();
  const int64_t units = args.weights.state();
  const int64_t input = args.weights.ih.shape[1];
  const DType dtype = args.weights.hh.dtype;
  const DType real = dtype == DType::bf16 ? DType::f32 : dtype;
  args.x = sequence_view(function, "x", x, input, "shape (T, N, ");
  const int64_t T = args.x.shape[0];
  const int64_t N = args.x.shape[1];
  args.lengths = lengths_of(function, lengths, N);
  args.reverse = reverse;

  std::vector<std::unique_ptr<View>> views;
  const auto given = [&](const char* argument, const py::object& object, const Shape& shape,
                         DType expected) -> const View* {
    if (object.is_none()) return nullptr;
    views.push_back(std::make_unique<View>(view_of(function, argument, object, kWithBfloat16)));
    const View& view = *views.back();
    if (!(view.shape == shape)) {
      throw ValueError(function, argument, "shape " + to_string(shape), to_string(view.shape));
    }
    if (view.dtype != expected)
      throw TypeError(function, argument, name(expected), name(view.dtype));
    return &view;
  };
  const Shape sequence{3, {T, N, units}};
  const Shape state{2, {N, units}};
  const Shape cells{2, {N, hidden}};
  args.y = *given("y", y, sequence, dtype);
  args.h0 = given("h0", h0, state, dtype);
  args.c0 = given("c0", c0, cells, real);
  args.grad_y = given("grad", grad_y, sequence, dtype);
  args.grad_hn = given("grad_h", grad_hn, state, dtype);
  args.grad_cn = given("grad_c", grad_cn, cells, real);
  for (const View* each : {static_cast<const View*>(&args.y), args.grad_y}) {
    if (each != nullptr && each->shape.count() != 0 && each->shape[2] > 1 &&
        each->stride(2) != item_size(each->dtype)) {
      throw ValueError(function, each == &args.y ? "y" : "grad", "a contiguous last axis",
                       "another stride");
    }
  }
  int64_t rows = T * N;
  if (args.lengths != nullptr) rows = std::accumulate(args.lengths, args.lengths + N, int64_t{0});
  const View memory = view_of(function, "kept", kept);
  const Shape expected{2, {rows, args.weights.kept(args.cell) * kept_pitch(hidden)}};
  if (!(memory.shape == expected) || memory.dtype != real ||
      (memory.shape.count() != 0 && !is_contiguous(memory, 0, 2))) {
    throw ValueError(function, "kept", "what the forward call with keep=True returned",
                     name(memory.dtype) + std::string(" of shape ") + to_string(memory.shape));
  }
  args.kept = memory.as<const std::byte>();

  const int64_t gates = weight_gates(args.cell) * hidden;
  py::list results;
  const auto result = [&](const Shape& shape, DType type) {
    py::array array = new_array(shape, type);
    results.append(array);
    return view_of(function, "result", array, kWithBfloat16);
  };
  args.grad_x = result({3, {T, N, input}}, dtype);
  args.grad_ih = result({2, {gates, input}}, real);
  args.grad_hh = result({2, {gates, units}}, real);
  args.grad_bias_ih = result({1, {gates}}, real);
  args.grad_bias_hh = result({1, {gates}}, real);
  args.grad_h0 = result(state, dtype);
  const auto result_if = [&](bool there, const Shape& shape) {
    if (there) return result(shape, real);
    results.append(py::none());
    return View{};
  };
  const bool normed = args.weights.norm_c != nullptr;
  args.grad_c0 = result_if(args.cell == Cell::lstm, cells);
  args.grad_peephole = result_if(args.weights.peephole != nullptr, {2, {3, hidden}});
  args.grad_hr = result_if(args.weights.hr != nullptr, {2, {units, hidden}});
  args.grad_norm_ih = result_if(normed, {1, {gates}});
  args.grad_norm_hh = result_if(normed, {1, {gates}});
  args.grad_norm_c = result_if(normed, {2, {2, hidden}});
  {
    // The views stay valid: the arguments are held by the caller, the results by this frame.
    const py::gil_scoped_release release;
    run_backward(function, args);
  }
  return py::tuple(results);
}

void check_rows(std::string_view function, const char* argument, const View& view) {
  const int last = view.ndim() - 1;
  if (view.shape.count() != 0 && view.shape[last] > 1 &&
      view.stride(last) != item_size(view.dtype)) {
    throw ValueError(function, argument, "a contiguous last axis", "another stride");
  }
}

// h of the next step; an LSTM's with c, as a pair. `c` and `c_out` are None for others.
py::object run_step(const char* name_of_function, int cell, const py::handle& x,
                    const py::handle& h, const py::handle& c, const py::handle& ih,
                    const py::handle& hh, const py::object& bias_ih, const py::object& bias_hh,
                    const py::object& peephole, const py::object& h_out, const py::object& c_out) {
  const std::string_view function = name_of_function;
  CellStep step;
  step.cell = static_cast<Cell>(cell);
  step.weights.ih = view_of(function, "weight_ih", ih, kWithBfloat16);
  step.weights.hh = view_of(function, "weight_hh", hh, kWithBfloat16);
  const std::optional<View> first = optional_view(function, "bias_ih", bias_ih);
  const std::optional<View> second = optional_view(function, "bias_hh", bias_hh);
  const std::optional<View> third = optional_view(function, "peephole", peephole);
  step.weights.bias_ih = pointer(first);
  step.weights.bias_hh = pointer(second);
  step.weights.peephole = pointer(third);
  check_weights(function, step.cell, step.weights);
  check_rows(function, "weight_ih", step.weights.ih);
  check_rows(function, "weight_hh", step.weights.hh);
  if (first) check_rows(function, "bias_ih", *first);
  if (second) check_rows(function, "bias_hh", *second);
  if (third && !is_contiguous(*third, 0, 2)) {
    throw ValueError(function, "peephole", "a contiguous array", "other strides");
  }
  const DType dtype = step.weights.hh.dtype;
  const DType real = dtype == DType::bf16 ? DType::f32 : dtype;
  const int64_t hidden = step.weights.hh.shape[1];
  const int64_t input = step.weights.ih.shape[1];
  step.x = view_of(function, "x", x, kWithBfloat16);
  if (step.x.ndim() != 2 || step.x.shape[1] != input) {
    throw ValueError(function, "x", "shape (N, " + std::to_string(input) + ")",
                     to_string(step.x.shape));
  }
  if (step.x.dtype != dtype) throw TypeError(function, "x", name(dtype), name(step.x.dtype));
  const Shape state{2, {step.x.shape[0], hidden}};
  const auto check_state = [&](const char* argument, const View& view, DType expected) {
    if (!(view.shape == state)) {
      throw ValueError(function, argument, "shape " + to_string(state), to_string(view.shape));
    }
    if (view.dtype != expected)
      throw TypeError(function, argument, name(expected), name(view.dtype));
  };
  step.h = view_of(function, "h", h, kWithBfloat16);
  check_state("h", step.h, dtype);

  // A state may be replaced in place, but nothing else that is read.
  const auto target = [&](const py::object& out, DType type, const View& input_state,
                          View& view) -> py::array {
    py::array array = result_array(function, out, state, type, input_state, true);
    view = view_of(function, "out", array, kWithBfloat16);
    check_rows(function, "out", view);
    if (!out.is_none()) {
      for (const View* each :
           {static_cast<const View*>(&step.weights.ih), static_cast<const View*>(&step.weights.hh),
            step.weights.bias_ih, step.weights.bias_hh, step.weights.peephole}) {
        if (each != nullptr) check_no_overlap(function, view, *each);
      }
    }
    return array;
  };
  py::array h_next = target(h_out, dtype, step.h, step.h_next);
  if (step.cell != Cell::lstm) {
    const py::gil_scoped_release release;
    run_cell_step(function, step);
    return h_next;
  }
  const View cells = view_of(function, "c", c, kWithBfloat16);
  check_state("c", cells, real);
  check_rows(function, "c", cells);
  View cells_next;
  py::array c_next = target(c_out, real, cells, cells_next);
  check_no_overlap(function, cells_next, step.h_next);
  check_no_overlap(function, step.h_next, cells);
  step.c = &cells;
  step.c_next = &cells_next;
  {
    // The views stay valid: the arguments are held by the caller, the results by this frame.
    const py::gil_scoped_release release;
    run_cell_step(function, step);
  }
  return py::make_tuple(std::move(h_next), std::move(c_next));
}

}  // namespace

void register_recurrent(py::module_& module) {
  py::class_<CellWeights, std::shared_ptr<CellWeights>>(module, "CellWeights")
      .def(py::init(&make_weights), py::arg("function"), py::arg("cell"), py::arg("weight_ih"),
           py::arg("weight_hh"), py::arg("bias_ih"), py::arg("bias_hh"), py::arg("peephole"),
           py::arg("weight_hr") = py::none(), py::arg("layer_norm") = py::none())
      .def_property_readonly("input", &CellWeights::input)
      .def_property_readonly("hidden", &CellWeights::hidden)
      .def_property_readonly("state", &CellWeights::state)
      .def("run", &run, py::arg("function"), py::arg("x"), py::arg("h0"), py::arg("c0"),
           py::arg("lengths"), py::arg("reverse"), py::arg("keep"), py::arg("out"));
  module.def("recurrent_step", &run_step, py::arg("function"), py::arg("cell"), py::arg("x"),
             py::arg("h"), py::arg("c"), py::arg("weight_ih"), py::arg("weight_hh"),
             py::arg("bias_ih"), py::arg("bias_hh"), py::arg("peephole"), py::arg("h_out"),
             py::arg("c_out"));
  module.def("recurrent_backward", &run_back, py::arg("function"), py::arg("cell"),
             py::arg("weights"), py::arg("x"), py::arg("y"), py::arg("h0"), py::arg("c0"),
             py::arg("lengths"), py::arg("reverse"), py::arg("grad"), py::arg("grad_h"),
             py::arg("grad_c"), py::arg("kept"));
}

}  // namespace marey::python
