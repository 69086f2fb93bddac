#include "ops/pyramid/adjoint.h"

#include <algorithm>
#include <string>

#include "core/error.h"
#include "core/parallel.h"
#include "ops/pyramid/down.h"
#include "ops/pyramid/image.h"
#include "ops/pyramid/up.h"

namespace marey {

MAREY_STUB(select_adjoint, SelectAdjoint)

namespace {

void check(std::string_view function, const View& grad, const Shape& expected, const View* add,
           const View& out, const ImageAxes& axes) {
  if (!(grad.shape == expected)) {
    throw ValueError(function, "grad", "shape " + to_string(expected), to_string(grad.shape));
  }
  if (grad.dtype != DType::f32 && grad.dtype != DType::f64) {
    throw TypeError(function, "grad", "float32 or float64", name(grad.dtype));
  }
  if (out.dtype != grad.dtype) throw TypeError(function, "out", name(grad.dtype), name(out.dtype));
  if (add != nullptr && (!(add->shape == out.shape) || add->dtype != out.dtype)) {
    throw ValueError(function, "add", std::string(name(out.dtype)) + " " + to_string(out.shape),
                     std::string(name(add->dtype)) + " " + to_string(add->shape));
  }
  check_writable_rows(function, "out", out, axes);
}

void run(AdjointOf operation, const View& grad, const View* add, double weight, const View& out,
         const ImageAxes& axes) {
  if (out.shape.count() == 0) return;
  const AdjointKernel kernel = select_adjoint_stub.get()(operation, out.dtype);
  const int64_t rows = out.shape[axes.row];
  const Plane first_grad = plane_at(grad, axes, 0);
  const Plane first_out = plane_at(out, axes, 0);
  const int64_t row_items = std::max(first_grad.row_items(), first_out.row_items());
  parallel_for(plane_count(out.shape, axes) * rows, row_grain(row_items),
               static_cast<std::size_t>(kernel.scratch_bytes(first_grad, first_out)),
               [&](int64_t begin, int64_t end, std::byte* scratch) {
                 for_each_piece(begin, end, rows, [&](int64_t p, int64_t from, int64_t to) {
                   AdjointArgs args{plane_at(grad, axes, p), {}, plane_at(out, axes, p), weight};
                   if (add != nullptr) args.add = plane_at(*add, axes, p);
                   kernel.run(args, from, to, scratch);
                 });
               });
}

}  // namespace

void down_adjoint(std::string_view function, const View& grad, std::optional<int> channel_axis,
                  const View* add, double weight, const View& out) {
  const ImageAxes axes = image_axes(function, "out", out.shape, channel_axis);
  check(function, grad, down_shape(function, out, channel_axis), add, out, axes);
  run(AdjointOf::down, grad, add, weight, out, axes);
}

void up_adjoint(std::string_view function, const View& grad, std::optional<int> channel_axis,
                const View* add, double weight, const View& out) {
  const ImageAxes axes = image_axes(function, "grad", grad.shape, channel_axis);
  if (out.ndim() != grad.ndim()) {
    throw ValueError(function, "out", std::to_string(grad.ndim()) + " axes", to_string(out.shape));
  }
  const Shape expected =
      up_shape(function, out, grad.shape[axes.row], grad.shape[axes.column], channel_axis);
  check(function, grad, expected, add, out, axes);
  run(AdjointOf::up, grad, add, weight, out, axes);
}

}  // namespace marey
