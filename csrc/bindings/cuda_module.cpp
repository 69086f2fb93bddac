// The module of CUDA kernels: _cuda for a device, _cuda_on_cpu for tests. It knows no array
// library: marey/_device.py does.
#include <pybind11/pybind11.h>

#include "bindings/cuda_device.h"
#include "bindings/cuda_register.h"
#include "core/error.h"

namespace py = pybind11;

PYBIND11_MODULE(MAREY_CUDA_MODULE, module, py::mod_gil_not_used()) {
  py::register_exception_translator([](std::exception_ptr error) {
    try {
      if (error) std::rethrow_exception(error);
    } catch (const marey::TypeError& e) {
      py::set_error(PyExc_TypeError, e.what());
    } catch (const marey::ValueError& e) {
      py::set_error(PyExc_ValueError, e.what());
    }
  });
  marey::python::register_cuda_device(module);
  marey::python::register_cuda_temporal(module);
  marey::python::register_cuda_magnification(module);
  marey::python::register_cuda_pyramid(module);
}
