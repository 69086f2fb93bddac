"""NumPy: the median over the first axis, the derivative, and the mean along a motion."""

from collections.abc import Callable

import numpy as np
import pytest

from bench.harness import Peer, Program, Workload
from bench.temporal.filters import FILTERS, SIGMA, VELOCITY
from bench.temporal.workloads import Video


def median(x: Video) -> Program:
    def call() -> Video:
        return np.median(x, axis=0).astype(np.float32)

    return Program(call)


def derivative(x: Video) -> Program:
    return Program(lambda: np.gradient(x, np.float32(1 / 30), axis=0))


def cubic(position: float) -> list[tuple[int, float]]:
    """Keys' cubic convolution at a position: whole pixels, and their weights."""
    whole, f = divmod(position, 1.0)
    weights = (
        f * (-0.5 + f * (1 - 0.5 * f)),
        1 + f * f * (1.5 * f - 2.5),
        f * (0.5 + f * (2 - 1.5 * f)),
        f * f * (0.5 * f - 0.5),
    )
    return [(int(whole) + i - 1, w) for i, w in enumerate(weights) if w != 0]


def trajectory(x: Video) -> Program:
    """Whole clips moved along the columns, then the rows, once for each step, and added up."""
    radius = int(4 * SIGMA + 0.5)
    taps = np.exp(-0.5 * (np.arange(-radius, radius + 1) / SIGMA) ** 2)
    taps /= taps.sum()
    frames, height, width = x.shape[:3]
    border = int(radius * max(map(abs, VELOCITY))) + 3

    def call() -> Video:
        y = np.zeros_like(x)
        padded = np.pad(x, ((0, 0), (border, border), (border, border), (0, 0)), "edge")
        for step in range(-radius, radius + 1):
            low, high = max(0, -step), min(frames, frames - step)
            # The first and the last frame stand for those beyond them too.
            weight = np.full((high - low, 1, 1, 1), taps[step + radius])
            if step <= 0:
                weight[0] = taps[: step + radius + 1].sum()
            if step >= 0:
                weight[-1] = taps[step + radius :].sum()
            source = padded[low + step : high + step]
            rows = sum(
                x.dtype.type(w) * source[:, border + i : border + i + height]
                for i, w in cubic(step * VELOCITY[0])
            )
            moved = sum(
                x.dtype.type(w) * rows[:, :, border + j : border + j + width]
                for j, w in cubic(step * VELOCITY[1])
            )
            y[low:high] += weight.astype(x.dtype) * moved
        return y

    return Program(call)


NUMPY = Peer(
    name="NumPy",
    version=np.__version__,
    programs={"median": median, "derivative": derivative, "trajectory": trajectory},
)


@pytest.mark.parametrize("workload", NUMPY.among(FILTERS), ids=str)
def bench_numpy_filters(race: Callable[..., None], workload: Workload) -> None:
    race(workload, NUMPY)
