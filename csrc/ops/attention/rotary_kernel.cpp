// Vectors run along the halves of a section; interleaved pairs, and items that are not adjacent, go
// one by one. All time is in reading and writing the rows.
#include "core/lanes.h"
#include "ops/attention/rotary.h"

namespace marey::MAREY_ISA_NS {
namespace {

template <class S, class T>
[[gnu::flatten]] void turn(const RotaryRow& p) {
  using V = Vec<T>;
  constexpr int W = kLanesOf<T>;
  const S* x = static_cast<const S*>(p.x);
  const T* cosine = static_cast<const T*>(p.cosine);
  const T* sine = static_cast<const T*>(p.sine);
  S* y = static_cast<S*>(p.y);
  for (int64_t section = 0; section < p.count; ++section) {
    const int64_t pairs = p.sections[section] / 2;
    const int64_t step = p.interleaved ? 2 : 1;  // from pair to pair
    const int64_t other = p.interleaved ? 1 : pairs;
    int64_t i = 0;
    if (!p.interleaved && p.x_item == 1 && p.y_item == 1) {
      for (; i + W <= pairs; i += W) {
        const V a = load_as<V>(x + i);
        const V b = load_as<V>(x + i + pairs);
        const V c = load<V>(cosine + i);
        const V s = load<V>(sine + i);
        store_as(y + i, fma(a, c, V(-(b * s))));
        store_as(y + i + pairs, fma(b, c, V(a * s)));
      }
    }
    for (; i < pairs; ++i) {
      const T a = convert<T>(x[i * step * p.x_item]);
      const T b = convert<T>(x[(i * step + other) * p.x_item]);
      assign(y[i * step * p.y_item], fma(a, cosine[i], -(b * sine[i])));
      assign(y[(i * step + other) * p.y_item], fma(b, cosine[i], a * sine[i]));
    }
    x += p.sections[section] * p.x_item;
    y += p.sections[section] * p.y_item;
    cosine += pairs;
    sine += pairs;
  }
}

}  // namespace

RotaryFn* select_rotary(DType dtype) {
  switch (dtype) {
    case DType::f32:
      return turn<float, float>;
    case DType::f64:
      return turn<double, double>;
    case DType::bf16:
      return turn<bfloat16, float>;
    default:
      return nullptr;
  }
}

}  // namespace marey::MAREY_ISA_NS
