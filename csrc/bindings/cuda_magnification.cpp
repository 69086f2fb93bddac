#include <pybind11/stl.h>

#include <optional>
#include <string>
#include <vector>

#include "bindings/cuda_arrays.h"
#include "bindings/cuda_register.h"
#include "core/error.h"
#include "ops/magnification/frames.h"
#include "ops/magnification/linear_cuda.h"

namespace marey::python {
namespace {

constexpr std::string_view kMagnifier = "marey.Magnifier";

// What does not change from call to call. The arrays are Python's.
class LinearMagnifier {
 public:
  LinearMagnifier(int64_t height, int64_t width, int64_t channels, const std::string& dtype,
                  int base_level, const std::vector<double>& alphas, bool gaussian, double chroma,
                  const std::vector<double>& sos, const std::vector<double>& steady_zi) {
    options_.height = height;
    options_.width = width;
    options_.channels = channels;
    options_.dtype = dtype == "uint8" ? DType::u8 : DType::f32;
    options_.base_level = base_level;
    options_.alphas = alphas;
    options_.gaussian = gaussian;
    options_.chroma = chroma;
    options_.sos = sos;
    options_.steady_zi = steady_zi;
  }

  // The shapes of all levels.
  py::list levels(int64_t frames) const {
    py::list list;
    for (const Shape& shape : cuda::magnifier_levels(options_, frames)) {
      list.append(py::make_tuple(shape[0], shape[1], shape[2], shape[3]));
    }
    return list;
  }

  void check(const py::handle& frames) const {
    check_frames(kMagnifier, device_view(kMagnifier, "frames", frames), options_.height,
                 options_.width, options_.channels, options_.dtype);
  }

  void feed(const py::handle& frames, const py::handle& out, const py::list& filtered,
            const py::list& amplified, const py::handle& zi, const py::handle& zf,
            const py::handle& queue) const {
    View source = device_view(kMagnifier, "frames", frames);
    check_frames(kMagnifier, source, options_.height, options_.width, options_.channels,
                 options_.dtype);
    View target = device_result(kMagnifier, out, source.shape, source.dtype, source);
    check_writable_frames(kMagnifier, target);
    for (View* view : {&source, &target}) {
      if (view->ndim() == 4) continue;
      view->shape.push_back(1);
      view->stride(3) = item_size(view->dtype);
    }
    std::vector<View> levels[2];
    int which = 0;
    for (const py::list* arrays : {&filtered, &amplified}) {
      for (const py::handle array : *arrays) {
        levels[which].push_back(device_view(kMagnifier, "workspace", array));
      }
      ++which;
    }
    const std::optional<View> before = optional_device_view(kMagnifier, "state", zi);
    const View after = device_view(kMagnifier, "state", zf);
    const DeviceQueue where(queue);
    // The views stay valid: the caller holds the arrays.
    const py::gil_scoped_release release;
    cuda::magnify(*where, options_, source, target, levels[0], levels[1], pointer(before), after);
  }

 private:
  LinearMagnifierOptions options_;
};

}  // namespace

void register_cuda_magnification(py::module_& module) {
  py::class_<LinearMagnifier>(module, "LinearMagnifier", py::module_local())
      .def(py::init<int64_t, int64_t, int64_t, const std::string&, int, const std::vector<double>&,
                    bool, double, const std::vector<double>&, const std::vector<double>&>(),
           py::kw_only(), py::arg("height"), py::arg("width"), py::arg("channels"),
           py::arg("dtype"), py::arg("base_level"), py::arg("alphas"), py::arg("gaussian"),
           py::arg("chroma"), py::arg("sos"), py::arg("steady_zi"))
      .def("levels", &LinearMagnifier::levels, py::arg("frames"))
      .def("check", &LinearMagnifier::check, py::arg("frames"))
      .def("feed", &LinearMagnifier::feed, py::arg("frames"), py::arg("out"), py::arg("filtered"),
           py::arg("amplified"), py::arg("zi"), py::arg("zf"), py::arg("queue"));
}

}  // namespace marey::python
