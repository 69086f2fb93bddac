#include <pybind11/stl.h>

#include <optional>
#include <string>
#include <utility>

#include "bindings/cuda_arrays.h"
#include "bindings/cuda_register.h"
#include "core/error.h"
#include "ops/attention/attention_cuda.h"
#include "ops/attention/operands.h"

namespace marey::python {
namespace {

AttentionOptions options_of(double scale, double softcap, const std::optional<int64_t>& left,
                            const std::optional<int64_t>& right, int alignment) {
  AttentionOptions options;
  options.scale = scale;
  options.softcap = softcap;
  options.left = left.value_or(AttentionOptions::kUnlimited);
  options.right = right.value_or(AttentionOptions::kUnlimited);
  options.alignment = static_cast<Alignment>(alignment);
  return options;
}

// Returns the name of the kernel that ran.
std::string py_attention(const py::handle& q, const py::handle& k, const py::handle& v,
                         const py::handle& mask, const py::handle& bias, double scale,
                         double softcap, const std::optional<int64_t>& left,
                         const std::optional<int64_t>& right, int alignment, const py::handle& out,
                         const py::handle& lse, const py::handle& workspace,
                         const py::handle& queue) {
  constexpr std::string_view kName = "marey.attention";
  const View queries = device_view(kName, "q", q);
  const View keys = device_view(kName, "k", k);
  const View values = device_view(kName, "v", v);
  const std::optional<View> allowed = optional_device_view(kName, "mask", mask);
  const std::optional<View> added = optional_device_view(kName, "bias", bias);
  const std::optional<View> normaliser = optional_device_view(kName, "lse", lse);
  const View target = device_view(kName, "out", out);
  const AttentionOptions options = options_of(scale, softcap, left, right, alignment);
  check_attention(kName, queries, keys, values, pointer(allowed), pointer(added), options, target,
                  pointer(normaliser));
  for (const View* input : {&queries, &keys, &values, pointer(allowed), pointer(added)}) {
    if (input != nullptr) check_no_device_overlap(kName, target, *input);
  }
  void* memory = workspace_pointer(workspace);
  const DeviceQueue where(queue);
  // The views stay valid: the caller holds the arrays.
  const py::gil_scoped_release release;
  return cuda::attention(*where, queries, keys, values, pointer(allowed), pointer(added), options,
                         target, pointer(normaliser), memory);
}

int64_t py_attention_workspace(const py::handle& q, const py::handle& k, const py::handle& v) {
  constexpr std::string_view kName = "marey.attention";
  const View queries = device_view(kName, "q", q);
  const View keys = device_view(kName, "k", k);
  const View values = device_view(kName, "v", v);
  // Arrays that do not fit each other are refused later.
  if (queries.ndim() < 3 || keys.ndim() != queries.ndim() || values.ndim() < 1) return 0;
  return cuda::attention_workspace(queries, keys, values);
}

// (total, h, ...) as (h, total, ...).
View by_head(std::string_view function, std::string_view argument, const py::handle& array,
             int dims) {
  View view = device_view(function, argument, array);
  if (view.ndim() != dims) {
    throw ValueError(function, argument, std::to_string(dims) + " axes", to_string(view.shape));
  }
  std::swap(view.shape[0], view.shape[1]);
  std::swap(view.strides[0], view.strides[1]);
  return view;
}

// The alignment of packed sequences is that of each, which the caller has checked where it could.
void check_packed(std::string_view function, const View& q, const View& k, const View& v,
                  AttentionOptions options, const View& out, const View* lse) {
  if (options.alignment == Alignment::square) options.alignment = Alignment::top_left;
  check_attention(function, q, k, v, nullptr, nullptr, options, out, lse);
}

void py_attention_varlen(const py::handle& q, const py::handle& k, const py::handle& v,
                         const py::handle& cu_seqlens_q, const py::handle& cu_seqlens_k,
                         int64_t sequences, double scale, double softcap,
                         const std::optional<int64_t>& left, const std::optional<int64_t>& right,
                         int alignment, const py::handle& out, const py::handle& lse,
                         const py::handle& queue) {
  constexpr std::string_view kName = "marey.attention_varlen";
  const View queries = by_head(kName, "q", q, 3);
  const View keys = by_head(kName, "k", k, 3);
  const View values = by_head(kName, "v", v, 3);
  const View target = by_head(kName, "out", out, 3);
  std::optional<View> normaliser;
  if (!lse.is_none()) normaliser = by_head(kName, "lse", lse, 2);
  const AttentionOptions options = options_of(scale, softcap, left, right, alignment);
  check_packed(kName, queries, keys, values, options, target, pointer(normaliser));
  for (const View* input : {&queries, &keys, &values}) {
    check_no_device_overlap(kName, target, *input);
  }
  const auto* from_q = static_cast<const int64_t*>(workspace_pointer(cu_seqlens_q));
  const auto* from_k = static_cast<const int64_t*>(workspace_pointer(cu_seqlens_k));
  const DeviceQueue where(queue);
  // The views stay valid: the caller holds the arrays.
  const py::gil_scoped_release release;
  cuda::attention_varlen(*where, queries, keys, values, from_q, from_k, sequences, options, target,
                         pointer(normaliser));
}

// The gradients are new arrays of the shapes of q, k and v; with sequences all arrays are packed.
// Returns the name of the kernel that ran.
std::string py_attention_backward(
    const std::string& function, const py::handle& grad, const py::handle& q, const py::handle& k,
    const py::handle& v, const py::handle& out, const py::handle& lse, const py::handle& mask,
    const py::handle& bias, const py::handle& cu_seqlens_q, const py::handle& cu_seqlens_k,
    int64_t sequences, double scale, double softcap, const std::optional<int64_t>& left,
    const std::optional<int64_t>& right, int alignment, const py::handle& grad_q,
    const py::handle& grad_k, const py::handle& grad_v, const py::handle& grad_bias,
    const py::handle& workspace, const py::handle& queue) {
  const bool packed = sequences >= 0;
  const auto given = [&](const char* argument, const py::handle& array, int dims) {
    return packed ? by_head(function, argument, array, dims)
                  : device_view(function, argument, array);
  };
  const View gradient = given("grad", grad, 3);
  const View queries = given("q", q, 3);
  const View keys = given("k", k, 3);
  const View values = given("v", v, 3);
  const View result = given("out", out, 3);
  const View normaliser = given("lse", lse, 2);
  const std::optional<View> allowed = optional_device_view(function, "mask", mask);
  const std::optional<View> added = optional_device_view(function, "bias", bias);
  const AttentionOptions options = options_of(scale, softcap, left, right, alignment);
  if (packed) {
    check_packed(function, queries, keys, values, options, result, &normaliser);
  } else {
    check_attention(function, queries, keys, values, pointer(allowed), pointer(added), options,
                    result, &normaliser);
  }
  if (!(gradient.shape == result.shape)) {
    throw ValueError(function, "grad", "shape " + to_string(result.shape),
                     to_string(gradient.shape));
  }
  if (gradient.dtype != result.dtype) {
    throw TypeError(function, "grad", name(result.dtype), name(gradient.dtype));
  }
  const View of_q = given("grad_q", grad_q, 3);
  const View of_k = given("grad_k", grad_k, 3);
  const View of_v = given("grad_v", grad_v, 3);
  const std::optional<View> of_bias = optional_device_view(function, "grad_bias", grad_bias);
  const cuda::AttentionSequences parts{static_cast<const int64_t*>(workspace_pointer(cu_seqlens_q)),
                                       static_cast<const int64_t*>(workspace_pointer(cu_seqlens_k)),
                                       packed ? sequences : 0,
                                       options.alignment == Alignment::bottom_right};
  if (sequences == 0) return "";
  const cuda::AttentionBackward call{gradient,
                                     queries,
                                     keys,
                                     values,
                                     result,
                                     normaliser,
                                     pointer(allowed),
                                     pointer(added),
                                     of_q,
                                     of_k,
                                     of_v,
                                     pointer(of_bias),
                                     workspace_pointer(workspace)};
  const DeviceQueue where(queue);
  // The views stay valid: the caller holds the arrays.
  const py::gil_scoped_release release;
  return cuda::attention_backward(*where, call, options, parts);
}

}  // namespace

void register_cuda_attention(py::module_& module) {
  module.def("attention", &py_attention, py::arg("q"), py::arg("k"), py::arg("v"), py::arg("mask"),
             py::arg("bias"), py::arg("scale"), py::arg("softcap"), py::arg("left"),
             py::arg("right"), py::arg("alignment"), py::arg("out"), py::arg("lse"),
             py::arg("workspace"), py::arg("queue"));
  module.def("attention_workspace", &py_attention_workspace, py::arg("q"), py::arg("k"),
             py::arg("v"));
  module.def("attention_varlen", &py_attention_varlen, py::arg("q"), py::arg("k"), py::arg("v"),
             py::arg("cu_seqlens_q"), py::arg("cu_seqlens_k"), py::arg("sequences"),
             py::arg("scale"), py::arg("softcap"), py::arg("left"), py::arg("right"),
             py::arg("alignment"), py::arg("out"), py::arg("lse"), py::arg("queue"));
  module.def("attention_backward", &py_attention_backward, py::arg("function"), py::arg("grad"),
             py::arg("q"), py::arg("k"), py::arg("v"), py::arg("out"), py::arg("lse"),
             py::arg("mask"), py::arg("bias"), py::arg("cu_seqlens_q"), py::arg("cu_seqlens_k"),
             py::arg("sequences"), py::arg("scale"), py::arg("softcap"), py::arg("left"),
             py::arg("right"), py::arg("alignment"), py::arg("grad_q"), py::arg("grad_k"),
             py::arg("grad_v"), py::arg("grad_bias"), py::arg("workspace"), py::arg("queue"));
}

}  // namespace marey::python
