#pragma once
// What a team of threads does (core/parallel.h), for tests: at each pass every thread writes down
// the pass, meets the others, and reads what they wrote.
#include <cstdint>

namespace marey {

struct TeamProbe {
  int size;        // threads that there were
  int64_t passes;  // that all of them went through
  int64_t stale;   // readings of another thread's note that were not of this pass
};

// Up to `threads` threads, `passes` passes. A different thread comes late to every `late_every`th
// of them, by a millisecond, so that the others fall asleep; 0: none does. Throws Interrupted.
TeamProbe probe_team(int threads, int64_t passes, int64_t late_every);

}  // namespace marey
