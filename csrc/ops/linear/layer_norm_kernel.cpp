// Vectors run along the row, which is read once into the first-level cache; the deviations are
// summed about the mean, in a second pass over it, so that nothing cancels.
#include <cmath>

#include "core/lanes.h"
#include "ops/linear/layer_norm.h"

namespace marey::MAREY_ISA_NS {
namespace {

template <class S, class T>
struct Kernel {
  using V = Vec<T>;
  static constexpr int W = kLanesOf<T>;

  static int64_t padded(int64_t count) { return up_to_multiple<int64_t>(count, 16); }

  // The row in scratch, zeros after it, and the sum of f over its vectors.
  static T read(const void* from, int64_t item, int64_t count, T* to) {
    copy_rows<T, S>(static_cast<const S*>(from), 0, item, 1, count, to);
    for (int64_t c = count; c < padded(count); ++c) to[c] = T(0);
    V sum(T(0));
    for (int64_t c = 0; c < count; c += W) sum += load<V>(to + c);
    return stdx::reduce(sum);
  }

  // In place: the row less its mean, times rstd; zeros after it.
  static T normalise(T* x, int64_t count, T mean, double eps) {
    V squares(T(0));
    for (int64_t c = 0; c < count; c += W) {
      const V d = load<V>(x + c) - V(mean);
      store(x + c, d);
      if (c + W <= count) squares += d * d;
    }
    T sum = stdx::reduce(squares);
    for (int64_t c = count / W * W; c < count; ++c) sum += x[c] * x[c];
    const double variance = static_cast<double>(sum) / static_cast<double>(count);
    const T rstd = static_cast<T>(1.0 / std::sqrt(variance + eps));
    for (int64_t c = 0; c < count; c += W) store(x + c, load<V>(x + c) * V(rstd));
    for (int64_t c = count; c < padded(count); ++c) x[c] = T(0);
    return rstd;
  }

  static void write(const T* from, int64_t count, void* to, int64_t item) {
    S* out = static_cast<S*>(to);
    int64_t c = 0;
    if (item == 1) {
      for (; c + W <= count; c += W) store_as(out + c, load<V>(from + c));
    }
    for (; c < count; ++c) assign(out[c * item], from[c]);
  }

  [[gnu::flatten]] static void forward(const LayerNormRow& p) {
    T* const x = reinterpret_cast<T*>(p.scratch);
    const T mean = read(p.x, p.x_item, p.count, x) / static_cast<T>(p.count);
    const T rstd = normalise(x, p.count, mean, p.eps);
    if (p.mean != nullptr) *static_cast<T*>(p.mean) = mean;
    if (p.rstd != nullptr) *static_cast<T*>(p.rstd) = rstd;
    const S* weight = static_cast<const S*>(p.weight);
    const S* bias = static_cast<const S*>(p.bias);
    int64_t c = 0;
    for (; c + W <= p.count; c += W) {
      V v = load<V>(x + c);
      if (weight != nullptr) v *= load_as<V>(weight + c);
      if (bias != nullptr) v += load_as<V>(bias + c);
      store(x + c, v);
    }
    for (; c < p.count; ++c) {
      if (weight != nullptr) x[c] *= convert<T>(weight[c]);
      if (bias != nullptr) x[c] += convert<T>(bias[c]);
    }
    write(x, p.count, p.out, p.out_item);
  }

  [[gnu::flatten]] static void backward(const LayerNormRow& p) {
    T* const n = reinterpret_cast<T*>(p.scratch);
    T* const g = n + padded(p.count);
    const T mean = read(p.x, p.x_item, p.count, n) / static_cast<T>(p.count);
    const T rstd = normalise(n, p.count, mean, p.eps);
    read(p.grad, p.grad_item, p.count, g);
    if (p.grad_weight != nullptr) {
      T* to = static_cast<T*>(p.grad_weight);
      for (int64_t c = 0; c < p.count; c += W) {
        store(to + c, load<V>(to + c) + load<V>(g + c) * load<V>(n + c));
      }
    }
    if (p.grad_bias != nullptr) {
      T* to = static_cast<T*>(p.grad_bias);
      for (int64_t c = 0; c < p.count; c += W) store(to + c, load<V>(to + c) + load<V>(g + c));
    }
    if (p.out == nullptr) return;
    if (p.weight != nullptr) {
      const S* weight = static_cast<const S*>(p.weight);
      int64_t c = 0;
      for (; c + W <= p.count; c += W) store(g + c, load<V>(g + c) * load_as<V>(weight + c));
      for (; c < p.count; ++c) g[c] *= convert<T>(weight[c]);
    }
    V sum(T(0));
    V product(T(0));
    for (int64_t c = 0; c < p.count; c += W) {
      sum += load<V>(g + c);
      product += load<V>(g + c) * load<V>(n + c);
    }
    const V mean_g(stdx::reduce(sum) / static_cast<T>(p.count));
    const V mean_product(stdx::reduce(product) / static_cast<T>(p.count));
    for (int64_t c = 0; c < p.count; c += W) {
      store(g + c, (load<V>(g + c) - mean_g - load<V>(n + c) * mean_product) * V(rstd));
    }
    write(g, p.count, p.out, p.out_item);
  }
};

}  // namespace

LayerNormKernel select_layer_norm(DType dtype) {
  switch (dtype) {
    case DType::f32:
      return {Kernel<float, float>::forward, Kernel<float, float>::backward};
    case DType::f64:
      return {Kernel<double, double>::forward, Kernel<double, double>::backward};
    case DType::bf16:
      return {Kernel<bfloat16, float>::forward, Kernel<bfloat16, float>::backward};
    default:
      return {};
  }
}

}  // namespace marey::MAREY_ISA_NS
