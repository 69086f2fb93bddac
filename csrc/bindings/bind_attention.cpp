#include <pybind11/stl.h>

#include <optional>
#include <string>

#include "bindings/arrays.h"
#include "bindings/register.h"
#include "core/error.h"
#include "core/math_probe.h"
#include "ops/attention/attention.h"
#include "ops/attention/backward.h"

namespace marey::python {
namespace {

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
                        const py::object& out, const py::object& more_k, const py::object& more_v) {
  constexpr std::string_view kName = "marey.attention";
  const View queries = view_of(kName, "q", q, kWithBfloat16);
  const View keys = view_of(kName, "k", k, kWithBfloat16);
  const View values = view_of(kName, "v", v, kWithBfloat16);
  const std::optional<View> allowed = optional_view(kName, "mask", mask);
  const std::optional<View> added = optional_view(kName, "bias", bias);
  const std::optional<View> more_keys = optional_view(kName, "more_k", more_k);
  const std::optional<View> more_values = optional_view(kName, "more_v", more_v);
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
  const View target = view_of(kName, "out", result, kWithBfloat16);
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
              pointer(lse), pointer(more_keys), pointer(more_values));
  }
  if (!return_lse) return result;
  return py::make_tuple(result, normaliser);
}

void check_packed(std::string_view function, const char* argument, const View& x, const View& q,
                  const Shape& shape, const std::string& expected) {
  bool fits = x.ndim() == shape.ndim;
  for (int axis = 0; fits && axis < shape.ndim; ++axis) {
    fits = shape[axis] < 0 || x.shape[axis] == shape[axis];
  }
  if (!fits) {
    throw ValueError(function, argument, expected + " for q of shape " + to_string(q.shape),
                     to_string(x.shape));
  }
  if (x.dtype != q.dtype) throw TypeError(function, argument, name(q.dtype), name(x.dtype));
}

using Offsets = py::array_t<int64_t, py::array::c_style>;

void check_packed_operands(std::string_view function, const View& queries, const View& keys,
                           const View& values, const Offsets& cu_seqlens_q,
                           const Offsets& cu_seqlens_k) {
  if (queries.ndim() != 3) {
    throw ValueError(function, "q", "shape (total, h, D)", to_string(queries.shape));
  }
  if (queries.dtype == DType::u8) {
    throw TypeError(function, "q", "float32, float64 or bfloat16", name(queries.dtype));
  }
  Shape shape;
  shape.ndim = 3;
  shape.dims[0] = shape.dims[1] = -1;
  shape.dims[2] = queries.shape[2];
  check_packed(function, "k", keys, queries, shape,
               "(total, h_kv, " + std::to_string(queries.shape[2]) + ")");
  shape = keys.shape;
  shape[2] = -1;
  check_packed(function, "v", values, queries, shape,
               "(" + std::to_string(shape[0]) + ", " + std::to_string(shape[1]) + ", Dv)");
  const int64_t heads = queries.shape[1];
  if (keys.shape[1] == 0 ? heads != 0 : heads % keys.shape[1] != 0) {
    throw ValueError(function, "k",
                     "a number of heads that divides the " + std::to_string(heads) + " of q",
                     std::to_string(keys.shape[1]));
  }
  const int64_t offsets = cu_seqlens_q.size();
  if (cu_seqlens_q.ndim() != 1 || offsets < 1) {
    throw ValueError(function, "cu_seqlens_q", "one axis of at least one offset", "another shape");
  }
  if (cu_seqlens_k.ndim() != 1 || cu_seqlens_k.size() != offsets) {
    throw ValueError(function, "cu_seqlens_k", "as many offsets as cu_seqlens_q has",
                     std::to_string(cu_seqlens_k.size()));
  }
}

py::object py_attention_varlen(const py::object& q, const py::object& k, const py::object& v,
                               const Offsets& cu_seqlens_q, const Offsets& cu_seqlens_k,
                               double scale, double softcap, const std::optional<int64_t>& left,
                               const std::optional<int64_t>& right, int alignment, bool return_lse,
                               const py::object& out) {
  constexpr std::string_view kName = "marey.attention_varlen";
  const View queries = view_of(kName, "q", q, kWithBfloat16);
  const View keys = view_of(kName, "k", k, kWithBfloat16);
  const View values = view_of(kName, "v", v, kWithBfloat16);
  check_packed_operands(kName, queries, keys, values, cu_seqlens_q, cu_seqlens_k);
  Shape shape;
  shape = queries.shape;
  shape[2] = values.shape[2];
  py::array result = result_array(kName, out, shape, queries.dtype, queries);
  const View target = view_of(kName, "out", result, kWithBfloat16);
  check_no_overlap(kName, target, keys);
  check_no_overlap(kName, target, values);
  py::array normaliser;
  std::optional<View> lse;
  if (return_lse) {
    --shape.ndim;
    normaliser = new_array(shape, queries.dtype == DType::f64 ? DType::f64 : DType::f32);
    lse = view_of(kName, "lse", normaliser);
  }
  const AttentionOptions options = make_options(scale, softcap, left, right, alignment);
  const int64_t sequences = cu_seqlens_q.size() - 1;
  const int64_t* from_q = cu_seqlens_q.data();
  const int64_t* from_k = cu_seqlens_k.data();
  {
    // The views stay valid: the arguments are held by the caller, the results by this frame.
    const py::gil_scoped_release release;
    attention_varlen(queries, keys, values, from_q, from_k, sequences, options, target,
                     pointer(lse));
  }
  if (!return_lse) return result;
  return py::make_tuple(result, normaliser);
}

// The gradients of q, k and v, new arrays.
struct NewGradients {
  py::array q, k, v;
  View q_view, k_view, v_view;
  NewGradients(std::string_view function, const View& queries, const View& keys, const View& values)
      : q(new_array(queries.shape, queries.dtype)),
        k(new_array(keys.shape, keys.dtype)),
        v(new_array(values.shape, values.dtype)),
        q_view(view_of(function, "grad_q", q, kWithBfloat16)),
        k_view(view_of(function, "grad_k", k, kWithBfloat16)),
        v_view(view_of(function, "grad_v", v, kWithBfloat16)) {}
};

// grad_bias: None, or zeros of the bias's shape broadcast to that of the scores, to be added to.
py::object py_attention_backward(const py::object& grad, const py::object& q, const py::object& k,
                                 const py::object& v, const py::object& out, const py::object& lse,
                                 const py::object& mask, const py::object& bias,
                                 const py::object& grad_bias, double scale, double softcap,
                                 const std::optional<int64_t>& left,
                                 const std::optional<int64_t>& right, int alignment) {
  constexpr std::string_view kName = "marey.attention_backward";
  const View gradient = view_of(kName, "grad", grad, kWithBfloat16);
  const View queries = view_of(kName, "q", q, kWithBfloat16);
  const View keys = view_of(kName, "k", k, kWithBfloat16);
  const View values = view_of(kName, "v", v, kWithBfloat16);
  const View result = view_of(kName, "out", out, kWithBfloat16);
  const View normaliser = view_of(kName, "lse", lse);
  const std::optional<View> allowed = optional_view(kName, "mask", mask);
  const std::optional<View> added = optional_view(kName, "bias", bias);
  const std::optional<View> of_bias = optional_view(kName, "grad_bias", grad_bias);
  const NewGradients made(kName, queries, keys, values);
  const AttentionOptions options = make_options(scale, softcap, left, right, alignment);
  {
    // The views stay valid: the arguments are held by the caller, the results by this frame.
    const py::gil_scoped_release release;
    attention_backward(gradient, queries, keys, values, result, normaliser, pointer(allowed),
                       pointer(added), options,
                       {made.q_view, made.k_view, made.v_view, pointer(of_bias)});
  }
  return py::make_tuple(made.q, made.k, made.v);
}

py::object py_attention_varlen_backward(const py::object& grad, const py::object& q,
                                        const py::object& k, const py::object& v,
                                        const py::object& out, const py::object& lse,
                                        const Offsets& cu_seqlens_q, const Offsets& cu_seqlens_k,
                                        double scale, double softcap,
                                        const std::optional<int64_t>& left,
                                        const std::optional<int64_t>& right, int alignment) {
  constexpr std::string_view kName = "marey.attention_varlen_backward";
  const View gradient = view_of(kName, "grad", grad, kWithBfloat16);
  const View queries = view_of(kName, "q", q, kWithBfloat16);
  const View keys = view_of(kName, "k", k, kWithBfloat16);
  const View values = view_of(kName, "v", v, kWithBfloat16);
  const View result = view_of(kName, "out", out, kWithBfloat16);
  const View normaliser = view_of(kName, "lse", lse);
  check_packed_operands(kName, queries, keys, values, cu_seqlens_q, cu_seqlens_k);
  Shape shape = queries.shape;
  shape[2] = values.shape[2];
  const std::string expected = to_string(shape);
  check_packed(kName, "grad", gradient, queries, shape, expected);
  check_packed(kName, "out", result, queries, shape, expected);
  --shape.ndim;
  if (!(normaliser.shape == shape)) {
    throw ValueError(kName, "lse", "shape " + to_string(shape), to_string(normaliser.shape));
  }
  const DType computed = queries.dtype == DType::f64 ? DType::f64 : DType::f32;
  if (normaliser.dtype != computed) {
    throw TypeError(kName, "lse", name(computed), name(normaliser.dtype));
  }
  const NewGradients made(kName, queries, keys, values);
  const AttentionOptions options = make_options(scale, softcap, left, right, alignment);
  const int64_t sequences = cu_seqlens_q.size() - 1;
  const int64_t* from_q = cu_seqlens_q.data();
  const int64_t* from_k = cu_seqlens_k.data();
  {
    // The views stay valid: the arguments are held by the caller, the results by this frame.
    const py::gil_scoped_release release;
    attention_varlen_backward(gradient, queries, keys, values, result, normaliser, from_q, from_k,
                              sequences, options, {made.q_view, made.k_view, made.v_view, nullptr});
  }
  return py::make_tuple(made.q, made.k, made.v);
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
                             : function == "sigmoid"          ? MathFunction::sigmoid
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
             py::arg("right"), py::arg("alignment"), py::arg("return_lse"), py::arg("out"),
             py::arg("more_k") = py::none(), py::arg("more_v") = py::none());
  module.def("attention_varlen", &py_attention_varlen, py::arg("q"), py::arg("k"), py::arg("v"),
             py::arg("cu_seqlens_q"), py::arg("cu_seqlens_k"), py::arg("scale"), py::arg("softcap"),
             py::arg("left"), py::arg("right"), py::arg("alignment"), py::arg("return_lse"),
             py::arg("out"));
  module.def("attention_backward", &py_attention_backward, py::arg("grad"), py::arg("q"),
             py::arg("k"), py::arg("v"), py::arg("out"), py::arg("lse"), py::arg("mask"),
             py::arg("bias"), py::arg("grad_bias"), py::arg("scale"), py::arg("softcap"),
             py::arg("left"), py::arg("right"), py::arg("alignment"));
  module.def("attention_varlen_backward", &py_attention_varlen_backward, py::arg("grad"),
             py::arg("q"), py::arg("k"), py::arg("v"), py::arg("out"), py::arg("lse"),
             py::arg("cu_seqlens_q"), py::arg("cu_seqlens_k"), py::arg("scale"), py::arg("softcap"),
             py::arg("left"), py::arg("right"), py::arg("alignment"));
  module.def("vector_math", &py_vector_math, py::arg("function"), py::arg("x"));
}

}  // namespace marey::python
