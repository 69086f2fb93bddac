"""Pooling: the maximum or the mean of each window, and the gradients."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from marey import _arguments, _cpu
from marey._arrays import from_numpy_like, to_numpy
from marey.conv._options import LAYOUTS, Layout, Numbers, Padding, pairs, triple

_Three = Sequence[int]
_Options = tuple[_Three, _Three, _Three, _Three, _Three, bool, bool, bool]


def _windows(
    function: str,
    kernel: Any,
    stride: Any,
    padding: Any,
    dilation: Any,
    ceil_mode: Any,
    count_include_pad: Any,
    layout: Any,
) -> _Options:
    """Return the options in the order of the compiled functions."""
    window = triple(function, "kernel", kernel, 1)
    steps = window if stride is None else triple(function, "stride", stride, 1)
    apart = triple(function, "dilation", dilation, 1)
    around = pairs(function, padding, window, apart, steps)
    return of_numbers(function, window, steps, around, apart, ceil_mode, count_include_pad, layout)


def of_numbers(
    function: str,
    window: _Three,
    steps: _Three,
    around: _Three,
    apart: _Three,
    ceil_mode: Any,
    count_include_pad: Any,
    layout: Any,
) -> _Options:
    """Return what is parsed in the order of the compiled functions, which check the numbers."""
    return (
        window,
        steps,
        apart,
        around[::2],
        around[1::2],
        bool(ceil_mode),
        bool(count_include_pad),
        _channels_last(function, layout),
    )


def _channels_last(function: str, layout: Any) -> bool:
    return bool(_arguments.looked_up(function, "layout", layout, LAYOUTS))


def pooled(function: str, x: Any, average: bool, options: _Options, out: Any) -> Any:
    result = _cpu.pool3d(
        function,
        to_numpy(function, "x", x),
        average,
        *options,
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
    name = "marey.max_pool3d"
    options = _windows(name, kernel, stride, padding, dilation, ceil_mode, True, layout)
    return pooled(name, x, False, options, out)


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
    name = "marey.avg_pool3d"
    options = _windows(
        name, kernel, stride, padding, dilation, ceil_mode, count_include_pad, layout
    )
    return pooled(name, x, True, options, out)


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
        _channels_last(name, layout),
        None if out is None else to_numpy(name, "out", out),
    )
    return from_numpy_like(x)(result) if out is None else out


def max_pool3d_backward(
    grad: Any,
    x: Any,
    kernel: Numbers,
    stride: Numbers | None = None,
    padding: Padding = 0,
    dilation: Numbers = 1,
    ceil_mode: bool = False,
    *,
    layout: Layout = "NCTHW",
) -> Any:
    """Compute the gradient of `max_pool3d`.

    What arrives at a window goes to the place that has its maximum: to the first of several, time
    before height before width. A window that holds nothing of `x` has none.

    Parameters
    ----------
    grad : array, (N, C, T', H', W') or (N, T', H', W', C)
        Gradient of the result, in the layout and of the type of `x`. Any strides.
    x, kernel, stride, padding, dilation, ceil_mode, layout
        As `max_pool3d` was given them. A window has at most 2**24 places.

    Returns
    -------
    array
        Gradient of `x`, C-ordered.

    Raises
    ------
    TypeError, ValueError
        As `max_pool3d`; and if `grad` has not the shape of the result.

    Notes
    -----
    Which place has the maximum is found anew. Workspace: 4 bytes (float64: 8) for each item of
    `grad`, of so many clips or channels at once that it takes 64 MiB, or of one.

    Examples
    --------
    >>> import marey, numpy as np
    >>> x = np.array([1, 5, 2, 2], np.float32).reshape(1, 1, 1, 1, 4)
    >>> grad = np.array([10, 20], np.float32).reshape(1, 1, 1, 1, 2)
    >>> marey.conv.max_pool3d_backward(grad, x, (1, 1, 2)).ravel()
    array([ 0., 10., 20.,  0.], dtype=float32)
    """
    name = "marey.max_pool3d_backward"
    options = _windows(name, kernel, stride, padding, dilation, ceil_mode, True, layout)
    return pooled_backward(name, grad, x, None, options)


def avg_pool3d_backward(
    grad: Any,
    shape: tuple[int, ...],
    kernel: Numbers,
    stride: Numbers | None = None,
    padding: Padding = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    *,
    dilation: Numbers = 1,
    layout: Layout = "NCTHW",
) -> Any:
    """Compute the gradient of `avg_pool3d`.

    Parameters
    ----------
    grad : array, (N, C, T', H', W') or (N, T', H', W', C)
        Gradient of the result: float32, float64 or bfloat16 (summed in float32). Any strides.
    shape : tuple of int
        Of `x`, whose values are not needed.
    kernel, stride, padding, ceil_mode, count_include_pad, dilation, layout
        As `avg_pool3d` was given them.

    Returns
    -------
    array
        Gradient of `x`, C-ordered, of the type of `grad`.

    Raises
    ------
    TypeError, ValueError
        As `avg_pool3d`; and if `grad` has not the shape of the result.

    Examples
    --------
    >>> import marey, numpy as np
    >>> grad = np.array([10, 20], np.float32).reshape(1, 1, 1, 1, 2)
    >>> marey.conv.avg_pool3d_backward(grad, (1, 1, 1, 1, 4), (1, 1, 2)).ravel()
    array([ 5.,  5., 10., 10.], dtype=float32)
    """
    name = "marey.avg_pool3d_backward"
    options = _windows(
        name, kernel, stride, padding, dilation, ceil_mode, count_include_pad, layout
    )
    return pooled_backward(name, grad, None, shape, options)


def pooled_backward(function: str, grad: Any, x: Any, shape: Any, options: _Options) -> Any:
    """Compute the gradient of the maximum, from `x`, or of the mean, from its shape."""
    source = None if x is None else to_numpy(function, "x", x)
    extents = () if shape is None else _shape(function, shape)
    gradient = to_numpy(function, "grad", grad)
    result = _cpu.pool3d_backward(function, gradient, source, extents, *options)
    return from_numpy_like(grad if x is None else x)(result)


def global_avg_pool3d_backward(
    grad: Any, shape: tuple[int, ...], *, layout: Layout = "NCTHW"
) -> Any:
    """Compute the gradient of `global_avg_pool3d`.

    Parameters
    ----------
    grad : array, (N, C)
        Gradient of the result: float32, float64 or bfloat16. Any strides.
    shape : tuple of int
        Of `x`, in its layout.
    layout : "NCTHW" or "NTHWC"
        Of the result.

    Returns
    -------
    array
        Gradient of `x`, C-ordered, of the type of `grad`: everywhere the mean's share.

    Raises
    ------
    TypeError, ValueError
        As `avg_pool3d_backward`.

    Examples
    --------
    >>> import marey, numpy as np
    >>> grad = np.array([[8]], np.float32)
    >>> marey.conv.global_avg_pool3d_backward(grad, (1, 1, 2, 2, 2)).ravel()
    array([1., 1., 1., 1., 1., 1., 1., 1.], dtype=float32)
    """
    name = "marey.global_avg_pool3d_backward"
    channels_last = _channels_last(name, layout)
    extents, gradient = _shape(name, shape), to_numpy(name, "grad", grad)
    channels = 4 if channels_last else 1
    if gradient.shape != (extents[0], extents[channels]):
        raise ValueError(
            f"[{name}] grad: expected shape {(extents[0], extents[channels])}; found "
            f"{gradient.shape}"
        )
    size = extents[1:4] if channels_last else extents[2:]
    one = gradient[:, None, None, None, :] if channels_last else gradient[:, :, None, None, None]
    if 0 in size:
        return from_numpy_like(grad)(np.zeros(extents, gradient.dtype))
    options = _windows(name, tuple(size), None, 0, 1, False, True, layout)
    return from_numpy_like(grad)(_cpu.pool3d_backward(name, one, None, extents, *options))


def _shape(function: str, shape: Any) -> tuple[int, ...]:
    extents = _arguments.integers(function, "shape", shape, "the shape of x")
    if len(extents) != 5 or min(extents) < 0:
        raise ValueError(f"[{function}] shape: expected that of x, five axes; found {shape!r}")
    return tuple(extents)
