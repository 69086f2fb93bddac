// A row is added to sums of its own columns, so the three interleaved channels need no separation
// until a patch's columns are added up, once in 256 rows. The sums (11 KiB for a row of 1920
// pixels) stay in the first-level cache; the frame is read once.
#include "core/simd.h"
#include "ops/pulse/patches.h"

namespace marey::MAREY_ISA_NS {
namespace {

template <class S, class T, bool kSelect>
void add_row(T* sums, const S* row, const uint8_t* select, int64_t items) {
  using V = Vec<T>;
  constexpr int64_t kLanes = static_cast<int64_t>(V::size());
  const auto part = [&](const S* p, const uint8_t* chosen, auto&& get) {
    V v = get(p);
    if constexpr (kSelect) {
      const V flag = get(chosen);
      if constexpr (sizeof(S) == 1) {
        v &= flag;
      } else {
        stdx::where(flag == T(0), v) = T(0);  // not a product: NaN outside the mask stays outside
      }
    }
    return v;
  };
  int64_t k = 0;
  for (; k + kLanes <= items; k += kLanes) {
    const V v = part(row + k, select + k, [](const auto* p) { return load<V>(p); });
    store(sums + k, load<V>(sums + k) + v);
  }
  if (const int64_t rest = items - k; rest > 0) {
    const V v = part(row + k, select + k, [&](const auto* p) { return load_partial<V>(p, rest); });
    store_partial(sums + k, load_partial<V>(sums + k, rest) + v, rest);
  }
}

template <class S, class T>
void add(void* sums, const void* row, const uint8_t* select, int64_t items) {
  auto* to = static_cast<T*>(sums);
  const auto* from = static_cast<const S*>(row);
  if (select == nullptr) {
    // Not dereferenced; any pointer that arithmetic is defined for.
    add_row<S, T, false>(to, from, reinterpret_cast<const uint8_t*>(row), items);
  } else {
    add_row<S, T, true>(to, from, select, items);
  }
}

}  // namespace

AddRows* select_add_rows(DType dtype) {
  return dtype == DType::u8 ? add<uint8_t, uint16_t> : add<float, double>;
}

}  // namespace marey::MAREY_ISA_NS
