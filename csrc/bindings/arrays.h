#pragma once
// The one place where NumPy arrays become views, and where results are allocated.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <optional>
#include <string_view>

#include "core/view.h"

namespace marey::python {

namespace py = pybind11;

// What a function takes besides uint8, float32 and float64, and how many axes.
struct Accepted {
  bool bfloat16 = false;
  int dims = kMaxArrayDims;
};
inline constexpr Accepted kWithBfloat16{.bfloat16 = true};

// A view of an array; a TypeError that names the function and the argument for anything but a NumPy
// array of an accepted type, in native byte order and aligned. Never copies.
View view_of(std::string_view function, std::string_view argument, const py::handle& object,
             const Accepted& accepted = {});

// The same of an array that may be None, and what kernels take for it: a null pointer for None.
std::optional<View> optional_view(std::string_view function, std::string_view argument,
                                  const py::handle& object);
inline const View* pointer(const std::optional<View>& view) { return view ? &*view : nullptr; }

// A new C-ordered array, or `out` after checking that it is writable, has this shape and type, and
// does not overlap `input`. With `in_place`, out may also be the very memory of the input.
py::array result_array(std::string_view function, const py::object& out, const Shape& shape,
                       DType dtype, const View& input, bool in_place = false);

// C-ordered; a large one lives in a kept block (core/buffer.h).
py::array new_array(const Shape& shape, DType dtype);

// Throws ValueError unless the memory of the two is disjoint.
void check_no_overlap(std::string_view function, const View& out, const View& input,
                      bool in_place = false);

py::dtype numpy_dtype(DType dtype);

}  // namespace marey::python
