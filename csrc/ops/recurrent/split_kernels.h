#pragma once
// Products of recurrent networks in float32 by the tiles of AMX, with operands split into three
// parts (core/tile_split.h). Layouts are those of kernels.h, whose blocks they share; what is split
// has its depth padded to whole steps.
#include "ops/recurrent/kernels.h"

namespace marey {

// Items of a depth as a split row has them.
constexpr int64_t split_depth(int64_t depth) { return (depth + 31) / 32 * 32; }
// Items of bfloat16 from a row to the next: no power of two, and so that rows start a line.
constexpr int64_t split_pitch(int64_t depth) { return 3 * split_depth(depth) + 32; }
// Rows that may be read behind the last one.
inline constexpr int64_t kSplitRest = 16;

// Rows of float32 as split ones.
struct SplitArgs {
  const float* from;
  int64_t row_stride, item_stride;
  int64_t rows, depth;
  void* to;
  int64_t pitch;  // items of bfloat16
};

// to = or += rows of a times a packed panel.
struct SplitProductArgs {
  const void* a;
  int64_t a_pitch;  // items of bfloat16
  int64_t rows, depth;
  const void* panel;
  void* to;  // [rows][lanes]
  bool accumulate;
};

struct SplitKernels {
  int64_t item_size;  // bytes of a packed weight
  void (*pack)(const PackArgs&);
  void (*split)(const SplitArgs&);
  // `a` split, its pitch in items of bfloat16.
  void (*project)(const ProjectArgs&);
  void (*product)(const SplitProductArgs&);
};

// Null but for avx512_amx.
using SelectSplit = const SplitKernels*();
MAREY_DECLARE_KERNEL(select_recurrent_split, SelectSplit)

}  // namespace marey
