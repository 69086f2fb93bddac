"""Attention of sequences of different lengths."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from marey import attention as plain
from marey.torch._operation import gradient, new, operation
from marey.torch.attention._softmax import LIMITS, Causal, Window, keywords, limits

if TYPE_CHECKING:
    from torch import Tensor

    from marey.torch._operation import Call

_OPTIONS = f"Tensor cu_seqlens_q, Tensor cu_seqlens_k, {LIMITS}"


def _forward(q: Any, k: Any, v: Any, begins_q: Any, begins_k: Any, *options: Any) -> Any:
    return plain.attention_varlen(
        q, k, v, begins_q, begins_k, **keywords(*options), return_lse=True
    )


def _backward(*arguments: Any) -> tuple[Any, Any, Any]:
    arrays, options = arguments[:8], arguments[8:]
    return plain.attention_varlen_backward(*arrays, **keywords(*options))


def _shapes(call: Call) -> tuple[Tensor, Tensor]:
    double = call.q.dtype is torch.float64
    lse = call.q.new_empty(call.q.shape[:-1], dtype=torch.float64 if double else torch.float32)
    return new(call.q, [*call.q.shape[:-1], call.v.shape[-1]]), lse


_attention_varlen = operation(
    f"attention_varlen(Tensor q, Tensor k, Tensor v, {_OPTIONS}) -> (Tensor, Tensor)",
    _forward,
    _shapes,
    autocast=torch.bfloat16,
)
_attention_varlen_backward = operation(
    "attention_varlen_backward(Tensor grad, Tensor q, Tensor k, Tensor v, Tensor out, Tensor lse, "
    f"{_OPTIONS}) -> (Tensor, Tensor, Tensor)",
    _backward,
    lambda call: tuple(new(tensor) for tensor in (call.q, call.k, call.v)),
)


def _gradient(call: Call, grad: Tensor, _: Tensor) -> dict[str, Any]:
    grads = _attention_varlen_backward(
        grad,
        call.q,
        call.k,
        call.v,
        call.result0,
        call.result1,
        call.cu_seqlens_q,
        call.cu_seqlens_k,
        call.causal,
        call.left,
        call.right,
        call.scale,
        call.softcap,
    )
    return dict(zip(("q", "k", "v"), grads, strict=True))


gradient(
    _attention_varlen,
    _gradient,
    save=["q", "k", "v", "cu_seqlens_q", "cu_seqlens_k", "result0", "result1"],
    constant=["result1"],
)


def attention_varlen(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    cu_seqlens_q: Any,
    cu_seqlens_k: Any,
    *,
    causal: Causal = False,
    window: Window = None,
    scale: float | None = None,
    softcap: float | None = None,
    return_lse: bool = False,
) -> Any:
    """Compute attention for packed sequences: `marey.attention.attention_varlen`.

    Differentiable in `q`, `k` and `v`.

    Parameters
    ----------
    q : Tensor, (total_q, h, D)
        float32, float64 or bfloat16; any strides.
    k : Tensor, (total_k, h_kv, D)
    v : Tensor, (total_k, h_kv, Dv)
    cu_seqlens_q, cu_seqlens_k : Tensor or sequence of int, (sequences + 1,)
        Where each sequence begins, and after the last one the total.
    causal, window, scale, softcap
        As for `marey.attention.attention_varlen`.
    return_lse : bool
        Whether to return the logarithm of the sum of exponentials too, which has no gradient.

    Returns
    -------
    out : Tensor, (total_q, h, Dv)
    lse : Tensor, (total_q, h)
        Only with `return_lse`.
    """
    options = limits("marey.torch.attention_varlen", causal, window, scale, softcap)
    begins = [
        cu if isinstance(cu, torch.Tensor) else torch.as_tensor(cu)
        for cu in (cu_seqlens_q, cu_seqlens_k)
    ]
    out, lse = _attention_varlen(q, k, v, *begins, *options)
    return (out, lse) if return_lse else out
