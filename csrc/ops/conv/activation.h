#pragma once
// What may follow a convolution, for kernel files: bias and activation of a row of sums.
#include <cmath>

#include "core/math.h"
#include "core/tile.h"
#include "ops/conv/conv3d.h"
#include "ops/conv/conv3d_tile.h"

namespace marey::MAREY_ISA_NS {

// The error function's complement, erfc(|z|) = t Q(t) exp(-z^2) with t = 1 / (1 + |z| / 2): Q is a
// minimax fit of erfcx(z) / t, its relative error 4.4e-8.
inline Vec<float> gelu(const Vec<float>& x) {
  using V = Vec<float>;
  constexpr float kQ[] = {0.28208447F, 0.28240949F, 0.24285454F, 0.20367457F,  -0.028961971F,
                          0.28145939F, -0.4901644F, 0.28600591F, -0.059362024F};
  const V z = stdx::abs(x) * V(0.70710678F);
  const V t = V(1.0F) / (V(1.0F) + V(0.5F) * z);
  const V tail = V(0.5F) * t * math::detail::polynomial(t, kQ) *
                 math::exp2_nonpositive<float>(z * z * V(-1.44269504F));
  V phi = V(1.0F) - tail;
  stdx::where(x < V(0.0F), phi) = tail;
  return x * phi;
}

inline Vec<double> gelu(const Vec<double>& x) {
  Vec<double> result;
  for (std::size_t i = 0; i < result.size(); ++i) {
    result[i] = x[i] * 0.5 * ::erfc(-x[i] * 0.70710678118654752440);
  }
  return result;
}

template <class T>
inline Vec<T> silu(const Vec<T>& x) {
  // x / (1 + exp(-x)): exp of minus the size, which cannot overflow.
  using V = Vec<T>;
  const V e = math::exp2_nonpositive<T>(stdx::abs(x) * V(T(-1.44269504088896340736)));
  V above = V(T(1));
  stdx::where(x < V(T(0)), above) = e;
  return x * above / (V(T(1)) + e);
}

// NaN stays NaN, as everywhere.
template <class T>
inline Vec<T> relu(const Vec<T>& x) {
  Vec<T> result = x;
  stdx::where(x < Vec<T>(T(0)), result) = Vec<T>(T(0));
  return result;
}

// f(the function of a vector that the activation is).
template <class T, class F>
inline void with_activation(Activation activation, const F& f) {
  using V = Vec<T>;
  switch (activation) {
    case Activation::none:
      return f([](const V& x) { return x; });
    case Activation::relu:
      return f([](const V& x) { return relu<T>(x); });
    case Activation::gelu:
      return f([](const V& x) { return gelu(x); });
    case Activation::silu:
      return f([](const V& x) { return silu<T>(x); });
  }
}

// `rows` vectors of sums, one after the other, to places `stride` apart.
template <class T, class S>
[[gnu::flatten]] inline void finish_vectors(const T* sums, int64_t rows, const T* bias,
                                            Activation activation, S* to, int64_t stride) {
  using V = Vec<T>;
  const V added = bias != nullptr ? load<V>(bias) : V(T(0));
  with_activation<T>(activation, [&](const auto& act) {
    for (int64_t i = 0; i < rows; ++i) {
      store_as(to + i * stride, act(load<V>(sums + i * static_cast<int64_t>(V::size())) + added));
    }
  });
}

// rows x pitch sums, the lanes of `bias` from 0 to pitch (null: none).
template <class T>
[[gnu::flatten]] inline void finish_sums(T* sums, int64_t rows, int64_t pitch, const T* bias,
                                         Activation activation) {
  using V = Vec<T>;
  if (activation == Activation::none && bias == nullptr) return;
  with_activation<T>(activation, [&](const auto& act) {
    for (int64_t k = 0; k < pitch; k += static_cast<int64_t>(V::size())) {
      const V b = bias != nullptr ? load<V>(bias + k) : V(T(0));
      for (int64_t i = 0; i < rows; ++i) {
        T* at = sums + i * pitch + k;
        store(at, act(load<V>(at) + b));
      }
    }
  });
}

// rows x pitch sums, a bias for each row (null: none): the first `count` lanes of row i to
// to[i * stride].
template <class T, class S>
[[gnu::flatten]] inline void finish_rows(const T* sums, int64_t rows, int64_t pitch, const T* bias,
                                         Activation activation, int64_t count, S* to,
                                         int64_t stride) {
  using V = Vec<T>;
  with_activation<T>(activation, [&](const auto& act) {
    for (int64_t i = 0; i < rows; ++i) {
      const V b(bias != nullptr ? bias[i] : T(0));
      for (int64_t k = 0; k < count; k += static_cast<int64_t>(V::size())) {
        store_first(to + i * stride + k, act(load<V>(sums + i * pitch + k) + b), count - k);
      }
    }
  });
}

}  // namespace marey::MAREY_ISA_NS
