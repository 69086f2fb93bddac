#pragma once
// up: put zeros between the pixels and smooth with four times the kernel of `down`.
// (..., h, w[, C]) becomes (..., H, W[, C]) with |H - 2 h| = H mod 2, the same for W. Borders as in
// OpenCV's pyrUp: reflected about the edge sample of the doubled grid; uint8 is rounded half up.
#include <optional>

#include "core/dispatch.h"
#include "core/view.h"
#include "ops/pyramid/plane.h"

namespace marey {

// `height`, `width`: nullopt for exactly twice.
Shape up_shape(std::string_view function, const View& image, std::optional<int64_t> height,
               std::optional<int64_t> width, std::optional<int> channel_axis);

// What becomes of the doubled image u on its way to memory.
struct UpEpilogue {
  // out = other_weight * other + up_weight * u, in one pass, if other is not null. `other` has the
  // shape and type of out.
  const View* other = nullptr;
  double other_weight = 1.0;
  double up_weight = 1.0;
  // float32: limit the result to [0, 1]. A uint8 result is always rounded and limited.
  bool clip = false;
};

// Types: image and out alike; or image float32, other and out uint8. `out` must overlap none of the
// inputs. Each thread's scratch is about 18 rows.
void up(std::string_view function, const View& image, std::optional<int> channel_axis,
        const View& out, const UpEpilogue& epilogue = {});

struct UpArgs {
  Plane source;
  Plane other;  // data is null if there is none
  Plane out;
  float other_weight;
  float up_weight;
  bool streaming;
};

struct UpKernel {
  // Rows [begin, end) of the result.
  void (*run)(const UpArgs&, int64_t begin, int64_t end, std::byte* scratch);
  int64_t (*scratch_bytes)(const Plane& source, const Plane& out);
};

enum class UpMode { plain, add, add_clipped };
using SelectUp = UpKernel(DType source, DType out, UpMode mode);
MAREY_DECLARE_KERNEL(select_up, SelectUp)

}  // namespace marey
