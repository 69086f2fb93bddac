// A thread takes a group of neighbouring series (16 bytes of float32) through all steps, with
// coefficients and state in registers. kAhead steps are loaded before the first is used, so that
// 128 bytes a thread are on their way: memory is the limit, and little else hides its latency when
// there are few pixels. The results of a step are written past the caches.
//
// Series along the fastest axis are read one by one, which is correct and slow.
#include <cmath>

#include "cuda/series_map.h"
#include "ops/temporal/sections_cuda.h"
#include "ops/temporal/sosfilt.h"
#include "ops/temporal/temporal_cuda.h"

namespace marey::cuda {
namespace {

constexpr int kThreads = 128;
constexpr int kAhead = 8;

template <class T, int kSections>
struct SosfiltArguments {
  SeriesMap<4> map;  // x, y, zi, zf
  const char* x;
  char* y;
  const char* zi;  // null: from rest
  char* zf;        // null: not wanted
  int64_t x_step, y_step;
  int64_t zi_section, zi_pair, zf_section, zf_pair;
  int64_t steps;
  Section<T> sections[kSections];
};

template <class S, class T, int kSections, int kWidth>
MAREY_KERNEL(kThreads)
sosfilt_kernel(MAREY_GRID_CONSTANT SosfiltArguments<T, kSections> a) {
  using In = Pack<S, kWidth>;
  using Out = Pack<T, kWidth>;
  const int64_t series = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (series >= a.map.count) return;
  int64_t offset[4];
  a.map.offsets(series, offset);
  const char* x = a.x + offset[0];
  char* y = a.y + offset[1];

  T z[kSections][2][kWidth];
#pragma unroll
  for (int s = 0; s < kSections; ++s) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      Out initial{};
      if (a.zi != nullptr) {
        initial =
            *reinterpret_cast<const Out*>(a.zi + offset[2] + s * a.zi_section + half * a.zi_pair);
      }
#pragma unroll
      for (int k = 0; k < kWidth; ++k) z[s][half][k] = initial.v[k];
    }
  }

  const auto filtered = [&](const In& in) {
    Out out;
#pragma unroll
    for (int k = 0; k < kWidth; ++k) {
      T v = static_cast<T>(in.v[k]);
#pragma unroll
      for (int s = 0; s < kSections; ++s) v = step(a.sections[s], v, z[s][0][k], z[s][1][k]);
      out.v[k] = v;
    }
    return out;
  };

  int64_t t = 0;
  for (; t + kAhead <= a.steps; t += kAhead) {
    In in[kAhead];
#pragma unroll
    for (int u = 0; u < kAhead; ++u) {
      in[u] = load_once(reinterpret_cast<const In*>(x + (t + u) * a.x_step));
    }
#pragma unroll
    for (int u = 0; u < kAhead; ++u) {
      store_once(reinterpret_cast<Out*>(y + (t + u) * a.y_step), filtered(in[u]));
    }
  }
  for (; t < a.steps; ++t) {
    const In in = load_once(reinterpret_cast<const In*>(x + t * a.x_step));
    store_once(reinterpret_cast<Out*>(y + t * a.y_step), filtered(in));
  }

  if (a.zf == nullptr) return;
#pragma unroll
  for (int s = 0; s < kSections; ++s) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      Out last;
#pragma unroll
      for (int k = 0; k < kWidth; ++k) last.v[k] = z[s][half][k];
      *reinterpret_cast<Out*>(a.zf + offset[3] + s * a.zf_section + half * a.zf_pair) = last;
    }
  }
}

// The state of sections [first, ..) of an array of states.
View sections_from(const View& z, int64_t first) {
  View part = z;
  part.data = z.as<std::byte>() + first * z.stride(0);
  part.shape[0] = z.shape[0] - first;
  return part;
}

template <class S, class T, int kSections>
void run(const Queue& queue, const double* sos, const View& x, int axis, const View& y,
         const View* zi, const View* zf) {
  SosfiltArguments<T, kSections> a{};
  int width = 16 / static_cast<int>(sizeof(T));
  const SeriesOperand operands[4] = {
      {&x, axis, sizeof(S)}, {&y, axis, sizeof(T)}, {zi, axis, sizeof(T)}, {zf, axis, sizeof(T)}};
  a.map = series_map<4>(operands, &width);
  a.x = x.as<const char>();
  a.y = y.as<char>();
  a.x_step = x.stride(axis);
  a.y_step = y.stride(axis);
  if (zi != nullptr) {
    a.zi = zi->as<const char>();
    a.zi_section = zi->stride(0);
    a.zi_pair = zi->stride(axis + 1);
  }
  if (zf != nullptr) {
    a.zf = zf->as<char>();
    a.zf_section = zf->stride(0);
    a.zf_pair = zf->stride(axis + 1);
  }
  a.steps = x.shape[axis];
  for (int s = 0; s < kSections; ++s) a.sections[s] = section<T>(sos + 6 * s);
  const Grid grid{blocks_for(a.map.count, kThreads), kThreads};
  constexpr int kWidest = 16 / static_cast<int>(sizeof(T));
  if (width == 1) return launch(queue, grid, &sosfilt_kernel<S, T, kSections, 1>, a);
  launch(queue, grid, &sosfilt_kernel<S, T, kSections, kWidest>, a);
}

template <class S, class T>
void run_sections(const Queue& queue, const double* sos, int64_t sections, const View& x, int axis,
                  const View& y, const View* zi, const View* zf) {
  switch (sections) {
    case 1:
      return run<S, T, 1>(queue, sos, x, axis, y, zi, zf);
    case 2:
      return run<S, T, 2>(queue, sos, x, axis, y, zi, zf);
    case 3:
      return run<S, T, 3>(queue, sos, x, axis, y, zi, zf);
    default:
      return run<S, T, kUnrolledSections>(queue, sos, x, axis, y, zi, zf);
  }
}

}  // namespace

void sosfilt(const Queue& queue, const View& sos, const View& x, int axis, const View& y,
             const View* zi, const View* zf) {
  const std::vector<double> coefficients = checked_sosfilt(sos, x, axis, y, zi, zf);
  const int64_t sections = sos.shape[0];
  if (x.shape[axis] == 0 ? zf == nullptr : x.shape.count() == 0) return;
  // More sections than are unrolled: y is the next ones' input.
  for (int64_t first = 0; first < sections; first += kUnrolledSections) {
    const View before = zi == nullptr ? View{} : sections_from(*zi, first);
    const View after = zf == nullptr ? View{} : sections_from(*zf, first);
    const double* rows = coefficients.data() + 6 * first;
    const View& source = first == 0 ? x : y;
    const View* from = zi == nullptr ? nullptr : &before;
    const View* to = zf == nullptr ? nullptr : &after;
    const int64_t count = sections - first;
    if (source.dtype == DType::u8) {
      run_sections<uint8_t, float>(queue, rows, count, source, axis, y, from, to);
    } else if (source.dtype == DType::f32) {
      run_sections<float, float>(queue, rows, count, source, axis, y, from, to);
    } else {
      run_sections<double, double>(queue, rows, count, source, axis, y, from, to);
    }
  }
}

}  // namespace marey::cuda
