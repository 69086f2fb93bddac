"""Phase-based and Riesz magnification beside the linear program of OpenCV and SciPy.

Not the same work: no other program known does these two as a stream in Python. The linear program
is the yardstick of what people are used to wait for, so results are not compared (any two uint8
videos agree within 255). What a frame takes does not depend on how many there are: the first ones
do.
"""

from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any

import marey
import pytest

from bench import memory
from bench.harness import Workload
from bench.magnification.bench_opencv_scipy import OPENCV_SCIPY
from bench.magnification.workloads import (
    ALPHA,
    FS,
    HIGH,
    LOW,
    SHAPE,
    Video,
    baby,
    consume,
    stream,
    synthetic,
)

FRAMES = 32

OPTIONS: dict[str, dict[str, Any]] = {
    "riesz": {"method": "riesz", "sigma": 2.0},
    "phase, 8 orientations": {"method": "phase", "sigma": 5.0, "orientations": 8},
}


def beginning() -> tuple[Video]:
    (video,) = baby()
    return (video[:FRAMES].copy(),)


def magnify(frames: Iterable[Video], **options: Any) -> Iterator[Video]:
    magnifier = marey.Magnifier(SHAPE, FS, LOW, HIGH, ALPHA, **options)
    return (magnifier.feed(chunk) for chunk in frames)


WORKLOADS = [
    Workload(
        name=f"{FRAMES} frames of baby.mp4, {name}, beside linear",
        operation="magnify",
        inputs=beginning,
        ours=stream(partial(magnify, **options)),
        amount=FRAMES,
        unit="frames/s",
        tolerance=255,
    )
    for name, options in OPTIONS.items()
]


@pytest.mark.parametrize("workload", WORKLOADS, ids=str)
def bench_phase(race: Callable[..., None], workload: Workload) -> None:
    race(workload, OPENCV_SCIPY)


def consume_riesz(frames: int) -> None:
    consume(magnify(synthetic(frames), **OPTIONS["riesz"]))


def consume_phase(frames: int) -> None:
    consume(magnify(synthetic(frames), **OPTIONS["phase, 8 orientations"]))


@pytest.mark.parametrize("method", ["riesz", "phase"])
def bench_phase_memory_is_constant(
    method: str, record_memory: Callable[[str, int, memory.Peak], None]
) -> None:
    short, long = (memory.measure(f"{__name__}:consume_{method}", frames) for frames in (32, 160))
    record_memory(f"marey, {method}", 32, short)
    record_memory(f"marey, {method}", 160, long)
    assert long.megabytes - short.megabytes < 20
