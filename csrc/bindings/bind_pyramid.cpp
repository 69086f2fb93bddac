#include <pybind11/stl.h>
#include <pybind11/typing.h>

#include <optional>
#include <string>
#include <vector>

#include "bindings/arrays.h"
#include "bindings/register.h"
#include "core/error.h"
#include "ops/pyramid/adjoint.h"
#include "ops/pyramid/down.h"
#include "ops/pyramid/image.h"
#include "ops/pyramid/laplacian.h"
#include "ops/pyramid/up.h"

namespace marey::python {
namespace {

using Arrays = py::typing::List<py::array>;
using ChannelAxis = std::optional<int>;

DType band_dtype(const View& image) { return image.dtype == DType::u8 ? DType::f32 : image.dtype; }

py::array py_down(const py::object& image, ChannelAxis channel_axis, const py::object& out) {
  const View source = view_of("marey.down", "image", image);
  py::array result = result_array("marey.down", out, down_shape("marey.down", source, channel_axis),
                                  source.dtype, source);
  const View target = view_of("marey.down", "out", result);
  {
    // The views stay valid: `image` and `result` are held by the caller and by this frame.
    const py::gil_scoped_release release;
    down("marey.down", source, channel_axis, target);
  }
  return result;
}

py::array py_up(const py::object& image, std::optional<int64_t> height,
                std::optional<int64_t> width, ChannelAxis channel_axis, const py::object& out) {
  const View source = view_of("marey.up", "image", image);
  py::array result =
      result_array("marey.up", out, up_shape("marey.up", source, height, width, channel_axis),
                   source.dtype, source);
  const View target = view_of("marey.up", "out", result);
  {
    const py::gil_scoped_release release;
    up("marey.up", source, channel_axis, target);
  }
  return result;
}

// `levels + 1` arrays, new or the caller's.
Arrays level_arrays(std::string_view function, const py::object& out,
                    const std::vector<Shape>& shapes, DType dtype, const View& source,
                    std::vector<View>& views) {
  Arrays arrays;
  py::list given;
  if (!out.is_none()) {
    given = py::list(out);
    if (given.size() != shapes.size()) {
      throw ValueError(function, "out", std::to_string(shapes.size()) + " arrays",
                       std::to_string(given.size()));
    }
  }
  for (std::size_t level = 0; level < shapes.size(); ++level) {
    const py::object wanted = out.is_none() ? py::object(py::none()) : py::object(given[level]);
    py::array array = result_array(function, wanted, shapes[level], dtype, source);
    views.push_back(view_of(function, "out", array));
    for (std::size_t other = 0; other < level; ++other) {
      check_no_overlap(function, views[level], views[other]);
    }
    arrays.append(array);
  }
  return arrays;
}

Arrays py_gaussian(const py::object& image, int levels, ChannelAxis channel_axis,
                   const py::object& out) {
  const View source = view_of("marey.gaussian", "image", image);
  std::vector<View> views;
  Arrays arrays = level_arrays("marey.gaussian", out,
                               pyramid_shapes("marey.gaussian", source, levels, channel_axis),
                               source.dtype, source, views);
  arrays[0].attr("__setitem__")(py::ellipsis(), image);
  {
    const py::gil_scoped_release release;
    gaussian("marey.gaussian", source, channel_axis, views);
  }
  return arrays;
}

Arrays py_laplacian(const py::object& image, int levels, ChannelAxis channel_axis,
                    const py::object& out) {
  const View source = view_of("marey.laplacian", "image", image);
  std::vector<View> views;
  Arrays arrays = level_arrays("marey.laplacian", out,
                               pyramid_shapes("marey.laplacian", source, levels, channel_axis),
                               band_dtype(source), source, views);
  if (levels == 0) {
    arrays[0].attr("__setitem__")(py::ellipsis(), image);
    return arrays;
  }
  {
    const py::gil_scoped_release release;
    laplacian("marey.laplacian", source, channel_axis, views);
  }
  return arrays;
}

py::array py_collapse(const py::typing::List<py::object>& bands, ChannelAxis channel_axis,
                      const py::object& out) {
  std::vector<View> views;
  for (std::size_t level = 0; level < bands.size(); ++level) {
    const std::string argument = "bands[" + std::to_string(level) + "]";
    views.push_back(view_of("marey.collapse", argument, bands[level]));
    if (views[level].dtype == DType::u8) {
      throw TypeError("marey.collapse", argument, "float32 or float64", name(views[level].dtype));
    }
    if (views[level].dtype != views[0].dtype) {
      throw TypeError("marey.collapse", argument,
                      std::string(name(views[0].dtype)) + " as bands[0]", name(views[level].dtype));
    }
  }
  if (views.empty()) throw ValueError("marey.collapse", "bands", "at least one array", "none");
  py::array result = result_array("marey.collapse", out, views[0].shape, views[0].dtype, views[0]);
  const View target = view_of("marey.collapse", "out", result);
  for (const View& band : views) check_no_overlap("marey.collapse", target, band);
  if (views.size() == 1) {
    result.attr("__setitem__")(py::ellipsis(), bands[0]);
    return result;
  }
  {
    const py::gil_scoped_release release;
    collapse("marey.collapse", views, channel_axis, target);
  }
  return result;
}

using Adjoint = void(std::string_view, const View&, std::optional<int>, const View*, double,
                     const View&);

// add + weight * adjoint(grad), for an image of this height and width.
py::array py_adjoint(Adjoint* adjoint, std::string_view function, const py::object& grad,
                     int64_t height, int64_t width, ChannelAxis channel_axis, const py::object& add,
                     double weight) {
  const View source = view_of(function, "grad", grad);
  const ImageAxes axes = image_axes(function, "grad", source.shape, channel_axis);
  View added;
  if (!add.is_none()) added = view_of(function, "add", add);
  py::array result = new_array(with_size(source.shape, axes, height, width), source.dtype);
  const View target = view_of(function, "out", result);
  {
    const py::gil_scoped_release release;
    adjoint(function, source, channel_axis, add.is_none() ? nullptr : &added, weight, target);
  }
  return result;
}

py::array py_down_adjoint(const py::object& grad, int64_t height, int64_t width,
                          ChannelAxis channel_axis, const py::object& add, double weight) {
  return py_adjoint(down_adjoint, "marey.down_adjoint", grad, height, width, channel_axis, add,
                    weight);
}

py::array py_up_adjoint(const py::object& grad, int64_t height, int64_t width,
                        ChannelAxis channel_axis, const py::object& add, double weight) {
  return py_adjoint(up_adjoint, "marey.up_adjoint", grad, height, width, channel_axis, add, weight);
}

}  // namespace

void register_pyramid(py::module_& module) {
  module.def("down", &py_down, py::arg("image"), py::arg("channel_axis"), py::arg("out"));
  module.def("up", &py_up, py::arg("image"), py::arg("height"), py::arg("width"),
             py::arg("channel_axis"), py::arg("out"));
  module.def("gaussian", &py_gaussian, py::arg("image"), py::arg("levels"), py::arg("channel_axis"),
             py::arg("out"));
  module.def("laplacian", &py_laplacian, py::arg("image"), py::arg("levels"),
             py::arg("channel_axis"), py::arg("out"));
  module.def("collapse", &py_collapse, py::arg("bands"), py::arg("channel_axis"), py::arg("out"));
  module.def("down_adjoint", &py_down_adjoint, py::arg("grad"), py::arg("height"), py::arg("width"),
             py::arg("channel_axis"), py::arg("add") = py::none(), py::arg("weight") = 1.0);
  module.def("up_adjoint", &py_up_adjoint, py::arg("grad"), py::arg("height"), py::arg("width"),
             py::arg("channel_axis"), py::arg("add") = py::none(), py::arg("weight") = 1.0);
}

}  // namespace marey::python
