#include "core/simd.h"
#include "ops/magnification/luma.h"

namespace marey::MAREY_ISA_NS {
namespace {

template <class S>
struct Luma {
  static S at(const LumaRow& row, int64_t x, int64_t c) {
    return *reinterpret_cast<const S*>(row.frame + x * row.pixel_stride + c * row.channel_stride);
  }
  static bool packed(const LumaRow& row) {
    return row.channels == 3 && row.channel_stride == sizeof(S) &&
           row.pixel_stride == 3 * static_cast<int64_t>(sizeof(S));
  }

  static bool take(const LumaRow& row, float* luma) {
    const auto weigh = [](auto r, auto g, auto b) {
      return fma(0.299F, static_cast<float>(r),
                 fma(0.587F, static_cast<float>(g), 0.114F * static_cast<float>(b)));
    };
    if (row.channels == 1) {
      for (int64_t x = 0; x < row.width; ++x) luma[x] = static_cast<float>(at(row, x, 0));
    } else if (packed(row)) {
      const S* p = reinterpret_cast<const S*>(row.frame);
      for (int64_t x = 0; x < row.width; ++x) luma[x] = weigh(p[3 * x], p[3 * x + 1], p[3 * x + 2]);
    } else {
      for (int64_t x = 0; x < row.width; ++x) {
        luma[x] = weigh(at(row, x, 0), at(row, x, 1), at(row, x, 2));
      }
    }
    if constexpr (sizeof(S) == 1) return true;
    int beyond = 0;
    for (int64_t x = 0; x < row.width; ++x) {
      beyond += luma[x] >= -kMostLuma && luma[x] <= kMostLuma ? 0 : 1;  // NaN is neither
    }
    return beyond == 0;
  }

  static S limited(float value) {
    if constexpr (sizeof(S) == 1) {
      const float within = value < 0.0F ? 0.0F : (value > 255.0F ? 255.0F : value);
      // Adding 2^23 rounds to nearest even.
      constexpr float kRound = 8388608.0F;
      return static_cast<S>(static_cast<int>((within + kRound) - kRound));
    } else {
      return value < 0.0F ? 0.0F : (value > 1.0F ? 1.0F : value);
    }
  }

  static void add(const LumaRow& row, const float* change, void* out) {
    S* o = static_cast<S*>(out);
    if (row.channels == 1) {
      for (int64_t x = 0; x < row.width; ++x) {
        o[x] = limited(static_cast<float>(at(row, x, 0)) + change[x]);
      }
    } else if (packed(row)) {
      const S* p = reinterpret_cast<const S*>(row.frame);
      for (int64_t x = 0; x < row.width; ++x) {
        for (int64_t c = 0; c < 3; ++c) {
          o[3 * x + c] = limited(static_cast<float>(p[3 * x + c]) + change[x]);
        }
      }
    } else {
      for (int64_t x = 0; x < row.width; ++x) {
        for (int64_t c = 0; c < 3; ++c) {
          o[3 * x + c] = limited(static_cast<float>(at(row, x, c)) + change[x]);
        }
      }
    }
  }
};

}  // namespace

LumaKernel select_luma(DType frame) {
  if (frame == DType::u8) return {Luma<uint8_t>::take, Luma<uint8_t>::add};
  return {Luma<float>::take, Luma<float>::add};
}

}  // namespace marey::MAREY_ISA_NS
