#include "ops/linear/layer_norm.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <tuple>

#include "core/bfloat16.h"
#include "core/buffer.h"
#include "core/error.h"
#include "core/parallel.h"

namespace marey {

MAREY_STUB_NO_BF16(select_layer_norm, SelectLayerNorm)

namespace {

constexpr int64_t kGrain = 1 << 15;  // items in a range
// Rows whose gradients of weight and bias are summed one after the other: as many, or so many
// blocks, by the shape alone.
constexpr int64_t kSummedRows = 256;
constexpr int64_t kMostBlocks = 64;

DType compute_type(DType dtype) { return dtype == DType::bf16 ? DType::f32 : dtype; }
int64_t padded(int64_t count) { return (count + 15) / 16 * 16; }

void check(std::string_view function, const View& x, const View* grad, const View* weight,
           const View* bias, double eps) {
  if (x.ndim() < 1) throw ValueError(function, "x", "shape (..., C)", to_string(x.shape));
  if (x.dtype == DType::u8) {
    throw TypeError(function, "x", "float32, float64 or bfloat16", name(x.dtype));
  }
  const int64_t count = x.shape[x.ndim() - 1];
  for (const auto& [argument, view] : {std::pair{"weight", weight}, {"bias", bias}}) {
    if (view == nullptr) continue;
    if (view->ndim() != 1 || view->shape[0] != count) {
      throw ValueError(
          function, argument,
          "shape (" + std::to_string(count) + ",) for x of shape " + to_string(x.shape),
          to_string(view->shape));
    }
    if (view->dtype != x.dtype)
      throw TypeError(function, argument, name(x.dtype), name(view->dtype));
    if (!is_contiguous(*view, 0, 1))
      throw ValueError(function, argument, "adjacent items", "others");
  }
  if (grad != nullptr) {
    if (!(grad->shape == x.shape)) {
      throw ValueError(function, "grad", "the shape of x " + to_string(x.shape),
                       to_string(grad->shape));
    }
    if (grad->dtype != x.dtype) throw TypeError(function, "grad", name(x.dtype), name(grad->dtype));
  }
  if (!std::isfinite(eps) || eps < 0) {
    throw ValueError(function, "eps", "a number of 0 or more", std::to_string(eps));
  }
}

void* row_of(const View& view, int64_t row) {
  return view.as<std::byte>() + offset_at(view, 0, view.ndim() - 1, row);
}

int64_t item_stride(const View& view) {
  return view.stride(view.ndim() - 1) / item_size(view.dtype);
}

void* at(void* data, int64_t index, int64_t size) {
  return data == nullptr ? nullptr : static_cast<std::byte*>(data) + index * size;
}

// The sum of `blocks` rows of `count` items, each padded, as items of the type of `to`.
template <class T>
void add_blocks(const T* from, int64_t blocks, int64_t stride, int64_t count, const View& to) {
  for (int64_t c = 0; c < count; ++c) {
    T sum = T(0);
    for (int64_t block = 0; block < blocks; ++block) sum += from[block * stride + c];
    if constexpr (std::is_same_v<T, float>) {
      if (to.dtype == DType::bf16) {
        to.as<bfloat16>()[c] = narrow(sum);
        continue;
      }
    }
    to.as<T>()[c] = sum;
  }
}

}  // namespace

void layer_norm(const View& x, const View* weight, const View* bias, double eps, const View& y,
                void* mean, void* rstd) {
  check("marey.layer_norm", x, nullptr, weight, bias, eps);
  const int64_t count = x.shape[x.ndim() - 1];
  if (x.shape.count() == 0) return;
  const int64_t rows = x.shape.count() / count;
  const int64_t size = item_size(compute_type(x.dtype));
  const LayerNormKernel kernel = select_layer_norm_stub.get()(x.dtype);
  parallel_for(rows, std::max<int64_t>(kGrain / count, 1),
               static_cast<std::size_t>(2 * padded(count) * size),
               [&](int64_t begin, int64_t end, std::byte* memory) {
                 LayerNormRow row{};
                 row.weight = weight == nullptr ? nullptr : weight->data;
                 row.bias = bias == nullptr ? nullptr : bias->data;
                 row.x_item = item_stride(x);
                 row.out_item = item_stride(y);
                 row.count = count;
                 row.eps = eps;
                 row.scratch = memory;
                 for (int64_t i = begin; i < end; ++i) {
                   row.x = row_of(x, i);
                   row.out = row_of(y, i);
                   row.mean = at(mean, i, size);
                   row.rstd = at(rstd, i, size);
                   kernel.forward(row);
                 }
               });
}

void layer_norm_backward(const View& grad, const View& x, const View* weight, double eps,
                         const View* grad_x, const View* grad_weight, const View* grad_bias) {
  check("marey.layer_norm_backward", x, &grad, weight, nullptr, eps);
  const int64_t count = x.shape[x.ndim() - 1];
  if (count == 0) return;
  const int64_t rows = x.shape.count() / count;
  const int64_t size = item_size(compute_type(x.dtype));
  const int64_t block = std::max(kSummedRows, (rows + kMostBlocks - 1) / kMostBlocks);
  const int64_t blocks = std::max<int64_t>((rows + block - 1) / block, 1);
  const int64_t stride = padded(count);
  const bool sums = grad_weight != nullptr || grad_bias != nullptr;
  const Buffer partial(sums ? 2 * blocks * stride * size : 0);
  if (sums) std::memset(partial.data(), 0, static_cast<std::size_t>(partial.bytes()));
  const LayerNormKernel kernel = select_layer_norm_stub.get()(x.dtype);
  parallel_for(blocks, 1, static_cast<std::size_t>(2 * padded(count) * size),
               [&](int64_t begin, int64_t end, std::byte* memory) {
                 LayerNormRow row{};
                 row.weight = weight == nullptr ? nullptr : weight->data;
                 row.x_item = item_stride(x);
                 row.grad_item = item_stride(grad);
                 row.out_item = grad_x == nullptr ? 1 : item_stride(*grad_x);
                 row.count = count;
                 row.eps = eps;
                 row.scratch = memory;
                 for (int64_t b = begin; b < end; ++b) {
                   if (sums) {
                     row.grad_weight = partial.data() + 2 * b * stride * size;
                     row.grad_bias = partial.data() + (2 * b + 1) * stride * size;
                   }
                   for (int64_t i = b * block; i < std::min((b + 1) * block, rows); ++i) {
                     row.x = row_of(x, i);
                     row.grad = row_of(grad, i);
                     row.out = grad_x == nullptr ? nullptr : row_of(*grad_x, i);
                     kernel.backward(row);
                   }
                 }
               });
  if (!sums) return;
  for (int i = 0; i < 2; ++i) {
    const View* to = i == 0 ? grad_weight : grad_bias;
    if (to == nullptr) continue;
    const std::byte* from = partial.data() + i * stride * size;
    if (size == item_size(DType::f64)) {
      add_blocks(reinterpret_cast<const double*>(from), blocks, 2 * stride, count, *to);
    } else {
      add_blocks(reinterpret_cast<const float*>(from), blocks, 2 * stride, count, *to);
    }
  }
}

}  // namespace marey
