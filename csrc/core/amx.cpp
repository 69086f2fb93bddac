#include "core/amx.h"

#include <cstdint>

#if defined(__x86_64__) && defined(__linux__)
#define MAREY_AMX
#include <cpuid.h>
#include <immintrin.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace marey {

constinit thread_local TileState t_tiles{0, false};

#ifdef MAREY_AMX

namespace {

// asm/prctl.h and the features' numbers, which old headers do not have.
constexpr long kRequestPermission = 0x1023;  // ARCH_REQ_XCOMP_PERM
constexpr unsigned kTileConfig = 17;
constexpr unsigned kTileData = 18;

bool processor_has_amx() {
  unsigned a = 0;
  unsigned b = 0;
  unsigned c = 0;
  unsigned d = 0;
  constexpr unsigned kBfloat16 = 1U << 22;
  constexpr unsigned kTile = 1U << 24;
  if (__get_cpuid_count(7, 0, &a, &b, &c, &d) == 0) return false;
  return (d & kBfloat16) != 0 && (d & kTile) != 0;
}

// The registers whose state the operating system saves.
bool system_saves_tiles() {
  unsigned a = 0;
  unsigned b = 0;
  unsigned c = 0;
  unsigned d = 0;
  constexpr unsigned kOsxsave = 1U << 27;
  if (__get_cpuid(1, &a, &b, &c, &d) == 0 || (c & kOsxsave) == 0) return false;
  uint32_t low = 0;
  uint32_t high = 0;
  asm volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  constexpr uint32_t kBoth = (1U << kTileConfig) | (1U << kTileData);
  return (low & kBoth) == kBoth;
}

struct alignas(64) TileConfig {
  uint8_t palette = 1;
  uint8_t start_row = 0;
  uint8_t reserved[14] = {};
  uint16_t row_bytes[16] = {};
  uint8_t rows[16] = {};
};

constexpr TileConfig whole_tiles() {
  TileConfig config;
  for (int i = 0; i < 8; ++i) {
    config.row_bytes[i] = 64;
    config.rows[i] = 16;
  }
  return config;
}

}  // namespace

bool has_amx() {
  static const bool has = processor_has_amx() && system_saves_tiles() &&
                          syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
  return has;
}

[[gnu::target("amx-tile")]] void configure_tiles() {
  static constexpr TileConfig kConfig = whole_tiles();
  _tile_loadconfig(&kConfig);
  t_tiles.configured = true;
}

[[gnu::target("amx-tile")]] void release_tiles() {
  _tile_release();
  t_tiles.configured = false;
}

#else

bool has_amx() { return false; }
void configure_tiles() {}
void release_tiles() {}

#endif

}  // namespace marey
