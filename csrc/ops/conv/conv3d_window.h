#pragma once
// The window of the input that a block of the output reads, for kernel files: copied into scratch
// as (T, H, W, channels). Padding along W becomes zeros; along T and H what is outside is not
// copied, and its taps are left out.
#include <optional>

#include "core/scratch.h"
#include "ops/conv/conv3d.h"
#include "ops/conv/conv3d_tile.h"

namespace marey::MAREY_ISA_NS {

inline int64_t round_up(int64_t x, int64_t to) { return (x + to - 1) / to * to; }
inline int64_t at_most(int64_t a, int64_t b) { return a < b ? a : b; }

// One axis of a window: input position of local index i, and the local index of a tap.
struct Span {
  int64_t first;   // input position of local index 0
  int64_t stride;  // input positions from one local index to the next
  int64_t step;    // local indices from one output to the next
  int64_t extent;

  Span(const ConvTaps& taps, int64_t begin, int64_t end) {
    first = begin * taps.step + (taps.count > 0 ? taps.offset[0] : 0);
    // With one tap, only what is read.
    stride = taps.count <= 1 ? taps.step : 1;
    step = taps.count <= 1 ? 1 : taps.step;
    const int64_t reach = taps.count > 0 ? taps.offset[taps.count - 1] - taps.offset[0] : 0;
    extent = end > begin ? (end - 1 - begin) * step + reach + 1 : 0;
  }
};

// True if the taps read neighbours.
inline bool contiguous(const ConvTaps& taps) {
  for (int64_t i = 1; i < taps.count; ++i) {
    if (taps.offset[i] != taps.offset[i - 1] + 1) return false;
  }
  return true;
}

// A frame of the input or of the past: channel 0 of position (0, 0), null for one outside, and the
// strides of rows, pixels and channels.
template <class S>
struct FrameAt {
  const S* data = nullptr;
  int64_t row = 0, pixel = 0, channel = 0;
};

struct WindowPlace {
  Span time, height, width;

  explicit WindowPlace(const ConvBlock& b)
      : time(b.problem->taps[0], b.begin[0], b.end[0]),
        height(b.problem->taps[1], b.begin[1], b.end[1]),
        width(b.problem->taps[2], b.begin[2], b.end[2]) {}

  int64_t pixels() const { return time.extent * height.extent * width.extent; }

  // Frame `index` of the window.
  template <class S>
  FrameAt<S> frame(const ConvBlock& b, int64_t index) const {
    int64_t at = time.first + index * time.stride;
    if (at < 0 || at >= b.problem->in[0]) return {};
    const bool past = at < b.history;
    if (!past) at -= b.history;
    const ConvStrides& strides = past ? b.past_strides : b.x_strides;
    const S* const x = static_cast<const S*>(past ? b.past : b.x);
    return {x + at * strides.s[0], strides.s[1], strides.s[2], strides.c};
  }

  // Channels [first, first + channels), `pitch` items a pixel.
  template <class S, class T>
  void pack(const ConvBlock& b, int64_t first, int64_t channels, int64_t pitch, T* to) const {
    const Triple& in = b.problem->in;
    for (int64_t t = 0; t < time.extent; ++t) {
      const FrameAt<S> frame_at = frame<S>(b, t);
      for (int64_t h = 0; h < height.extent; ++h, to += width.extent * pitch) {
        const int64_t row = height.first + h * height.stride;
        if (frame_at.data == nullptr || row < 0 || row >= in[1]) continue;
        const S* from = frame_at.data + first * frame_at.channel + row * frame_at.row;
        if (width.stride == 1) {
          pack_pixels(from, frame_at.channel, frame_at.pixel, width.first,
                      width.first + width.extent, in[2], channels, pitch, to);
          continue;
        }
        // Every stride-th pixel: the first of them that is inside becomes pixel 0.
        const int64_t skipped =
            width.first >= 0 ? 0 : (-width.first + width.stride - 1) / width.stride;
        const int64_t origin = width.first + skipped * width.stride;
        const int64_t extent =
            in[2] > origin ? (in[2] - origin + width.stride - 1) / width.stride : 0;
        pack_pixels(from + origin * frame_at.pixel, frame_at.channel, frame_at.pixel * width.stride,
                    -skipped, width.extent - skipped, extent, channels, pitch, to);
      }
    }
  }

  // f(i, j, frame, row) for each pair of taps along T and H of the row of outputs (t, h) that reads
  // a frame and row inside of the input.
  template <class F>
  [[gnu::always_inline]] static void each_row(const ConvBlock& b, int64_t t, int64_t h,
                                              const F& f) {
    const std::array<ConvTaps, 3>& taps = b.problem->taps;
    for (int64_t i = 0; i < taps[0].count; ++i) {
      const int64_t frame = t * taps[0].step + taps[0].offset[i];
      if (frame < 0 || frame >= b.problem->in[0]) continue;
      for (int64_t j = 0; j < taps[1].count; ++j) {
        const int64_t row = h * taps[1].step + taps[1].offset[j];
        if (row < 0 || row >= b.problem->in[1]) continue;
        f(i, j, frame, row);
      }
    }
  }

  // Which row of the window the taps i and j of the row of outputs (t, h) read.
  int64_t row_of(const ConvBlock& b, int64_t t, int64_t h, int64_t i, int64_t j) const {
    const std::array<ConvTaps, 3>& taps = b.problem->taps;
    const int64_t frame = (t - b.begin[0]) * time.step + taps[0].offset[i] - taps[0].offset[0];
    const int64_t row = (h - b.begin[1]) * height.step + taps[1].offset[j] - taps[1].offset[0];
    return frame * height.extent + row;
  }

  // The taps of the row of outputs (t, h) that lie inside, counted: `pitch` items a pixel of the
  // window, `weights` items a tap. With `merged`, those along W are one.
  int64_t list_taps(const ConvBlock& b, int64_t t, int64_t h, int64_t pitch, int64_t weights,
                    bool merged, TapAt* to) const {
    const std::array<ConvTaps, 3>& taps = b.problem->taps;
    int64_t count = 0;
    each_row(b, t, h, [&](int64_t i, int64_t j, int64_t, int64_t) {
      const int64_t input = row_of(b, t, h, i, j) * width.extent * pitch;
      const int64_t tap = (i * taps[1].count + j) * taps[2].count;
      if (merged) {
        to[count++] = {input, tap * weights};
        return;
      }
      for (int64_t l = 0; l < taps[2].count; ++l) {
        to[count++] = {input + (taps[2].offset[l] - taps[2].offset[0]) * pitch,
                       (tap + l) * weights};
      }
    });
    return count;
  }
};

// The bias of so many lanes of filters from `first` on, zeros behind the last one, if there is any.
template <class C>
inline void copy_bias(const ConvBlock& b, int64_t first, int64_t lanes, C* to) {
  if (b.bias == nullptr) return;
  const C* bias = static_cast<const C*>(b.bias);
  for (int64_t k = 0; k < lanes; ++k) {
    to[k] = first + k < b.problem->filters ? bias[first + k] : C(0);
  }
}

// What the tiles of a block fetch line by line while they multiply, because to read it from memory
// when it is needed would leave the multiply-adds idle. Runs of as many lines as a tap is deep are
// spread evenly over the calls.
class RunsAhead {
 public:
  static constexpr int64_t kLineBytes = 64;

  RunsAhead(int64_t bytes, int64_t depth, int64_t calls)
      : run_(depth * kLineBytes), runs_(depth > 0 ? (bytes + run_ - 1) / run_ : 0), calls_(calls) {}

  int64_t count() const { return runs_; }
  int64_t run_bytes() const { return run_; }
  // The run of this call; negative: none.
  int64_t next() {
    const int64_t run = call_ * runs_ / calls_;
    ++call_;
    return run == call_ * runs_ / calls_ ? -1 : run;
  }

 private:
  int64_t run_, runs_, calls_;
  int64_t call_ = 0;
};

// One stretch of memory.
class StretchAhead {
 public:
  StretchAhead(const void* at, int64_t bytes, int64_t depth, int64_t calls)
      : at_(static_cast<const std::byte*>(at)), runs_(bytes, depth, calls) {}

  LinesAhead next() {
    const int64_t run = runs_.next();
    if (run < 0) return {};
    return {at_ + run * runs_.run_bytes(), RunsAhead::kLineBytes};
  }

 private:
  const std::byte* at_;
  RunsAhead runs_;
};

// The inputs of the next block, channels side by side: for windows that are read about once, of one
// tap along H and W.
class InputsAhead {
 public:
  InputsAhead(const ConvBlock& b, int64_t item, int64_t depth, int64_t calls)
      : next_(b.next), item_(item), runs_(0, depth, calls) {
    const ConvProblem& p = *b.problem;
    if (next_ == nullptr || next_->x_strides.c != 1) return;
    if (p.taps[1].count != 1 || p.taps[2].count != 1) return;
    place_.emplace(*next_);
    const int64_t row = place_->width.extent * place_->width.stride * next_->x_strides.s[2] * item;
    runs_of_row_ = RunsAhead(row, depth, calls).count();
    runs_ =
        RunsAhead(place_->time.extent * place_->height.extent * runs_of_row_ * runs_.run_bytes(),
                  depth, calls);
  }

  LinesAhead next() {
    const int64_t run = runs_.next();
    if (run < 0) return {};
    const int64_t read = run / runs_of_row_;
    int64_t frame = place_->time.first + read / place_->height.extent * place_->time.stride;
    const int64_t row = place_->height.first + read % place_->height.extent * place_->height.stride;
    const Triple& in = next_->problem->in;
    if (frame < 0 || frame >= in[0] || row < 0 || row >= in[1]) return {};
    const bool past = frame < next_->history;
    if (!past) frame -= next_->history;
    const ConvStrides& x = past ? next_->past_strides : next_->x_strides;
    const int64_t at = frame * x.s[0] + row * x.s[1] + place_->width.first * x.s[2];
    return {static_cast<const std::byte*>(past ? next_->past : next_->x) + at * item_ +
                run % runs_of_row_ * runs_.run_bytes(),
            RunsAhead::kLineBytes};
  }

 private:
  const ConvBlock* next_;
  int64_t item_;
  std::optional<WindowPlace> place_;
  int64_t runs_of_row_ = 0;
  RunsAhead runs_;
};

}  // namespace marey::MAREY_ISA_NS
