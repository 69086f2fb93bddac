"""Softmax attention, with the score matrix written out, and what surrounds it."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray
from scipy.special import erf

__all__ = [
    "allowed_keys",
    "attention",
    "attention_backward",
    "layer_norm",
    "layer_norm_backward",
    "linear",
    "multi_head_attention",
    "rotary",
    "transformer_block",
]


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
        return np.asarray(y.reshape(*y.shape[:-3], heads, group, *y.shape[-2:]).sum(axis=-3))

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
    return np.asarray(x.sum(axis=repeated, keepdims=True))


def linear(
    x: ArrayLike,
    weight: ArrayLike,
    bias: ArrayLike | None = None,
    *,
    activation: str | None = None,
    residual: ArrayLike | None = None,
    dtype: DTypeLike = np.float64,
) -> NDArray[Any]:
    """Compute ``activation(x weight^T + bias) + residual``."""
    y = np.asarray(x).astype(dtype) @ np.asarray(weight).astype(dtype).T
    if bias is not None:
        y = y + np.asarray(bias).astype(dtype)
    if activation == "relu":
        y = np.maximum(y, 0)
    if activation == "gelu":
        y = y / 2 * (1 + erf((y / np.sqrt(2)).astype(np.float64)).astype(dtype))
    return np.asarray(y if residual is None else y + np.asarray(residual).astype(dtype))


def layer_norm(
    x: ArrayLike,
    weight: ArrayLike | None = None,
    bias: ArrayLike | None = None,
    *,
    eps: float = 1e-5,
    dtype: DTypeLike = np.float64,
) -> NDArray[Any]:
    """Normalise the last axis to mean 0 and variance 1; multiply by `weight`, add `bias`."""
    x = np.asarray(x).astype(dtype)
    d = x - x.mean(axis=-1, keepdims=True)
    y = d / np.sqrt((d * d).mean(axis=-1, keepdims=True) + x.dtype.type(eps))
    if weight is not None:
        y = y * np.asarray(weight).astype(dtype)
    return np.asarray(y if bias is None else y + np.asarray(bias).astype(dtype))


def layer_norm_backward(
    grad: ArrayLike,
    x: ArrayLike,
    weight: ArrayLike | None = None,
    *,
    eps: float = 1e-5,
    dtype: DTypeLike = np.float64,
) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
    """Compute the gradients of x, weight and bias."""
    grad, x = (np.asarray(a).astype(dtype) for a in (grad, x))
    d = x - x.mean(axis=-1, keepdims=True)
    rstd = 1 / np.sqrt((d * d).mean(axis=-1, keepdims=True) + x.dtype.type(eps))
    n = d * rstd
    g = grad if weight is None else grad * np.asarray(weight).astype(dtype)
    grad_x = rstd * (g - g.mean(axis=-1, keepdims=True) - n * (g * n).mean(axis=-1, keepdims=True))
    rows = tuple(range(x.ndim - 1))
    return grad_x, (grad * n).sum(axis=rows), grad.sum(axis=rows)


def rotary(
    x: ArrayLike,
    positions: ArrayLike,
    *,
    sections: tuple[int, ...],
    theta: float = 10000.0,
    interleaved: bool = False,
    dtype: DTypeLike = np.float64,
) -> NDArray[Any]:
    """Turn each pair of items of x (..., L, D) by the angle of its position, (L, axes)."""
    parts = np.split(np.asarray(x).astype(dtype), np.cumsum(sections)[:-1], axis=-1)
    places = np.asarray(positions, np.float64).reshape(np.shape(x)[-2], -1).T
    for part, place in zip(parts, places, strict=True):
        n = part.shape[-1]
        turn = np.exp(1j * np.outer(place, theta ** (-np.arange(0, n, 2) / max(n, 1))))
        first, second = (
            (part[..., 0::2], part[..., 1::2])
            if interleaved
            else (part[..., : n // 2], part[..., n // 2 :])
        )
        z = (first + 1j * second) * turn
        first[...], second[...] = z.real, z.imag
    return np.concatenate(parts, axis=-1)


def multi_head_attention(
    query: ArrayLike,
    key: ArrayLike | None = None,
    value: ArrayLike | None = None,
    *,
    num_heads: int,
    in_proj_weight: ArrayLike,
    out_proj_weight: ArrayLike,
    in_proj_bias: ArrayLike | None = None,
    out_proj_bias: ArrayLike | None = None,
    **options: Any,
) -> NDArray[Any]:
    """Project, split into heads, attend, join, and project."""
    key = query if key is None else key
    value = key if value is None else value
    weights = np.split(np.asarray(in_proj_weight), 3)
    biases = [None] * 3 if in_proj_bias is None else np.split(np.asarray(in_proj_bias), 3)
    heads = []
    for x, weight, bias in zip((query, key, value), weights, biases, strict=True):
        y = linear(x, weight, bias)
        heads.append(np.moveaxis(y.reshape(*y.shape[:-1], num_heads, -1), -2, -3))
    y = np.moveaxis(attention(*heads, **options), -3, -2)
    return linear(y.reshape(*y.shape[:-2], -1), out_proj_weight, out_proj_bias)


def transformer_block(
    x: ArrayLike,
    weights: Mapping[str, ArrayLike],
    num_heads: int,
    memory: ArrayLike | None = None,
    *,
    norm_first: bool = True,
    activation: str = "gelu",
    eps: float = 1e-5,
    mask: ArrayLike | None = None,
    causal: bool = False,
    memory_mask: ArrayLike | None = None,
) -> NDArray[Any]:
    """Compute a layer of an encoder, or with `memory` of a decoder."""

    def heads(part: str, y: NDArray[Any], other: ArrayLike | None, **options: Any) -> NDArray[Any]:
        return multi_head_attention(
            y,
            other,
            num_heads=num_heads,
            in_proj_weight=weights[f"{part}.in_proj_weight"],
            in_proj_bias=weights.get(f"{part}.in_proj_bias"),
            out_proj_weight=weights[f"{part}.out_proj.weight"],
            out_proj_bias=weights.get(f"{part}.out_proj.bias"),
            **options,
        )

    def feed_forward(y: NDArray[Any]) -> NDArray[Any]:
        y = linear(y, weights["linear1.weight"], weights.get("linear1.bias"), activation=activation)
        return linear(y, weights["linear2.weight"], weights.get("linear2.bias"))

    parts = [lambda y: heads("self_attn", y, None, mask=mask, causal=causal), feed_forward]
    if memory is not None:
        parts.insert(1, lambda y: heads("multihead_attn", y, memory, mask=memory_mask))
    y = np.asarray(x).astype(np.float64)
    for i, part in enumerate(parts, 1):
        norm = weights[f"norm{i}.weight"], weights.get(f"norm{i}.bias")
        if norm_first:
            y = y + part(layer_norm(y, *norm, eps=eps))
        else:
            y = layer_norm(y + part(y), *norm, eps=eps)
    return y
