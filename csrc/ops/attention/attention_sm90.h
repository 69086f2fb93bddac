#pragma once
// What the kernels of attention on Hopper have in common: arrays as the copy engine reads them.
#include "core/view.h"
#include "cuda/sm90.h"
#include "ops/attention/attention_cuda.h"

namespace marey::cuda {

// Rows are counted in 32 bits, and a tile may reach beyond the last one.
inline constexpr int64_t kMostRows = 0x7FFFFF00;

MAREY_HOST_DEVICE bool is_infinite(bfloat16 x) { return (x.bits & 0x7F80U) == 0x7F80U; }  // or NaN

// What the copy engine can read: 16-byte strides that are not zero.
inline bool copyable(const View& x) {
  const int axis = x.ndim() - 3;
  if (x.stride(axis + 2) != 2 || reinterpret_cast<uintptr_t>(x.data) % 16 != 0) return false;
  for (int a = 0; a < axis + 2; ++a) {
    if (x.shape[a] == 1) continue;
    const int64_t stride = x.stride(a);
    if (stride <= 0 || stride % 16 != 0 || stride >= (int64_t{1} << 40)) return false;
    if (x.shape[a] > kMostRows) return false;
  }
  return true;
}

// Where two results can be written at once: neighbours, at four bytes.
inline bool writable_in_pairs(const View& x) {
  const int axis = x.ndim() - 3;
  if (x.stride(axis + 2) != 2 || reinterpret_cast<uintptr_t>(x.data) % 4 != 0) return false;
  for (int a = 0; a < axis + 2; ++a) {
    if (x.shape[a] > 1 && x.stride(a) % 4 != 0) return false;
  }
  return true;
}

// The array in tiles of 64 items and `rows` rows.
template <int N>
TensorMap tensor_map(const AttentionArrays<N>& a, int which, const View& x, int rows) {
  const int axis = x.ndim() - 3;
  TensorShape shape{};
  shape.data = x.data;
  const bool two = a.batch.axes == 2;
  const int inner = two ? 1 : 0;
  shape.extent[0] = static_cast<uint64_t>(x.shape[axis + 2]);
  shape.extent[1] = static_cast<uint64_t>(x.shape[axis + 1]);
  shape.extent[2] = static_cast<uint64_t>(x.shape[axis]);
  shape.extent[3] = static_cast<uint64_t>(a.batch.extent[inner].value());
  shape.extent[4] = static_cast<uint64_t>(two ? a.batch.extent[0].value() : 1);
  const int64_t strides[4] = {a.row[which], a.head[which], a.batch.stride[which][inner],
                              two ? a.batch.stride[which][0] : 0};
  for (int i = 0; i < 4; ++i) {
    // The stride of an axis that is not stepped along must be one all the same.
    shape.stride[i] =
        shape.extent[i + 1] == 1 ? 2 * shape.extent[0] : static_cast<uint64_t>(strides[i]);
  }
  shape.box[0] = 64;
  shape.box[1] = static_cast<uint32_t>(rows);
  shape.box[2] = shape.box[3] = shape.box[4] = 1;
  return make_tensor_map(shape);
}

// The last two coordinates of a batch entry in such an array.
struct BatchCoordinates {
  int inner, outer;
};
template <int N>
MAREY_DEVICE BatchCoordinates batch_coordinates(const AttentionArrays<N>& a, int64_t batch) {
  if (a.batch.axes < 2) return {static_cast<int>(batch), 0};
  const int64_t outer = a.batch.extent[1].quotient(batch);
  return {static_cast<int>(batch - outer * a.batch.extent[1].value()), static_cast<int>(outer)};
}

}  // namespace marey::cuda
