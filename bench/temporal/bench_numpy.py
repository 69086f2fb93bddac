"""NumPy: the recursion written out, a frame at a time for as many pixels as the cache holds.

What a careful user writes who finds scipy.signal.sosfilt slow along the first axis.
"""

from collections.abc import Callable

import numpy as np
import pytest

from bench.harness import Peer, Program, Workload
from bench.temporal.workloads import SOS, WORKLOADS, Video, chunks

PIXELS = 1 << 14  # five arrays of them stay in a second-level cache


def sosfilt(x: Video, out: Video, state: Video) -> None:
    """One section over x (T, pixels); state (2, pixels) is updated."""
    b0, b1, b2, _, a1, a2 = SOS[0].astype(x.dtype)
    product = np.empty(min(PIXELS, x.shape[1]), x.dtype)
    for begin in range(0, x.shape[1], PIXELS):
        part = slice(begin, begin + PIXELS)
        s0, s1 = state[:, part]
        p = product[: s0.size]
        for frame, y in zip(x[:, part], out[:, part], strict=True):
            # In place, frame and y are one array: take from frame before y is written.
            np.multiply(frame, b1, out=p)
            np.add(s1, p, out=s1)
            np.multiply(frame, b2, out=p)
            np.multiply(frame, b0, out=y)
            np.add(y, s0, out=y)
            np.multiply(y, a1, out=s0)
            np.subtract(s1, s0, out=s0)
            np.multiply(y, a2, out=s1)
            np.subtract(p, s1, out=s1)


def flat(x: Video) -> Video:
    return x.reshape(len(x), -1)


def whole(x: Video) -> Program:
    def call() -> Video:
        y = np.empty_like(x)
        sosfilt(flat(x), flat(y), np.zeros((2, x[0].size), x.dtype))
        return y

    return Program(call)


def into(x: Video) -> Program:
    y = np.zeros_like(x)

    def call() -> Video:
        sosfilt(flat(x), flat(y), np.zeros((2, x[0].size), x.dtype))
        return y

    return Program(call)


def in_place(x: Video) -> Program:
    y = x.copy()

    def call() -> Video:
        sosfilt(flat(y), flat(y), np.zeros((2, y[0].size), y.dtype))
        return y

    return Program(call, reset=lambda: np.copyto(y, x))


def stream(x: Video) -> Program:
    def feed() -> Video:
        state = np.zeros((2, x[0].size), x.dtype)
        for chunk in chunks(x):
            y = np.empty_like(chunk)
            sosfilt(flat(chunk), flat(y), state)
        return y

    return Program(feed)


NUMPY = Peer(
    name="NumPy",
    version=np.__version__,
    programs={"whole": whole, "into": into, "in_place": in_place, "stream": stream},
)


@pytest.mark.parametrize("workload", NUMPY.among(WORKLOADS), ids=str)
def bench_numpy(race: Callable[..., None], workload: Workload) -> None:
    race(workload, NUMPY)
