"""NumPy: the median of the frames of a window, anew for each frame."""

from collections.abc import Callable

import numpy as np
import pytest

from bench.background.workloads import THRESHOLD, WINDOW, WORKLOADS, Video
from bench.harness import Peer, Program, Workload


def background(window: Video) -> Video:
    return np.median(window, axis=0).astype(np.uint8)


def sliding(video: Video) -> Program:
    window = video[-WINDOW:]

    def call() -> Video:
        far = np.maximum(video[0], still := background(window)) - np.minimum(video[0], still)
        mask: Video = far.max(axis=-1) > THRESHOLD
        return mask

    return Program(call, result=lambda: background(window))


NUMPY = Peer(name="NumPy", version=np.__version__, programs={"sliding": sliding})


@pytest.mark.parametrize("workload", NUMPY.among(WORKLOADS), ids=str)
def bench_numpy(race: Callable[..., None], workload: Workload) -> None:
    race(workload, NUMPY)
