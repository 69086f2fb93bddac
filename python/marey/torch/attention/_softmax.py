"""Softmax attention."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch

from marey import attention as plain
from marey.torch._operation import gradient, new, operation

if TYPE_CHECKING:
    from torch import Tensor

    from marey.torch._operation import Call

Causal = Literal["top_left", "bottom_right"] | bool
Window = int | tuple[int | None, int | None] | None

# What all kinds of attention have in common, as schemas have it.
LIMITS = "str causal, int? left, int? right, float? scale, float? softcap"
_CAUSAL: dict[Causal, str] = {
    False: "no",
    True: "square",
    "top_left": "top_left",
    "bottom_right": "bottom_right",
}
_BACK: dict[str, Any] = {text: causal for causal, text in _CAUSAL.items()}


def limits(
    function: str, causal: Causal, window: Window, scale: float | None, softcap: float | None
) -> tuple[Any, ...]:
    """Return the options in the order and the types of the schema."""
    if causal not in _CAUSAL:
        raise ValueError(
            f"[{function}] causal: expected False, True, 'top_left' or 'bottom_right'; "
            f"found {causal!r}"
        )
    left, right = window if isinstance(window, tuple) else (window, window)
    return _CAUSAL[causal], left, right, scale, softcap


def keywords(causal: str, left: Any, right: Any, scale: Any, softcap: Any) -> dict[str, Any]:
    """Return the options as `marey.attention` takes them."""
    window = None if left is None and right is None else (left, right)
    return {"causal": _BACK[causal], "window": window, "scale": scale, "softcap": softcap}


def _float32(bias: Any) -> Any:
    """Return what is added to scores, which are float32, where autocast has cast it."""
    return bias if bias is None or bias.dtype.itemsize > 2 else bias.astype(np.float32)


_OPTIONS = f"Tensor? mask, Tensor? bias, {LIMITS}"


def _forward(q: Any, k: Any, v: Any, mask: Any, bias: Any, *options: Any) -> Any:
    return plain.attention(
        q, k, v, mask=mask, bias=_float32(bias), **keywords(*options), return_lse=True
    )


def _backward(*arguments: Any) -> list[Any]:
    arrays, (mask, bias), options, bias_grad = (
        arguments[:6],
        arguments[6:8],
        arguments[8:-1],
        arguments[-1],
    )
    grads = plain.attention_backward(
        *arrays, mask=mask, bias=_float32(bias), **keywords(*options), bias_grad=bias_grad
    )
    return list(grads)


def _shapes(call: Call) -> tuple[Tensor, Tensor]:
    shape = [*call.q.shape[:-1], call.v.shape[-1]]
    double = call.q.dtype is torch.float64
    lse = call.q.new_empty(call.q.shape[:-1], dtype=torch.float64 if double else torch.float32)
    return call.q.new_empty(shape), lse


_attention = operation(
    f"attention(Tensor q, Tensor k, Tensor v, {_OPTIONS}) -> (Tensor, Tensor)",
    _forward,
    _shapes,
    autocast=torch.bfloat16,
)
_attention_backward = operation(
    "attention_backward(Tensor grad, Tensor q, Tensor k, Tensor v, Tensor out, Tensor lse, "
    f"{_OPTIONS}, bool bias_grad) -> Tensor[]",
    _backward,
    lambda call: [
        new(tensor) for tensor in (call.q, call.k, call.v, *([call.bias] if call.bias_grad else []))
    ],
)


def _gradient(call: Call, grad: Tensor, _: Tensor) -> dict[str, Any]:
    bias_grad = call.bias is not None and call.needs("bias")
    grads = _attention_backward(
        grad,
        call.q,
        call.k,
        call.v,
        call.result0,
        call.result1,
        call.mask,
        call.bias,
        call.causal,
        call.left,
        call.right,
        call.scale,
        call.softcap,
        bias_grad,
    )
    found = dict(zip(("q", "k", "v"), grads, strict=False))
    return {**found, "bias": grads[3]} if bias_grad else found


gradient(
    _attention,
    _gradient,
    save=["q", "k", "v", "mask", "bias", "result0", "result1"],
    constant=["result1"],
)


def attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    mask: Tensor | None = None,
    bias: Tensor | None = None,
    causal: Causal = False,
    window: Window = None,
    scale: float | None = None,
    softcap: float | None = None,
    return_lse: bool = False,
) -> Any:
    """Compute softmax attention: `marey.attention.attention`.

    Differentiable in `q`, `k`, `v` and `bias`. The arguments are torch's
    ``scaled_dot_product_attention``'s, but `mask` is boolean and `bias` is what is added.

    Parameters
    ----------
    q : Tensor, (..., h, L, D)
        float32, float64 or bfloat16; any strides.
    k : Tensor, (..., h_kv, S, D)
        `h_kv` divides h.
    v : Tensor, (..., h_kv, S, Dv)
    mask : Tensor of bool, optional
        Broadcasts to (..., h, L, S); True where attention is allowed.
    bias : Tensor, optional
        Broadcasts to (..., h, L, S); added to the scores. float32 with bfloat16.
    causal, window, scale, softcap
        As for `marey.attention.attention`.
    return_lse : bool
        Whether to return the logarithm of the sum of exponentials too, which has no gradient.

    Returns
    -------
    out : Tensor, (..., h, L, Dv)
    lse : Tensor, (..., h, L)
        Only with `return_lse`.
    """
    options = limits("marey.torch.attention", causal, window, scale, softcap)
    out, lse = _attention(q, k, v, mask, bias, *options)
    return (out, lse) if return_lse else out


# (B, T, H, W, h, D) to (batch..., h, sequence..., D), and how many axes are the sequence.
_SPACE_TIME = {
    "time": ((0, 2, 3, 4, 1, 5), 1),
    "space": ((0, 1, 4, 2, 3, 5), 2),
    "joint": ((0, 4, 1, 2, 3, 5), 3),
}


def space_time_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    axis: Literal["time", "space", "joint"],
    *,
    causal: bool = False,
    scale: float | None = None,
    softcap: float | None = None,
) -> Tensor:
    """Compute attention within a video: `marey.attention.space_time_attention`.

    Parameters
    ----------
    q, k : Tensor, (B, T, H, W, h, D)
        Queries and keys; `k` and `v` may have fewer heads.
    v : Tensor, (B, T, H, W, h, Dv)
        Values.
    axis : "time", "space" or "joint"
        What attends to what.
    causal : bool
        Whether no frame sees a later one: only with ``"time"``.
    scale, softcap
        As for `attention`.

    Returns
    -------
    Tensor, (B, T, H, W, h, Dv)
    """
    name = "marey.torch.space_time_attention"
    if axis not in _SPACE_TIME:
        raise ValueError(f"[{name}] axis: expected 'time', 'space' or 'joint'; found {axis!r}")
    if causal and axis != "time":
        raise ValueError(f"[{name}] causal: expected False with axis={axis!r}; found {causal!r}")
    order, length = _SPACE_TIME[axis]

    def sequences(x: Tensor) -> Tensor:
        if x.ndim != 6:
            raise ValueError(
                f"[{name}] q, k, v: expected shape (B, T, H, W, h, D); found {tuple(x.shape)}"
            )
        moved = x.permute(order)
        return moved.flatten(5 - length, 4)

    y = attention(
        sequences(q), sequences(k), sequences(v), causal=causal, scale=scale, softcap=softcap
    )
    back = [order.index(a) for a in range(6)]
    moved_shape = [q.shape[a] for a in order[:5]]
    return y.reshape(*moved_shape, y.shape[-1]).permute(back)
