#include "core/buffer.h"

#include <pthread.h>
#include <sys/mman.h>

#include <algorithm>
#include <cstdlib>
#include <mutex>
#include <new>
#include <vector>

namespace marey {
namespace {

constexpr int64_t kCacheLine = 64;
constexpr int64_t kHugePage = int64_t{2} << 20;
// What smaller blocks are rounded to, so that one fits again.
constexpr int64_t kSmallStep = int64_t{16} << 10;

constexpr int64_t round_up(int64_t bytes, int64_t alignment) {
  return (bytes + alignment - 1) / alignment * alignment;
}

struct Block {
  std::byte* memory;
  int64_t bytes;
};

Block map_block(int64_t bytes) {
  if (bytes < kHugePage) {
    void* start = mmap(nullptr, static_cast<std::size_t>(bytes), PROT_READ | PROT_WRITE,
                       MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (start == MAP_FAILED) throw std::bad_alloc();
    return {static_cast<std::byte*>(start), bytes};
  }
  // One huge page more than needed, so that an aligned part can be cut out of it.
  const int64_t mapped = bytes + kHugePage;
  void* start = mmap(nullptr, static_cast<std::size_t>(mapped), PROT_READ | PROT_WRITE,
                     MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (start == MAP_FAILED) throw std::bad_alloc();
  auto* memory = static_cast<std::byte*>(start);
  const auto misaligned = static_cast<int64_t>(reinterpret_cast<uintptr_t>(memory) % kHugePage);
  const int64_t lead = (kHugePage - misaligned) % kHugePage;
  if (lead != 0) munmap(memory, static_cast<std::size_t>(lead));
  if (kHugePage - lead != 0) {
    munmap(memory + lead + bytes, static_cast<std::size_t>(kHugePage - lead));
  }
#if defined(MADV_HUGEPAGE)
  madvise(memory + lead, static_cast<std::size_t>(bytes), MADV_HUGEPAGE);
#endif
  return {memory + lead, bytes};
}

void unmap_block(const Block& block) {
  munmap(block.memory, static_cast<std::size_t>(block.bytes));
}

class BlockCache {
 public:
  BlockCache() { kept_.reserve(kMaxKept); }

  Block take(int64_t bytes) {
    {
      const std::lock_guard lock(mutex_);
      // The newest that fits without wasting more than a quarter: it is the likeliest to be
      // resident.
      const auto found = std::find_if(kept_.rbegin(), kept_.rend(), [bytes](const Block& block) {
        return block.bytes >= bytes && block.bytes - bytes <= bytes / 4;
      });
      if (found != kept_.rend()) {
        const Block block = *found;
        kept_.erase(std::next(found).base());
        kept_bytes_ -= block.bytes;
        return block;
      }
    }
    return map_block(bytes);
  }

  void give_back(const Block& block) noexcept {
#if defined(MADV_FREE)
    // To mark the pages of a small block one by one costs as much as a short call.
    if (block.bytes >= kHugePage) {
      madvise(block.memory, static_cast<std::size_t>(block.bytes), MADV_FREE);
    }
#endif
    Block surplus[kMaxKept + 1];
    std::size_t count = 0;
    {
      const std::lock_guard lock(mutex_);
      if (kept_.size() == kMaxKept) surplus[count++] = drop_oldest();
      kept_.push_back(block);
      kept_bytes_ += block.bytes;
      while (kept_bytes_ > limit_) surplus[count++] = drop_oldest();
    }
    for (std::size_t k = 0; k < count; ++k) unmap_block(surplus[k]);
  }

  void set_limit(int64_t bytes) {
    std::vector<Block> surplus;
    {
      const std::lock_guard lock(mutex_);
      limit_ = bytes;
      while (kept_bytes_ > limit_) surplus.push_back(drop_oldest());
    }
    for (const Block& block : surplus) unmap_block(block);
  }

  // Held across a fork, so that no other thread holds it in the child for ever.
  void lock() { mutex_.lock(); }
  void unlock() { mutex_.unlock(); }

 private:
  static constexpr std::size_t kMaxKept = 64;

  Block drop_oldest() {
    const Block oldest = kept_.front();
    kept_.erase(kept_.begin());
    kept_bytes_ -= oldest.bytes;
    return oldest;
  }

  std::mutex mutex_;
  std::vector<Block> kept_;  // oldest first
  int64_t kept_bytes_ = 0;
#if defined(__SANITIZE_ADDRESS__)
  int64_t limit_ = 0;  // so that a use after free is seen
#else
  int64_t limit_ = kDefaultCacheLimit;
#endif
};

// Never destroyed: buffers may be freed while the process exits.
BlockCache& cache() {
  static auto* const blocks = [] {
    auto* const created = new BlockCache;
    pthread_atfork([] { cache().lock(); }, [] { cache().unlock(); }, [] { cache().unlock(); });
    return created;
  }();
  return *blocks;
}

}  // namespace

Buffer::Buffer(int64_t bytes) : bytes_(bytes) {
  if (bytes >= kKeptBytes) {
    const Block block = cache().take(round_up(bytes, bytes < kHugePage ? kSmallStep : kHugePage));
    memory_ = {block.memory, FreeBlock{block.bytes}};
    return;
  }
  const int64_t rounded = round_up(std::max<int64_t>(bytes, 1), kCacheLine);
  memory_.reset(
      static_cast<std::byte*>(std::aligned_alloc(kCacheLine, static_cast<std::size_t>(rounded))));
  if (memory_ == nullptr) throw std::bad_alloc();
}

void FreeBlock::operator()(std::byte* p) const {
  if (block_bytes != 0) {
    cache().give_back({p, block_bytes});
  } else {
    std::free(p);
  }
}

void set_cache_limit(int64_t bytes) { cache().set_limit(bytes); }

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
