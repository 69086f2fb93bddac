"""Finite impulse responses along time."""

from __future__ import annotations

import functools
from typing import Any, ClassVar

import numpy as np

from marey import _arguments, _cpu
from marey._arrays import from_numpy_like, kernels, to_array, to_array_like, to_numpy
from marey.temporal._stream import Array, Start, WindowStream

__all__ = ["FirFilter", "convolve", "derivative", "gaussian"]

Taps = np.ndarray[Any, np.dtype[np.float64]]


def _checked_taps(function: str, taps: Any) -> Taps:
    """Return the taps, which are few, as float64."""
    array = _arguments.reals(function, "taps", taps)
    if array.ndim != 1 or array.size == 0:
        raise ValueError(
            f"[{function}] taps: expected shape (size,) with at least one tap; found {array.shape}"
        )
    return np.ascontiguousarray(array)


def _convolve(
    function: str, x: Any, taps: Taps, axis: int, mode: str, origin: int, cval: float, out: Any
) -> Any:
    # The taps are turned round, and with them what is before and behind the centre.
    behind = (len(taps) - 1) // 2
    first = behind - len(taps) + 1
    if type(origin) is not int or not first <= origin <= behind:
        limits = f"between {first} and {behind} for {len(taps)} taps"
        origin = _arguments.integer(function, "origin", origin, first, behind, expected=limits)
    source = to_array(function, "x", x)
    y = kernels(function, source).convolve(
        function,
        source,
        _arguments.axis(function, "axis", axis, source.shape),
        taps,
        behind - origin,
        _arguments.string(function, "mode", mode),
        _arguments.number(function, "cval", cval, finite=False),
        None,
        None if out is None else to_array_like(function, "out", out, source),
    )
    return from_numpy_like(x)(y) if out is None else out


def convolve(
    x: Any,
    taps: Any,
    axis: int = 0,
    mode: str = "reflect",
    origin: int = 0,
    *,
    cval: float = 0.0,
    out: Any = None,
) -> Any:
    """Filter along one axis with a finite impulse response.

    The same as `scipy.ndimage.convolve1d` but for these: `axis` is 0 by default; float32 is
    computed in float32 (SciPy computes in float64 and rounds); and uint8 gives float32, where SciPy
    gives uint8 and lets it wrap around.

    Parameters
    ----------
    x : array
        uint8, float32 or float64. Any strides; fastest where the other axes are contiguous.
    taps : array, (size,)
        The impulse response, finite real numbers; rounded to the type of the result.
    axis : int
        The axis to filter along.
    mode : {"reflect", "nearest", "mirror", "wrap", "constant"}
        How the signal goes on beyond its ends: ``b a | a b``, ``a a | a b``, ``c b | a b``,
        ``y z | a b``, or by `cval`. SciPy's names ``grid-mirror``, ``grid-wrap`` and
        ``grid-constant`` are understood too.
    origin : int
        The tap that meets step t itself is ``size // 2 + origin``, so that a positive `origin`
        makes the result earlier.
    cval : float
        For ``mode="constant"``; for uint8 one of its values.
    out : array, optional
        Where to write the result: an array that does not overlap `x`.

    Returns
    -------
    array, of the shape of `x`
        float32 for uint8, else of the type of `x`.

    Raises
    ------
    TypeError
        If an argument is of another type than above; if `out` is of another type than the result.
    ValueError
        If `taps`, `mode`, `origin` or `cval` is not as above, or a shape does not fit.

    Notes
    -----
    Each thread holds a pointer for each step and, if the other axes are not contiguous, the steps
    of 64 series.

    Examples
    --------
    >>> import marey, numpy as np
    >>> marey.temporal.convolve(np.array([0.0, 0, 1, 0, 0]), [1, 2, 3])
    array([0., 1., 2., 3., 0.])
    """
    checked = _checked_taps("marey.convolve", taps)
    return _convolve("marey.convolve", x, checked, axis, mode, origin, cval, out)


def gaussian_taps(function: str, sigma: float, truncate: float) -> Taps:
    """Return the weights of a Gaussian of so many frames; they sum to 1."""
    number = _arguments.number(function, "sigma", sigma, 0, expected="0 or more frames")
    times = _arguments.positive(function, "truncate", truncate)
    # What is kept is small.
    make = _gaussian_taps if number * times < 1000 else _gaussian_taps.__wrapped__
    return make(number, times)


@functools.lru_cache(maxsize=8)
def _gaussian_taps(sigma: float, truncate: float) -> Taps:
    radius = int(truncate * sigma + 0.5)
    if radius == 0:
        weights = np.ones(1)
    else:
        weights = np.exp(-0.5 * (np.arange(-radius, radius + 1) / sigma) ** 2)
        weights /= weights.sum()
    weights.flags.writeable = False
    return weights


def gaussian(
    x: Any,
    sigma: float,
    axis: int = 0,
    *,
    velocity: tuple[float, float] | None = None,
    mode: str = "reflect",
    cval: float = 0.0,
    truncate: float = 4.0,
    out: Any = None,
) -> Any:
    """Smooth along time with a Gaussian, at rest or along a motion.

    Without a velocity the same as `scipy.ndimage.gaussian_filter1d`, with the differences that
    `convolve` has from its counterpart. With one, each pixel is averaged along the path of
    something that moves so: what does stays sharp, and the rest blurs, as in a panned photograph
    [1]_.

    Parameters
    ----------
    x : array
        uint8, float32 or float64. With a velocity (T, H, W) or (T, H, W, C), and time is axis 0.
    sigma : float
        The standard deviation in frames.
    axis : int
        The axis to smooth along.
    velocity : (float, float), optional
        ``(vy, vx)`` in pixels a frame: down and to the right are positive.
    mode : {"reflect", "nearest", "mirror", "wrap", "constant"}
        How time goes on beyond its ends, as for `convolve`; with a velocity not "wrap". A frame
        that stands for another one is shifted by what has moved until its own time.
    cval : float
        For ``mode="constant"``; for uint8 one of its values.
    truncate : float
        The window ends at this many standard deviations.
    out : array, optional
        Where to write the result: an array that does not overlap `x`.

    Returns
    -------
    array, of the shape of `x`
        float32 for uint8, else of the type of `x`.

    Raises
    ------
    TypeError
        If an argument is of another type than above; if `out` is of another type than the result.
    ValueError
        If a parameter is not as above, or a shape does not fit.

    Notes
    -----
    Between pixels frames are interpolated by cubic convolution [2]_, and beyond their borders they
    go on with their outermost pixels. Whole pixels are taken as they are. With a velocity, rows
    that are not contiguous are copied first, and `out` is copied to.

    References
    ----------
    .. [1] E. Adelson and J. Bergen, "Spatiotemporal energy models for the perception of motion",
       Journal of the Optical Society of America A 2(2), 1985: motion as orientation in space-time.
    .. [2] R. Keys, "Cubic Convolution Interpolation for Digital Image Processing", IEEE
       Transactions on Acoustics, Speech, and Signal Processing 29(6), 1981, with a = -1/2.

    Examples
    --------
    >>> import marey, numpy as np
    >>> video = np.zeros((9, 8, 32), np.float32)
    >>> for t in range(9):
    ...     video[t, 4, 2 + 3 * t] = 1  # a dot that moves 3 pixels a frame
    >>> round(float(marey.temporal.gaussian(video, 1)[4].max()), 2)
    0.4
    >>> round(float(marey.temporal.gaussian(video, 1, velocity=(0, 3))[4].max()), 2)
    1.0
    """
    function = "marey.gaussian"
    taps = gaussian_taps(function, sigma, truncate)
    if velocity is None:
        return _convolve(function, x, taps, axis, mode, 0, cval, out)
    moves = _arguments.items(function, "velocity", velocity, "two numbers, (vy, vx)")
    if len(moves) != 2:
        raise ValueError(
            f"[{function}] velocity: expected two numbers, (vy, vx); found {velocity!r}"
        )
    vy, vx = (_arguments.number(function, "velocity", v) for v in moves)
    mode = _arguments.string(function, "mode", mode)
    cval = _arguments.number(function, "cval", cval, finite=False)
    source = to_numpy(function, "x", x)
    axis = _arguments.integer(function, "axis", axis)
    if source.ndim not in (3, 4) or axis not in (0, -source.ndim):
        raise ValueError(
            f"[{function}] x, axis: expected (T, H, W) or (T, H, W, C) and axis 0 with a velocity; "
            f"found shape {source.shape} and axis {axis}"
        )
    row = source[:1, :1]
    if row.size > 0 and not row.flags.c_contiguous:
        source = np.ascontiguousarray(source)
    y = _cpu.trajectory_mean(source, taps.tolist(), mode, cval, vy, vx)
    if out is None:
        return from_numpy_like(x)(y)
    target = to_numpy(function, "out", out)
    if target.shape != y.shape or target.dtype != y.dtype:
        raise ValueError(
            f"[{function}] out: expected {y.dtype} of shape {y.shape}; "
            f"found {target.dtype} of shape {target.shape}"
        )
    target[...] = y
    return out


def derivative(x: Any, fs: float = 1.0, axis: int = 0, out: Any = None) -> Any:
    """Differentiate along time by central differences.

    ``y[t] = fs * (x[t + 1] - x[t - 1]) / 2``, and at the two ends the difference of the last two
    values: the same as `numpy.gradient` with a spacing of ``1 / fs``.

    Parameters
    ----------
    x : array
        uint8, float32 or float64, at least two steps long.
    fs : float
        The sampling rate in Hz: the result is a change per second. 1 gives the change per frame.
    axis : int
        The axis that is time.
    out : array, optional
        Where to write the result: an array that does not overlap `x`.

    Returns
    -------
    array, of the shape of `x`
        float32 for uint8, else of the type of `x`.

    Raises
    ------
    TypeError
        If an argument is of another type than above; if `out` is of another type than the result.
    ValueError
        If `x` is shorter than two steps, `fs` is not positive, or a shape does not fit.

    Examples
    --------
    >>> import marey, numpy as np
    >>> marey.temporal.derivative(np.array([0.0, 1, 4, 9, 16]))
    array([1., 2., 4., 6., 7.])
    """
    function = "marey.derivative"
    fs = _arguments.positive(function, "fs", fs, "number of Hz")
    source = to_numpy(function, "x", x)
    axis = _arguments.axis(function, "axis", axis, source.shape)
    target = None if out is None else to_numpy(function, "out", out)
    y = _cpu.derivative(source, axis, fs, target)
    return from_numpy_like(x)(y) if out is None else out


class FirFilter(WindowStream):
    """A finite impulse response for streams: call it chunk by chunk.

    ``y[t] = taps[0] x[t] + taps[1] x[t - 1] + ...``: each frame needs only what came before it.
    Taps that are symmetric, as a Gaussian's, delay by ``(size - 1) / 2`` frames. Any chunking gives
    the result of one call. Not for several threads at once.

    Parameters
    ----------
    taps : array, (size,)
        The impulse response, finite real numbers; rounded to the type of the result.
    axis : int
        The axis that is time.
    start : {"rest", "first"}
        What there was before the first frame: zeros, or the first frame for ever.

    Attributes
    ----------
    state : array or None
        The last ``size - 1`` frames, as they came; None before the first one. Save it, and assign
        it to continue.

    Examples
    --------
    >>> import marey, numpy as np
    >>> video = np.random.default_rng(0).random((30, 4, 5), dtype=np.float32)
    >>> stream = marey.temporal.FirFilter([0.25, 0.5, 0.25])
    >>> chunks = [stream(video[:7]), stream(video[7:])]
    >>> delayed = marey.temporal.convolve(video, [0.25, 0.5, 0.25], mode="constant")[:-1]
    >>> bool(np.all(np.concatenate(chunks)[1:] == delayed))
    True
    """

    _name: ClassVar[str] = "marey.FirFilter"

    def __init__(self, taps: Any, axis: int = 0, start: Start = "rest") -> None:
        self.taps = _checked_taps(self._name, taps).copy()
        super().__init__(len(self.taps), axis, start)

    def _filter(self, x: Array, state: Array, out: Array | None) -> Array:
        before = len(self.taps) - 1
        return kernels(self._name, x).convolve(
            self._name, x, self.axis, self.taps, before, "nearest", 0.0, state, out
        )
