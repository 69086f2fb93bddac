#pragma once
// The pyramid family on a CUDA device: the contracts of down.h, up.h and laplacian.h. Views hold
// device pointers, results may have any strides, and work is put on `queue` and not waited for.
#include <optional>
#include <string_view>
#include <vector>

#include "core/view.h"
#include "cuda/kernel.h"
#include "ops/pyramid/up.h"

namespace marey::cuda {

void down(const Queue& queue, std::string_view function, const View& image,
          std::optional<int> channel_axis, const View& out);

// Types: those of up.h, and image and out float32 with `other` uint8 (a band of a uint8 image).
void up(const Queue& queue, std::string_view function, const View& image,
        std::optional<int> channel_axis, const View& out, const UpEpilogue& epilogue = {});

// out: levels + 1 arrays of pyramid_shapes; coarse: levels - 1 arrays for G_1 .. G_{levels-1}, of
// the bands' type.
void laplacian(const Queue& queue, std::string_view function, const View& image,
               std::optional<int> channel_axis, const std::vector<View>& out,
               const std::vector<View>& coarse);

// between: levels - 1 arrays for what the levels above the first become.
void collapse(const Queue& queue, std::string_view function, const std::vector<View>& bands,
              std::optional<int> channel_axis, const std::vector<View>& between, const View& out);

}  // namespace marey::cuda
