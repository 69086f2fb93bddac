#include <pybind11/stl.h>

#include <string>
#include <vector>

#include "bindings/arrays.h"
#include "bindings/temporal.h"
#include "core/error.h"
#include "ops/temporal/convolve.h"
#include "ops/temporal/median.h"
#include "ops/temporal/median_filter.h"
#include "ops/temporal/trajectory.h"

namespace marey::python {
namespace {

// A window with the history's view, which must live as long.
Window window_of(std::string_view function, int64_t size, int64_t before, const std::string& mode,
                 double cval, const py::object& history, View& view) {
  Window window{size, before, boundary_of(function, mode), cval, nullptr};
  if (!history.is_none()) {
    view = view_of(function, "state", history);
    window.history = &view;
  }
  return window;
}

py::array py_convolve(const std::string& function, const py::object& x, int axis,
                      const py::object& taps, int64_t before, const std::string& mode, double cval,
                      const py::object& history, const py::object& out) {
  const View source = view_of(function, "x", x);
  const View weights = view_of(function, "taps", taps);
  axis = checked_axis(function, source, axis);
  View past;
  const Window window =
      window_of(function, weights.shape.count(), before, mode, cval, history, past);
  py::array result = float_result(function, source, out, false);
  const View target = view_of(function, "out", result);
  if (window.history != nullptr) check_no_overlap(function, target, past);
  {
    // The views stay valid: the arguments are held by the caller, the result by this frame.
    const py::gil_scoped_release release;
    convolve(function, source, axis, weights, window, target);
  }
  return result;
}

py::array py_median_filter(const std::string& function, const py::object& x, int axis, int64_t size,
                           int64_t before, const std::string& mode, double cval,
                           const py::object& history, const py::object& out) {
  const View source = view_of(function, "x", x);
  axis = checked_axis(function, source, axis);
  View past;
  const Window window = window_of(function, size, before, mode, cval, history, past);
  py::array result = result_array(function, out, source.shape, source.dtype, source);
  const View target = view_of(function, "out", result);
  if (window.history != nullptr) check_no_overlap(function, target, past);
  {
    const py::gil_scoped_release release;
    median_filter(function, source, axis, window, target);
  }
  return result;
}

py::array py_median(const py::object& x, int axis, const py::object& out) {
  constexpr std::string_view kName = "marey.median";
  const View source = view_of(kName, "x", x);
  axis = checked_axis(kName, source, axis);
  Shape shape;
  for (int a = 0; a < source.ndim(); ++a) {
    if (a != axis) shape.push_back(source.shape[a]);
  }
  py::array result = result_array(kName, out, shape, float_type(source), source);
  const View array = view_of(kName, "out", result);
  View target = source;  // with an axis of length one where the steps were
  target.data = array.data;
  target.dtype = array.dtype;
  target.shape[axis] = 1;
  for (int a = 0; a < source.ndim(); ++a) {
    target.stride(a) = a == axis ? 0 : array.stride(a < axis ? a : a - 1);
  }
  {
    const py::gil_scoped_release release;
    median(source, axis, target);
  }
  return result;
}

py::array py_trajectory_mean(const py::object& x, const std::vector<double>& weights,
                             const std::string& mode, double cval, double vy, double vx) {
  constexpr std::string_view kName = "marey.gaussian";
  const View source = view_of(kName, "x", x);
  const auto size = static_cast<int64_t>(weights.size());
  const Window window{size, size / 2, boundary_of(kName, mode), cval, nullptr};
  py::array result = new_array(source.shape, float_type(source));
  const View target = view_of(kName, "out", result);
  {
    const py::gil_scoped_release release;
    trajectory_mean(source, weights, window, vy, vx, target);
  }
  return result;
}

}  // namespace

void register_temporal_windows(py::module_& module) {
  module.def("convolve", &py_convolve, py::arg("function"), py::arg("x"), py::arg("axis"),
             py::arg("taps"), py::arg("before"), py::arg("mode"), py::arg("cval"),
             py::arg("history"), py::arg("out"));
  module.def("median_filter", &py_median_filter, py::arg("function"), py::arg("x"), py::arg("axis"),
             py::arg("size"), py::arg("before"), py::arg("mode"), py::arg("cval"),
             py::arg("history"), py::arg("out"));
  module.def("median", &py_median, py::arg("x"), py::arg("axis"), py::arg("out"));
  module.def("trajectory_mean", &py_trajectory_mean, py::arg("x"), py::arg("weights"),
             py::arg("mode"), py::arg("cval"), py::arg("vy"), py::arg("vx"));
}

}  // namespace marey::python
