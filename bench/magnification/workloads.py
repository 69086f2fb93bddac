"""The breathing in baby.mp4, magnified with the published parameters; the codec is left out."""

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import marey
import numpy as np
from numpy.typing import NDArray

from bench import data
from bench.harness import Program, Workload

SHAPE = (544, 960, 3)
FRAMES = 301
CHUNK = 8  # frames fed at once
FS, LOW, HIGH = 30.0, 0.4, 3.0  # Hz
ALPHA, CUTOFF, CHROMA = 10.0, 16.0, 0.1
# What every program works out for itself from the above, so that all do the same.
LEVELS = int(np.log2(min(SHAPE[:2]))) - 2

Video = NDArray[Any]


def baby() -> tuple[Video]:
    video = data.video("baby.mp4")
    assert video.shape == (FRAMES, *SHAPE)
    return (video,)


def chunks(video: Video) -> list[Video]:
    return [video[t : t + CHUNK] for t in range(0, len(video), CHUNK)]


def synthetic(frames: int) -> Iterator[Video]:
    """Chunks of a shifting noise pattern, made one at a time, as a decoder makes them."""
    pattern = np.random.default_rng(0).integers(0, 256, SHAPE, np.uint8)
    for t in range(0, frames, CHUNK):
        yield np.stack([np.roll(pattern, i, axis=1) for i in range(t, min(t + CHUNK, frames))])


def magnify(frames: Iterable[Video]) -> Iterator[Video]:
    magnifier = marey.Magnifier(SHAPE, FS, LOW, HIGH, ALPHA, cutoff=CUTOFF, chroma=CHROMA)
    return (magnifier.feed(chunk) for chunk in frames)


def stream(program: Callable[[Iterable[Video]], Iterator[Video]]) -> Callable[[Video], Program]:
    """Chunks in, chunks out and let go, as a program does that writes a video."""

    def prepare(video: Video) -> Program:
        return Program(
            call=lambda: consume(program(chunks(video))),
            result=lambda: list(program(chunks(video))),
        )

    return prepare


def consume(frames: Iterable[Video]) -> None:
    for _ in frames:
        pass


def consume_synthetic(frames: int) -> None:
    """For measuring memory."""
    consume(magnify(synthetic(frames)))


WORKLOADS = [
    Workload(
        name="magnify baby.mp4",
        operation="magnify",
        inputs=baby,
        ours=stream(magnify),
        amount=FRAMES,
        unit="frames/s",
        tolerance=1,  # grey level: float32 sums in another order fall on the other side of a half
    )
]
