#pragma once
// What the bindings of magnifiers have in common: feed, state, one caller at a time. M has
// feed(frames, out), state(), started(), set_started() and workspace_bytes().
#include <pybind11/pybind11.h>

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstring>
#include <stdexcept>
#include <string_view>

#include "bindings/arrays.h"
#include "core/error.h"

namespace marey::python {

template <class M>
class Stream {
 public:
  static constexpr std::string_view kName = "marey.Magnifier";

  template <class Options>
  explicit Stream(const Options& options) : magnifier_(options) {}

  py::array feed(const py::object& frames, const py::object& out) {
    const View source = view_of(kName, "frames", frames);
    py::array result = result_array(kName, out, source.shape, source.dtype, source);
    const View target = view_of(kName, "out", result);
    {
      const Turn turn(*this);
      const py::gil_scoped_release release;
      magnifier_.feed(source, target);
    }
    return result;
  }

  // A copy, or None before the first frame.
  py::object state() {
    const Turn turn(*this);
    if (!magnifier_.started()) return py::none();
    const View state = magnifier_.state();
    py::array copy = new_array(state.shape, state.dtype);
    std::memcpy(copy.mutable_data(), state.data,
                static_cast<std::size_t>(state.shape.count() * item_size(state.dtype)));
    return copy;
  }

  void set_state(const py::object& value) {
    const Turn turn(*this);
    if (value.is_none()) return magnifier_.set_started(false);
    const View given = view_of(kName, "state", value);
    const View state = magnifier_.state();
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
    if (!std::all_of(items, items + given.shape.count(),
                     [](float z) { return std::isfinite(z); })) {
      throw ValueError(kName, "state", "finite values", "NaN or infinity");
    }
    std::memcpy(state.data, given.data,
                static_cast<std::size_t>(state.shape.count() * item_size(state.dtype)));
    magnifier_.set_started(true);
  }

  int64_t workspace_bytes() const { return magnifier_.workspace_bytes(); }

 private:
  // The state is not made for two, and a signal handler may come back in.
  class Turn {
   public:
    explicit Turn(Stream& stream) : stream_(stream) {
      if (stream_.busy_.exchange(true)) {
        throw std::runtime_error(
            "[marey.Magnifier] expected one caller at a time; found another feed or state access "
            "in progress");
      }
    }
    ~Turn() { stream_.busy_ = false; }
    Turn(const Turn&) = delete;
    Turn& operator=(const Turn&) = delete;

   private:
    Stream& stream_;
  };

  M magnifier_;
  std::atomic<bool> busy_{false};
};

template <class M>
void def_stream(py::class_<Stream<M>>& c) {
  using S = Stream<M>;
  c.def("feed", &S::feed, py::arg("frames"), py::arg("out"))
      .def_property("state", &S::state, &S::set_state)
      .def_property_readonly("workspace_bytes", &S::workspace_bytes);
}

}  // namespace marey::python
