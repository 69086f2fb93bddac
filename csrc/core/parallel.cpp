#include "core/parallel.h"

#include <omp.h>
#include <pthread.h>

#include <algorithm>
#include <atomic>
#include <chrono>

#include "core/amx.h"
#include "core/buffer.h"

namespace marey {
namespace {

using Clock = std::chrono::steady_clock;
constexpr auto kCheckEvery = std::chrono::milliseconds(50);
constexpr std::size_t kCacheLine = 64;
// Rounds of waiting at a barrier before a thread goes to sleep: some 40 us. To yield the core
// instead was a mistake: two threads of a team that start on one core yield it to each other, which
// looks to the scheduler as if both used it well, and it moves neither. One that is woken goes
// where a core is idle.
constexpr int kSpins = 1000;

std::atomic<int> g_num_threads{0};
thread_local int t_num_threads = 0;
std::atomic<InterruptCheck> g_interrupt_check{nullptr};
std::atomic<bool> g_forked{false};

[[maybe_unused]] const int g_atfork =
    pthread_atfork(nullptr, nullptr, [] { g_forked.store(true, std::memory_order_relaxed); });

// Hands out ranges until there are none left or the caller asked to stop: from one queue, or from
// one for each thread, which begins with its own.
class RangeQueue {
 public:
  RangeQueue(int64_t count, int64_t grain, int spans) : grain_(grain), spans_(spans) {
    if (spans > kFew) more_ = std::make_unique<Span[]>(static_cast<std::size_t>(spans));
    for (int i = 0; i < spans; ++i) {
      span(i).next.store(count * i / spans, std::memory_order_relaxed);
      span(i).end = count * (i + 1) / spans;
    }
  }

  bool next(int thread, int64_t& begin, int64_t& end) {
    for (int i = 0; i < spans_; ++i) {
      if (stopped_.load(std::memory_order_relaxed)) return false;
      Span& here = span((thread + i) % spans_);
      begin = here.next.fetch_add(grain_, std::memory_order_relaxed);
      if (begin >= here.end) continue;
      end = std::min(begin + grain_, here.end);
      return true;
    }
    return false;
  }
  void stop() { stopped_.store(true, std::memory_order_relaxed); }
  bool stopped() const { return stopped_.load(std::memory_order_relaxed); }

 private:
  struct alignas(kCacheLine) Span {
    std::atomic<int64_t> next{0};
    int64_t end = 0;
  };
  static constexpr int kFew = 8;

  Span& span(int i) { return more_ ? more_[static_cast<std::size_t>(i)] : few_[i]; }

  const int64_t grain_;
  const int spans_;
  Span few_[kFew];
  std::unique_ptr<Span[]> more_;
  std::atomic<bool> stopped_{false};
};

void pause_briefly() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("isb");
#endif
}

int64_t now_ns() {
  return std::chrono::duration_cast<std::chrono::nanoseconds>(Clock::now().time_since_epoch())
      .count();
}

}  // namespace

int num_threads() {
  // A region inside somebody else's parallel region, or after a fork, has this thread only.
  if (g_forked.load(std::memory_order_relaxed) || omp_in_parallel()) return 1;
  if (t_num_threads > 0) return t_num_threads;
  const int set = g_num_threads.load(std::memory_order_relaxed);
  return set > 0 ? set : omp_get_max_threads();
}

void set_num_threads(int count) { g_num_threads.store(count, std::memory_order_relaxed); }

int set_thread_num_threads(int count) {
  const int previous = t_num_threads;
  t_num_threads = count;
  return previous;
}

void check_interrupted() {
  thread_local auto last_check = Clock::now();
  const InterruptCheck check = g_interrupt_check.load();
  if (check == nullptr) return;
  if (const auto now = Clock::now(); now - last_check > kCheckEvery) {
    last_check = now;
    // What a signal's handler calls may have tiles of its own.
    if (t_tiles.configured) release_tiles();
    if (check()) throw Interrupted();
  }
}

void set_interrupt_check(InterruptCheck check) { g_interrupt_check.store(check); }

bool Team::barrier(int thread) {
  // Passes are counted and never reset, so that no thread can mistake one barrier for another.
  const uint32_t pass = passed_.load(std::memory_order_relaxed) + 1;
  if (thread == 0) {
    const InterruptCheck check = g_interrupt_check.load(std::memory_order_relaxed);
    constexpr int64_t kCheckEveryNs = 50'000'000;
    if (check != nullptr) {
      if (const int64_t now = now_ns(); now - checked_ns_ > kCheckEveryNs) {
        checked_ns_ = now;
        if (t_tiles.configured) release_tiles();  // as in check_interrupted
        if (check()) stop_.store(pass, std::memory_order_relaxed);
      }
    }
  }
  if (arrived_.fetch_add(1, std::memory_order_acq_rel) + 1 == size()) {
    arrived_.store(0, std::memory_order_relaxed);
    passed_.store(pass, std::memory_order_release);
    passed_.notify_all();
  } else {
    int spins = 0;
    while (passed_.load(std::memory_order_acquire) != pass) {
      if (++spins < kSpins) {
        pause_briefly();
      } else {
        passed_.wait(pass - 1, std::memory_order_acquire);
      }
    }
  }
  // A slower thread may see here already that the work stops at the next barrier: it goes on to it.
  return stop_.load(std::memory_order_relaxed) != pass;
}

void run_team_of(int threads, void (*fn)(void*, Team&, int), void* body) {
  threads = std::min(threads, num_threads());
  bool stopped = false;
  if (threads <= 1) {
    Team team(1);
    team.checked_ns_ = now_ns();
    const TileRegion region;
    fn(body, team, 0);
    stopped = team.stop_.load() >= 0;
  } else {
    Team team(threads);
    team.checked_ns_ = now_ns();
#pragma omp parallel num_threads(threads)
    {
      // OpenMP may give fewer threads than asked for: each says the same.
      team.size_.store(omp_get_num_threads(), std::memory_order_relaxed);
      const TileRegion region;
      fn(body, team, omp_get_thread_num());
    }
    stopped = team.stop_.load() >= 0;
  }
  if (stopped) throw Interrupted();
}

namespace detail {

void parallel_for(int64_t count, int64_t grain, std::size_t scratch_bytes, RangeFn fn, void* body,
                  bool in_spans) {
  if (count <= 0) return;
  grain = std::max<int64_t>(grain, 1);
  const int64_t ranges = (count + grain - 1) / grain;
  const int threads = static_cast<int>(std::min<int64_t>(num_threads(), ranges));

  const std::size_t stride = (scratch_bytes + kCacheLine - 1) / kCacheLine * kCacheLine;
  const Buffer scratch = stride == 0 ? Buffer() : Buffer(static_cast<int64_t>(stride) * threads);

  RangeQueue queue(count, grain, in_spans ? threads : 1);
  const InterruptCheck check = g_interrupt_check.load();
  auto last_check = Clock::now();

  const auto work = [&](int thread) {
    std::byte* mine = scratch.data() + stride * static_cast<std::size_t>(thread);
    int64_t begin = 0;
    int64_t end = 0;
    while (queue.next(thread, begin, end)) {
      {
        const TileRegion region;
        fn(body, begin, end, mine);
      }
      if (thread == 0 && check != nullptr) {
        if (const auto now = Clock::now(); now - last_check > kCheckEvery) {
          last_check = now;
          if (check()) queue.stop();
        }
      }
    }
  };

  if (threads == 1) {
    work(0);
  } else {
#pragma omp parallel num_threads(threads)
    work(omp_get_thread_num());
  }
  if (queue.stopped()) throw Interrupted();
}

}  // namespace detail
}  // namespace marey
