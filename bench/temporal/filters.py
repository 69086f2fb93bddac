"""Filters over whole clips: zero-phase, ideal, finite, median. Clips as large as the peers bear."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
from marey import temporal

from bench.data import frame_size
from bench.harness import Program, Workload
from bench.temporal.workloads import CHUNK, SOS, Video, chunks

FRAME = frame_size(360, 640, 3)
SMALL_FRAME = frame_size(180, 320, 3)
SIGMA = 2.0
BAND = (0.4, 3.0, 30.0)
VELOCITY = (0.6, -1.3)  # pixels a frame, down and to the left
TAPS = np.array([1, 4, 6, 4, 1]) / 16


def clip(frames: int, dtype: str, frame: tuple[int, ...]) -> Video:
    rng = np.random.default_rng(0)
    if dtype == "uint8":
        return rng.integers(0, 256, (frames, *frame), np.uint8)
    return rng.random((frames, *frame), np.dtype(dtype))


def _workload(
    name: str,
    operation: str,
    frames: int,
    dtype: str,
    ours: Callable[[Video], Any],
    tolerance: float,
    result_bytes: float | None = None,
    frame: tuple[int, ...] = FRAME,
) -> Workload:
    pixels = float(np.prod(frame))
    read = frames * pixels * np.dtype(dtype).itemsize
    return Workload(
        name=f"{name}, {frames} frames {dtype}",
        operation=operation,
        inputs=lambda: (clip(frames, dtype, frame),),
        ours=lambda x: Program(lambda: ours(x)),
        amount=read + (read if result_bytes is None else result_bytes * pixels),
        unit="GB/s",
        tolerance=tolerance,
    )


def _stream(name: str, operation: str, make: Callable[[], Callable[[Video], Video]]) -> Workload:
    """Of a window that slides over a stream, a few frames at once, all of which are compared."""

    def ours(x: Video) -> Program:
        def feed() -> Video:
            y: Video
            filtered = make()
            for chunk in chunks(x):
                y = filtered(chunk)
            return y  # the last chunk: with it the window has passed over all

        return Program(feed)

    whole = _workload(name, operation, 120, "float32", temporal.derivative, 2e-6)
    return replace(whole, name=f"{name}, {CHUNK} frames at once", ours=ours)


FILTERS = [
    _workload(
        "sosfiltfilt", "sosfiltfilt", 60, "float32", lambda x: temporal.sosfiltfilt(SOS, x), 2e-5
    ),
    _workload(
        "ideal band-pass",
        "ideal_bandpass",
        60,
        "float32",
        lambda x: temporal.ideal_bandpass(x, *BAND),
        2e-6,
    ),
    _workload(
        "ideal band-pass",
        "ideal_bandpass",
        240,
        "float32",
        lambda x: temporal.ideal_bandpass(x, *BAND),
        2e-6,
    ),
    _workload("Gaussian", "gaussian", 120, "float32", lambda x: temporal.gaussian(x, SIGMA), 2e-6),
    _workload(
        "Gaussian along (0.6, -1.3)",
        "trajectory",
        20,
        "float32",
        lambda x: temporal.gaussian(x, SIGMA, mode="nearest", velocity=VELOCITY),
        2e-5,
    ),
    _workload(
        "derivative", "derivative", 120, "float32", lambda x: temporal.derivative(x, 30), 1e-5
    ),
    _workload("5 taps", "convolve", 120, "float32", lambda x: temporal.convolve(x, TAPS), 2e-6),
    _workload(
        "median of 5", "median_filter 5", 30, "uint8", lambda x: temporal.median_filter(x, 5), 0
    ),
    _workload(
        "median of 5", "median_filter 5", 30, "float32", lambda x: temporal.median_filter(x, 5), 0
    ),
    _workload(
        "median of 31, 180p",
        "median_filter 31",
        40,
        "uint8",
        lambda x: temporal.median_filter(x, 31),
        0,
        frame=SMALL_FRAME,
    ),
    _workload("median over all", "median", 60, "uint8", temporal.median, 0, 4),
    _workload("median over all", "median", 60, "float32", temporal.median, 1e-6, 4),
    _stream("FirFilter of 5 taps", "stream 5", lambda: temporal.FirFilter(TAPS)),
    _stream("MedianFilter of 5", "stream median", lambda: temporal.MedianFilter(5)),
]
