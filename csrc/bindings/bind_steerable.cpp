#include <pybind11/stl.h>
#include <pybind11/typing.h>

#include <mutex>
#include <string>
#include <vector>

#include "bindings/arrays.h"
#include "bindings/register.h"
#include "core/error.h"
#include "ops/pyramid/image.h"
#include "ops/pyramid/steerable.h"

namespace marey::python {
namespace {

constexpr std::string_view kSteerablePyramid = "marey.SteerablePyramid";

// One plane of a batch of images without channels.
class Planes {
 public:
  Planes(std::string_view argument, const View& view)
      : view_(view), axes_(image_axes(kSteerablePyramid, argument, view.shape, std::nullopt)) {}
  int64_t count() const { return plane_count(view_.shape, axes_); }
  Plane operator()(int64_t index) const { return plane_at(view_, axes_, index); }

 private:
  View view_;
  ImageAxes axes_;
};

// The shapes and the layout of arrays are the Python class's to check: this one is private.
template <class T>
class Pyramid {
 public:
  using Transform = Steerable<T>;

  Pyramid(int64_t height, int64_t width, int orientations, int octaves, int scales_per_octave)
      : transform_({height, width, orientations, octaves, scales_per_octave}) {}

  std::vector<std::pair<int64_t, int64_t>> extents() const {
    std::vector<std::pair<int64_t, int64_t>> all;
    for (int scale = 0; scale <= transform_.scales(); ++scale) {
      const Extent e = transform_.extent(scale);
      all.emplace_back(e.height, e.width);
    }
    return all;
  }

  // bands: (..., K, h, 2 w), the items of complex arrays; all outputs C-ordered.
  void build(const py::object& image, const py::object& highpass,
             const py::typing::List<py::object>& bands, const py::object& lowpass) {
    const View source = view_of(kSteerablePyramid, "image", image);
    const Planes images("image", source);
    const Planes highs("out", view_of(kSteerablePyramid, "out", highpass));
    const Planes lows("out", view_of(kSteerablePyramid, "out", lowpass));
    const std::vector<Planes> scales = planes_of("out", bands);
    const py::gil_scoped_release release;
    const Lease lease(*this);
    const int orientations = transform_.options().orientations;
    for (int64_t n = 0; n < images.count(); ++n) {
      transform_.analyse(lease.workspace(), images(n), source.dtype);
      transform_.highpass(lease.workspace(), highs(n));
      transform_.lowpass(lease.workspace(), lows(n));
      for (int scale = 0; scale < transform_.scales(); ++scale) {
        const int at_once = transform_.bands_at_once(scale);
        for (int first = 0; first < orientations; first += at_once) {
          const int count = std::min(at_once, orientations - first);
          std::vector<std::complex<T>*> out;
          for (int k = 0; k < count; ++k) {
            const Plane plane =
                scales[static_cast<std::size_t>(scale)](n * orientations + first + k);
            out.push_back(reinterpret_cast<std::complex<T>*>(plane.data));
          }
          transform_.bands(lease.workspace(), scale, first, count, out.data());
        }
      }
    }
  }

  // bands: the real parts, (..., K, h, w) with any strides.
  void collapse(const py::object& highpass, const py::typing::List<py::object>& bands,
                const py::object& lowpass, const py::object& image) {
    const Planes images("out", view_of(kSteerablePyramid, "out", image));
    const Planes highs("highpass", view_of(kSteerablePyramid, "highpass", highpass));
    const Planes lows("lowpass", view_of(kSteerablePyramid, "lowpass", lowpass));
    const std::vector<Planes> scales = planes_of("bands", bands);
    const py::gil_scoped_release release;
    const Lease lease(*this);
    const int orientations = transform_.options().orientations;
    for (int64_t n = 0; n < images.count(); ++n) {
      transform_.clear(lease.workspace());
      transform_.add_highpass(lease.workspace(), highs(n));
      transform_.add_lowpass(lease.workspace(), lows(n));
      for (int scale = 0; scale < transform_.scales(); ++scale) {
        const int at_once = transform_.bands_at_once(scale);
        for (int first = 0; first < orientations; first += at_once) {
          const int count = std::min(at_once, orientations - first);
          std::vector<Plane> parts;
          for (int k = 0; k < count; ++k) {
            parts.push_back(scales[static_cast<std::size_t>(scale)](n * orientations + first + k));
          }
          transform_.add_bands(lease.workspace(), scale, first, count, parts.data());
        }
      }
      transform_.synthesise(lease.workspace(), images(n));
    }
  }

 private:
  using Workspace = typename Transform::Workspace;

  // A workspace for one call; the last one used is kept for the next.
  class Lease {
   public:
    explicit Lease(Pyramid& owner) : owner_(owner) {
      const std::lock_guard lock(owner.mutex_);
      workspace_ = std::move(owner.spare_);
      if (workspace_ == nullptr) {
        workspace_ = std::make_unique<Workspace>(owner.transform_.workspace());
      }
    }
    ~Lease() {
      const std::lock_guard lock(owner_.mutex_);
      owner_.spare_ = std::move(workspace_);
    }
    Lease(const Lease&) = delete;
    Lease& operator=(const Lease&) = delete;
    Workspace& workspace() const { return *workspace_; }

   private:
    Pyramid& owner_;
    std::unique_ptr<Workspace> workspace_;
  };

  static std::vector<Planes> planes_of(std::string_view argument,
                                       const py::typing::List<py::object>& arrays) {
    std::vector<Planes> all;
    for (const py::handle& array : arrays) {
      all.emplace_back(argument, view_of(kSteerablePyramid, argument, array));
    }
    return all;
  }

  Transform transform_;
  std::mutex mutex_;
  std::unique_ptr<Workspace> spare_;
};

template <class T>
void register_pyramid(py::module_& module, const char* name) {
  using P = Pyramid<T>;
  py::class_<P>(module, name)
      .def(py::init<int64_t, int64_t, int, int, int>(), py::arg("height"), py::arg("width"),
           py::arg("orientations"), py::arg("octaves"), py::arg("scales_per_octave"))
      .def_property_readonly("extents", &P::extents)
      .def("build", &P::build, py::arg("image"), py::arg("highpass"), py::arg("bands"),
           py::arg("lowpass"))
      .def("collapse", &P::collapse, py::arg("highpass"), py::arg("bands"), py::arg("lowpass"),
           py::arg("image"));
}

}  // namespace

void register_steerable(py::module_& module) {
  register_pyramid<float>(module, "SteerablePyramidF32");
  register_pyramid<double>(module, "SteerablePyramidF64");
}

}  // namespace marey::python
