#include <pybind11/stl.h>

#include <memory>
#include <string>
#include <vector>

#include "bindings/register.h"
#include "bindings/stream.h"
#include "ops/magnification/linear.h"

namespace marey::python {
namespace {

using Magnifier = Stream<LinearMagnifier>;

std::unique_ptr<Magnifier> make(int64_t height, int64_t width, int64_t channels,
                                const std::string& dtype, int base_level,
                                const std::vector<double>& alphas, bool gaussian, double chroma,
                                const std::vector<double>& sos,
                                const std::vector<double>& steady_zi) {
  LinearMagnifierOptions options;
  options.height = height;
  options.width = width;
  options.channels = channels;
  options.dtype = dtype == "uint8" ? DType::u8 : DType::f32;
  options.base_level = base_level;
  options.alphas = alphas;
  options.gaussian = gaussian;
  options.chroma = chroma;
  options.sos = sos;
  options.steady_zi = steady_zi;
  return std::make_unique<Magnifier>(options);
}

}  // namespace

void register_magnification(py::module_& module) {
  py::class_<Magnifier> c(module, "LinearMagnifier");
  c.def(py::init(&make), py::kw_only(), py::arg("height"), py::arg("width"), py::arg("channels"),
        py::arg("dtype"), py::arg("base_level"), py::arg("alphas"), py::arg("gaussian"),
        py::arg("chroma"), py::arg("sos"), py::arg("steady_zi"));
  def_stream(c);
}

}  // namespace marey::python
