"""OpenCV: float frames shrunk by area."""

from collections.abc import Callable

import numpy as np
import pytest

from bench.harness import Peer, Program, Workload
from bench.pulse.workloads import CLIP, PATCH, WORKLOADS, Video

cv2 = pytest.importorskip("cv2")


def means(video: Video) -> Program:
    size = (CLIP[2] // PATCH, CLIP[1] // PATCH)

    def call() -> Video:
        # Of bytes it would make bytes, and lose the pulse.
        shrunk = [
            cv2.resize(frame.astype(np.float32), size, interpolation=cv2.INTER_AREA)
            for frame in video
        ]
        return np.stack(shrunk).astype(np.float64)

    return Program(call)


OPENCV = Peer(
    name="OpenCV",
    version=cv2.__version__,
    set_threads=cv2.setNumThreads,
    programs={"means": means},
)


@pytest.mark.parametrize("workload", OPENCV.among(WORKLOADS), ids=str)
def bench_opencv(race: Callable[..., None], workload: Workload) -> None:
    race(workload, OPENCV)
