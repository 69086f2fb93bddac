"""A still, noisy scene through which squares move, separated from its background."""

from functools import cache
from itertools import cycle
from typing import Any

import numpy as np
from marey.background import MedianBackground, MixtureBackground, difference
from numpy.typing import NDArray

from bench.harness import Program, Workload

SHAPE = (1080, 1920, 3)
FRAMES = 24
SMALL = (360, 640, 3)
WINDOW = 51
NOISE = 3.0
THRESHOLD = 30.0
# The mixture's parameters, given alike to all.
HISTORY, LIMIT, INITIAL, LEAST, MOST = 500, 16.0, 36.0, 16.0, 80.0

Video = NDArray[Any]


@cache
def clip(shape: tuple[int, ...] = SHAPE, frames: int = FRAMES) -> Video:
    rng = np.random.default_rng(0)
    still = rng.uniform(40, 220, shape).astype(np.float32)
    video = np.empty((frames, *shape), np.uint8)
    size = shape[0] // 6
    for t in range(frames):
        frame = still + np.float32(NOISE) * rng.standard_normal(shape, np.float32)
        for k in range(8):
            y = (k * 5 * shape[0] // 8) % (shape[0] - size)
            x = (k * 3 * shape[1] // 8 + 12 * t) % (shape[1] - size)
            frame[y : y + size, x : x + size] = 25 * k
        video[t] = np.clip(np.rint(frame), 0, 255)
    return video


def rates(frames: int) -> list[float]:
    """The automatic learning rates of a new model."""
    return [1 / min(2 * n, HISTORY) for n in range(1, frames + 1)]


def shares(masks: Video) -> Video:
    """What share of each frame is in front: one pixel in ten thousand may round to either side."""
    return np.mean(masks > 0, axis=(1, 2), dtype=np.float32)


def mixture(at_once: int) -> Any:
    def prepare(video: Video) -> Program:
        def new() -> MixtureBackground:
            return MixtureBackground(
                SHAPE,
                history=HISTORY,
                threshold=LIMIT,
                initial_variance=INITIAL,
                minimum_variance=LEAST,
                maximum_variance=MOST,
                clean=0,
            )

        model = new()
        chunks = [video[t : t + at_once] for t in range(0, len(video), at_once)]
        model.feed(video)
        following = cycle(chunks)
        return Program(
            lambda: model.feed(next(following), 1 / HISTORY),
            result=lambda: shares(new().feed(video)),
        )

    return prepare


def masks(video: Video) -> Program:
    still = video[0]
    return Program(lambda: difference(video[1], still, THRESHOLD, clean=0).view(np.uint8))


def sliding(video: Video) -> Program:
    def new() -> MedianBackground:
        return MedianBackground(SMALL, window=WINDOW, every=1, clean=0)

    def result() -> Video:
        model = new()
        model.feed(video)
        background: Video = model.background
        return background

    model = new()
    model.feed(video)
    following = cycle(video)
    return Program(lambda: model.feed(next(following)), result=result)


WORKLOADS = [
    Workload(
        name="mixture 1080p, frame by frame",
        operation="mixture",
        inputs=lambda: (clip(),),
        ours=mixture(1),
        amount=1,
        unit="frames/s",
        tolerance=1e-4,
    ),
    Workload(
        name="mixture 1080p, 8 frames at once",
        operation="mixture_8",
        inputs=lambda: (clip(),),
        ours=mixture(8),
        amount=8,
        unit="frames/s",
        tolerance=1e-4,
    ),
    Workload(
        name="difference from a picture 1080p",
        operation="difference",
        inputs=lambda: (clip(),),
        ours=masks,
        amount=float(np.prod(SHAPE)) * 2 + float(np.prod(SHAPE[:2])),
        unit="GB/s",
        tolerance=0,
    ),
    Workload(
        name=f"sliding median of {WINDOW}, 360p",
        operation="sliding",
        inputs=lambda: (clip(SMALL, WINDOW + 9),),
        ours=sliding,
        amount=1,
        unit="frames/s",
        tolerance=0,
    ),
]
