// The module _jax: kernels as XLA custom calls, for jax.ffi. Built against JAX's own headers, where
// they are found; the kernels themselves are those of _cpu, by the pointers of bindings/c_api.h.
//
// A handler gets its arrays in order and its options by name. Axes are counted from the back, so
// that a batch axis in front, which vmap adds, changes nothing.
#include <pybind11/pybind11.h>

#include <array>
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

// All arguments, or results, of a call that has so many.
template <std::size_t kCount>
class Arrays {
 public:
  explicit Arrays(const Call& call) {
    for (std::size_t k = 0; k < kCount; ++k) arrays_[k] = call.arg(k);
  }
  const marey_array& operator[](std::size_t k) const { return arrays_[k]; }

 private:
  std::array<marey_array, kCount> arrays_;
};

template <std::size_t kCount>
class Results {
 public:
  explicit Results(const Call& call) {
    for (std::size_t k = 0; k < kCount; ++k) arrays_[k] = call.ret(k);
  }
  const marey_array& operator[](std::size_t k) const { return arrays_[k]; }

 private:
  std::array<marey_array, kCount> arrays_;
};

marey_attention_options attention_options(const Call& call) {
  marey_attention_options options = g_marey->attention_defaults();
  options.scale = call.number("scale");
  options.softcap = call.number("softcap");
  options.left = call.integer("left");
  options.right = call.integer("right");
  options.alignment = call.axis("alignment");
  return options;
}

// Arguments q, k, v; results out, lse.
marey_status attention(const Call& call) {
  const Arrays<3> a(call);
  const Results<2> r(call);
  const marey_attention_options options = attention_options(call);
  return g_marey->attention(&a[0], &a[1], &a[2], nullptr, nullptr, &options, &r[0], &r[1]);
}

// Arguments grad, q, k, v, out, lse; results their gradients.
marey_status attention_backward(const Call& call) {
  const Arrays<6> a(call);
  const Results<3> r(call);
  const marey_attention_options options = attention_options(call);
  return g_marey->attention_backward(&a[0], &a[1], &a[2], &a[3], &a[4], &a[5], nullptr, nullptr,
                                     &options, &r[0], &r[1], &r[2]);
}

// Arguments x, weight and, if there are three, bias.
marey_status linear(const Call& call) {
  const marey_array x = call.arg(0);
  const marey_array weight = call.arg(1);
  const marey_array y = call.ret(0);
  const bool with_bias = call.args.size() > 2;
  const marey_array bias = with_bias ? call.arg(2) : marey_array{};
  return g_marey->linear(&x, &weight, with_bias ? &bias : nullptr, &y);
}

marey_status linear_backward(const Call& call) {
  const Arrays<3> a(call);
  const Results<3> r(call);
  return g_marey->linear_backward(&a[0], &a[1], &a[2], &r[0], &r[1], &r[2]);
}

marey_conv3d_options conv3d_options(const Call& call) {
  marey_conv3d_options options = g_marey->conv3d_defaults();
  const auto numbers = call.numbers("window");  // of T, H, W: stride, before, after, dilation
  for (std::size_t axis = 0; axis < 3; ++axis) {
    options.stride[axis] = static_cast<int64_t>(numbers[axis]);
    options.before[axis] = static_cast<int64_t>(numbers[3 + axis]);
    options.after[axis] = static_cast<int64_t>(numbers[6 + axis]);
    options.dilation[axis] = static_cast<int64_t>(numbers[9 + axis]);
  }
  options.groups = call.integer("groups");
  return options;
}

// Arguments x, weight and, if there are three, bias.
marey_status conv3d(const Call& call) {
  const marey_array x = call.arg(0);
  const marey_array weight = call.arg(1);
  const marey_array y = call.ret(0);
  const bool with_bias = call.args.size() > 2;
  const marey_array bias = with_bias ? call.arg(2) : marey_array{};
  const marey_conv3d_options options = conv3d_options(call);
  marey_conv3d* packed = nullptr;
  marey_status status =
      g_marey->conv3d_create(&weight, with_bias ? &bias : nullptr, &options, &packed);
  if (status != MAREY_OK) return status;
  status = g_marey->conv3d_run(packed, &x, &y);
  g_marey->conv3d_destroy(packed);
  return status;
}

marey_status conv3d_backward(const Call& call) {
  const Arrays<3> a(call);
  const Results<3> r(call);
  const marey_conv3d_options options = conv3d_options(call);
  return g_marey->conv3d_backward(&a[0], &a[1], &a[2], &options, &r[0], &r[1], &r[2]);
}

// Arguments x, weight_ih, weight_hh, bias_ih, bias_hh, h0 and c0, which counts for an LSTM only;
// results y, h_n and c_n.
marey_status recurrent(const Call& call) {
  const Arrays<7> a(call);
  const Results<3> r(call);
  const auto cell = static_cast<marey_cell>(call.integer("cell"));
  const bool lstm = cell == MAREY_LSTM;
  marey_recurrent* layer = nullptr;
  marey_status status = g_marey->recurrent_create(cell, &a[1], &a[2], &a[3], &a[4], &layer);
  if (status != MAREY_OK) return status;
  status = g_marey->recurrent_run(layer, &a[0], &a[5], lstm ? &a[6] : nullptr, nullptr,
                                  call.axis("reverse"), &r[0], &r[1], lstm ? &r[2] : nullptr);
  g_marey->recurrent_destroy(layer);
  return status;
}

// The same arguments after the gradients of the results; results the arguments' gradients.
marey_status recurrent_backward(const Call& call) {
  const Arrays<10> a(call);
  const Results<7> r(call);
  const auto cell = static_cast<marey_cell>(call.integer("cell"));
  const bool lstm = cell == MAREY_LSTM;
  const marey_recurrent_gradients to{
      &r[0], &r[1], &r[2], &r[3], &r[4], &r[5], lstm ? &r[6] : nullptr};
  return g_marey->recurrent_backward(cell, &a[4], &a[5], &a[6], &a[7], &a[3], &a[8],
                                     lstm ? &a[9] : nullptr, nullptr, call.axis("reverse"), &a[0],
                                     &a[1], lstm ? &a[2] : nullptr, &to);
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
  const std::pair<const char*, Handler*> handlers[] = {
      {"down", handler<down>},
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
      {"attention", handler<attention>},
      {"attention_backward", handler<attention_backward>},
      {"linear", handler<linear>},
      {"linear_backward", handler<linear_backward>},
      {"conv3d", handler<conv3d>},
      {"conv3d_backward", handler<conv3d_backward>},
      {"recurrent", handler<recurrent>},
      {"recurrent_backward", handler<recurrent_backward>}};
  py::dict table;
  for (const auto& [name, handler] : handlers) {
    table[name] = py::capsule(reinterpret_cast<void*>(handler), "xla._CUSTOM_CALL_TARGET");
  }
  module.attr("handlers") = table;
}
