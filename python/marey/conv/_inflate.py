"""Weights of 3-D convolutions from those of 2-D ones."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np

from marey import _arguments
from marey._arrays import from_numpy_like, to_numpy


def inflate(weight2d: Any, time: int, mode: Literal["mean", "centre"] = "mean") -> Any:
    """Make weights of a 3-D convolution from those of a 2-D one, so that images teach videos.

    Parameters
    ----------
    weight2d : array, (K, C / groups, kH, kW)
        float32, float64 or bfloat16.
    time : int
        kT of the result.
    mode : "mean" or "centre"
        ``"mean"`` [1]_: ``weight2d / time`` at every step. A video that stands still has the
        response of the 2-D convolution to its frame (to rounding), wherever the kernel sees no
        padding along time. ``"centre"`` [2]_: `weight2d` in the middle, at step ``time // 2``, and
        0 elsewhere. Every video has the 2-D response to each of its frames, exactly.

    Returns
    -------
    array, (K, C / groups, time, kH, kW)
        Of the type of `weight2d`.

    Raises
    ------
    TypeError
        If `weight2d` is not an array, or of another type.
    ValueError
        If it has not four axes, `time` is less than 1, or `mode` is another.

    References
    ----------
    .. [1] J. Carreira, A. Zisserman, "Quo Vadis, Action Recognition? A New Model and the Kinetics
       Dataset", CVPR 2017.
    .. [2] A. Arnab, M. Dehghani, G. Heigold, C. Sun, M. Lučić, C. Schmid, "ViViT: A Video Vision
       Transformer", ICCV 2021, "central frame initialisation".

    Examples
    --------
    >>> import marey, numpy as np
    >>> marey.conv.inflate(np.ones((64, 3, 7, 7), np.float32), 4)[0, 0, :, 0, 0]
    array([0.25, 0.25, 0.25, 0.25], dtype=float32)
    """
    name = "marey.inflate"
    weight = to_numpy(name, "weight2d", weight2d)
    if weight.dtype not in (np.float32, np.float64) and weight.dtype.name != "bfloat16":
        raise TypeError(
            f"[{name}] weight2d: expected float32, float64 or bfloat16; found {weight.dtype}"
        )
    if weight.ndim != 4:
        raise ValueError(
            f"[{name}] weight2d: expected shape (K, C / groups, kH, kW); found {weight.shape}"
        )
    steps = _arguments.integer(name, "time", time, 1)
    _arguments.one_of(name, "mode", mode, ("mean", "centre"))
    K, C, kH, kW = weight.shape
    result = np.zeros((K, C, steps, kH, kW), weight.dtype)
    if mode == "centre":
        result[:, :, steps // 2] = weight
    else:
        result[:] = (weight / weight.dtype.type(steps))[:, :, None]
    return from_numpy_like(weight2d)(result)
