// Vectors run across 16 neighbouring pixels. Pixels differ in how many modes they have and in which
// one owns the value, so all lanes go through the same steps and masks say who takes part; a block
// stops at the largest number of modes among its pixels, which is 1 or 2 in most of an image, and
// the planes of the other modes are not even read. A new mode and a change of order are rare: both
// are behind a test whether any lane wants it. Weights stay in registers from the first step to the
// last, means and variances in the first-level cache.
//
// Over several frames a tile's state is taken from the second-level cache instead of memory, which
// is the limit with one frame at a time.
//
// Compiled without contraction to fused multiply-adds: the owner of a value hangs on comparisons,
// and so every instruction set gives the same model to the last bit.
#include "core/simd.h"
#include "ops/background/mixture.h"

namespace marey::MAREY_ISA_NS {
namespace {

using V = Vec<float>;
using Mask = V::mask_type;
constexpr int64_t kLanes = static_cast<int64_t>(V::size());

inline V select(const Mask& mask, const V& yes, const V& no) {
  V result = no;
  stdx::where(mask, result) = yes;
  return result;
}

// Field 0 of a mode is its weight, 1 its variance, 2 + c the mean of channel c.
template <int C>
class Pixels {
 public:
  Pixels(float* first, int64_t mode_stride) : first_(first), mode_stride_(mode_stride) {}

  V get(int mode, int field) const { return load<V>(at(mode, field)); }
  void set(int mode, int field, const V& v) const { store(at(mode, field), v); }

 private:
  float* at(int mode, int field) const {
    return first_ + mode * mode_stride_ + field * kMixtureBlock;
  }

  float* first_;
  int64_t mode_stride_;
};

struct Verdict {
  Mask background{false};
  Mask shadow{false};
};

// s = x.m / m.m says how much darker x is than the mode.
template <int C>
inline Mask is_shadow(const MixtureParameters& p, const V (&x)[C], const V (&mean)[C],
                      const V& variance) {
  V xm = x[0] * mean[0];
  V mm = mean[0] * mean[0];
  for (int c = 1; c < C; ++c) {
    xm += x[c] * mean[c];
    mm += mean[c] * mean[c];
  }
  const Mask darker = mm > 0.0F && xm <= mm && xm >= p.darkest * mm;
  if (stdx::none_of(darker)) return darker;
  const V s = xm / mm;
  V distance = 0.0F;
  for (int c = 0; c < C; ++c) {
    const V d = s * mean[c] - x[c];
    distance += d * d;
  }
  return darker && distance < p.threshold * variance * (s * s);
}

template <int C, bool kShadows>
inline Verdict classify(const MixtureParameters& p, const V (&x)[C], const Pixels<C>& pixels,
                        int used) {
  Verdict verdict;
  V total = 0.0F;
  for (int m = 0; m < used; ++m) {
    const V weight = pixels.get(m, 0);
    const Mask trusted = weight > 0.0F && total < p.background_ratio;
    if (stdx::none_of(trusted)) break;
    const V variance = pixels.get(m, 1);
    V mean[C];
    V distance = 0.0F;
    for (int c = 0; c < C; ++c) {
      mean[c] = pixels.get(m, 2 + c);
      const V d = x[c] - mean[c];
      distance += d * d;
    }
    verdict.background = verdict.background || (trusted && distance < p.threshold * variance);
    if constexpr (kShadows) {
      verdict.shadow = verdict.shadow || (trusted && is_shadow<C>(p, x, mean, variance));
    }
    total += weight;
  }
  return verdict;
}

// Returns the number of modes in use, the largest of all lanes.
template <int C, bool kShadows>
inline int learn(const MixtureParameters& p, float rate, const V (&x)[C], const Pixels<C>& pixels,
                 int used, Verdict& verdict) {
  const float keep = 1.0F - rate;
  const float cost = rate * p.complexity;
  V weights[kMixtureMaxModes];
  V total = 0.0F;
  Mask owned{false};
  for (int m = 0; m < used; ++m) {
    const V old = pixels.get(m, 0);
    const Mask active = old > 0.0F;
    const Mask trusted = active && total < p.background_ratio;
    const Mask open = active && !owned;
    V weight = keep * old - cost;
    if (stdx::any_of(open || (trusted && !verdict.background))) {
      const V variance = pixels.get(m, 1);
      V mean[C];
      V difference[C];
      V distance = 0.0F;
      for (int c = 0; c < C; ++c) {
        mean[c] = pixels.get(m, 2 + c);
        difference[c] = x[c] - mean[c];
        distance += difference[c] * difference[c];
      }
      verdict.background = verdict.background || (trusted && distance < p.threshold * variance);
      if constexpr (kShadows) {
        verdict.shadow = verdict.shadow || (trusted && is_shadow<C>(p, x, mean, variance));
      }
      const Mask owner = open && distance < p.match_threshold * variance;
      if (stdx::any_of(owner)) {
        weight = select(owner, weight + rate, weight);
        const V k = rate / weight;
        // Selected and not multiplied by 0, so that a NaN in x stays out of the modes it does not
        // own.
        for (int c = 0; c < C; ++c) {
          pixels.set(m, 2 + c, select(owner, mean[c] + k * difference[c], mean[c]));
        }
        const V wider = variance + k * (distance - variance);
        pixels.set(
            m, 1,
            select(owner, stdx::min(stdx::max(wider, V(p.minimum_variance)), V(p.maximum_variance)),
                   variance));
        owned = owned || owner;
      }
    }
    weights[m] = select(active && weight >= cost, weight, V(0.0F));
    total += weights[m];
  }
  const V normal = select(total > 0.0F, 1.0F / total, V(0.0F));
  for (int m = 0; m < used; ++m) weights[m] *= normal;

  if (const Mask homeless = !owned; stdx::any_of(homeless)) {
    V count = 0.0F;
    for (int m = 0; m < used; ++m) stdx::where(weights[m] > 0.0F, count) += 1.0F;
    const V slot = stdx::min(count, V(static_cast<float>(p.modes - 1)));
    if (used < p.modes) weights[used++] = 0.0F;
    for (int m = 0; m < used; ++m) {
      const Mask here = homeless && slot == static_cast<float>(m);
      stdx::where(homeless, weights[m]) *= keep;
      if (stdx::none_of(here)) continue;
      stdx::where(here, weights[m]) = select(count == 0.0F, V(1.0F), V(rate));
      pixels.set(m, 1, select(here, V(p.initial_variance), pixels.get(m, 1)));
      for (int c = 0; c < C; ++c) pixels.set(m, 2 + c, select(here, x[c], pixels.get(m, 2 + c)));
    }
  }

  // Only one mode of a pixel has become heavier: one pass from the end brings it to its place.
  for (int m = used - 1; m > 0; --m) {
    const Mask swap = weights[m] > weights[m - 1];
    if (stdx::none_of(swap)) continue;
    const V heavier = weights[m];
    weights[m] = select(swap, weights[m - 1], heavier);
    weights[m - 1] = select(swap, heavier, weights[m - 1]);
    for (int field = 1; field < 2 + C; ++field) {
      const V a = pixels.get(m - 1, field);
      const V b = pixels.get(m, field);
      pixels.set(m - 1, field, select(swap, b, a));
      pixels.set(m, field, select(swap, a, b));
    }
  }
  for (int m = 0; m < used; ++m) pixels.set(m, 0, weights[m]);
  while (used > 0 && stdx::all_of(weights[used - 1] == 0.0F)) --used;
  return used;
}

// One block of pixels to a row of floats for each channel; the lanes beyond `count` are 0.
template <class S, int C>
inline void load_block(const S* p, int64_t count, float (&x)[C][kMixtureBlock]) {
  alignas(64) S padded[C * kMixtureBlock];
  if (count < kMixtureBlock) {
    std::memset(padded, 0, sizeof padded);
    std::memcpy(padded, p, static_cast<std::size_t>(C * count) * sizeof(S));
    p = padded;
  }
  if constexpr (sizeof(S) == 1) {
    alignas(16) uint8_t bytes[3][kMixtureBlock];
    if constexpr (C == 3) deinterleave3(p, bytes[0], bytes[1], bytes[2]);
    for (int c = 0; c < C; ++c) {
      const uint8_t* row = C == 3 ? bytes[c] : p;
      for (int64_t k = 0; k < kMixtureBlock; k += kLanes) store(x[c] + k, load<V>(row + k));
    }
  } else {
    for (int64_t k = 0; k < kMixtureBlock; ++k) {
      for (int c = 0; c < C; ++c) x[c][k] = 255.0F * p[C * k + c];
    }
  }
}

template <class S, int C, bool kShadows>
void run(const MixtureTile& tile) {
  const MixtureParameters p = *tile.parameters;
  for (int64_t t = 0; t < tile.frames; ++t) {
    const auto* source = reinterpret_cast<const S*>(static_cast<const std::byte*>(tile.pixels) +
                                                    t * tile.frame_stride);
    uint8_t* labels = tile.labels + t * tile.label_stride;
    const float rate = tile.rates[t];
    for (int64_t first = 0, b = 0; first < tile.width; first += kMixtureBlock, ++b) {
      const int64_t count = tile.width - first < kMixtureBlock ? tile.width - first : kMixtureBlock;
      alignas(64) float block[C][kMixtureBlock];
      load_block<S, C>(source + C * first, count, block);
      alignas(16) uint8_t block_labels[kMixtureBlock];
      const int used = tile.used[b];
      int largest = 0;
      for (int64_t k = 0; k < kMixtureBlock; k += kLanes) {
        V x[C];
        for (int c = 0; c < C; ++c) x[c] = load<V>(block[c] + k);
        const Pixels<C> pixels(tile.state + b * (2 + C) * kMixtureBlock + k, tile.mode_stride);
        Verdict verdict;
        if (rate > 0.0F) {
          const int now = learn<C, kShadows>(p, rate, x, pixels, used, verdict);
          largest = now > largest ? now : largest;
        } else {
          verdict = classify<C, kShadows>(p, x, pixels, used);
          largest = used;
        }
        V label = static_cast<float>(tile.foreground);
        if constexpr (kShadows) {
          stdx::where(verdict.shadow, label) = static_cast<float>(tile.shadow);
        }
        stdx::where(verdict.background, label) = 0.0F;
        store_saturated(block_labels + k, label);
      }
      if (rate > 0.0F) tile.used[b] = static_cast<uint8_t>(largest);
      std::memcpy(labels + first, block_labels, static_cast<std::size_t>(count));
    }
  }
}

}  // namespace

MixtureFn* select_mixture(DType dtype, int64_t channels, bool shadows) {
  if (dtype == DType::u8) {
    if (channels == 1) return shadows ? run<uint8_t, 1, true> : run<uint8_t, 1, false>;
    return shadows ? run<uint8_t, 3, true> : run<uint8_t, 3, false>;
  }
  if (channels == 1) return shadows ? run<float, 1, true> : run<float, 1, false>;
  return shadows ? run<float, 3, true> : run<float, 3, false>;
}

}  // namespace marey::MAREY_ISA_NS
