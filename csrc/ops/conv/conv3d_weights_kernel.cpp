// Gradients of weights: a matrix product whose depth is positions of the output. Filters are lanes,
// channels are rows of the register tile of conv3d_tile.h; a step of the depth broadcasts the
// inputs of neighbouring channels at one position, and takes a vector of filters' gradients there.
//
// A block of positions is copied as the forward kernels do: inputs as (T, H, W, channels),
// gradients as (positions, lanes) for each panel of filters, both of the type of the sums. For each
// tap and tile of channels, sums go through registers once for all positions of the block, a few
// hundred, so that gradients stay in the first-level cache or near it.
//
// Depthwise: channels are lanes of both; three neighbouring taps share what they load, and eight
// sums in flight hide the latency of the multiply-adds.
#include "core/tile.h"
#include "ops/conv/conv3d_backward.h"
#include "ops/conv/conv3d_window.h"

namespace marey::MAREY_ISA_NS {
namespace {

template <class S>
using ComputeOf = SumOf<ItemOf<S>>;

// `bytes` of scratch from an offset that moves on.
int64_t take(int64_t& offset, int64_t bytes) {
  const int64_t at = offset;
  offset += round_up(bytes, 64);
  return at;
}

// Rows of the gradient, (positions, lanes) in `to`.
template <class S, class C>
void pack_gradients(const ConvGradBlock& b, int64_t filter, int64_t filters, int64_t lanes, C* to) {
  const ConvBlock& block = b.block;
  const int64_t positions = block.end[2] - block.begin[2];
  for (int64_t t = block.begin[0]; t < block.end[0]; ++t) {
    for (int64_t h = block.begin[1]; h < block.end[1]; ++h, to += positions * lanes) {
      const S* from = static_cast<const S*>(b.grad) + filter * b.grad_strides.c +
                      t * b.grad_strides.s[0] + h * b.grad_strides.s[1];
      pack_pixels(from, b.grad_strides.c, b.grad_strides.s[2], block.begin[2], block.end[2],
                  block.end[2], filters, lanes, to);
    }
  }
}

// Where a tap of a row of outputs (t, h) reads in the window; false if it is outside.
bool find_row(const ConvBlock& b, const WindowPlace& place, int64_t t, int64_t h, int64_t i,
              int64_t j, int64_t pitch, int64_t& input) {
  const ConvTaps& time = b.problem->taps[0];
  const ConvTaps& height = b.problem->taps[1];
  const int64_t frame = t * time.step + time.offset[i];
  const int64_t row = h * height.step + height.offset[j];
  if (frame < 0 || frame >= b.problem->in[0] || row < 0 || row >= b.problem->in[1]) return false;
  const int64_t local_frame = (t - b.begin[0]) * place.time.step + time.offset[i] - time.offset[0];
  const int64_t local_row =
      (h - b.begin[1]) * place.height.step + height.offset[j] - height.offset[0];
  input = (local_frame * place.height.extent + local_row) * place.width.extent * pitch;
  return true;
}

template <class S>
[[gnu::flatten]] void sum_grad(const ConvGradBlock& b, double* total) {
  using C = ComputeOf<S>;
  using V = Vec<C>;
  constexpr int W = kLanesOf<C>;
  const ConvBlock& block = b.block;
  const int64_t positions = block.end[2] - block.begin[2];
  C* const row = reinterpret_cast<C*>(block.scratch);
  for (int64_t k = 0; k < b.filters; k += W) {
    const int64_t count = at_most(W, b.filters - k);
    for (int64_t t = block.begin[0]; t < block.end[0]; ++t) {
      for (int64_t h = block.begin[1]; h < block.end[1]; ++h) {
        const S* from = static_cast<const S*>(b.grad) + (b.first_filter + k) * b.grad_strides.c +
                        t * b.grad_strides.s[0] + h * b.grad_strides.s[1];
        pack_pixels(from, b.grad_strides.c, b.grad_strides.s[2], block.begin[2], block.end[2],
                    block.end[2], count, W, row);
        V even(C(0));
        V odd(C(0));
        int64_t w = 0;
        for (; w + 2 <= positions; w += 2) {
          even += load<V>(row + w * W);
          odd += load<V>(row + (w + 1) * W);
        }
        if (w < positions) even += load<V>(row + w * W);
        const V sum = even + odd;
        for (int64_t j = 0; j < count; ++j) {
          total[k + j] += static_cast<double>(sum[static_cast<std::size_t>(j)]);
        }
      }
    }
  }
}

// One vector of filters and one channel: (taps, `pitch`) partial sums to W runs of taps.
template <class S, class C>
[[gnu::flatten]] void finish_lanes(const C* sums, int64_t pitch, int64_t parts, int64_t stride,
                                   int64_t taps, int64_t lanes, S* to, int64_t filter_stride) {
  using V = Vec<C>;
  constexpr int W = kLanesOf<C>;
  for (int64_t tap = 0; tap < taps; tap += W) {
    const int64_t rows = at_most(W, taps - tap);
    V square[W];
    for (int64_t i = 0; i < W; ++i) {
      V sum(C(0));
      if (i < rows) {
        for (int64_t part = 0; part < parts; ++part) {
          sum += load<V>(sums + part * stride + (tap + i) * pitch);
        }
      }
      square[i] = sum;
    }
    transpose<C>(square);
    for (int64_t j = 0; j < lanes; ++j) {
      store_first(to + j * filter_stride + tap, square[j], rows);
    }
  }
}

template <class S>
class Weights {
 public:
  using C = ComputeOf<S>;
  static constexpr int W = kLanesOf<C>;
  static constexpr int64_t kPanel = kConvVectors * W;

  static int64_t scratch(const ConvGradBlock& b) { return Weights(b).scratch_bytes_; }
  static void run(const ConvGradBlock& b) { Weights(b).run(); }

  // (taps, channels, lanes) for each panel.
  static void finish(const ConvGradBlock& b, int64_t parts, int64_t stride, void* to,
                     int64_t filter_stride) {
    const int64_t taps = b.block.problem->tap_count();
    for (int64_t k = 0; k < b.filters; k += kPanel) {
      const int64_t lanes = at_most(kPanel, round_up(b.filters - k, W));
      const C* panel = static_cast<const C*>(b.sums) + k * taps * b.channels;
      for (int64_t c = 0; c < b.channels; ++c) {
        for (int64_t lane = 0; lane < lanes; lane += W) {
          finish_lanes(panel + c * lanes + lane, b.channels * lanes, parts, stride, taps,
                       at_most(W, b.filters - k - lane),
                       static_cast<S*>(to) + (k + lane) * filter_stride + c * taps, filter_stride);
        }
      }
    }
  }

 private:
  explicit Weights(const ConvGradBlock& b) : b_(b), p_(*b.block.problem), place_(b.block) {
    positions_ = b.block.end[2] - b.block.begin[2];
    rows_ = (b.block.end[0] - b.block.begin[0]) * (b.block.end[1] - b.block.begin[1]);
    constexpr auto kItem = static_cast<int64_t>(sizeof(C));
    int64_t bytes = 0;
    const int64_t list = take(bytes, rows_ * static_cast<int64_t>(sizeof(TapAt)));
    const int64_t grad = take(bytes, (rows_ * positions_ + W) * kPanel * kItem);
    const int64_t window = take(bytes, place_.pixels() * b.channels * kItem);
    scratch_bytes_ = bytes;
    if (b.block.scratch == nullptr) return;
    list_ = reinterpret_cast<TapAt*>(b.block.scratch + list);
    grad_ = reinterpret_cast<C*>(b.block.scratch + grad);
    window_ = reinterpret_cast<C*>(b.block.scratch + window);
  }

  void run() {
    static constexpr ConvTiles<C> kTiles;
    const ConvBlock& block = b_.block;
    const int64_t pitch = b_.channels;
    place_.pack<S>(block, b_.first_channel, b_.channels, pitch, window_);
    for (int64_t k = 0; k < b_.filters; k += kPanel) {
      const int64_t lanes = at_most(kPanel, round_up(b_.filters - k, W));
      pack_gradients<S>(b_, b_.first_filter + k, at_most(lanes, b_.filters - k), lanes, grad_);
      C* sums = static_cast<C*>(b_.sums) + k * p_.tap_count() * b_.channels;
      for (int64_t i = 0; i < p_.taps[0].count; ++i) {
        for (int64_t j = 0; j < p_.taps[1].count; ++j) {
          const int64_t rows = list_rows(i, j, lanes);
          for (int64_t l = 0; l < p_.taps[2].count; ++l, sums += b_.channels * lanes) {
            const C* input = window_ + (p_.taps[2].offset[l] - p_.taps[2].offset[0]) * pitch;
            conv_row(kTiles.of[lanes / W - 1], b_.channels, lanes, input, 1,
                     place_.width.step * pitch, list_, rows, positions_, grad_, sums, true);
          }
        }
      }
    }
  }

  int64_t list_rows(int64_t i, int64_t j, int64_t lanes) const {
    const ConvBlock& block = b_.block;
    int64_t count = 0;
    int64_t row = 0;
    for (int64_t t = block.begin[0]; t < block.end[0]; ++t) {
      for (int64_t h = block.begin[1]; h < block.end[1]; ++h, ++row) {
        int64_t input;
        if (!find_row(block, place_, t, h, i, j, b_.channels, input)) continue;
        list_[count++] = {input, row * positions_ * lanes};
      }
    }
    return count;
  }

  const ConvGradBlock& b_;
  const ConvProblem& p_;
  WindowPlace place_;
  int64_t positions_, rows_;
  int64_t scratch_bytes_;
  TapAt* list_ = nullptr;
  C* grad_ = nullptr;
  C* window_ = nullptr;
};

template <class S>
class DepthwiseWeights {
 public:
  using C = ComputeOf<S>;
  using V = Vec<C>;
  static constexpr int W = kLanesOf<C>;

  static int64_t scratch(const ConvGradBlock& b) { return DepthwiseWeights(b).scratch_bytes_; }
  static void run(const ConvGradBlock& b) { DepthwiseWeights(b).run(); }
  static void finish(const ConvGradBlock& b, int64_t parts, int64_t stride, void* to,
                     int64_t filter_stride) {
    const int64_t taps = b.block.problem->tap_count();
    for (int64_t k = 0; k < b.filters; k += W) {
      finish_lanes(static_cast<const C*>(b.sums) + k * taps, W, parts, stride, taps,
                   at_most(W, b.filters - k), static_cast<S*>(to) + k * filter_stride,
                   filter_stride);
    }
  }

 private:
  explicit DepthwiseWeights(const ConvGradBlock& b) : b_(b), p_(*b.block.problem), place_(b.block) {
    positions_ = b.block.end[2] - b.block.begin[2];
    rows_ = (b.block.end[0] - b.block.begin[0]) * (b.block.end[1] - b.block.begin[1]);
    constexpr auto kItem = static_cast<int64_t>(sizeof(C));
    int64_t bytes = 0;
    const int64_t grad = take(bytes, rows_ * positions_ * W * kItem);
    const int64_t window = take(bytes, place_.pixels() * W * kItem);
    scratch_bytes_ = bytes;
    if (b.block.scratch == nullptr) return;
    grad_ = reinterpret_cast<C*>(b.block.scratch + grad);
    window_ = reinterpret_cast<C*>(b.block.scratch + window);
  }

  void run() {
    const ConvBlock& block = b_.block;
    const ConvTaps& width = p_.taps[2];
    const bool slides = width.count == 3 && width.step == 1 && contiguous(width);
    for (int64_t k = 0; k < b_.filters; k += W) {
      const int64_t lanes = at_most(W, b_.filters - k);
      place_.pack<S>(block, b_.first_filter + k, lanes, W, window_);
      pack_gradients<S>(b_, b_.first_filter + k, lanes, W, grad_);
      C* sums = static_cast<C*>(b_.sums) + k * p_.tap_count();
      for (int64_t i = 0; i < p_.taps[0].count; ++i) {
        for (int64_t j = 0; j < p_.taps[1].count; ++j, sums += width.count * W) {
          const C* grad = grad_;
          for (int64_t t = block.begin[0]; t < block.end[0]; ++t) {
            for (int64_t h = block.begin[1]; h < block.end[1]; ++h, grad += positions_ * W) {
              int64_t input;
              if (!find_row(block, place_, t, h, i, j, W, input)) continue;
              if (slides) {
                add_three(window_ + input, grad, sums);
                continue;
              }
              for (int64_t l = 0; l < width.count; ++l) {
                add_one(window_ + input + (width.offset[l] - width.offset[0]) * W, grad,
                        sums + l * W);
              }
            }
          }
        }
      }
    }
  }

  [[gnu::flatten]] void add_three(const C* input, const C* grad, C* sums) const {
    constexpr int kWide = 4;
    V sum[3][2];
    for (auto& pair : sum) pair[0] = pair[1] = V(C(0));
    int64_t w = 0;
    for (; w + kWide <= positions_; w += kWide) {
      V x[kWide + 2];
#pragma GCC unroll 6
      for (int i = 0; i < kWide + 2; ++i) x[i] = load<V>(input + (w + i) * W);
#pragma GCC unroll 4
      for (int i = 0; i < kWide; ++i) {
        const V g = load<V>(grad + (w + i) * W);
        sum[0][i % 2] += x[i] * g;
        sum[1][i % 2] += x[i + 1] * g;
        sum[2][i % 2] += x[i + 2] * g;
      }
    }
    for (; w < positions_; ++w) {
      const V g = load<V>(grad + w * W);
      for (int l = 0; l < 3; ++l) sum[l][0] += load<V>(input + (w + l) * W) * g;
    }
    for (int l = 0; l < 3; ++l) {
      store(sums + l * W, load<V>(sums + l * W) + (sum[l][0] + sum[l][1]));
    }
  }

  [[gnu::flatten]] void add_one(const C* input, const C* grad, C* sums) const {
    const int64_t step = place_.width.step * W;
    V sum[4] = {V(C(0)), V(C(0)), V(C(0)), V(C(0))};
    int64_t w = 0;
    for (; w + 4 <= positions_; w += 4) {
#pragma GCC unroll 4
      for (int i = 0; i < 4; ++i) {
        sum[i] += load<V>(input + (w + i) * step) * load<V>(grad + (w + i) * W);
      }
    }
    for (; w < positions_; ++w) sum[0] += load<V>(input + w * step) * load<V>(grad + w * W);
    store(sums, load<V>(sums) + ((sum[0] + sum[1]) + (sum[2] + sum[3])));
  }

  const ConvGradBlock& b_;
  const ConvProblem& p_;
  WindowPlace place_;
  int64_t positions_, rows_;
  int64_t scratch_bytes_;
  C* grad_ = nullptr;
  C* window_ = nullptr;
};

template <class S>
constexpr ConvGradKernel weights() {
  using D = Weights<S>;
  return {D::kPanel, D::scratch, D::run, D::finish, sum_grad<S>};
}
template <class S>
constexpr ConvGradKernel depthwise_weights() {
  using D = DepthwiseWeights<S>;
  return {D::W, D::scratch, D::run, D::finish, sum_grad<S>};
}

}  // namespace

ConvGradKernel select_conv3d_weights(DType dtype) {
  switch (dtype) {
    case DType::f64:
      return weights<double>();
    case DType::bf16:
      return weights<bfloat16>();
    default:
      return weights<float>();
  }
}

ConvGradKernel select_conv3d_depthwise_weights(DType dtype) {
  switch (dtype) {
    case DType::f64:
      return depthwise_weights<double>();
    case DType::bf16:
      return depthwise_weights<bfloat16>();
    default:
      return depthwise_weights<float>();
  }
}

}  // namespace marey::MAREY_ISA_NS
