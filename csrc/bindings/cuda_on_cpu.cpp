#include <pybind11/stl.h>

#include "bindings/cuda_device.h"
#include "core/error.h"
#include "cuda/divisor.h"
#include "cuda/faults_on_cpu.h"
#include "cuda/on_cpu.h"
#include "ops/temporal/window_cuda.h"

namespace marey::python {
namespace {

namespace py = pybind11;

void set_order(const std::string& order) {
  using cuda::on_cpu::Order;
  if (order != "forward" && order != "backward" && order != "shuffled") {
    throw ValueError("set_order", "order", "'forward', 'backward' or 'shuffled'", order);
  }
  cuda::on_cpu::set_order(order == "forward"    ? Order::forward
                          : order == "backward" ? Order::backward
                                                : Order::shuffled);
}

void set_multiprocessors(int count) {
  if (count < 1) {
    throw ValueError("set_multiprocessors", "count", "1 or more", std::to_string(count));
  }
  cuda::on_cpu::set_multiprocessors(count);
}

int64_t quotient(int64_t n, int64_t divisor) { return cuda::Divisor(divisor).quotient(n); }

int64_t window_step(int64_t i, int64_t n, const std::string& mode) {
  const Boundary boundary = boundary_of("window_step", mode);
  return cuda::source_step_by(i, n, boundary, cuda::boundary_period(n, boundary));
}

}  // namespace

int set_current_device(int) { return 0; }
void restore_device(int, int) noexcept {}

void register_cuda_device(py::module_& module) {
  module.def("device_count", [] { return 1; });
  module.def("why_no_device", [] { return ""; });
  module.def("set_order", &set_order, py::arg("order"));
  module.def("set_multiprocessors", &set_multiprocessors,
             py::arg("count") = cuda::on_cpu::kMultiprocessors);
  module.def("refused_grids", &cuda::on_cpu::refused_grids);
  module.def("run_fault", &cuda::run_fault, py::arg("fault"));
  module.def("quotient", &quotient, py::arg("n"), py::arg("divisor"));
  module.def("window_step", &window_step, py::arg("i"), py::arg("n"), py::arg("mode"));
}

}  // namespace marey::python
