#include "bindings/cuda_arrays.h"

#include <string>
#include <utility>

#include "bindings/cuda_device.h"
#include "core/error.h"

namespace marey::python {
namespace {

DType dtype_of(std::string_view function, std::string_view argument, const std::string& dtype) {
  if (dtype == "uint8" || (dtype == "bool" && argument == "mask")) return DType::u8;
  if (dtype == "float32") return DType::f32;
  if (dtype == "float64") return DType::f64;
  if (dtype == "bfloat16") return DType::bf16;
  throw TypeError(function, argument, "dtype uint8, float32, float64 or bfloat16", dtype);
}

std::pair<uintptr_t, uintptr_t> extent(const View& view) {
  auto low = reinterpret_cast<uintptr_t>(view.data);
  uintptr_t high = low;
  if (view.shape.count() == 0) return {low, low};
  for (int axis = 0; axis < view.ndim(); ++axis) {
    const int64_t span = (view.shape[axis] - 1) * view.stride(axis);
    (span < 0 ? low : high) += static_cast<uintptr_t>(span);
  }
  return {low, high + static_cast<uintptr_t>(item_size(view.dtype))};
}

bool same_memory(const View& a, const View& b) {
  if (a.data != b.data || a.dtype != b.dtype || !(a.shape == b.shape)) return false;
  for (int axis = 0; axis < a.ndim(); ++axis) {
    if (a.shape[axis] > 1 && a.stride(axis) != b.stride(axis)) return false;
  }
  return true;
}

}  // namespace

View device_view(std::string_view function, std::string_view argument, const py::handle& array,
                 int dims) {
  const auto fields = py::cast<py::tuple>(array);
  const auto shape = py::cast<py::tuple>(fields[2]);
  const auto strides = py::cast<py::tuple>(fields[3]);
  View view;
  view.data = reinterpret_cast<void*>(py::cast<uintptr_t>(fields[0]));
  view.dtype = dtype_of(function, argument, py::cast<std::string>(fields[1]));
  const int ndim = static_cast<int>(shape.size());
  if (ndim > dims) {
    throw ValueError(function, argument, "at most " + std::to_string(dims) + " axes",
                     std::to_string(ndim));
  }
  const int64_t item = item_size(view.dtype);
  bool aligned = reinterpret_cast<uintptr_t>(view.data) % static_cast<uintptr_t>(item) == 0;
  for (int axis = 0; axis < ndim; ++axis) {
    view.shape.push_back(py::cast<int64_t>(shape[static_cast<std::size_t>(axis)]));
    view.stride(axis) = py::cast<int64_t>(strides[static_cast<std::size_t>(axis)]);
    aligned = aligned && (view.shape[axis] <= 1 || view.stride(axis) % item == 0);
  }
  if (!aligned && view.shape.count() != 0) {
    throw ValueError(function, argument, "items aligned to their size", "a misaligned array");
  }
  return view;
}

std::optional<View> optional_device_view(std::string_view function, std::string_view argument,
                                         const py::handle& array, int dims) {
  if (array.is_none()) return std::nullopt;
  return device_view(function, argument, array, dims);
}

View device_result(std::string_view function, const py::handle& out, const Shape& shape,
                   DType dtype, const View& input, bool in_place, int dims) {
  const View view = device_view(function, "out", out, dims);
  if (!(view.shape == shape)) {
    throw ValueError(function, "out", "shape " + to_string(shape), to_string(view.shape));
  }
  if (view.dtype != dtype) throw TypeError(function, "out", name(dtype), name(view.dtype));
  check_no_device_overlap(function, view, input, in_place);
  return view;
}

void check_no_device_overlap(std::string_view function, const View& out, const View& input,
                             bool in_place) {
  for (int axis = 0; axis < out.ndim(); ++axis) {
    if (out.shape[axis] > 1 && out.stride(axis) == 0 && out.shape.count() > 0) {
      throw ValueError(function, "out", "memory of its own for every item",
                       "a stride of 0 along axis " + std::to_string(axis));
    }
  }
  const auto [a_low, a_high] = extent(out);
  const auto [b_low, b_high] = extent(input);
  if (a_low >= b_high || b_low >= a_high) return;
  if (in_place && same_memory(out, input)) return;
  throw ValueError(function, "out", "memory that does not overlap an input", "an overlap");
}

DeviceQueue::DeviceQueue(const py::handle& queue) {
  const auto fields = py::cast<py::tuple>(queue);
  queue_.device = py::cast<int>(fields[0]);
  queue_.stream = reinterpret_cast<void*>(py::cast<uintptr_t>(fields[1]));
  previous_ = set_current_device(queue_.device);
}

DeviceQueue::~DeviceQueue() { restore_device(previous_, queue_.device); }

void* workspace_pointer(const py::handle& array) {
  return reinterpret_cast<void*>(py::cast<uintptr_t>(array));
}

}  // namespace marey::python
