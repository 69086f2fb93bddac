"""The heart rate from mean colours, as published."""

from collections.abc import Sequence

import numpy as np
import scipy.signal
from numpy.typing import ArrayLike, NDArray

__all__ = ["bpm", "chrom", "combine", "estimate", "green", "patch_means", "pos", "skin", "snr_db"]


def estimate(
    video: ArrayLike,
    fs: float = 1.0,
    *,
    times: ArrayLike | None = None,
    method: str = "pos",
    roi: str | None = None,
    low_bpm: float = 42.0,
    high_bpm: float = 240.0,
) -> tuple[float, float]:
    """The heart rate in beats a minute, and its signal-to-noise ratio in dB.

    Of the whole frame (`roi` is "frame"), or of a grid of patches of which those that are
    skin-coloured on average count (`roi` is None; all of them, if none is).
    """
    frames = np.asarray(video)
    t, height, width, _ = frames.shape
    levels = frames if frames.dtype == np.uint8 else 255.0 * frames
    filmed = np.asarray(np.arange(t) / fs if times is None else times, np.float64)
    rate = 1 / float(np.median(np.diff(filmed)))
    low, high = low_bpm / 60, min(high_bpm / 60, 0.45 * rate)

    size = max(8, min(height, width) // 16)
    rows, columns = (
        [round(k * n / max(1, n // size)) for k in range(max(1, n // size) + 1)]
        if roi is None
        else [0, n]
        for n in (height, width)
    )
    means = patch_means(levels, rows, columns).reshape(t, -1, 3)
    even = filmed[0] + np.arange(int((filmed[-1] - filmed[0]) * rate + 1e-6) + 1) / rate
    patches = [
        np.stack([np.interp(even, filmed, channel) for channel in patch.T], axis=1)
        for patch in means.transpose(1, 0, 2)
    ]
    if roi is None:
        patches = [p for p in patches if skin(p.mean(axis=0))] or patches

    outer = 0.8 * low, min(1.2 * high, 0.49 * rate)
    waves = {
        "pos": lambda trace: pos(trace, rate),
        "chrom": lambda trace: chrom(trace, rate, *outer),
        "green": lambda trace: green(trace, rate),
    }
    signals = np.stack([_bandpass(waves[method](p), rate, *outer) for p in patches], axis=1)
    signal = signals @ combine(signals)
    found = bpm(signal, rate, low, high)
    return found, snr_db(signal, rate, found, low, high)


def skin(colour: ArrayLike) -> bool:
    """Whether a colour (R, G, B) in levels of 255 is one of skin (Chai and Ngan 1999)."""
    red, green, blue = np.asarray(colour, np.float64)
    cb = 128 + (-37.797 * red - 74.203 * green + 112 * blue) / 255
    cr = 128 + (112 * red - 93.786 * green - 18.214 * blue) / 255
    luma = 0.299 * red + 0.587 * green + 0.114 * blue
    neither_black_nor_clipped = luma > 25 and max(red, green, blue) < 252
    return bool(neither_black_nor_clipped and 77 <= cb <= 127 and 133 <= cr <= 173)


def combine(signals: ArrayLike) -> NDArray[np.float64]:
    """Weights, of sum 1, for the signals (T, P) of P patches.

    What the other patches say is taken for the truth s, and a patch for a s + noise: its weight is
    a / var(noise), none if a < 0. Three rounds, from 1 / var(patch).
    """
    x = np.asarray(signals, np.float64)
    weights = 1 / np.mean(x**2, axis=0)
    weights /= weights.sum()
    for _ in range(3 if x.shape[1] > 2 else 0):
        better = np.empty_like(weights)
        for k in range(x.shape[1]):
            truth = np.delete(x, k, axis=1) @ np.delete(weights, k)
            a = (x[:, k] @ truth) / (truth @ truth)
            better[k] = max(a, 0) / np.mean((x[:, k] - a * truth) ** 2)
        weights = better / better.sum()
    result: NDArray[np.float64] = weights
    return result


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


def snr_db(signal: ArrayLike, fs: float, bpm: float, low: float, high: float) -> float:
    """Power near the rate and near twice the rate, over the rest of the band, in dB.

    De Haan and Jeanne (2013). Near is 0.1 Hz to either side, or half the width of the window's main
    lobe, if that is more.
    """
    x = np.asarray(signal, np.float64)
    power = np.abs(np.fft.rfft((x - x.mean()) * np.hanning(len(x)), 32 * len(x))) ** 2
    frequency = np.arange(len(power)) * fs / (32 * len(x))
    width = max(0.1, 1.5 * fs / len(x))
    near = np.minimum(abs(frequency - bpm / 60), abs(frequency - bpm / 30)) <= width
    band = (frequency >= low) & (frequency <= high)
    return float(10 * np.log10(power[band & near].sum() / power[band & ~near].sum()))


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
