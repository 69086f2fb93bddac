// The module _jax: kernels as XLA custom calls, for jax.ffi. Built against JAX's own headers, where
// they are found; the kernels themselves are those of _cpu, by the pointers of bindings/c_api.h.
//
// A handler gets its arrays in order and its options by name. Axes are counted from the back, so
// that a batch axis in front, which vmap adds, changes nothing.
#include <pybind11/pybind11.h>

#include <string>
#include <utility>
#include <vector>

#include "bindings/c_api.h"
#include "xla/ffi/api/ffi.h"

namespace py = pybind11;
namespace ffi = xla::ffi;

namespace {

const marey::python::CApi* g_marey = nullptr;

marey_dtype dtype_of(ffi::DataType type) {
  switch (type) {
    case ffi::U8:
    case ffi::PRED:
      return MAREY_UINT8;
    case ffi::F32:
      return MAREY_FLOAT32;
    case ffi::F64:
      return MAREY_FLOAT64;
    case ffi::BF16:
      return MAREY_BFLOAT16;
    default:
      return static_cast<marey_dtype>(-1);  // refused by whichever function gets it
  }
}

marey_array array_of(const ffi::AnyBuffer& buffer) {
  marey_array array{};
  const auto shape = buffer.dimensions();
  array.data = buffer.untyped_data();
  array.dtype = dtype_of(buffer.element_type());
  array.ndim = static_cast<int32_t>(shape.size());
  auto stride = static_cast<int64_t>(ffi::ByteWidth(buffer.element_type()));
  for (std::size_t axis = shape.size(); axis-- > 0;) {
    if (axis >= MAREY_MAX_DIMS) continue;
    array.shape[axis] = shape[axis];
    array.strides[axis] = stride;
    stride *= shape[axis];
  }
  return array;
}

// The same array with an axis read backward.
marey_array reversed(marey_array array, int64_t axis) {
  const int64_t a = axis + array.ndim;
  if (a < 0 || a >= array.ndim) return array;
  if (array.shape[a] > 0) {
    array.data = static_cast<std::byte*>(array.data) + (array.shape[a] - 1) * array.strides[a];
  }
  array.strides[a] = -array.strides[a];
  return array;
}

// What a handler works with. A missing argument or option is an exception.
struct Call {
  ffi::RemainingArgs& args;
  ffi::RemainingRets& rets;
  ffi::Dictionary& options;

  marey_array arg(std::size_t k) const { return array_of(*args.get<ffi::AnyBuffer>(k)); }
  marey_array ret(std::size_t k) const { return array_of(**rets.get<ffi::AnyBuffer>(k)); }
  int64_t integer(const char* name) const { return *options.get<int64_t>(name); }
  int32_t axis(const char* name) const { return static_cast<int32_t>(integer(name)); }
  double number(const char* name) const { return *options.get<double>(name); }
  ffi::Span<const double> numbers(const char* name) const {
    return *options.get<ffi::Span<const double>>(name);
  }
};

template <class Function>
marey_status image(const Call& call, Function* function) {
  const marey_array source = call.arg(0);
  const marey_array out = call.ret(0);
  return function(&source, call.axis("channel_axis"), &out);
}

marey_status down(const Call& call) { return image(call, g_marey->down); }
marey_status up(const Call& call) { return image(call, g_marey->up); }
marey_status down_adjoint(const Call& call) { return image(call, g_marey->down_adjoint); }
marey_status up_adjoint(const Call& call) { return image(call, g_marey->up_adjoint); }

marey_status laplacian(const Call& call) {
  const marey_array source = call.arg(0);
  std::vector<marey_array> bands;
  for (std::size_t k = 0; k < call.rets.size(); ++k) bands.push_back(call.ret(k));
  return g_marey->laplacian(&source, static_cast<int32_t>(bands.size()) - 1,
                            call.axis("channel_axis"), bands.data());
}

marey_status collapse(const Call& call) {
  std::vector<marey_array> bands;
  for (std::size_t k = 0; k < call.args.size(); ++k) bands.push_back(call.arg(k));
  const marey_array out = call.ret(0);
  return g_marey->collapse(bands.data(), static_cast<int32_t>(bands.size()) - 1,
                           call.axis("channel_axis"), &out);
}

// With reverse=1 time runs backward, which is the adjoint of running forward from rest.
marey_status sosfilt(const Call& call) {
  const auto sos = call.numbers("sos");
  const bool with_state = call.args.size() > 1;
  const int32_t axis = call.axis("axis");
  marey_array x = call.arg(0);
  marey_array y = call.ret(0);
  if (call.integer("reverse") != 0) {
    x = reversed(x, axis);
    y = reversed(y, axis);
  }
  const marey_array zi = with_state ? call.arg(1) : marey_array{};
  const marey_array zf = with_state ? call.ret(1) : marey_array{};
  return g_marey->sosfilt(sos.begin(), static_cast<int64_t>(sos.size() / 6), &x, axis,
                          with_state ? &zi : nullptr, with_state ? &zf : nullptr, &y);
}

marey_status sosfiltfilt(const Call& call) {
  const auto sos = call.numbers("sos");
  const marey_array x = call.arg(0);
  const marey_array y = call.ret(0);
  return g_marey->sosfiltfilt(
      sos.begin(), static_cast<int64_t>(sos.size() / 6), &x, call.axis("axis"),
      static_cast<marey_extension>(call.integer("extension")), call.integer("padlen"), &y);
}

marey_status convolve(const Call& call) {
  const auto taps = call.numbers("taps");
  const marey_array x = call.arg(0);
  const marey_array y = call.ret(0);
  return g_marey->convolve(&x, call.axis("axis"), taps.begin(), static_cast<int64_t>(taps.size()),
                           static_cast<marey_boundary>(call.integer("boundary")),
                           call.integer("origin"), call.number("cval"), &y);
}

marey_status median_filter(const Call& call) {
  const marey_array x = call.arg(0);
  const marey_array y = call.ret(0);
  return g_marey->median_filter(&x, call.axis("axis"), call.integer("size"),
                                static_cast<marey_boundary>(call.integer("boundary")),
                                call.integer("origin"), call.number("cval"), &y);
}

marey_status median(const Call& call) {
  const marey_array x = call.arg(0);
  const marey_array y = call.ret(0);
  return g_marey->median(&x, call.axis("axis"), &y);
}

marey_status ideal_bandpass(const Call& call) {
  const marey_array x = call.arg(0);
  const marey_array y = call.ret(0);
  return g_marey->ideal_bandpass(&x, call.axis("axis"), call.integer("first"), call.integer("last"),
                                 &y);
}

// Arguments q, k, v; results out, lse.
marey_status attention(const Call& call) {
  const marey_array q = call.arg(0);
  const marey_array k = call.arg(1);
  const marey_array v = call.arg(2);
  const marey_array out = call.ret(0);
  const marey_array lse = call.ret(1);
  marey_attention_options options = g_marey->attention_defaults();
  options.scale = call.number("scale");
  options.softcap = call.number("softcap");
  options.left = call.integer("left");
  options.right = call.integer("right");
  options.alignment = call.axis("alignment");
  return g_marey->attention(&q, &k, &v, nullptr, nullptr, &options, &out, &lse);
}

using Handler = XLA_FFI_Error*(XLA_FFI_CallFrame*);

template <marey_status (*kCall)(const Call&)>
XLA_FFI_Error* handler(XLA_FFI_CallFrame* frame) {
  static const auto bound = ffi::Ffi::Bind().RemainingArgs().RemainingRets().Attrs().To(
      [](ffi::RemainingArgs args, ffi::RemainingRets rets, ffi::Dictionary options) {
        if (kCall(Call{args, rets, options}) == MAREY_OK) return ffi::Error::Success();
        return ffi::Error::InvalidArgument(g_marey->last_error());
      });
  return bound->Call(frame);
}

}  // namespace

PYBIND11_MODULE(_jax, module, py::mod_gil_not_used()) {
  module.doc() = "The kernels of marey as XLA custom calls. Private: use marey.jax.";
  g_marey = static_cast<const marey::python::CApi*>(py::module_::import("marey._cpu")
                                                        .attr("c_api")
                                                        .cast<py::capsule>()
                                                        .get_pointer<const marey::python::CApi>());
  const std::pair<const char*, Handler*> handlers[] = {{"down", handler<down>},
                                                       {"up", handler<up>},
                                                       {"down_adjoint", handler<down_adjoint>},
                                                       {"up_adjoint", handler<up_adjoint>},
                                                       {"laplacian", handler<laplacian>},
                                                       {"collapse", handler<collapse>},
                                                       {"sosfilt", handler<sosfilt>},
                                                       {"sosfiltfilt", handler<sosfiltfilt>},
                                                       {"convolve", handler<convolve>},
                                                       {"median_filter", handler<median_filter>},
                                                       {"median", handler<median>},
                                                       {"ideal_bandpass", handler<ideal_bandpass>},
                                                       {"attention", handler<attention>}};
  py::dict table;
  for (const auto& [name, handler] : handlers) {
    table[name] = py::capsule(reinterpret_cast<void*>(handler), "xla._CUSTOM_CALL_TARGET");
  }
  module.attr("handlers") = table;
}
