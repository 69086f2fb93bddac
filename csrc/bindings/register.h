#pragma once
#include <pybind11/pybind11.h>

namespace marey::python {

void register_config(pybind11::module_& module);
void register_pyramid(pybind11::module_& module);
void register_steerable(pybind11::module_& module);
void register_temporal(pybind11::module_& module);
void register_attention(pybind11::module_& module);
void register_conv(pybind11::module_& module);
void register_pool(pybind11::module_& module);
void register_recurrent(pybind11::module_& module);
void register_magnification(pybind11::module_& module);
void register_pulse(pybind11::module_& module);
void register_background(pybind11::module_& module);
void register_phase(pybind11::module_& module);

}  // namespace marey::python
