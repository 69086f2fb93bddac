"""Filters along time: recursive, ideal, finite, median."""

from typing import Any

import numpy as np
import scipy.signal
from numpy.typing import ArrayLike, DTypeLike, NDArray

__all__ = [
    "butter_bandpass",
    "convolve",
    "derivative",
    "gaussian",
    "ideal_bandpass",
    "median",
    "median_filter",
    "sosfilt",
    "sosfiltfilt",
]


def butter_bandpass(low: float, high: float, fs: float, order: int = 1) -> NDArray[np.float64]:
    """Design a Butterworth band-pass: -3 dB at `low` and `high` Hz, for `fs` samples a second."""
    sos: NDArray[np.float64] = scipy.signal.butter(
        order, [low, high], "bandpass", fs=fs, output="sos"
    )
    return sos


def sosfilt(
    sos: ArrayLike,
    x: ArrayLike,
    axis: int = 0,
    zi: ArrayLike | None = None,
    *,
    dtype: DTypeLike = np.float64,
) -> Any:
    """Filter along one axis, one section after the other, in direct form II transposed.

    For each section, with its state s = (s0, s1)::

        y[t] = b0 x[t] + s0
        s0   = b1 x[t] - a1 y[t] + s1
        s1   = b2 x[t] - a2 y[t]

    Parameters
    ----------
    sos : array_like, (n_sections, 6)
        Rows b0, b1, b2, 1, a1, a2.
    x : array_like
        The signals.
    axis : int
        Time.
    zi : array_like, optional
        The state before the first sample, shaped (n_sections, ...) with 2 in place of `x`'s length
        along `axis`. Default zeros.
    dtype : dtype
        What to compute in.

    Returns
    -------
    ndarray, or (ndarray, ndarray) if `zi` is given
        The filtered signals, and the state after the last sample.
    """
    x = np.asarray(x)
    axis %= x.ndim
    y = np.moveaxis(x.astype(dtype), axis, 0)
    if zi is None:
        state = np.zeros((len(np.asarray(sos)), 2, *y.shape[1:]), dtype)
    else:
        state = np.moveaxis(np.array(zi, dtype), axis + 1, 1)
    for (b0, b1, b2, _, a1, a2), s in zip(np.asarray(sos, dtype), state, strict=True):
        for t in range(len(y)):
            u = y[t].copy()
            y[t] = b0 * u + s[0]
            s[0] = b1 * u - a1 * y[t] + s[1]
            s[1] = b2 * u - a2 * y[t]
    y = np.moveaxis(y, 0, axis)
    return y if zi is None else (y, np.moveaxis(state, 1, axis + 1))


def sosfiltfilt(
    sos: ArrayLike,
    x: ArrayLike,
    axis: int = 0,
    padtype: str | None = "odd",
    padlen: int | None = None,
    *,
    dtype: DTypeLike = np.float64,
) -> Any:
    """Filter forward and then backward, each time from the steady state of the first value.

    The signal is first extended by `padlen` values at both ends: reflected about the end point
    ("odd"), about the end's time ("even"), or by the end value ("constant").
    """
    rows = np.asarray(sos, np.float64)
    x = np.moveaxis(np.asarray(x).astype(dtype), axis, 0)
    n = padlen
    if n is None:
        n = 3 * (2 * len(rows) + 1 - min((rows[:, 2] == 0).sum(), (rows[:, 5] == 0).sum()))
    if padtype is None:
        n = 0
    left, right = x[n:0:-1], x[-2 : -n - 2 : -1]
    if padtype == "odd":
        left, right = 2 * x[0] - left, 2 * x[-1] - right
    if padtype == "constant":
        left, right = np.broadcast_to(x[0], left.shape), np.broadcast_to(x[-1], right.shape)
    y = np.concatenate([left, x, right])
    zi = scipy.signal.sosfilt_zi(rows).astype(dtype)[(..., *[None] * (x.ndim - 1))]
    for _ in range(2):
        y = sosfilt(rows, y, 0, zi * y[0], dtype=dtype)[0][::-1]
    return np.moveaxis(y[n : len(y) - n], 0, axis)


def ideal_bandpass(
    x: ArrayLike,
    low: float,
    high: float,
    fs: float,
    axis: int = 0,
    *,
    dtype: DTypeLike = np.float64,
) -> NDArray[Any]:
    """Keep the bins k of the discrete Fourier transform with low <= k fs / T <= high."""
    x = np.moveaxis(np.asarray(x).astype(dtype), axis, 0)
    number = x.dtype.type
    steps = len(x)
    t = np.arange(steps)
    # Sums over frames, as numpy.fft does not compute in long double.
    angle = 2 * np.arccos(number(-1)) * t.astype(dtype) / number(max(1, steps))
    cos, sin = np.cos(angle), np.sin(angle)
    y = np.zeros_like(x)
    for k in range(steps // 2 + 1):
        if steps == 0 or not low <= k * fs / steps <= high:
            continue
        gain = number(1 if k in (0, steps / 2) else 2) / number(steps)
        for wave in (cos[k * t % steps], sin[k * t % steps]):
            y += gain * np.multiply.outer(wave, np.tensordot(wave, x, 1))
    return np.moveaxis(y, 0, axis)


def _source_step(i: int, n: int, mode: str) -> int:
    """Return the step that stands for step i of n; -1 for `cval`."""
    if 0 <= i < n:
        return i
    if mode == "constant":
        return -1
    if mode == "nearest":
        return min(max(i, 0), n - 1)
    if mode == "wrap":
        return i % n
    if mode == "reflect":
        return min(i % (2 * n), 2 * n - 1 - i % (2 * n))
    if mode == "mirror":
        period = max(1, 2 * n - 2)
        return min(i % period, period - i % period)
    raise ValueError(mode)


def _windows(x: NDArray[Any], size: int, before: int, mode: str, cval: float) -> NDArray[Any]:
    """Return an array (size, T, ...): entry [j, t] is step t - before + j of x, (T, ...)."""
    constant = np.full(x.shape[1:], cval, x.dtype)
    steps = range(-before, len(x) + size - 1 - before)
    sources = [_source_step(i, len(x), mode) if len(x) else -1 for i in steps]
    extended = np.empty((len(sources), *x.shape[1:]), x.dtype)
    for i, s in enumerate(sources):
        extended[i] = constant if s < 0 else x[s]
    return np.stack([extended[j : j + len(x)] for j in range(size)])


def convolve(
    x: ArrayLike,
    taps: ArrayLike,
    axis: int = 0,
    mode: str = "reflect",
    origin: int = 0,
    *,
    cval: float = 0.0,
    dtype: DTypeLike = np.float64,
) -> NDArray[Any]:
    """Filter with a finite impulse response, ``y[t] = sum over j of taps[j] x[t + centre - j]``.

    The centre is ``size // 2 + origin``.
    """
    x = np.moveaxis(np.asarray(x).astype(dtype), axis, 0)
    weights = np.asarray(taps, dtype)[::-1]
    before = len(weights) - 1 - (len(weights) // 2 + origin)
    y = np.zeros_like(x)
    for weight, at in zip(weights, _windows(x, len(weights), before, mode, cval), strict=True):
        y += weight * at
    return np.moveaxis(y, 0, axis)


def _gaussian_taps(sigma: float, truncate: float) -> NDArray[np.float64]:
    radius = int(truncate * sigma + 0.5)
    t = np.arange(-radius, radius + 1)
    weights: NDArray[np.float64] = np.exp(-0.5 * (t / max(sigma, 1e-300)) ** 2)
    weights /= weights.sum()
    return weights


def _shifted(frame: NDArray[Any], shift: float, axis: int) -> NDArray[Any]:
    """Return frame[i + shift] along an axis, by cubic convolution (Keys 1981, a = -1/2)."""
    at = np.arange(frame.shape[axis]) + shift
    whole = np.floor(at).astype(np.int64)
    f = (at - whole)[0]
    kernel = (
        ((-0.5 * f + 1) * f - 0.5) * f,
        (1.5 * f - 2.5) * f * f + 1,
        ((-1.5 * f + 2) * f + 0.5) * f,
        (0.5 * f - 0.5) * f * f,
    )
    result = np.zeros_like(frame)
    for b, weight in enumerate(kernel):
        inside = np.clip(whole - 1 + b, 0, frame.shape[axis] - 1)
        result += frame.dtype.type(weight) * frame.take(inside, axis)
    return result


def gaussian(
    x: ArrayLike,
    sigma: float,
    axis: int = 0,
    *,
    velocity: tuple[float, float] | None = None,
    mode: str = "reflect",
    cval: float = 0.0,
    truncate: float = 4.0,
    dtype: DTypeLike = np.float64,
) -> NDArray[Any]:
    """Smooth along time with a Gaussian, at rest or along the path of what moves with a velocity.

    With a velocity ``y[t, p] = sum over s of g[s - t] x[s, p + velocity * (s - t)]`` for pixels p.
    """
    taps = _gaussian_taps(sigma, truncate)
    if velocity is None:
        return convolve(x, taps, axis, mode, cval=cval, dtype=dtype)
    x = np.asarray(x).astype(dtype)
    y = np.zeros_like(x)
    for t in range(len(x)):
        for j, weight in enumerate(taps):
            s = _source_step(t - len(taps) // 2 + j, len(x), mode)
            if s < 0:
                y[t] += x.dtype.type(weight * cval)
                continue
            moved = _shifted(x[s], velocity[0] * (s - t), 0)
            y[t] += x.dtype.type(weight) * _shifted(moved, velocity[1] * (s - t), 1)
    return y


def derivative(
    x: ArrayLike, fs: float = 1.0, axis: int = 0, *, dtype: DTypeLike = np.float64
) -> NDArray[Any]:
    """Differentiate by central differences, and by one-sided ones at the two ends."""
    x = np.moveaxis(np.asarray(x).astype(dtype), axis, 0)
    y = np.empty_like(x)
    half = x.dtype.type(fs / 2)
    y[1:-1] = half * (x[2:] - x[:-2])
    y[0] = 2 * half * (x[1] - x[0])
    y[-1] = 2 * half * (x[-1] - x[-2])
    return np.moveaxis(y, 0, axis)


def median_filter(
    x: ArrayLike,
    size: int,
    axis: int = 0,
    mode: str = "reflect",
    origin: int = 0,
    *,
    cval: float = 0.0,
) -> NDArray[Any]:
    """Take the value at index size // 2 of each sorted window; NaN where the window holds one."""
    x = np.moveaxis(np.asarray(x), axis, 0)
    windows = _windows(x, size, size // 2 + origin, mode, cval)
    y = np.sort(windows, axis=0)[size // 2]
    if x.dtype.kind == "f":
        y = np.where(np.isnan(windows).any(axis=0), x.dtype.type(np.nan), y)
    return np.moveaxis(y, 0, axis)


def median(x: ArrayLike, axis: int = 0) -> NDArray[Any]:
    """Take the median over all of an axis."""
    return np.asarray(np.median(np.asarray(x), axis=axis))
