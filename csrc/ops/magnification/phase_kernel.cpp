// Vectors run along coefficients. A coefficient, its phase and its filter's state are read once and
// written once; angle, filter, sine and cosine happen in registers in between. Where phases are
// smoothed, a second pass over rows takes the vertical sums of a row into the first-level cache,
// the horizontal ones from there.
#include "core/fft_lanes.h"
#include "core/trig.h"
#include "ops/magnification/increments_lanes.h"
#include "ops/magnification/phase.h"
#include "ops/pyramid/row_buffers.h"

namespace marey::MAREY_ISA_NS {
namespace {

using V = Vec<float>;
constexpr int64_t kLanes = static_cast<int64_t>(V::size());
constexpr float kTwoPi = 6.28318530717958648F;
constexpr float kRound = 12582912.0F;  // 1.5 * 2^23: adding it rounds to an integer

Complex<float> load_coefficients(const std::complex<float>* p, int64_t n) {
  const auto* items = reinterpret_cast<const float*>(p);
  alignas(64) float lanes[2 * V::size()] = {};
  if (n < kLanes) {
    std::memcpy(lanes, items, static_cast<std::size_t>(2 * n) * sizeof(float));
    items = lanes;
  }
  typedef float Native __attribute__((vector_size(sizeof(V))));
  const auto a = std::bit_cast<Native>(load<V>(items));
  const auto b = std::bit_cast<Native>(load<V>(items + kLanes));
  return [&]<int... J>(std::integer_sequence<int, J...>) {
    return Complex<float>{std::bit_cast<V>(__builtin_shufflevector(a, b, 2 * J...)),
                          std::bit_cast<V>(__builtin_shufflevector(a, b, (2 * J + 1)...))};
  }(std::make_integer_sequence<int, static_cast<int>(kLanes)>{});
}

V load_some(const float* p, int64_t n) { return n == kLanes ? load<V>(p) : load_partial<V>(p, n); }

void store_some(float* p, const V& v, int64_t n) {
  n == kLanes ? store(p, v) : store_partial(p, v, n);
}

V turned_real(const Complex<float>& c, const V& shift) {
  const SineCosine t = sincos(shift);
  return fma(c.re, t.cosine, -(c.im * t.sine));
}

void filter(const PhaseRange& range, int64_t begin, int64_t end) {
  const IncrementFilter& f = *range.filter;
  const Sections band{f.band.data(), static_cast<int>(f.band.size() / 5)};
  const Sections fast{f.fast.data(), static_cast<int>(f.fast.size() / 5)};
  const V alpha = f.alpha;
  for (int64_t k = begin; k < end; k += kLanes) {
    const int64_t n = std::min(kLanes, end - k);
    const Complex<float> c = load_coefficients(range.coefficients + k, n);
    const V angle = marey::MAREY_ISA_NS::atan2(c.im, c.re);
    V step = 0.0F;
    if (range.started) {
      step = angle - load_some(range.state_in + k, n);
      step -= kTwoPi * ((step * (1.0F / kTwoPi) + kRound) - kRound);
    }
    store_some(range.state_out + k, angle, n);
    const float* z_in = range.state_in + range.stride + k;
    float* z_out = range.state_out + range.stride + k;
    V shift = alpha * cascade_step(band, step, z_in, z_out, range.stride, n);
    if (fast.count != 0) {
      const int64_t rows = 2 * band.count * range.stride;
      shift += cascade_step(fast, step, z_in + rows, z_out + rows, range.stride, n);
    }
    if (range.smooth) {
      const V amplitude = stdx::sqrt(fma(c.re, c.re, c.im * c.im));
      store_some(range.shifts + k, amplitude * shift, n);
      store_some(range.amplitudes + k, amplitude, n);
    } else {
      store_some(range.turned + k, turned_real(c, shift), n);
    }
  }
}

int64_t padded(int64_t width, int64_t radius) { return width + 2 * radius + 5 * kLanes; }

int64_t smooth_scratch_bytes(int64_t width, int64_t radius) {
  return 2 * Arena::bytes<float>(padded(width, radius));
}

void smooth(const PhaseSmoothing& args, int64_t begin, int64_t end, std::byte* scratch) {
  Arena arena(scratch);
  const int64_t w = args.width;
  const int64_t h = args.height;
  const int64_t radius = args.radius;
  float* shifts = arena.take<float>(padded(w, radius)) + radius;
  float* amplitudes = arena.take<float>(padded(w, radius)) + radius;
  const auto around = [](int64_t i, int64_t n) { return ((i % n) + n) % n; };
  constexpr float kTiny = 1e-30F;  // no amplitude at all: no shift
  for (int64_t y = begin; y < end; ++y) {
    for (const auto& [source, sums] :
         {std::pair{args.shifts, shifts}, std::pair{args.amplitudes, amplitudes}}) {
      const float* plane = source;
      smooth_column([&](int64_t r) { return plane + around(y + r, h) * w; }, args.taps, radius,
                    sums, w);
      for (int64_t r = 1; r <= radius; ++r) {
        sums[-r] = sums[around(-r, w)];
        sums[w - 1 + r] = sums[around(w - 1 + r, w)];
      }
    }
    for (int64_t x = 0; x < w; x += kLanes) {
      const int64_t n = std::min(kLanes, w - x);
      const V shift = smooth_row(shifts + x, args.taps, radius) /
                      (smooth_row(amplitudes + x, args.taps, radius) + kTiny);
      const Complex<float> c = load_coefficients(args.coefficients + y * w + x, n);
      store_some(args.turned + y * w + x, turned_real(c, shift), n);
    }
  }
}

}  // namespace

PhaseKernel select_phase() { return {filter, smooth, smooth_scratch_bytes}; }

}  // namespace marey::MAREY_ISA_NS
