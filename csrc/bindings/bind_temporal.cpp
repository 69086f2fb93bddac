#include <optional>
#include <string>
#include <vector>

#include "bindings/arrays.h"
#include "bindings/register.h"
#include "bindings/temporal.h"
#include "core/error.h"
#include "ops/temporal/ideal_bandpass.h"
#include "ops/temporal/sosfilt.h"
#include "ops/temporal/sosfiltfilt.h"
#include "ops/temporal/window.h"

namespace marey::python {
namespace {

// y, and zf unless zi is None. zf may be an array to write the final state to; zi itself is
// allowed.
py::object py_sosfilt(const py::object& sos, const py::object& x, int axis, const py::object& zi,
                      const py::object& out, const py::object& zf) {
  constexpr std::string_view kName = "marey.sosfilt";
  const View coefficients = view_of(kName, "sos", sos);
  const View source = view_of(kName, "x", x);
  axis = checked_axis(kName, source, axis);
  const DType dtype = float_type(source);
  py::array result = float_result(kName, source, out, true);
  const View target = view_of(kName, "out", result);
  const bool with_state = !zi.is_none();
  View initial;
  View final;
  py::array final_state;
  if (with_state) {
    initial = view_of(kName, "zi", zi, {.dims = kMaxDims});
    if (coefficients.ndim() != 2) {
      throw ValueError(kName, "sos", "shape (sections, 6)", to_string(coefficients.shape));
    }
    const Shape shape = sosfilt_state_shape(source.shape, axis, coefficients.shape[0]);
    final_state = result_array(kName, zf, shape, dtype, initial, true);
    final = view_of(kName, "zf", final_state, {.dims = kMaxDims});
    check_no_overlap(kName, target, initial);
  }
  {
    // The views stay valid: the arguments are held by the caller, the results by this frame.
    const py::gil_scoped_release release;
    sosfilt(coefficients, source, axis, target, with_state ? &initial : nullptr,
            with_state ? &final : nullptr);
  }
  if (!with_state) return result;
  return py::make_tuple(result, final_state);
}

py::array py_sosfiltfilt(const py::object& sos, const py::object& x, int axis,
                         const std::string& padtype, int64_t padlen, const py::object& zi,
                         const py::object& out) {
  constexpr std::string_view kName = "marey.sosfiltfilt";
  const View coefficients = view_of(kName, "sos", sos);
  const View steady = view_of(kName, "zi", zi);
  const View source = view_of(kName, "x", x);
  axis = checked_axis(kName, source, axis);
  const Extension extension = extension_of(padtype);
  py::array result = float_result(kName, source, out, true);
  const View target = view_of(kName, "out", result);
  {
    const py::gil_scoped_release release;
    sosfiltfilt(coefficients, source, axis, target, extension, padlen, steady);
  }
  return result;
}

py::array py_sosfilt_zi(const std::string& function, const py::object& sos) {
  const std::vector<double> zi =
      steady_state(function, checked_sections(function, view_of(function, "sos", sos)));
  const auto sections = static_cast<py::ssize_t>(zi.size() / 2);
  return py::array_t<double>({sections, py::ssize_t{2}}, zi.data());
}

// For a caller that fills it by other means.
py::array py_ideal_bandpass_result(const py::object& x, const py::object& out) {
  return float_result("marey.ideal_bandpass", view_of("marey.ideal_bandpass", "x", x), out, true);
}

py::array py_ideal_bandpass(const py::object& x, int axis, int64_t first, int64_t last,
                            const py::object& out) {
  constexpr std::string_view kName = "marey.ideal_bandpass";
  const View source = view_of(kName, "x", x);
  axis = checked_axis(kName, source, axis);
  py::array result = float_result(kName, source, out, true);
  const View target = view_of(kName, "out", result);
  {
    const py::gil_scoped_release release;
    ideal_bandpass(source, axis, first, last, target);
  }
  return result;
}

}  // namespace

DType float_type(const View& x) { return x.dtype == DType::u8 ? DType::f32 : x.dtype; }

py::array float_result(std::string_view function, const View& x, const py::object& out,
                       bool in_place) {
  const DType dtype = float_type(x);
  return result_array(function, out, x.shape, dtype, x, in_place && x.dtype == dtype);
}

void register_temporal(py::module_& module) {
  module.def("sosfilt", &py_sosfilt, py::arg("sos"), py::arg("x"), py::arg("axis"), py::arg("zi"),
             py::arg("out"), py::arg("zf"));
  module.def("sosfiltfilt", &py_sosfiltfilt, py::arg("sos"), py::arg("x"), py::arg("axis"),
             py::arg("padtype"), py::arg("padlen"), py::arg("zi"), py::arg("out"));
  module.def("sosfilt_zi", &py_sosfilt_zi, py::arg("function"), py::arg("sos"));
  module.def("ideal_bandpass", &py_ideal_bandpass, py::arg("x"), py::arg("axis"), py::arg("first"),
             py::arg("last"), py::arg("out"));
  module.def("ideal_bandpass_result", &py_ideal_bandpass_result, py::arg("x"), py::arg("out"));
  module.def("ideal_bandpass_cost", &ideal_bandpass_cost, py::arg("steps"), py::arg("first"),
             py::arg("last"));
  register_temporal_windows(module);
}

}  // namespace marey::python
