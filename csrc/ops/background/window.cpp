#include "ops/background/window.h"

#include <algorithm>
#include <cstring>
#include <limits>

#include "core/parallel.h"

namespace marey {

MAREY_STUB_NO_BF16(select_window, SelectWindow)

namespace {

constexpr int64_t kSerialBytes = int64_t{1} << 16;

// What is not yet in the window stands at its end, as the highest value.
void fill_highest(std::byte* line, DType dtype) {
  if (dtype == DType::u8) {
    std::memset(line, 255, kWindowLine);
  } else {
    std::fill_n(reinterpret_cast<float*>(line), kWindowLine / 4,
                std::numeric_limits<float>::infinity());
  }
}

}  // namespace

SortedWindow::SortedWindow(int64_t items, int64_t length, DType dtype)
    : items_(items), length_(length), dtype_(dtype), sorted_(lines() * length * kWindowLine) {
  clear();
}

int64_t SortedWindow::lines() const {
  return (items_ * item_size(dtype_) + kWindowLine - 1) / kWindowLine;
}

void SortedWindow::clear() {
  count_ = 0;
  for (int64_t row = 0; row < lines() * length_; ++row) {
    fill_highest(sorted_.data() + row * kWindowLine, dtype_);
  }
}

void SortedWindow::replace(const std::byte* entering, const std::byte* leaving) {
  const WindowKernel kernel = select_window_stub.get()(dtype_);
  const int64_t bytes = items_ * item_size(dtype_);
  parallel_for(lines(), std::max<int64_t>(1, kSerialBytes / (length_ * kWindowLine)), 0,
               [&](int64_t begin, int64_t end, std::byte*) {
                 alignas(64) std::byte padded[2][kWindowLine];
                 for (int64_t line = begin; line < end; ++line) {
                   const int64_t at = line * kWindowLine;
                   const auto size = static_cast<std::size_t>(std::min(kWindowLine, bytes - at));
                   const std::byte* in = entering + at;
                   const std::byte* old = leaving == nullptr ? nullptr : leaving + at;
                   if (size < kWindowLine) {
                     std::memset(padded[0], 0, kWindowLine);
                     in = static_cast<std::byte*>(std::memcpy(padded[0], in, size));
                   }
                   if (old == nullptr) {
                     fill_highest(padded[1], dtype_);
                     old = padded[1];
                   } else if (size < kWindowLine) {
                     std::memset(padded[1], 0, kWindowLine);
                     old = static_cast<std::byte*>(std::memcpy(padded[1], old, size));
                   }
                   kernel.replace(sorted_.data() + at * length_, length_, in, old);
                 }
               });
  if (leaving == nullptr) ++count_;
}

void SortedWindow::median(std::byte* out) const {
  const WindowKernel kernel = select_window_stub.get()(dtype_);
  const int64_t bytes = items_ * item_size(dtype_);
  parallel_for(lines(), kSerialBytes / kWindowLine, 0, [&](int64_t begin, int64_t end, std::byte*) {
    alignas(64) std::byte whole[kWindowLine];
    for (int64_t line = begin; line < end; ++line) {
      const int64_t at = line * kWindowLine;
      kernel.median(sorted_.data() + at * length_, count_, whole);
      std::memcpy(out + at, whole, static_cast<std::size_t>(std::min(kWindowLine, bytes - at)));
    }
  });
}

}  // namespace marey
