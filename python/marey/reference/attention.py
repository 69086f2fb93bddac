"""Softmax attention, with the score matrix written out."""

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

__all__ = ["allowed_keys", "attention", "attention_backward"]


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


def attention_backward(
    grad: ArrayLike,
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
    dtype: DTypeLike = np.float64,
) -> tuple[NDArray[Any], ...]:
    """Compute the gradients of q, k, v, and of the bias if there is one.

    ::

        P      = exp(x - lse)
        grad_v = P^T grad
        grad_x = P (grad v^T - sum_s P grad v^T)
        grad_s = grad_x (1 - tanh(scale q k^T / softcap)^2)
        grad_q = scale grad_s k,   grad_k = scale grad_s^T q

    Parameters
    ----------
    grad : array_like, (..., h, L, Dv)
        The gradient of the result.
    q, k, v, mask, bias, causal, window, scale, softcap, dtype
        As for `attention`.

    Returns
    -------
    tuple of ndarray
        Of the shapes of q, k, v and bias.
    """
    grad, q, k, v = (np.asarray(x).astype(dtype) for x in (grad, q, k, v))
    heads, (L, D), S = k.shape[-3], q.shape[-2:], k.shape[-2]
    group = q.shape[-3] // max(heads, 1)
    kk, vv = (np.repeat(x, group, axis=-3) for x in (k, v))
    factor = q.dtype.type(1 / np.sqrt(D) if scale is None else scale)

    s = (q @ np.swapaxes(kk, -1, -2)) * factor
    x, slope = s, q.dtype.type(1)
    if softcap is not None:
        x = softcap * np.tanh(s / softcap)
        slope = 1 - (x / softcap) ** 2
    if bias is not None:
        x = x + np.asarray(bias, dtype)
    if mask is not None:
        x = np.where(mask, x, -np.inf)
    x = np.where(allowed_keys(L, S, causal, window), x, -np.inf)
    top = np.max(x, axis=-1, keepdims=True, initial=-np.inf)
    e = np.exp(x - np.where(np.isneginf(top), 0, top)).astype(dtype)
    total = e.sum(axis=-1, keepdims=True)
    p = e / np.where(total == 0, 1, total)

    grad_p = grad @ np.swapaxes(vv, -1, -2)
    grad_x = p * (grad_p - (p * grad_p).sum(axis=-1, keepdims=True))
    grad_s = grad_x * slope * factor

    def of_key_heads(y: NDArray[Any]) -> NDArray[Any]:
        return y.reshape(*y.shape[:-3], heads, group, *y.shape[-2:]).sum(axis=-3)

    grads = (
        grad_s @ kk,
        of_key_heads(np.swapaxes(grad_s, -1, -2) @ q),
        of_key_heads(np.swapaxes(p, -1, -2) @ grad),
    )
    if bias is None:
        return grads
    return (*grads, _sum_to(grad_x, np.shape(bias)))


def _sum_to(x: NDArray[Any], shape: tuple[int, ...]) -> NDArray[Any]:
    """Sum over the axes that broadcasting `shape` to that of `x` adds or repeats."""
    x = x.sum(axis=tuple(range(x.ndim - len(shape))))
    repeated = tuple(i for i, n in enumerate(shape) if n == 1)
    return x.sum(axis=repeated, keepdims=True)
