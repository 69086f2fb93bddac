"""NumPy: the median over the first axis."""

from collections.abc import Callable

import numpy as np
import pytest

from bench.harness import Peer, Program, Workload
from bench.temporal.filters import FILTERS
from bench.temporal.workloads import Video


def median(x: Video) -> Program:
    def call() -> Video:
        return np.median(x, axis=0).astype(np.float32)

    return Program(call)


NUMPY = Peer(name="NumPy", version=np.__version__, programs={"median": median})


@pytest.mark.parametrize("workload", NUMPY.among(FILTERS), ids=str)
def bench_numpy_filters(race: Callable[..., None], workload: Workload) -> None:
    race(workload, NUMPY)
