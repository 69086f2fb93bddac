#include "ops/magnification/phase.h"

#include <algorithm>
#include <cstring>

#include "core/denormals.h"
#include "core/error.h"
#include "core/parallel.h"
#include "ops/magnification/frames.h"
#include "ops/magnification/luma.h"
#include "ops/pyramid/image.h"

namespace marey {

MAREY_STUB_NO_BF16(select_phase, SelectPhase)

namespace {

constexpr std::string_view kName = "marey.Magnifier";
constexpr int64_t kGrain = int64_t{1} << 14;
// Vectors of the smoothing read past the end of a plane.
constexpr int64_t kSlack = 256;

Plane plane_of(float* data, const Extent& extent) {
  Plane plane;
  plane.data = reinterpret_cast<std::byte*>(data);
  plane.height = extent.height;
  plane.width = extent.width;
  plane.pixel_stride = sizeof(float);
  plane.channel_stride = sizeof(float);
  plane.row_stride = extent.width * static_cast<int64_t>(sizeof(float));
  return plane;
}

Buffer floats(int64_t count) {
  return Buffer(count * static_cast<int64_t>(sizeof(float)) + kSlack);
}

float* as_floats(const Buffer& buffer) { return reinterpret_cast<float*>(buffer.data()); }

}  // namespace

PhaseMagnifier::PhaseMagnifier(const PhaseMagnifierOptions& options)
    : options_(options),
      transform_(options.pyramid),
      analysis_(transform_.workspace()),
      synthesis_(transform_.workspace()) {
  int64_t at_once = 0;
  for (int scale = 0; scale < transform_.scales(); ++scale) {
    const int64_t pixels = transform_.extent(scale).pixels();
    offsets_.push_back(coefficients_);
    coefficients_ += options.pyramid.orientations * pixels;
    at_once = std::max(at_once, pixels * transform_.bands_at_once(scale));
  }
  luma_ = floats(options.pyramid.height * options.pyramid.width);
  bands_ = floats(2 * at_once);
  turned_ = floats(at_once);
  if (options.smoothing.size() > 1) {
    shifts_ = floats(at_once);
    amplitudes_ = floats(at_once);
    std::memset(shifts_.data(), 0, static_cast<std::size_t>(shifts_.bytes()));
    std::memset(amplitudes_.data(), 0, static_cast<std::size_t>(amplitudes_.bytes()));
  }
  const int64_t rows = 1 + options.filter.state_rows();
  state_ = floats(rows * coefficients_);
  next_state_ = floats(rows * coefficients_);
}

View PhaseMagnifier::state() const {
  Shape shape;
  shape.push_back(1 + options_.filter.state_rows());
  shape.push_back(coefficients_);
  return contiguous_view(state_.data(), DType::f32, shape);
}

int64_t PhaseMagnifier::workspace_bytes() const {
  int64_t bytes = transform_.table_bytes();
  for (const Buffer* buffer :
       {&analysis_.spectrum, &analysis_.planes, &synthesis_.spectrum, &synthesis_.planes, &luma_,
        &bands_, &turned_, &shifts_, &amplitudes_, &state_, &next_state_}) {
    bytes += buffer->bytes();
  }
  return bytes;
}

void PhaseMagnifier::feed(const View& frames, const View& out) {
  check_frames(kName, frames, options_.pyramid.height, options_.pyramid.width, options_.channels,
               options_.dtype);
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

void PhaseMagnifier::feed_frame(const View& frame, const View& out, const float* state_in,
                                float* state_out, bool started) {
  const PhaseKernel kernel = select_phase_stub.get()();
  const Extent image{options_.pyramid.height, options_.pyramid.width};
  float* luma = as_floats(luma_);
  take_luma(kName, frame, luma);
  transform_.analyse(analysis_, plane_of(luma, image), DType::f32);
  // Synthesised is the change: what the residuals alone lack to the frame, and all sub-bands.
  std::memcpy(synthesis_.spectrum.data(), analysis_.spectrum.data(),
              static_cast<std::size_t>(analysis_.spectrum.bytes()));
  transform_.keep_residuals(synthesis_, true);

  const bool smooth = options_.smoothing.size() > 1;
  const auto radius = static_cast<int64_t>(options_.smoothing.size()) - 1;
  for (int scale = 0; scale < transform_.scales(); ++scale) {
    const Extent extent = transform_.extent(scale);
    const int64_t pixels = extent.pixels();
    const int at_once = transform_.bands_at_once(scale);
    for (int first = 0; first < options_.pyramid.orientations; first += at_once) {
      const int count = std::min(at_once, options_.pyramid.orientations - first);
      auto* bands = reinterpret_cast<std::complex<float>*>(bands_.data());
      std::vector<std::complex<float>*> outputs;
      std::vector<Plane> inputs;
      for (int k = 0; k < count; ++k) {
        outputs.push_back(bands + k * pixels);
        inputs.push_back(plane_of(as_floats(turned_) + k * pixels, extent));
      }
      transform_.bands(analysis_, scale, first, count, outputs.data());

      const int64_t offset = offsets_[static_cast<std::size_t>(scale)] + first * pixels;
      const PhaseRange range{bands,
                             state_in + offset,
                             state_out + offset,
                             coefficients_,
                             as_floats(turned_),
                             as_floats(shifts_),
                             as_floats(amplitudes_),
                             &options_.filter,
                             started,
                             smooth};
      parallel_for(count * pixels, kGrain, 0, [&](int64_t begin, int64_t end, std::byte*) {
        const FlushDenormals flush;
        kernel.filter(range, begin, end);
      });
      if (smooth) {
        const int64_t grain = std::max<int64_t>(1, kGrain / extent.width);
        parallel_for(
            count * extent.height, grain,
            static_cast<std::size_t>(kernel.smooth_scratch_bytes(extent.width, radius)),
            [&](int64_t begin, int64_t end, std::byte* scratch) {
              for_each_piece(begin, end, extent.height, [&](int64_t k, int64_t from, int64_t to) {
                const int64_t at = k * pixels;
                kernel.smooth({bands + at, as_floats(shifts_) + at, as_floats(amplitudes_) + at,
                               as_floats(turned_) + at, extent.height, extent.width,
                               options_.smoothing.data(), radius},
                              from, to, scratch);
              });
            });
      }
      transform_.add_bands(synthesis_, scale, first, count, inputs.data());
    }
  }
  transform_.synthesise(synthesis_, plane_of(luma, image));
  add_to_luma(frame, luma, out);
}

}  // namespace marey
