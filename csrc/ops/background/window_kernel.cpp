// Vectors run across neighbouring items. A line's window is contiguous (3 KiB for 51 frames of
// bytes), so a replacement streams through the state once, with the row before in a register; the
// order of every lane is kept by minima and maxima, without a branch.
#include <limits>

#include "core/simd.h"
#include "ops/background/window.h"

namespace marey::MAREY_ISA_NS {
namespace {

template <class T>
constexpr T highest() {
  if constexpr (std::numeric_limits<T>::has_infinity) return std::numeric_limits<T>::infinity();
  return std::numeric_limits<T>::max();
}

template <class T>
constexpr T lowest() {
  if constexpr (std::numeric_limits<T>::has_infinity) return -std::numeric_limits<T>::infinity();
  return std::numeric_limits<T>::lowest();
}

template <class T>
void replace(void* sorted, int64_t length, const void* entering, const void* leaving) {
  using V = Vec<T>;
  constexpr int64_t kLanes = static_cast<int64_t>(V::size());
  constexpr int64_t kItems = kWindowLine / static_cast<int64_t>(sizeof(T));
  for (int64_t k = 0; k < kItems; k += kLanes) {
    const V v = load<V>(static_cast<const T*>(entering) + k);
    const V o = load<V>(static_cast<const T*>(leaving) + k);
    const auto up = v >= o;
    T* s = static_cast<T*>(sorted) + k;
    V before = lowest<T>();
    V here = load<V>(s);
    for (int64_t i = 0; i < length; ++i, s += kItems) {
      const V after = i + 1 < length ? load<V>(s + kItems) : V(highest<T>());
      V risen = stdx::max(here, stdx::min(after, v));
      stdx::where(here < o, risen) = here;
      V result = stdx::min(here, stdx::max(before, v));
      stdx::where(here > o, result) = here;
      stdx::where(up, result) = risen;
      store(s, result);
      before = here;
      here = after;
    }
  }
}

template <class T>
void median(const void* sorted, int64_t count, void* out) {
  using V = Vec<T>;
  constexpr int64_t kLanes = static_cast<int64_t>(V::size());
  constexpr int64_t kItems = kWindowLine / static_cast<int64_t>(sizeof(T));
  for (int64_t k = 0; k < kItems; k += kLanes) {
    const auto row = [&](int64_t i) {
      return load<V>(static_cast<const T*>(sorted) + i * kItems + k);
    };
    const V above = row(count / 2);
    V middle = above;
    if (count % 2 == 0) {
      const V below = row(count / 2 - 1);
      if constexpr (sizeof(T) == 1) {
        // (a + b + 1) / 2 without a ninth bit. Bytes are shifted as halves of 16-bit numbers: GCC
        // 12 does not compile a shift of bytes with every option.
        const auto pairs = std::bit_cast<Vec<uint16_t>>((above ^ below) & V(T{0xFE}));
        middle = (above | below) - std::bit_cast<V>(Vec<uint16_t>(pairs >> 1));
      } else {
        middle = T(0.5) * above + T(0.5) * below;
      }
    }
    store(static_cast<T*>(out) + k, middle);
  }
}

}  // namespace

WindowKernel select_window(DType dtype) {
  if (dtype == DType::u8) return {replace<uint8_t>, median<uint8_t>};
  return {replace<float>, median<float>};
}

}  // namespace marey::MAREY_ISA_NS
