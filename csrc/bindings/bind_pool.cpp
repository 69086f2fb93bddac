#include <pybind11/stl.h>

#include <optional>
#include <string>
#include <vector>

#include "bindings/arrays.h"
#include "bindings/register.h"
#include "core/error.h"
#include "ops/conv/pool_backward.h"

namespace marey::python {
namespace {

View video_of(std::string_view function, std::string_view argument, const py::object& object,
              bool channels_last) {
  const View view = view_of(function, argument, object, kWithBfloat16);
  if (view.ndim() != 5) {
    throw ValueError(function, argument,
                     channels_last ? "shape (N, T, H, W, C)" : "shape (N, C, T, H, W)",
                     to_string(view.shape));
  }
  return view;
}

// NTHWC as NCTHW.
View channels_second(const View& view) {
  View result = view;
  for (int axis = 1; axis < 5; ++axis) {
    const int from = axis == 1 ? 4 : axis - 1;
    result.shape[axis] = view.shape[from];
    result.stride(axis) = view.stride(from);
  }
  return result;
}

Shape channels_last_shape(const Shape& shape) {
  Shape result = shape;
  for (int axis = 2; axis < 5; ++axis) result[axis - 1] = shape[axis];
  result[4] = shape[1];
  return result;
}

PoolOptions options_of(bool average, const Triple& kernel, const Triple& stride,
                       const Triple& dilation, const Triple& before, const Triple& after,
                       bool ceil_mode, bool count_include_pad) {
  PoolOptions options;
  options.kind = average ? Pooling::average : Pooling::max;
  options.kernel = kernel;
  options.stride = stride;
  options.dilation = dilation;
  options.before = before;
  options.after = after;
  options.ceil_mode = ceil_mode;
  options.count_include_pad = count_include_pad;
  return options;
}

py::array py_pool3d(const std::string& function, const py::object& x, bool average,
                    const Triple& kernel, const Triple& stride, const Triple& dilation,
                    const Triple& before, const Triple& after, bool ceil_mode,
                    bool count_include_pad, bool channels_last, const py::object& out) {
  const PoolOptions options =
      options_of(average, kernel, stride, dilation, before, after, ceil_mode, count_include_pad);
  const View given = video_of(function, "x", x, channels_last);
  const View source = channels_last ? channels_second(given) : given;
  const Shape shape = pool3d_shape(function, source.shape, options);
  py::array result = result_array(function, out, channels_last ? channels_last_shape(shape) : shape,
                                  given.dtype, given);
  const View written = view_of(function, "out", result, kWithBfloat16);
  const View target = channels_last ? channels_second(written) : written;
  {
    // The views stay valid: the arguments are held by the caller, the result by this frame.
    const py::gil_scoped_release release;
    pool3d(function, source, options, target);
  }
  return result;
}

// `x` is None for the mean, whose gradient depends on the shape of x alone.
py::array py_pool3d_backward(const std::string& function, const py::object& grad,
                             const py::object& x, const std::vector<int64_t>& extents,
                             const Triple& kernel, const Triple& stride, const Triple& dilation,
                             const Triple& before, const Triple& after, bool ceil_mode,
                             bool count_include_pad, bool channels_last) {
  const bool average = x.is_none();
  const PoolOptions options =
      options_of(average, kernel, stride, dilation, before, after, ceil_mode, count_include_pad);
  const View given = video_of(function, "grad", grad, channels_last);
  const View gradient = channels_last ? channels_second(given) : given;
  std::optional<View> source;
  Shape shape;
  if (average) {
    for (const int64_t extent : extents) shape.push_back(extent);
  } else {
    source = video_of(function, "x", x, channels_last);
    if (source->dtype != given.dtype) {
      throw TypeError(function, "grad", std::string(name(source->dtype)) + ", as x is",
                      name(given.dtype));
    }
    shape = source->shape;
    if (channels_last) source = channels_second(*source);
  }
  py::array result = new_array(shape, given.dtype);
  const View written = view_of(function, "grad_x", result, kWithBfloat16);
  const View target = channels_last ? channels_second(written) : written;
  {
    // The views stay valid: the arguments are held by the caller, the result by this frame.
    const py::gil_scoped_release release;
    pool3d_backward(function, gradient, source ? &*source : nullptr, options, target);
  }
  return result;
}

py::array py_global_avg_pool3d(const py::object& x, bool channels_last, const py::object& out) {
  constexpr std::string_view kName = "marey.global_avg_pool3d";
  const View given = video_of(kName, "x", x, channels_last);
  const View source = channels_last ? channels_second(given) : given;
  Shape shape = source.shape;
  shape.ndim = 2;
  py::array result = result_array(kName, out, shape, given.dtype, given);
  const View target = view_of(kName, "out", result, kWithBfloat16);
  {
    const py::gil_scoped_release release;
    global_avg_pool3d(kName, source, target);
  }
  return result;
}

}  // namespace

void register_pool(py::module_& module) {
  module.def("pool3d", &py_pool3d, py::arg("function"), py::arg("x"), py::arg("average"),
             py::arg("kernel"), py::arg("stride"), py::arg("dilation"), py::arg("before"),
             py::arg("after"), py::arg("ceil_mode"), py::arg("count_include_pad"),
             py::arg("channels_last"), py::arg("out"));
  module.def("pool3d_backward", &py_pool3d_backward, py::arg("function"), py::arg("grad"),
             py::arg("x"), py::arg("shape"), py::arg("kernel"), py::arg("stride"),
             py::arg("dilation"), py::arg("before"), py::arg("after"), py::arg("ceil_mode"),
             py::arg("count_include_pad"), py::arg("channels_last"));
  module.def("global_avg_pool3d", &py_global_avg_pool3d, py::arg("x"), py::arg("channels_last"),
             py::arg("out"));
}

}  // namespace marey::python
