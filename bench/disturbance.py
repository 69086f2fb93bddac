"""How busy everything else on the machine was: a time taken on a busy machine says little."""

import os
import time
from pathlib import Path

STAT = Path("/proc/stat")
QUIET = 0.03  # of the processor: what to wait for
DISTURBED = 0.1  # of the processor: what spoils a time
PATIENCE = 20.0  # seconds to wait for it, in a run: one that is disturbed throughout ends, too
LOOK = 0.5  # seconds, in which the processor's hundredths tell its QUIET share
IDLE = (3, 4)  # columns of /proc/stat: idle, and waiting for input or output
GUEST = (8, 9)  # counted in user and nice already


class Disturbance:
    """Watches from when it is made."""

    def __init__(self) -> None:
        self._wall, self._others = time.perf_counter(), _others()

    def share(self) -> float:
        """Processor time of others until now, as a fraction of all there was."""
        available = (time.perf_counter() - self._wall) * (os.cpu_count() or 1)
        return max(0.0, _others() - self._others) / available


_patience = [PATIENCE]


def wait_until_quiet() -> None:
    """Wait, for as long as there is patience, until others have left the processor alone."""
    while _patience[0] > 0:
        disturbance = Disturbance()
        time.sleep(LOOK)
        if disturbance.share() < QUIET:
            return
        _patience[0] -= LOOK


def _others() -> float:
    """Processor seconds since boot that neither this process nor its children took.

    Zero, as if there were no others, where there is no /proc/stat.
    """
    if not STAT.exists():
        return 0.0
    columns = STAT.read_text().split("\n", 1)[0].split()[1:]
    ticks = [int(n) for i, n in enumerate(columns) if i not in IDLE + GUEST]
    own = os.times()
    own_seconds = own.user + own.system + own.children_user + own.children_system
    return sum(ticks) / os.sysconf("SC_CLK_TCK") - own_seconds
