"""Attention within a video."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np

from marey import _device
from marey._arrays import (
    empty_like,
    from_numpy_like,
    kernels,
    plain,
    to_array,
    to_array_like,
    to_numpy,
)
from marey.attention._options import limits, scale_or_default, softcap_or_zero

# The axes that become the sequence, by name: (B, T, H, W, h, D) -> (batch..., h, sequence..., D).
_SPACE_TIME = {"time": (0, 2, 3, 4, 1, 5), "space": (0, 1, 4, 2, 3, 5), "joint": (0, 4, 1, 2, 3, 5)}


def _as_sequences(x: Any, axis: str) -> Any:
    """Return (batch..., h, L, D): a view where one stride steps through a sequence."""
    order = _SPACE_TIME[axis]
    if isinstance(x, _device.DeviceArray):
        return _device_sequences(x, order)
    moved = x.transpose(order)
    if axis == "time":
        return moved
    head = order.index(4)
    return moved.reshape(*moved.shape[: head + 1], -1, moved.shape[-1])


def _device_sequences(x: _device.DeviceArray, order: tuple[int, ...]) -> _device.DeviceArray:
    strides = x.view[3]
    head = order.index(4)
    length, step = 1, 0
    for axis in reversed(order[head + 1 : -1]):
        if x.shape[axis] == 1:
            continue
        if length > 1 and strides[axis] != length * step:
            return _device_sequences(x.copy(), order)
        step = strides[axis] if length == 1 else step
        length *= x.shape[axis]
    outer = order[: head + 1]
    shape = (*(x.shape[axis] for axis in outer), length, x.shape[5])
    return x.strided(shape, (*(strides[axis] for axis in outer), step, strides[5]))


def space_time_attention(
    q: Any,
    k: Any,
    v: Any,
    axis: Literal["time", "space", "joint"],
    *,
    causal: bool = False,
    scale: float | None = None,
    softcap: float | None = None,
    class_token: tuple[Any, Any, Any] | None = None,
    out: Any = None,
) -> Any:
    """Compute attention within a video, along time, space, or both.

    The arrays are read in place: no permuted copies (unless H and W, or T, H and W for ``"joint"``,
    cannot be stepped through with one stride).

    Parameters
    ----------
    q, k : array, (B, T, H, W, h, D)
        Queries and keys; `k` and `v` may have fewer heads, as in `attention`.
    v : array, (B, T, H, W, h, Dv)
        Values.
    axis : "time", "space" or "joint"
        ``"time"``: each place attends to itself in all frames. ``"space"``: each frame attends to
        itself. ``"joint"``: all of the video at once. Time and space one after the other is the
        divided attention of TimeSformer [1]_.
    causal : bool
        Whether no frame sees a later one: only with ``"time"``.
    scale, softcap
        As for `attention`.
    class_token : tuple of three arrays, (B, h, D), optional
        Query, key and value of one token that belongs to no place: every query sees its key beside
        those along `axis`, and its query attends to all of the video and itself.
    out : array, (B, T, H, W, h, Dv), optional
        Where to write the result.

    Returns
    -------
    array, (B, T, H, W, h, Dv)
    class_out : array, (B, h, Dv)
        Only with `class_token`.

    Raises
    ------
    TypeError, ValueError
        As `attention`; and for an unknown `axis`, or `causal` with another one than ``"time"``.

    References
    ----------
    .. [1] G. Bertasius, H. Wang, L. Torresani, "Is Space-Time Attention All You Need for Video
       Understanding?", ICML 2021.

    Examples
    --------
    >>> import marey, numpy as np
    >>> q, k, v = np.random.default_rng(0).random((3, 1, 8, 14, 14, 12, 64), dtype=np.float32)
    >>> y = marey.attention.space_time_attention(q, k, v, "time")
    >>> marey.attention.space_time_attention(y, k, v, "space").shape
    (1, 8, 14, 14, 12, 64)
    """
    name = "marey.space_time_attention"
    if axis not in _SPACE_TIME:
        raise ValueError(f"[{name}] axis: expected 'time', 'space' or 'joint'; found {axis!r}")
    if causal and axis != "time":
        raise ValueError(f"[{name}] causal: expected False with axis={axis!r}; found {causal!r}")
    first = to_array(name, "q", q)
    arrays = [
        first,
        *(to_array_like(name, argument, x, first) for argument, x in (("k", k), ("v", v))),
    ]
    for argument, x in zip("qkv", arrays, strict=True):
        if x.ndim != 6 or x.shape[:4] != arrays[0].shape[:4]:
            expected = "(B, T, H, W, h, D)" if argument == "q" else f"that of q {arrays[0].shape}"
            raise ValueError(f"[{name}] {argument}: expected shape {expected}; found {x.shape}")
    shape = (*arrays[0].shape[:5], arrays[2].shape[5])
    given = None if out is None else to_array_like(name, "out", out, first)
    if given is not None and given.shape != shape:
        raise ValueError(f"[{name}] out: expected shape {shape}; found {given.shape}")
    target = empty_like(first, shape, first.dtype) if given is None else given
    sequences = [_as_sequences(x, axis) for x in arrays]
    view = _as_sequences(target, axis)
    if class_token is not None and isinstance(first, _device.DeviceArray):
        raise ValueError(f"[{name}] class_token: expected None on a CUDA device; found one")
    token = None if class_token is None else _class_token(name, class_token, arrays)
    more = [None, None] if token is None else [_for_all(x, view.shape[:-3]) for x in token[1:]]
    left, right, alignment = limits(name, causal, None)
    factor, cap = scale_or_default(name, arrays[0], scale), softcap_or_zero(name, softcap)
    attend = kernels(name, first).attention
    options = (None, None, factor, cap, left, right, alignment, False)
    convert = from_numpy_like(q)
    if isinstance(first, _device.DeviceArray):
        _attend_on_device(name, attend, sequences, options, target, view)
        return plain(target) if given is None else out
    attend(*sequences, *options, view, *more)
    if not np.may_share_memory(view, target):
        target[...] = view.swapaxes(-2, -3).reshape(shape)
    result = convert(target) if given is None else out
    if token is None:
        return result
    of_class = np.empty((*token[0].shape[:2], 1, shape[5]), arrays[0].dtype)
    whole = [_as_sequences(x, "joint") for x in arrays[1:]]
    more = [x[:, :, None] for x in token[1:]]
    attend(
        token[0][:, :, None], *whole, None, None, factor, cap, None, None, 0, False, of_class, *more
    )
    return result, convert(of_class[:, :, 0])


def _attend_on_device(
    name: str,
    attend: Any,
    sequences: list[_device.DeviceArray],
    options: tuple[Any, ...],
    target: _device.DeviceArray,
    view: _device.DeviceArray,
) -> None:
    """Write to `target`; `view` is of its sequences, or of a copy's."""
    if view.view[0] != target.view[0]:
        raise ValueError(
            f"[{name}] out: expected an array whose sequences can be stepped through with one "
            f"stride; found strides of {target.view[3]} bytes"
        )
    attend(*sequences, *options, view)


def _class_token(
    name: str, class_token: tuple[Any, Any, Any], arrays: list[np.ndarray[Any, Any]]
) -> list[np.ndarray[Any, Any]]:
    """Return query (B, h, D), key and value."""
    if len(class_token) != 3:
        raise ValueError(
            f"[{name}] class_token: expected a query, a key and a value; found {len(class_token)}"
        )
    token = [to_numpy(name, "class_token", x) for x in class_token]
    for one, x in zip(token, arrays, strict=True):
        expected = (x.shape[0], *x.shape[4:])
        if one.shape != expected:
            raise ValueError(f"[{name}] class_token: expected shape {expected}; found {one.shape}")
        if one.dtype != x.dtype:
            raise TypeError(f"[{name}] class_token: expected {x.dtype}; found {one.dtype}")
    return token


def _for_all(x: np.ndarray[Any, Any], batch: tuple[int, ...]) -> np.ndarray[Any, Any]:
    """Return (B, h, D) as the one key of each sequence, (batch..., h, 1, D): a view."""
    B, h, D = x.shape
    return np.broadcast_to(x.reshape(B, *[1] * (len(batch) - 1), h, 1, D), (*batch, h, 1, D))
