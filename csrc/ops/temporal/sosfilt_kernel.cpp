// Vectors run across neighbouring series (pixels). The state of a tile stays in the first-level
// cache; four time steps are taken with it in registers, so that it is read and written once every
// four. With one or two sections memory is the limit, not arithmetic.
#include <algorithm>

#include "core/simd.h"
#include "ops/temporal/sosfilt.h"

namespace marey::MAREY_ISA_NS {
namespace {

template <class T>
struct Coefficients {
  T b0, b1, b2, a1, a2;
};

template <class T>
Coefficients<T> section(const double* sos, int64_t s) {
  const double* row = sos + 6 * s;
  return {static_cast<T>(row[0]), static_cast<T>(row[1]), static_cast<T>(row[2]),
          static_cast<T>(row[4]), static_cast<T>(row[5])};
}

template <class T>
inline Vec<T> step(const Coefficients<T>& c, const Vec<T>& x, Vec<T>& z1, Vec<T>& z2) {
  using V = Vec<T>;
  const V y = fma(V(c.b0), x, z1);
  z1 = fma(V(-c.a1), y, fma(V(c.b1), x, z2));
  z2 = fma(V(-c.a2), y, V(c.b2) * x);
  return y;
}

// The first kSections of a cascade over kSteps rows.
template <class S, class T, int kSections, int kSteps, bool kStreaming>
void run_rows(const std::byte* x, int64_t x_stride, std::byte* y, int64_t y_stride, int64_t width,
              const Coefficients<T>* c, T* z, int64_t z_stride) {
  using V = Vec<T>;
  constexpr int64_t kLanes = static_cast<int64_t>(V::size());
  const auto source = [&](int t) { return reinterpret_cast<const S*>(x + t * x_stride); };
  const auto target = [&](int t) { return reinterpret_cast<T*>(y + t * y_stride); };
  const auto vectors = [&](int64_t k, auto&& read, auto&& write) {
    V v[kSteps];
    for (int t = 0; t < kSteps; ++t) v[t] = read(t);
    for (int s = 0; s < kSections; ++s) {
      T* z1 = z + 2 * s * z_stride + k;
      T* z2 = z1 + z_stride;
      V v1 = load<V>(z1);
      V v2 = load<V>(z2);
      for (int t = 0; t < kSteps; ++t) v[t] = step(c[s], v[t], v1, v2);
      store(z1, v1);
      store(z2, v2);
    }
    for (int t = 0; t < kSteps; ++t) write(t, v[t]);
  };
  int64_t k = 0;
  for (; k + kLanes <= width; k += kLanes) {
    vectors(
        k, [&](int t) { return load<V>(source(t) + k); },
        [&](int t, const V& v) {
          if constexpr (kStreaming) {
            stream(target(t) + k, v);
          } else {
            store(target(t) + k, v);
          }
        });
  }
  if (const int64_t rest = width - k; rest > 0) {
    vectors(
        k, [&](int t) { return load_partial<V>(source(t) + k, rest); },
        [&](int t, const V& v) { store_partial(target(t) + k, v, rest); });
  }
}

template <class S, class T, int kSections, bool kStreaming>
void run_sections(const SosfiltTile& tile) {
  constexpr int kSteps = 4;
  Coefficients<T> c[kSections];
  for (int s = 0; s < kSections; ++s) c[s] = section<T>(tile.sos, s);
  const auto* x = static_cast<const std::byte*>(tile.x);
  auto* y = static_cast<std::byte*>(tile.y);
  T* z = static_cast<T*>(tile.z);
  int64_t t = 0;
  for (; t + kSteps <= tile.steps; t += kSteps) {
    run_rows<S, T, kSections, kSteps, kStreaming>(x + t * tile.x_stride, tile.x_stride,
                                                  y + t * tile.y_stride, tile.y_stride, tile.width,
                                                  c, z, tile.z_stride);
  }
  for (; t < tile.steps; ++t) {
    run_rows<S, T, kSections, 1, kStreaming>(x + t * tile.x_stride, tile.x_stride,
                                             y + t * tile.y_stride, tile.y_stride, tile.width, c, z,
                                             tile.z_stride);
  }
}

// More sections than are unrolled: by blocks of steps, of which the first sections make y from x
// and the others y from y while the block is in the cache.
constexpr int64_t kUnrolled = 4;
constexpr int64_t kBlockSteps = 16;

template <class S, class T, bool kStreaming>
void run_tile(const SosfiltTile& tile) {
  switch (tile.sections) {
    case 1:
      return run_sections<S, T, 1, kStreaming>(tile);
    case 2:
      return run_sections<S, T, 2, kStreaming>(tile);
    case 3:
      return run_sections<S, T, 3, kStreaming>(tile);
    case 4:
      return run_sections<S, T, 4, kStreaming>(tile);
    default:
      break;
  }
  for (int64_t t = 0; t < tile.steps; t += kBlockSteps) {
    SosfiltTile first = tile;
    first.x = static_cast<const std::byte*>(tile.x) + t * tile.x_stride;
    first.y = static_cast<std::byte*>(tile.y) + t * tile.y_stride;
    first.steps = std::min(kBlockSteps, tile.steps - t);
    SosfiltTile rest = first;
    run_sections<S, T, kUnrolled, false>(first);
    rest.x = first.y;
    rest.x_stride = first.y_stride;
    rest.sos += 6 * kUnrolled;
    rest.sections -= kUnrolled;
    rest.z = static_cast<T*>(tile.z) + 2 * kUnrolled * tile.z_stride;
    run_tile<T, T, false>(rest);
  }
}

template <class S, class T>
void run(const SosfiltTile& tile) {
  if (tile.streaming) {
    run_tile<S, T, true>(tile);
    stream_fence();
  } else {
    run_tile<S, T, false>(tile);
  }
}

}  // namespace

SosfiltFn* select_sosfilt(DType x, DType y) {
  if (y == DType::f64) return run<double, double>;
  return x == DType::u8 ? run<uint8_t, float> : run<float, float>;
}

}  // namespace marey::MAREY_ISA_NS
