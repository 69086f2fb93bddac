#pragma once
// A kernel that tells which instruction set its own translation unit was compiled for, from the
// compiler's macros, and whether its products of bfloat16 take tiles, from how one is rounded: the
// proof that dispatch runs what it says.
#include "core/dispatch.h"

namespace marey {

struct ProbeResult {
  const char* isa;
  int float_lanes;
  double fused;  // a * a - b rounded once (fused multiply-add) or twice; the two differ
};

using Probe = ProbeResult(double a, double b);
MAREY_DECLARE_KERNEL(probe, Probe)

ProbeResult run_probe();

}  // namespace marey
