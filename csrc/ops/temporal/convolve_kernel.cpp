// Vectors run across neighbouring series (pixels). A block of steps of two vectors stays in
// registers, so that a row is loaded and a weight is broadcast once for several products: with one
// step at a time the loads, not the multiply-adds, are the limit. Rows of a tile that overlapping
// blocks share stay in the second-level cache. Folding symmetric taps saves no instruction here: a
// sum and a product stand for two fused products, and their loads are the same.
// The weights of a block come from a table, each row's side by side: read as one array they look to
// the compiler like values to carry from row to row, for which there are no registers (a third
// slower).
//
// A block runs through three ranges of rows: those that only its first steps need, those that all
// need, and those that only its last steps need. Weights padded with zeros would be simpler, but
// zero times infinity would carry a value out of its window.
#include "core/simd.h"
#include "ops/temporal/convolve.h"

namespace marey::MAREY_ISA_NS {
namespace {

template <class S, class T, int kSteps, int kVectors, bool kStreaming>
struct Block {
  using V = Vec<T>;
  static constexpr int64_t kLanes = static_cast<int64_t>(V::size());

  const std::byte* const* rows;
  const T* weights;  // kSteps for each row
  int64_t size;
  std::byte* y;
  int64_t y_stride;
  V sums[kSteps][kVectors];

  // Row j times the weights that steps [first, last) have for it.
  template <bool kPartial>
  void add(int64_t j, int first, int last, int64_t k, int64_t rest) {
    const S* row = reinterpret_cast<const S*>(rows[j]) + k;
    V x[kVectors];
    for (int v = 0; v < kVectors; ++v) {
      x[v] = kPartial ? load_partial<V>(row, rest) : load<V>(row + v * kLanes);
    }
#pragma GCC unroll 8
    for (int s = 0; s < kSteps; ++s) {
      if (s < first || s >= last) continue;
      const V weight(weights[j * kSteps + s]);
      for (int v = 0; v < kVectors; ++v) sums[s][v] = fma(weight, x[v], sums[s][v]);
    }
  }

  template <bool kPartial>
  void run(int64_t k, int64_t rest) {
    for (int s = 0; s < kSteps; ++s) {
      for (int v = 0; v < kVectors; ++v) sums[s][v] = V(T{0});
    }
    if constexpr (kSteps == 1) {
      for (int64_t j = 0; j < size; ++j) add<kPartial>(j, 0, 1, k, rest);
    } else {
#pragma GCC unroll 8
      for (int j = 0; j < kSteps - 1; ++j) add<kPartial>(j, 0, j + 1, k, rest);
      for (int64_t j = kSteps - 1; j < size; ++j) add<kPartial>(j, 0, kSteps, k, rest);
#pragma GCC unroll 8
      for (int j = 0; j < kSteps - 1; ++j) add<kPartial>(size + j, j + 1, kSteps, k, rest);
    }
    for (int s = 0; s < kSteps; ++s) {
      T* target = reinterpret_cast<T*>(y + s * y_stride) + k;
      for (int v = 0; v < kVectors; ++v) {
        if constexpr (kPartial) {
          store_partial(target, sums[s][v], rest);
        } else if constexpr (kStreaming) {
          stream(target + v * kLanes, sums[s][v]);
        } else {
          store(target + v * kLanes, sums[s][v]);
        }
      }
    }
  }
};

// kSteps steps from step t on.
template <class S, class T, int kSteps, bool kStreaming>
void run_steps(const ConvolveTile& tile, int64_t t) {
  constexpr int kVectors = 2;
  const auto block = [&]<int kCount>() {
    const void* weights = kSteps == 1 ? tile.weights : tile.table;
    return Block<S, T, kSteps, kCount, kStreaming>{
        tile.rows + t, static_cast<const T*>(weights),
        tile.size,     static_cast<std::byte*>(tile.y) + t * tile.y_stride,
        tile.y_stride, {}};
  };
  constexpr int64_t kLanes = static_cast<int64_t>(Vec<T>::size());
  auto wide = block.template operator()<kVectors>();
  auto narrow = block.template operator()<1>();
  int64_t k = 0;
  for (; k + kVectors * kLanes <= tile.width; k += kVectors * kLanes) {
    wide.template run<false>(k, 0);
  }
  for (; k + kLanes <= tile.width; k += kLanes) narrow.template run<false>(k, 0);
  if (k < tile.width) narrow.template run<true>(k, tile.width - k);
}

template <class S, class T, bool kStreaming>
void run_tile(const ConvolveTile& tile) {
  // Twelve sums, a row's two vectors and a weight: 15 of 16 registers.
  constexpr int kSteps = static_cast<int>(kConvolveSteps);
  int64_t t = 0;
  if (tile.size >= kSteps) {
    for (; t + kSteps <= tile.steps; t += kSteps) run_steps<S, T, kSteps, kStreaming>(tile, t);
  }
  for (; t < tile.steps; ++t) run_steps<S, T, 1, kStreaming>(tile, t);
}

template <class S, class T>
void run(const ConvolveTile& tile) {
  if (tile.streaming) {
    run_tile<S, T, true>(tile);
    stream_fence();
  } else {
    run_tile<S, T, false>(tile);
  }
}

}  // namespace

ConvolveFn* select_convolve(DType x, DType y) {
  if (y == DType::f64) return run<double, double>;
  return x == DType::u8 ? run<uint8_t, float> : run<float, float>;
}

}  // namespace marey::MAREY_ISA_NS
