#pragma once
// The one place where arrays on a CUDA device become views. Python hands them over as tuples
// (pointer, dtype, shape, strides in bytes); marey/_device.py makes those, and all results.
#include <pybind11/pybind11.h>

#include <optional>
#include <string_view>

#include "core/view.h"
#include "cuda/kernel.h"

namespace marey::python {

namespace py = pybind11;

// A view of an array on a device: a TypeError or ValueError that names the function and the
// argument for a type that it has no kernels for (bool is for masks), too many axes, or items that
// are not aligned to their size.
View device_view(std::string_view function, std::string_view argument, const py::handle& array,
                 int dims = kMaxArrayDims);
// The same of an array that may be None.
std::optional<View> optional_device_view(std::string_view function, std::string_view argument,
                                         const py::handle& array, int dims = kMaxArrayDims);
inline const View* pointer(const std::optional<View>& view) { return view ? &*view : nullptr; }

// `out`, checked: of this shape and type, and in other memory than the input. With `in_place` the
// very memory of the input is allowed. Only extents are compared: interleaved arrays are refused,
// and so are those that are broadcast, whose items are written more than once.
View device_result(std::string_view function, const py::handle& out, const Shape& shape,
                   DType dtype, const View& input, bool in_place = false, int dims = kMaxArrayDims);
void check_no_device_overlap(std::string_view function, const View& out, const View& input,
                             bool in_place = false);

// Python's (device, stream); makes the device current for as long as it lives.
class DeviceQueue {
 public:
  explicit DeviceQueue(const py::handle& queue);
  ~DeviceQueue();
  DeviceQueue(const DeviceQueue&) = delete;
  DeviceQueue& operator=(const DeviceQueue&) = delete;
  const cuda::Queue& operator*() const { return queue_; }

 private:
  cuda::Queue queue_;
  int previous_;
};

void* workspace_pointer(const py::handle& array);

}  // namespace marey::python
