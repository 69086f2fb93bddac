#include <pybind11/pybind11.h>

#include "bindings/register.h"
#include "core/error.h"
#include "core/isa.h"
#include "core/parallel.h"

namespace py = pybind11;

namespace {

unsigned long g_main_thread = 0;

// Runs Python's signal handlers, so that Ctrl-C stops long work. Only the main thread has any: the
// others need not wait for the GIL to learn that.
bool interrupted() {
  if (PyThread_get_thread_ident() != g_main_thread) return false;
  const py::gil_scoped_acquire gil;
  return PyErr_CheckSignals() != 0;
}

void translate(std::exception_ptr pointer) {
  try {
    if (pointer) std::rethrow_exception(pointer);
  } catch (const marey::TypeError& error) {
    py::set_error(PyExc_TypeError, error.what());
  } catch (const marey::Interrupted&) {
    // The signal handler has set its exception, usually KeyboardInterrupt.
    if (PyErr_Occurred() == nullptr) PyErr_SetNone(PyExc_KeyboardInterrupt);
  }
}

}  // namespace

// Inputs are only read, and every call has its own workspace; objects with state say in their
// docstring that one thread at a time may use them.
PYBIND11_MODULE(_cpu, module, py::mod_gil_not_used()) {
  module.doc() = "The compiled kernels of marey. Private: use the functions of the marey package.";
  py::register_local_exception_translator(translate);
  g_main_thread =
      py::module_::import("threading").attr("main_thread")().attr("ident").cast<unsigned long>();
  marey::set_interrupt_check(interrupted);
  marey::choose_isa_from_environment();

  marey::python::register_config(module);
  marey::python::register_pyramid(module);
  marey::python::register_steerable(module);
  marey::python::register_temporal(module);
  marey::python::register_attention(module);
  marey::python::register_conv(module);
  marey::python::register_pool(module);
  marey::python::register_recurrent(module);
  marey::python::register_magnification(module);
  marey::python::register_pulse(module);
  marey::python::register_background(module);
  marey::python::register_phase(module);
}
