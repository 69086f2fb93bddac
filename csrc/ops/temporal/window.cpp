#include "ops/temporal/window.h"

#include <algorithm>
#include <cmath>
#include <string>

#include "core/error.h"

namespace marey {
namespace {

int64_t modulo(int64_t i, int64_t n) { return (i % n + n) % n; }

template <class T>
void fill(std::byte* row, double value, int64_t count) {
  std::fill_n(reinterpret_cast<T*>(row), count, static_cast<T>(value));
}

constexpr int64_t kRowAlignment = 64;

int64_t table_bytes(int64_t rows) {
  const int64_t bytes = rows * static_cast<int64_t>(sizeof(std::byte*));
  return (bytes + kRowAlignment - 1) / kRowAlignment * kRowAlignment;
}

}  // namespace

int64_t source_step(int64_t i, int64_t n, Boundary boundary) {
  if (i >= 0 && i < n) return i;
  switch (boundary) {
    case Boundary::reflect: {
      const int64_t m = modulo(i, 2 * n);
      return m < n ? m : 2 * n - 1 - m;
    }
    case Boundary::nearest:
      return std::clamp<int64_t>(i, 0, n - 1);
    case Boundary::mirror: {
      if (n == 1) return 0;
      const int64_t m = modulo(i, 2 * n - 2);
      return m < n ? m : 2 * n - 2 - m;
    }
    case Boundary::wrap:
      return modulo(i, n);
    case Boundary::constant:
      break;
  }
  return -1;
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

WindowRows::WindowRows(const Window& window, const TileJob& job)
    : window_(window),
      dtype_(job.inputs[0]->dtype),
      steps_(job.inputs[0]->shape[job.axis]),
      widest_(widest_tile(job)) {}

int64_t WindowRows::scratch_bytes() const {
  return table_bytes(steps_ + window_.size - 1) + widest_ * item_size(dtype_);
}

const std::byte* const* WindowRows::of(const SeriesTile& tile) const {
  const int64_t count = steps_ + window_.size - 1;
  const auto** rows = reinterpret_cast<const std::byte**>(tile.scratch);
  if (steps_ == 0) return rows;
  std::byte* constant = tile.scratch + table_bytes(count);
  if (window_.boundary == Boundary::constant) {
    if (dtype_ == DType::u8) fill<uint8_t>(constant, window_.cval, tile.width);
    if (dtype_ == DType::f32) fill<float>(constant, window_.cval, tile.width);
    if (dtype_ == DType::f64) fill<double>(constant, window_.cval, tile.width);
  }
  for (int64_t r = 0; r < count; ++r) {
    const int64_t i = r - window_.before;
    if (i < 0 && window_.history != nullptr) {
      rows[r] = tile.in[1].row(r);
      continue;
    }
    const int64_t step = source_step(i, steps_, window_.boundary);
    rows[r] = step < 0 ? constant : tile.in[0].row(step);
  }
  return rows;
}

}  // namespace marey
