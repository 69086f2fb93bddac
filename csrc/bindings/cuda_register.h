#pragma once
#include <pybind11/pybind11.h>

namespace marey::python {

void register_cuda_temporal(pybind11::module_& module);
void register_cuda_magnification(pybind11::module_& module);
void register_cuda_pyramid(pybind11::module_& module);

}  // namespace marey::python
