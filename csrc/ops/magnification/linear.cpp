#include "ops/magnification/linear.h"

#include <algorithm>
#include <atomic>
#include <cstring>
#include <utility>

#include "core/error.h"
#include "core/parallel.h"
#include "ops/pyramid/down.h"
#include "ops/pyramid/up.h"
#include "ops/temporal/sosfilt.h"

namespace marey {

MAREY_STUB_NO_BF16(attenuate_chroma, AttenuateChroma)
MAREY_STUB_NO_BF16(all_finite, AllFinite)

namespace {

constexpr std::string_view kName = "marey.Magnifier";
constexpr int kChannelAxis = -1;
// The filtered level of one chunk: small enough to stay in the last-level cache from step to step,
// many enough frames to pay for reading and writing the filter state.
constexpr int64_t kChunkBytes = int64_t{6} << 20;
constexpr int64_t kMaxChunk = 16;

Shape frames_shape(int64_t frames, int64_t height, int64_t width, int64_t channels) {
  Shape shape;
  for (int64_t extent : {frames, height, width, channels}) shape.push_back(extent);
  return shape;
}

// (T, H, W) as (T, H, W, 1), and only frames [first, first + count).
View chunk_of(const View& video, int64_t first, int64_t count) {
  View chunk = video;
  chunk.data = video.as<std::byte>() + first * video.stride(0);
  chunk.shape[0] = count;
  if (video.ndim() == 3) {
    chunk.shape.push_back(1);
    chunk.stride(3) = item_size(video.dtype);
  }
  return chunk;
}

}  // namespace

LinearMagnifier::LinearMagnifier(const LinearMagnifierOptions& options)
    : options_(options),
      top_level_(options.base_level +
                 (options.gaussian ? 0 : static_cast<int>(options.alphas.size()))) {
  shapes_.push_back(frames_shape(1, options.height, options.width, options.channels));
  for (int level = 1; level <= top_level_; ++level) {
    const Shape& last = shapes_.back();
    shapes_.push_back(frames_shape(1, half(last[1]), half(last[2]), options.channels));
  }
  // Level 1 is the largest that is kept.
  const int64_t frame_bytes = std::max<int64_t>(1, shapes_[1].count()) * item_size(DType::f32);
  chunk_ = std::clamp<int64_t>(kChunkBytes / frame_bytes, 1, kMaxChunk);
  for (Shape& shape : shapes_) shape[0] = chunk_;

  filtered_.resize(shapes_.size());
  amplified_.resize(shapes_.size());
  for (std::size_t level = 1; level < shapes_.size(); ++level) {
    const int64_t bytes = shapes_[level].count() * item_size(DType::f32);
    filtered_[level] = Buffer(bytes);
    amplified_[level] = Buffer(bytes);
  }
  const auto sections = static_cast<int64_t>(options.sos.size() / 6);
  const int64_t series = shapes_[static_cast<std::size_t>(options.base_level)].count() / chunk_;
  state_ = Buffer(2 * sections * series * item_size(DType::f32));
  next_state_ = Buffer(state_.bytes());
}

View LinearMagnifier::state() const {
  Shape shape;
  shape.push_back(static_cast<int64_t>(options_.sos.size() / 6));
  shape.push_back(2);
  shape.push_back(shapes_[static_cast<std::size_t>(options_.base_level)].count() / chunk_);
  return contiguous_view(state_.data(), DType::f32, shape);
}

int64_t LinearMagnifier::workspace_bytes() const {
  int64_t bytes = state_.bytes() + next_state_.bytes();
  for (const auto* buffers : {&filtered_, &amplified_}) {
    for (const Buffer& buffer : *buffers) bytes += buffer.bytes();
  }
  return bytes;
}

View LinearMagnifier::level_view(const std::vector<Buffer>& buffers, int level,
                                 int64_t frames) const {
  Shape shape = shapes_[static_cast<std::size_t>(level)];
  shape[0] = frames;
  return contiguous_view(buffers[static_cast<std::size_t>(level)].data(), DType::f32, shape);
}

void LinearMagnifier::feed(const View& frames, const View& out) {
  Shape expected = frames_shape(frames.ndim() > 0 ? frames.shape[0] : 0, options_.height,
                                options_.width, options_.channels);
  if (frames.ndim() == 3 && options_.channels == 1) expected.ndim = 3;
  if (!(frames.shape == expected)) {
    throw ValueError(
        kName, "frames",
        "shape (T, " + to_string(expected).substr(1 + std::to_string(expected[0]).size() + 2),
        to_string(frames.shape));
  }
  if (frames.dtype != options_.dtype) {
    throw TypeError(kName, "frames", name(options_.dtype), name(frames.dtype));
  }
  if (frames.shape.count() == 0) return;

  const int64_t total = frames.shape[0];
  const bool was_started = started_;
  std::vector<std::byte> before;
  if (total > chunk_ && started_) before.assign(state_.data(), state_.data() + state_.bytes());
  try {
    for (int64_t first = 0; first < total; first += chunk_) {
      if (first != 0) check_interrupted();
      const int64_t count = std::min(chunk_, total - first);
      feed_chunk(chunk_of(frames, first, count), chunk_of(out, first, count));
    }
  } catch (...) {
    if (!before.empty()) std::memcpy(state_.data(), before.data(), before.size());
    started_ = was_started;
    throw;
  }
}

void LinearMagnifier::feed_chunk(const View& frames, const View& out) {
  const int64_t count = frames.shape[0];
  const int base = options_.base_level;
  const auto filtered = [&](int level) { return level_view(filtered_, level, count); };
  const auto amplified = [&](int level) { return level_view(amplified_, level, count); };

  for (int level = 1; level <= base; ++level) {
    down(kName, level == 1 ? frames : filtered(level - 1), kChannelAxis, filtered(level));
  }

  // Along time, in place. Every pixel of a frame reaches the base level, so a value that is not
  // finite shows there too, before it can enter the state.
  const View coarse = filtered(base);
  const int64_t items = coarse.shape.count();
  const int64_t series = items / count;
  if (frames.dtype != DType::u8) {
    std::atomic<bool> finite{true};
    AllFinite* const check = all_finite_stub.get();
    parallel_for(items, int64_t{1} << 16, 0, [&](int64_t begin, int64_t end, std::byte*) {
      if (!check(coarse.as<float>() + begin, end - begin)) finite = false;
    });
    if (!finite) throw ValueError(kName, "frames", "finite values", "NaN or infinity");
  }
  const auto sections = static_cast<int64_t>(options_.sos.size() / 6);
  if (!started_) {
    for (int64_t row = 0; row < 2 * sections; ++row) {
      const auto zi = static_cast<float>(options_.steady_zi[static_cast<std::size_t>(row)]);
      float* z = reinterpret_cast<float*>(state_.data()) + row * series;
      for (int64_t k = 0; k < series; ++k) z[k] = zi * coarse.as<float>()[k];
    }
  }
  Shape sos_shape;
  sos_shape.push_back(sections);
  sos_shape.push_back(6);
  const View sos =
      contiguous_view(reinterpret_cast<std::byte*>(options_.sos.data()), DType::f64, sos_shape);
  Shape flat_shape;
  flat_shape.push_back(count);
  flat_shape.push_back(series);
  const View flat = contiguous_view(coarse.as<std::byte>(), DType::f32, flat_shape);
  const View zi = state();
  View zf = zi;
  zf.data = next_state_.data();
  sosfilt(sos, flat, 0, flat, &zi, &zf);

  // E at the base level, from the coarsest level up.
  View e = coarse;
  double pending = options_.gaussian ? options_.alphas[0] : 0.0;  // a factor not yet multiplied in
  if (!options_.gaussian) {
    for (int level = base; level < top_level_; ++level) {
      down(kName, filtered(level), kChannelAxis, filtered(level + 1));
    }
    e = filtered(top_level_);
    pending = -options_.alphas.back();
    for (int level = top_level_ - 1; level >= base; --level) {
      const auto band = static_cast<std::size_t>(level - base);
      const double finer = band == 0 ? 0.0 : options_.alphas[band - 1];
      const double weight = options_.alphas[band] - finer;
      const View b = filtered(level);
      up(kName, e, kChannelAxis, amplified(level),
         {.other = &b, .other_weight = weight, .up_weight = pending});
      e = amplified(level);
      pending = 1.0;
    }
  }
  if (options_.channels == 3 && options_.chroma != 1.0) {
    AttenuateChroma* const attenuate = attenuate_chroma_stub.get();
    const auto chroma = static_cast<float>(options_.chroma);
    parallel_for(e.shape.count() / 3, int64_t{1} << 14, 0,
                 [&](int64_t begin, int64_t end, std::byte*) {
                   attenuate(e.as<float>() + 3 * begin, end - begin, chroma);
                 });
  }
  for (int level = base - 1; level >= 1; --level) {
    up(kName, e, kChannelAxis, amplified(level));
    e = amplified(level);
  }
  up(kName, e, kChannelAxis, out, {.other = &frames, .up_weight = pending, .clip = true});

  std::swap(state_, next_state_);
  started_ = true;
}

}  // namespace marey
