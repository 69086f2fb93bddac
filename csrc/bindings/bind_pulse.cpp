#include <pybind11/stl.h>

#include <vector>

#include "bindings/arrays.h"
#include "bindings/register.h"
#include "core/error.h"
#include "ops/pulse/patches.h"

namespace marey::python {
namespace {

py::array py_patch_means(const py::object& frames, const std::vector<int64_t>& row_edges,
                         const std::vector<int64_t>& column_edges, const py::object& mask) {
  constexpr std::string_view kName = "marey.pulse.patch_means";
  const View source = view_of(kName, "frames", frames);
  View selected;
  if (!mask.is_none()) {
    selected = view_of(kName, "mask", mask);
    if (selected.dtype != DType::u8 || selected.ndim() != 2 || !is_contiguous(selected, 0, 2)) {
      throw ValueError(kName, "mask", "a C-contiguous (H, W) array of uint8",
                       to_string(selected.shape));
    }
  }
  if (source.ndim() < 1 || row_edges.size() < 2 || column_edges.size() < 2) {
    throw ValueError(kName, "frames", "shape (T, H, W, 3), and two edges or more",
                     to_string(source.shape));
  }
  Shape shape;
  for (const int64_t extent : {source.shape[0], static_cast<int64_t>(row_edges.size()) - 1,
                               static_cast<int64_t>(column_edges.size()) - 1, int64_t{3}}) {
    shape.push_back(extent);
  }
  py::array result = new_array(shape, DType::f64);
  const View means = view_of(kName, "means", result);
  {
    const py::gil_scoped_release release;
    patch_means(source, row_edges, column_edges, mask.is_none() ? nullptr : &selected, means);
  }
  return result;
}

}  // namespace

void register_pulse(py::module_& module) {
  module.def("patch_means", &py_patch_means, py::arg("frames"), py::arg("row_edges"),
             py::arg("column_edges"), py::arg("mask"));
}

}  // namespace marey::python
