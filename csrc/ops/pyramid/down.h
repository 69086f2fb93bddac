#pragma once
// down: smooth with the separable 5-tap kernel (1 4 6 4 1) / 16 of Burt and Adelson (1983) and keep
// every second pixel. (..., H, W[, C]) becomes (..., ceil(H / 2), ceil(W / 2)[, C]); borders are
// reflected about the edge pixel. Equal to OpenCV's pyrDown: uint8 is rounded half up.
#include <optional>

#include "core/dispatch.h"
#include "core/view.h"
#include "ops/pyramid/plane.h"

namespace marey {

Shape down_shape(std::string_view function, const View& image, std::optional<int> channel_axis);

// `out` has down_shape and either the image's type or, for uint8, float32 (not rounded). It must
// not overlap the image. Each thread's scratch is about 12 rows.
void down(std::string_view function, const View& image, std::optional<int> channel_axis,
          const View& out);

struct DownArgs {
  Plane source;
  std::byte* out;
  int64_t out_row_stride;
};

struct DownKernel {
  // Rows [begin, end) of the result.
  void (*run)(const DownArgs&, int64_t begin, int64_t end, std::byte* scratch);
  int64_t (*scratch_bytes)(const Plane& source);
};

using SelectDown = DownKernel(DType source, DType out);
MAREY_DECLARE_KERNEL(select_down, SelectDown)

}  // namespace marey
