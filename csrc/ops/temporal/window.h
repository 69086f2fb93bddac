#pragma once
// Windows that slide along time, and what they hold beyond the ends: shared by convolve and
// median_filter, whose kernels get a list of row pointers and need not know of edges.
#include <cstddef>
#include <cstdint>
#include <string_view>

#include "core/view.h"
#include "ops/temporal/series.h"

namespace marey {

// `axis` counted from the front; a ValueError unless x has it.
int checked_axis(std::string_view function, const View& x, int axis);

// How a signal a b c d goes on beyond its ends, as in scipy.ndimage: reflect b a | a b, nearest a a
// | a b, mirror c b | a b, wrap c d | a b, constant k k | a b.
enum class Boundary : int { reflect, nearest, mirror, wrap, constant };
// By the names that scipy.ndimage has for them.
Boundary boundary_of(std::string_view function, std::string_view mode);

// The result of step t is made of the `size` steps from t - before on. With a history, the steps
// before the first one are its last ones, and `boundary` is for those beyond the end only.
struct Window {
  int64_t size = 1;
  int64_t before = 0;
  Boundary boundary = Boundary::reflect;
  double cval = 0;
  const View* history =
      nullptr;  // x's type and shape but for the length of the axis: `before` steps
};

constexpr int64_t modulo(int64_t i, int64_t n) { return (i % n + n) % n; }

// The step that stands for step i of n > 0; -1 for the constant.
constexpr int64_t source_step(int64_t i, int64_t n, Boundary boundary) {
  if (i >= 0 && i < n) return i;
  switch (boundary) {
    case Boundary::reflect: {
      const int64_t m = modulo(i, 2 * n);
      return m < n ? m : 2 * n - 1 - m;
    }
    case Boundary::nearest:
      return i < 0 ? 0 : n - 1;
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

// Throws ValueError for a window that does not hold its own step, for a history of another shape,
// and for a cval that uint8 does not hold if x is of it.
void check_window(std::string_view function, const Window& window, const View& x, int axis);

// A thread's memory for the rows of a tile.
class WindowRows {
 public:
  WindowRows(const Window& window, const TileJob& job);

  int64_t scratch_bytes() const;
  // The rows of steps -before .. steps + size - 2 - before, at the start of tile.scratch.
  const std::byte* const* of(const SeriesTile& tile) const;

 private:
  const Window& window_;
  DType dtype_;
  int64_t steps_;
  int64_t widest_;
};

}  // namespace marey
