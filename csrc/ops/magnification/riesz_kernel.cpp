// Vectors run along rows. The first pass makes the Riesz transform of a row straight into the state
// of the next frame, and reads it back from the first-level cache; the second smooths, and turns.
#include "core/trig.h"
#include "ops/magnification/increments_lanes.h"
#include "ops/magnification/riesz.h"
#include "ops/pyramid/riesz_rows.h"
#include "ops/pyramid/row_buffers.h"

namespace marey::MAREY_ISA_NS {
namespace {

using V = Vec<float>;
constexpr int64_t kLanes = static_cast<int64_t>(V::size());
constexpr float kTiny = 1e-30F;

V load_some(const float* p, int64_t n) { return n == kLanes ? load<V>(p) : load_partial<V>(p, n); }

void store_some(float* p, const V& v, int64_t n) {
  n == kLanes ? store(p, v) : store_partial(p, v, n);
}

void filter(const RieszBand& band, int64_t begin, int64_t end) {
  const IncrementFilter& f = *band.filter;
  const Sections pass{f.band.data(), static_cast<int>(f.band.size() / 5)};
  const Sections fast{f.fast.data(), static_cast<int>(f.fast.size() / 5)};
  const int64_t filter_rows = 2 * (pass.count + fast.count) * band.stride;
  const V alpha = f.alpha;
  const int64_t w = band.width;
  const auto row = [&](int64_t y) { return band.band + reflect101(y, band.height) * w; };
  const auto filtered = [&](const V& step, const float* z_in, float* z_out, int64_t n) {
    V out = alpha * cascade_step(pass, step, z_in, z_out, band.stride, n);
    if (fast.count != 0) {
      const int64_t rows = 2 * pass.count * band.stride;
      out += cascade_step(fast, step, z_in + rows, z_out + rows, band.stride, n);
    }
    return out;
  };
  for (int64_t y = begin; y < end; ++y) {
    float* now = band.state_out + y * w;
    const float* before = band.state_in + y * w;
    float* r1 = now + band.stride;
    float* r2 = r1 + band.stride;
    // The earlier R1 and R2 may lie where the new ones go.
    for (int64_t x = 0; x < w; x += kLanes) {
      const int64_t n = std::min(kLanes, w - x);
      const V i0 = load_some(before + x, n);
      const V p1 = load_some(before + band.stride + x, n);
      const V p2 = load_some(before + 2 * band.stride + x, n);
      const V here = load_some(row(y) + x, n);
      riesz_vector(row(y - 1) + x, row(y) + x, row(y + 1) + x, x, w, n, r1 + x, r2 + x);
      store_some(now + x, here, n);
      const V c1 = load_some(r1 + x, n);
      const V c2 = load_some(r2 + x, n);
      // (here + i c1 + j c2) (i0 - i p1 - j p2), without its k.
      const V real = fma(here, i0, fma(c1, p1, c2 * p2));
      const V u = fma(c1, i0, -(here * p1));
      const V v = fma(c2, i0, -(here * p2));
      const V sine = stdx::sqrt(fma(u, u, v * v));
      V factor = marey::MAREY_ISA_NS::atan2(sine, real) / (sine + kTiny);
      if (!band.started) factor = 0.0F;
      const float* z_in = before + 3 * band.stride + x;
      float* z_out = now + 3 * band.stride + x;
      const V phi1 = filtered(factor * u, z_in, z_out, n);
      const V phi2 = filtered(factor * v, z_in + filter_rows, z_out + filter_rows, n);
      const V amplitude = stdx::sqrt(fma(here, here, fma(c1, c1, c2 * c2)));
      float* weighted = band.weighted + y * w + x;
      store_some(weighted, amplitude * phi1, n);
      store_some(weighted + band.plane_stride, amplitude * phi2, n);
      store_some(weighted + 2 * band.plane_stride, amplitude, n);
    }
  }
}

int64_t padded(int64_t width, int64_t radius) { return width + 2 * radius + 5 * kLanes; }

int64_t turn_scratch_bytes(int64_t width, int64_t radius) {
  return 3 * Arena::bytes<float>(padded(width, radius));
}

void turn(const RieszBand& band, int64_t begin, int64_t end, std::byte* scratch) {
  Arena arena(scratch);
  const int64_t w = band.width;
  const int64_t radius = band.radius;
  float* sums[3];
  for (float*& s : sums) s = arena.take<float>(padded(w, radius)) + radius;
  for (int64_t y = begin; y < end; ++y) {
    for (int64_t part = 0; part < 3; ++part) {
      const float* plane = band.weighted + part * band.plane_stride;
      float* s = sums[part];
      smooth_column([&](int64_t r) { return plane + reflect101(y + r, band.height) * w; },
                    band.taps, radius, s, w);
      for (int64_t r = 1; r <= radius; ++r) {
        s[-r] = s[reflect101(-r, w)];
        s[w - 1 + r] = s[reflect101(w - 1 + r, w)];
      }
    }
    const float* coefficients = band.state_out + y * w;
    for (int64_t x = 0; x < w; x += kLanes) {
      const int64_t n = std::min(kLanes, w - x);
      const V weight = 1.0F / (smooth_row(sums[2] + x, band.taps, radius) + kTiny);
      const V phi1 = weight * smooth_row(sums[0] + x, band.taps, radius);
      const V phi2 = weight * smooth_row(sums[1] + x, band.taps, radius);
      const V i = load_some(coefficients + x, n);
      const V r1 = load_some(coefficients + band.stride + x, n);
      const V r2 = load_some(coefficients + 2 * band.stride + x, n);
      const V shift = stdx::sqrt(fma(phi1, phi1, phi2 * phi2));
      const SineCosine t = sincos(shift);
      const V turned = fma(i, t.cosine, -(fma(r1, phi1, r2 * phi2) / (shift + kTiny) * t.sine));
      store_some(band.band + y * w + x, turned - i, n);
    }
  }
}

}  // namespace

RieszKernel select_riesz() { return {filter, turn, turn_scratch_bytes}; }

}  // namespace marey::MAREY_ISA_NS
