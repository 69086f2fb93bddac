// The functions of include/marey/marey.h: plain arrays become views, results are checked, and
// exceptions become a status and a text.
#include <algorithm>
#include <cmath>
#include <optional>
#include <string>
#include <vector>

#include "capi/checked.h"
#include "core/parallel.h"
#include "core/view.h"
#include "include/marey/marey.h"
#include "ops/attention/attention.h"
#include "ops/attention/backward.h"
#include "ops/linear/linear.h"
#include "ops/pyramid/adjoint.h"
#include "ops/pyramid/down.h"
#include "ops/pyramid/image.h"
#include "ops/pyramid/laplacian.h"
#include "ops/pyramid/up.h"
#include "ops/temporal/convolve.h"
#include "ops/temporal/ideal_bandpass.h"
#include "ops/temporal/median.h"
#include "ops/temporal/median_filter.h"
#include "ops/temporal/sosfilt.h"
#include "ops/temporal/sosfiltfilt.h"

namespace marey::capi {
namespace {

thread_local std::string t_last_error;

}  // namespace

void set_last_error(const char* text) { t_last_error = text; }

}  // namespace marey::capi

namespace {

using marey::DType;
using marey::Shape;
using marey::TypeError;
using marey::ValueError;
using marey::View;
using marey::capi::expect;
using marey::capi::guarded;
using marey::capi::view_of;

static_assert(MAREY_MAX_DIMS == marey::kMaxDims);
static_assert(MAREY_UINT8 == static_cast<int>(DType::u8) &&
              MAREY_FLOAT32 == static_cast<int>(DType::f32) &&
              MAREY_FLOAT64 == static_cast<int>(DType::f64) &&
              MAREY_BFLOAT16 == static_cast<int>(DType::bf16));

// A view of uint8, float32 or float64.
View signal_of(const char* function, const char* argument, const marey_array* array) {
  const View view = view_of(function, argument, array);
  if (view.dtype == DType::bf16) {
    throw TypeError(function, argument, "uint8, float32 or float64", name(view.dtype));
  }
  return view;
}

DType float_type(const View& x) { return x.dtype == DType::u8 ? DType::f32 : x.dtype; }

std::optional<int> channels(int32_t axis) {
  return axis == MAREY_NO_CHANNELS ? std::nullopt : std::optional<int>(axis);
}

int checked_axis(const char* function, const View& x, int axis) {
  const int positive = axis < 0 ? axis + x.ndim() : axis;
  if (positive < 0 || positive >= x.ndim()) {
    throw ValueError(function, "axis", "an axis of shape " + to_string(x.shape),
                     std::to_string(axis));
  }
  return positive;
}

// Numbers that the caller holds in a row.
View numbers(const char* function, const char* argument, const double* values, Shape shape) {
  if (values == nullptr) throw ValueError(function, argument, "numbers", "a null pointer");
  View view;
  view.data = const_cast<double*>(values);
  view.dtype = DType::f64;
  view.shape = shape;
  int64_t stride = item_size(DType::f64);
  for (int axis = shape.ndim - 1; axis >= 0; --axis) {
    view.stride(axis) = stride;
    stride *= shape[axis];
  }
  return view;
}

Shape shape_of(std::initializer_list<int64_t> extents) {
  Shape shape;
  for (const int64_t extent : extents) shape.push_back(extent);
  return shape;
}

std::vector<View> levels_of(const char* function, const char* argument, const marey_array* arrays,
                            int32_t levels) {
  if (levels < 1 || levels > 63) {
    throw ValueError(function, "levels", "1 to 63", std::to_string(levels));
  }
  if (arrays == nullptr) throw ValueError(function, argument, "arrays", "a null pointer");
  std::vector<View> views;
  for (int32_t level = 0; level <= levels; ++level) {
    views.push_back(signal_of(function, argument, arrays + level));
  }
  return views;
}

// As SciPy: three times the length of the impulse response's numerators and denominators.
int64_t default_padlen(const std::vector<double>& sos) {
  const auto sections = static_cast<int64_t>(sos.size() / 6);
  int64_t no_b2 = 0;
  int64_t no_a2 = 0;
  for (std::size_t s = 0; s < sos.size(); s += 6) {
    no_b2 += sos[s + 2] == 0;
    no_a2 += sos[s + 5] == 0;
  }
  return 3 * (2 * sections + 1 - std::min(no_b2, no_a2));
}

marey::Window window_of(const char* function, int64_t size, marey_boundary boundary, int64_t before,
                        double cval) {
  const int which = static_cast<int>(boundary);
  if (which < MAREY_REFLECT || which > MAREY_BY_CONSTANT) {
    throw ValueError(function, "boundary", "a marey_boundary", std::to_string(which));
  }
  return {size, before, static_cast<marey::Boundary>(which), cval, nullptr};
}

// The options of attention as the kernels take them.
marey::AttentionOptions plan_of(const char* name, const View& queries,
                                const marey_attention_options* options) {
  const marey_attention_options wanted = options ? *options : marey_attention_defaults();
  if (wanted.alignment < 0 || wanted.alignment > 2) {
    throw ValueError(name, "alignment", "0, 1 or 2", std::to_string(wanted.alignment));
  }
  marey::AttentionOptions plan;
  const auto depth = static_cast<double>(std::max<int64_t>(queries.shape[queries.ndim() - 1], 1));
  plan.scale = wanted.scale == 0 ? 1 / std::sqrt(depth) : wanted.scale;
  plan.softcap = wanted.softcap;
  if (wanted.left >= 0) plan.left = wanted.left;
  if (wanted.right >= 0) plan.right = wanted.right;
  plan.alignment = static_cast<marey::Alignment>(wanted.alignment);
  return plan;
}

}  // namespace

extern "C" {

marey_array marey_array_of(void* data, marey_dtype dtype, int32_t ndim, const int64_t* shape) {
  marey_array array{};
  array.data = data;
  array.dtype = dtype;
  array.ndim = ndim;
  const int known = std::clamp<int>(static_cast<int>(dtype), MAREY_UINT8, MAREY_BFLOAT16);
  int64_t stride = item_size(static_cast<DType>(known));
  for (int axis = std::min<int>(ndim, MAREY_MAX_DIMS) - 1; axis >= 0; --axis) {
    array.shape[axis] = shape[axis];
    array.strides[axis] = stride;
    stride *= shape[axis];
  }
  return array;
}

const char* marey_last_error(void) { return marey::capi::t_last_error.c_str(); }

const char* marey_isa(void) {
  guarded([] {});
  return marey::name(marey::active_isa()).data();
}

marey_status marey_set_isa(const char* name) {
  return guarded([&] { marey::set_active_isa(name == nullptr ? "" : name); });
}

int32_t marey_num_threads(void) { return marey::num_threads(); }

void marey_set_num_threads(int32_t count) { marey::set_num_threads(std::max(count, 0)); }

marey_status marey_down(const marey_array* image, int32_t channel_axis, const marey_array* out) {
  return guarded([&] {
    const char* name = "marey.down";
    const View source = signal_of(name, "image", image);
    const View target = signal_of(name, "out", out);
    expect(name, "out", target, marey::down_shape(name, source, channels(channel_axis)),
           source.dtype);
    marey::down(name, source, channels(channel_axis), target);
  });
}

marey_status marey_up(const marey_array* image, int32_t channel_axis, const marey_array* out) {
  return guarded([&] {
    const char* name = "marey.up";
    const View source = signal_of(name, "image", image);
    const View target = signal_of(name, "out", out);
    const marey::ImageAxes axes =
        marey::image_axes(name, "image", source.shape, channels(channel_axis));
    if (target.ndim() != source.ndim()) {
      throw ValueError(name, "out", std::to_string(source.ndim()) + " axes",
                       to_string(target.shape));
    }
    expect(name, "out", target,
           marey::up_shape(name, source, target.shape[axes.row], target.shape[axes.column],
                           channels(channel_axis)),
           source.dtype);
    marey::up(name, source, channels(channel_axis), target);
  });
}

marey_status marey_down_adjoint(const marey_array* grad, int32_t channel_axis,
                                const marey_array* out) {
  return guarded([&] {
    const char* name = "marey.down_adjoint";
    marey::down_adjoint(name, signal_of(name, "grad", grad), channels(channel_axis), nullptr, 1.0,
                        signal_of(name, "out", out));
  });
}

marey_status marey_up_adjoint(const marey_array* grad, int32_t channel_axis,
                              const marey_array* out) {
  return guarded([&] {
    const char* name = "marey.up_adjoint";
    marey::up_adjoint(name, signal_of(name, "grad", grad), channels(channel_axis), nullptr, 1.0,
                      signal_of(name, "out", out));
  });
}

marey_status marey_laplacian(const marey_array* image, int32_t levels, int32_t channel_axis,
                             const marey_array* out) {
  return guarded([&] {
    const char* name = "marey.laplacian";
    const View source = signal_of(name, "image", image);
    const std::vector<View> views = levels_of(name, "out", out, levels);
    const std::vector<Shape> shapes =
        marey::pyramid_shapes(name, source, levels, channels(channel_axis));
    for (std::size_t level = 0; level < views.size(); ++level) {
      expect(name, "out", views[level], shapes[level], float_type(source));
    }
    marey::laplacian(name, source, channels(channel_axis), views);
  });
}

marey_status marey_collapse(const marey_array* bands, int32_t levels, int32_t channel_axis,
                            const marey_array* out) {
  return guarded([&] {
    const char* name = "marey.collapse";
    const std::vector<View> views = levels_of(name, "bands", bands, levels);
    for (const View& view : views) {
      if (view.dtype == DType::u8) {
        throw TypeError(name, "bands", "float32 or float64", marey::name(view.dtype));
      }
      if (view.dtype != views[0].dtype) {
        throw TypeError(name, "bands", marey::name(views[0].dtype), marey::name(view.dtype));
      }
    }
    const View target = signal_of(name, "out", out);
    expect(name, "out", target, views[0].shape, views[0].dtype);
    marey::collapse(name, views, channels(channel_axis), target);
  });
}

marey_status marey_sosfilt(const double* sos, int64_t sections, const marey_array* x, int32_t axis,
                           const marey_array* zi, const marey_array* zf, const marey_array* y) {
  return guarded([&] {
    const char* name = "marey.sosfilt";
    const View source = signal_of(name, "x", x);
    const View target = signal_of(name, "y", y);
    View initial;
    View final;
    if (zi != nullptr) initial = view_of(name, "zi", zi);
    if (zf != nullptr) final = view_of(name, "zf", zf);
    marey::sosfilt(numbers(name, "sos", sos, shape_of({sections, 6})), source,
                   checked_axis(name, source, axis), target, zi == nullptr ? nullptr : &initial,
                   zf == nullptr ? nullptr : &final);
  });
}

marey_status marey_sosfiltfilt(const double* sos, int64_t sections, const marey_array* x,
                               int32_t axis, marey_extension extension, int64_t padlen,
                               const marey_array* y) {
  return guarded([&] {
    const char* name = "marey.sosfiltfilt";
    const int which = static_cast<int>(extension);
    if (which < MAREY_ODD || which > MAREY_CONSTANT) {
      throw ValueError(name, "extension", "a marey_extension", std::to_string(which));
    }
    const View source = signal_of(name, "x", x);
    const View target = signal_of(name, "y", y);
    expect(name, "y", target, source.shape, float_type(source));
    const View coefficients = numbers(name, "sos", sos, shape_of({sections, 6}));
    const std::vector<double> rows = marey::checked_sections(name, coefficients);
    const std::vector<double> zi = marey::steady_state(name, rows);
    marey::sosfiltfilt(coefficients, source, checked_axis(name, source, axis), target,
                       static_cast<marey::Extension>(which),
                       padlen < 0 ? default_padlen(rows) : padlen,
                       numbers(name, "zi", zi.data(), shape_of({sections, 2})));
  });
}

marey_status marey_convolve(const marey_array* x, int32_t axis, const double* taps, int64_t size,
                            marey_boundary boundary, int64_t origin, double cval,
                            const marey_array* y) {
  return guarded([&] {
    const char* name = "marey.convolve";
    const View source = signal_of(name, "x", x);
    const View target = signal_of(name, "y", y);
    expect(name, "y", target, source.shape, float_type(source));
    const marey::Window window = window_of(name, size, boundary, (size - 1) / 2 - origin, cval);
    marey::convolve(name, source, checked_axis(name, source, axis),
                    numbers(name, "taps", taps, shape_of({size})), window, target);
  });
}

marey_status marey_median_filter(const marey_array* x, int32_t axis, int64_t size,
                                 marey_boundary boundary, int64_t origin, double cval,
                                 const marey_array* y) {
  return guarded([&] {
    const char* name = "marey.median_filter";
    const View source = signal_of(name, "x", x);
    const View target = signal_of(name, "y", y);
    expect(name, "y", target, source.shape, source.dtype);
    const marey::Window window = window_of(name, size, boundary, size / 2 + origin, cval);
    marey::median_filter(name, source, checked_axis(name, source, axis), window, target);
  });
}

marey_status marey_median(const marey_array* x, int32_t axis, const marey_array* y) {
  return guarded([&] {
    const char* name = "marey.median";
    const View source = signal_of(name, "x", x);
    const View given = signal_of(name, "y", y);
    const int time = checked_axis(name, source, axis);
    Shape shape;
    View target = given;  // with an axis of length one where the steps were
    target.shape = source.shape;
    target.shape[time] = 1;
    for (int a = 0; a < source.ndim(); ++a) {
      if (a != time) shape.push_back(source.shape[a]);
      target.stride(a) = a == time ? 0 : given.stride(a < time ? a : a - 1);
    }
    expect(name, "y", given, shape, float_type(source));
    marey::median(source, time, target);
  });
}

marey_status marey_ideal_bandpass(const marey_array* x, int32_t axis, int64_t first, int64_t last,
                                  const marey_array* y) {
  return guarded([&] {
    const char* name = "marey.ideal_bandpass";
    const View source = signal_of(name, "x", x);
    const View target = signal_of(name, "y", y);
    expect(name, "y", target, source.shape, float_type(source));
    marey::ideal_bandpass(source, checked_axis(name, source, axis), first, last, target);
  });
}

marey_attention_options marey_attention_defaults(void) { return {0, 0, -1, -1, 0}; }

marey_status marey_attention(const marey_array* q, const marey_array* k, const marey_array* v,
                             const marey_array* mask, const marey_array* bias,
                             const marey_attention_options* options, const marey_array* out,
                             const marey_array* lse) {
  return guarded([&] {
    const char* name = "marey.attention";
    const View queries = view_of(name, "q", q);
    const View keys = view_of(name, "k", k);
    const View values = view_of(name, "v", v);
    const View result = view_of(name, "out", out);
    if (queries.ndim() < 3 || values.ndim() != queries.ndim()) {
      throw ValueError(name, "q", "shape (..., h, L, D), and as many axes of v",
                       to_string(queries.shape));
    }
    View allowed;
    View added;
    View normaliser;
    if (mask != nullptr) allowed = view_of(name, "mask", mask);
    if (bias != nullptr) added = view_of(name, "bias", bias);
    if (lse != nullptr) normaliser = view_of(name, "lse", lse);
    const marey::AttentionOptions plan = plan_of(name, queries, options);
    marey::attention(queries, keys, values, mask ? &allowed : nullptr, bias ? &added : nullptr,
                     plan, result, lse ? &normaliser : nullptr);
  });
}

marey_status marey_attention_backward(const marey_array* grad, const marey_array* q,
                                      const marey_array* k, const marey_array* v,
                                      const marey_array* out, const marey_array* lse,
                                      const marey_array* mask, const marey_array* bias,
                                      const marey_attention_options* options,
                                      const marey_array* grad_q, const marey_array* grad_k,
                                      const marey_array* grad_v) {
  return guarded([&] {
    const char* name = "marey.attention_backward";
    const View queries = view_of(name, "q", q);
    const View keys = view_of(name, "k", k);
    const View values = view_of(name, "v", v);
    if (queries.ndim() < 3 || values.ndim() != queries.ndim()) {
      throw ValueError(name, "q", "shape (..., h, L, D), and as many axes of v",
                       to_string(queries.shape));
    }
    View allowed;
    View added;
    if (mask != nullptr) allowed = view_of(name, "mask", mask);
    if (bias != nullptr) added = view_of(name, "bias", bias);
    const View of_q = view_of(name, "grad_q", grad_q);
    const View of_k = view_of(name, "grad_k", grad_k);
    const View of_v = view_of(name, "grad_v", grad_v);
    expect(name, "grad_q", of_q, queries.shape, queries.dtype);
    expect(name, "grad_k", of_k, keys.shape, keys.dtype);
    expect(name, "grad_v", of_v, values.shape, values.dtype);
    marey::attention_backward(view_of(name, "grad", grad), queries, keys, values,
                              view_of(name, "out", out), view_of(name, "lse", lse),
                              mask ? &allowed : nullptr, bias ? &added : nullptr,
                              plan_of(name, queries, options), {of_q, of_k, of_v, nullptr});
  });
}

marey_status marey_linear(const marey_array* x, const marey_array* weight, const marey_array* bias,
                          const marey_array* y) {
  return guarded([&] {
    const char* name = "marey.linear";
    const View matrix = view_of(name, "weight", weight);
    View added;
    if (bias != nullptr) added = view_of(name, "bias", bias);
    const View input = view_of(name, "x", x);
    marey::linear(input, marey::pack_weight(matrix, marey::rows_of(input)), bias ? &added : nullptr,
                  marey::Activation::none, nullptr, view_of(name, "y", y));
  });
}

marey_status marey_linear_backward(const marey_array* grad, const marey_array* x,
                                   const marey_array* weight, const marey_array* grad_x,
                                   const marey_array* grad_weight, const marey_array* grad_bias) {
  return guarded([&] {
    const char* name = "marey.linear_backward";
    View to[3];
    if (grad_x != nullptr) to[0] = view_of(name, "grad_x", grad_x);
    if (grad_weight != nullptr) to[1] = view_of(name, "grad_weight", grad_weight);
    if (grad_bias != nullptr) to[2] = view_of(name, "grad_bias", grad_bias);
    marey::linear_backward(view_of(name, "grad", grad), view_of(name, "x", x),
                           view_of(name, "weight", weight), grad_x ? &to[0] : nullptr,
                           grad_weight ? &to[1] : nullptr, grad_bias ? &to[2] : nullptr);
  });
}

}  // extern "C"
