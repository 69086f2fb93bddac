#include "ops/pyramid/laplacian.h"

#include <utility>

#include "core/buffer.h"
#include "core/error.h"
#include "core/parallel.h"
#include "ops/pyramid/down.h"
#include "ops/pyramid/image.h"
#include "ops/pyramid/up.h"

namespace marey {

MAREY_STUB(select_laplacian, SelectLaplacian)

namespace {

// The images between the first and the last level: one buffer holds the odd levels, one the even
// ones, each as large as the largest that it takes.
class Workspace {
 public:
  Workspace(DType dtype, std::vector<Shape> shapes) : dtype_(dtype), shapes_(std::move(shapes)) {
    for (std::size_t level : {1U, 2U}) {
      if (level + 1 < shapes_.size()) {
        buffers_[level % 2] = Buffer(shapes_[level].count() * item_size(dtype));
      }
    }
  }
  View level(std::size_t level) const {
    return contiguous_view(buffers_[level % 2].data(), dtype_, shapes_[level]);
  }

 private:
  DType dtype_;
  std::vector<Shape> shapes_;
  Buffer buffers_[2];
};

void laplacian_level(std::string_view function, const View& image, const ImageAxes& axes,
                     const View& coarse, const View& band) {
  check_writable_rows(function, "out", coarse, axes);
  check_writable_rows(function, "out", band, axes);
  if (image.shape.count() == 0) return;

  const LaplacianKernel kernel = select_laplacian_stub.get()(image.dtype);
  const bool streaming = band.shape.count() * item_size(band.dtype) > kStreamBytes;
  const int64_t rows = coarse.shape[axes.row];
  const Plane first = plane_at(image, axes, 0);
  parallel_for(plane_count(image.shape, axes) * rows, row_grain(first.row_items() / 3),
               static_cast<std::size_t>(kernel.scratch_bytes(first)),
               [&](int64_t begin, int64_t end, std::byte* scratch) {
                 for_each_piece(begin, end, rows, [&](int64_t p, int64_t from, int64_t to) {
                   const LaplacianArgs args{plane_at(image, axes, p), plane_at(coarse, axes, p),
                                            plane_at(band, axes, p), streaming};
                   kernel.run(args, from, to, scratch);
                 });
               });
}

std::vector<Shape> shapes_of(const std::vector<View>& views) {
  std::vector<Shape> shapes;
  for (const View& view : views) shapes.push_back(view.shape);
  return shapes;
}

}  // namespace

void gaussian(std::string_view function, const View& image, std::optional<int> channel_axis,
              const std::vector<View>& out) {
  for (std::size_t level = 1; level < out.size(); ++level) {
    down(function, level == 1 ? image : out[level - 1], channel_axis, out[level]);
  }
}

void laplacian(std::string_view function, const View& image, std::optional<int> channel_axis,
               const std::vector<View>& out) {
  const ImageAxes axes = image_axes(function, "image", image.shape, channel_axis);
  const std::size_t levels = out.size() - 1;
  const Workspace between(out[0].dtype, shapes_of(out));
  View current = image;
  for (std::size_t level = 0; level < levels; ++level) {
    const View coarse = level + 1 == levels ? out[levels] : between.level(level + 1);
    laplacian_level(function, current, axes, coarse, out[level]);
    current = coarse;
  }
}

void collapse(std::string_view function, const std::vector<View>& bands,
              std::optional<int> channel_axis, const View& out) {
  const ImageAxes axes = image_axes(function, "bands", bands[0].shape, channel_axis);
  const std::size_t levels = bands.size() - 1;
  check_collapse(function, bands, axes);
  const Workspace between(out.dtype, shapes_of(bands));
  View current = bands[levels];
  for (std::size_t level = levels; level-- > 0;) {
    const View target = level == 0 ? out : between.level(level);
    up(function, current, channel_axis, target, {.other = &bands[level]});
    current = target;
  }
}

}  // namespace marey
