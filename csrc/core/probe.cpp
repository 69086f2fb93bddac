#include "core/probe.h"

namespace marey {

MAREY_STUB(probe, Probe)

ProbeResult run_probe() {
  // a^2 = 1 + 2^-29 + 2^-60: the last term is lost unless the product is not rounded.
  const double a = 1.0 + 0x1p-30;
  return probe_stub.get()(a, 1.0 + 0x1p-29);
}

}  // namespace marey
