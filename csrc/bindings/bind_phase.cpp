#include <pybind11/stl.h>

#include <memory>
#include <string>
#include <vector>

#include "bindings/arrays.h"
#include "bindings/register.h"
#include "bindings/stream.h"
#include "ops/magnification/phase.h"
#include "ops/magnification/riesz.h"
#include "ops/pyramid/riesz.h"

namespace marey::python {
namespace {

DType dtype_named(const std::string& name) { return name == "uint8" ? DType::u8 : DType::f32; }

IncrementFilter filter_of(const std::vector<float>& band, const std::vector<float>& fast,
                          float alpha) {
  return {band, fast, alpha};
}

std::unique_ptr<Stream<PhaseMagnifier>> make_phase(int64_t height, int64_t width, int64_t channels,
                                                   const std::string& dtype, int orientations,
                                                   int octaves, int scales_per_octave,
                                                   const std::vector<float>& band,
                                                   const std::vector<float>& fast, float alpha,
                                                   const std::vector<float>& smoothing) {
  return std::make_unique<Stream<PhaseMagnifier>>(
      PhaseMagnifierOptions{{height, width, orientations, octaves, scales_per_octave},
                            channels,
                            dtype_named(dtype),
                            filter_of(band, fast, alpha),
                            smoothing});
}

std::unique_ptr<Stream<RieszMagnifier>> make_riesz(int64_t height, int64_t width, int64_t channels,
                                                   const std::string& dtype, int levels,
                                                   const std::vector<float>& band,
                                                   const std::vector<float>& fast, float alpha,
                                                   const std::vector<float>& smoothing) {
  return std::make_unique<Stream<RieszMagnifier>>(
      RieszMagnifierOptions{height, width, levels, channels, dtype_named(dtype),
                            filter_of(band, fast, alpha), smoothing});
}

void py_riesz_transform(const py::object& band, const py::object& x, const py::object& y) {
  constexpr std::string_view kPyramid = "marey.RieszPyramid";
  const View source = view_of(kPyramid, "image", band);
  const View xs = view_of(kPyramid, "out", x);
  const View ys = view_of(kPyramid, "out", y);
  const py::gil_scoped_release release;
  riesz_transform(kPyramid, source, xs, ys);
}

}  // namespace

void register_phase(py::module_& module) {
  py::class_<Stream<PhaseMagnifier>> phase(module, "PhaseMagnifier");
  phase.def(py::init(&make_phase), py::kw_only(), py::arg("height"), py::arg("width"),
            py::arg("channels"), py::arg("dtype"), py::arg("orientations"), py::arg("octaves"),
            py::arg("scales_per_octave"), py::arg("band"), py::arg("fast"), py::arg("alpha"),
            py::arg("smoothing"));
  def_stream(phase);
  py::class_<Stream<RieszMagnifier>> riesz(module, "RieszMagnifier");
  riesz.def(py::init(&make_riesz), py::kw_only(), py::arg("height"), py::arg("width"),
            py::arg("channels"), py::arg("dtype"), py::arg("levels"), py::arg("band"),
            py::arg("fast"), py::arg("alpha"), py::arg("smoothing"));
  def_stream(riesz);
  module.def("riesz_transform", &py_riesz_transform, py::arg("band"), py::arg("x"), py::arg("y"));
}

}  // namespace marey::python
