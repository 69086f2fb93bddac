#pragma once
// A grid of a kernel, run on the CPU: for tests only. See kernel.h.
//
// The threads of a block are coroutines. One runs until it must wait: for a barrier, for the other
// lanes of its warp, or for an mbarrier. Then the next one runs, in an order that a test can
// change. If none can run the kernel has a deadlock, which is an error. Shared memory starts as
// NaN, and what lies behind it must be untouched at the end.
//
// Asynchronous work is as late as the rules allow: a bulk copy happens only when every thread
// waits, and a wgmma reads shared memory only when its group is waited for. A kernel that reads too
// early, or hands a buffer back too early, gives wrong results here too.
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <typeindex>

namespace marey::cuda {

struct Index3 {
  unsigned x = 0, y = 0, z = 0;
};
// Those of the running coroutine.
extern thread_local Index3 threadIdx, blockIdx, blockDim, gridDim;

void sync_block();
void sync_warp();
void sync_grid(unsigned* counter, unsigned arrivals);
float shuffle_xor(float x, int lanes);
double shuffle_xor(double x, int lanes);
uint32_t ballot(bool x);

namespace on_cpu {

inline constexpr int kMultiprocessors = 16;  // enough for tests

enum class Order : int { forward, backward, shuffled };
void set_order(Order order);

// How many blocks run at once: of the part of the device that the process has. What the device says
// of itself is another number (limits.h).
void set_multiprocessors(int count);
// Grids that were larger than that, so far.
int64_t refused_grids();

// Block by block.
void run_grid(int64_t blocks, int threads, std::size_t shared_bytes,
              const std::function<void()>& kernel);
// All blocks by turns; false, and nothing done, if they are more than run at once.
bool run_grid_together(int64_t blocks, int threads, std::size_t shared_bytes,
                       const std::function<void()>& kernel);
unsigned char* shared_bytes();

// Runs `op` once for all `size` neighbouring threads (32: a warp, 128: a warpgroup), when the last
// of them has come; `argument` of each, in the order of lanes.
void collective(int size, void* argument, void (*op)(void* const* arguments));

// Waits until `ready` says so.
void wait_until(const std::function<bool()>& ready);
// Barrier `id` (1 to 15; 0 is sync_block's) for `threads` threads; `wait`: bar.sync, else
// bar.arrive.
void named_barrier(int id, int threads, bool wait);
// Work that the hardware does some time later: when every thread waits.
void later(std::function<void()> work);
// The running thread's number in its block.
int thread_number();
// What the running block's thread or warpgroup `unit` has asked for and not waited for, as `type`
// keeps it: empty when the block begins.
std::shared_ptr<void>& pending_of(std::type_index type, int unit);
template <class T>
T& pending(int unit) {
  std::shared_ptr<void>& held = pending_of(typeid(T), unit);
  if (held == nullptr) held = std::make_shared<T>();
  return *static_cast<T*>(held.get());
}

// Throws std::runtime_error out of the launch, by way of the scheduler.
[[noreturn]] void fail(const char* message);
inline void check_aligned(const void* p, std::size_t bytes) {
  if (reinterpret_cast<uintptr_t>(p) % bytes != 0) fail("a misaligned access");
}

}  // namespace on_cpu

template <class T>
T* shared_memory() {
  return reinterpret_cast<T*>(on_cpu::shared_bytes());
}

}  // namespace marey::cuda
