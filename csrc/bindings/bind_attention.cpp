#include <pybind11/stl.h>

#include <optional>
#include <string>

#include "bindings/arrays.h"
#include "bindings/register.h"
#include "core/error.h"
#include "core/math_probe.h"
#include "ops/attention/attention.h"

namespace marey::python {
namespace {

std::optional<View> optional_view(std::string_view function, std::string_view argument,
                                  const py::object& object) {
  if (object.is_none()) return std::nullopt;
  return view_of(function, argument, object, true);
}

const View* pointer(const std::optional<View>& view) { return view ? &*view : nullptr; }

AttentionOptions make_options(double scale, double softcap, const std::optional<int64_t>& left,
                              const std::optional<int64_t>& right, int alignment) {
  AttentionOptions options;
  options.scale = scale;
  options.softcap = softcap;
  options.left = left.value_or(AttentionOptions::kUnlimited);
  options.right = right.value_or(AttentionOptions::kUnlimited);
  options.alignment = static_cast<Alignment>(alignment);
  return options;
}

// out, and lse if asked for.
py::object py_attention(const py::object& q, const py::object& k, const py::object& v,
                        const py::object& mask, const py::object& bias, double scale,
                        double softcap, const std::optional<int64_t>& left,
                        const std::optional<int64_t>& right, int alignment, bool return_lse,
                        const py::object& out) {
  constexpr std::string_view kName = "marey.attention";
  const View queries = view_of(kName, "q", q, true);
  const View keys = view_of(kName, "k", k, true);
  const View values = view_of(kName, "v", v, true);
  const std::optional<View> allowed = optional_view(kName, "mask", mask);
  const std::optional<View> added = optional_view(kName, "bias", bias);
  if (queries.ndim() < 3) {
    throw ValueError(kName, "q", "shape (..., h, L, D)", to_string(queries.shape));
  }
  if (values.ndim() != queries.ndim()) {
    throw ValueError(kName, "v", "as many axes as q of shape " + to_string(queries.shape),
                     to_string(values.shape));
  }
  Shape shape = queries.shape;
  shape[shape.ndim - 1] = values.shape[values.ndim() - 1];
  py::array result = result_array(kName, out, shape, queries.dtype, queries);
  const View target = view_of(kName, "out", result, true);
  check_no_overlap(kName, target, keys);
  check_no_overlap(kName, target, values);
  if (allowed) check_no_overlap(kName, target, *allowed);
  if (added) check_no_overlap(kName, target, *added);
  py::array normaliser;
  std::optional<View> lse;
  if (return_lse) {
    --shape.ndim;
    normaliser = new_array(shape, queries.dtype == DType::f64 ? DType::f64 : DType::f32);
    lse = view_of(kName, "lse", normaliser);
  }
  const AttentionOptions options = make_options(scale, softcap, left, right, alignment);
  {
    // The views stay valid: the arguments are held by the caller, the results by this frame.
    const py::gil_scoped_release release;
    attention(queries, keys, values, pointer(allowed), pointer(added), options, target,
              pointer(lse));
  }
  if (!return_lse) return result;
  return py::make_tuple(result, normaliser);
}

// Evaluates a function of core/math.h: for tests.
py::array py_vector_math(const std::string& function, const py::object& x) {
  constexpr std::string_view kName = "marey._cpu.vector_math";
  const View source = view_of(kName, "x", x);
  if (!is_contiguous(source, 0, source.ndim()) ||
      (source.dtype != DType::f32 && source.dtype != DType::f64)) {
    throw ValueError(kName, "x", "a contiguous array of float32 or float64", "another");
  }
  const MathFunction which = function == "tanh"               ? MathFunction::tanh
                             : function == "exp2_nonpositive" ? MathFunction::exp2_nonpositive
                                                              : MathFunction::exp2;
  py::array result = new_array(source.shape, source.dtype);
  run_math_probe(which, source.dtype, source.data, result.mutable_data(), source.shape.count());
  return result;
}

}  // namespace

void register_attention(py::module_& module) {
  module.def("attention", &py_attention, py::arg("q"), py::arg("k"), py::arg("v"), py::arg("mask"),
             py::arg("bias"), py::arg("scale"), py::arg("softcap"), py::arg("left"),
             py::arg("right"), py::arg("alignment"), py::arg("return_lse"), py::arg("out"));
  module.def("vector_math", &py_vector_math, py::arg("function"), py::arg("x"));
}

}  // namespace marey::python
