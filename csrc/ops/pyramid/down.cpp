#include "ops/pyramid/down.h"

#include "core/error.h"
#include "core/parallel.h"
#include "ops/pyramid/image.h"

namespace marey {

MAREY_STUB(select_down, SelectDown)

void down(std::string_view function, const View& image, std::optional<int> channel_axis,
          const View& out) {
  const ImageAxes axes = image_axes(function, "image", image.shape, channel_axis);
  check_writable_rows(function, "out", out, axes);
  if (out.shape.count() == 0) return;

  const DownKernel kernel = select_down_stub.get()(image.dtype, out.dtype);
  const int64_t rows = out.shape[axes.row];
  const Plane first = plane_at(image, axes, 0);
  parallel_for(plane_count(image.shape, axes) * rows, row_grain(2 * first.row_items()),
               static_cast<std::size_t>(kernel.scratch_bytes(first)),
               [&](int64_t begin, int64_t end, std::byte* scratch) {
                 for_each_piece(begin, end, rows, [&](int64_t p, int64_t from, int64_t to) {
                   const Plane target = plane_at(out, axes, p);
                   const DownArgs args{plane_at(image, axes, p), target.data, target.row_stride};
                   kernel.run(args, from, to, scratch);
                 });
               });
}

}  // namespace marey
