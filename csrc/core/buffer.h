#pragma once
// Memory for results, workspace and state.
//
// A fresh large allocation costs more than most kernels: the operating system clears every page
// when it is first touched, which for a filtered video takes longer than the filter, and for one
// frame of a stream as long as its convolution. So blocks are kept when they are freed, up to a
// limit, and handed out again. While kept, those of huge pages are marked as free for the operating
// system to take back when memory is short (MADV_FREE).
#include <cstddef>
#include <cstdint>
#include <memory>

#include "core/view.h"

namespace marey {

struct FreeBlock {
  int64_t block_bytes = 0;  // 0: a small one, not to be kept
  void operator()(std::byte* p) const;
};

// Uninitialised memory, aligned to a cache line, and kept after use from kKeptBytes on as said
// above. From a huge page on: aligned to one, and made of them where the system has them.
class Buffer {
 public:
  static constexpr int64_t kKeptBytes = int64_t{128} << 10;

  Buffer() = default;
  explicit Buffer(int64_t bytes);

  std::byte* data() const { return memory_.get(); }
  int64_t bytes() const { return bytes_; }

 private:
  std::unique_ptr<std::byte, FreeBlock> memory_;
  int64_t bytes_ = 0;
};

// How many bytes of freed blocks to keep at most; 0 gives all of them back and keeps none.
inline constexpr int64_t kDefaultCacheLimit = int64_t{512} << 20;
void set_cache_limit(int64_t bytes);

// A C-ordered view of memory that starts at `data`.
View contiguous_view(std::byte* data, DType dtype, const Shape& shape);

}  // namespace marey
