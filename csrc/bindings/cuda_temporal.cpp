#include <optional>
#include <string>

#include "bindings/cuda_arrays.h"
#include "bindings/cuda_register.h"
#include "core/error.h"
#include "ops/temporal/sosfilt.h"
#include "ops/temporal/temporal_cuda.h"

namespace marey::python {
namespace {

// Coefficients are few and on the host: a tuple as of an array, float64.
using Coefficients = py::handle;

DType float_type(const View& x) { return x.dtype == DType::u8 ? DType::f32 : x.dtype; }

View signal(std::string_view function, const py::handle& x) {
  const View view = device_view(function, "x", x);
  if (view.dtype == DType::bf16) {
    throw TypeError(function, "x", "dtype uint8, float32 or float64", name(view.dtype));
  }
  return view;
}

void py_sosfilt(const Coefficients& sos, const py::handle& x, int axis, const py::handle& y,
                const py::handle& zi, const py::handle& zf, const py::handle& queue) {
  constexpr std::string_view kName = "marey.sosfilt";
  const View coefficients = device_view(kName, "sos", sos);
  const View source = signal(kName, x);
  axis = checked_axis(kName, source, axis);
  const DType dtype = float_type(source);
  const View target = device_result(kName, y, source.shape, dtype, source, source.dtype == dtype);
  const std::optional<View> before = optional_device_view(kName, "zi", zi, kMaxDims);
  const std::optional<View> after = optional_device_view(kName, "zf", zf, kMaxDims);
  if (before) check_no_device_overlap(kName, target, *before);
  if (before && after) check_no_device_overlap(kName, *after, *before, true);
  if (after) {
    // Some series' last state is written while others are read.
    for (const View* other : {&source, &target}) check_no_device_overlap(kName, *after, *other);
  }
  const DeviceQueue where(queue);
  // The views stay valid: the caller holds the arrays.
  const py::gil_scoped_release release;
  cuda::sosfilt(*where, coefficients, source, axis, target, pointer(before), pointer(after));
}

int64_t py_sosfiltfilt_workspace(const py::handle& x, int axis, int64_t padlen, int64_t sections) {
  const View source = signal("marey.sosfiltfilt", x);
  axis = checked_axis("marey.sosfiltfilt", source, axis);
  return cuda::sosfiltfilt_workspace(source, axis, padlen, sections);
}

void py_sosfiltfilt(const Coefficients& sos, const py::handle& x, int axis, const py::handle& y,
                    const std::string& padtype, int64_t padlen, const Coefficients& zi,
                    const py::handle& workspace, const py::handle& queue) {
  constexpr std::string_view kName = "marey.sosfiltfilt";
  const View coefficients = device_view(kName, "sos", sos);
  const View steady = device_view(kName, "zi", zi);
  const View source = signal(kName, x);
  axis = checked_axis(kName, source, axis);
  const DType dtype = float_type(source);
  const View target = device_result(kName, y, source.shape, dtype, source, source.dtype == dtype);
  const Extension extension = extension_of(padtype);
  void* const memory = workspace_pointer(workspace);
  const DeviceQueue where(queue);
  const py::gil_scoped_release release;
  cuda::sosfiltfilt(*where, coefficients, source, axis, target, extension, padlen, steady, memory);
}

// A window, with the history's view, which must live as long.
Window window_of(std::string_view function, int64_t size, int64_t before, const std::string& mode,
                 double cval, const std::optional<View>& history) {
  return {size, before, boundary_of(function, mode), cval, pointer(history)};
}

void py_convolve(const std::string& function, const py::handle& x, int axis,
                 const Coefficients& taps, int64_t before, const std::string& mode, double cval,
                 const py::handle& history, const py::handle& y, const py::handle& queue) {
  const View source = signal(function, x);
  axis = checked_axis(function, source, axis);
  const View weights = device_view(function, "taps", taps);
  const std::optional<View> past = optional_device_view(function, "state", history);
  const Window window = window_of(function, weights.shape.count(), before, mode, cval, past);
  const View target = device_result(function, y, source.shape, float_type(source), source);
  if (past) check_no_device_overlap(function, target, *past);
  const DeviceQueue where(queue);
  const py::gil_scoped_release release;
  cuda::convolve(*where, function, source, axis, weights, window, target);
}

void py_median_filter(const std::string& function, const py::handle& x, int axis, int64_t size,
                      int64_t before, const std::string& mode, double cval,
                      const py::handle& history, const py::handle& y, const py::handle& queue) {
  const View source = signal(function, x);
  axis = checked_axis(function, source, axis);
  const std::optional<View> past = optional_device_view(function, "state", history);
  const Window window = window_of(function, size, before, mode, cval, past);
  const View target = device_result(function, y, source.shape, source.dtype, source);
  if (past) check_no_device_overlap(function, target, *past);
  const DeviceQueue where(queue);
  const py::gil_scoped_release release;
  cuda::median_filter(*where, function, source, axis, window, target);
}

void py_median(const py::handle& x, int axis, const py::handle& y, const py::handle& queue) {
  constexpr std::string_view kName = "marey.median";
  const View source = signal(kName, x);
  axis = checked_axis(kName, source, axis);
  Shape shape;
  for (int a = 0; a < source.ndim(); ++a) {
    if (a != axis) shape.push_back(source.shape[a]);
  }
  const View array = device_result(kName, y, shape, float_type(source), source);
  View target = source;  // with an axis of length one where the steps were
  target.data = array.data;
  target.dtype = array.dtype;
  target.shape[axis] = 1;
  for (int a = 0; a < source.ndim(); ++a) {
    target.stride(a) = a == axis ? 0 : array.stride(a < axis ? a : a - 1);
  }
  const DeviceQueue where(queue);
  const py::gil_scoped_release release;
  cuda::median(*where, source, axis, target);
}

}  // namespace

void register_cuda_temporal(py::module_& module) {
  module.def("sosfilt", &py_sosfilt, py::arg("sos"), py::arg("x"), py::arg("axis"), py::arg("y"),
             py::arg("zi"), py::arg("zf"), py::arg("queue"));
  module.def("sosfiltfilt_workspace", &py_sosfiltfilt_workspace, py::arg("x"), py::arg("axis"),
             py::arg("padlen"), py::arg("sections"));
  module.def("sosfiltfilt", &py_sosfiltfilt, py::arg("sos"), py::arg("x"), py::arg("axis"),
             py::arg("y"), py::arg("padtype"), py::arg("padlen"), py::arg("zi"),
             py::arg("workspace"), py::arg("queue"));
  module.def("convolve", &py_convolve, py::arg("function"), py::arg("x"), py::arg("axis"),
             py::arg("taps"), py::arg("before"), py::arg("mode"), py::arg("cval"),
             py::arg("history"), py::arg("y"), py::arg("queue"));
  module.def("median_filter", &py_median_filter, py::arg("function"), py::arg("x"), py::arg("axis"),
             py::arg("size"), py::arg("before"), py::arg("mode"), py::arg("cval"),
             py::arg("history"), py::arg("y"), py::arg("queue"));
  module.def("median", &py_median, py::arg("x"), py::arg("axis"), py::arg("y"), py::arg("queue"));
}

}  // namespace marey::python
