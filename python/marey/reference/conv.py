"""Space-time convolution and pooling: sums over the taps of a kernel."""

import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

__all__ = [
    "avg_pool3d",
    "avg_pool3d_backward",
    "causal_conv3d",
    "conv3d",
    "conv3d_backward",
    "global_avg_pool3d",
    "global_avg_pool3d_backward",
    "inflate",
    "max_pool3d",
    "max_pool3d_backward",
    "separable_conv3d",
]

Array = NDArray[Any]
Triple = tuple[int, int, int]
Pairs = tuple[tuple[int, int], tuple[int, int], tuple[int, int]]
Numbers = int | tuple[int, ...]
Padding = str | int | tuple[Any, ...]

_erf = np.vectorize(math.erf, otypes=[np.float64])

ACTIVATIONS: dict[str | None, Callable[[Array], Array]] = {
    None: lambda y: y,
    "relu": lambda y: np.maximum(y, 0),
    "gelu": lambda y: y * ((1 + _erf(y / math.sqrt(2))) / 2).astype(y.dtype),
    "silu": lambda y: y / (1 + np.exp(-y)),
}


def _triple(value: Numbers) -> Triple:
    t, h, w = (value,) * 3 if isinstance(value, int) else value
    return t, h, w


def _pairs(padding: Padding, kernel: Triple, dilation: Triple) -> Pairs:
    """How many zeros stand before and after each axis."""
    if padding == "same":
        total = [d * (k - 1) for k, d in zip(kernel, dilation, strict=True)]
        t, h, w = ((n // 2, n - n // 2) for n in total)
    elif padding == "valid":
        t = h = w = (0, 0)
    else:
        each: Any = (padding,) * 3 if isinstance(padding, int) else padding
        t, h, w = ((p, p) if isinstance(p, int) else (p[0], p[1]) for p in each)
    return t, h, w


def _taps(kernel: Triple, size: Triple, stride: Triple, dilation: Triple) -> Iterator[Any]:
    """Each place in the kernel, and what it sees of a padded (..., T, H, W): (..., *size)."""
    for tap in np.ndindex(kernel):
        yield (
            (..., *tap),
            (
                ...,
                *(
                    slice(i * d, i * d + (n - 1) * s + 1, s) if n else slice(0)
                    for i, d, n, s in zip(tap, dilation, size, stride, strict=True)
                ),
            ),
        )


def _size(padded: tuple[int, ...], kernel: Triple, stride: Triple, dilation: Triple) -> Triple:
    """How often the kernel fits."""
    t, h, w = (
        (n - d * (k - 1) - 1) // s + 1
        for n, k, s, d in zip(padded[-3:], kernel, stride, dilation, strict=True)
    )
    return t, h, w


def _pad(x: Array, pairs: Pairs, value: float = 0) -> Array:
    return np.pad(x, [(0, 0)] * (x.ndim - 3) + list(pairs), constant_values=value)


def _ncthw(x: ArrayLike, layout: str, dtype: DTypeLike) -> Array:
    array = np.asarray(x).astype(dtype)
    return np.moveaxis(array, -1, 1) if layout == "NTHWC" else array


def _in_layout(x: Array, layout: str) -> Array:
    return np.moveaxis(x, 1, -1) if layout == "NTHWC" else x


def _grouped(x: Array, axis: int, groups: int) -> Array:
    """Split the channels into (groups, channels of a group)."""
    shape = (*x.shape[:axis], groups, x.shape[axis] // groups, *x.shape[axis + 1 :])
    return x.reshape(shape)


def _ungrouped(x: Array) -> Array:
    """Put the groups of channels one after the other."""
    return x.reshape(len(x), x.shape[1] * x.shape[2], *x.shape[3:])


def conv3d(
    x: ArrayLike,
    weight: ArrayLike,
    bias: ArrayLike | None = None,
    *,
    stride: Numbers = 1,
    padding: Padding = 0,
    dilation: Numbers = 1,
    groups: int = 1,
    layout: str = "NCTHW",
    activation: str | None = None,
    dtype: DTypeLike = np.float64,
) -> Array:
    """Convolve, in the sense of neural networks.

    ::

        y[n, k, t, h, w] = activation(bias[k] + sum over c, i, j, l of
            weight[k, c, i, j, l] x[n, c, s t + d i - p, s h + d j - p, s w + d l - p])

    with stride s, dilation d and padding p of each axis; x is 0 outside. A group of filters sees
    its own group of channels only.

    Parameters
    ----------
    x : array_like
        (N, C, T, H, W), or (N, T, H, W, C) with layout "NTHWC".
    weight : array_like, (K, C / groups, kT, kH, kW)
    bias : array_like, (K,), optional
    stride, padding, dilation, groups, layout, activation
        As for `marey.conv.conv3d`.
    dtype : dtype
        What to compute in.

    Returns
    -------
    ndarray, in the layout of x
    """
    w = _grouped(np.asarray(weight).astype(dtype), 0, groups)
    kernel, stride, dilation = w.shape[3:], _triple(stride), _triple(dilation)
    padded = _pad(_ncthw(x, layout, dtype), _pairs(padding, kernel, dilation))
    size = _size(padded.shape, kernel, stride, dilation)
    padded = _grouped(padded, 1, groups)

    y = np.zeros((len(padded), groups, w.shape[1], *size), dtype)
    for tap, seen in _taps(kernel, size, stride, dilation):
        y += np.einsum("ngcthw,gkc->ngkthw", padded[seen], w[tap])
    y = _ungrouped(y)
    if bias is not None:
        y += np.asarray(bias).astype(dtype)[:, None, None, None]
    return _in_layout(ACTIVATIONS[activation](y), layout)


def conv3d_backward(
    grad: ArrayLike,
    x: ArrayLike,
    weight: ArrayLike,
    *,
    stride: Numbers = 1,
    padding: Padding = 0,
    dilation: Numbers = 1,
    groups: int = 1,
    layout: str = "NCTHW",
    dtype: DTypeLike = np.float64,
) -> tuple[Array, Array, Array]:
    """Compute the gradients of `conv3d` without activation.

    Every product of the sum gives two: an output's gradient times the weight goes to the input that
    it saw, times the input to the weight.

    Parameters
    ----------
    grad : array_like
        Gradient of the result, in the layout of x.
    x, weight, stride, padding, dilation, groups, layout, dtype
        As for `conv3d`.

    Returns
    -------
    grad_x, grad_weight, grad_bias : ndarray
    """
    w = _grouped(np.asarray(weight).astype(dtype), 0, groups)
    kernel, stride, dilation = w.shape[3:], _triple(stride), _triple(dilation)
    pairs = _pairs(padding, kernel, dilation)
    grad = _ncthw(grad, layout, dtype)
    grad_bias = grad.sum((0, 2, 3, 4))
    padded = _grouped(_pad(_ncthw(x, layout, dtype), pairs), 1, groups)
    size, grad = grad.shape[2:], _grouped(grad, 1, groups)

    grad_padded, grad_weight = np.zeros_like(padded), np.zeros_like(w)
    for tap, seen in _taps(kernel, size, stride, dilation):
        grad_padded[seen] += np.einsum("ngkthw,gkc->ngcthw", grad, w[tap])
        grad_weight[tap] = np.einsum("ngkthw,ngcthw->gkc", grad, padded[seen])

    inside = tuple(slice(p, n - q) for (p, q), n in zip(pairs, padded.shape[3:], strict=True))
    grad_x = _ungrouped(grad_padded[:, :, :, inside[0], inside[1], inside[2]])
    return _in_layout(grad_x, layout), grad_weight.reshape(np.shape(weight)), grad_bias


def separable_conv3d(
    x: ArrayLike,
    spatial_weight: ArrayLike,
    temporal_weight: ArrayLike,
    spatial_bias: ArrayLike | None = None,
    temporal_bias: ArrayLike | None = None,
    *,
    stride: Numbers = 1,
    padding: Padding = 0,
    layout: str = "NCTHW",
    activation: str | None = None,
    dtype: DTypeLike = np.float64,
) -> Array:
    """Convolve in space, then in time, with `activation` between the two.

    Parameters
    ----------
    x : array_like
        As for `conv3d`.
    spatial_weight : array_like, (M, C, 1, kH, kW)
    temporal_weight : array_like, (K, M, kT, 1, 1)
    spatial_bias, temporal_bias : array_like, (M,) and (K,), optional
    stride, padding
        Of the axes T, H and W: the first is the temporal convolution's, the others the spatial's.
    layout, activation, dtype
        As for `conv3d`.

    Returns
    -------
    ndarray, in the layout of x
    """
    spatial, temporal = np.shape(spatial_weight)[2:], np.shape(temporal_weight)[2:]
    kernel = (temporal[0], spatial[1], spatial[2])
    (sT, sH, sW), (pT, pH, pW) = _triple(stride), _pairs(padding, kernel, (1, 1, 1))
    options: dict[str, Any] = {"layout": layout, "dtype": dtype}
    between = conv3d(
        x,
        spatial_weight,
        spatial_bias,
        stride=(1, sH, sW),
        padding=(0, pH, pW),
        activation=activation,
        **options,
    )
    return conv3d(
        between, temporal_weight, temporal_bias, stride=(sT, 1, 1), padding=(pT, 0, 0), **options
    )


def causal_conv3d(
    x: ArrayLike,
    weight: ArrayLike,
    bias: ArrayLike | None = None,
    *,
    state: ArrayLike | None = None,
    stride: Numbers = 1,
    padding: Padding = 0,
    dilation: Numbers = 1,
    groups: int = 1,
    layout: str = "NCTHW",
    activation: str | None = None,
    dtype: DTypeLike = np.float64,
) -> tuple[Array, Array]:
    """Convolve so that no result sees a later frame: the padding in time stands before.

    Parameters
    ----------
    x, weight, bias, stride, dilation, groups, layout, activation, dtype
        As for `conv3d`; the stride along time is 1.
    state : array_like, optional
        The (kT - 1) dilated frames before x. Default zeros.
    padding : int or tuple
        Of H and W; of T it is 0.

    Returns
    -------
    y : ndarray, with as many frames as x
    state : ndarray
        The last frames of x and of what was before.
    """
    kernel, dilation = np.shape(weight)[2:], _triple(dilation)
    time = 1 if layout == "NTHWC" else 2
    x = np.asarray(x).astype(dtype)
    kept = (kernel[0] - 1) * dilation[0]
    if state is None:
        state = np.zeros_like(x, shape=(*x.shape[:time], kept, *x.shape[time + 1 :]))
    joined = np.concatenate([np.asarray(state).astype(dtype), x], time)
    _, pH, pW = _pairs(padding, kernel, dilation)
    _, sH, sW = _triple(stride)
    y = conv3d(
        joined,
        weight,
        bias,
        stride=(1, sH, sW),
        padding=(0, pH, pW),
        dilation=dilation,
        groups=groups,
        layout=layout,
        activation=activation,
        dtype=dtype,
    )
    frames = joined.shape[time]
    return y, joined.take(range(frames - kept, frames), time)


def inflate(
    weight2d: ArrayLike, time: int, mode: str = "mean", *, dtype: DTypeLike = np.float64
) -> Array:
    """Make weights of a 3-D convolution from those of a 2-D one.

    Parameters
    ----------
    weight2d : array_like, (K, C, kH, kW)
    time : int
        kT of the result.
    mode : str
        "mean": every step has weight2d / time. "centre": the middle one has weight2d, others 0.
    dtype : dtype
        What to compute in.

    Returns
    -------
    ndarray, (K, C, time, kH, kW)
    """
    weight = np.asarray(weight2d).astype(dtype)
    inflated = np.zeros((*weight.shape[:2], time, *weight.shape[2:]), dtype)
    if mode == "centre":
        inflated[:, :, time // 2] = weight
    else:
        inflated[:] = weight[:, :, None] / time
    return inflated


def _pooled(
    x: Array, kernel: Triple, stride: Triple, pairs: Pairs, dilation: Triple, ceil_mode: bool
) -> tuple[Triple, Pairs]:
    """Return the size of the result, and `pairs` with room for windows that go beyond.

    With `ceil_mode` a window may; but not begin there.
    """
    size, room = [], []
    for n, k, s, (before, after), d in zip(
        x.shape[2:], kernel, stride, pairs, dilation, strict=True
    ):
        span = n + before + after - d * (k - 1) - 1
        count = span // s + 1
        if ceil_mode and span % s and count * s < n + before:
            count += 1
        size.append(count)
        room.append((before, after + max(0, (count - 1) * s - span)))
    (T, H, W), (t, h, w) = size, room
    return (T, H, W), (t, h, w)


def max_pool3d(
    x: ArrayLike,
    kernel: Numbers,
    stride: Numbers | None = None,
    padding: Padding = 0,
    dilation: Numbers = 1,
    ceil_mode: bool = False,
    *,
    layout: str = "NCTHW",
    dtype: DTypeLike = np.float64,
) -> Array:
    """Take the maximum of each window; what is outside counts as -inf, and NaN wins.

    Parameters
    ----------
    x : array_like
        As for `conv3d`.
    kernel, stride, padding, dilation, ceil_mode, layout
        As for `marey.conv.max_pool3d`.
    dtype : dtype
        What to compute in.

    Returns
    -------
    ndarray, in the layout of x
    """
    x = _ncthw(x, layout, dtype)
    kernel, dilation = _triple(kernel), _triple(dilation)
    stride = kernel if stride is None else _triple(stride)
    size, pairs = _pooled(x, kernel, stride, _pairs(padding, kernel, dilation), dilation, ceil_mode)
    padded = _pad(x, pairs, -np.inf)
    y = np.full((*x.shape[:2], *size), -np.inf, dtype)
    for _, seen in _taps(kernel, size, stride, dilation):
        y = np.maximum(y, padded[seen])
    return _in_layout(y, layout)


def avg_pool3d(
    x: ArrayLike,
    kernel: Numbers,
    stride: Numbers | None = None,
    padding: Padding = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    *,
    dilation: Numbers = 1,
    layout: str = "NCTHW",
    dtype: DTypeLike = np.float64,
) -> Array:
    """Take the mean of each window.

    Zeros of the padding count with `count_include_pad`; what is beyond them (`ceil_mode`) never.

    Parameters
    ----------
    x : array_like
        As for `conv3d`.
    kernel, stride, padding, ceil_mode, count_include_pad, dilation, layout
        As for `marey.conv.avg_pool3d`.
    dtype : dtype
        What to compute in.

    Returns
    -------
    ndarray, in the layout of x
    """
    x = _ncthw(x, layout, dtype)
    kernel, dilation = _triple(kernel), _triple(dilation)
    stride = kernel if stride is None else _triple(stride)
    asked = _pairs(padding, kernel, dilation)
    size, pairs = _pooled(x, kernel, stride, asked, dilation, ceil_mode)
    counts = np.ones_like(x, shape=(1, 1, *x.shape[2:]))
    if count_include_pad:
        counts = _pad(counts, asked, 1)
        beyond = ((0, room[1] - pad[1]) for room, pad in zip(pairs, asked, strict=True))
        counted = _pad(counts, tuple(beyond))  # type: ignore[arg-type]
    else:
        counted = _pad(counts, pairs)
    padded = _pad(x, pairs)
    total, count = np.zeros((*x.shape[:2], *size), dtype), np.zeros((1, 1, *size), dtype)
    for _, seen in _taps(kernel, size, stride, dilation):
        total += padded[seen]
        count += counted[seen]
    return _in_layout(total / np.maximum(count, 1), layout)


def global_avg_pool3d(
    x: ArrayLike, *, layout: str = "NCTHW", dtype: DTypeLike = np.float64
) -> Array:
    """Take the mean over T, H and W.

    Parameters
    ----------
    x : array_like
        As for `conv3d`.
    layout : str
        "NCTHW" or "NTHWC".
    dtype : dtype
        What to compute in.

    Returns
    -------
    ndarray, (N, C)
    """
    mean: Array = np.mean(_ncthw(x, layout, dtype), (2, 3, 4))
    return mean


def max_pool3d_backward(
    grad: ArrayLike,
    x: ArrayLike,
    kernel: Numbers,
    stride: Numbers | None = None,
    padding: Padding = 0,
    dilation: Numbers = 1,
    ceil_mode: bool = False,
    *,
    layout: str = "NCTHW",
    dtype: DTypeLike = np.float64,
) -> Array:
    """Give what arrives at each window to the first place that has its maximum.

    Parameters
    ----------
    grad : array_like
        Gradient of the result, in the layout of x.
    x, kernel, stride, padding, dilation, ceil_mode, layout, dtype
        As for `max_pool3d`.

    Returns
    -------
    ndarray, in the layout of x
    """
    grad, x = _ncthw(grad, layout, dtype), _ncthw(x, layout, dtype)
    kernel, dilation = _triple(kernel), _triple(dilation)
    stride = kernel if stride is None else _triple(stride)
    size, pairs = _pooled(x, kernel, stride, _pairs(padding, kernel, dilation), dilation, ceil_mode)
    padded = _pad(x, pairs, -np.inf)
    inside = _pad(np.ones(x.shape, bool), pairs, False)

    best = np.full((*x.shape[:2], *size), -np.inf, dtype)
    found = np.zeros(best.shape, bool)
    place = np.full(best.shape, -1)
    for number, (_, seen) in enumerate(_taps(kernel, size, stride, dilation)):
        value = padded[seen]
        larger = (value > best) | (np.isnan(value) & ~np.isnan(best)) | ~found
        better = inside[seen] & larger
        best, place = np.where(better, value, best), np.where(better, number, place)
        found |= inside[seen]
    grad_padded = np.zeros_like(padded)
    for number, (_, seen) in enumerate(_taps(kernel, size, stride, dilation)):
        grad_padded[seen] += np.where(place == number, grad, 0)
    return _in_layout(_within(grad_padded, pairs, x.shape), layout)


def _within(padded: Array, pairs: Pairs, shape: tuple[int, ...]) -> Array:
    """Leave out the padding."""
    t, h, w = (slice(p, p + n) for (p, _), n in zip(pairs, shape[2:], strict=True))
    return padded[:, :, t, h, w]


def avg_pool3d_backward(
    grad: ArrayLike,
    shape: tuple[int, ...],
    kernel: Numbers,
    stride: Numbers | None = None,
    padding: Padding = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    *,
    dilation: Numbers = 1,
    layout: str = "NCTHW",
    dtype: DTypeLike = np.float64,
) -> Array:
    """Give every position of a window its share of what arrives there.

    Parameters
    ----------
    grad : array_like
        Gradient of the result, in its layout.
    shape : tuple of int
        Of x.
    kernel, stride, padding, ceil_mode, count_include_pad, dilation, layout, dtype
        As for `avg_pool3d`.

    Returns
    -------
    ndarray, in the layout of x
    """
    grad = _ncthw(grad, layout, dtype)
    ones = _ncthw(np.ones(shape), layout, dtype)
    kernel, dilation = _triple(kernel), _triple(dilation)
    stride = kernel if stride is None else _triple(stride)
    asked = _pairs(padding, kernel, dilation)
    size, pairs = _pooled(ones, kernel, stride, asked, dilation, ceil_mode)
    counts = _pad(np.ones_like(ones), asked, 1) if count_include_pad else _pad(ones, asked)
    beyond = ((0, room[1] - pad[1]) for room, pad in zip(pairs, asked, strict=True))
    counts = _pad(counts, tuple(beyond))  # type: ignore[arg-type]
    count = np.zeros((*ones.shape[:2], *size), dtype)
    for _, seen in _taps(kernel, size, stride, dilation):
        count += counts[seen]
    share = grad / np.maximum(count, 1)
    grad_padded = np.zeros_like(counts)
    for _, seen in _taps(kernel, size, stride, dilation):
        grad_padded[seen] += share
    return _in_layout(_within(grad_padded, pairs, ones.shape), layout)


def global_avg_pool3d_backward(
    grad: ArrayLike,
    shape: tuple[int, ...],
    *,
    layout: str = "NCTHW",
    dtype: DTypeLike = np.float64,
) -> Array:
    """Give every position its share.

    Parameters
    ----------
    grad : array_like, (N, C)
    shape : tuple of int
        Of x, in its layout.
    layout : str
        "NCTHW" or "NTHWC".
    dtype : dtype
        What to compute in.

    Returns
    -------
    ndarray, in the layout of x
    """
    grad_x = _ncthw(np.zeros(shape), layout, dtype)
    grad_x += np.asarray(grad).astype(dtype)[:, :, None, None, None]
    return _in_layout(grad_x / max(math.prod(grad_x.shape[2:]), 1), layout)
