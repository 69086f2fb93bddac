"""Recursive filters along time, as second-order sections."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import scipy.signal

from marey import _arguments, _cpu
from marey._arrays import from_numpy_like, kernels, plain, to_array, to_array_like, zeros_like
from marey.temporal._stream import check_chunk, check_dtype

__all__ = ["SosFilter", "butter_bandpass", "sosfilt", "sosfiltfilt"]

_NAME = "marey.SosFilter"
_MOST_AXES = 15


def butter_bandpass(
    low: float, high: float, fs: float, order: int = 1
) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Design a Butterworth band-pass filter as second-order sections.

    The design is `scipy.signal.butter`'s.

    Parameters
    ----------
    low, high : float
        The cut-off frequencies in Hz (where the gain is -3 dB), ``0 < low < high < fs / 2``.
    fs : float
        The sampling rate in Hz: frames per second as filmed.
    order : int
        The order of the low-pass prototype: the band-pass has `order` sections.

    Returns
    -------
    array, (order, 6), float64
        Rows ``b0 b1 b2 a0 a1 a2``.

    Raises
    ------
    TypeError
        If an argument is not a number, or `order` is not an integer.
    ValueError
        If the band is empty or not inside ``(0, fs / 2)``, or `order` is less than 1.

    Examples
    --------
    >>> import marey
    >>> marey.temporal.butter_bandpass(0.4, 3, fs=30).shape
    (1, 6)
    """
    return band_sections("marey.butter_bandpass", low, high, fs, order)


def band_sections(
    function: str, low: Any, high: Any, fs: Any, order: Any
) -> np.ndarray[Any, np.dtype[np.float64]]:
    """`butter_bandpass` for `function`, which the errors name."""
    fs = _arguments.positive(function, "fs", fs, "number of Hz")
    low = _arguments.number(function, "low", low, finite=False)
    high = _arguments.number(function, "high", high, finite=False)
    if not 0 < low < high < fs / 2:
        raise ValueError(
            f"[{function}] low, high: expected 0 < low < high < {fs / 2:g} Hz, half of "
            f"fs = {fs:g} Hz; found low = {low:g}, high = {high:g}"
        )
    order = _arguments.integer(function, "order", order, 1)
    sos = scipy.signal.butter(order, [low, high], btype="bandpass", fs=fs, output="sos")
    return np.asarray(sos, np.float64)


def sections_of(function: str, sos: Any) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Return the coefficients, which are few, as float64."""
    array = _arguments.reals(function, "sos", sos)
    if array.ndim != 2 or array.shape[0] < 1 or array.shape[1] != 6:
        raise ValueError(
            f"[{function}] sos: expected shape (sections, 6) with at least one section; "
            f"found {array.shape}"
        )
    return array


def extension(sos: Any, padtype: str | None, padlen: Any) -> Any:
    """Return by how many values `sosfiltfilt` extends, for sections in an array or a tensor."""
    if padtype is None:
        return 0
    if padlen is not None:
        return padlen
    first_order = (sos[:, [2, 5]] == 0).sum(0).min()
    return 3 * (2 * len(sos) + 1 - int(first_order))


def _signal(function: str, x: Any) -> Any:
    """Return `x`, which a state has one axis more than."""
    source = to_array(function, "x", x)
    if source.ndim > _MOST_AXES:
        raise ValueError(f"[{function}] x: expected at most {_MOST_AXES} axes; found {source.ndim}")
    return source


def sosfilt(sos: Any, x: Any, axis: int = 0, zi: Any = None, out: Any = None) -> Any:
    """Filter along one axis with cascaded second-order sections.

    The same as `scipy.signal.sosfilt` but for three things: `axis` is 0 by default, float32 stays
    float32 (coefficients are always float64 and rounded to the type of the computation), and the
    result can be written to `out`, which may be `x` itself. All sections run in one pass over
    memory.

    Parameters
    ----------
    sos : array, (sections, 6)
        Rows ``b0 b1 b2 a0 a1 a2`` with ``a0 = 1``.
    x : array
        uint8, float32 or float64. Any strides; fastest where the other axes are contiguous, as in a
        C-ordered video filtered along its first axis.
    axis : int
        The axis to filter along.
    zi : array, optional
        The state to start from, as in SciPy: the shape of `x` with `axis` of length 2, behind a
        first axis for the sections; of the type of the result. Rest if not given.
    out : array, optional
        Where to write the result: `x` itself, or an array that does not overlap it.

    Returns
    -------
    y : array, of the shape of `x`
        float32 for uint8, else of the type of `x`.
    zf : array
        Only if `zi` is given: the state to continue with.

    Raises
    ------
    TypeError
        If an argument is of another type than above; if `zi` or `out` are of another type than `y`.
    ValueError
        If `sos` is not finite, not normalised to ``a0 = 1``, `x` has more than 15 axes, or a shape
        does not fit.

    References
    ----------
    .. [1] A. Oppenheim and R. Schafer, "Discrete-Time Signal Processing", section 6.3: direct form
       II transposed.

    Examples
    --------
    >>> import marey, numpy as np
    >>> video = np.random.default_rng(0).random((30, 4, 5, 3), dtype=np.float32)
    >>> sos = marey.temporal.butter_bandpass(0.4, 3, fs=30)
    >>> marey.temporal.sosfilt(sos, video).dtype
    dtype('float32')
    """
    coefficients = sections_of("marey.sosfilt", sos)
    source = _signal("marey.sosfilt", x)
    axis = _arguments.axis("marey.sosfilt", "axis", axis, source.shape)
    target = None if out is None else to_array_like("marey.sosfilt", "out", out, source)
    convert = from_numpy_like(x)
    compute = kernels("marey.sosfilt", source).sosfilt
    if zi is None:
        y = compute(coefficients, source, axis, None, target, None)
        return convert(y) if out is None else out
    state = to_array_like("marey.sosfilt", "zi", zi, source)
    y, zf = compute(coefficients, source, axis, state, target, None)
    return (convert(y) if out is None else out), convert(zf)


def sosfiltfilt(
    sos: Any,
    x: Any,
    axis: int = 0,
    padtype: Literal["odd", "even", "constant"] | None = "odd",
    padlen: int | None = None,
    out: Any = None,
) -> Any:
    """Filter forward and then backward along one axis, so that nothing is delayed.

    The gain is the square of the filter's. The same as `scipy.signal.sosfiltfilt` but for these:
    `axis` is 0 by default; float32 stays float32; uint8 is extended as numbers (SciPy's odd
    extension of uint8 wraps around at 256); and the result can be written to `out`, which may
    be `x` itself. Both passes over a group of pixels run in the cache, so that the video is read
    and written once.

    Parameters
    ----------
    sos : array, (sections, 6)
        As for `sosfilt`, with a finite gain at 0 Hz.
    x : array
        uint8, float32 or float64. Any strides; fastest where the other axes are contiguous, as in a
        C-ordered video filtered along its first axis.
    axis : int
        The axis to filter along.
    padtype : {"odd", "even", "constant"} or None
        How the signal is extended at both ends: reflected about its end point, reflected about the
        end's time, by its end value, or not at all.
    padlen : int, optional
        By how many values; less than `x` has along `axis`. Default as in SciPy:
        ``3 * (2 * sections + 1)``, less 3 for each section of first order.
    out : array, optional
        Where to write the result: `x` itself, or an array that does not overlap it.

    Returns
    -------
    array, of the shape of `x`
        float32 for uint8, else of the type of `x`.

    Raises
    ------
    TypeError
        If an argument is of another type than above; if `out` is of another type than the result.
    ValueError
        If `sos` is not as `sosfilt` needs it or has a pole at frequency 0, `x` is not longer than
        `padlen`, or a shape does not fit.

    Notes
    -----
    Each thread holds the extended series of at least 64 pixels: 64 * (T + 2 * padlen) values.

    References
    ----------
    .. [1] F. Gustafsson, "Determining the initial states in forward-backward filtering", IEEE
       Transactions on Signal Processing 44(4), 1996.

    Examples
    --------
    >>> import marey, numpy as np
    >>> x = np.sin(2 * np.pi * 1.1 * np.arange(300) / 30)
    >>> sos = marey.temporal.butter_bandpass(0.4, 3, fs=30)
    >>> y = marey.temporal.sosfiltfilt(sos, x)
    >>> bool(np.abs(y - x)[100:200].max() < 0.01)
    True
    """
    function = "marey.sosfiltfilt"
    coefficients = sections_of(function, sos)
    source = to_array(function, "x", x)
    axis = _arguments.axis(function, "axis", axis, source.shape)
    _arguments.one_of(function, "padtype", padtype, ("odd", "even", "constant", None))
    zi = _cpu.sosfilt_zi(function, coefficients)
    y = kernels(function, source).sosfiltfilt(
        coefficients,
        source,
        axis,
        padtype or "constant",
        _arguments.integer(function, "padlen", extension(coefficients, padtype, padlen), 0),
        zi,
        None if out is None else to_array_like(function, "out", out, source),
    )
    return from_numpy_like(x)(y) if out is None else out


class SosFilter:
    """A filter for streams: call it chunk by chunk.

    Any chunking gives the result of one call. Not for several threads at once.

    Parameters
    ----------
    sos : array, (sections, 6)
        As for `sosfilt`.
    axis : int
        The axis that is time.

    Attributes
    ----------
    state : array or None
        What `sosfilt` calls ``zf``; None before the first chunk. Save it, and assign it to
        continue.

    Examples
    --------
    >>> import marey, numpy as np
    >>> video = np.random.default_rng(0).random((30, 4, 5), dtype=np.float32)
    >>> sos = marey.temporal.butter_bandpass(0.4, 3, fs=30)
    >>> stream = marey.temporal.SosFilter(sos)
    >>> chunks = [stream(video[:7]), stream(video[7:])]
    >>> bool(np.all(np.concatenate(chunks) == marey.temporal.sosfilt(sos, video)))
    True
    """

    def __init__(self, sos: Any, axis: int = 0) -> None:
        self.sos = sections_of(_NAME, sos).copy()
        self.axis = _arguments.integer(_NAME, "axis", axis)
        self._state: Any = None  # as `to_array` gives it

    def __call__(self, x: Any, out: Any = None) -> Any:
        """Filter the next chunk.

        Parameters
        ----------
        x : array
            As for `sosfilt`: every chunk of the same type and of the same shape but for the length
            of the time axis.
        out : array, optional
            Where to write the result; may be `x`.

        Returns
        -------
        array, of the shape of `x`

        Raises
        ------
        TypeError, ValueError
            If `x` is of another type or shape than the chunks so far, or `out` does not fit. The
            state is then what it was before the call.
        """
        source = _signal(_NAME, x)
        if self._state is None:
            state = self._rest(source)
        else:
            state = self._state
            double = state.dtype == np.float64
            dtypes = (np.float64,) if double else (np.uint8, np.float32)
            check_chunk(_NAME, source, self.axis, state.shape[1:], dtypes)
        target = None if out is None else to_array_like(_NAME, "out", out, source)
        compute = kernels(_NAME, source).sosfilt
        y, zf = compute(self.sos, source, self.axis, state, target, None)
        self._state = to_array(_NAME, "state", zf)
        return from_numpy_like(x)(y) if out is None else out

    def _rest(self, x: Any) -> Any:
        shape = list(x.shape)
        _arguments.axis(_NAME, "axis", self.axis, x.shape)
        shape[self.axis] = 2
        dtype = np.dtype(np.float64 if x.dtype == np.float64 else np.float32)
        return zeros_like(x, (len(self.sos), *shape), dtype)

    @property
    def state(self) -> Any:
        """The state to continue with (a copy), or None before the first chunk."""
        return None if self._state is None else plain(self._state.copy())

    @state.setter
    def state(self, value: Any) -> None:
        if value is None:
            self._state = None
            return
        state = to_array(_NAME, "state", value)
        check_dtype(_NAME, "state", state, (np.float32, np.float64))
        shape = state.shape[1:]
        fits = -len(shape) <= self.axis < len(shape) and shape[self.axis] == 2
        if not fits or state.shape[0] != len(self.sos):
            raise ValueError(
                f"[{_NAME}] state: expected {len(self.sos)} section(s), and behind that axis 2 "
                f"values along axis {self.axis}; found shape {state.shape}"
            )
        self._state = state.copy()

    def reset(self) -> None:
        """Forget all chunks: the next one starts from rest."""
        self._state = None
