#pragma once
// The adjoints of down and up, with which gradients flow back through pyramids: if y = down(x),
// then down_adjoint takes dL/dy to dL/dx. Away from the borders that of down is a quarter of up,
// and that of up is four times down; at the borders they are what the reflections there make them,
// so that <down(x), y> = <x, down_adjoint(y)> holds to rounding for every size.
#include <optional>

#include "core/dispatch.h"
#include "core/view.h"
#include "ops/pyramid/plane.h"

namespace marey {

// out = add + weight * adjoint(grad). grad: float32 or float64, of down_shape (up_shape) of out's
// shape. add: null, or of out's shape and type. `out` overlaps neither; its rows are contiguous.
// Each thread's scratch is about 15 rows.
void down_adjoint(std::string_view function, const View& grad, std::optional<int> channel_axis,
                  const View* add, double weight, const View& out);
void up_adjoint(std::string_view function, const View& grad, std::optional<int> channel_axis,
                const View* add, double weight, const View& out);

struct AdjointArgs {
  Plane grad;
  Plane add;  // data is null if there is none
  Plane out;
  double weight;
};

struct AdjointKernel {
  // Rows [begin, end) of the result.
  void (*run)(const AdjointArgs&, int64_t begin, int64_t end, std::byte* scratch);
  int64_t (*scratch_bytes)(const Plane& grad, const Plane& out);
};

enum class AdjointOf { down, up };
using SelectAdjoint = AdjointKernel(AdjointOf operation, DType dtype);
MAREY_DECLARE_KERNEL(select_adjoint, SelectAdjoint)

}  // namespace marey
