"""The heart rate from mean colours, as published."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = ["patch_means", "pos"]


def patch_means(
    frames: ArrayLike,
    row_edges: Sequence[int],
    column_edges: Sequence[int],
    mask: ArrayLike | None = None,
) -> NDArray[np.float64]:
    """The mean colour of each patch in every frame, (T, rows, columns, 3); NaN for no pixels."""
    x = np.asarray(frames).astype(np.float64)
    chosen = np.ones(x.shape[1:3], bool) if mask is None else np.asarray(mask, bool)
    means = np.empty((len(x), len(row_edges) - 1, len(column_edges) - 1, 3))
    for i in range(means.shape[1]):
        for j in range(means.shape[2]):
            rows = slice(row_edges[i], row_edges[i + 1])
            columns = slice(column_edges[j], column_edges[j + 1])
            pixels = x[:, rows, columns][:, chosen[rows, columns]]
            means[:, i, j] = pixels.mean(axis=1) if pixels.shape[1] else np.nan
    return means


def pos(trace: ArrayLike, fs: float) -> NDArray[np.float64]:
    """Plane orthogonal to skin (Wang et al. 2017, algorithm 1) of one trace (T, 3).

    At each time the sum over the windows of 1.6 s that hold it is divided by their number.
    """
    c = np.asarray(trace, np.float64)
    length = min(max(2, round(1.6 * fs)), len(c))
    projection = np.array([[0, 1, -1], [-2, 1, 1]])
    h, number = np.zeros(len(c)), np.zeros(len(c))
    for start in range(len(c) - length + 1):
        window = slice(start, start + length)
        s1, s2 = projection @ (c[window] / c[window].mean(axis=0)).T
        p = s1 + np.std(s1) / np.std(s2) * s2
        h[window] += p - p.mean()
        number[window] += 1
    result: NDArray[np.float64] = h / number
    return result
