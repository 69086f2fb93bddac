// Means over everything: sums of float32 and bfloat16 that are carried on in float64.
#include <algorithm>

#include "core/tile.h"
#include "ops/conv/pool.h"
#include "ops/conv/pool_lanes.h"

namespace marey::MAREY_ISA_NS {
namespace {

// Sums are carried on in float64 after that many additions. Of lanes few rows are added at a time:
// more than eight streams outrun the prefetchers.
constexpr int64_t kRunBlock = 32;
constexpr int64_t kLanesBlock = 8;

template <class T>
void add_to(double* sum, const Vec<T>& v, int64_t count) {
  using Wide = Vec<double>;
  alignas(kAlignment) T lanes[Vec<T>::size()];
  store(lanes, v);
  if (count == static_cast<int64_t>(Vec<T>::size())) {
    for (std::size_t k = 0; k < Vec<T>::size(); k += Wide::size()) {
      store(sum + k, load<Wide>(sum + k) + load<Wide>(lanes + k));
    }
    return;
  }
  for (int64_t k = 0; k < count; ++k) sum[k] += static_cast<double>(lanes[k]);
}

template <class S, class T>
void sum_lanes(const void* x, int64_t count, int64_t pitch, int64_t lanes, double* sum) {
  using V = Vec<T>;
  constexpr int64_t kLanes = static_cast<int64_t>(V::size());
  constexpr int kSide = 4;
  const S* from = static_cast<const S*>(x);
  for (int64_t first = 0; first < count; first += kLanesBlock) {
    const S* block = from + first * pitch;
    const int64_t rows = std::min(kLanesBlock, count - first);
    int64_t lane = 0;
    for (; lane + kSide * kLanes <= lanes; lane += kSide * kLanes) {
      V total[kSide] = {};
      for (int64_t i = 0; i < rows; ++i) {
        const S* p = block + i * pitch + lane;
        for (int k = 0; k < kSide; ++k) total[k] += load_as<V>(p + k * kLanes);
      }
      for (int k = 0; k < kSide; ++k) add_to<T>(sum + lane + k * kLanes, total[k], kLanes);
    }
    for (; lane < lanes; lane += kLanes) {
      const int64_t some = std::min(kLanes, lanes - lane);
      V total = 0;
      for (int64_t i = 0; i < rows; ++i) {
        const S* p = block + i * pitch + lane;
        total += some == kLanes ? load_as<V>(p) : load_some<V>(p, some);
      }
      add_to<T>(sum + lane, total, some);
    }
  }
}

// Four streams at a time: prefetchers stop at the end of a page, and with one stream wait there.
template <class S, class T>
void sum_run(const void* x, int64_t count, double* sum) {
  using V = Vec<T>;
  constexpr int64_t kLanes = static_cast<int64_t>(V::size());
  constexpr int kStreams = 4;
  double lanes[V::size()] = {};
  const S* from = static_cast<const S*>(x);
  const int64_t part = count / kStreams / kLanes * kLanes;
  for (int64_t k = 0; k < part;) {
    V total[kStreams] = {};
    const int64_t end = std::min(part, k + kRunBlock * kLanes);
    for (; k < end; k += kLanes) {
      for (int u = 0; u < kStreams; ++u) total[u] += load_as<V>(from + u * part + k);
    }
    add_to<T>(lanes, (total[0] + total[1]) + (total[2] + total[3]), kLanes);
  }
  V rest = 0;
  for (int64_t k = kStreams * part; k < count; k += kLanes) {
    const int64_t some = std::min(kLanes, count - k);
    rest += some == kLanes ? load_as<V>(from + k) : load_some<V>(from + k, some);
  }
  add_to<T>(lanes, rest, kLanes);
  for (const double lane : lanes) *sum += lane;
}

}  // namespace

SumKernel select_sum(DType dtype) {
  switch (dtype) {
    case DType::f32:
      return {sum_lanes<float, float>, sum_run<float, float>};
    case DType::f64:
      return {sum_lanes<double, double>, sum_run<double, double>};
    case DType::bf16:
      return {sum_lanes<bfloat16, float>, sum_run<bfloat16, float>};
    case DType::u8:
      break;
  }
  return {};
}

}  // namespace marey::MAREY_ISA_NS
