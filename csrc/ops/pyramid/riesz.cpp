#include "ops/pyramid/riesz.h"

#include "core/error.h"
#include "core/parallel.h"
#include "ops/pyramid/image.h"

namespace marey {

MAREY_STUB_NO_BF16(select_riesz_row, SelectRieszRow)

void riesz_transform(std::string_view function, const View& band, const View& x, const View& y) {
  const ImageAxes axes = image_axes(function, "band", band.shape, std::nullopt);
  check_writable_rows(function, "band", band, axes);
  check_writable_rows(function, "out", x, axes);
  check_writable_rows(function, "out", y, axes);
  if (band.shape.count() == 0) return;
  RieszRowFn* const run = select_riesz_row_stub.get()(band.dtype);
  const int64_t height = band.shape[axes.row];
  const int64_t width = band.shape[axes.column];
  parallel_for(plane_count(band.shape, axes) * height, row_grain(width), 0,
               [&](int64_t begin, int64_t end, std::byte*) {
                 for_each_piece(begin, end, height, [&](int64_t p, int64_t from, int64_t to) {
                   const Plane source = plane_at(band, axes, p);
                   const Plane xs = plane_at(x, axes, p);
                   const Plane ys = plane_at(y, axes, p);
                   const auto row = [&](int64_t i) {
                     return source.data + reflect101(i, height) * source.row_stride;
                   };
                   for (int64_t i = from; i < to; ++i) {
                     run({row(i - 1), row(i), row(i + 1), xs.data + i * xs.row_stride,
                          ys.data + i * ys.row_stride, width});
                   }
                 });
               });
}

}  // namespace marey
