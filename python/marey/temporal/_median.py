"""Medians along time."""

from __future__ import annotations

from typing import Any, ClassVar

from marey import _arguments
from marey._arrays import from_numpy_like, kernels, to_array, to_array_like
from marey.temporal._stream import Array, Start, WindowStream

__all__ = ["MedianFilter", "median", "median_filter"]

_LONGEST_WINDOW = 1_000_000


def median_filter(
    x: Any,
    size: int,
    axis: int = 0,
    mode: str = "reflect",
    origin: int = 0,
    *,
    cval: float = 0.0,
    out: Any = None,
) -> Any:
    """Take the median of a window that slides along one axis.

    The same as `scipy.ndimage.median_filter` along one axis, with `axis` 0 by default. As there, of
    an even number of values the upper of the middle two is taken. What is not defined there: a
    window that holds a NaN gives NaN.

    Parameters
    ----------
    x : array
        uint8, float32 or float64. Any strides; fastest where the other axes are contiguous.
    size : int
        The window's length, 1 to a million.
    axis : int
        The axis to filter along.
    mode : {"reflect", "nearest", "mirror", "wrap", "constant"}
        How the signal goes on beyond its ends: ``b a | a b``, ``a a | a b``, ``c b | a b``,
        ``y z | a b``, or by `cval`. SciPy's names ``grid-mirror``, ``grid-wrap`` and
        ``grid-constant`` are understood too.
    origin : int
        The window of step t starts at ``t - size // 2 - origin``; it must hold step t.
    cval : float
        For ``mode="constant"``; for uint8 one of its values.
    out : array, optional
        Where to write the result: an array that does not overlap `x`.

    Returns
    -------
    array, of the shape and the type of `x`

    Raises
    ------
    TypeError
        If an argument is of another type than above; if `out` is of another type.
    ValueError
        If `size`, `mode`, `origin` or `cval` is not as above, or a shape does not fit.

    Notes
    -----
    Windows up to 15 are sorted by a network, larger ones are kept sorted from step to step: the
    time grows with `size`, and not with ``size * log(size)``. Each thread holds at most 256 bytes
    for each place of the window, and a pointer for each step.

    Examples
    --------
    >>> import marey, numpy as np
    >>> video = np.zeros((9, 4, 5), np.uint8)
    >>> video[4] = 255  # a flash
    >>> int(marey.temporal.median_filter(video, 3).max())
    0
    """
    function = "marey.median_filter"
    size = _arguments.integer(function, "size", size, 1, _LONGEST_WINDOW)
    source = to_array(function, "x", x)
    before = size // 2
    y = kernels(function, source).median_filter(
        function,
        source,
        _arguments.axis(function, "axis", axis, source.shape),
        size,
        before + _arguments.integer(function, "origin", origin, -before, size - 1 - before),
        _arguments.string(function, "mode", mode),
        _arguments.number(function, "cval", cval, finite=False),
        None,
        None if out is None else to_array_like(function, "out", out, source),
    )
    return from_numpy_like(x)(y) if out is None else out


def median(x: Any, axis: int = 0, out: Any = None) -> Any:
    """Take the median over all of one axis.

    The same as `numpy.median`, with `axis` 0 by default: of an even number of values the mean of
    the middle two; NaN where any value is NaN.

    Parameters
    ----------
    x : array
        uint8, float32 or float64, at least one step long. Any strides; fastest where the other axes
        are contiguous.
    axis : int
        The axis to take the median over.
    out : array, optional
        Where to write the result: an array that does not overlap `x`.

    Returns
    -------
    array, of the shape of `x` without `axis`
        float32 for uint8 (where it is exact: a multiple of one half), else of the type of `x`.

    Raises
    ------
    TypeError
        If an argument is of another type than above; if `out` is of another type.
    ValueError
        If there is no step, or `axis` or `out` does not fit.

    Notes
    -----
    uint8 is counted: eight passes over a group of pixels in the cache. Floats are sorted by a
    network, or counted bit by bit if there are many. Each thread holds the steps of at least 64
    pixels.

    Examples
    --------
    >>> import marey, numpy as np
    >>> marey.temporal.median(np.array([[1, 7], [2, 8], [9, 9], [4, 8]], np.uint8))
    array([3., 8.], dtype=float32)
    """
    function = "marey.median"
    source = to_array(function, "x", x)
    y = kernels(function, source).median(
        source,
        _arguments.axis(function, "axis", axis, source.shape),
        None if out is None else to_array_like(function, "out", out, source),
    )
    return from_numpy_like(x)(y) if out is None else out


class MedianFilter(WindowStream):
    """A sliding median for streams: call it chunk by chunk.

    Each frame becomes the median of itself and the ``size - 1`` frames before it, so that with an
    odd size it lags by ``size // 2`` frames. Any chunking gives the result of one call. Not for
    several threads at once.

    Parameters
    ----------
    size : int
        The window's length, 1 to a million.
    axis : int
        The axis that is time.
    start : {"first", "rest"}
        What there was before the first frame: the first frame for ever, or zeros.

    Attributes
    ----------
    state : array or None
        The last ``size - 1`` frames; None before the first one. Save it, and assign it to continue.

    Notes
    -----
    A window longer than 15 is sorted anew for each chunk, which takes about as long as `size`
    frames: feed chunks of at least as many if it must be fast.

    Examples
    --------
    >>> import marey, numpy as np
    >>> video = np.random.default_rng(0).integers(0, 256, (30, 4, 5), np.uint8)
    >>> stream = marey.temporal.MedianFilter(5)
    >>> chunks = [stream(video[:7]), stream(video[7:])]
    >>> bool(np.all(np.concatenate(chunks) == marey.temporal.MedianFilter(5)(video)))
    True
    """

    _name: ClassVar[str] = "marey.MedianFilter"

    def __init__(self, size: int, axis: int = 0, start: Start = "first") -> None:
        self.size = _arguments.integer(self._name, "size", size, 1, _LONGEST_WINDOW)
        super().__init__(self.size, axis, start)

    def _filter(self, x: Array, state: Array, out: Array | None) -> Array:
        return kernels(self._name, x).median_filter(
            self._name, x, self.axis, self.size, self.size - 1, "nearest", 0.0, state, out
        )
