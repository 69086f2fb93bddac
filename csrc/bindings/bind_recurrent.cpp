#include <pybind11/stl.h>

#include <memory>
#include <numeric>
#include <optional>
#include <string>
#include <vector>

#include "bindings/arrays.h"
#include "bindings/register.h"
#include "core/error.h"
#include "ops/recurrent/sequence.h"

namespace marey::python {
namespace {

constexpr Accepted kAccepted{.bfloat16 = true};

std::optional<View> optional_view(std::string_view function, std::string_view argument,
                                  const py::object& object) {
  if (object.is_none()) return std::nullopt;
  return view_of(function, argument, object, kAccepted);
}

const View* pointer(const std::optional<View>& view) { return view ? &*view : nullptr; }

std::shared_ptr<CellWeights> make_weights(const std::string& function, int cell,
                                          const py::object& ih, const py::object& hh,
                                          const py::object& bias_ih, const py::object& bias_hh,
                                          const py::object& peephole) {
  const std::optional<View> first = optional_view(function, "bias_ih", bias_ih);
  const std::optional<View> second = optional_view(function, "bias_hh", bias_hh);
  const std::optional<View> peepholes = optional_view(function, "peephole", peephole);
  const WeightViews views{view_of(function, "weight_ih", ih, kAccepted),
                          view_of(function, "weight_hh", hh, kAccepted), pointer(first),
                          pointer(second), pointer(peepholes)};
  // The views stay valid: the arguments are held by the caller.
  const py::gil_scoped_release release;
  return std::make_shared<CellWeights>(function, static_cast<Cell>(cell), views);
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
  const View view = view_of(function, argument, object, kAccepted);
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

  const Shape shape{3, {args.x.shape[0], N, weights.hidden()}};
  py::array y = result_array(function, out, shape, weights.dtype(), args.x);
  args.y = view_of(function, "out", y, kAccepted);
  if (args.y.shape[2] > 1 && args.y.stride(2) != item_size(args.y.dtype)) {
    throw ValueError(function, "out", "a contiguous last axis", "another stride");
  }
  for (const View* state : {args.h0, args.c0}) {
    if (state != nullptr) check_no_overlap(function, args.y, *state);
  }
  const Shape state_shape{2, {N, weights.hidden()}};
  py::array hn = new_array(state_shape, weights.dtype());
  args.hn = view_of(function, "h_n", hn, kAccepted);
  py::object cn = py::none();
  if (weights.cell() == Cell::lstm) {
    cn = new_array(state_shape, weights.real());
    args.cn = view_of(function, "c_n", cn, kAccepted);
  }
  py::object kept = py::none();
  if (keep) {
    int64_t rows = args.x.shape[0] * N;
    if (args.lengths != nullptr) rows = std::accumulate(args.lengths, args.lengths + N, int64_t{0});
    py::array memory = new_array(
        {2, {rows, kept_gates(weights.cell()) * kept_pitch(weights.hidden())}}, weights.real());
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

}  // namespace

void register_recurrent(py::module_& module) {
  py::class_<CellWeights, std::shared_ptr<CellWeights>>(module, "CellWeights")
      .def(py::init(&make_weights), py::arg("function"), py::arg("cell"), py::arg("weight_ih"),
           py::arg("weight_hh"), py::arg("bias_ih"), py::arg("bias_hh"), py::arg("peephole"))
      .def_property_readonly("input", &CellWeights::input)
      .def_property_readonly("hidden", &CellWeights::hidden)
      .def("run", &run, py::arg("function"), py::arg("x"), py::arg("h0"), py::arg("c0"),
           py::arg("lengths"), py::arg("reverse"), py::arg("keep"), py::arg("out"));
}

}  // namespace marey::python
