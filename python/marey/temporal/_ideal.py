"""The ideal band-pass."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import scipy.fft

from marey import _arguments, _cpu
from marey._arrays import from_numpy_like, to_numpy

__all__ = ["ideal_bandpass"]

# Projecting onto the band takes two multiply-adds a value and bin; from here on a transform is
# faster.
_MOST_PROJECTED_BINS = 64
_BLOCK_BYTES = 1 << 24


def ideal_bandpass(
    x: Any, low: float, high: float, fs: float, axis: int = 0, out: Any = None
) -> Any:
    """Keep the frequencies of a band and no others.

    What the discrete Fourier transform of `x` holds at the frequencies ``k * fs / T`` with
    ``low <= k * fs / T <= high`` is kept, and all else set to zero. The result has the sign, the
    phase and the amplitude of what `x` holds in the band. The signal is taken as periodic, as by
    any such transform: a trend shows as ringing at the ends.

    Parameters
    ----------
    x : array
        uint8, float32 or float64. Any strides; fastest where the other axes are contiguous.
    low, high : float
        The band in Hz, both ends included: ``0 <= low <= high <= fs / 2``. With ``low = 0`` the
        mean is kept.
    fs : float
        The sampling rate in Hz: frames per second as filmed.
    axis : int
        The axis that is time.
    out : array, optional
        Where to write the result: `x` itself, or an array that does not overlap it.

    Returns
    -------
    array, of the shape of `x`
        float32 for uint8, else of the type of `x`.

    Warns
    -----
    UserWarning
        If none of the frequencies that so many frames resolve is in the band: the result is zero.

    Raises
    ------
    TypeError
        If an argument is of another type than above; if `out` is of another type.
    ValueError
        If the band is not as above, or a shape does not fit.

    Notes
    -----
    A band of few bins (or of all but few) is projected out of a group of pixels in the cache by a
    matrix product, in one visit to memory; a band of more than 64 goes through `scipy.fft`, 16 MiB
    at a time.

    References
    ----------
    .. [1] H.-Y. Wu et al., "Eulerian Video Magnification for Revealing Subtle Changes in the
       World", ACM Transactions on Graphics 31(4), 2012: its temporal filter for colour.

    Examples
    --------
    >>> import marey, numpy as np
    >>> t = np.arange(60) / 30
    >>> x = 2 + np.sin(2 * np.pi * 1 * t) + np.sin(2 * np.pi * 5 * t)
    >>> y = marey.temporal.ideal_bandpass(x, 0.8, 1.2, fs=30)
    >>> bool(np.allclose(y, np.sin(2 * np.pi * t)))
    True
    """
    function = "marey.ideal_bandpass"
    fs = _arguments.positive(function, "fs", fs, "number of Hz")
    low = _arguments.number(function, "low", low, finite=False)
    high = _arguments.number(function, "high", high, finite=False)
    if not 0 <= low <= high <= fs / 2:
        raise ValueError(
            f"[{function}] low, high: expected 0 <= low <= high <= {fs / 2:g} Hz, half of fs = "
            f"{fs:g} Hz; found low = {low:g}, high = {high:g}"
        )
    source = to_numpy(function, "x", x)
    target = None if out is None else to_numpy(function, "out", out)
    axis = _arguments.axis(function, "axis", axis, source.shape)
    steps = source.shape[axis]
    first, last = bins(steps, low, high, fs)
    if steps > 0 and last < first:
        warnings.warn(
            f"[{function}] no frequency of {steps} frames at {fs:g} a second, which are "
            f"{fs / steps:g} Hz apart, is between {low:g} and {high:g} Hz: the result is zero",
            stacklevel=2,
        )
    if _cpu.ideal_bandpass_cost(steps, first, last) <= _MOST_PROJECTED_BINS:
        y = _cpu.ideal_bandpass(source, axis, first, last, target)
    else:
        # Allocates the result, or checks `out`.
        y = _cpu.ideal_bandpass_result(source, target)
        _transform(np.moveaxis(source, axis, 0), first, last, np.moveaxis(y, axis, 0))
    return from_numpy_like(x)(y) if out is None else out


def _transform(x: np.ndarray[Any, Any], first: int, last: int, y: np.ndarray[Any, Any]) -> None:
    """Write the band of x, (T, ...), to y by Fourier transforms of blocks."""
    if x.ndim == 1:
        x, y = x[:, np.newaxis], y[:, np.newaxis]
    rows = max(1, _BLOCK_BYTES // max(1, x[:, :1].size * y.itemsize))
    for begin in range(0, x.shape[1], rows):
        block = x[:, begin : begin + rows].astype(y.dtype)
        origin = block[0].copy()
        block -= origin  # as the projection does: less to round
        workers = _cpu.num_threads()
        spectrum = scipy.fft.rfft(block, axis=0, overwrite_x=True, workers=workers)
        spectrum[:first] = 0
        spectrum[last + 1 :] = 0
        result = y[:, begin : begin + rows]
        result[...] = scipy.fft.irfft(spectrum, len(x), axis=0, overwrite_x=True, workers=workers)
        if first == 0:
            result += origin


def bins(steps: int, low: float, high: float, fs: float) -> tuple[int, int]:
    """Return the first and the last bin in the band; the last before the first if there is none."""
    if steps == 0:
        return 0, -1
    frequency = np.arange(steps // 2 + 1) * fs / steps
    return int(np.searchsorted(frequency, low)), int(np.searchsorted(frequency, high, "right")) - 1
