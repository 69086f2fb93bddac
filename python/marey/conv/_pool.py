"""Pooling: the maximum or the mean of each window."""

from __future__ import annotations

from typing import Any

from marey import _arguments, _cpu
from marey._arrays import from_numpy_like, to_numpy
from marey.conv._options import LAYOUTS, Layout, Numbers, Padding, pairs, triple


def _pool(
    function: str,
    x: Any,
    average: bool,
    kernel: Any,
    stride: Any,
    padding: Any,
    dilation: Any,
    ceil_mode: Any,
    count_include_pad: Any,
    layout: Any,
    out: Any,
) -> Any:
    window = triple(function, "kernel", kernel, 1)
    steps = window if stride is None else triple(function, "stride", stride, 1)
    apart = triple(function, "dilation", dilation, 1)
    around = pairs(function, padding, window, apart, steps)
    channels_last = _arguments.one_of(function, "layout", layout, LAYOUTS) == "NTHWC"
    result = _cpu.pool3d(
        function,
        to_numpy(function, "x", x),
        average,
        window,
        steps,
        apart,
        around[::2],
        around[1::2],
        bool(ceil_mode),
        bool(count_include_pad),
        channels_last,
        None if out is None else to_numpy(function, "out", out),
    )
    return from_numpy_like(x)(result) if out is None else out


def max_pool3d(
    x: Any,
    kernel: Numbers,
    stride: Numbers | None = None,
    padding: Padding = 0,
    dilation: Numbers = 1,
    ceil_mode: bool = False,
    *,
    layout: Layout = "NCTHW",
    out: Any = None,
) -> Any:
    """Take the maximum of each window in time, height and width.

    What is outside of `x` does not count; a window that holds nothing else gives -inf. NaN is
    larger than any number.

    Parameters
    ----------
    x : array, (N, C, T, H, W) or (N, T, H, W, C)
        By `layout`: float32, float64 or bfloat16. Any strides; it is read where it lies.
    kernel : int or (int, int, int)
        Size of the window along T, H and W.
    stride : int or (int, int, int), optional
        From one window to the next. Default `kernel`.
    padding : int, (int, int, int), three pairs, "same" or "valid"
        How far windows go beyond `x`, before and after, as for `conv3d`; less than they are large.
    dilation : int or (int, int, int)
        From one place in a window to the next.
    ceil_mode : bool
        Whether a last window may go beyond the padding. It never begins beyond `x` and the padding
        before it.
    layout : "NCTHW" or "NTHWC"
        Of `x` and the result.
    out : array, optional
        Where to write the result. Any strides; must not overlap `x`.

    Returns
    -------
    array, (N, C, T', H', W') or (N, T', H', W', C)
        Of the type of `x`. An axis of n becomes
        ``(n + before + after - dilation * (kernel - 1) - 1) // stride + 1`` long, with `ceil_mode`
        rounded up.

    Raises
    ------
    TypeError
        If an argument is not an array, or of another type.
    ValueError
        If shapes and options do not fit one another.

    Notes
    -----
    Workspace of each thread: rows of x for twice the height of the window, or 24 KiB of them if
    that is more. Where neither W nor C lies side by side in memory, rows are gathered, which is
    slow.

    Examples
    --------
    >>> import marey, numpy as np
    >>> clip = np.random.default_rng(0).standard_normal((1, 64, 16, 112, 112), dtype=np.float32)
    >>> marey.conv.max_pool3d(clip, (1, 3, 3), stride=(1, 2, 2), padding=(0, 1, 1)).shape
    (1, 64, 16, 56, 56)
    """
    return _pool(
        "marey.max_pool3d",
        x,
        False,
        kernel,
        stride,
        padding,
        dilation,
        ceil_mode,
        True,
        layout,
        out,
    )


def avg_pool3d(
    x: Any,
    kernel: Numbers,
    stride: Numbers | None = None,
    padding: Padding = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    *,
    dilation: Numbers = 1,
    layout: Layout = "NCTHW",
    out: Any = None,
) -> Any:
    """Take the mean of each window in time, height and width.

    Parameters
    ----------
    x : array, (N, C, T, H, W) or (N, T, H, W, C)
        By `layout`: float32, float64 or bfloat16 (summed in float32). Any strides; it is read where
        it lies.
    kernel, stride, padding, ceil_mode, dilation, layout, out
        As for `max_pool3d`.
    count_include_pad : bool
        Whether zeros of the padding are values too; what is beyond the padding (`ceil_mode`) never
        is. If not, a window that holds nothing of `x` gives 0.

    Returns
    -------
    array, (N, C, T', H', W') or (N, T', H', W', C)
        As for `max_pool3d`.

    Raises
    ------
    TypeError, ValueError
        As `max_pool3d`.

    Examples
    --------
    >>> import marey, numpy as np
    >>> clip = np.arange(8, dtype=np.float32).reshape(1, 1, 2, 2, 2)
    >>> marey.conv.avg_pool3d(clip, 2)
    array([[[[[3.5]]]]], dtype=float32)
    """
    return _pool(
        "marey.avg_pool3d",
        x,
        True,
        kernel,
        stride,
        padding,
        dilation,
        ceil_mode,
        count_include_pad,
        layout,
        out,
    )


def global_avg_pool3d(x: Any, *, layout: Layout = "NCTHW", out: Any = None) -> Any:
    """Take the mean over T, H and W.

    Parameters
    ----------
    x : array, (N, C, T, H, W) or (N, T, H, W, C)
        By `layout`: float32, float64 or bfloat16. Any strides; it is read where it lies. Sums are
        carried in float64 after a few additions.
    layout : "NCTHW" or "NTHWC"
        Of `x`.
    out : array, (N, C), optional
        Where to write the result.

    Returns
    -------
    array, (N, C)
        Of the type of `x`; 0 where there is nothing to take the mean of.

    Raises
    ------
    TypeError, ValueError
        As `max_pool3d`.

    Notes
    -----
    Workspace: 16 float64 for each item of the result.

    Examples
    --------
    >>> import marey, numpy as np
    >>> marey.conv.global_avg_pool3d(np.ones((2, 512, 2, 7, 7), np.float32)).shape
    (2, 512)
    """
    name = "marey.global_avg_pool3d"
    result = _cpu.global_avg_pool3d(
        to_numpy(name, "x", x),
        _arguments.one_of(name, "layout", layout, LAYOUTS) == "NTHWC",
        None if out is None else to_numpy(name, "out", out),
    )
    return from_numpy_like(x)(result) if out is None else out
