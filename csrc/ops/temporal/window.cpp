#include "ops/temporal/window.h"

#include <algorithm>

namespace marey {
namespace {

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
