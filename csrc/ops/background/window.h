#pragma once
// SortedWindow: the values that each pixel had in the last `length` frames, kept in order, so that
// the median of a sliding window costs one pass over it for each new frame and not a sort.
//
// Replacing o by v in the sorted s[0..n-1], with s[-1] the lowest and s[n] the highest value there
// is:
//
//   v >= o:  s'[i] = s[i] where s[i] < o, else max(s[i], min(s[i + 1], v))
//   v <  o:  s'[i] = s[i] where s[i] > o, else min(s[i], max(s[i - 1], v))
#include "core/buffer.h"
#include "core/dispatch.h"
#include "core/view.h"

namespace marey {

// Bytes side by side in the state: a cache line.
inline constexpr int64_t kWindowLine = 64;

class SortedWindow {
 public:
  // items: of one frame. dtype: uint8, or float32 without NaN.
  SortedWindow(int64_t items, int64_t length, DType dtype);

  // entering, leaving: `items` contiguous items; leaving is null while the window is not full.
  void replace(const std::byte* entering, const std::byte* leaving);
  // The median of what is in the window, at least one frame; of an even number the mean of the two
  // in the middle, for uint8 rounded half up. out: `items` contiguous items.
  void median(std::byte* out) const;

  int64_t items() const { return items_; }
  int64_t count() const { return count_; }
  int64_t length() const { return length_; }
  DType dtype() const { return dtype_; }
  void clear();

 private:
  int64_t lines() const;

  int64_t items_;
  int64_t length_;
  DType dtype_;
  int64_t count_ = 0;
  Buffer sorted_;  // (lines, length, a cache line)
};

// One line of pixels: `sorted` holds `length` rows of kWindowLine bytes.
struct WindowKernel {
  void (*replace)(void* sorted, int64_t length, const void* entering, const void* leaving);
  void (*median)(const void* sorted, int64_t count, void* out);
};
using SelectWindow = WindowKernel(DType dtype);
MAREY_DECLARE_KERNEL(select_window, SelectWindow)

}  // namespace marey
