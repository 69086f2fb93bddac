// What the temporal functions demand of their arguments, on every device.
#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <string>
#include <utility>

#include "core/error.h"
#include "ops/temporal/convolve.h"
#include "ops/temporal/sosfilt.h"
#include "ops/temporal/sosfiltfilt.h"
#include "ops/temporal/window.h"

namespace marey {
namespace {

constexpr std::string_view kSosfilt = "marey.sosfilt";
constexpr std::string_view kSosfiltfilt = "marey.sosfiltfilt";

void check_state(const char* argument, const View& z, const View& x, const View& y, int axis,
                 int64_t sections) {
  const Shape expected = sosfilt_state_shape(x.shape, axis, sections);
  if (!(z.shape == expected)) {
    throw ValueError(kSosfilt, argument,
                     "shape " + to_string(expected) + " for x of shape " + to_string(x.shape) +
                         " and " + std::to_string(sections) + " section(s)",
                     to_string(z.shape));
  }
  if (z.dtype != y.dtype) throw TypeError(kSosfilt, argument, name(y.dtype), name(z.dtype));
}

void check_signals(const View& x, int axis, const View& y) {
  if (axis < 0 || axis >= x.ndim()) {
    throw ValueError(kSosfilt, "axis", "an axis of shape " + to_string(x.shape),
                     std::to_string(axis));
  }
  if (!(y.shape == x.shape)) {
    throw ValueError(kSosfilt, "y", "shape " + to_string(x.shape), to_string(y.shape));
  }
  const DType expected = x.dtype == DType::u8 ? DType::f32 : x.dtype;
  if (y.dtype != expected) throw TypeError(kSosfilt, "y", name(expected), name(y.dtype));
}

std::vector<double> checked_steady_state(const View& zi, int64_t sections) {
  Shape expected;
  expected.push_back(sections);
  expected.push_back(2);
  if (zi.dtype != DType::f64 || !(zi.shape == expected) || !is_contiguous(zi, 0, 2)) {
    throw ValueError(kSosfiltfilt, "zi", "contiguous float64 " + to_string(expected),
                     std::string(name(zi.dtype)) + " " + to_string(zi.shape));
  }
  return {zi.as<const double>(), zi.as<const double>() + zi.shape.count()};
}

std::vector<double> checked_taps(std::string_view function, const View& taps) {
  if (taps.dtype != DType::f64) throw TypeError(function, "taps", "float64", name(taps.dtype));
  if (taps.ndim() != 1 || taps.shape[0] < 1 || !is_contiguous(taps, 0, 1)) {
    throw ValueError(function, "taps", "shape (size,) with at least one tap",
                     to_string(taps.shape));
  }
  std::vector<double> values(taps.as<const double>(), taps.as<const double>() + taps.shape[0]);
  for (const double value : values) {
    if (!std::isfinite(value)) {
      throw ValueError(function, "taps", "finite numbers", std::to_string(value));
    }
  }
  return values;
}

}  // namespace

std::vector<double> steady_state(std::string_view function, const std::vector<double>& sos) {
  std::vector<double> zi;
  double level = 1;
  for (std::size_t s = 0; s < sos.size(); s += 6) {
    const double b1 = sos[s + 1];
    const double b2 = sos[s + 2];
    const double a1 = sos[s + 4];
    const double a2 = sos[s + 5];
    const double sum = 1 + a1 + a2;
    if (sum == 0) {
      throw ValueError(function, "sos", "sections without a pole at frequency 0",
                       "1 + a1 + a2 = 0 in section " + std::to_string(s / 6));
    }
    const double gain = (sos[s] + b1 + b2) / sum;
    const double second = b2 - a2 * gain;
    zi.push_back(level * (b1 - a1 * gain + second));
    zi.push_back(level * second);
    level *= gain;
  }
  return zi;
}

int checked_axis(std::string_view function, const View& x, int axis) {
  const int positive = axis < 0 ? axis + x.ndim() : axis;
  if (positive < 0 || positive >= x.ndim()) {
    throw ValueError(function, "axis", "an axis of shape " + to_string(x.shape),
                     std::to_string(axis));
  }
  return positive;
}

std::vector<double> checked_sections(std::string_view function, const View& sos) {
  if (sos.ndim() != 2 || sos.shape[0] < 1 || sos.shape[1] != 6) {
    throw ValueError(function, "sos", "shape (sections, 6) with at least one section",
                     to_string(sos.shape));
  }
  if (sos.dtype != DType::f64) throw TypeError(function, "sos", "float64", name(sos.dtype));
  std::vector<double> rows(static_cast<std::size_t>(sos.shape.count()));
  for (int64_t s = 0; s < sos.shape[0]; ++s) {
    for (int64_t k = 0; k < 6; ++k) {
      double value = 0;
      std::memcpy(&value, sos.as<std::byte>() + s * sos.stride(0) + k * sos.stride(1),
                  sizeof value);
      if (!std::isfinite(value)) {
        throw ValueError(function, "sos", "finite coefficients", std::to_string(value));
      }
      if (k == 3 && value != 1.0) {
        throw ValueError(function, "sos", "a0 (the fourth column) to be 1", std::to_string(value));
      }
      rows[static_cast<std::size_t>(6 * s + k)] = value;
    }
  }
  return rows;
}

Shape sosfilt_state_shape(const Shape& x, int axis, int64_t sections) {
  Shape shape;
  shape.push_back(sections);
  for (int a = 0; a < x.ndim; ++a) shape.push_back(a == axis ? 2 : x[a]);
  return shape;
}

std::vector<double> checked_sosfilt(const View& sos, const View& x, int axis, const View& y,
                                    const View* zi, const View* zf) {
  std::vector<double> coefficients = checked_sections(kSosfilt, sos);
  const int64_t sections = sos.shape[0];
  check_signals(x, axis, y);
  if (zi != nullptr) check_state("zi", *zi, x, y, axis, sections);
  if (zf != nullptr) check_state("zf", *zf, x, y, axis, sections);
  return coefficients;
}

SteadySections checked_sosfiltfilt(const View& sos, const View& x, int axis, int64_t padlen,
                                   const View& zi) {
  SteadySections checked{checked_sections(kSosfiltfilt, sos),
                         checked_steady_state(zi, sos.shape[0])};
  const int64_t steps = x.shape[axis];
  if (padlen < 0) throw ValueError(kSosfiltfilt, "padlen", "0 or more", std::to_string(padlen));
  if (steps <= padlen) {
    throw ValueError(kSosfiltfilt, "x",
                     "more than padlen = " + std::to_string(padlen) + " steps along axis " +
                         std::to_string(axis),
                     to_string(x.shape));
  }
  return checked;
}

Extension extension_of(std::string_view padtype) {
  if (padtype == "odd") return Extension::odd;
  if (padtype == "even") return Extension::even;
  if (padtype == "constant") return Extension::constant;
  throw ValueError(kSosfiltfilt, "padtype", "'odd', 'even', 'constant' or None", padtype);
}

std::vector<double> checked_weights(std::string_view function, const View& taps) {
  std::vector<double> values = checked_taps(function, taps);
  std::reverse(values.begin(), values.end());
  return values;
}

Boundary boundary_of(std::string_view function, std::string_view mode) {
  constexpr std::array<std::pair<std::string_view, Boundary>, 8> kModes = {
      {{"reflect", Boundary::reflect},
       {"grid-mirror", Boundary::reflect},
       {"nearest", Boundary::nearest},
       {"mirror", Boundary::mirror},
       {"wrap", Boundary::wrap},
       {"grid-wrap", Boundary::wrap},
       {"constant", Boundary::constant},
       {"grid-constant", Boundary::constant}}};
  for (const auto& [known, boundary] : kModes) {
    if (mode == known) return boundary;
  }
  throw ValueError(function, "mode", "'reflect', 'nearest', 'mirror', 'wrap' or 'constant'", mode);
}

void check_window(std::string_view function, const Window& window, const View& x, int axis) {
  if (window.before < 0 || window.before >= window.size) {
    const int64_t centre = window.size / 2;
    throw ValueError(function, "origin",
                     "between " + std::to_string(-centre) + " and " +
                         std::to_string(window.size - 1 - centre) + " for a window of " +
                         std::to_string(window.size),
                     std::to_string(window.before - centre));
  }
  if (x.dtype == DType::u8 && window.boundary == Boundary::constant &&
      !(window.cval >= 0 && window.cval <= 255 && window.cval == std::floor(window.cval))) {
    throw ValueError(function, "cval", "a value that uint8 holds", std::to_string(window.cval));
  }
  if (window.history == nullptr) return;
  const View& history = *window.history;
  Shape expected = x.shape;
  expected[axis] = window.before;
  if (!(history.shape == expected)) {
    throw ValueError(function, "state",
                     "shape " + to_string(expected) + " for x of shape " + to_string(x.shape),
                     to_string(history.shape));
  }
  if (history.dtype != x.dtype) {
    throw ValueError(function, "state", std::string(name(x.dtype)) + " as x", name(history.dtype));
  }
}

}  // namespace marey
