#pragma once
// Rows of scratch and the ends of rows, for the kernels of pooling.
#include <cstring>

#include "core/tile.h"

namespace marey::MAREY_ISA_NS {
namespace {

constexpr int64_t kAlignment = 64;

// Rows of scratch end with room for two vectors.
template <class T>
int64_t row_bytes(int64_t items) {
  return (items * static_cast<int64_t>(sizeof(T)) + 3 * kAlignment - 1) / kAlignment * kAlignment;
}

template <class V, class S>
V load_some(const S* p, int64_t count) {
  alignas(kAlignment) S lanes[V::size()] = {};
  std::memcpy(lanes, p, static_cast<std::size_t>(count) * sizeof(S));
  return load_as<V>(lanes);
}

template <class D, class V>
void store_some(D* p, const V& v, int64_t count) {
  alignas(kAlignment) D lanes[V::size()];
  store_as(lanes, v);
  std::memcpy(p, lanes, static_cast<std::size_t>(count) * sizeof(D));
}

}  // namespace
}  // namespace marey::MAREY_ISA_NS
