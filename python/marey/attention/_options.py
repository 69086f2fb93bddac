"""The options that all kinds of attention have in common, as compiled code takes them."""

from __future__ import annotations

import math
from typing import Any, Literal

import numpy as np

from marey import _arguments
from marey._arrays import broadcast_to, from_numpy_like, to_array_like

Causal = Literal["top_left", "bottom_right"] | bool
Window = int | tuple[int | None, int | None] | None

_UNLIMITED = 2**61
_ALIGNMENT = {False: 0, True: 0, "top_left": 1, "bottom_right": 2}


def limits(function: str, causal: Causal, window: Window) -> tuple[int | None, int | None, int]:
    """Return how far a query sees to the left and to the right, and how the two are aligned."""
    if causal is False and window is None:
        return None, None, _ALIGNMENT[False]
    if not isinstance(causal, (bool, np.bool_, str)) or causal not in _ALIGNMENT:
        raise ValueError(
            f"[{function}] causal: expected False, True, 'top_left' or 'bottom_right'; "
            f"found {causal!r}"
        )
    sides = window if isinstance(window, tuple) else (window, window)
    if len(sides) != 2:
        raise ValueError(
            f"[{function}] window: expected an int or a pair (left, right); found {window!r}"
        )
    left, right = (
        None if side is None else _arguments.integer(function, "window", side, 0) for side in sides
    )
    # Compiled code adds places of keys to these.
    left, right = (None if side is None or side >= _UNLIMITED else side for side in (left, right))
    if causal:
        right = 0
    return left, right, _ALIGNMENT[causal]


def scale_or_default(function: str, q: Any, scale: float | None) -> float:
    """Return the factor of the scores, 1 / sqrt(D) if not given."""
    if scale is not None:
        return _arguments.number(function, "scale", scale)
    return 1.0 / math.sqrt(max(q.shape[-1], 1)) if q.ndim else 1.0


def softcap_or_zero(function: str, softcap: float | None) -> float:
    return 0.0 if softcap is None else _arguments.positive(function, "softcap", softcap)


def broadcast(function: str, argument: str, array: Any, shape: tuple[int, ...], like: Any) -> Any:
    """Return a view of `array`, of the kind of `like`, of this shape, without copying."""
    source = to_array_like(function, argument, array, like)
    try:
        return broadcast_to(source, shape)
    except ValueError:
        raise ValueError(
            f"[{function}] {argument}: expected a shape that broadcasts to {shape}; "
            f"found {source.shape}"
        ) from None


def scores_shape(q: Any, k: Any) -> tuple[int, ...]:
    return (*q.shape[:-1], k.shape[-2] if k.ndim >= 2 else 0)


def mask_or_none(function: str, mask: Any, shape: tuple[int, ...], like: Any) -> Any:
    if mask is None:
        return None
    allowed = broadcast(function, "mask", mask, shape, like)
    if allowed.dtype != np.bool_:
        raise TypeError(
            f"[{function}] mask: expected bool, True where attention is allowed (an additive one "
            f"is bias=); found {allowed.dtype}"
        )
    return allowed.view(np.uint8) if isinstance(allowed, np.ndarray) else allowed


def returned(result: Any, q: Any, out: Any, return_lse: bool) -> Any:
    """Return what the compiled function gave as the kind of `q`, or `out`."""
    convert = from_numpy_like(q)
    if not return_lse:
        return convert(result) if out is None else out
    computed, lse = result
    return (convert(computed) if out is None else out), convert(lse)
