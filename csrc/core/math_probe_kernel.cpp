#include "core/math.h"
#include "core/math_probe.h"

namespace marey::MAREY_ISA_NS {
namespace {

template <class T>
Vec<T> evaluate(MathFunction function, const Vec<T>& x) {
  switch (function) {
    case MathFunction::exp2:
      return math::exp2<T>(x);
    case MathFunction::exp2_nonpositive:
      return math::exp2_nonpositive<T>(x);
    case MathFunction::tanh:
      return math::tanh<T>(x);
    case MathFunction::sigmoid:
      return math::sigmoid<T>(x);
  }
  return x;
}

template <class T>
void run(MathFunction function, const T* x, T* y, int64_t count) {
  using V = Vec<T>;
  constexpr int64_t kLanes = static_cast<int64_t>(V::size());
  for (int64_t i = 0; i < count; i += kLanes) {
    const int64_t lanes = count - i < kLanes ? count - i : kLanes;
    store_partial(y + i, evaluate<T>(function, load_partial<V>(x + i, lanes)), lanes);
  }
}

}  // namespace

void math_probe(MathFunction function, DType dtype, const void* x, void* y, int64_t count) {
  if (dtype == DType::f64) {
    run(function, static_cast<const double*>(x), static_cast<double*>(y), count);
  } else {
    run(function, static_cast<const float*>(x), static_cast<float*>(y), count);
  }
}

}  // namespace marey::MAREY_ISA_NS
