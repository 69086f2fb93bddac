#include "ops/pyramid/up.h"

#include "core/error.h"
#include "core/parallel.h"
#include "ops/pyramid/image.h"

namespace marey {
MAREY_STUB(select_up, SelectUp)

void up(std::string_view function, const View& image, std::optional<int> channel_axis,
        const View& out, const UpEpilogue& epilogue) {
  const ImageAxes axes = image_axes(function, "image", image.shape, channel_axis);
  check_writable_rows(function, "out", out, axes);
  if (out.shape.count() == 0) return;

  const UpMode mode = epilogue.other == nullptr ? UpMode::plain
                      : epilogue.clip           ? UpMode::add_clipped
                                                : UpMode::add;
  const UpKernel kernel = select_up_stub.get()(image.dtype, out.dtype, mode);
  const bool streaming = out.shape.count() * item_size(out.dtype) > kStreamBytes;
  const int64_t rows = out.shape[axes.row];
  const Plane first_source = plane_at(image, axes, 0);
  const Plane first_out = plane_at(out, axes, 0);
  parallel_for(plane_count(out.shape, axes) * rows, row_grain(first_out.row_items()),
               static_cast<std::size_t>(kernel.scratch_bytes(first_source, first_out)),
               [&](int64_t begin, int64_t end, std::byte* scratch) {
                 for_each_piece(begin, end, rows, [&](int64_t p, int64_t from, int64_t to) {
                   UpArgs args{plane_at(image, axes, p),
                               {},
                               plane_at(out, axes, p),
                               static_cast<float>(epilogue.other_weight),
                               static_cast<float>(epilogue.up_weight),
                               streaming};
                   if (epilogue.other != nullptr) args.other = plane_at(*epilogue.other, axes, p);
                   kernel.run(args, from, to, scratch);
                 });
               });
}

}  // namespace marey
