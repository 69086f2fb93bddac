#pragma once
// Threads. OpenMP is used in parallel.cpp and nowhere else.
//
// Work is handed out in chunks as threads become free, because a video program's other threads
// (decoder, encoder) keep some cores busy. After a fork the child runs serially: libgomp's threads
// do not survive a fork, and waiting for them would hang.
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
void parallel_for(int64_t count, int64_t grain, std::size_t scratch_bytes, RangeFn fn, void* body);
}  // namespace detail

// Calls body(begin, end, scratch) on ranges of `grain` (the last one shorter) that together cover
// [0, count). `scratch` is that thread's own memory, 64-byte aligned, not initialised, kept from
// range to range. The body must not throw.
template <class Body>
void parallel_for(int64_t count, int64_t grain, std::size_t scratch_bytes, Body&& body) {
  using B = std::remove_reference_t<Body>;
  detail::parallel_for(
      count, grain, scratch_bytes,
      [](void* b, int64_t begin, int64_t end, std::byte* scratch) {
        (*static_cast<B*>(b))(begin, end, scratch);
      },
      const_cast<void*>(static_cast<const void*>(std::addressof(body))));
}

}  // namespace marey
