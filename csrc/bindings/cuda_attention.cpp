#include <pybind11/stl.h>

#include <optional>
#include <string>

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
                         const py::handle& lse, const py::handle& queue) {
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
  const DeviceQueue where(queue);
  // The views stay valid: the caller holds the arrays.
  const py::gil_scoped_release release;
  return cuda::attention(*where, queries, keys, values, pointer(allowed), pointer(added), options,
                         target, pointer(normaliser));
}

}  // namespace

void register_cuda_attention(py::module_& module) {
  module.def("attention", &py_attention, py::arg("q"), py::arg("k"), py::arg("v"), py::arg("mask"),
             py::arg("bias"), py::arg("scale"), py::arg("softcap"), py::arg("left"),
             py::arg("right"), py::arg("alignment"), py::arg("out"), py::arg("lse"),
             py::arg("queue"));
}

}  // namespace marey::python
