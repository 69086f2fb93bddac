#pragma once
// How the threads of a recurrent layer share a step, and rows that they copy.
#include <algorithm>
#include <atomic>
#include <cstring>
#include <tuple>
#include <utility>
#include <vector>

#include "core/bfloat16.h"
#include "core/buffer.h"
#include "core/parallel.h"
#include "ops/recurrent/steps.h"

namespace marey {

// Each thread has some blocks of units, so that its weights stay in its own cache; where there are
// too few blocks for all, or they do not come out even, the rows are split too. Rows alone, where
// all weights fit into each cache, would need no waiting, but were no faster (32 rows, 128 units:
// 1.01 times; bfloat16 0.95 times): half as many rows make smaller tiles.
class Grid {
 public:
  Grid(int threads, int64_t blocks, int64_t rows) : blocks_(blocks) {
    int64_t best = -1;
    for (int parts = threads; parts >= 1; --parts) {
      const int row_parts = threads / parts;
      const int64_t load = ((blocks + parts - 1) / parts) * ((rows + row_parts - 1) / row_parts);
      if (best < 0 || load < best) {
        best = load;
        block_parts_ = parts;
        row_parts_ = row_parts;
      }
    }
  }

  int row_parts() const { return row_parts_; }
  // Empty for a thread that has nothing to do.
  std::pair<int64_t, int64_t> blocks(int thread) const {
    if (thread >= block_parts_ * row_parts_) return {0, 0};
    return part(blocks_, thread % block_parts_, block_parts_);
  }
  std::pair<int64_t, int64_t> rows(int thread, int64_t rows) const {
    if (thread >= block_parts_ * row_parts_) return {0, 0};
    return part(rows, thread / block_parts_, row_parts_);
  }
  static std::pair<int64_t, int64_t> part(int64_t count, int64_t index, int64_t parts) {
    return {count * index / parts, count * (index + 1) / parts};
  }

 private:
  int64_t blocks_;
  int block_parts_ = 1;
  int row_parts_ = 1;
};

// Blocks that the threads of a team take one by one: each its own first, in order, so that they
// find them in their caches, then what others have not come to. Where each had its own alone, all
// waited for the slowest, and processors that are shared with others differ by a quarter for
// minutes.
class SharedBlocks {
 public:
  SharedBlocks(int threads, int64_t blocks)
      : blocks_(blocks), threads_(static_cast<std::size_t>(threads)) {}

  // Calls fn(block) for those that this thread comes to. All threads of the team call it, and meet
  // at a barrier before they do so again.
  template <class Fn>
  void each(const Team& team, int thread, bool descending, Fn&& fn) {
    const int count = team.size();
    OfThread& mine = threads_[static_cast<std::size_t>(thread)];
    const std::size_t turn = mine.turns++ % 2;
    // Between these barriers nobody is at the counts of the other turn.
    mine.taken[1 - turn].store(0, std::memory_order_relaxed);
    for (int k = 0; k < count; ++k) {
      const int owner = (thread + k) % count;
      const auto [first, last] = Grid::part(blocks_, owner, count);
      auto& taken = threads_[static_cast<std::size_t>(owner)].taken[turn];
      for (;;) {
        const int64_t index = taken.fetch_add(1, std::memory_order_relaxed);
        if (index >= last - first) break;
        fn(descending ? last - 1 - index : first + index);
      }
    }
  }

 private:
  struct alignas(64) OfThread {
    std::atomic<int64_t> taken[2] = {};
    std::size_t turns = 0;
  };
  int64_t blocks_;
  std::vector<OfThread> threads_;
};

// Threads for steps of so many multiply-adds: a barrier must cost little beside a step.
inline int threads_for(int64_t of_step) {
  constexpr int64_t kOfThread = 8192;
  return static_cast<int>(
      std::clamp<int64_t>(of_step / kOfThread, 1, static_cast<int64_t>(num_threads())));
}

// Memory for all that a call works with, cut from one block. A small one is kept for the next call
// by each thread that calls: the page faults of a fresh one, or giving it back to the operating
// system, would cost a tenth of a short call. Larger ones Buffer keeps.
class Workspace {
 public:
  // Says how much each part needs, in the order in which they are taken.
  void reserve(int64_t bytes) { total_ += rounded(bytes); }
  void allocate() {
    if (total_ < Buffer::kKeptBytes && kept().bytes() >= total_) {
      block_ = std::exchange(kept(), Buffer());
    } else {
      block_ = Buffer(total_);
    }
  }
  Workspace() = default;
  Workspace(const Workspace&) = delete;
  Workspace& operator=(const Workspace&) = delete;
  ~Workspace() {
    if (block_.bytes() < Buffer::kKeptBytes && block_.bytes() > kept().bytes()) {
      kept() = std::move(block_);
    }
  }

  std::byte* take(int64_t bytes) {
    std::byte* part = block_.data() + taken_;
    taken_ += rounded(bytes);
    return part;
  }
  std::byte* take_zeros(int64_t bytes) {
    std::byte* part = take(bytes);
    std::memset(part, 0, static_cast<std::size_t>(bytes));
    return part;
  }

 private:
  static int64_t rounded(int64_t bytes) { return (bytes + 63) / 64 * 64; }
  static Buffer& kept() {
    thread_local Buffer block;
    return block;
  }

  Buffer block_;
  int64_t total_ = 0;
  int64_t taken_ = 0;
};

inline Buffer zeros(int64_t bytes) {
  Buffer buffer(bytes);
  std::memset(buffer.data(), 0, static_cast<std::size_t>(bytes));
  return buffer;
}

// Items from a row to the next: not a power of two, whose rows would share few sets of a cache.
inline int64_t padded_pitch(int64_t items) { return (items + 63) / 64 * 64 + 32; }

inline void copy_row(const std::byte* from, int64_t stride, int64_t count, int64_t item,
                     std::byte* to) {
  if (stride == item || count == 1) {
    std::memcpy(to, from, static_cast<std::size_t>(count * item));
    return;
  }
  for (int64_t k = 0; k < count; ++k) {
    std::memcpy(to + k * item, from + k * stride, static_cast<std::size_t>(item));
  }
}

// Of bfloat16.
inline void widen_row(const std::byte* from, int64_t stride, int64_t count, float* to) {
  for (int64_t k = 0; k < count; ++k) {
    bfloat16 item;
    std::memcpy(&item, from + k * stride, sizeof item);
    to[k] = widen(item);
  }
}

// Calls fn(k, step, row) for this thread's part of the rows of steps [begin, end), counted from 0.
template <class Fn>
inline void each_row(const Steps& steps, int64_t begin, int64_t end, int64_t threads,
                     int64_t thread, Fn&& fn) {
  const auto [first, last] = Grid::part(steps.offset(end) - steps.offset(begin), thread, threads);
  int64_t step = begin;
  for (int64_t k = first; k < last; ++k) {
    const int64_t index = steps.offset(begin) + k;
    while (steps.offset(step + 1) <= index) ++step;
    fn(k, step, index - steps.offset(step));
  }
}

// This thread's part of the rows of steps [begin, end) of an array (T, N, K), side by side. One
// item more is zeroed, for bfloat16 that is read in pairs.
inline void pack_rows(const Steps& steps, const View& view, int64_t begin, int64_t end,
                      int64_t threads, int64_t thread, std::byte* to, int64_t pitch) {
  const int64_t item = item_size(view.dtype);
  const int64_t depth = view.shape[2];
  each_row(steps, begin, end, threads, thread, [&](int64_t k, int64_t step, int64_t row) {
    std::byte* at = to + k * pitch * item;
    copy_row(steps.at(view, row, step), view.stride(2), depth, item, at);
    std::memset(at + depth * item, 0, static_cast<std::size_t>(item));
  });
}

}  // namespace marey
