#include <pybind11/stl.h>

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstring>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

#include "bindings/arrays.h"
#include "bindings/register.h"
#include "core/error.h"
#include "ops/magnification/linear.h"

namespace marey::python {
namespace {

constexpr std::string_view kName = "marey.Magnifier";

// One caller at a time: the state is not made for two, and a signal handler may come back in.
class Magnifier {
 public:
  explicit Magnifier(const LinearMagnifierOptions& options) : magnifier_(options) {}

  class Access {
   public:
    explicit Access(Magnifier& owner) : owner_(owner) {
      if (owner_.busy_.exchange(true)) {
        throw std::runtime_error(
            "[marey.Magnifier] expected one caller at a time; found another feed or state access "
            "in progress");
      }
    }
    ~Access() { owner_.busy_ = false; }
    Access(const Access&) = delete;
    Access& operator=(const Access&) = delete;
    LinearMagnifier* operator->() const { return &owner_.magnifier_; }

   private:
    Magnifier& owner_;
  };

 private:
  LinearMagnifier magnifier_;
  std::atomic<bool> busy_{false};
};

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

py::array feed(Magnifier& magnifier, const py::object& frames, const py::object& out) {
  const View source = view_of(kName, "frames", frames);
  py::array result = result_array(kName, out, source.shape, source.dtype, source);
  const View target = view_of(kName, "out", result);
  {
    const Magnifier::Access access(magnifier);
    const py::gil_scoped_release release;
    access->feed(source, target);
  }
  return result;
}

// A copy of the filter state, or None before the first frame.
py::object get_state(Magnifier& magnifier) {
  const Magnifier::Access access(magnifier);
  if (!access->started()) return py::none();
  const View state = access->state();
  py::array copy = new_array(state.shape, state.dtype);
  std::memcpy(copy.mutable_data(), state.data,
              static_cast<std::size_t>(state.shape.count() * item_size(state.dtype)));
  return copy;
}

void set_state(Magnifier& magnifier, const py::object& value) {
  const Magnifier::Access access(magnifier);
  if (value.is_none()) return access->set_started(false);
  const View given = view_of(kName, "state", value);
  const View state = access->state();
  if (!(given.shape == state.shape)) {
    throw ValueError(kName, "state", "shape " + to_string(state.shape), to_string(given.shape));
  }
  if (given.dtype != state.dtype) {
    throw TypeError(kName, "state", name(state.dtype), name(given.dtype));
  }
  if (!is_contiguous(given, 0, given.ndim())) {
    throw ValueError(kName, "state", "a C-contiguous array", "other strides");
  }
  const auto* items = given.as<const float>();
  if (!std::all_of(items, items + given.shape.count(), [](float z) { return std::isfinite(z); })) {
    throw ValueError(kName, "state", "finite values", "NaN or infinity");
  }
  std::memcpy(state.data, given.data,
              static_cast<std::size_t>(state.shape.count() * item_size(state.dtype)));
  access->set_started(true);
}

}  // namespace

void register_magnification(py::module_& module) {
  py::class_<Magnifier>(module, "LinearMagnifier")
      .def(py::init(&make), py::kw_only(), py::arg("height"), py::arg("width"), py::arg("channels"),
           py::arg("dtype"), py::arg("base_level"), py::arg("alphas"), py::arg("gaussian"),
           py::arg("chroma"), py::arg("sos"), py::arg("steady_zi"))
      .def("feed", &feed, py::arg("frames"), py::arg("out"))
      .def_property("state", &get_state, &set_state)
      .def_property_readonly("workspace_bytes", [](Magnifier& magnifier) {
        return Magnifier::Access(magnifier)->workspace_bytes();
      });
}

}  // namespace marey::python
