#include <pybind11/stl.h>

#include <algorithm>
#include <cstring>
#include <string>
#include <vector>

#include "bindings/arrays.h"
#include "bindings/register.h"
#include "core/error.h"
#include "ops/background/difference.h"
#include "ops/background/majority.h"
#include "ops/background/mixture.h"
#include "ops/background/window.h"

namespace marey::python {
namespace {

Shape mask_shape(const View& frames) {
  Shape shape;
  for (int axis = 0; axis < std::min(3, frames.ndim()); ++axis) shape.push_back(frames.shape[axis]);
  return shape;
}

py::array py_difference(const py::object& frames, const py::object& background, double threshold,
                        int foreground) {
  constexpr std::string_view kName = "marey.background.difference";
  const View source = view_of(kName, "frames", frames);
  const View picture = view_of(kName, "background", background);
  py::array result = new_array(mask_shape(source), DType::u8);
  const View mask = view_of(kName, "mask", result);
  {
    const py::gil_scoped_release release;
    difference(source, picture, threshold, static_cast<uint8_t>(foreground), mask);
  }
  return result;
}

py::array py_majority(const py::object& mask, int64_t size) {
  constexpr std::string_view kName = "marey.background.majority";
  const View source = view_of(kName, "mask", mask);
  py::array result = new_array(source.shape, DType::u8);
  const View target = view_of(kName, "out", result);
  {
    const py::gil_scoped_release release;
    majority(source, size, target);
  }
  return result;
}

constexpr std::string_view kMixture = "marey.MixtureBackground";

Mixture make_mixture(int64_t height, int64_t width, int64_t channels, const std::string& dtype,
                     int modes, float threshold, float match_threshold, float background_ratio,
                     float initial_variance, float minimum_variance, float maximum_variance,
                     float complexity, float darkest, bool shadows) {
  MixtureParameters p;
  p.modes = modes;
  p.threshold = threshold;
  p.match_threshold = match_threshold;
  p.background_ratio = background_ratio;
  p.initial_variance = initial_variance;
  p.minimum_variance = minimum_variance;
  p.maximum_variance = maximum_variance;
  p.complexity = complexity;
  p.darkest = darkest;
  p.shadows = shadows;
  return Mixture(height, width, channels, dtype == "uint8" ? DType::u8 : DType::f32, p);
}

py::array feed_mixture(Mixture& mixture, const py::object& frames, const std::vector<float>& rates,
                       int shadow, int foreground) {
  const View source = view_of(kMixture, "frames", frames);
  py::array result = new_array(mask_shape(source), DType::u8);
  const View labels = view_of(kMixture, "labels", result);
  {
    const py::gil_scoped_release release;
    mixture.feed(source, rates, labels, static_cast<uint8_t>(shadow),
                 static_cast<uint8_t>(foreground));
  }
  return result;
}

py::array mixture_state(const Mixture& mixture) {
  const View state = mixture.state();
  py::array copy = new_array(state.shape, state.dtype);
  std::memcpy(copy.mutable_data(), state.data,
              static_cast<std::size_t>(state.shape.count() * item_size(state.dtype)));
  return copy;
}

void set_mixture_state(Mixture& mixture, const py::object& value) {
  const View given = view_of(kMixture, "state", value);
  const View state = mixture.state();
  if (!(given.shape == state.shape) || given.dtype != state.dtype ||
      !is_contiguous(given, 0, given.ndim())) {
    throw ValueError(kMixture, "state", "contiguous float32 of shape " + to_string(state.shape),
                     std::string(name(given.dtype)) + " of shape " + to_string(given.shape));
  }
  std::memcpy(state.data, given.data,
              static_cast<std::size_t>(state.shape.count() * item_size(state.dtype)));
  mixture.count_modes();
}

py::array mixture_background(const Mixture& mixture) {
  const View state = mixture.state();
  Shape shape;
  shape.push_back(state.shape[1]);
  shape.push_back(mixture.width());
  if (mixture.channels() != 1) shape.push_back(mixture.channels());
  py::array result = new_array(shape, DType::f64);
  const View out = view_of(kMixture, "background", result);
  {
    const py::gil_scoped_release release;
    mixture.background(out);
  }
  return result;
}

constexpr std::string_view kMedian = "marey.MedianBackground";

// The bytes of one frame that fits the window.
const std::byte* frame_items(const SortedWindow& window, const char* argument,
                             const py::object& frame) {
  const View view = view_of(kMedian, argument, frame);
  if (view.dtype != window.dtype()) {
    throw TypeError(kMedian, argument, name(window.dtype()), name(view.dtype));
  }
  if (view.shape.count() != window.items() || !is_contiguous(view, 0, view.ndim())) {
    throw ValueError(kMedian, argument,
                     "a C-contiguous array of " + std::to_string(window.items()) + " items",
                     to_string(view.shape));
  }
  return view.as<const std::byte>();
}

void replace_in_window(SortedWindow& window, const py::object& entering,
                       const py::object& leaving) {
  if (leaving.is_none() != (window.count() < window.length())) {
    throw ValueError(kMedian, "leaving", "a frame if and only if the window is full", "");
  }
  const std::byte* in = frame_items(window, "entering", entering);
  const std::byte* old = leaving.is_none() ? nullptr : frame_items(window, "leaving", leaving);
  const py::gil_scoped_release release;
  window.replace(in, old);
}

void window_median(const SortedWindow& window, const py::object& out) {
  if (window.count() == 0) throw ValueError(kMedian, "window", "at least one frame", "none");
  auto* target = const_cast<std::byte*>(frame_items(window, "out", out));
  const py::gil_scoped_release release;
  window.median(target);
}

}  // namespace

void register_background(py::module_& module) {
  module.def("background_difference", &py_difference, py::arg("frames"), py::arg("background"),
             py::arg("threshold"), py::arg("foreground"));
  module.def("background_majority", &py_majority, py::arg("mask"), py::arg("size"));
  py::class_<Mixture>(module, "Mixture")
      .def(py::init(&make_mixture), py::kw_only(), py::arg("height"), py::arg("width"),
           py::arg("channels"), py::arg("dtype"), py::arg("modes"), py::arg("threshold"),
           py::arg("match_threshold"), py::arg("background_ratio"), py::arg("initial_variance"),
           py::arg("minimum_variance"), py::arg("maximum_variance"), py::arg("complexity"),
           py::arg("darkest"), py::arg("shadows"))
      .def("feed", &feed_mixture, py::arg("frames"), py::arg("rates"), py::arg("shadow"),
           py::arg("foreground"))
      .def_property("state", &mixture_state, &set_mixture_state)
      .def("background", &mixture_background);
  py::class_<SortedWindow>(module, "SortedWindow")
      .def(py::init([](int64_t items, int64_t length, const std::string& dtype) {
             return SortedWindow(items, length, dtype == "uint8" ? DType::u8 : DType::f32);
           }),
           py::arg("items"), py::arg("length"), py::arg("dtype"))
      .def("replace", &replace_in_window, py::arg("entering"), py::arg("leaving"))
      .def("median", &window_median, py::arg("out"))
      .def("clear", &SortedWindow::clear)
      .def_property_readonly("count", &SortedWindow::count);
}

}  // namespace marey::python
