#include <optional>
#include <string>

#include "bindings/arrays.h"
#include "bindings/register.h"
#include "core/error.h"
#include "ops/temporal/sosfilt.h"

namespace marey::python {
namespace {

int checked_axis(std::string_view function, const View& x, int axis) {
  const int positive = axis < 0 ? axis + x.ndim() : axis;
  if (positive < 0 || positive >= x.ndim()) {
    throw ValueError(function, "axis", "an axis of shape " + to_string(x.shape),
                     std::to_string(axis));
  }
  return positive;
}

// y, and zf unless zi is None. zf may be an array to write the final state to; zi itself is
// allowed.
py::object py_sosfilt(const py::object& sos, const py::object& x, int axis, const py::object& zi,
                      const py::object& out, const py::object& zf) {
  constexpr std::string_view kName = "marey.sosfilt";
  const View coefficients = view_of(kName, "sos", sos);
  const View source = view_of(kName, "x", x);
  axis = checked_axis(kName, source, axis);
  const DType dtype = source.dtype == DType::u8 ? DType::f32 : source.dtype;
  py::array result = result_array(kName, out, source.shape, dtype, source, source.dtype == dtype);
  const View target = view_of(kName, "out", result);
  const bool with_state = !zi.is_none();
  View initial;
  View final;
  py::array final_state;
  if (with_state) {
    initial = view_of(kName, "zi", zi);
    if (coefficients.ndim() != 2) {
      throw ValueError(kName, "sos", "shape (sections, 6)", to_string(coefficients.shape));
    }
    const Shape shape = sosfilt_state_shape(source.shape, axis, coefficients.shape[0]);
    final_state = result_array(kName, zf, shape, dtype, initial, true);
    final = view_of(kName, "zf", final_state);
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

}  // namespace

void register_temporal(py::module_& module) {
  module.def("sosfilt", &py_sosfilt, py::arg("sos"), py::arg("x"), py::arg("axis"), py::arg("zi"),
             py::arg("out"), py::arg("zf"));
}

}  // namespace marey::python
