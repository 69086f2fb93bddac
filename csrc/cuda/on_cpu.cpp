#include "cuda/on_cpu.h"

#include <ucontext.h>

#include <algorithm>
#include <cstring>
#include <deque>
#include <map>
#include <memory>
#include <random>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

namespace marey::cuda {

thread_local Index3 threadIdx, blockIdx, blockDim, gridDim;

namespace on_cpu {
namespace {

constexpr std::size_t kStackBytes = std::size_t{256} << 10;
constexpr std::size_t kGuardBytes = 1024;
constexpr unsigned char kPoison = 0xFF;  // NaN in every floating-point type
constexpr int kBarriers = 16;

#if defined(__x86_64__)
// Saves the registers that a called function must keep, and goes on on the other stack.
extern "C" void marey_on_cpu_switch(void** from, void* to);
asm(R"(
.text
.type marey_on_cpu_switch, @function
marey_on_cpu_switch:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
.size marey_on_cpu_switch, .-marey_on_cpu_switch
)");

struct Context {
  void* stack_pointer = nullptr;
  void prepare(unsigned char* stack, void (*entry)()) {
    auto top = reinterpret_cast<uintptr_t>(stack + kStackBytes) & ~uintptr_t{15};
    auto* words = reinterpret_cast<uintptr_t*>(top) - 8;
    std::fill_n(words, 8, uintptr_t{0});
    words[6] = reinterpret_cast<uintptr_t>(entry);  // what `ret` takes, after six registers
    stack_pointer = words;
  }
};
void switch_to(Context& from, Context& to) {
  marey_on_cpu_switch(&from.stack_pointer, to.stack_pointer);
}
#else
struct Context {
  ucontext_t context{};
  void prepare(unsigned char* stack, void (*entry)()) {
    getcontext(&context);
    context.uc_stack.ss_sp = stack;
    context.uc_stack.ss_size = kStackBytes;
    context.uc_link = nullptr;
    makecontext(&context, entry, 0);
  }
};
void switch_to(Context& from, Context& to) { swapcontext(&from.context, &to.context); }
#endif

struct Coroutine {
  Context context;
  std::unique_ptr<unsigned char[]> stack;
  const std::function<bool()>* ready = nullptr;  // null: may run
  bool done = false;
};

struct Collective {
  std::vector<void*> arguments;
  int arrived = 0;
  uint64_t generation = 0;
};

struct Barrier {
  int arrived = 0;
  uint64_t generation = 0;
};

struct Block {
  std::vector<Coroutine> threads;
  Context scheduler;
  int running = 0;
  int left = 0;
  const std::function<void()>* kernel = nullptr;
  std::vector<unsigned char> shared;
  std::size_t shared_bytes = 0;
  unsigned char* shared_begin = nullptr;
  Barrier barriers[kBarriers];
  std::vector<Collective> warps, warpgroups;
  std::deque<std::function<void()>> later;
  std::map<std::pair<std::type_index, int>, std::shared_ptr<void>> pending;
  std::string failure;
  unsigned index = 0;
  std::vector<int> turn;
  std::minstd_rand random;
};

thread_local Block* block = nullptr;
thread_local Order order = Order::forward;
thread_local int64_t multiprocessors = kMultiprocessors;
thread_local int64_t refused = 0;

void entry() {
  (*block->kernel)();
  Coroutine& self = block->threads[static_cast<std::size_t>(block->running)];
  self.done = true;
  --block->left;
  switch_to(self.context, block->scheduler);
}

void wait(const std::function<bool()>& ready) {
  if (ready()) return;
  Coroutine& self = block->threads[static_cast<std::size_t>(block->running)];
  self.ready = &ready;
  switch_to(self.context, block->scheduler);
  self.ready = nullptr;
}

void resume(int thread) {
  block->running = thread;
  threadIdx.x = static_cast<unsigned>(thread);
  switch_to(block->scheduler, block->threads[static_cast<std::size_t>(thread)].context);
}

void check_end(const Block& b) {
  for (const Barrier& barrier : b.barriers) {
    if (barrier.arrived != 0) {
      throw std::runtime_error("on_cpu: a thread ended while others wait at a barrier");
    }
  }
  for (std::size_t k = 0; k < kGuardBytes; ++k) {
    if (b.shared_begin[b.shared_bytes + k] != kPoison) {
      throw std::runtime_error("on_cpu: a write behind shared memory");
    }
  }
}

void begin_block(Block& b, unsigned index) {
  b.index = index;
  for (Coroutine& c : b.threads) {
    c.done = false;
    c.ready = nullptr;
    c.context.prepare(c.stack.get(), &entry);
  }
  b.pending.clear();
  for (Barrier& barrier : b.barriers) barrier = {};
  for (auto* groups : {&b.warps, &b.warpgroups}) {
    for (Collective& group : *groups) group.arrived = 0;
  }
  std::fill(b.shared.begin(), b.shared.end(), kPoison);
  const auto threads = static_cast<int>(b.threads.size());
  b.left = threads;
  b.turn.resize(b.threads.size());
  for (int t = 0; t < threads; ++t) b.turn[static_cast<std::size_t>(t)] = t;
  if (order == Order::backward) std::reverse(b.turn.begin(), b.turn.end());
  b.random.seed(12345);
}

// Runs the block until it is done or all of its threads wait; whether any of them ran.
bool run_block(Block& b) {
  block = &b;
  blockIdx = {b.index, 0, 0};
  bool any = false;
  while (b.left > 0) {
    if (order == Order::shuffled) std::shuffle(b.turn.begin(), b.turn.end(), b.random);
    bool ran = false;
    for (int t : b.turn) {
      Coroutine& c = b.threads[static_cast<std::size_t>(t)];
      if (c.done || (c.ready != nullptr && !(*c.ready)())) continue;
      ran = true;
      resume(t);
      if (!b.failure.empty()) throw std::runtime_error("on_cpu: " + b.failure);
    }
    any = any || ran;
    if (ran) continue;
    if (b.later.empty()) return any;
    const auto work = std::move(b.later.front());
    b.later.pop_front();
    work();
    any = true;
  }
  while (!b.later.empty()) {
    b.later.front()();
    b.later.pop_front();
  }
  check_end(b);
  return any;
}

void prepare_block(Block& b, int threads, std::size_t shared_bytes,
                   const std::function<void()>& kernel) {
  b.kernel = &kernel;
  b.threads.resize(static_cast<std::size_t>(threads));
  for (Coroutine& c : b.threads) c.stack.reset(new unsigned char[kStackBytes]);
  b.warps.resize(static_cast<std::size_t>((threads + 31) / 32));
  b.warpgroups.resize(static_cast<std::size_t>((threads + 127) / 128));
  b.shared_bytes = shared_bytes;
  b.shared.resize(shared_bytes + kGuardBytes + 1024);
  const auto begin = reinterpret_cast<uintptr_t>(b.shared.data());
  b.shared_begin = b.shared.data() + ((begin + 1023) / 1024 * 1024 - begin);
}

[[noreturn]] void deadlock(int threads) {
  throw std::runtime_error("on_cpu: deadlock: " + std::to_string(threads) +
                           " threads wait for each other");
}

void run_alone(int64_t blocks, int threads, std::size_t shared_bytes,
               const std::function<void()>& kernel) {
  Block b;
  prepare_block(b, threads, shared_bytes, kernel);
  for (int64_t k = 0; k < blocks; ++k) {
    begin_block(b, static_cast<unsigned>(k));
    run_block(b);
    if (b.left > 0) deadlock(b.left);
  }
}

void run_together(int64_t blocks, int threads, std::size_t shared_bytes,
                  const std::function<void()>& kernel) {
  std::vector<Block> all(static_cast<std::size_t>(blocks));
  unsigned index = 0;
  for (Block& b : all) {
    prepare_block(b, threads, shared_bytes, kernel);
    begin_block(b, index++);
  }
  if (order == Order::backward) std::reverse(all.begin(), all.end());
  for (bool ran = true; ran;) {
    ran = false;
    for (Block& b : all) {
      if (b.left > 0 && run_block(b)) ran = true;
    }
  }
  int waiting = 0;
  for (const Block& b : all) waiting += b.left;
  if (waiting > 0) deadlock(waiting);
}

void run(decltype(run_alone)* blocks_of, int64_t blocks, int threads, std::size_t shared_bytes,
         const std::function<void()>& kernel) {
  gridDim = {static_cast<unsigned>(blocks), 1, 1};
  blockDim = {static_cast<unsigned>(threads), 1, 1};
  threadIdx = {};
  try {
    blocks_of(blocks, threads, shared_bytes, kernel);
  } catch (...) {
    block = nullptr;
    throw;
  }
  block = nullptr;
}

}  // namespace

void set_order(Order wanted) { order = wanted; }
void set_multiprocessors(int count) { multiprocessors = count; }
int64_t refused_grids() { return refused; }

void run_grid(int64_t blocks, int threads, std::size_t shared_bytes,
              const std::function<void()>& kernel) {
  run(&run_alone, blocks, threads, shared_bytes, kernel);
}

bool run_grid_together(int64_t blocks, int threads, std::size_t shared_bytes,
                       const std::function<void()>& kernel) {
  if (blocks > multiprocessors) {
    ++refused;
    return false;
  }
  run(&run_together, blocks, threads, shared_bytes, kernel);
  return true;
}

unsigned char* shared_bytes() { return block->shared_begin; }
int thread_number() { return block->running; }
std::shared_ptr<void>& pending_of(std::type_index type, int unit) {
  return block->pending[{type, unit}];
}

void collective(int size, void* argument, void (*op)(void* const* arguments)) {
  auto& groups = size == 32 ? block->warps : block->warpgroups;
  const int thread = block->running;
  Collective& group = groups[static_cast<std::size_t>(thread / size)];
  const int members =
      std::min(size, static_cast<int>(block->threads.size()) - thread / size * size);
  group.arguments.resize(static_cast<std::size_t>(size));
  group.arguments[static_cast<std::size_t>(thread % size)] = argument;
  const uint64_t generation = group.generation;
  if (++group.arrived == members) {
    op(group.arguments.data());
    group.arrived = 0;
    ++group.generation;
    return;
  }
  wait([&group, generation] { return group.generation != generation; });
}

void wait_until(const std::function<bool()>& ready) { wait(ready); }

void named_barrier(int id, int threads, bool waits) {
  Barrier& barrier = block->barriers[id];
  const uint64_t generation = barrier.generation;
  if (++barrier.arrived == threads) {
    barrier.arrived = 0;
    ++barrier.generation;
    return;
  }
  if (waits) wait([&barrier, generation] { return barrier.generation != generation; });
}

void later(std::function<void()> work) { block->later.push_back(std::move(work)); }

void fail(const char* message) {
  if (block == nullptr) throw std::runtime_error(message);
  block->failure = message;
  Coroutine& self = block->threads[static_cast<std::size_t>(block->running)];
  switch_to(self.context, block->scheduler);
  std::abort();  // it is never resumed
}

}  // namespace on_cpu

void sync_block() {
  on_cpu::named_barrier(0, static_cast<int>(on_cpu::block->threads.size()), true);
}

void sync_grid(unsigned* counter, unsigned arrivals) {
  sync_block();
  if (threadIdx.x == 0) {
    ++*counter;
    on_cpu::wait_until([=] { return *counter >= arrivals; });
  }
  sync_block();
}

void sync_warp() {
  on_cpu::collective(32, nullptr, [](void* const*) {});
}

namespace {

template <class T>
T shuffle(T x, int lanes) {
  struct Argument {
    T value, result;
    int lanes;
  } argument{x, x, lanes};
  on_cpu::collective(32, &argument, [](void* const* all) {
    for (int lane = 0; lane < 32; ++lane) {
      auto* mine = static_cast<Argument*>(all[lane]);
      mine->result = static_cast<const Argument*>(all[lane ^ mine->lanes])->value;
    }
  });
  return argument.result;
}

}  // namespace

float shuffle_xor(float x, int lanes) { return shuffle(x, lanes); }
double shuffle_xor(double x, int lanes) { return shuffle(x, lanes); }

uint32_t ballot(bool x) {
  struct Argument {
    bool value;
    uint32_t result;
  } argument{x, 0};
  on_cpu::collective(32, &argument, [](void* const* all) {
    uint32_t bits = 0;
    for (int lane = 0; lane < 32; ++lane) {
      if (static_cast<const Argument*>(all[lane])->value) bits |= uint32_t{1} << lane;
    }
    for (int lane = 0; lane < 32; ++lane) static_cast<Argument*>(all[lane])->result = bits;
  });
  return argument.result;
}

}  // namespace marey::cuda
