#include "core/buffer.h"

#include <algorithm>
#include <cstdlib>
#include <new>

#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace marey {

Buffer::Buffer(int64_t bytes) : bytes_(bytes) {
  constexpr int64_t kCacheLine = 64;
  constexpr int64_t kHugePage = int64_t{2} << 20;
  const int64_t alignment = bytes >= kHugePage ? kHugePage : kCacheLine;
  const int64_t rounded = (std::max<int64_t>(bytes, 1) + alignment - 1) / alignment * alignment;
  memory_.reset(static_cast<std::byte*>(
      std::aligned_alloc(static_cast<std::size_t>(alignment), static_cast<std::size_t>(rounded))));
  if (memory_ == nullptr) throw std::bad_alloc();
#if defined(__linux__)
  if (alignment == kHugePage) {
    madvise(memory_.get(), static_cast<std::size_t>(rounded), MADV_HUGEPAGE);
  }
#endif
}

void Buffer::Free::operator()(std::byte* p) const { std::free(p); }

View contiguous_view(std::byte* data, DType dtype, const Shape& shape) {
  View view;
  view.data = data;
  view.dtype = dtype;
  view.shape = shape;
  int64_t stride = item_size(dtype);
  for (int axis = shape.ndim - 1; axis >= 0; --axis) {
    view.stride(axis) = stride;
    stride *= shape[axis];
  }
  return view;
}

}  // namespace marey
