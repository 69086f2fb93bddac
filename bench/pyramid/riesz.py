"""The Riesz pyramid of a 540x960 image: four octaves."""

from typing import Any

import numpy as np
from marey.pyramid import RieszPyramid
from numpy.typing import NDArray

from bench.harness import Program, Workload

SHAPE = (540, 960)
LEVELS = 4

Image = NDArray[Any]


def image() -> tuple[Image]:
    return (np.random.default_rng(0).random(SHAPE, np.float32),)


def build(x: Image) -> Program:
    pyramid = RieszPyramid(SHAPE, LEVELS)

    def call() -> list[Image]:
        made = pyramid.build(x)
        return [*made.bands, made.lowpass, *made.x, *made.y]

    return Program(call)


# The image read; three numbers a coefficient and the residual written.
_PIXELS = [(-(-SHAPE[0] // 2**k)) * (-(-SHAPE[1] // 2**k)) for k in range(LEVELS + 1)]

WORKLOADS = [
    Workload(
        "Riesz build, float32",
        "riesz_build",
        image,
        build,
        amount=4.0 * (_PIXELS[0] + 3 * sum(_PIXELS[:-1]) + _PIXELS[-1]),
        unit="GB/s",
        tolerance=2e-6,
    )
]
