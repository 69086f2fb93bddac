"""What the tests of the temporal family share."""

import itertools
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

DTYPES = [np.uint8, np.float32, np.float64]
PIXELS = [1, 7, 17, 97, 113, 4097]
MODES = ["reflect", "nearest", "mirror", "wrap", "constant"]
VIEWS = [np.s_[::-1], np.s_[:, ::-1], np.s_[::2, ::3, ::2], np.s_[1:-1, 2:, 3:], np.s_[:, :, ::-2]]


def signal(rng: np.random.Generator, shape: tuple[int, ...], dtype: type) -> NDArray[Any]:
    if dtype == np.uint8:
        return rng.integers(0, 256, shape, dtype=np.uint8)
    return rng.standard_normal(shape).astype(dtype)


def computed_in(dtype: Any) -> type:
    """Return the dtype of a result that uint8 cannot hold."""
    return np.float64 if dtype == np.float64 else np.float32


def layouts(rng: np.random.Generator, dtype: type) -> Iterator[tuple[NDArray[Any], int]]:
    """Yield arrays in many layouts, with an axis each: adjacent series, gathered ones, views."""
    for axis in (0, 1, 2, -1, -2):
        yield signal(rng, (21, 9, 13), dtype), axis
    for pixels in PIXELS:
        yield signal(rng, (19, pixels), dtype), 0
        yield signal(rng, (pixels, 19), dtype), -1
    for view in VIEWS:
        yield signal(rng, (40, 21, 34), dtype)[view], 0
    for order in itertools.permutations(range(4)):
        yield signal(rng, (12, 11, 9, 10), dtype).transpose(order), 0
    yield signal(rng, (15, 130, 67), dtype)[:, 1:, :], 0  # runs of adjacent series, not aligned
    yield signal(rng, (15, 3, 130, 2), dtype)[:, :, ::2], 0
    yield signal(rng, (30,), dtype), 0
    yield signal(rng, (15, 0, 3), dtype), 0
