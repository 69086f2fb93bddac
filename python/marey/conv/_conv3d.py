"""Convolution, and convolution with weights that are packed once."""

from __future__ import annotations

from typing import Any

import numpy as np

from marey import _arguments
from marey._arrays import from_numpy_like, kernels, to_array, to_array_like, zeros_like
from marey.conv._options import (
    Activation,
    Algorithm,
    Layout,
    Numbers,
    Options,
    Padding,
    options,
)


def _optional(function: str, argument: str, array: Any, like: Any) -> Any:
    return None if array is None else to_array_like(function, argument, array, like)


def conv3d(
    x: Any,
    weight: Any,
    bias: Any = None,
    *,
    stride: Numbers = 1,
    padding: Padding = 0,
    dilation: Numbers = 1,
    groups: int = 1,
    layout: Layout = "NCTHW",
    activation: Activation = None,
    algorithm: Algorithm = "auto",
    out: Any = None,
) -> Any:
    r"""Convolve a video, in the sense of neural networks.

    .. math::
        y_{nkthw} = f\Bigl(b_k + \sum_{cijl} w_{kcijl}\;
        x_{n,\,c,\,t s_T + i d_T - p_T,\,h s_H + j d_H - p_H,\,w s_W + l d_W - p_W}\Bigr)

    with stride s, dilation d and padding p; x is 0 outside. The result does not depend on the
    number of threads.

    Parameters
    ----------
    x : array, (N, C, T, H, W) or (N, T, H, W, C)
        By `layout`: float32, float64 or bfloat16 (summed in float32). Any strides: it is read where
        it lies.
    weight : array, (K, C / groups, kT, kH, kW)
        Of the type of `x`, whatever the layout. Any strides.
    bias : array, (K,), optional
        Of the type of `x`; may be float32 with bfloat16.
    stride, dilation : int or (int, int, int)
        Of T, H and W.
    padding : int, (int, int, int), three pairs, "same" or "valid"
        Zeros before and after T, H and W; a pair says both. ``"same"``, with stride 1, makes the
        result as large as `x`: of an odd number of zeros the larger half comes after. ``"valid"``
        is 0.
    groups : int
        Filters of each group see the channels of that group only; C filters in C groups are a
        depthwise convolution.
    layout : "NCTHW" or "NTHWC"
        Of `x` and the result.
    activation : None, "relu", "gelu" or "silu"
        Applied to the result. ``"gelu"`` is the exact one, with the error function.
    algorithm : "auto", "direct" or "winograd"
        See Notes.
    out : array, optional
        Where to write the result. Any strides; must not overlap `x`.

    Returns
    -------
    array, (N, K, T', H', W') or (N, T', H', W', K)
        Of the type of `x`, in its layout. An axis of n becomes
        ``(n + before + after - dilation * (kernel - 1) - 1) // stride + 1`` long.

    Raises
    ------
    TypeError
        If an argument is not an array, or of another type.
    ValueError
        If shapes and options do not fit one another.

    Notes
    -----
    The weights are packed at each call; `Conv3d` packs them once, and tells how much workspace a
    call takes.

    One filter for each channel runs the depthwise kernel. ``"auto"`` otherwise takes Winograd's
    F(2 x 2, 3 x 3) [1]_ for float32 with kernels (kT, 3, 3) of stride and dilation 1 along H and W
    if a group has 24 or more channels and filters and its transformed weights, 16 kT C K numbers,
    take at most 32 MiB; else the direct sum. Winograd's error is up to 1.5 times that of the sum.

    References
    ----------
    .. [1] A. Lavin, S. Gray, "Fast Algorithms for Convolutional Neural Networks", CVPR 2016.

    Examples
    --------
    >>> import marey, numpy as np
    >>> rng = np.random.default_rng(0)
    >>> clip = rng.standard_normal((1, 3, 16, 112, 112), dtype=np.float32)
    >>> weight = rng.standard_normal((64, 3, 3, 7, 7), dtype=np.float32)
    >>> marey.conv.conv3d(clip, weight, stride=(1, 2, 2), padding=(1, 3, 3)).shape
    (1, 64, 16, 56, 56)
    """
    name = "marey.conv3d"
    filters = to_array(name, "weight", weight)
    checked = options(
        name,
        filters,
        stride=stride,
        padding=padding,
        dilation=dilation,
        groups=groups,
        layout=layout,
        activation=activation,
        algorithm=algorithm,
    )
    return convolved(name, x, filters, bias, checked, out)


def convolved(function: str, x: Any, filters: Any, bias: Any, checked: Options, out: Any) -> Any:
    """Convolve with `filters`, an array of `to_array`."""
    source = to_array_like(function, "x", x, filters)
    added = _optional(function, "bias", bias, filters)
    packed = kernels(function, filters).Conv3d(function, filters, added, *checked)
    result = packed(source, None, _optional(function, "out", out, filters))
    return from_numpy_like(x)(result) if out is None else out


class _Packed:
    """Weights packed once, with the options that go with them."""

    _name: str
    _by_frames = False  # calls are of few frames each, and agree with those of many

    def __init__(
        self,
        weight: Any,
        bias: Any = None,
        *,
        stride: Numbers = 1,
        padding: Padding = 0,
        dilation: Numbers = 1,
        groups: int = 1,
        layout: Layout = "NCTHW",
        activation: Activation = None,
        algorithm: Algorithm = "auto",
    ) -> None:
        filters = to_array(self._name, "weight", weight)
        checked = self._checked(
            options(
                self._name,
                filters,
                stride=stride,
                padding=padding,
                dilation=dilation,
                groups=groups,
                layout=layout,
                activation=activation,
                algorithm=algorithm,
            ),
            filters,
            padding,
        )
        added = _optional(self._name, "bias", bias, filters)
        make = kernels(self._name, filters).Conv3d
        self._packed: Any = make(self._name, filters, added, *checked, self._by_frames)
        self._like = zeros_like(filters, (0,), np.dtype(np.float32))

    def _checked(self, checked: Options, _filters: Any, _padding: Padding) -> Options:
        """Return the options as this kind of convolution has them."""
        return checked


class Conv3d(_Packed):
    """A convolution whose weights are packed once, to be called many times.

    Parameters
    ----------
    weight, bias, stride, padding, dilation, groups, layout, activation, algorithm
        As for `conv3d`. The weights and the bias are copied, in the order that the kernel of the
        instruction set in use reads them.

    Attributes
    ----------
    packed_bytes : int
        Memory that the packed weights take. Those of one tap along W take as much again from the
        first call on whose positions lie side by side (NCTHW).

    Raises
    ------
    TypeError, ValueError
        As `conv3d`.

    Notes
    -----
    Several threads may call one object at once.

    Examples
    --------
    >>> import marey, numpy as np
    >>> rng = np.random.default_rng(0)
    >>> weight = rng.standard_normal((32, 16, 3, 3, 3), dtype=np.float32)
    >>> conv = marey.conv.Conv3d(weight, padding="same", activation="relu")
    >>> conv(np.ones((1, 16, 8, 28, 28), np.float32)).shape
    (1, 32, 8, 28, 28)
    """

    _name = "marey.Conv3d"

    @property
    def packed_bytes(self) -> int:
        return int(self._packed.packed_bytes())

    def __call__(self, x: Any, *, out: Any = None) -> Any:
        """Convolve `x`.

        Parameters
        ----------
        x, out
            As for `conv3d`.

        Returns
        -------
        array
        """
        source = to_array_like(self._name, "x", x, self._like)
        result = self._packed(source, None, _optional(self._name, "out", out, self._like))
        return from_numpy_like(x)(result) if out is None else out

    def workspace(self, shape: tuple[int, ...]) -> int:
        """Return how many bytes a call takes besides its result, for an input of this shape.

        All threads together, with the number of threads that a call made now would use.
        """
        expected = "the shape of an input"
        extents = list(_arguments.integers(self._name, "shape", shape, expected))
        return int(self._packed.workspace(extents))
