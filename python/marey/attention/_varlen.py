"""Attention of sequences of different lengths."""

from __future__ import annotations

from typing import Any

import numpy as np

from marey import _device
from marey._arrays import from_numpy_like, kernels, to_array, to_array_like
from marey.attention._options import (
    Causal,
    Window,
    limits,
    returned,
    scale_or_default,
    softcap_or_zero,
)


def attention_varlen(
    q: Any,
    k: Any,
    v: Any,
    cu_seqlens_q: Any,
    cu_seqlens_k: Any,
    *,
    causal: Causal = False,
    window: Window = None,
    scale: float | None = None,
    softcap: float | None = None,
    return_lse: bool = False,
    out: Any = None,
) -> Any:
    """Compute `attention` for sequences of different lengths, packed one after the other.

    Nothing is padded. There may be hundreds of thousands of sequences, of any lengths, 0 too.

    Parameters
    ----------
    q : array, (total_q, h, D)
        The queries of all sequences: float32, float64 or bfloat16, any strides.
    k : array, (total_k, h_kv, D)
        The keys.
    v : array, (total_k, h_kv, Dv)
        The values.
    cu_seqlens_q, cu_seqlens_k : array of int, (sequences + 1,)
        Where each sequence begins, and after the last one the total: sequence i has queries
        ``cu_seqlens_q[i]`` to ``cu_seqlens_q[i + 1]``, and they attend keys ``cu_seqlens_k[i]`` to
        ``cu_seqlens_k[i + 1]`` only. With arrays on a CUDA device they may lie there too, as int64;
        then nothing looks at what they hold.
    causal, window, scale, softcap, return_lse
        As for `attention`, for each sequence by itself.
    out : array, (total_q, h, Dv), optional
        Where to write the result.

    Returns
    -------
    out : array, (total_q, h, Dv)
    lse : array, (total_q, h)
        Only with `return_lse`.

    Raises
    ------
    TypeError, ValueError
        As `attention`; and if the offsets do not rise from 0 to the total.

    Examples
    --------
    >>> import marey, numpy as np
    >>> q, k, v = np.random.default_rng(0).random((3, 10, 4, 32), dtype=np.float32)
    >>> marey.attention.attention_varlen(q, k, v, [0, 3, 10], [0, 3, 10], causal=True).shape
    (10, 4, 32)
    """
    name = "marey.attention_varlen"
    queries = to_array(name, "q", q)
    left, right, alignment = limits(name, causal, window)
    result = kernels(name, queries).attention_varlen(
        queries,
        to_array_like(name, "k", k, queries),
        to_array_like(name, "v", v, queries),
        _offsets(name, "cu_seqlens_q", cu_seqlens_q, queries),
        _offsets(name, "cu_seqlens_k", cu_seqlens_k, queries),
        scale_or_default(name, queries, scale),
        softcap_or_zero(name, softcap),
        left,
        right,
        alignment,
        return_lse,
        None if out is None else to_array_like(name, "out", out, queries),
    )
    return returned(result, q, out, return_lse)


def attention_varlen_backward(
    grad: Any,
    q: Any,
    k: Any,
    v: Any,
    out: Any,
    lse: Any,
    cu_seqlens_q: Any,
    cu_seqlens_k: Any,
    *,
    causal: Causal = False,
    window: Window = None,
    scale: float | None = None,
    softcap: float | None = None,
) -> tuple[Any, Any, Any]:
    """Compute the gradients of `attention_varlen`.

    Parameters
    ----------
    grad : array, (total_q, h, Dv)
        The gradient of `out`, of its type.
    q, k, v, cu_seqlens_q, cu_seqlens_k, causal, window, scale, softcap
        As given to `attention_varlen`.
    out : array, (total_q, h, Dv)
        Its result.
    lse : array, (total_q, h)
        Its second result, with ``return_lse=True``.

    Returns
    -------
    grad_q, grad_k, grad_v : array
        Of the shapes and types of `q`, `k` and `v`.

    Raises
    ------
    TypeError, ValueError
        As `attention_varlen`.

    Examples
    --------
    >>> import marey, numpy as np
    >>> q, k, v = np.random.default_rng(0).random((3, 10, 4, 32), dtype=np.float32)
    >>> cu = [0, 3, 10]
    >>> out, lse = marey.attention.attention_varlen(q, k, v, cu, cu, return_lse=True)
    >>> grads = marey.attention.attention_varlen_backward(out, q, k, v, out, lse, cu, cu)
    >>> [x.shape for x in grads]
    [(10, 4, 32), (10, 4, 32), (10, 4, 32)]
    """
    name = "marey.attention_varlen_backward"
    arguments = {"grad": grad, "q": q, "k": k, "v": v, "out": out, "lse": lse}
    queries = to_array(name, "q", q)
    arrays = {
        argument: to_array_like(name, argument, x, queries) for argument, x in arguments.items()
    }
    left, right, alignment = limits(name, causal, window)
    grads = kernels(name, queries).attention_varlen_backward(
        *arrays.values(),
        _offsets(name, "cu_seqlens_q", cu_seqlens_q, queries),
        _offsets(name, "cu_seqlens_k", cu_seqlens_k, queries),
        scale_or_default(name, arrays["q"], scale),
        softcap_or_zero(name, softcap),
        left,
        right,
        alignment,
    )
    grad_q, grad_k, grad_v = map(from_numpy_like(q), grads)
    return grad_q, grad_k, grad_v


def _offsets(function: str, argument: str, offsets: Any, like: Any) -> Any:
    """Return the offsets as compiled code takes them: on a device, they may lie there."""
    if isinstance(like, _device.DeviceArray) and _device.library_of(offsets) is not None:
        return to_array_like(function, argument, offsets, like)
    array = np.asarray(offsets)
    if array.dtype.kind not in "iu":
        raise TypeError(f"[{function}] {argument}: expected integers; found {array.dtype}")
    return np.ascontiguousarray(array, np.int64)
