// Depthwise convolution: a filter for each channel. Channels are lanes; a register tile is several
// neighbouring positions along W of one vector of channels.
//
// Where channels are contiguous in memory the input is read in place. Loads straddle cache lines
// there and cost two cycles, so that each serves the three taps of a row (`sliding_tile`), and with
// registers enough two rows of the output: with seven positions nine loads for up to 42
// multiply-adds, and a third less to read from the second-level cache. A tap that is one position
// outside of the row reads zeros; positions with taps further outside go one by one. A block walks
// along time with a few rows of all channels, whose frames stay in the second-level cache.
//
// Where W is contiguous, kernels of 3 x 3 in space of stride and dilation 1 have positions as lanes
// (conv3d_depthwise_planes.h).
//
// Else one vector of channels of a window is copied as (T, H, W, lanes), with zeros for the padding
// along W: pixels are then whole cache lines. Copying channels that are contiguous, too, was half
// as fast as reading them in place.
#include <algorithm>
#include <limits>

#include "core/tile.h"
#include "ops/conv/activation.h"
#include "ops/conv/conv3d.h"
#include "ops/conv/conv3d_depthwise_planes.h"
#include "ops/conv/conv3d_window.h"

namespace marey::MAREY_ISA_NS {
namespace {

constexpr int64_t kBlockBytes = int64_t{640} << 10;
// Of what is read in place, and of what is copied.
constexpr double kReadCost = 4.0;
constexpr double kCopyCost = 16.0;
constexpr int kSlide = 7;  // positions of a sliding tile

template <int kRows, class T>
[[gnu::noinline, gnu::flatten]] void depthwise_tile(const T* input, int64_t stride,
                                                    const TapAt* taps, int64_t count,
                                                    const T* weight, T* out) {
  using V = Vec<T>;
  constexpr int W = kLanesOf<T>;
  V sum[kRows];
#pragma GCC unroll 16
  for (int i = 0; i < kRows; ++i) sum[i] = V(T(0));
  for (int64_t tap = 0; tap < count; ++tap) {
    const T* a = input + taps[tap].input;
    const V w = load<V>(weight + taps[tap].weight);
#pragma GCC unroll 16
    for (int i = 0; i < kRows; ++i) sum[i] += load<V>(a + i * stride) * w;
  }
#pragma GCC unroll 16
  for (int i = 0; i < kRows; ++i) store(out + i * W, sum[i]);
}

// What a tap outside of the row reads.
template <class S>
alignas(64) inline constexpr S kZeros[64] = {};

// What a tile needs beside its taps.
template <class T>
struct SlidingEnds {
  bool before, behind;     // whether its first tap, and its last, is outside of the row
  const T* bias;           // of a vector of channels; null: none
  const std::byte* ahead;  // kSlidingLines lines to be fetched; null: none
  T least;                 // smaller sums become it
};

inline constexpr int64_t kSlidingLines = 12;

// Rows of the output that a sliding tile computes at once.
#if defined(__AVX512F__) || defined(__aarch64__)
inline constexpr int kSlidingRows = 2;
#else
inline constexpr int kSlidingRows = 1;
#endif

// A row of the input, and its weights for each row of the output; negative: it has none for it.
struct SlidingRow {
  int64_t input;
  int64_t weight[kSlidingRows];
};

// Three neighbouring taps a row, stride 1, from memory of any type. Results lie `out_stride` apart,
// those of the second row, if there is one, `out_row` behind the first's.
template <int kColumns, class S, class T>
[[gnu::noinline, gnu::flatten]] void sliding_tile(const S* input, int64_t stride,
                                                  const SlidingRow* rows, int64_t count,
                                                  const T* weight, const SlidingEnds<T>& ends,
                                                  T* out, int64_t out_stride, int64_t out_row) {
  using V = Vec<T>;
  constexpr int W = kLanesOf<T>;
  if (ends.ahead != nullptr) {
#pragma GCC unroll 16
    for (int64_t line = 0; line < kSlidingLines; ++line) {
      __builtin_prefetch(ends.ahead + line * RunsAhead::kLineBytes, 0, 2);
    }
  }
  V sum[kSlidingRows][kColumns];
#pragma GCC unroll 2
  for (int r = 0; r < kSlidingRows; ++r) {
#pragma GCC unroll 16
    for (int i = 0; i < kColumns; ++i) sum[r][i] = V(T(0));
  }
  for (int64_t row = 0; row < count; ++row) {
    const S* a = input + rows[row].input;
    const S* const first = ends.before ? kZeros<S> : a;
    const S* const last = ends.behind ? kZeros<S> : a + (kColumns + 1) * stride;
    V x[kColumns + 2];
#pragma GCC unroll 16
    for (int i = 0; i < kColumns + 2; ++i) {
      x[i] = in_register(load_as<V>(i == 0 ? first : i == kColumns + 1 ? last : a + i * stride));
    }
#pragma GCC unroll 2
    for (int r = 0; r < kSlidingRows; ++r) {
      if (rows[row].weight[r] < 0) continue;
      const T* b = weight + rows[row].weight[r];
      const V w0 = load<V>(b);
      const V w1 = load<V>(b + W);
      const V w2 = load<V>(b + 2 * W);
#pragma GCC unroll 16
      for (int i = 0; i < kColumns; ++i) {
        sum[r][i] += x[i] * w0;
        sum[r][i] += x[i + 1] * w1;
        sum[r][i] += x[i + 2] * w2;
      }
    }
  }
  const V bias = ends.bias != nullptr ? load<V>(ends.bias) : V(T(0));
#pragma GCC unroll 2
  for (int r = 0; r < kSlidingRows; ++r) {
    if (r > 0 && out_row == 0) break;
#pragma GCC unroll 16
    for (int i = 0; i < kColumns; ++i) {
      V result = sum[r][i] + bias;
      stdx::where(result < V(ends.least), result) = V(ends.least);
      store(out + r * out_row + i * out_stride, result);
    }
  }
}

template <class S, class T>
using SlidingTile = void (*)(const S*, int64_t, const SlidingRow*, int64_t, const T*,
                             const SlidingEnds<T>&, T*, int64_t, int64_t);

template <class S, class T, int... kColumns>
constexpr void fill(SlidingTile<S, T> (&table)[kSlide + 1],
                    std::integer_sequence<int, kColumns...>) {
  ((table[kColumns + 1] = sliding_tile<kColumns + 1, S, T>), ...);
}

template <class S, class T>
struct SlidingTiles {
  SlidingTile<S, T> of[kSlide + 1] = {};
  constexpr SlidingTiles() { fill<S, T>(of, std::make_integer_sequence<int, kSlide>{}); }
};

template <class T>
using DepthwiseTile = void (*)(const T*, int64_t, const TapAt*, int64_t, const T*, T*);

template <class T, int... kRows>
constexpr void fill(DepthwiseTile<T> (&table)[kConvRows + 1],
                    std::integer_sequence<int, kRows...>) {
  ((table[kRows + 1] = depthwise_tile<kRows + 1, T>), ...);
}

template <class T>
struct DepthwiseTiles {
  DepthwiseTile<T> of[kConvRows + 1] = {};
  constexpr DepthwiseTiles() { fill<T>(of, std::make_integer_sequence<int, kConvRows>{}); }
};

template <class S>
class Depthwise {
 public:
  using C = SumOf<ItemOf<S>>;
  static constexpr int W = kLanesOf<C>;

  // ---- weights: vectors of filters, in each (taps, lanes); the last overlaps the one before ----

  static int64_t first_filter(const ConvProblem& p, int64_t panel) {
    return first_depthwise<W>(p, panel);
  }
  static int64_t packed_bytes(const ConvProblem& p) {
    return round_up(p.filters, W) * p.tap_count() * static_cast<int64_t>(sizeof(C));
  }
  static void pack(const ConvProblem& p, const ConvWeights& w, int64_t first, int64_t last,
                   void* packed, std::byte*) {
    C* to = static_cast<C*>(packed) + first * W * p.tap_count();
    for (int64_t panel = first; panel < last; ++panel) {
      const int64_t filter = first_filter(p, panel);
      const int64_t count = at_most(W, p.filters - filter);
      const S* from = static_cast<const S*>(w.data) + filter * w.filter;
      for (int64_t i = 0; i < p.taps[0].count; ++i) {
        for (int64_t j = 0; j < p.taps[1].count; ++j) {
          for (int64_t l = 0; l < p.taps[2].count; ++l, to += W) {
            const S* at = from + p.taps[0].source[i] * w.tap[0] + p.taps[1].source[j] * w.tap[1] +
                          p.taps[2].source[l] * w.tap[2];
            for (int64_t k = 0; k < W; ++k) to[k] = k < count ? convert<C>(at[k * w.filter]) : C(0);
          }
        }
      }
    }
  }

  // ---- a block ----

  static int64_t scratch(const ConvBlock& b) {
    if (b.problem->inputs == ConvInputs::rows) return DepthwisePlanes<S>(b).scratch_bytes();
    return Depthwise(b).scratch_bytes_;
  }
  static void run(const ConvBlock& b) {
    if (b.problem->inputs == ConvInputs::rows) return DepthwisePlanes<S>(b).run();
    Depthwise depthwise(b);
    if (depthwise.slides()) {
      depthwise.run_in_place();
      return;
    }
    for (int64_t panel = b.first_panel; panel < b.last_panel; ++panel) depthwise.run(panel);
  }

 private:
  explicit Depthwise(const ConvBlock& b) : b_(b), p_(*b.problem), place_(b) {
    positions_ = b.end[2] - b.begin[2];
    ScratchParts parts(b.scratch);
    parts.take(taps_, p_.tap_count());
    parts.take(rows_, kSlidingRows * p_.taps[0].count * p_.taps[1].count);
    parts.take(sums_, (positions_ + W) * W);
    parts.take(window_, place_.pixels() * W);
    scratch_bytes_ = parts.bytes();
  }

  void run(int64_t panel) {
    static constexpr DepthwiseTiles<C> kTiles;
    const int64_t first = first_filter(p_, panel);
    const int64_t lanes = at_most(W, p_.filters - first);
    place_.pack<S>(b_, first, lanes, W, window_);
    const C* weights = static_cast<const C*>(b_.packed) + panel * W * p_.tap_count();
    alignas(64) C bias[W] = {};
    if (b_.bias != nullptr) {
      for (int64_t k = 0; k < lanes; ++k) bias[k] = static_cast<const C*>(b_.bias)[first + k];
    }
    for (int64_t t = b_.begin[0]; t < b_.end[0]; ++t) {
      for (int64_t h = b_.begin[1]; h < b_.end[1]; ++h) {
        const int64_t taps = place_.list_taps(b_, t, h, W, W, false, taps_);
        const C* input = window_;
        C* sums = sums_;
        int64_t parts = (positions_ + kConvRows - 1) / kConvRows;
        for (int64_t left = positions_; left > 0; --parts) {
          const int64_t rows = (left + parts - 1) / parts;
          kTiles.of[rows](input, place_.width.step * W, taps_, taps, weights, sums);
          input += rows * place_.width.step * W;
          sums += rows * W;
          left -= rows;
        }
        finish_sums<C>(sums_, positions_, W, b_.bias != nullptr ? bias : nullptr, b_.activation);
        S* to = static_cast<S*>(b_.out) + first * b_.out_strides.c + t * b_.out_strides.s[0] +
                h * b_.out_strides.s[1] + b_.begin[2] * b_.out_strides.s[2];
        unpack_pixels(sums_, W, positions_, lanes, to, b_.out_strides.c, b_.out_strides.s[2]);
      }
    }
  }

  // Rows of the input that `count` rows of the output from h on read, from channel 0 of position 0;
  // how many. Frames of the past lie in another array, at their distance from this one.
  int64_t list_rows(int64_t t, int64_t h, int64_t outputs, const S* x) const {
    const std::array<ConvTaps, 3>& taps = p_.taps;
    int64_t count = 0;
    for (int64_t i = 0; i < taps[0].count; ++i) {
      int64_t frame = t * taps[0].step + taps[0].offset[i];
      if (frame < 0 || frame >= p_.in[0]) continue;
      const bool past = frame < b_.history;
      if (!past) frame -= b_.history;
      const ConvStrides& strides = past ? b_.past_strides : b_.x_strides;
      const S* from = static_cast<const S*>(past ? b_.past : b_.x) + frame * strides.s[0];
      const int64_t frame_begins = count;
      for (int64_t r = 0; r < outputs; ++r) {
        for (int64_t j = 0; j < taps[1].count; ++j) {
          const int64_t row = (h + r) * taps[1].step + taps[1].offset[j];
          if (row < 0 || row >= p_.in[1]) continue;
          const auto bytes =
              reinterpret_cast<intptr_t>(from + row * strides.s[1]) - reinterpret_cast<intptr_t>(x);
          const int64_t input = bytes / static_cast<intptr_t>(sizeof(S));
          int64_t at = frame_begins;
          while (at < count && rows_[at].input != input) ++at;
          if (at == count) {
            rows_[count].input = input;
            for (int64_t& weight : rows_[count].weight) weight = -1;
            ++count;
          }
          rows_[at].weight[r] = (i * taps[1].count + j) * taps[2].count * W;
        }
      }
    }
    return count;
  }

  bool slides() const {
    const ConvTaps& width = p_.taps[2];
    if (width.count != 3 || width.step != 1 || !contiguous(width)) return false;
    if (p_.filters < W || b_.x_strides.c != 1 || b_.out_strides.c != 1) return false;
    return b_.history == 0 || (b_.past_strides.c == 1 && b_.past_strides.s[2] == b_.x_strides.s[2]);
  }

  // What is read for the first time after a frame of outputs: the rows of the last frame that the
  // next one sees, or that the next block does.
  StretchAhead frame_after(int64_t t, int64_t calls) const {
    const bool more = t + 1 < b_.end[0];
    const ConvBlock* const block = more ? &b_ : b_.next;
    if (block == nullptr) return {nullptr, 0, 1, 1};
    const ConvTaps& time = p_.taps[0];
    const ConvTaps& height = p_.taps[1];
    const int64_t next = more ? t + 1 : block->begin[0];
    const int64_t frame = next * time.step + time.offset[time.count - 1];
    const auto row = [&](int64_t h, int64_t tap) {
      return std::clamp<int64_t>(h * height.step + height.offset[tap], 0, p_.in[1] - 1);
    };
    const int64_t first = row(block->begin[1], 0);
    const int64_t last = row(block->end[1] - 1, height.count - 1);
    if (frame < b_.history || frame >= p_.in[0]) return {nullptr, 0, 1, 1};
    const ConvStrides& x = block->x_strides;
    const S* const at =
        static_cast<const S*>(block->x) + (frame - b_.history) * x.s[0] + first * x.s[1];
    const int64_t items = (last + 1 - first) * x.s[1];
    return {at, items * static_cast<int64_t>(sizeof(S)), kSlidingLines, calls};
  }

  void run_in_place() {
    const S* const x = static_cast<const S*>(b_.x);
    for (int64_t t = b_.begin[0]; t < b_.end[0]; ++t) {
      StretchAhead ahead = frame_after(t, (b_.end[1] - b_.begin[1] + kSlidingRows - 1) /
                                              kSlidingRows * ((positions_ + kSlide - 1) / kSlide) *
                                              (b_.last_panel - b_.first_panel));
      for (int64_t h = b_.begin[1]; h < b_.end[1]; h += kSlidingRows) {
        const int64_t outputs = at_most(kSlidingRows, b_.end[1] - h);
        const int64_t rows = list_rows(t, h, outputs, x);
        S* const to = static_cast<S*>(b_.out) + t * b_.out_strides.s[0] + h * b_.out_strides.s[1];
        for (int64_t w = b_.begin[2]; w < b_.end[2];)
          w += sum_positions(w, outputs, rows, x, to, ahead);
      }
    }
  }

  // Results of all channels of as many positions from w on as a tile takes, in so many rows.
  int64_t sum_positions(int64_t w, int64_t outputs, int64_t rows, const S* x, S* to,
                        StretchAhead& ahead) {
    static constexpr SlidingTiles<S, C> kTiles;
    const ConvTaps& width = p_.taps[2];
    const int64_t pixel = b_.x_strides.s[2];
    const int64_t left = w + width.offset[0];
    // Positions from w on whose middle tap is inside, in equal parts: the first tap of the first of
    // them may be one position outside, and so may the last tap of the last.
    const int64_t inside = left >= -1 ? at_most(p_.in[2] + 1 - width.offset[2], b_.end[2]) - w : 0;
    const int64_t parts = (inside + kSlide - 1) / kSlide;
    const int64_t count = inside > 0 ? (inside + parts - 1) / parts : 1;
    SlidingEnds<C> ends;
    ends.before = left < 0;
    ends.behind = w + count - 1 + width.offset[2] >= p_.in[2];
    // What a tile finishes itself.
    const bool simple = b_.activation == Activation::none || b_.activation == Activation::relu;
    const bool finished = std::is_same_v<S, C> && inside > 0 && simple;
    constexpr C kLowest = -std::numeric_limits<C>::infinity();
    ends.least = finished && b_.activation == Activation::relu ? C(0) : kLowest;
    alignas(64) C sums[kSlidingRows * kSlide * W];
    for (int64_t panel = b_.first_panel; panel < b_.last_panel; ++panel) {
      const int64_t lane = first_filter(p_, panel);
      const C* const weights = static_cast<const C*>(b_.packed) + panel * W * p_.tap_count();
      const C* const bias = b_.bias != nullptr ? static_cast<const C*>(b_.bias) + lane : nullptr;
      S* const out = to + lane + w * b_.out_strides.s[2];
      if (inside > 0) {
        ends.bias = finished ? bias : nullptr;
        ends.ahead = ahead.next().at;
        const int64_t out_row = finished ? b_.out_strides.s[1] : kSlide * W;
        kTiles.of[count](x + left * pixel + lane, pixel, rows_, rows, weights, ends,
                         finished ? reinterpret_cast<C*>(out) : sums,
                         finished ? b_.out_strides.s[2] : W, outputs > 1 ? out_row : 0);
        if (finished) continue;
      } else {
        for (int64_t r = 0; r < outputs; ++r) {
          sum_one(w, r, rows, x + lane, weights, sums + r * kSlide * W);
        }
      }
      for (int64_t r = 0; r < outputs; ++r) {
        finish_vectors<C, S>(sums + r * kSlide * W, count, bias, b_.activation,
                             out + r * b_.out_strides.s[1], b_.out_strides.s[2]);
      }
    }
    return count;
  }

  // One position, of whose taps along W some may be outside.
  void sum_one(int64_t w, int64_t output, int64_t rows, const S* x, const C* weights,
               C* sums) const {
    using V = Vec<C>;
    const ConvTaps& width = p_.taps[2];
    V sum(C(0));
    for (int64_t row = 0; row < rows; ++row) {
      const int64_t weight = rows_[row].weight[output];
      if (weight < 0) continue;
      for (int64_t l = 0; l < width.count; ++l) {
        const int64_t column = w * width.step + width.offset[l];
        if (column < 0 || column >= p_.in[2]) continue;
        sum += load_as<V>(x + rows_[row].input + column * b_.x_strides.s[2]) *
               load<V>(weights + weight + l * W);
      }
    }
    store(sums, sum);
  }

  const ConvBlock& b_;
  const ConvProblem& p_;
  WindowPlace place_;
  int64_t positions_;
  int64_t scratch_bytes_;
  TapAt* taps_ = nullptr;
  SlidingRow* rows_ = nullptr;
  C* sums_ = nullptr;
  C* window_ = nullptr;
};

template <class S>
constexpr ConvKernel functions() {
  using D = Depthwise<S>;
  return {.panel = D::W,
          .tile = kSlidingRows,
          .block_bytes = kBlockBytes,
          .copy_cost = kReadCost,
          .copy_cost_of_rows = kCopyCost,
          .takes_rows = true,
          .packed_bytes = D::packed_bytes,
          .pack = D::pack,
          .scratch = D::scratch,
          .run = D::run};
}

}  // namespace

ConvKernel select_conv3d_depthwise(DType dtype) {
  switch (dtype) {
    case DType::f64:
      return functions<double>();
    case DType::bf16:
      return functions<bfloat16>();
    default:
      return functions<float>();
  }
}

}  // namespace marey::MAREY_ISA_NS
