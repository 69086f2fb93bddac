// Depthwise convolution: a filter for each channel. Channels are lanes; a register tile is up to 14
// positions along W of one vector of channels, each tap a load of its weights and a multiply-add
// from memory for each position.
//
// One vector of channels of a window is copied into scratch as (T, H, W, lanes), of the type of the
// sums, with zeros for the padding along W. So pixels are whole cache lines whatever the layout and
// the number of channels: loads that straddle lines, and masks for the border and for channels that
// do not fill a vector, would cost as much as the copy.
#include "core/tile.h"
#include "ops/conv/activation.h"
#include "ops/conv/conv3d.h"
#include "ops/conv/conv3d_window.h"

namespace marey::MAREY_ISA_NS {
namespace {

constexpr int64_t kBlockBytes = int64_t{640} << 10;

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

  // ---- weights: vectors of filters, in each (taps, lanes) ----

  static int64_t packed_bytes(const ConvProblem& p) {
    return round_up(p.filters, W) * p.tap_count() * static_cast<int64_t>(sizeof(C));
  }
  static void pack(const ConvProblem& p, const ConvWeights& w, int64_t first, int64_t last,
                   void* packed) {
    C* to = static_cast<C*>(packed) + first * W * p.tap_count();
    for (int64_t panel = first; panel < last; ++panel) {
      const int64_t count = at_most(W, p.filters - panel * W);
      const S* from = static_cast<const S*>(w.data) + panel * W * w.filter;
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

  static int64_t scratch(const ConvBlock& b) { return Depthwise(b).scratch_bytes_; }
  static void run(const ConvBlock& b) {
    Depthwise depthwise(b);
    for (int64_t panel = b.first_panel; panel < b.last_panel; ++panel) depthwise.run(panel);
  }

 private:
  explicit Depthwise(const ConvBlock& b) : b_(b), p_(*b.problem), place_(b) {
    positions_ = b.end[2] - b.begin[2];
    int64_t bytes = 0;
    const auto take = [&](int64_t size) {
      const int64_t part = bytes;
      bytes += round_up(size, 64);
      return part;
    };
    constexpr auto kSum = static_cast<int64_t>(sizeof(C));
    const int64_t taps = take(p_.tap_count() * static_cast<int64_t>(sizeof(TapAt)));
    const int64_t sums = take((positions_ + W) * W * kSum);
    const int64_t window = take(place_.pixels() * W * kSum);
    scratch_bytes_ = bytes;
    if (b.scratch == nullptr) return;
    taps_ = reinterpret_cast<TapAt*>(b.scratch + taps);
    sums_ = reinterpret_cast<C*>(b.scratch + sums);
    window_ = reinterpret_cast<C*>(b.scratch + window);
  }

  void run(int64_t panel) {
    static constexpr DepthwiseTiles<C> kTiles;
    const int64_t first = panel * W;
    const int64_t lanes = at_most(W, p_.filters - first);
    place_.pack<S>(b_, first, lanes, W, window_);
    const C* weights = static_cast<const C*>(b_.packed) + first * p_.tap_count();
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

  const ConvBlock& b_;
  const ConvProblem& p_;
  WindowPlace place_;
  int64_t positions_;
  int64_t scratch_bytes_;
  TapAt* taps_ = nullptr;
  C* sums_ = nullptr;
  C* window_ = nullptr;
};

template <class S>
constexpr ConvKernel functions() {
  using D = Depthwise<S>;
  return {D::W, 1, kBlockBytes, 1.0, D::packed_bytes, D::pack, D::scratch, D::run};
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
