#pragma once
// The tiles of Intel's AMX as a resource of a thread. They are configured by the first product that
// wants them and released at the end of the thread's region, because to configure costs as much as
// seventeen products of tiles (100 ns, measured), and because a thread that keeps them has 8 KiB
// more to save at every switch.
//
// All eight are configured alike, 16 rows of 64 bytes; what is smaller is padded with zeros.

namespace marey {

// Whether the processor has tiles of bfloat16 and the operating system lets this process use them.
// Linux wants to be asked, once: its answer holds for all threads and for forked children. It
// refuses a process with a signal stack too small for the tiles.
bool has_amx();

struct TileState {
  int regions;
  bool configured;
};
extern constinit thread_local TileState t_tiles;

// Only where avx512_amx is available, inside a TileRegion.
void configure_tiles();
void release_tiles();

// Where products may leave the tiles configured for the next one. parallel_for and teams open one
// around the work of each thread; a product outside of them opens its own.
class TileRegion {
 public:
  TileRegion() { ++t_tiles.regions; }
  ~TileRegion() {
    if (--t_tiles.regions == 0 && t_tiles.configured) release_tiles();
  }
  TileRegion(const TileRegion&) = delete;
  TileRegion& operator=(const TileRegion&) = delete;
};

}  // namespace marey
