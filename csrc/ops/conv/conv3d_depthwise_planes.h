#pragma once
// Depthwise convolution of 3 x 3 taps in space, of stride and dilation 1, where W is contiguous,
// for kernel files: positions are lanes. A tile is seven rows of two vectors, three with
// sixteen registers: loads straddle cache lines, and each serves up to three rows of taps, 54 of
// them 126 multiply-adds. A tile for any taps, each vector of the inputs loaded for each of its
// taps, was no faster than to transpose.
//
// One channel of a window is copied into scratch as (T, H, W), of the type of the sums, with zeros
// for the padding along H and W, a frame before it is read first. A block of one frame, as a stream
// has, would copy each frame for each of the calls that see it: there they are read where they lie,
// if loads can leave out lanes. A clip takes a tenth longer so.
#include <algorithm>
#include <limits>

#include "core/tile.h"
#include "ops/conv/activation.h"
#include "ops/conv/conv3d.h"
#include "ops/conv/conv3d_window.h"

namespace marey::MAREY_ISA_NS {

// The compiler would load a vector again for each product, as an operand from memory.
template <class V>
[[gnu::always_inline]] inline V in_register(const V& v) {
  using Raw [[gnu::vector_size(sizeof(V))]] = typename V::value_type;
  Raw raw = std::bit_cast<Raw>(v);
#if defined(__AVX512F__)
  asm("" : "+v"(raw));
#elif defined(__x86_64__)
  asm("" : "+x"(raw));
#elif defined(__aarch64__)
  asm("" : "+w"(raw));
#endif
  return std::bit_cast<V>(raw);
}

// The first filter of a vector of them: the last overlaps the one before.
template <int W>
inline int64_t first_depthwise(const ConvProblem& p, int64_t panel) {
  return at_most(panel * W, p.filters > W ? p.filters - W : 0);
}

// Rows and vectors of a tile of 3 x 3 taps, and rows of one that is a vector wide. Each sum is a
// chain of multiply-adds: of sixteen registers, nine of them taps, six are sums.
#if defined(__AVX512F__) || defined(__aarch64__)
inline constexpr int kPlaneRows = 7;
inline constexpr int kNarrowRows = 7;
#elif defined(__AVX2__)
inline constexpr int kPlaneRows = 3;
inline constexpr int kNarrowRows = 6;
#else
inline constexpr int kPlaneRows = 2;
inline constexpr int kNarrowRows = 4;
#endif
inline constexpr int kPlaneVectors = 2;
static_assert(kNarrowRows % kPlaneRows == 0);
// Lines that it fetches for each frame that it reads.
inline constexpr int64_t kPlaneLines = 8;

// Where results go, and what becomes of them before.
template <class T>
struct PlaneEnds {
  T bias;
  T least;  // smaller sums become it
  T* out;
  int64_t stride;  // from one row to the next
  int64_t rows, lanes;
};

// The rows of one channel of a frame that a tile reads.
template <class T>
struct PlaneRows {
  const T* at;  // at the first tap of the first position
  int64_t pitch;
  int64_t weight;
};

// The window has zeros where rows or columns are outside.
struct AllInside {
  static constexpr int kFetch = 2;  // to the second-level cache: it is to be copied
  static constexpr bool row(int64_t) { return true; }
  template <class V, class T>
  [[gnu::always_inline]] V load_at(const T* at, int, int) const {
    return load<V>(at);
  }
};

#if defined(__AVX2__)
// Which of a tile's rows lie inside.
struct RowsInside {
  static constexpr int kFetch = 3;  // to the first-level cache: it is read where it lies
  int64_t first, last;
  bool row(int64_t i) const { return i >= first && i < last; }
  template <class V>
  [[gnu::always_inline]] V load_at(const float* at, int, int) const {
    return load<V>(at);
  }
};

// And which of its columns: lanes of each vector at each tap along W.
struct LanesInside : RowsInside {
#if defined(__AVX512F__)
  using Lanes = __mmask16;
#else
  using Lanes = __m256i;
#endif
  Lanes lanes[kPlaneVectors][3];

  // Of columns from `left` on, of a row of so many.
  LanesInside(const RowsInside& rows, int64_t left, int64_t columns) : RowsInside(rows) {
    constexpr int W = kLanesOf<float>;
    for (int v = 0; v < kPlaneVectors; ++v) {
      for (int l = 0; l < 3; ++l) {
        const int64_t begin = left + v * W + l;
        const auto outside = static_cast<int>(std::clamp<int64_t>(-begin, 0, W));
        const auto end = static_cast<int>(std::clamp<int64_t>(columns - begin, 0, W));
#if defined(__AVX512F__)
        lanes[v][l] = static_cast<__mmask16>(((1U << end) - 1U) & ~((1U << outside) - 1U));
#else
        const __m256i lane = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
        lanes[v][l] = _mm256_andnot_si256(_mm256_cmpgt_epi32(_mm256_set1_epi32(outside), lane),
                                          _mm256_cmpgt_epi32(_mm256_set1_epi32(end), lane));
#endif
      }
    }
  }

  template <class V>
  [[gnu::always_inline]] V load_at(const float* at, int v, int l) const {
#if defined(__AVX512F__)
    return V(_mm512_maskz_loadu_ps(lanes[v][l], at));
#else
    return V(_mm256_maskload_ps(at, lanes[v][l]));
#endif
  }
};
#endif

// 3 x 3 taps in each of `count` frames of one channel, for kRows rows of NV vectors from row h and
// position w on.
template <int kRows, int NV, class T, class Inside>
[[gnu::noinline, gnu::flatten]] void plane_tile(const PlaneRows<T>* frames, int64_t count,
                                                int64_t h, int64_t w, const Inside& inside,
                                                const T* weight, const std::byte* ahead,
                                                const PlaneEnds<T>& ends) {
  using V = Vec<T>;
  constexpr int W = kLanesOf<T>;
  if (ahead == nullptr) ahead = reinterpret_cast<const std::byte*>(weight);
  V sum[kRows][NV];
#pragma GCC unroll 8
  for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 2
    for (int v = 0; v < NV; ++v) sum[r][v] = V(T(0));
  }
  for (int64_t i = 0; i < count; ++i) {
    const int64_t pitch = frames[i].pitch;
    const T* a = frames[i].at + h * pitch + w;
    const T* b = weight + frames[i].weight;
    V taps[9];
#pragma GCC unroll 9
    for (int j = 0; j < 9; ++j) taps[j] = in_register(V(b[j * W]));
#pragma GCC unroll 8
    for (int64_t line = 0; line < kPlaneLines; ++line, ahead += 64) {
      __builtin_prefetch(ahead, 0, Inside::kFetch);
    }
#pragma GCC unroll 9
    for (int row = 0; row < kRows + 2; ++row, a += pitch) {
      if (!inside.row(row)) continue;
#pragma GCC unroll 3
      for (int l = 0; l < 3; ++l) {
#pragma GCC unroll 2
        for (int v = 0; v < NV; ++v) {
          const V x = in_register(inside.template load_at<V>(a + v * W + l, v, l));
#pragma GCC unroll 3
          for (int j = 0; j < 3; ++j) {
            const int r = row - j;
            if (r >= 0 && r < kRows) multiply_add(sum[r][v], x, taps[j * 3 + l]);
          }
        }
      }
    }
  }
  const V bias(ends.bias);
  const V least(ends.least);
#pragma GCC unroll 8
  for (int r = 0; r < kRows; ++r) {
    if (r >= ends.rows) break;
#pragma GCC unroll 2
    for (int v = 0; v < NV; ++v) {
      V result = sum[r][v] + bias;
      stdx::where(result < least, result) = least;
      store_first(ends.out + r * ends.stride + v * W, result, ends.lanes - v * W);
    }
  }
}

template <class S>
class DepthwisePlanes {
 public:
  using C = SumOf<ItemOf<S>>;
  static constexpr int W = kLanesOf<C>;
#if defined(__AVX2__)
  static constexpr bool kMayBeInPlace = std::is_same_v<S, float>;
#else
  static constexpr bool kMayBeInPlace = false;
#endif

  explicit DepthwisePlanes(const ConvBlock& b) : b_(b), p_(*b.problem), place_(b) {
    positions_ = b.end[2] - b.begin[2];
    in_place_ = kMayBeInPlace && b.end[0] - b.begin[0] == 1;
    ScratchParts parts(b.scratch);
    parts.take(frames_, p_.taps[0].count);
    parts.take(sums_, (b.end[1] - b.begin[1]) * place_.width.extent + W);
    parts.take(window_, in_place_ ? 0 : ring_pixels());
    scratch_bytes_ = parts.bytes();
  }

  int64_t scratch_bytes() const { return scratch_bytes_; }

  void run() {
    const int64_t rows = b_.end[1] - b_.begin[1];
    if (rows <= 0 || positions_ <= 0) return;
    // Once for all channels: the padding, and what tiles read behind the last row.
    if (!in_place_) clear(window_, ring_pixels());
    const int64_t last = at_most(b_.last_panel * W, p_.filters);
    for (int64_t channel = b_.first_panel * W; channel < last; ++channel) {
      const int64_t panel = channel / W;
      const C* const weights = static_cast<const C*>(b_.packed) + panel * W * p_.tap_count() +
                               channel - first_depthwise<W>(p_, panel);
      const C bias = b_.bias != nullptr ? static_cast<const C*>(b_.bias)[channel] : C(0);
      int64_t packed = 0;
      for (int64_t t = b_.begin[0]; t < b_.end[0]; ++t) {
        const int64_t seen = place_.time.extent - (b_.end[0] - 1 - t) * place_.time.step;
        for (; packed < seen; ++packed) {
          if (!in_place_) pack_frame(channel, packed);
        }
        S* const to = static_cast<S*>(b_.out) + channel * b_.out_strides.c +
                      t * b_.out_strides.s[0] + b_.begin[1] * b_.out_strides.s[1] + b_.begin[2];
        sum_frame(t, rows, weights, bias, channel, packed, to);
      }
    }
  }

 private:
  // Frames of the window that a frame of outputs reads; the others take their places in turn.
  int64_t ring() const {
    const ConvTaps& taps = p_.taps[0];
    return taps.count > 0 ? taps.offset[taps.count - 1] - taps.offset[0] + 1 : 1;
  }
  int64_t frame_pixels() const { return place_.height.extent * place_.width.extent; }
  int64_t ring_pixels() const {
    const int64_t behind = kNarrowRows * place_.width.extent + kPlaneVectors * W;
    return at_most(ring(), place_.time.extent) * frame_pixels() + behind;
  }

  // f(i, local frame) for each tap along T that lies inside.
  template <class F>
  void each_frame(int64_t t, const F& f) const {
    const ConvTaps& taps = p_.taps[0];
    for (int64_t i = 0; i < taps.count; ++i) {
      const int64_t read = t * taps.step + taps.offset[i];
      if (read < 0 || read >= p_.in[0]) continue;
      f(i, (t - b_.begin[0]) * place_.time.step + taps.offset[i] - taps.offset[0]);
    }
  }

  // A frame of outputs; `packed` frames of the window are there.
  void sum_frame(int64_t t, int64_t rows, const C* weights, C bias, int64_t channel, int64_t packed,
                 S* to) {
    const int64_t pitch = place_.width.extent;
    int64_t frames = 0;
    each_frame(t, [&](int64_t i, int64_t frame) {
      if constexpr (kMayBeInPlace) {
        if (in_place_) {
          const FrameAt<S> at = frame_at(channel, frame);
          frames_[frames++] = {at.data + place_.height.first * at.row, at.row, i * 9 * W};
          return;
        }
      }
      frames_[frames++] = {window_ + frame % ring() * frame_pixels(), pitch, i * 9 * W};
    });
    // What a tile finishes itself.
    const bool simple = b_.activation == Activation::none || b_.activation == Activation::relu;
    const bool finished = std::is_same_v<S, C> && simple;
    PlaneEnds<C> ends;
    ends.bias = finished ? bias : C(0);
    ends.least =
        finished && b_.activation == Activation::relu ? C(0) : -std::numeric_limits<C>::infinity();
    ends.stride = finished ? b_.out_strides.s[1] : pitch;
    C* const out = finished ? reinterpret_cast<C*>(to) : sums_;
    constexpr int64_t kStep = kPlaneVectors * W;
    const int64_t tail = positions_ % kStep;
    const int64_t narrow = tail > 0 && tail <= W ? 1 : 0;
    const int64_t wide = (positions_ + kStep - 1) / kStep - narrow;
    const int64_t calls = (rows + kPlaneRows - 1) / kPlaneRows * wide +
                          (rows + kNarrowRows - 1) / kNarrowRows * narrow;
    StretchAhead ahead = frame_ahead(channel, packed, frames, calls);
    const auto tile = [&]<int kRows, int NV>(int64_t h, int64_t w) {
      ends.rows = at_most(kRows, rows - h);
      ends.lanes = positions_ - w;
      ends.out = out + h * ends.stride + w;
      sum_tile<kRows, NV>(frames, h, w, weights, ahead.next().at, ends);
    };
    for (int64_t h = 0; h < rows; h += kNarrowRows) {
      for (int64_t r = h; r < at_most(h + kNarrowRows, rows); r += kPlaneRows) {
        for (int64_t i = 0; i < wide; ++i) {
          tile.template operator()<kPlaneRows, kPlaneVectors>(r, i * kStep);
        }
      }
      if (narrow != 0) tile.template operator()<kNarrowRows, 1>(h, wide * kStep);
    }
    if (!finished) finish_run(rows, pitch, bias, to);
  }

  template <int kRows, int NV>
  void sum_tile(int64_t frames, int64_t h, int64_t w, const C* weights, const std::byte* ahead,
                const PlaneEnds<C>& ends) const {
#if defined(__AVX2__)
    if constexpr (kMayBeInPlace) {
      if (in_place_) {
        const int64_t top = place_.height.first + h;
        const int64_t left = place_.width.first + w;
        const RowsInside inside{top < 0 ? -top : 0, at_most(p_.in[1] - top, ends.rows + 2)};
        if (left >= 0 && left + NV * W + 2 <= p_.in[2]) {
          plane_tile<kRows, NV>(frames_, frames, h, w, inside, weights, ahead, ends);
        } else {
          plane_tile<kRows, NV>(frames_, frames, h, w, LanesInside(inside, left, p_.in[2]), weights,
                                ahead, ends);
        }
        return;
      }
    }
#endif
    plane_tile<kRows, NV>(frames_, frames, h, w, AllInside(), weights, ahead, ends);
  }

  // A frame of the window, of one channel, at its first column.
  FrameAt<S> frame_at(int64_t channel, int64_t index) const {
    FrameAt<S> frame = place_.frame<S>(b_, index);
    if (frame.data != nullptr) frame.data += channel * frame.channel + place_.width.first;
    return frame;
  }

  // What tiles fetch meanwhile: the first frame that is inside from this one on, or from the first
  // of the next channel.
  StretchAhead frame_ahead(int64_t channel, int64_t index, int64_t frames, int64_t calls) const {
    FrameAt<S> frame{};
    for (; frame.data == nullptr && channel < at_most(b_.last_panel * W, p_.filters); ++channel) {
      for (; frame.data == nullptr && index < place_.time.extent; ++index) {
        frame = frame_at(channel, index);
      }
      index = 0;
    }
    const int64_t first = place_.height.first > 0 ? place_.height.first : 0;
    const int64_t last = at_most(place_.height.first + place_.height.extent, p_.in[1]);
    if (frame.data == nullptr || last <= first) return {nullptr, 0, 1, 1};
    const int64_t items = (last - first) * frame.row;
    return {frame.data + first * frame.row, items * static_cast<int64_t>(sizeof(S)),
            kPlaneLines * frames, calls};
  }

  // A frame of one channel of the window, where it is inside along H and W.
  [[gnu::flatten]] void pack_frame(int64_t channel, int64_t index) {
    using V = Vec<C>;
    const FrameAt<S> frame = frame_at(channel, index);
    if (frame.data == nullptr) return;
    const int64_t pitch = place_.width.extent;
    const int64_t low = place_.width.first < 0 ? -place_.width.first : 0;
    const int64_t inner = at_most(p_.in[2] - place_.width.first, pitch) - low;
    if (inner <= 0) return;
    C* to = window_ + index % ring() * frame_pixels() + low;
    for (int64_t h = 0; h < place_.height.extent; ++h, to += pitch) {
      const int64_t row = place_.height.first + h;
      if (row < 0 || row >= p_.in[1]) continue;
      const S* from = frame.data + row * frame.row + low;
      each_vector(inner, [&](int64_t w, int64_t count) {
        store_first(to + w, load_first<V>(from + w, count), count);
      });
    }
  }

  // f(first, count) of vectors that cover `count` items: the last overlaps the one before if it
  // can.
  template <class F>
  [[gnu::always_inline]] static void each_vector(int64_t count, const F& f) {
    int64_t i = 0;
    for (; i + W <= count; i += W) f(i, int64_t{W});
    if (i == count) return;
    if (count >= W) {
      f(count - W, int64_t{W});
    } else {
      f(i, count);
    }
  }

  [[gnu::flatten]] void finish_run(int64_t rows, int64_t pitch, C bias, S* to) const {
    using V = Vec<C>;
    with_activation<C>(b_.activation, [&](const auto& act) {
      for (int64_t i = 0; i < rows; ++i) {
        each_vector(positions_, [&](int64_t w, int64_t count) {
          const V sum = load<V>(sums_ + i * pitch + w);
          store_first(to + i * b_.out_strides.s[1] + w, act(sum + V(bias)), count);
        });
      }
    });
  }

  const ConvBlock& b_;
  const ConvProblem& p_;
  WindowPlace place_;
  int64_t positions_;
  bool in_place_;
  int64_t scratch_bytes_;
  PlaneRows<C>* frames_ = nullptr;
  C* sums_ = nullptr;
  C* window_ = nullptr;
};

}  // namespace marey::MAREY_ISA_NS
