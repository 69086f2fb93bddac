"""The heart rate from mean colours, as published."""

from collections.abc import Sequence

import numpy as np
import scipy.signal
from numpy.typing import ArrayLike, NDArray

__all__ = ["bpm", "chrom", "green", "patch_means", "pos"]


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


def chrom(trace: ArrayLike, fs: float, low: float, high: float) -> NDArray[np.float64]:
    """Chrominance (de Haan and Jeanne 2013) of one trace (T, 3), between `low` and `high` Hz.

    Hann windows of 1.6 s that overlap by half, the last one ending with the signal; their sum is
    divided by the sum of the windows.
    """
    c = _bandpass(_normalised(np.asarray(trace, np.float64), fs), fs, low, high)
    length = min(max(4, round(1.6 * fs)), len(c))
    hann = np.hanning(length + 2)[1:-1]
    last = len(c) - length
    signal, weight = np.zeros(len(c)), np.zeros(len(c))
    for start in sorted({*range(0, last + 1, max(1, length // 2)), last}):
        window = slice(start, start + length)
        red, green, blue = c[window].T
        x, y = 3 * red - 2 * green, 1.5 * red + green - 1.5 * blue
        signal[window] += hann * (x - np.std(x) / np.std(y) * y)
        weight[window] += hann
    result: NDArray[np.float64] = signal / weight
    return result


def green(trace: ArrayLike, fs: float) -> NDArray[np.float64]:
    """The green channel of one trace (T, 3) over its running mean, rising with the blood."""
    return -_normalised(np.asarray(trace, np.float64), fs)[:, 1]


def bpm(signal: ArrayLike, fs: float, low: float, high: float) -> float:
    """The rate at the highest peak of the spectrum between `low` and `high` Hz, on a fine grid."""
    x = np.asarray(signal, np.float64)
    windowed = (x - x.mean()) * np.hanning(len(x))
    frequencies = np.arange(low, high, 1e-4)
    turns = np.exp(-2j * np.pi * frequencies[:, np.newaxis] * np.arange(len(x)) / fs)
    return float(60 * frequencies[np.argmax(np.abs(turns @ windowed))])


def _normalised(c: NDArray[np.float64], fs: float) -> NDArray[np.float64]:
    """Each sample over the mean of what lies within 0.8 s of it, less 1."""
    half = min(max(2, round(1.6 * fs)), len(c)) // 2
    means = [c[max(0, t - half) : t + half + 1].mean(axis=0) for t in range(len(c))]
    result: NDArray[np.float64] = c / means - 1
    return result


def _bandpass(x: NDArray[np.float64], fs: float, low: float, high: float) -> NDArray[np.float64]:
    sos = scipy.signal.butter(2, [low, high], "bandpass", fs=fs, output="sos")
    padding = min(len(x) - 1, round(3 * fs / low))
    filtered: NDArray[np.float64] = scipy.signal.sosfiltfilt(sos, x, axis=0, padlen=padding)
    return filtered
