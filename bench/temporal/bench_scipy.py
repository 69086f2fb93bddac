"""SciPy: sosfilt with coefficients of the clip's type, so that it works in that type."""

from collections.abc import Callable

import numpy as np
import pytest
import scipy
import scipy.signal

from bench.harness import Peer, Program, Workload
from bench.temporal.workloads import SOS, WORKLOADS, Video, chunks


def whole(x: Video) -> Program:
    sos = SOS.astype(x.dtype)
    return Program(lambda: scipy.signal.sosfilt(sos, x, axis=0))


def stream(x: Video) -> Program:
    sos = SOS.astype(x.dtype)

    def feed() -> Video:
        y: Video
        state = np.zeros((len(sos), 2, *x.shape[1:]), x.dtype)
        for chunk in chunks(x):
            y, state = scipy.signal.sosfilt(sos, chunk, axis=0, zi=state)
        return y

    return Program(feed)


# It takes no array to write to: where one is given, its ordinary form is what a user has.
SCIPY = Peer(
    name="SciPy",
    version=scipy.__version__,
    programs={"whole": whole, "into": whole, "in_place": whole, "stream": stream},
)


@pytest.mark.parametrize("workload", SCIPY.among(WORKLOADS), ids=str)
def bench_scipy(race: Callable[..., None], workload: Workload) -> None:
    race(workload, SCIPY)
