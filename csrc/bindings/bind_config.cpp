#include <pybind11/stl.h>

#include <string>

#include "bindings/register.h"
#include "core/buffer.h"
#include "core/dispatch.h"
#include "core/isa.h"
#include "core/parallel.h"
#include "core/probe.h"

namespace marey::python {

namespace py = pybind11;

namespace {

py::list names(const std::vector<Isa>& isas) {
  py::list result;
  for (Isa isa : isas) result.append(std::string(name(isa)));
  return result;
}

}  // namespace

void register_config(py::module_& module) {
  module.attr("version") = MAREY_VERSION;
  module.attr("compiler") = MAREY_COMPILER;
  module.attr("build_type") = MAREY_BUILD_TYPE;
  module.def("compiled_isas", [] { return names(compiled_isas()); });
  module.def("available_isas", [] { return names(available_isas()); });
  module.def("active_isa", [] { return std::string(name(active_isa())); });
  module.def(
      "set_isa", [](const std::string& isa) { set_active_isa(isa); }, py::arg("isa"));
  module.def("kernels", [] {
    py::dict result;
    for (const auto& [kernel, isa] : list_kernels()) result[py::str(kernel)] = std::string(name(isa));
    return result;
  });
  module.def("probe", [] {
    const ProbeResult found = run_probe();
    py::dict result;
    result["isa"] = found.isa;
    result["float_lanes"] = found.float_lanes;
    result["fused_multiply_add"] = found.fused != 0.0;
    return result;
  });
  module.def("num_threads", &num_threads);
  module.def("set_num_threads", &set_num_threads, py::arg("count"));
  module.def("set_cache_limit", &set_cache_limit, py::arg("bytes"));
  module.def("set_thread_num_threads", &set_thread_num_threads, py::arg("count"));
}

}  // namespace marey::python
