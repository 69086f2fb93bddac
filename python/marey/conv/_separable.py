"""Convolution in space, then in time."""

from __future__ import annotations

from typing import Any

import numpy as np

from marey import _cpu
from marey._arrays import from_numpy_like, to_numpy
from marey.conv._conv3d import _optional
from marey.conv._options import (
    Activation,
    Layout,
    Numbers,
    Padding,
    Six,
    Triple,
    of_numbers,
    pairs,
    triple,
)

Array = np.ndarray[Any, Any]


def separable_conv3d(
    x: Any,
    spatial_weight: Any,
    temporal_weight: Any,
    spatial_bias: Any = None,
    temporal_bias: Any = None,
    *,
    stride: Numbers = 1,
    padding: Padding = 0,
    layout: Layout = "NCTHW",
    activation: Activation = None,
    out: Any = None,
) -> Any:
    """Convolve in space, then in time: the (2+1)D convolution of R(2+1)D [1]_ in one pass.

    Parameters
    ----------
    x : array, (N, C, T, H, W) or (N, T, H, W, C)
        By `layout`, as for `conv3d`.
    spatial_weight : array, (M, C, 1, kH, kW)
        Of the type of `x`.
    temporal_weight : array, (K, M, kT, 1, 1)
        Of the type of `x`.
    spatial_bias, temporal_bias : array, (M,) and (K,), optional
    stride, padding
        Of T, H and W, as for `conv3d`: the first is the temporal convolution's, the others the
        spatial one's.
    layout : "NCTHW" or "NTHWC"
    activation : None, "relu", "gelu" or "silu"
        Between the two.
    out : array, optional
        As for `conv3d`.

    Returns
    -------
    array, (N, K, T', H', W') or (N, T', H', W', K)

    Raises
    ------
    TypeError, ValueError
        As `conv3d`.

    Notes
    -----
    What lies between the two is never stored whole: rows of all frames, or of many, are convolved
    in space into a tile of at most 4 MiB, and along time from there. bfloat16 is rounded between
    the two, as if they were called one after the other.

    References
    ----------
    .. [1] D. Tran, H. Wang, L. Torresani, J. Ray, Y. LeCun, M. Paluri, "A Closer Look at
       Spatiotemporal Convolutions for Action Recognition", CVPR 2018.

    Examples
    --------
    >>> import marey, numpy as np
    >>> rng = np.random.default_rng(0)
    >>> x = rng.standard_normal((1, 8, 4, 28, 28), dtype=np.float32)
    >>> spatial = rng.standard_normal((20, 8, 1, 3, 3), dtype=np.float32)
    >>> temporal = rng.standard_normal((16, 20, 3, 1, 1), dtype=np.float32)
    >>> y = marey.conv.separable_conv3d(x, spatial, temporal, padding=1, activation="relu")
    >>> y.shape
    (1, 16, 4, 28, 28)
    """
    name = "marey.separable_conv3d"
    space = to_numpy(name, "spatial_weight", spatial_weight)
    time = to_numpy(name, "temporal_weight", temporal_weight)
    for argument, weight, letters in (
        ("spatial_weight", space, "(M, C, 1, kH, kW)"),
        ("temporal_weight", time, "(K, M, kT, 1, 1)"),
    ):
        if weight.ndim != 5:
            raise ValueError(f"[{name}] {argument}: expected shape {letters}; found {weight.shape}")
    steps = triple(name, "stride", stride, 1)
    kernel = (time.shape[2], space.shape[3], space.shape[4])
    around = pairs(name, padding, kernel, (1, 1, 1), steps)
    biases = (spatial_bias, temporal_bias)
    return separated(name, x, (space, time), biases, steps, around, layout, activation, out)


def separated(
    name: str,
    x: Any,
    weights: tuple[Array, Array],
    biases: tuple[Any, Any],
    steps: Triple,
    around: Six,
    layout: Any,
    activation: Any,
    out: Any,
) -> Any:
    """Convolve with parsed options, which compiled code checks."""
    (space, time), (spatial_bias, temporal_bias) = weights, biases
    t0, t1, h0, h1, w0, w1 = around
    once = (1, 1, 1)
    of_space = of_numbers(
        name, (1, *steps[1:]), (0, 0, h0, h1, w0, w1), once, 1, layout, activation
    )
    of_time = of_numbers(name, (steps[0], 1, 1), (t0, t1, 0, 0, 0, 0), once, 1, layout)
    spatial = _cpu.Conv3d(
        name, space, _optional(name, "spatial_bias", spatial_bias, space), *of_space
    )
    temporal = _cpu.Conv3d(
        name, time, _optional(name, "temporal_bias", temporal_bias, time), *of_time
    )
    source = to_numpy(name, "x", x)
    result = spatial.separable(temporal, source, _optional(name, "out", out, source))
    return from_numpy_like(x)(result) if out is None else out
