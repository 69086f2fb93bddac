#include <pybind11/stl.h>

#include <optional>
#include <string>
#include <vector>

#include "bindings/cuda_arrays.h"
#include "bindings/cuda_register.h"
#include "core/error.h"
#include "ops/pyramid/down.h"
#include "ops/pyramid/laplacian.h"
#include "ops/pyramid/pyramid_cuda.h"

namespace marey::python {
namespace {

using ChannelAxis = std::optional<int>;

View image_view(std::string_view function, const std::string& argument, const py::handle& image) {
  const View view = device_view(function, argument, image);
  if (view.dtype == DType::bf16) {
    throw TypeError(function, argument, "dtype uint8, float32 or float64", name(view.dtype));
  }
  return view;
}

std::vector<View> views(std::string_view function, const std::string& argument,
                        const py::list& arrays) {
  std::vector<View> result;
  for (const py::handle array : arrays) result.push_back(device_view(function, argument, array));
  return result;
}

py::list as_list(const std::vector<Shape>& shapes) {
  py::list list;
  for (const Shape& shape : shapes) {
    py::tuple extents(static_cast<std::size_t>(shape.ndim));
    for (int axis = 0; axis < shape.ndim; ++axis) {
      extents[static_cast<std::size_t>(axis)] = shape[axis];
    }
    list.append(extents);
  }
  return list;
}

py::list py_pyramid_shapes(const std::string& function, const py::handle& image, int levels,
                           ChannelAxis channel_axis) {
  return as_list(
      pyramid_shapes(function, image_view(function, "image", image), levels, channel_axis));
}

py::list py_up_shape(const py::handle& image, std::optional<int64_t> height,
                     std::optional<int64_t> width, ChannelAxis channel_axis) {
  const View view = image_view("marey.up", "image", image);
  return as_list({up_shape("marey.up", view, height, width, channel_axis)});
}

void py_down(const std::string& function, const py::handle& image, ChannelAxis channel_axis,
             const py::handle& out, const py::handle& queue) {
  const View source = image_view(function, "image", image);
  const View target = device_result(function, out, down_shape(function, source, channel_axis),
                                    source.dtype, source);
  const DeviceQueue where(queue);
  // The views stay valid: the caller holds the arrays.
  const py::gil_scoped_release release;
  cuda::down(*where, function, source, channel_axis, target);
}

void py_up(const py::handle& image, std::optional<int64_t> height, std::optional<int64_t> width,
           ChannelAxis channel_axis, const py::handle& out, const py::handle& queue) {
  constexpr std::string_view kName = "marey.up";
  const View source = image_view(kName, "image", image);
  const View target = device_result(
      kName, out, up_shape(kName, source, height, width, channel_axis), source.dtype, source);
  const DeviceQueue where(queue);
  const py::gil_scoped_release release;
  cuda::up(*where, kName, source, channel_axis, target);
}

// The levels of a pyramid, checked: in memory of their own, each.
std::vector<View> level_results(std::string_view function, const py::list& out, const View& source,
                                DType dtype, ChannelAxis channel_axis) {
  const int levels = static_cast<int>(out.size()) - 1;
  const std::vector<Shape> shapes = pyramid_shapes(function, source, levels, channel_axis);
  std::vector<View> targets;
  for (std::size_t level = 0; level < out.size(); ++level) {
    targets.push_back(device_result(function, out[level], shapes[level], dtype, source));
    for (std::size_t other = 0; other < level; ++other) {
      check_no_device_overlap(function, targets[level], targets[other]);
    }
  }
  return targets;
}

// All levels but the first, which is a copy of the image, and the caller's.
void py_gaussian(const py::handle& image, ChannelAxis channel_axis, const py::list& out,
                 const py::handle& queue) {
  constexpr std::string_view kName = "marey.gaussian";
  const View source = image_view(kName, "image", image);
  const std::vector<View> targets = level_results(kName, out, source, source.dtype, channel_axis);
  const DeviceQueue where(queue);
  const py::gil_scoped_release release;
  for (std::size_t level = 1; level < targets.size(); ++level) {
    const View& fine = level == 1 ? source : targets[level - 1];
    cuda::down(*where, kName, fine, channel_axis, targets[level]);
  }
}

// One level alone is the image, and the caller's.
void py_laplacian(const py::handle& image, ChannelAxis channel_axis, const py::list& out,
                  const py::list& coarse, const py::handle& queue) {
  constexpr std::string_view kName = "marey.laplacian";
  const View source = image_view(kName, "image", image);
  const DType dtype = source.dtype == DType::u8 ? DType::f32 : source.dtype;
  const std::vector<View> targets = level_results(kName, out, source, dtype, channel_axis);
  const std::vector<View> between = views(kName, "workspace", coarse);
  const DeviceQueue where(queue);
  const py::gil_scoped_release release;
  cuda::laplacian(*where, kName, source, channel_axis, targets, between);
}

// One band alone is the image, and the caller's.
void py_collapse(const py::list& bands, ChannelAxis channel_axis, const py::list& workspace,
                 const py::handle& out, const py::handle& queue) {
  constexpr std::string_view kName = "marey.collapse";
  std::vector<View> sources;
  for (std::size_t level = 0; level < bands.size(); ++level) {
    const std::string argument = "bands[" + std::to_string(level) + "]";
    sources.push_back(image_view(kName, argument, bands[level]));
    if (sources[0].dtype == DType::u8) {
      throw TypeError(kName, argument, "float32 or float64", name(sources[0].dtype));
    }
    if (sources[level].dtype != sources[0].dtype) {
      throw TypeError(kName, argument, name(sources[0].dtype), name(sources[level].dtype));
    }
  }
  check_collapse(kName, sources, image_axes(kName, "bands", sources[0].shape, channel_axis));
  const View target = device_result(kName, out, sources[0].shape, sources[0].dtype, sources[0]);
  for (const View& source : sources) check_no_device_overlap(kName, target, source);
  const std::vector<View> between = views(kName, "workspace", workspace);
  const DeviceQueue where(queue);
  const py::gil_scoped_release release;
  cuda::collapse(*where, kName, sources, channel_axis, between, target);
}

}  // namespace

void register_cuda_pyramid(py::module_& module) {
  module.def("pyramid_shapes", &py_pyramid_shapes, py::arg("function"), py::arg("image"),
             py::arg("levels"), py::arg("channel_axis"));
  module.def("up_shape", &py_up_shape, py::arg("image"), py::arg("height"), py::arg("width"),
             py::arg("channel_axis"));
  module.def("down", &py_down, py::arg("function"), py::arg("image"), py::arg("channel_axis"),
             py::arg("out"), py::arg("queue"));
  module.def("up", &py_up, py::arg("image"), py::arg("height"), py::arg("width"),
             py::arg("channel_axis"), py::arg("out"), py::arg("queue"));
  module.def("gaussian", &py_gaussian, py::arg("image"), py::arg("channel_axis"), py::arg("out"),
             py::arg("queue"));
  module.def("laplacian", &py_laplacian, py::arg("image"), py::arg("channel_axis"), py::arg("out"),
             py::arg("coarse"), py::arg("queue"));
  module.def("collapse", &py_collapse, py::arg("bands"), py::arg("channel_axis"),
             py::arg("workspace"), py::arg("out"), py::arg("queue"));
}

}  // namespace marey::python
