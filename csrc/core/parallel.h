#pragma once
// Threads. OpenMP is used in parallel.cpp and nowhere else.
//
// Work is handed out in chunks as threads become free, because a video program's other threads
// (decoder, encoder) keep some cores busy. After a fork the child runs serially: libgomp's threads
// do not survive a fork, and waiting for them would hang.
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <exception>
#include <memory>
#include <type_traits>

namespace marey {

// The number of threads that a call made now, from this thread, would use at most.
int num_threads();
// For the whole process; 0 means what OpenMP would use (OMP_NUM_THREADS, or all cores).
void set_num_threads(int count);
// For calls made from this thread; 0 lifts it. Returns the previous value.
int set_thread_num_threads(int count);

// Thrown out of parallel_for when the interrupt check says so; the output is then incomplete.
class Interrupted : public std::exception {
 public:
  const char* what() const noexcept override { return "interrupted"; }
};

// `check` is called on the thread that called parallel_for, at most about every 50 ms, and returns
// true to stop the work. The Python bindings set it; without one nothing is interrupted.
using InterruptCheck = bool (*)();
void set_interrupt_check(InterruptCheck check);

// For work made of many short calls of parallel_for: throws Interrupted if the check says so.
void check_interrupted();

namespace detail {
using RangeFn = void (*)(void* body, int64_t begin, int64_t end, std::byte* scratch);
void parallel_for(int64_t count, int64_t grain, std::size_t scratch_bytes, RangeFn fn, void* body,
                  bool in_spans);

template <class B>
RangeFn range_fn() {
  return [](void* body, int64_t begin, int64_t end, std::byte* scratch) {
    (*static_cast<B*>(body))(begin, end, scratch);
  };
}
}  // namespace detail

// Calls body(begin, end, scratch) on ranges of `grain` (the last one shorter) that together cover
// [0, count). `scratch` is that thread's own memory, 64-byte aligned, not initialised, kept from
// range to range. The body must not throw.
template <class Body>
void parallel_for(int64_t count, int64_t grain, std::size_t scratch_bytes, Body&& body) {
  detail::parallel_for(count, grain, scratch_bytes,
                       detail::range_fn<std::remove_reference_t<Body>>(),
                       const_cast<void*>(static_cast<const void*>(std::addressof(body))), false);
}

// The same with a grain of one, but each thread goes through a span of neighbours, and helps with
// another's when its own is done: what neighbours share, and what the next call of so many reads
// again, is then in that thread's own cache.
template <class Body>
void parallel_for_in_spans(int64_t count, std::size_t scratch_bytes, Body&& body) {
  detail::parallel_for(count, 1, scratch_bytes, detail::range_fn<std::remove_reference_t<Body>>(),
                       const_cast<void*>(static_cast<const void*>(std::addressof(body))), true);
}

// A team of threads that goes through many short steps together. A region of OpenMP for each step
// would cost more than a step of a recurrent network on one sequence does (0.6 us against 0.03 us
// for a barrier, two threads); here there is one region, and a barrier after each step.
class Team {
 public:
  int size() const { return size_.load(std::memory_order_relaxed); }

  // Returns when all threads of the team have called it: what any of them wrote before is then seen
  // by all. Waits actively for a short while, then asleep. False if the work is to stop: for all
  // threads at the same barrier.
  bool barrier(int thread);

 private:
  friend void run_team_of(int threads, void (*fn)(void*, Team&, int), void* body);
  explicit Team(int size) : size_(size) {}

  std::atomic<int> size_;
  int64_t checked_ns_ = 0;  // when the interrupt check was last called
  alignas(64) std::atomic<int32_t> arrived_{0};
  alignas(64) std::atomic<uint32_t> passed_{0};  // so many barriers; wraps around
  std::atomic<int64_t> stop_{-1};                // the pass that is the last one
};
void run_team_of(int threads, void (*fn)(void*, Team&, int), void* body);

// Calls body(team, thread) on up to `threads` threads at once, thread 0 being the caller's, which
// looks for an interruption at the barriers. Throws Interrupted if there was one. The body must not
// throw, and all threads must pass the same barriers.
template <class Body>
void run_team(int threads, Body&& body) {
  using B = std::remove_reference_t<Body>;
  run_team_of(
      threads, [](void* b, Team& team, int thread) { (*static_cast<B*>(b))(team, thread); },
      const_cast<void*>(static_cast<const void*>(std::addressof(body))));
}

}  // namespace marey
