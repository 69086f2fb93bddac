#pragma once
// The register tile of convolutions, for kernel files: sums (positions, filters) += inputs
// (positions, depth) weights (depth, filters), summed over the taps of a window.
//
// Filters are lanes; the inputs of kRows neighbouring positions are broadcast. As many rows as the
// registers hold, so that a vector of weights, which comes from the second-level cache, serves them
// all: 14 rows of 2 vectors (28 + 2 + 1 of 32 registers), 6 rows of 2 (12 + 2 + 1 of 16). Rows of
// images are 7, 14, 28, 56 wide; a row of positions is cut into equal parts of at most so many.
#include "core/tile.h"

namespace marey::MAREY_ISA_NS {

// What windows and weights are stored as: bfloat16 as pairs along the depth where there are dot
// products of them, else widened.
template <class S>
using ItemOf = UnitOf<S>;
// The same item by item.
template <class S>
using StoredAs = std::conditional_t<std::is_same_v<ItemOf<S>, Pair>, S, ItemOf<S>>;

inline constexpr int kConvVectors = 2;
#if defined(__AVX512F__) || defined(__aarch64__)
inline constexpr int kConvRows = 14;
#else
inline constexpr int kConvRows = 6;
#endif

// Where a tap's inputs and weights lie from the tile's, in items.
struct TapAt {
  int64_t input;
  int64_t weight;
};

// Lines of memory that a tile fetches into the second-level cache meanwhile: as many as a tap is
// deep. Without any it touches its own inputs.
struct LinesAhead {
  const std::byte* at = nullptr;
  int64_t step = 0;  // bytes
};

// Rows of the inputs lie `stride` items apart, their depth `step`. To accumulate, the sum of this
// call is added as a whole: one chain of sums through all calls would gather more rounding errors.
template <int kRows, int NV, class T>
[[gnu::noinline, gnu::flatten]] void conv_tile(const T* input, int64_t stride, int64_t step,
                                               const TapAt* taps, int64_t count, int64_t depth,
                                               const T* weight, SumOf<T>* out, bool accumulate,
                                               LinesAhead ahead) {
  using V = Vec<SumOf<T>>;
  constexpr int W = kLanesOf<T>;
  constexpr int64_t kPitch = NV * W;
  V sum[kRows][NV];
#pragma GCC unroll 16
  for (int i = 0; i < kRows; ++i) {
#pragma GCC unroll 4
    for (int j = 0; j < NV; ++j) {
      sum[i][j] = V(SumOf<T>(0));
    }
  }
  if (ahead.at == nullptr) ahead.at = reinterpret_cast<const std::byte*>(input);
  constexpr int kNear = 3;  // rows of a pointer, as in core/operands.h
  // Fewer instructions a step count for more where a step is of fewer multiply-adds: with sixteen
  // registers layers took 0.79 to 0.93 of the time, with thirty-two nothing was gained
  // (docs/conv.md).
  constexpr bool kUnrolled = kConvRows < 8;
  constexpr int kPointers = (kRows + kNear - 1) / kNear;
  for (int64_t tap = 0; tap < count; ++tap, ahead.step = 0) {
    const T* b = weight + taps[tap].weight;
    const T* near[kPointers];
#pragma GCC unroll 8
    for (int g = 0; g < kPointers; ++g) near[g] = input + taps[tap].input + g * kNear * stride;
    const auto multiply = [&](int u) {
      __builtin_prefetch(ahead.at, 0, 2);
      ahead.at += ahead.step;
      decltype(Step<T>::row(b)) row[NV];
#pragma GCC unroll 4
      for (int j = 0; j < NV; ++j) row[j] = Step<T>::row(b + u * kPitch + j * W);
#pragma GCC unroll 16
      for (int i = 0; i < kRows; ++i) {
        add_row<T>(i, sum[i], near[i / kNear] + i % kNear * stride + u, row);
      }
    };
    const auto move = [&](int64_t by, int steps) {
      b += steps * kPitch;
#pragma GCC unroll 8
      for (int g = 0; g < kPointers; ++g) {
        near[g] += by;
        // The compiler shall not make a pointer of every row's address.
        asm("" : "+r"(near[g]));
      }
    };
    int64_t k = depth;
    if (kUnrolled && step == 1) {
      for (; k >= 4; k -= 4) {
#pragma GCC unroll 4
        for (int u = 0; u < 4; ++u) multiply(u);
        move(4, 4);
      }
    }
    for (; k > 0; --k) {
      multiply(0);
      move(step, 1);
    }
  }
#pragma GCC unroll 16
  for (int i = 0; i < kRows; ++i) {
#pragma GCC unroll 4
    for (int j = 0; j < NV; ++j) {
      SumOf<T>* at = out + i * kPitch + j * W;
      store(at, accumulate ? load<V>(at) + sum[i][j] : sum[i][j]);
    }
  }
}

template <class T>
using ConvTile = void (*)(const T*, int64_t, int64_t, const TapAt*, int64_t, int64_t, const T*,
                          SumOf<T>*, bool, LinesAhead);

template <class T, int NV, int... kRows>
constexpr void fill_tiles(ConvTile<T> (&table)[kConvRows + 1],
                          std::integer_sequence<int, kRows...>) {
  ((table[kRows + 1] = conv_tile<kRows + 1, NV, T>), ...);
}

// Tiles by vectors and rows.
template <class T>
struct ConvTiles {
  ConvTile<T> of[kConvVectors][kConvRows + 1] = {};
  constexpr ConvTiles() {
    fill_tiles<T, 1>(of[0], std::make_integer_sequence<int, kConvRows>{});
    fill_tiles<T, 2>(of[1], std::make_integer_sequence<int, kConvRows>{});
  }
};

// How many tiles a row is cut into.
inline int64_t conv_tiles_of(int64_t positions) { return (positions + kConvRows - 1) / kConvRows; }

// What a row's tiles fetch if there is nothing to.
struct NothingAhead {
  LinesAhead next() const { return {}; }
};

// Any number of rows, their sums one after the other.
template <class T, class Ahead = NothingAhead>
inline void conv_row(const ConvTile<T>* tiles, int64_t positions, int64_t pitch, const T* input,
                     int64_t stride, int64_t step, const TapAt* taps, int64_t count, int64_t depth,
                     const T* weight, SumOf<T>* out, bool accumulate, Ahead&& ahead = {}) {
  int64_t parts = conv_tiles_of(positions);
  for (int64_t left = positions; left > 0; --parts) {
    const int64_t rows = (left + parts - 1) / parts;
    tiles[rows](input, stride, step, taps, count, depth, weight, out, accumulate, ahead.next());
    input += rows * stride;
    out += rows * pitch;
    left -= rows;
  }
}

// ---- rows: positions are lanes ----

// Filters and vectors of a tile: 8 x 3 (24 + 3 + 1 of 32 registers), 4 x 3 (12 + 3 + 1 of 16), and
// no more filters than weights are padded to.
#if defined(__AVX512F__) || defined(__aarch64__)
inline constexpr int kMostFilters = 8;
#else
inline constexpr int kMostFilters = 4;
#endif
template <class T>
inline constexpr int kTileFilters = kLanesOf<T> < kMostFilters ? kLanesOf<T> : kMostFilters;
inline constexpr int kRowVectors = 3;

// The inputs, (depth, positions), are NV vectors wide, the weights (depth, filters) as wide as a
// tile. Sums are (filters, positions), one order whatever the tile.
template <int NV, class T>
[[gnu::noinline, gnu::flatten]] void rows_tile(const T* input, const TapAt* taps, int64_t count,
                                               int64_t depth, const T* weight, SumOf<T>* out,
                                               bool accumulate) {
  using V = Vec<SumOf<T>>;
  constexpr int W = kLanesOf<T>;
  constexpr int kRows = kTileFilters<T>;
  constexpr int64_t kPitch = NV * W;
  V sum[kRows][NV];
#pragma GCC unroll 16
  for (int i = 0; i < kRows; ++i) {
#pragma GCC unroll 4
    for (int j = 0; j < NV; ++j) sum[i][j] = V(SumOf<T>(0));
  }
  for (int64_t tap = 0; tap < count; ++tap) {
    const T* b = input + taps[tap].input;
    const T* a = weight + taps[tap].weight;
    const auto step = [&](int64_t k) {
      decltype(Step<T>::row(b)) row[NV];
#pragma GCC unroll 4
      for (int j = 0; j < NV; ++j) row[j] = Step<T>::row(b + k * kPitch + j * W);
#pragma GCC unroll 16
      for (int i = 0; i < kRows; ++i) add_row<T>(i, sum[i], a + i, row);
      a += kRows;
    };
    int64_t k = depth;
    for (; k >= 4; k -= 4, b += 4 * kPitch) {
#pragma GCC unroll 4
      for (int64_t u = 0; u < 4; ++u) step(u);
    }
    for (; k > 0; --k, b += kPitch) step(0);
  }
#pragma GCC unroll 16
  for (int i = 0; i < kRows; ++i) {
#pragma GCC unroll 4
    for (int j = 0; j < NV; ++j) {
      SumOf<T>* at = out + i * kPitch + j * W;
      store(at, accumulate ? load<V>(at) + sum[i][j] : sum[i][j]);
    }
  }
}

template <class T>
using RowsTile = void (*)(const T*, const TapAt*, int64_t, int64_t, const T*, SumOf<T>*, bool);
template <class T>
inline constexpr RowsTile<T> kRowsTiles[kRowVectors + 1] = {nullptr, rows_tile<1, T>,
                                                            rows_tile<2, T>, rows_tile<3, T>};

// The first `count` lanes, at most all; what lies behind is neither read nor written.
template <class V>
inline V load_first(const float* p, int64_t count) {
#if defined(__AVX512F__)
  if constexpr (V::size() == 16) {
    const auto mask = static_cast<__mmask16>(count >= 16 ? 0xFFFFU : (1U << count) - 1U);
    return V(_mm512_maskz_loadu_ps(mask, p));
  }
#endif
  return count >= static_cast<int64_t>(V::size()) ? load<V>(p) : load_partial<V>(p, count);
}
template <class V>
inline V load_first(const double* p, int64_t count) {
  return count >= static_cast<int64_t>(V::size()) ? load<V>(p) : load_partial<V>(p, count);
}
template <class V>
inline V load_first(const bfloat16* p, int64_t count) {
  if (count >= static_cast<int64_t>(V::size())) return load_as<V>(p);
  bfloat16 items[V::size()] = {};
  std::memcpy(items, p, static_cast<std::size_t>(count) * sizeof(bfloat16));
  return load_as<V>(items);
}

template <class V>
inline void store_first(float* p, const V& v, int64_t count) {
#if defined(__AVX512F__)
  if constexpr (V::size() == 16) {
    const auto mask = static_cast<__mmask16>(count >= 16 ? 0xFFFFU : (1U << count) - 1U);
    _mm512_mask_storeu_ps(p, mask, static_cast<__m512>(v));
    return;
  }
#endif
  if (count >= static_cast<int64_t>(V::size())) {
    store(p, v);
  } else {
    store_partial(p, v, count);
  }
}
template <class V>
inline void store_first(double* p, const V& v, int64_t count) {
  if (count >= static_cast<int64_t>(V::size())) {
    store(p, v);
  } else {
    store_partial(p, v, count);
  }
}
template <class V>
inline void store_first(bfloat16* p, const V& v, int64_t count) {
  if (count >= static_cast<int64_t>(V::size())) {
    store_as(p, v);
    return;
  }
  bfloat16 items[V::size()];
  store_as(items, v);
  std::memcpy(p, items, static_cast<std::size_t>(count) * sizeof(bfloat16));
}

// Elements of a window's pixel: channels, made even for pairs.
template <class T>
inline int64_t padded_channels(int64_t channels) {
  return std::is_same_v<T, Pair> ? (channels + 1) / 2 * 2 : channels;
}

template <class S>
inline void clear(S* to, int64_t count) {
  if (count > 0)
    std::memset(static_cast<void*>(to), 0, static_cast<std::size_t>(count) * sizeof(S));
}

template <class S>
inline void clear_behind(S* to, int64_t pixels, int64_t channels, int64_t pitch) {
  for (int64_t w = 0; w < pixels; ++w) clear(to + w * pitch + channels, pitch - channels);
}

// Pixels [first, last) of a row of an image as (pixel, pitch) in `to`, which may be of a wider
// type; zeros outside of [0, extent) and behind the channels. `from` is channel 0 of pixel 0.
template <class S, class T>
[[gnu::flatten]] inline void pack_pixels(const S* from, int64_t channel_stride,
                                         int64_t pixel_stride, int64_t first, int64_t last,
                                         int64_t extent, int64_t channels, int64_t pitch, T* to) {
  using C = std::conditional_t<std::is_same_v<S, bfloat16>, float, S>;
  using V = Vec<C>;
  constexpr int W = static_cast<int>(V::size());
  if constexpr (std::is_same_v<S, bfloat16> && std::is_same_v<T, bfloat16>) {
    // Moved as pairs, because vectors of bfloat16 would be widened and rounded again.
    if (channel_stride == 1 && (channels | pitch | pixel_stride) % 2 == 0) {
      pack_pixels(reinterpret_cast<const float*>(from), 1, pixel_stride / 2, first, last, extent,
                  channels / 2, pitch / 2, reinterpret_cast<float*>(to));
      return;
    }
  }
  const int64_t low = first < 0 ? (last < 0 ? last : 0) : first;
  const int64_t high = last > extent ? (first > extent ? first : extent) : last;
  if (low > first) clear(to, (low - first) * pitch);
  if (high < last) clear(to + (high - first) * pitch, (last - high) * pitch);
  if (high <= low) return;
  to += (low - first) * pitch;
  from += low * pixel_stride;
  const int64_t pixels = high - low;
  if (channel_stride == 1) {
    const int64_t whole = channels / W * W;
    const int64_t rest = channels - whole;
    if (std::is_same_v<S, T> && rest != 0 && pitch == channels && pixel_stride == channels) {
      std::memcpy(static_cast<void*>(to), from,
                  static_cast<std::size_t>(pixels * channels) * sizeof(S));
      return;
    }
    const int64_t stored = pitch - whole < W ? pitch - whole : W;
    for (int64_t w = 0; w < pixels; ++w) {
      for (int64_t c = 0; c < whole; c += W) {
        store_as(to + w * pitch + c, load_as<V>(from + w * pixel_stride + c));
      }
      if (rest == 0) continue;
      store_first(to + w * pitch + whole, load_first<V>(from + w * pixel_stride + whole, rest),
                  stored);
    }
    if (rest == 0 && pitch > channels) clear_behind(to, pixels, channels, pitch);
    return;
  }
  if (pixel_stride != 1 || (channels < W / 2 && pitch < W)) {
    if (channels == 3) {
      for (int64_t w = 0; w < pixels; ++w) {
        for (int64_t c = 0; c < 3; ++c) {
          assign(to[w * pitch + c], convert<C>(from[c * channel_stride + w * pixel_stride]));
        }
      }
    } else {
      for (int64_t c = 0; c < channels; ++c) {
        for (int64_t w = 0; w < pixels; ++w) {
          assign(to[w * pitch + c], convert<C>(from[c * channel_stride + w * pixel_stride]));
        }
      }
    }
    if (pitch > channels) clear_behind(to, pixels, channels, pitch);
    return;
  }
  // Squares of pixels and channels; the last ones overlap those before where they can. Along the
  // row first: channels may lie so far apart that a first-level cache holds few of them. Rows
  // mostly follow one another in memory.
  constexpr int64_t kAhead = 128 / static_cast<int64_t>(sizeof(S));
  for (int64_t c = 0; c < channels; c += W) {
    const int64_t lanes = channels - c < W ? channels - c : W;
    const int64_t stored = pitch - c < W ? pitch - c : W;
    for (int64_t w = 0; w < pixels;) {
      const int64_t count = pixels - w < W ? pixels - w : W;
      V square[W];
#pragma GCC unroll 16
      for (int j = 0; j < W; ++j) {
        const S* const at = from + (c + j) * channel_stride + w;
        square[j] = j < lanes ? load_first<V>(at, count) : V(C(0));
        if (j < lanes) __builtin_prefetch(at + kAhead, 0, 2);
      }
      transpose<C>(square);
      if (count == W && stored == W) {
#pragma GCC unroll 16
        for (int i = 0; i < W; ++i) store_as(to + (w + i) * pitch + c, square[i]);
      } else {
        for (int64_t i = 0; i < count; ++i) {
          store_first(to + (w + i) * pitch + c, square[i], stored);
        }
      }
      w += count;
      if (w < pixels && pixels - w < W && pixels >= W) w = pixels - W;
    }
  }
}

// The reverse for sums: `pixels` rows of `pitch` sums to lanes [0, lanes) of an image. Rows up to a
// whole vector of them may be read.
template <class S, class C>
[[gnu::flatten]] inline void unpack_pixels(const C* from, int64_t pitch, int64_t pixels,
                                           int64_t lanes, S* to, int64_t lane_stride,
                                           int64_t pixel_stride) {
  using V = Vec<C>;
  constexpr int W = static_cast<int>(V::size());
  if (lane_stride == 1) {
    for (int64_t w = 0; w < pixels; ++w) {
      for (int64_t k = 0; k < lanes; k += W) {
        store_first(to + w * pixel_stride + k, load<V>(from + w * pitch + k), lanes - k);
      }
    }
    return;
  }
  if (pixel_stride != 1) {
    for (int64_t w = 0; w < pixels; ++w) {
      for (int64_t k = 0; k < lanes; ++k) {
        assign(to[w * pixel_stride + k * lane_stride], from[w * pitch + k]);
      }
    }
    return;
  }
  for (int64_t w = 0; w < pixels;) {
    const int64_t count = pixels - w < W ? pixels - w : W;
    for (int64_t k = 0; k < lanes; k += W) {
      V square[W];
#pragma GCC unroll 16
      for (int i = 0; i < W; ++i) square[i] = load<V>(from + (w + i) * pitch + k);
      transpose<C>(square);
      const int64_t rows = lanes - k < W ? lanes - k : W;
      for (int64_t j = 0; j < rows; ++j) {
        store_first(to + (k + j) * lane_stride + w, square[j], count);
      }
    }
    w += count;
    if (w < pixels && pixels - w < W && pixels >= W) w = pixels - W;
  }
}

}  // namespace marey::MAREY_ISA_NS
