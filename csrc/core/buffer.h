#pragma once
// Workspace and state that outlive a single kernel call.
#include <cstddef>
#include <cstdint>
#include <memory>

#include "core/view.h"

namespace marey {

// Uninitialised memory, aligned to a cache line; large ones ask for huge pages, because touching fresh
// 4 KiB pages costs about as much as a pyramid level.
class Buffer {
 public:
  Buffer() = default;
  explicit Buffer(int64_t bytes);

  std::byte* data() const { return memory_.get(); }
  int64_t bytes() const { return bytes_; }

 private:
  struct Free {
    void operator()(std::byte* p) const;
  };
  std::unique_ptr<std::byte, Free> memory_;
  int64_t bytes_ = 0;
};

// A C-ordered view of memory that starts at `data`.
View contiguous_view(std::byte* data, DType dtype, const Shape& shape);

}  // namespace marey
