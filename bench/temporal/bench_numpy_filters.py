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


def trajectory(x: Video) -> Program:
    """Whole clips moved by bilinear interpolation, one for each weight, and added up."""
    radius = int(4 * SIGMA + 0.5)
    weights = np.exp(-0.5 * (np.arange(-radius, radius + 1) / SIGMA) ** 2)
    weights = (weights / weights.sum()).astype(x.dtype)
    frames, height, width = x.shape[:3]
    border = int(radius * max(map(abs, VELOCITY))) + 2

    def call() -> Video:
        y = np.zeros_like(x)
        padded = np.pad(x, ((0, 0), (border, border), (border, border), (0, 0)), "edge")
        for offset, weight in zip(range(-radius, radius + 1), weights, strict=True):
            (row, dy), (column, dx) = (divmod(offset * v, 1.0) for v in VELOCITY)
            sources = padded[np.clip(np.arange(frames) + offset, 0, frames - 1)]
            for i, part_y in ((0, 1 - dy), (1, dy)):
                for j, part_x in ((0, 1 - dx), (1, dx)):
                    rows = slice(border + int(row) + i, border + int(row) + i + height)
                    columns = slice(border + int(column) + j, border + int(column) + j + width)
                    y += weight * x.dtype.type(part_y * part_x) * sources[:, rows, columns]
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
