#pragma once
// The Gaussian and Laplacian pyramids of Burt and Adelson (1983), and the inverse.
//
// gaussian: G_0 = image, G_{l+1} = down(G_l). laplacian: band_l = G_l - up(G_{l+1}, size of G_l),
// and the residual G_levels. collapse adds up again what laplacian took away, so that every size,
// odd or even, rebuilds to rounding.
//
// A level of the Laplacian is one visit to memory: a thread computes the coarse rows it needs,
// writes them, doubles them while they are in its cache, and writes the band.
#include <optional>
#include <vector>

#include "core/dispatch.h"
#include "core/view.h"
#include "ops/pyramid/image.h"
#include "ops/pyramid/plane.h"

namespace marey {

// The shapes of levels 0 (the image's own) to `levels`.
std::vector<Shape> pyramid_shapes(std::string_view function, const View& image, int levels,
                                  std::optional<int> channel_axis);

// Throws ValueError unless each band is half of the one before.
void check_collapse(std::string_view function, const std::vector<View>& bands,
                    const ImageAxes& axes);

// `out`: levels + 1 arrays of pyramid_shapes; their rows are contiguous and overlap nothing.
// gaussian: of the image's type; out[0] is written by the caller (it is a copy of the image).
void gaussian(std::string_view function, const View& image, std::optional<int> channel_axis,
              const std::vector<View>& out);
// laplacian: float32 for uint8 images, else the image's type. Workspace: G_1 and G_2, of the bands'
// type, and about 40 rows for each thread.
void laplacian(std::string_view function, const View& image, std::optional<int> channel_axis,
               const std::vector<View>& out);
// `bands`: float32 or float64, levels >= 1 bands and the residual. Workspace: the two largest
// intermediate images, and about 20 rows for each thread.
void collapse(std::string_view function, const std::vector<View>& bands,
              std::optional<int> channel_axis, const View& out);

struct LaplacianArgs {
  Plane source;
  Plane coarse;
  Plane band;
  bool streaming;
};

struct LaplacianKernel {
  // Coarse rows [begin, end), and the rows of the band that lie over them.
  void (*run)(const LaplacianArgs&, int64_t begin, int64_t end, std::byte* scratch);
  int64_t (*scratch_bytes)(const Plane& source);
};

using SelectLaplacian = LaplacianKernel(DType source);
MAREY_DECLARE_KERNEL(select_laplacian, SelectLaplacian)

}  // namespace marey
