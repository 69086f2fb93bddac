"""A band-pass of one second-order section along time, over a colour clip."""

from typing import Any

import numpy as np
from marey import temporal
from numpy.typing import NDArray

from bench.data import frame_size
from bench.harness import Program, Workload

CLIP = (120, *frame_size(360, 640, 3))
CHUNK = 8  # frames fed at once to a stream
SOS = temporal.butter_bandpass(0.4, 3.0, 30.0)
TOLERANCE = {"float32": 5e-6, "float64": 1e-13}

Video = NDArray[Any]


def clip(dtype: Any) -> Video:
    return np.random.default_rng(0).random(CLIP, dtype)


def chunks(x: Video) -> list[Video]:
    return [x[t : t + CHUNK] for t in range(0, len(x), CHUNK)]


def whole(x: Video) -> Program:
    return Program(lambda: temporal.sosfilt(SOS, x))


def into(x: Video) -> Program:
    out = np.zeros_like(x)
    return Program(lambda: temporal.sosfilt(SOS, x, out=out))


def in_place(x: Video) -> Program:
    # Filtered again and again, the noise would fade into slow subnormal numbers.
    y = x.copy()
    return Program(lambda: temporal.sosfilt(SOS, y, out=y), reset=lambda: np.copyto(y, x))


def stream(x: Video) -> Program:
    def feed() -> Video:
        y: Video
        filtered = temporal.SosFilter(SOS)
        for chunk in chunks(x):
            y = filtered(chunk)
        return y  # the last chunk: it depends on all before it

    return Program(feed)


def _workloads(dtype: str) -> list[Workload]:
    rest: dict[str, Any] = {
        "inputs": lambda: (clip(dtype),),
        "amount": 2.0 * float(np.prod(CLIP)) * np.dtype(dtype).itemsize,
        "unit": "GB/s",
        "tolerance": TOLERANCE[dtype],
    }
    return [
        Workload(name=f"sosfilt {dtype}", operation="whole", ours=whole, **rest),
        Workload(name=f"sosfilt {dtype}, out given", operation="into", ours=into, **rest),
        Workload(name=f"sosfilt {dtype}, in place", operation="in_place", ours=in_place, **rest),
        Workload(
            name=f"SosFilter {dtype}, {CHUNK} frames at once",
            operation="stream",
            ours=stream,
            **rest,
        ),
    ]


WORKLOADS = [*_workloads("float32"), _workloads("float64")[0]]
