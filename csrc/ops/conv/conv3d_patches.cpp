#include "ops/conv/conv3d_patches.h"

#include <algorithm>
#include <cstring>

#include "core/parallel.h"
#include "ops/linear/linear.h"

namespace marey {
namespace {

constexpr int64_t kPatchBytes = int64_t{16} << 20;

bool positions_are_rows(const View& grad) {
  return (grad.shape[3] == 1 || grad.stride(3) == grad.shape[4] * grad.stride(4)) &&
         (grad.shape[2] == 1 || grad.stride(2) == grad.shape[3] * grad.shape[4] * grad.stride(4));
}

int64_t patch_items(const Shape& weight) { return weight[1] * weight[2] * weight[3] * weight[4]; }

// Rows of positions, of one frame or several, whose patches are copied at once.
int64_t rows_at_once(const View& grad, const Shape& weight) {
  const int64_t row = grad.shape[4] * patch_items(weight) * item_size(grad.dtype);
  return std::clamp<int64_t>(kPatchBytes / std::max<int64_t>(row, 1), 1,
                             std::max<int64_t>(grad.shape[2] * grad.shape[3], 1));
}

// Positions of clip n from a row on: (positions, K).
Matrix positions_of(const View& grad, int64_t n, int64_t row) {
  const int64_t item = item_size(grad.dtype);
  return {grad.as<std::byte>() + n * grad.stride(0) + row * grad.shape[4] * grad.stride(4),
          grad.stride(4) / item, grad.stride(1) / item};
}

enum class Direction { to_patches, to_x };

// Rows [first, first + rows) of positions of clip n, a frame having `height` of `width` positions:
// what lies in x to the rows of `patches`, or back.
void copy_patches(Direction direction, const View& x, const Shape& weight, int64_t n, int64_t first,
                  int64_t rows, int64_t height, int64_t width, std::byte* patches) {
  const int64_t item = item_size(x.dtype);
  const int64_t run = weight[4];
  const int64_t patch = patch_items(weight) * item;
  const int64_t step = x.stride(4);
  const auto copy = [&](std::byte* in_x, std::byte* in_patch) {
    if (step == item) {
      const auto bytes = static_cast<std::size_t>(run * item);
      direction == Direction::to_patches ? std::memcpy(in_patch, in_x, bytes)
                                         : std::memcpy(in_x, in_patch, bytes);
      return;
    }
    for (int64_t i = 0; i < run; ++i, in_x += step, in_patch += item) {
      const auto bytes = static_cast<std::size_t>(item);
      direction == Direction::to_patches ? std::memcpy(in_patch, in_x, bytes)
                                         : std::memcpy(in_x, in_patch, bytes);
    }
  };
  parallel_for(rows, 1, 0, [&](int64_t begin, int64_t end, std::byte*) {
    for (int64_t row = begin; row < end; ++row) {
      std::byte* to = patches + row * width * patch;
      const std::byte* frame = x.as<std::byte>() + n * x.stride(0) +
                               (first + row) / height * weight[2] * x.stride(2) +
                               (first + row) % height * weight[3] * x.stride(3);
      for (int64_t c = 0; c < weight[1]; ++c) {
        for (int64_t i = 0; i < weight[2]; ++i) {
          for (int64_t j = 0; j < weight[3]; ++j, to += run * item) {
            auto* from =
                const_cast<std::byte*>(frame) + c * x.stride(1) + i * x.stride(2) + j * x.stride(3);
            for (int64_t w = 0; w < width; ++w) copy(from + w * run * step, to + w * patch);
          }
        }
      }
    }
  });
}

}  // namespace

bool weight_is_of_patches(const View& grad, const Shape& weight, const Conv3dOptions& options) {
  if (options.groups != 1 || weight[2] * weight[3] * weight[4] == 1) return false;
  if (grad.shape.count() == 0 || weight.count() == 0) return false;
  for (std::size_t axis = 0; axis < 3; ++axis) {
    const int64_t kernel = weight[static_cast<int>(axis) + 2];
    if (kernel != options.stride[axis] || options.before[axis] != 0 || options.after[axis] != 0 ||
        (kernel > 1 && options.dilation[axis] != 1)) {
      return false;
    }
  }
  // A sum of bfloat16 is rounded once, and each call of a product rounds.
  const bool one =
      grad.shape[0] == 1 && rows_at_once(grad, weight) >= grad.shape[2] * grad.shape[3];
  return positions_are_rows(grad) && (grad.dtype != DType::bf16 || one);
}

bool input_is_of_patches(const View& grad, const View& weight, const Conv3dOptions& options,
                         const View& grad_x) {
  for (int axis = 2; axis < 5; ++axis) {
    if (grad_x.shape[axis] != grad.shape[axis] * weight.shape[axis]) return false;
  }
  View one = grad;  // no sum over positions
  one.shape[0] = one.shape[2] = one.shape[3] = grad.shape.count() > 0 ? 1 : 0;
  return is_contiguous(weight, 0, 5) && positions_are_rows(grad) &&
         weight_is_of_patches(one, weight.shape, options);
}

void patches_backward_weight(const View& grad, const View& x, const Shape& weight,
                             const View& grad_weight) {
  const int64_t columns = patch_items(weight);
  const int64_t height = grad.shape[3];
  const int64_t width = grad.shape[4];
  const int64_t most = rows_at_once(grad, weight);
  const Buffer patches(most * width * columns * item_size(x.dtype));
  const Matrix sums{grad_weight.data, columns, 1};
  Matrix before;  // nothing at first
  for (int64_t n = 0; n < grad.shape[0]; ++n) {
    for (int64_t first = 0; first < grad.shape[2] * height; first += most, before = sums) {
      const int64_t rows = std::min(most, grad.shape[2] * height - first);
      copy_patches(Direction::to_patches, x, weight, n, first, rows, height, width, patches.data());
      const PackedMatrix b({patches.data(), columns, 1}, x.dtype, rows * width, columns, weight[0]);
      const Matrix positions = positions_of(grad, n, first);
      multiply({positions.data, positions.item, positions.row}, weight[0], b, nullptr,
               Activation::none, before, sums);
    }
  }
}

void patches_backward_input(const View& grad, const View& weight, const View& grad_x) {
  const int64_t columns = patch_items(weight.shape);
  const int64_t height = grad.shape[3];
  const int64_t width = grad.shape[4];
  const int64_t most = rows_at_once(grad, weight.shape);
  const Buffer patches(most * width * columns * item_size(grad_x.dtype));
  const PackedMatrix b({weight.data, columns, 1}, weight.dtype, weight.shape[0], columns,
                       most * width);
  for (int64_t n = 0; n < grad.shape[0]; ++n) {
    for (int64_t first = 0; first < grad.shape[2] * height; first += most) {
      const int64_t rows = std::min(most, grad.shape[2] * height - first);
      multiply(positions_of(grad, n, first), rows * width, b, nullptr, Activation::none, {},
               {patches.data(), columns, 1});
      copy_patches(Direction::to_x, grad_x, weight.shape, n, first, rows, height, width,
                   patches.data());
    }
  }
}

}  // namespace marey
