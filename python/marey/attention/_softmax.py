"""Attention, whole: `attention` and its gradients."""

from __future__ import annotations

from typing import Any

from marey._arrays import (
    broadcast_to,
    from_numpy_like,
    kernels,
    plain,
    to_array,
    to_array_like,
    zeros_like,
)
from marey.attention._options import (
    Causal,
    Window,
    broadcast,
    limits,
    mask_or_none,
    returned,
    scale_or_default,
    scores_shape,
    softcap_or_zero,
)


def attention(
    q: Any,
    k: Any,
    v: Any,
    *,
    mask: Any = None,
    bias: Any = None,
    causal: Causal = False,
    window: Window = None,
    scale: float | None = None,
    softcap: float | None = None,
    return_lse: bool = False,
    out: Any = None,
) -> Any:
    r"""Compute softmax attention.

    .. math::
        x_{ls} = \mathrm{softcap}(\mathrm{scale}\; q_l \cdot k_s) + \mathrm{bias}_{ls}, \qquad
        o_l = \sum_s \frac{e^{x_{ls}}}{\sum_t e^{x_{lt}}} v_s

    The result is exact; the scores exist only in blocks, so memory is linear in L and S. A query
    with nothing to attend to gives zeros. The result does not depend on the number of threads.

    Parameters
    ----------
    q : array, (..., h, L, D)
        Queries: float32, float64 or bfloat16, any strides. Leading axes are batch.
    k : array, (..., h_kv, S, D)
        Keys, of the type of `q`. `h_kv` divides h: query head i reads key head ``i // (h // h_kv)``
        (grouped-query attention; multi-query with ``h_kv = 1``).
    v : array, (..., h_kv, S, Dv)
        Values, of the type of `q`.
    mask : array of bool, optional
        Broadcasts to (..., h, L, S); True where attention is allowed.
    bias : array, optional
        Broadcasts to (..., h, L, S); added to the scores. Of the type of `q` (float32 for
        bfloat16). ``-inf`` forbids, as a mask does.
    causal : bool, "top_left" or "bottom_right"
        Query l sees no key after its own place: key l (``"top_left"``), or key ``l + S - L``
        (``"bottom_right"``: the last query sees all keys, as when decoding). True needs L == S,
        where the two are one.
    window : int or (int or None, int or None), optional
        A query sees at most so many keys to the left and right of its own place, which it sees too.
        With L != S, `causal` must say where that is.
    scale : float, optional
        Default ``1 / sqrt(D)``.
    softcap : float, optional
        Limits scaled scores to ``softcap * tanh(score / softcap)``.
    return_lse : bool
        Whether to return the logarithm of the sum of exponentials too, which `attention_backward`
        needs, and with which partial results over keys are merged.
    out : array, (..., h, L, Dv), optional
        Where to write the result. Any strides; must not overlap an input.

    Returns
    -------
    out : array, (..., h, L, Dv)
        Of the type of `q`.
    lse : array, (..., h, L)
        Only with `return_lse`: float32, float64 for float64; -inf where there is nothing to attend
        to.

    Raises
    ------
    TypeError
        If an argument is not an array, or of another type.
    ValueError
        If a shape does not fit, or a causal order or window is ambiguous.

    Notes
    -----
    Each thread works in at most 256 rows of queries and results and 128 keys and values of the type
    of the computation.

    References
    ----------
    .. [1] T. Dao, D. Fu, S. Ermon, A. Rudra, C. Ré, "FlashAttention: Fast and Memory-Efficient
       Exact Attention with IO-Awareness", NeurIPS 2022.
    .. [2] M. Milakov, N. Gimelshein, "Online normalizer calculation for softmax", 2018.

    Examples
    --------
    >>> import marey, numpy as np
    >>> q, k, v = np.random.default_rng(0).random((3, 2, 4, 100, 32), dtype=np.float32)
    >>> marey.attention.attention(q, k, v, causal=True).shape
    (2, 4, 100, 32)
    """
    name = "marey.attention"
    queries = to_array(name, "q", q)
    keys = to_array_like(name, "k", k, queries)
    values = to_array_like(name, "v", v, queries)
    left, right, alignment = limits(name, causal, window)
    shape = scores_shape(queries, keys)
    added = None if bias is None else broadcast(name, "bias", bias, shape, queries)
    result = kernels(name, queries).attention(
        queries,
        keys,
        values,
        mask_or_none(name, mask, shape, queries),
        added,
        scale_or_default(name, queries, scale),
        softcap_or_zero(name, softcap),
        left,
        right,
        alignment,
        return_lse,
        None if out is None else to_array_like(name, "out", out, queries),
    )
    return returned(result, q, out, return_lse)


def attention_backward(
    grad: Any,
    q: Any,
    k: Any,
    v: Any,
    out: Any,
    lse: Any,
    *,
    mask: Any = None,
    bias: Any = None,
    causal: Causal = False,
    window: Window = None,
    scale: float | None = None,
    softcap: float | None = None,
    bias_grad: bool = False,
) -> tuple[Any, ...]:
    r"""Compute the gradients of `attention`.

    The scores are computed again, block by block: memory is linear in L and S. Gradients do not
    depend on the number of threads.

    Parameters
    ----------
    grad : array, (..., h, L, Dv)
        The gradient of `out`, of its type.
    q, k, v : array
        As given to `attention`, and so all options.
    out : array, (..., h, L, Dv)
        The result of `attention`.
    lse : array, (..., h, L)
        Its second result, with ``return_lse=True``.
    mask, bias, causal, window, scale, softcap
        As given to `attention`.
    bias_grad : bool
        Whether to return the gradient of `bias` too.

    Returns
    -------
    grad_q, grad_k, grad_v : array
        Of the shapes and types of `q`, `k` and `v`. A query with nothing to attend to has gradient
        zero.
    grad_bias : array
        Only with `bias_grad`: of the shape of `bias`, summed over the axes that it is broadcast
        along.

    Raises
    ------
    TypeError, ValueError
        As `attention`; and if `bias_grad` is asked for without a bias.

    Notes
    -----
    Each thread works in three times 256 rows of queries and results, and the keys and values of a
    head, of the type of the computation. Where there are fewer than 16 heads in all, each one's
    queries are split in up to eight parts, which take those of keys and values once more.

    References
    ----------
    .. [1] T. Dao, D. Fu, S. Ermon, A. Rudra, C. Ré, "FlashAttention: Fast and Memory-Efficient
       Exact Attention with IO-Awareness", NeurIPS 2022, algorithm 4.

    Examples
    --------
    >>> import marey, numpy as np
    >>> q, k, v = np.random.default_rng(0).random((3, 2, 4, 100, 32), dtype=np.float32)
    >>> out, lse = marey.attention.attention(q, k, v, return_lse=True)
    >>> grads = marey.attention.attention_backward(np.ones_like(out), q, k, v, out, lse)
    >>> [x.shape for x in grads]
    [(2, 4, 100, 32), (2, 4, 100, 32), (2, 4, 100, 32)]
    """
    name = "marey.attention_backward"
    queries = to_array(name, "q", q)
    arguments = {"grad": grad, "q": q, "k": k, "v": v, "out": out, "lse": lse}
    arrays = {
        argument: to_array_like(name, argument, x, queries) for argument, x in arguments.items()
    }
    left, right, alignment = limits(name, causal, window)
    shape = scores_shape(queries, arrays["k"])
    added = None if bias is None else broadcast(name, "bias", bias, shape, queries)
    grad_bias = None
    if bias_grad:
        if bias is None:
            raise ValueError(f"[{name}] bias_grad: expected False without a bias; found True")
        of_bias = to_array_like(name, "bias", bias, queries)
        grad_bias = zeros_like(queries, of_bias.shape, of_bias.dtype)
    grads = kernels(name, queries).attention_backward(
        *arrays.values(),
        mask_or_none(name, mask, shape, queries),
        added,
        # The view may be read-only, but the memory is ours: compiled code adds to it.
        None if grad_bias is None else broadcast_to(grad_bias, shape),
        scale_or_default(name, queries, scale),
        softcap_or_zero(name, softcap),
        left,
        right,
        alignment,
    )
    convert = from_numpy_like(q)
    return tuple(convert(x) for x in (*grads, *([] if grad_bias is None else [plain(grad_bias)])))
