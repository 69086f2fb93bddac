#include "ops/background/mixture.h"

#include <algorithm>
#include <cstring>
#include <string>

#include "core/error.h"
#include "core/parallel.h"
#include "core/rows.h"

namespace marey {

MAREY_STUB_NO_BF16(select_mixture, SelectMixture)

namespace {

constexpr std::string_view kName = "marey.MixtureBackground";
// Frames are taken one after the other over a tile, so its state should stay in the second-level
// cache: 20 KiB a mode.
constexpr int64_t kTilePixels = 1024;

}  // namespace

Mixture::Mixture(int64_t height, int64_t width, int64_t channels, DType dtype,
                 const MixtureParameters& parameters)
    : height_(height),
      width_(width),
      channels_(channels),
      dtype_(dtype),
      parameters_(parameters),
      blocks_((width + kMixtureBlock - 1) / kMixtureBlock) {
  const int64_t items = parameters.modes * height * blocks_ * (2 + channels) * kMixtureBlock;
  state_ = Buffer(items * item_size(DType::f32));
  std::memset(state_.data(), 0, static_cast<std::size_t>(items * item_size(DType::f32)));
  used_.assign(static_cast<std::size_t>(height * blocks_), 0);
}

View Mixture::state() const {
  Shape shape;
  for (int64_t extent :
       {int64_t{parameters_.modes}, height_, blocks_, 2 + channels_, kMixtureBlock}) {
    shape.push_back(extent);
  }
  return contiguous_view(state_.data(), DType::f32, shape);
}

void Mixture::count_modes() {
  const View view = state();
  const int64_t block_items = (2 + channels_) * kMixtureBlock;
  const int64_t mode_stride = height_ * blocks_ * block_items;
  for (int64_t block = 0; block < height_ * blocks_; ++block) {
    uint8_t used = 0;
    for (int m = 0; m < parameters_.modes; ++m) {
      const float* weights = view.as<float>() + m * mode_stride + block * block_items;
      if (std::any_of(weights, weights + kMixtureBlock, [](float w) { return w > 0; })) {
        used = static_cast<uint8_t>(m + 1);
      }
    }
    used_[static_cast<std::size_t>(block)] = used;
  }
}

void Mixture::feed(const View& frames, const std::vector<float>& rates, const View& labels,
                   uint8_t shadow, uint8_t foreground) {
  Shape expected;
  expected.push_back(frames.ndim() > 0 ? frames.shape[0] : 0);
  expected.push_back(height_);
  expected.push_back(width_);
  const Shape label_shape = expected;
  if (channels_ != 1) expected.push_back(channels_);
  if (!(frames.shape == expected)) {
    throw ValueError(kName, "frames", "shape " + to_string(expected), to_string(frames.shape));
  }
  if (frames.dtype != dtype_) throw TypeError(kName, "frames", name(dtype_), name(frames.dtype));
  if (!(labels.shape == label_shape) || labels.dtype != DType::u8 ||
      (labels.shape.count() != 0 && !is_contiguous(labels, 0, labels.ndim()))) {
    throw ValueError(kName, "out", "contiguous uint8 of shape " + to_string(label_shape),
                     to_string(labels.shape));
  }
  const int64_t count = frames.shape[0];
  if (static_cast<int64_t>(rates.size()) != count) {
    throw ValueError(kName, "rates", std::to_string(count), std::to_string(rates.size()));
  }
  if (frames.shape.count() == 0) return;

  MixtureFn* const run = select_mixture_stub.get()(dtype_, channels_, parameters_.shadows);
  const FrameRows rows(frames);
  const int64_t block_items = (2 + channels_) * kMixtureBlock;
  const int64_t tiles_per_row = (width_ + kTilePixels - 1) / kTilePixels;
  const int64_t grain =
      std::max<int64_t>(1, 4 * kTilePixels / (count * std::min(width_, kTilePixels)));
  parallel_for(height_ * tiles_per_row, grain, rows.scratch_bytes(kTilePixels),
               [&](int64_t begin, int64_t end, std::byte* scratch) {
                 for (int64_t tile = begin; tile < end; ++tile) {
                   const int64_t y = tile / tiles_per_row;
                   const int64_t x = tile % tiles_per_row * kTilePixels;
                   const int64_t width = std::min(kTilePixels, width_ - x);
                   const int64_t block = y * blocks_ + x / kMixtureBlock;
                   const auto take = [&](int64_t t, int64_t steps) {
                     run({rows.pixels(t, y, x, width, scratch), frames.stride(0),
                          labels.as<uint8_t>() + t * labels.stride(0) + y * labels.stride(1) + x,
                          labels.stride(0), steps, width, rates.data() + t,
                          reinterpret_cast<float*>(state_.data()) + block * block_items,
                          height_ * blocks_ * block_items, used_.data() + block, &parameters_,
                          shadow, foreground});
                   };
                   if (rows.contiguous()) {
                     take(0, count);
                   } else {
                     for (int64_t t = 0; t < count; ++t) take(t, 1);
                   }
                 }
               });
}

void Mixture::background(const View& out) const {
  const int64_t block_items = (2 + channels_) * kMixtureBlock;
  const int64_t mode_stride = height_ * blocks_ * block_items;
  const auto* state = reinterpret_cast<const float*>(state_.data());
  parallel_for(height_, 8, 0, [&](int64_t begin, int64_t end, std::byte*) {
    for (int64_t y = begin; y < end; ++y) {
      for (int64_t x = 0; x < width_; ++x) {
        const float* pixel =
            state + (y * blocks_ + x / kMixtureBlock) * block_items + x % kMixtureBlock;
        double total = 0;
        double sum[3] = {};
        for (int m = 0; m < parameters_.modes && total < parameters_.background_ratio; ++m) {
          const float* mode = pixel + m * mode_stride;
          if (mode[0] <= 0) break;
          total += mode[0];
          for (int64_t c = 0; c < channels_; ++c) {
            sum[c] += static_cast<double>(mode[0]) * mode[(2 + c) * kMixtureBlock];
          }
        }
        double* to = out.as<double>() + (y * width_ + x) * channels_;
        for (int64_t c = 0; c < channels_; ++c) to[c] = total > 0 ? sum[c] / total : 0;
      }
    }
  });
}

}  // namespace marey
