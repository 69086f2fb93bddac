#pragma once
// The devices themselves: cuda_device.cpp asks the driver, cuda_on_cpu.cpp knows one.
#include <pybind11/pybind11.h>

namespace marey::python {

// Makes `device` current and returns the one that was.
int set_current_device(int device);
void restore_device(int previous, int device) noexcept;
void register_cuda_device(pybind11::module_& module);

}  // namespace marey::python
