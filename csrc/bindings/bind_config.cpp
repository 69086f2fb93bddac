#include <pybind11/stl.h>
#include <pybind11/typing.h>

#include <map>
#include <string>
#include <tuple>
#include <vector>

#include "bindings/arrays.h"
#include "bindings/c_api.h"
#include "bindings/register.h"
#include "core/buffer.h"
#include "core/dispatch.h"
#include "core/isa.h"
#include "core/parallel.h"
#include "core/probe.h"
#include "core/team_probe.h"

namespace marey::python {

namespace py = pybind11;

namespace {

std::vector<std::string> names(const std::vector<Isa>& isas) {
  std::vector<std::string> result;
  for (Isa isa : isas) result.emplace_back(name(isa));
  return result;
}

}  // namespace

void register_config(py::module_& module) {
#define MAREY_POINTER(name) marey_##name,
  static const CApi c_api = {MAREY_C_API(MAREY_POINTER)};
#undef MAREY_POINTER
  module.attr("c_api") = py::capsule(&c_api, kCApiName);
  module.def("build_info", [] {
    return std::map<std::string, std::string>{
        {"version", MAREY_VERSION}, {"compiler", MAREY_COMPILER}, {"build_type", MAREY_BUILD_TYPE}};
  });
  module.def("compiled_isas", [] { return names(compiled_isas()); });
  module.def("available_isas", [] { return names(available_isas()); });
  module.def("active_isa", [] { return std::string(name(active_isa())); });
  module.def("set_isa", [](const std::string& isa) { set_active_isa(isa); }, py::arg("isa"));
  module.def("kernels", [] {
    std::map<std::string, std::string> result;
    for (const auto& [kernel, isa] : list_kernels()) result[kernel] = name(isa);
    return result;
  });
  module.def("probe", [] {
    const ProbeResult found = run_probe();
    py::typing::Dict<py::str, py::object> result;
    result["isa"] = found.isa;
    result["float_lanes"] = found.float_lanes;
    result["fused_multiply_add"] = found.fused != 0.0;
    return result;
  });
  module.def(
      "probe_team",
      [](int threads, int64_t passes, int64_t late_every) {
        TeamProbe found{};
        {
          const py::gil_scoped_release release;
          found = probe_team(threads, passes, late_every);
        }
        return std::tuple{found.size, found.passes, found.stale};
      },
      py::arg("threads"), py::arg("passes"), py::arg("late_every") = 0);
  module.def(
      "empty_like",
      [](const py::object& x) {
        const View view = view_of("marey", "x", x, kWithBfloat16);
        return new_array(view.shape, view.dtype);
      },
      py::arg("x"));
  module.def("num_threads", &num_threads);
  module.def("set_num_threads", &set_num_threads, py::arg("count"));
  module.def("set_cache_limit", &set_cache_limit, py::arg("bytes"));
  module.def("set_thread_num_threads", &set_thread_num_threads, py::arg("count"));
}

}  // namespace marey::python
