// A thread makes kSteps results of a group of neighbouring series (16 bytes): their sums are in
// registers, and the steps of the window come one after the other, four of them loaded ahead. So a
// step is read (size + kSteps - 1) / kSteps times, all but one from a cache: blocks that follow
// each other in time have neighbouring numbers and run together. The weights are the kernel's
// arguments; longer responses come in pieces, which add to y in the order of one sum.
//
// A weight is never multiplied with a step outside of its window: 0 times infinity is not a number.
#include "cuda/series_map.h"
#include "ops/temporal/convolve.h"
#include "ops/temporal/sections_cuda.h"
#include "ops/temporal/temporal_cuda.h"
#include "ops/temporal/window_cuda.h"

namespace marey::cuda {
namespace {

constexpr int kThreads = 128;
constexpr int kSteps = 16;
constexpr int kAhead = 4;
constexpr int kTaps = 256;

template <class T>
struct ConvolveArguments {
  SeriesMap<3> map;  // x, y, history
  WindowSteps window;
  char* y;
  int64_t y_step;
  Divisor time_blocks;
  int64_t first;  // of the window's steps, in this piece
  int taps;
  bool add;  // to what the pieces before have left in y
  T weights[kTaps];
};

template <class S, class T, int kWidth>
MAREY_KERNEL(kThreads)
convolve_kernel(MAREY_GRID_CONSTANT ConvolveArguments<T> a) {
  using In = Pack<S, kWidth>;
  using Out = Pack<T, kWidth>;
  const int64_t group = a.time_blocks.quotient(blockIdx.x);
  const int64_t series = group * kThreads + threadIdx.x;
  const int64_t begin = (blockIdx.x - group * a.time_blocks.value()) * kSteps;
  if (series >= a.map.count) return;
  int64_t offset[3];
  a.map.offsets(series, offset);
  char* y = a.y + offset[1];
  const int64_t left = a.window.steps - begin;
  const int count = left < kSteps ? static_cast<int>(left) : kSteps;

  T sum[kSteps][kWidth];
#pragma unroll
  for (int s = 0; s < kSteps; ++s) {
#pragma unroll
    for (int k = 0; k < kWidth; ++k) sum[s][k] = T{0};
    if (a.add && s < count) {
      const Out before = *reinterpret_cast<const Out*>(y + (begin + s) * a.y_step);
#pragma unroll
      for (int k = 0; k < kWidth; ++k) sum[s][k] = before.v[k];
    }
  }

  const int rows = a.taps + count - 1;
  const int64_t start = begin - a.window.before + a.first;
  for (int r = 0; r < rows; r += kAhead) {
    In in[kAhead];
#pragma unroll
    for (int u = 0; u < kAhead; ++u) {
      if (r + u < rows) {
        in[u] = a.window.template read<S, kWidth>(start + r + u, offset[0], offset[2]);
      }
    }
#pragma unroll
    for (int u = 0; u < kAhead; ++u) {
      if (r + u >= rows) continue;
#pragma unroll
      for (int s = 0; s < kSteps; ++s) {
        const int tap = r + u - s;
        if (tap < 0 || tap >= a.taps) continue;
#pragma unroll
        for (int k = 0; k < kWidth; ++k) {
          sum[s][k] = multiply_add(a.weights[tap], static_cast<T>(in[u].v[k]), sum[s][k]);
        }
      }
    }
  }

#pragma unroll
  for (int s = 0; s < kSteps; ++s) {
    if (s >= count) continue;
    Out out;
#pragma unroll
    for (int k = 0; k < kWidth; ++k) out.v[k] = sum[s][k];
    *reinterpret_cast<Out*>(y + (begin + s) * a.y_step) = out;
  }
}

template <class S, class T>
void run(const Queue& queue, const View& x, int axis, const std::vector<double>& weights,
         const Window& window, const View& y) {
  ConvolveArguments<T> a{};
  constexpr int kWidest = 16 / static_cast<int>(sizeof(T));
  int width = kWidest;
  const SeriesOperand operands[3] = {
      {&x, axis, sizeof(S)}, {&y, axis, sizeof(T)}, {window.history, axis, sizeof(S)}};
  a.map = series_map<3>(operands, &width);
  a.window = window_steps(window, x, axis);
  a.y = y.as<char>();
  a.y_step = y.stride(axis);
  a.time_blocks = Divisor(blocks_for(x.shape[axis], kSteps));
  const Grid grid{blocks_for(a.map.count, kThreads) * a.time_blocks.value(), kThreads};
  for (std::size_t first = 0; first < weights.size(); first += kTaps) {
    const std::size_t left = weights.size() - first;
    a.first = static_cast<int64_t>(first);
    a.taps = static_cast<int>(left < kTaps ? left : kTaps);
    a.add = first > 0;
    for (int k = 0; k < a.taps; ++k) {
      a.weights[k] = static_cast<T>(weights[first + static_cast<std::size_t>(k)]);
    }
    if (width == 1) {
      launch(queue, grid, &convolve_kernel<S, T, 1>, a);
    } else {
      launch(queue, grid, &convolve_kernel<S, T, kWidest>, a);
    }
  }
}

}  // namespace

void convolve(const Queue& queue, std::string_view function, const View& x, int axis,
              const View& taps, const Window& window, const View& y) {
  const std::vector<double> weights = checked_weights(function, taps);
  check_window(function, window, x, axis);
  if (x.shape.count() == 0) return;
  if (x.dtype == DType::u8) {
    run<uint8_t, float>(queue, x, axis, weights, window, y);
  } else if (x.dtype == DType::f32) {
    run<float, float>(queue, x, axis, weights, window, y);
  } else {
    run<double, double>(queue, x, axis, weights, window, y);
  }
}

}  // namespace marey::cuda
