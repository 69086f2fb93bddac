#include "core/team_probe.h"

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <thread>
#include <vector>

#include "core/parallel.h"

namespace marey {

TeamProbe probe_team(int threads, int64_t passes, int64_t late_every) {
  // Plain memory: only the barriers order what is written and read.
  struct alignas(64) Notes {
    int64_t pass = -1;
    int64_t finished = 0;
    int64_t stale = 0;
  };
  std::vector<Notes> notes(static_cast<std::size_t>(std::max(threads, 1)));
  int size = 0;
  run_team(threads, [&](Team& team, int thread) {
    Notes& mine = notes[static_cast<std::size_t>(thread)];
    if (thread == 0) size = team.size();
    for (int64_t pass = 0; pass < passes; ++pass) {
      if (late_every > 0 && pass % late_every == 0 && pass / late_every % team.size() == thread) {
        std::this_thread::sleep_for(std::chrono::milliseconds(1));
      }
      mine.pass = pass;
      if (!team.barrier(thread)) return;
      for (int other = 0; other < team.size(); ++other) {
        mine.stale += notes[static_cast<std::size_t>(other)].pass != pass ? 1 : 0;
      }
      mine.finished = pass + 1;
      if (!team.barrier(thread)) return;
    }
  });
  TeamProbe result{size, passes, 0};
  for (int thread = 0; thread < size; ++thread) {
    const Notes& of_thread = notes[static_cast<std::size_t>(thread)];
    result.passes = std::min(result.passes, of_thread.finished);
    result.stale += of_thread.stale;
  }
  return result;
}

}  // namespace marey
