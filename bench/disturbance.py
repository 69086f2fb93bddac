"""How busy everything else on the machine was: a time taken on a busy machine says little."""

import os
import time
from pathlib import Path

STAT = Path("/proc/stat")
QUIET = 0.03  # of the processor
PATIENCE = 20.0  # seconds to wait for it
IDLE = (3, 4)  # columns of /proc/stat: idle, and waiting for input or output
GUEST = (8, 9)  # counted in user and nice already


class Disturbance:
    """Watches from when it is made."""

    def __init__(self) -> None:
        self._wall, self._others = time.perf_counter(), _others()

    def share(self) -> float | None:
        """Processor time of others until now, as a fraction of all there was; None if unknown."""
        if self._others is None or (others := _others()) is None:
            return None
        available = (time.perf_counter() - self._wall) * (os.cpu_count() or 1)
        return max(0.0, others - self._others) / available


def wait_until_quiet() -> None:
    """Wait, for as long as there is patience, until others have left the processor alone."""
    end = time.perf_counter() + PATIENCE
    while time.perf_counter() < end:
        disturbance = Disturbance()
        time.sleep(1)
        if (disturbance.share() or 0.0) < QUIET:
            return


def _others() -> float | None:
    """Processor seconds since boot that neither this process nor its children took; Linux only."""
    if not STAT.exists():
        return None
    columns = STAT.read_text().split("\n", 1)[0].split()[1:]
    ticks = [int(n) for i, n in enumerate(columns) if i not in IDLE + GUEST]
    own = os.times()
    own_seconds = own.user + own.system + own.children_user + own.children_system
    return sum(ticks) / os.sysconf("SC_CLK_TCK") - own_seconds
