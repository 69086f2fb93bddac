"""Attention: forward, backward, packed sequences and one query."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from bench.gpu_gate.workloads.work import Work, copied, nbytes

if TYPE_CHECKING:
    from bench.gpu_gate.libraries import Array


Operand = tuple[tuple[int, ...], str]


def _operands(
    batch: int, heads: tuple[int, int], length: int, depth: int, dtype: str, *, causal: bool
) -> tuple[Operand, Operand, str, float]:
    """Return q, k and v's shape, a label, and how many pairs of a query and a key there are."""
    label = f"B{batch} h{heads[0]}/{heads[1]} L{length} D{depth} {dtype}"
    pairs = length * (length + 1) / 2 if causal else float(length * length)
    q, kv = ((batch, count, length, depth) for count in heads)
    return (q, dtype), (kv, dtype), label, pairs


def attention_work(
    batch: int,
    heads: tuple[int, int],
    length: int,
    depth: int,
    dtype: str,
    *,
    causal: bool = False,
    target: float = 0.6,
) -> list[Work]:
    from marey import attention as ours
    from marey.reference import attention as reference

    q, kv, label, pairs = _operands(batch, heads, length, depth, dtype, causal=causal)
    return [
        Work(
            f"attention{', causal' if causal else ''}, {label}",
            (q, kv, kv),
            lambda q, k, v, out: ours.attention(q, k, v, causal=causal, out=out),
            q,
            lambda q, k, v: reference.attention(q, k, v, causal=causal),
            2**-6 if dtype == "bfloat16" else 1e-5,
            nbytes(q, q, kv, kv),
            4.0 * batch * heads[0] * depth * pairs,
            "sdpa",
            target,
            {"causal": causal, "grouped": heads[0] != heads[1]},
        )
    ]


def biased_work(
    heads: tuple[int, int], lengths: tuple[int, int], depth: int, dtype: str, which: int
) -> list[Work]:
    """Return attention with a bias of each head and a softcap; or its gradient `which` back."""
    from marey import attention as ours

    q, kv = ((2, heads[0], lengths[0], depth), dtype), ((2, heads[1], lengths[1], depth), dtype)
    bias = ((heads[0], *lengths), "float64" if dtype == "float64" else "float32")
    label = f"h{heads[0]}/{heads[1]} L{lengths[0]} S{lengths[1]} D{depth} {dtype}"
    options: dict[str, Any] = {"softcap": 3.0}

    def run(grad: Any, q: Any, k: Any, v: Any, bias: Any) -> Any:
        y, lse = ours.attention(q, k, v, bias=bias, return_lse=True, **options)
        if which < 0:
            return y
        back = ours.attention_backward
        return back(grad, q, k, v, y, lse, bias=bias, bias_grad=True, **options)[which]

    def reference(*arrays: Array) -> Array:
        return np.asarray(run(*(a.astype(np.float64) for a in arrays)))

    name = "attention" if which < 0 else f"attention backward of {('q', 'k', 'v', 'bias')[which]}"
    return [
        Work(
            f"{name} with bias and softcap, {label}",
            (q, q, kv, kv, bias),
            lambda *arrays: copied(arrays[-1], run(*arrays[:-1])),
            (q, q, kv, kv, bias)[which + 1],
            reference,
            2**-5 if dtype == "bfloat16" else 1e-5,
        )
    ]


def attention_backward_work(
    batch: int,
    heads: tuple[int, int],
    length: int,
    depth: int,
    dtype: str,
    *,
    causal: bool = False,
    which: int = 0,
) -> list[Work]:
    """Return the way there and back; what is compared is gradient `which` of q, k and v."""
    from marey import attention as ours

    q, kv, label, pairs = _operands(batch, heads, length, depth, dtype, causal=causal)

    def grads(grad: Any, *qkv: Any) -> Any:
        y, lse = ours.attention(*qkv, causal=causal, return_lse=True)
        return ours.attention_backward(grad, *qkv, y, lse, causal=causal)[which]

    def reference(*arrays: Array) -> Array:
        return np.asarray(grads(*(x.astype(np.float64) for x in arrays)))

    return [
        Work(
            f"attention backward of {'qkv'[which]}{', causal' if causal else ''}, {label}",
            (q, q, kv, kv),
            lambda *arrays: copied(arrays[-1], grads(*arrays[:-1])),
            (q, kv, kv)[which],
            reference,
            2**-5 if dtype == "bfloat16" else 1e-5,
            nbytes(q, q, q, q, kv, kv, kv, kv),
            14.0 * batch * heads[0] * depth * pairs,
            "sdpa backward",
            0.45,
            {"causal": causal, "grouped": heads[0] != heads[1]},
        )
    ]


def packed_work(lengths: tuple[int, ...], heads: int, depth: int, dtype: str) -> list[Work]:
    from marey import attention as ours

    cu = np.cumsum([0, *lengths])
    x = ((int(cu[-1]), heads, depth), dtype)

    def reference(*arrays: Array) -> Array:
        wide = [a.astype(np.float64) for a in arrays]
        return np.asarray(ours.attention_varlen(*wide, cu, cu, causal=True))

    return [
        Work(
            f"attention_varlen, {len(lengths)} sequences of {cu[-1]}, h{heads} D{depth} {dtype}",
            (x, x, x),
            lambda q, k, v, out: ours.attention_varlen(q, k, v, cu, cu, causal=True, out=out),
            x,
            reference,
            2**-6 if dtype == "bfloat16" else 1e-5,
            nbytes(x, x, x, x),
        )
    ]


def decode_work(heads: tuple[int, int], keys: int, depth: int, dtype: str) -> list[Work]:
    from marey import attention as ours
    from marey.reference import attention as reference

    q, kv = ((heads[0], 1, depth), dtype), ((heads[1], keys, depth), dtype)
    return [
        Work(
            f"attention, one query, h{heads[0]}/{heads[1]} S{keys} D{depth} {dtype}",
            (q, kv, kv),
            lambda q, k, v, out: ours.attention(q, k, v, out=out),
            q,
            reference.attention,
            2**-6 if dtype == "bfloat16" else 1e-5,
            nbytes(q, q, kv, kv),
            target=0.5,
        )
    ]
