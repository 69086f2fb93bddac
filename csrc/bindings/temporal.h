#pragma once
// What the two binding files of the temporal family share.
#include <string_view>

#include "bindings/arrays.h"

namespace marey::python {

// float32 for uint8, else the type of x.
DType float_type(const View& x);

// A new array of x's shape and float_type, or `out` after checking that it fits.
py::array float_result(std::string_view function, const View& x, const py::object& out,
                       bool in_place);

void register_temporal_windows(py::module_& module);

}  // namespace marey::python
