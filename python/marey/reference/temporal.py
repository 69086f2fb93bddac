"""Recursive filters along time, as second-order sections."""

from typing import Any

import numpy as np
import scipy.signal
from numpy.typing import ArrayLike, DTypeLike, NDArray

__all__ = ["butter_bandpass", "sosfilt"]


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
