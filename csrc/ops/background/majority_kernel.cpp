// The window's sum is separable: column sums slide down the image by adding one row and taking one
// away, and a row of them is summed along x from unaligned loads. A window of 15 x 15 has 225
// pixels, so all sums are bytes, and a vector holds as many pixels as it has bytes.
#include "core/simd.h"
#include "ops/background/majority.h"

namespace marey::MAREY_ISA_NS {
namespace {

using V = Vec<uint8_t>;
constexpr int64_t kLanes = static_cast<int64_t>(V::size());

}  // namespace

void majority_row(const uint8_t* sums, const uint8_t* limits, int64_t radius, int64_t width,
                  uint8_t* out) {
  const auto decide = [](const V& sum, const V& limit) {
    V result = uint8_t{0};
    stdx::where(sum > limit, result) = uint8_t{1};
    return result;
  };
  int64_t x = 0;
  for (; x + kLanes <= width; x += kLanes) {
    V sum = load<V>(sums + x);
    for (int64_t k = 1; k <= 2 * radius; ++k) sum += load<V>(sums + x + k);
    store(out + x, decide(sum, load<V>(limits + x)));
  }
  if (const int64_t rest = width - x; rest > 0) {
    V sum = load_partial<V>(sums + x, rest);
    for (int64_t k = 1; k <= 2 * radius; ++k) sum += load_partial<V>(sums + x + k, rest);
    store_partial(out + x, decide(sum, load_partial<V>(limits + x, rest)), rest);
  }
}

void slide_rows(uint8_t* sums, const uint8_t* added, const uint8_t* removed, int64_t width) {
  const auto vectors = [&](const uint8_t* row, auto&& combine) {
    if (row == nullptr) return;
    int64_t x = 0;
    for (; x + kLanes <= width; x += kLanes) {
      store(sums + x, combine(load<V>(sums + x), load<V>(row + x)));
    }
    if (const int64_t rest = width - x; rest > 0) {
      const V v = combine(load_partial<V>(sums + x, rest), load_partial<V>(row + x, rest));
      store_partial(sums + x, v, rest);
    }
  };
  vectors(added, [](const V& s, const V& r) { return s + r; });
  vectors(removed, [](const V& s, const V& r) { return s - r; });
}

}  // namespace marey::MAREY_ISA_NS
