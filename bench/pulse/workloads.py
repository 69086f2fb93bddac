"""The mean colours of a grid of patches of full-HD frames."""

from typing import Any

import numpy as np
from marey.pulse import patch_means
from numpy.typing import NDArray

from bench.harness import Program, Workload

CLIP = (8, 1080, 1920, 3)
PATCH = 60  # pixels

Video = NDArray[Any]


def clip() -> tuple[Video]:
    return (np.random.default_rng(0).integers(0, 256, CLIP, np.uint8),)


def means(video: Video) -> Program:
    rows, columns = (list(range(0, extent + 1, PATCH)) for extent in CLIP[1:3])
    return Program(lambda: patch_means(video, rows, columns))


WORKLOADS = [
    Workload(
        name="patch means 1080p uint8",
        operation="means",
        inputs=clip,
        ours=means,
        amount=float(np.prod(CLIP)),
        unit="GB/s",
        tolerance=1e-3,
    )
]
