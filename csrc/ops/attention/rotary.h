#pragma once
// Rotary position embedding (Su et al. 2021, "RoFormer"): each pair of a row is turned by an angle,
//
//   y_a = x_a cos - x_b sin,   y_b = x_b cos + x_a sin
//
// The row is divided in sections of even size, one for each axis of the position. The pairs of a
// section of n items are (i, i + n / 2), or with `interleaved` (2 i, 2 i + 1).
#include <vector>

#include "core/dispatch.h"
#include "core/view.h"

namespace marey {

// x, y (..., L, D) of float32, float64 or bfloat16, any strides; y may be x. cos, sin (L, D / 2),
// C-ordered, of the type of the computation: section after section.
void rotary(const View& x, const View& cosine, const View& sine,
            const std::vector<int64_t>& sections, bool interleaved, const View& y);

// One row; strides in items.
struct RotaryRow {
  const void* x;
  const void* cosine;
  const void* sine;
  void* y;
  int64_t x_item, y_item;
  const int64_t* sections;
  int64_t count;  // of sections
  bool interleaved;
};
using RotaryFn = void(const RotaryRow&);
using SelectRotary = RotaryFn*(DType);
MAREY_DECLARE_KERNEL(select_rotary, SelectRotary)

}  // namespace marey
