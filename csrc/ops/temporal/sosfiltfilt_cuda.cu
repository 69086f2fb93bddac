// A thread takes a group of neighbouring series forward through the extended signal, whose result
// it keeps in the workspace, and then backward from there into y: no two threads share anything,
// and each pass is a stream of 16-byte accesses. The workspace is (T + 2 padlen) rows of all
// series, so that a pass over it is as coalesced as one over a video.
//
// Up to kUnrolledSections sections are in registers. Of longer cascades the state is in the
// workspace too, and so are the coefficients, which a launch before writes there: any number of
// them.
#include <cmath>

#include "cuda/series_map.h"
#include "ops/temporal/sections_cuda.h"
#include "ops/temporal/sosfilt.h"
#include "ops/temporal/temporal_cuda.h"

namespace marey::cuda {

// Which step the value of step e of the extended signal is made of, and whether it is mirrored
// about the end point. Step 0 of x is step padlen of the extended signal.
struct Extended {
  int64_t edge, inner;
};

MAREY_HOST_DEVICE Extended extended_step(int64_t e, int64_t steps, int64_t padlen) {
  const int64_t t = e - padlen;
  if (t < 0) return {0, -t};
  if (t >= steps) return {steps - 1, 2 * (steps - 1) - t};
  return {t, t};
}

namespace {

constexpr int kThreads = 128;

// Sections and their steady states for an input of 1. kSections 0: any number, in memory.
template <class T, int kSections>
struct Coefficients {
  Section<T> section[kSections];
  T zi[kSections][2];

  void set(int at, const SteadySections& sections, int s) {
    const auto from = static_cast<std::size_t>(s);
    section[at] = cuda::section<T>(sections.sos.data() + 6 * from);
    zi[at][0] = static_cast<T>(sections.zi[2 * from]);
    zi[at][1] = static_cast<T>(sections.zi[2 * from + 1]);
  }
};
template <class T>
struct Coefficients<T, 0> {
  Section<T>* section;
  T (*zi)[2];
};
template <class T>
constexpr int64_t kCoefficientBytes = sizeof(Coefficients<T, 1>);

// Sections that a launch stores: what an argument may have is limited.
constexpr int kStoredSections = 64;

template <class T>
struct StoreArguments {
  Coefficients<T, 0> to;
  int first, count;
  Coefficients<T, kStoredSections> from;
};

template <class T>
MAREY_KERNEL(kStoredSections)
store_sections_kernel(MAREY_GRID_CONSTANT StoreArguments<T> a) {
  const int s = static_cast<int>(threadIdx.x);
  if (s >= a.count) return;
  a.to.section[a.first + s] = a.from.section[s];
  a.to.zi[a.first + s][0] = a.from.zi[s][0];
  a.to.zi[a.first + s][1] = a.from.zi[s][1];
}

// To `memory`, which has kCoefficientBytes for each section.
template <class T>
Coefficients<T, 0> store_sections(const Queue& queue, const SteadySections& sections, int count,
                                  char* memory) {
  StoreArguments<T> a{};
  a.to.section = reinterpret_cast<Section<T>*>(memory);
  a.to.zi = reinterpret_cast<T(*)[2]>(a.to.section + count);
  for (; a.first < count; a.first += kStoredSections) {
    a.count = count - a.first < kStoredSections ? count - a.first : kStoredSections;
    for (int s = 0; s < a.count; ++s) a.from.set(s, sections, a.first + s);
    launch(queue, {1, kStoredSections}, &store_sections_kernel<T>, a);
  }
  return a.to;
}

// kSections 0: as many as `sections` says, in memory with their state.
template <class T, int kSections>
struct FiltfiltArguments : Coefficients<T, kSections> {
  SeriesMap<2> map;  // x, y
  const char* x;
  char* y;
  char* rows;   // the extended signal: rows of row_bytes
  char* state;  // 2 * sections rows, for kSections == 0
  int64_t row_bytes;
  int64_t x_step, y_step;
  int64_t steps, padlen;
  int extension;
  int sections;
};

// The state of one thread: in registers, or in its own column of the workspace.
template <class T, int kSections, int kWidth>
struct State {
  T z[kSections][2][kWidth];
  template <class A>
  MAREY_DEVICE void start(const A& a, int64_t, const Pack<T, kWidth>& first) {
#pragma unroll
    for (int s = 0; s < kSections; ++s) {
#pragma unroll
      for (int k = 0; k < kWidth; ++k) {
        z[s][0][k] = a.zi[s][0] * first.v[k];
        z[s][1][k] = a.zi[s][1] * first.v[k];
      }
    }
  }
  template <class A>
  MAREY_DEVICE Pack<T, kWidth> filter(const A& a, int64_t, Pack<T, kWidth> v) {
#pragma unroll
    for (int s = 0; s < kSections; ++s) {
#pragma unroll
      for (int k = 0; k < kWidth; ++k) {
        v.v[k] = step(a.section[s], v.v[k], z[s][0][k], z[s][1][k]);
      }
    }
    return v;
  }
};

template <class T, int kWidth>
struct State<T, 0, kWidth> {
  using Group = Pack<T, kWidth>;
  template <class A>
  static MAREY_DEVICE Group* row(const A& a, int64_t column, int r) {
    return reinterpret_cast<Group*>(a.state + r * a.row_bytes + column);
  }
  template <class A>
  MAREY_DEVICE void start(const A& a, int64_t column, const Group& first) {
    for (int s = 0; s < a.sections; ++s) {
      Group z1, z2;
#pragma unroll
      for (int k = 0; k < kWidth; ++k) {
        z1.v[k] = a.zi[s][0] * first.v[k];
        z2.v[k] = a.zi[s][1] * first.v[k];
      }
      *row(a, column, 2 * s) = z1;
      *row(a, column, 2 * s + 1) = z2;
    }
  }
  template <class A>
  MAREY_DEVICE Group filter(const A& a, int64_t column, Group v) {
    for (int s = 0; s < a.sections; ++s) {
      Group z1 = *row(a, column, 2 * s);
      Group z2 = *row(a, column, 2 * s + 1);
      const Section<T> c = a.section[s];
#pragma unroll
      for (int k = 0; k < kWidth; ++k) v.v[k] = step(c, v.v[k], z1.v[k], z2.v[k]);
      *row(a, column, 2 * s) = z1;
      *row(a, column, 2 * s + 1) = z2;
    }
    return v;
  }
};

template <class S, class T, int kSections, int kWidth>
MAREY_KERNEL(kThreads)
sosfiltfilt_kernel(MAREY_GRID_CONSTANT FiltfiltArguments<T, kSections> a) {
  using In = Pack<S, kWidth>;
  using Group = Pack<T, kWidth>;
  const int64_t series = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (series >= a.map.count) return;
  int64_t offset[2];
  a.map.offsets(series, offset);
  const char* x = a.x + offset[0];
  char* y = a.y + offset[1];
  const int64_t column = series * static_cast<int64_t>(sizeof(Group));
  const auto row = [&](int64_t e) {
    return reinterpret_cast<Group*>(a.rows + e * a.row_bytes + column);
  };
  const auto read = [&](int64_t t) {
    const In in = *reinterpret_cast<const In*>(x + t * a.x_step);
    Group v;
#pragma unroll
    for (int k = 0; k < kWidth; ++k) v.v[k] = static_cast<T>(in.v[k]);
    return v;
  };
  const auto extended = [&](int64_t e) {
    const Extended at = extended_step(e, a.steps, a.padlen);
    const Group edge = read(at.edge);
    if (at.edge == at.inner || a.extension == static_cast<int>(Extension::constant)) return edge;
    Group v = read(at.inner);
    if (a.extension == static_cast<int>(Extension::odd)) {
#pragma unroll
      for (int k = 0; k < kWidth; ++k) v.v[k] = T{2} * edge.v[k] - v.v[k];
    }
    return v;
  };

  const int64_t all = a.steps + 2 * a.padlen;
  State<T, kSections, kWidth> state;
  state.start(a, column, extended(0));
  // The loops that few steps run through are not unrolled: that would only be more to compile.
#pragma unroll 1
  for (int64_t e = 0; e < a.padlen; ++e) *row(e) = state.filter(a, column, extended(e));
  constexpr int kAhead = 8;
  int64_t t = 0;
  for (; t + kAhead <= a.steps; t += kAhead) {
    Group in[kAhead];
#pragma unroll
    for (int u = 0; u < kAhead; ++u) in[u] = read(t + u);
#pragma unroll
    for (int u = 0; u < kAhead; ++u) *row(a.padlen + t + u) = state.filter(a, column, in[u]);
  }
#pragma unroll 1
  for (int64_t e = a.padlen + t; e < all; ++e) *row(e) = state.filter(a, column, extended(e));

  // What the first extension would become is of no use.
  state.start(a, column, *row(all - 1));
#pragma unroll 1
  for (int64_t e = all - 1; e >= a.padlen + a.steps; --e) state.filter(a, column, *row(e));
  t = a.steps;
  for (; t >= kAhead; t -= kAhead) {
    Group in[kAhead];
#pragma unroll
    for (int u = 0; u < kAhead; ++u) in[u] = *row(a.padlen + t - 1 - u);
#pragma unroll
    for (int u = 0; u < kAhead; ++u) {
      store_once(reinterpret_cast<Group*>(y + (t - 1 - u) * a.y_step),
                 state.filter(a, column, in[u]));
    }
  }
#pragma unroll 1
  for (; t > 0; --t) {
    store_once(reinterpret_cast<Group*>(y + (t - 1) * a.y_step),
               state.filter(a, column, *row(a.padlen + t - 1)));
  }
}

constexpr int64_t kRowAlignment = 256;

int64_t row_bytes(const View& x, int axis) {
  const int64_t series = x.shape.count() / (x.shape[axis] == 0 ? 1 : x.shape[axis]);
  const int64_t bytes = series * (x.dtype == DType::f64 ? 8 : 4);
  return (bytes + kRowAlignment - 1) / kRowAlignment * kRowAlignment;
}

template <class S, class T, int kSections>
void run(const Queue& queue, const SteadySections& checked, const View& x, int axis, const View& y,
         Extension extension, int64_t padlen, void* workspace) {
  FiltfiltArguments<T, kSections> a{};
  constexpr int kWidest = 16 / static_cast<int>(sizeof(T));
  int width = kWidest;
  const SeriesOperand operands[2] = {{&x, axis, sizeof(S)}, {&y, axis, sizeof(T)}};
  a.map = series_map<2>(operands, &width);
  a.x = x.as<const char>();
  a.y = y.as<char>();
  a.x_step = x.stride(axis);
  a.y_step = y.stride(axis);
  a.steps = x.shape[axis];
  a.padlen = padlen;
  a.extension = static_cast<int>(extension);
  a.sections = static_cast<int>(checked.zi.size() / 2);
  a.row_bytes = row_bytes(x, axis);
  a.rows = static_cast<char*>(workspace);
  a.state = a.rows + (a.steps + 2 * padlen) * a.row_bytes;
  if constexpr (kSections == 0) {
    char* memory = a.state + 2 * a.sections * a.row_bytes;
    static_cast<Coefficients<T, 0>&>(a) = store_sections<T>(queue, checked, a.sections, memory);
  } else {
    for (int s = 0; s < kSections; ++s) a.set(s, checked, s);
  }
  const Grid grid{blocks_for(a.map.count, kThreads), kThreads};
  if (width == 1) return launch(queue, grid, &sosfiltfilt_kernel<S, T, kSections, 1>, a);
  launch(queue, grid, &sosfiltfilt_kernel<S, T, kSections, kWidest>, a);
}

template <class S, class T, class... A>
void run_sections(std::size_t sections, const A&... arguments) {
  switch (sections) {
    case 1:
      return run<S, T, 1>(arguments...);
    case 2:
      return run<S, T, 2>(arguments...);
    case 3:
      return run<S, T, 3>(arguments...);
    case 4:
      return run<S, T, 4>(arguments...);
    default:
      return run<S, T, 0>(arguments...);
  }
}

}  // namespace

int64_t sosfiltfilt_workspace(const View& x, int axis, int64_t padlen, int64_t sections) {
  const int64_t signal = (x.shape[axis] + 2 * padlen) * row_bytes(x, axis);
  if (sections <= kUnrolledSections) return signal;
  return signal + sections * (2 * row_bytes(x, axis) + kCoefficientBytes<double>);
}

void sosfiltfilt(const Queue& queue, const View& sos, const View& x, int axis, const View& y,
                 Extension extension, int64_t padlen, const View& zi, void* workspace) {
  const SteadySections checked = checked_sosfiltfilt(sos, x, axis, padlen, zi);
  const std::size_t sections = checked.zi.size() / 2;
  if (x.shape.count() == 0) return;
  if (x.dtype == DType::u8) {
    run_sections<uint8_t, float>(sections, queue, checked, x, axis, y, extension, padlen,
                                 workspace);
  } else if (x.dtype == DType::f32) {
    run_sections<float, float>(sections, queue, checked, x, axis, y, extension, padlen, workspace);
  } else {
    run_sections<double, double>(sections, queue, checked, x, axis, y, extension, padlen,
                                 workspace);
  }
}

}  // namespace marey::cuda
