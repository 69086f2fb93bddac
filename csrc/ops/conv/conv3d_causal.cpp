#include <algorithm>
#include <array>
#include <cstdlib>
#include <cstring>

#include "core/parallel.h"
#include "ops/conv/conv3d.h"

namespace marey {
namespace {

// Bytes of a copy that a task is worth.
constexpr int64_t kGrainBytes = int64_t{64} << 10;

struct CopiedAxis {
  int64_t extent, from, to;  // strides in bytes
};

// One frame of (N, C, T, H, W) to another: rows of items, along the axes that are long in memory.
class FrameCopy {
 public:
  FrameCopy(const View& from, const View& to) : item_(item_size(from.dtype)) {
    for (const int axis : {0, 1, 3, 4}) {
      if (to.shape[axis] == 1) continue;
      const CopiedAxis axis_here{to.shape[axis], from.stride(axis), to.stride(axis)};
      std::size_t at = count_++;
      for (; at > 0 && std::abs(axes_[at - 1].to) < std::abs(axis_here.to); --at) {
        axes_[at] = axes_[at - 1];
      }
      axes_[at] = axis_here;
    }
    // Neighbours that are one run in both.
    std::size_t merged = 0;
    for (std::size_t i = 1; i < count_; ++i) {
      CopiedAxis& outer = axes_[merged];
      const CopiedAxis& inner = axes_[i];
      if (outer.from == inner.from * inner.extent && outer.to == inner.to * inner.extent) {
        outer = {outer.extent * inner.extent, inner.from, inner.to};
      } else {
        axes_[++merged] = inner;
      }
    }
    count_ = std::min(count_, merged + 1);
    if (count_ > 0) row_ = axes_[--count_];
    for (std::size_t i = 0; i < count_; ++i) rows_ *= axes_[i].extent;
  }

  int64_t bytes() const { return rows_ * row_.extent * item_; }

  // One of so many equal pieces of each row.
  void piece(int64_t index, int64_t pieces, const std::byte* from, std::byte* to) const {
    const int64_t first = row_.extent * index / pieces;
    const int64_t items = row_.extent * (index + 1) / pieces - first;
    for (int64_t i = 0; i < rows_; ++i) row(i, first, items, from, to);
  }

 private:
  void row(int64_t index, int64_t first, int64_t items, const std::byte* from,
           std::byte* to) const {
    from += first * row_.from;
    to += first * row_.to;
    for (std::size_t i = count_; i-- > 0; index /= axes_[i].extent) {
      from += index % axes_[i].extent * axes_[i].from;
      to += index % axes_[i].extent * axes_[i].to;
    }
    if (row_.from == item_ && row_.to == item_) {
      std::memcpy(to, from, static_cast<std::size_t>(items * item_));
      return;
    }
    for (int64_t k = 0; k < items; ++k) {
      std::memcpy(to + k * row_.to, from + k * row_.from, static_cast<std::size_t>(item_));
    }
  }

  int64_t item_;
  std::array<CopiedAxis, 4> axes_{};  // of the rows, outermost first
  std::size_t count_ = 0;
  CopiedAxis row_{1, 0, 0};
  int64_t rows_ = 1;
};

}  // namespace

void keep_last_frames(const View& past, const View& x, const View& kept) {
  if (kept.shape.count() == 0) return;
  const int64_t frames = kept.shape[2];
  const FrameCopy old(past, kept);
  const FrameCopy fresh(x, kept);
  // A thread copies the same part of every frame, as the next convolution will read it: rather from
  // its own cache than from another core's.
  const int64_t pieces =
      std::clamp<int64_t>(frames * fresh.bytes() / kGrainBytes, 1, num_threads());
  parallel_for(pieces, 1, 0, [&](int64_t begin, int64_t end, std::byte*) {
    for (int64_t piece = begin; piece < end; ++piece) {
      for (int64_t frame = 0; frame < frames; ++frame) {
        const int64_t seen = frame + x.shape[2];  // of past and x together
        const bool is_old = seen < frames;
        const View& source = is_old ? past : x;
        (is_old ? old : fresh)
            .piece(
                piece, pieces,
                source.as<const std::byte>() + (is_old ? seen : seen - frames) * source.stride(2),
                kept.as<std::byte>() + frame * kept.stride(2));
      }
    }
  });
}

}  // namespace marey
