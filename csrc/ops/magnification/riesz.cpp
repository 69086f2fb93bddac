#include "ops/magnification/riesz.h"

#include <algorithm>
#include <cstring>

#include "core/denormals.h"
#include "core/parallel.h"
#include "ops/magnification/frames.h"
#include "ops/magnification/luma.h"
#include "ops/pyramid/image.h"
#include "ops/pyramid/laplacian.h"

namespace marey {

MAREY_STUB_NO_BF16(select_riesz, SelectRiesz)

namespace {

constexpr std::string_view kName = "marey.Magnifier";
// Vectors of the smoothing read past the end of a plane.
constexpr int64_t kSlack = 64;

Buffer floats(int64_t count) {
  return Buffer((count + kSlack) * static_cast<int64_t>(sizeof(float)));
}

float* as_floats(const Buffer& buffer) { return reinterpret_cast<float*>(buffer.data()); }

}  // namespace

RieszMagnifier::RieszMagnifier(const RieszMagnifierOptions& options) : options_(options) {
  Shape shape;
  shape.push_back(options.height);
  shape.push_back(options.width);
  for (int level = 0; level <= options.levels; ++level) {
    shapes_.push_back(shape);
    bands_.push_back(floats(shape.count()));
    if (level < options.levels) {
      offsets_.push_back(coefficients_);
      coefficients_ += shape.count();
    }
    shape[0] = half(shape[0]);
    shape[1] = half(shape[1]);
  }
  luma_ = floats(shapes_[0].count());
  weighted_ = floats(3 * (shapes_[0].count() + kSlack));
  std::memset(weighted_.data(), 0, static_cast<std::size_t>(weighted_.bytes()));
  const int64_t rows = 3 + 2 * options.filter.state_rows();
  state_ = floats(rows * coefficients_);
  next_state_ = floats(rows * coefficients_);
}

View RieszMagnifier::state() const {
  Shape shape;
  shape.push_back(3 + 2 * options_.filter.state_rows());
  shape.push_back(coefficients_);
  return contiguous_view(state_.data(), DType::f32, shape);
}

int64_t RieszMagnifier::workspace_bytes() const {
  int64_t bytes = luma_.bytes() + weighted_.bytes() + state_.bytes() + next_state_.bytes();
  for (const Buffer& band : bands_) bytes += band.bytes();
  return bytes;
}

void RieszMagnifier::feed(const View& frames, const View& out) {
  check_frames(kName, frames, options_.height, options_.width, options_.channels, options_.dtype);
  check_writable_frames(kName, out);
  if (frames.shape.count() == 0) return;
  // The first frame writes its state beside the old one, which stays whole until the last has
  // passed.
  const float* state_in = as_floats(state_);
  bool started = started_;
  if (!started) std::memset(state_.data(), 0, static_cast<std::size_t>(state_.bytes()));
  for (int64_t t = 0; t < frames.shape[0]; ++t) {
    feed_frame(frame_of(frames, t), frame_of(out, t), state_in, as_floats(next_state_), started);
    state_in = as_floats(next_state_);
    started = true;
    check_interrupted();
  }
  std::swap(state_, next_state_);
  started_ = true;
}

void RieszMagnifier::feed_frame(const View& frame, const View& out, const float* state_in,
                                float* state_out, bool started) {
  const RieszKernel kernel = select_riesz_stub.get()();
  take_luma(kName, frame, as_floats(luma_));
  const View luma = contiguous_view(luma_.data(), DType::f32, shapes_[0]);
  std::vector<View> bands;
  for (std::size_t level = 0; level < bands_.size(); ++level) {
    bands.push_back(contiguous_view(bands_[level].data(), DType::f32, shapes_[level]));
  }
  laplacian(kName, luma, std::nullopt, bands);

  for (std::size_t level = 0; level + 1 < bands_.size(); ++level) {
    const int64_t height = shapes_[level][0];
    const int64_t width = shapes_[level][1];
    const int64_t offset = offsets_[level];
    const RieszBand band{as_floats(bands_[level]),
                         state_in + offset,
                         state_out + offset,
                         coefficients_,
                         as_floats(weighted_),
                         height * width + kSlack,
                         height,
                         width,
                         &options_.filter,
                         options_.smoothing.data(),
                         static_cast<int64_t>(options_.smoothing.size()) - 1,
                         started};
    const int64_t grain = std::max<int64_t>(1, (int64_t{1} << 14) / width);
    parallel_for(height, grain, 0, [&](int64_t begin, int64_t end, std::byte*) {
      const FlushDenormals flush;
      kernel.filter(band, begin, end);
    });
    parallel_for(height, grain,
                 static_cast<std::size_t>(kernel.turn_scratch_bytes(width, band.radius)),
                 [&](int64_t begin, int64_t end, std::byte* scratch) {
                   kernel.turn(band, begin, end, scratch);
                 });
  }
  // The residual does not change.
  std::memset(bands_.back().data(), 0, static_cast<std::size_t>(bands_.back().bytes()));
  collapse(kName, bands, std::nullopt, luma);
  add_to_luma(frame, as_floats(luma_), out);
}

}  // namespace marey
