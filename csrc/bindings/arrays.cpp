#include "bindings/arrays.h"

#include <algorithm>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "core/buffer.h"
#include "core/error.h"

namespace marey::python {
namespace {

std::string type_name(const py::handle& object) {
  return py::str(py::type::handle_of(object).attr("__name__"));
}

DType dtype_of(std::string_view function, std::string_view argument, const py::array& array,
               bool allow_bfloat16) {
  const char byteorder = array.dtype().byteorder();
  const bool native = byteorder == '=' || byteorder == '|';
  if (native) {
    switch (array.dtype().num()) {
      case py::detail::npy_api::NPY_UBYTE_:
        return DType::u8;
      case py::detail::npy_api::NPY_FLOAT_:
        return DType::f32;
      case py::detail::npy_api::NPY_DOUBLE_:
        return DType::f64;
      default:
        break;
    }
    // A type that ml_dtypes registers with NumPy: it has no number of its own before that.
    if (allow_bfloat16 && array.itemsize() == 2 &&
        std::string(py::str(array.dtype())) == "bfloat16") {
      return DType::bf16;
    }
  }
  throw TypeError(function, argument,
                  allow_bfloat16 ? "dtype float32, float64 or bfloat16 in native byte order"
                                 : "dtype uint8, float32 or float64 in native byte order",
                  std::string(py::str(array.dtype())));
}

// The bytes that a view touches, from first to one past the last.
std::pair<const std::byte*, const std::byte*> extent(const View& view) {
  const auto* low = view.as<const std::byte>();
  const std::byte* high = low;
  if (view.shape.count() == 0) return {low, low};
  for (int axis = 0; axis < view.ndim(); ++axis) {
    const int64_t span = (view.shape[axis] - 1) * view.stride(axis);
    (span < 0 ? low : high) += span;
  }
  return {low, high + item_size(view.dtype)};
}

// The same memory as an array of NumPy's, which does not keep it alive.
py::array borrowed_array(const View& view) {
  const std::vector<py::ssize_t> shape(view.shape.dims.begin(),
                                       view.shape.dims.begin() + view.ndim());
  const std::vector<py::ssize_t> strides(view.strides.begin(), view.strides.begin() + view.ndim());
  return {numpy_dtype(view.dtype), shape, strides, view.data, py::none()};
}

// Of two views whose extents overlap: false if their items never meet, as the channels of one
// image. True where NumPy cannot say quickly.
bool share_items(const View& a, const View& b) {
  constexpr int kMaxWork = 10'000;
  try {
    return py::module_::import("numpy")
        .attr("shares_memory")(borrowed_array(a), borrowed_array(b), py::arg("max_work") = kMaxWork)
        .cast<bool>();
  } catch (py::error_already_set& error) {
    if (error.matches(PyExc_RuntimeError)) return true;  // numpy.exceptions.TooHardError
    throw;
  }
}

bool same_memory(const View& a, const View& b) {
  if (a.data != b.data || a.dtype != b.dtype || !(a.shape == b.shape)) return false;
  for (int axis = 0; axis < a.ndim(); ++axis) {
    if (a.shape[axis] > 1 && a.stride(axis) != b.stride(axis)) return false;
  }
  return true;
}

}  // namespace

View view_of(std::string_view function, std::string_view argument, const py::handle& object,
             const Accepted& accepted) {
  if (!py::isinstance<py::array>(object)) {
    throw TypeError(function, argument, "an array", type_name(object));
  }
  const auto array = py::reinterpret_borrow<py::array>(object);
  View view;
  view.dtype = dtype_of(function, argument, array, accepted.bfloat16);
  if (array.ndim() > accepted.dims) {
    throw ValueError(function, argument, "at most " + std::to_string(accepted.dims) + " axes",
                     std::to_string(array.ndim()));
  }
  // A power of two: to divide by it for every axis was a good part of what a call costs.
  const auto within = static_cast<uintptr_t>(item_size(view.dtype)) - 1;
  view.data = const_cast<void*>(array.data());
  bool aligned = (reinterpret_cast<uintptr_t>(view.data) & within) == 0;
  for (int axis = 0; axis < static_cast<int>(array.ndim()); ++axis) {
    view.shape.push_back(array.shape(axis));
    view.stride(axis) = array.strides(axis);
    aligned = aligned &&
              (array.shape(axis) <= 1 || (static_cast<uintptr_t>(view.stride(axis)) & within) == 0);
  }
  if (!aligned && view.shape.count() != 0) {
    throw ValueError(function, argument, "items aligned to their size", "a misaligned array");
  }
  return view;
}

std::optional<View> optional_view(std::string_view function, std::string_view argument,
                                  const py::handle& object) {
  if (object.is_none()) return std::nullopt;
  return view_of(function, argument, object, kWithBfloat16);
}

py::dtype numpy_dtype(DType dtype) {
  switch (dtype) {
    case DType::u8:
      return py::dtype::of<uint8_t>();
    case DType::f32:
      return py::dtype::of<float>();
    case DType::f64:
      return py::dtype::of<double>();
    case DType::bf16:
      return py::dtype::from_args(py::module_::import("ml_dtypes").attr("bfloat16"));
  }
  return {};
}

py::array new_array(const Shape& shape, DType dtype) {
  const int64_t bytes = shape.count() * item_size(dtype);
  if (bytes < Buffer::kKeptBytes) {
    // Without the vectors of extents and strides that pybind11 makes on the way.
    const auto& api = py::detail::npy_api::get();
    py::ssize_t extents[kMaxDims];
    std::copy_n(shape.dims.begin(), shape.ndim, extents);
    PyObject* array =
        api.PyArray_NewFromDescr_(api.PyArray_Type_, numpy_dtype(dtype).release().ptr(), shape.ndim,
                                  extents, nullptr, nullptr, 0, nullptr);
    if (array == nullptr) throw py::error_already_set();
    return py::reinterpret_steal<py::array>(array);
  }
  const std::vector<py::ssize_t> extents(shape.dims.begin(), shape.dims.begin() + shape.ndim);
  auto buffer = std::make_unique<Buffer>(bytes);
  std::byte* data = buffer->data();
  const py::capsule owner(buffer.release(), [](void* p) { delete static_cast<Buffer*>(p); });
  return {numpy_dtype(dtype), extents, data, owner};
}

void check_no_overlap(std::string_view function, const View& out, const View& input,
                      bool in_place) {
  const auto [out_low, out_high] = extent(out);
  const auto [low, high] = extent(input);
  if (out_low >= high || low >= out_high) return;
  if (in_place && same_memory(out, input)) return;
  if (!share_items(out, input)) return;
  throw ValueError(function, "out",
                   in_place ? "the input itself, or memory that does not overlap it"
                            : "memory that does not overlap the input",
                   "overlapping arrays");
}

py::array result_array(std::string_view function, const py::object& out, const Shape& shape,
                       DType dtype, const View& input, bool in_place) {
  if (out.is_none()) return new_array(shape, dtype);
  const View view = view_of(function, "out", out, {.bfloat16 = true, .dims = kMaxDims});
  auto array = py::reinterpret_borrow<py::array>(out);
  if (!(view.shape == shape)) {
    throw ValueError(function, "out", "shape " + to_string(shape), to_string(view.shape));
  }
  if (view.dtype != dtype) throw TypeError(function, "out", name(dtype), name(view.dtype));
  if (!array.writeable()) throw ValueError(function, "out", "a writable array", "a read-only one");
  check_no_overlap(function, view, input, in_place);
  return array;
}

}  // namespace marey::python
