"""NumPy: sums over rows and columns."""

from collections.abc import Callable

import numpy as np
import pytest

from bench.harness import Peer, Program, Workload
from bench.pulse.workloads import PATCH, WORKLOADS, Video


def means(video: Video) -> Program:
    rows, columns = (np.arange(0, extent, PATCH) for extent in video.shape[1:3])

    def call() -> Video:
        bands = np.add.reduceat(video, rows, axis=1, dtype=np.uint32)
        return np.add.reduceat(bands, columns, axis=2) / PATCH**2

    return Program(call)


NUMPY = Peer(name="NumPy", version=np.__version__, programs={"means": means})


@pytest.mark.parametrize("workload", NUMPY.among(WORKLOADS), ids=str)
def bench_numpy(race: Callable[..., None], workload: Workload) -> None:
    race(workload, NUMPY)
