#pragma once
// The state of a stream: the last frames that it has seen.
//
// States lie in a store of frames, at equal distances. The state after a frame is the one before
// without its first frame, and with one more behind it: that frame is all that is copied. States of
// two frames, those of kernels of three, find it the first slot that is free, before or behind the
// other: a stream then goes round in three slots, which stay in the cache. Longer ones lie one
// frame behind the other; where the store ends, or the next place is another state's, the frames
// are copied to its beginning, or to a new store. A frame is never written to while a state has it,
// so that states can be saved and used again.
#include <algorithm>
#include <array>
#include <cstdint>
#include <memory>

#include "core/view.h"

namespace marey {

class FrameStore;

// Slots of a store: `first`, and so many further for each frame after it.
struct FrameSlots {
  int64_t first = -1;  // negative: none
  int64_t step = 1;
};

// A state of so many frames (N, C, P, H, W), for as long as this lives.
class KeptFrames {
 public:
  // After the state `past` (N, C, P, H, W) of any strides and `fresh` more frames: beside `past` if
  // that lies in a store. Frames are stored as (N, C, H, W) or (N, H, W, C), later ones further on
  // in memory unless `backwards` allows both.
  KeptFrames(const View& past, int64_t fresh, bool channels_last, bool backwards);
  ~KeptFrames();
  KeptFrames(const KeptFrames&) = delete;
  KeptFrames& operator=(const KeptFrames&) = delete;

  const View& view() const { return view_; }
  // So many of its first frames are those of `past`: the others are to be copied.
  int64_t in_place() const { return in_place_; }

 private:
  std::shared_ptr<FrameStore> store_;
  FrameSlots slots_;
  int64_t in_place_ = 0;
  View view_;
};

// One frame of (N, C, T, H, W) to another: rows of items, along the axes that are long in memory,
// but within a channel where these lie apart: the blocks of a thread, too, have rows of all.
class FrameCopy {
 public:
  FrameCopy(const View& from, const View& to);

  int64_t bytes() const { return rows_ * row_.extent * item_; }
  // Of so many equal pieces those from `begin` to before `end`.
  void pieces(int64_t begin, int64_t end, int64_t of, const std::byte* from, std::byte* to) const;

 private:
  struct Axis {
    int64_t extent = 1, from = 0, to = 0;  // strides in bytes
    bool in_space = false;                 // of H or W
  };
  void row(int64_t index, int64_t first, int64_t items, const std::byte* from, std::byte* to) const;

  int64_t item_;
  std::array<Axis, 4> axes_{};  // of the rows, outermost first
  std::size_t count_ = 0;
  Axis row_;
  int64_t rows_ = 1;
};

// Copies the last frames of `past` followed by x to `kept`, but for those that are in place: all
// (N, C, ., H, W) of one type and any strides, the frames to write overlapping neither. In pieces:
// each is the same part of every frame.
class LastFrames {
 public:
  LastFrames(const View& past, const View& x, const KeptFrames& kept)
      : past_(past),
        x_(x),
        kept_(kept.view()),
        in_place_(kept.in_place()),
        old_(past, kept_),
        fresh_(x, kept_) {}

  // How many pieces are worth a task; 0: nothing is to be copied.
  int64_t pieces() const {
    constexpr int64_t kPieceBytes = int64_t{8} << 10;
    const int64_t frames = kept_.shape[2] - in_place_;
    if (frames == 0 || kept_.shape.count() == 0) return 0;
    return std::max<int64_t>(frames * fresh_.bytes() / kPieceBytes, 1);
  }
  void copy(int64_t begin, int64_t end, int64_t pieces) const;

 private:
  View past_, x_, kept_;
  int64_t in_place_;
  FrameCopy old_, fresh_;
};

}  // namespace marey
