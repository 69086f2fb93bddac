"""Softmax attention, with the score matrix written out."""

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

__all__ = ["allowed_keys", "attention"]


def allowed_keys(
    L: int,
    S: int,
    causal: bool | str = False,
    window: int | tuple[int | None, int | None] | None = None,
) -> NDArray[np.bool_]:
    """Return which keys each query sees by the causal order and the window, as (L, S).

    Query l stands at key l, with ``causal="bottom_right"`` at key ``l + S - L``.
    """
    if (causal is True or (not causal and window is not None)) and L != S:
        raise ValueError(f"causal: expected 'top_left' or 'bottom_right' for L = {L}, S = {S}")
    place = np.arange(L)[:, None] + (S - L if causal == "bottom_right" else 0)
    distance = np.arange(S)[None, :] - place
    left, right = window if isinstance(window, tuple) else (window, window)
    allowed = np.ones((L, S), bool)
    if left is not None:
        allowed &= distance >= -left
    if right is not None:
        allowed &= distance <= right
    if causal:
        allowed &= distance <= 0
    return allowed


def attention(
    q: ArrayLike,
    k: ArrayLike,
    v: ArrayLike,
    *,
    mask: ArrayLike | None = None,
    bias: ArrayLike | None = None,
    causal: bool | str = False,
    window: int | tuple[int | None, int | None] | None = None,
    scale: float | None = None,
    softcap: float | None = None,
    return_lse: bool = False,
    dtype: DTypeLike = np.float64,
) -> Any:
    """Compute softmax attention.

    ::

        x   = softcap(scale q k^T) + bias,   -inf where not allowed
        lse = log sum_s exp x
        out = exp(x - lse) v

    Parameters
    ----------
    q, k, v : array_like
        (..., h, L, D), (..., h_kv, S, D) and (..., h_kv, S, Dv).
    mask, bias, causal, window, scale, softcap, return_lse
        As for `marey.attention.attention`.
    dtype : dtype
        What to compute in.

    Returns
    -------
    ndarray, (..., h, L, Dv), or (ndarray, ndarray) with the lse of shape (..., h, L)
    """
    q, k, v = (np.asarray(x).astype(dtype) for x in (q, k, v))
    group = q.shape[-3] // max(k.shape[-3], 1)
    k, v = (np.repeat(x, group, axis=-3) for x in (k, v))
    (L, D), S = q.shape[-2:], k.shape[-2]

    x = (q @ np.swapaxes(k, -1, -2)) * q.dtype.type(1 / np.sqrt(D) if scale is None else scale)
    if softcap is not None:
        x = softcap * np.tanh(x / softcap)
    if bias is not None:
        x = x + np.asarray(bias, dtype)
    if mask is not None:
        x = np.where(mask, x, -np.inf)
    x = np.where(allowed_keys(L, S, causal, window), x, -np.inf)

    top = np.max(x, axis=-1, keepdims=True, initial=-np.inf)
    top = np.where(np.isneginf(top), 0, top)  # a query with nothing to attend to
    e = np.exp(x - top).astype(dtype)
    total = e.sum(axis=-1, keepdims=True)
    out = e / np.where(total == 0, 1, total) @ v
    if not return_lse:
        return out
    with np.errstate(divide="ignore"):
        return out, (top + np.log(total))[..., 0].astype(dtype)
