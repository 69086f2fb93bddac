"""Softmax attention that never stores the score matrix.

``q`` is ``(..., h, L, D)``, ``k`` and ``v`` are ``(..., h_kv, S, D)``: batch axes, heads, positions, head
size. Strides are free, so the ``(B, L, h, D)`` arrays that projections make are passed as
``x.transpose(0, 2, 1, 3)`` and read where they lie. Arrays are float32, float64, or bfloat16
(`ml_dtypes.bfloat16`), which is computed in float32.
"""

from __future__ import annotations

import math
import operator
from typing import Any, Literal

import numpy as np

from marey import _cpu
from marey._arrays import from_numpy_like, to_numpy

__all__ = ["attention"]

Causal = Literal["top_left", "bottom_right"] | bool
Window = int | tuple[int | None, int | None] | None

_ALIGNMENT = {False: 0, True: 0, "top_left": 1, "bottom_right": 2}


def _limits(
    function: str, causal: Causal, window: Window
) -> tuple[int | None, int | None, int]:
    """Return how far a query sees to the left and to the right, and how the two are aligned."""
    if not isinstance(causal, (bool, np.bool_, str)) or causal not in _ALIGNMENT:
        raise ValueError(
            f"[{function}] causal: expected False, True, 'top_left' or 'bottom_right'; "
            f"found {causal!r}"
        )
    left: int | None
    right: int | None
    if window is None:
        left = right = None
    elif isinstance(window, tuple):
        if len(window) != 2:
            raise ValueError(
                f"[{function}] window: expected an int or a pair (left, right); found {window!r}"
            )
        left, right = (None if side is None else operator.index(side) for side in window)
    else:
        left = right = operator.index(window)
    if (left is not None and left < 0) or (right is not None and right < 0):
        raise ValueError(
            f"[{function}] window: expected numbers of keys, 0 or more; found {window!r}"
        )
    if causal:
        right = 0
    return left, right, _ALIGNMENT[causal]


def _scale(q: np.ndarray[Any, Any], scale: float | None) -> float:
    """Return the factor of the scores, 1 / sqrt(D) if not given."""
    if scale is not None:
        return float(scale)
    return 1.0 / math.sqrt(max(q.shape[-1], 1)) if q.ndim else 1.0


def _softcap(function: str, softcap: float | None) -> float:
    if softcap is None:
        return 0.0
    if not (math.isfinite(softcap) and softcap > 0):
        raise ValueError(f"[{function}] softcap: expected a positive number; found {softcap}")
    return float(softcap)


def _broadcast(
    function: str, argument: str, array: Any, shape: tuple[int, ...]
) -> np.ndarray[Any, Any]:
    """Return a view of `array` of this shape, without copying."""
    source = to_numpy(function, argument, array)
    try:
        return np.broadcast_to(source, shape)
    except ValueError:
        raise ValueError(
            f"[{function}] {argument}: expected a shape that broadcasts to {shape}; "
            f"found {source.shape}"
        ) from None


def _scores_shape(q: np.ndarray[Any, Any], k: np.ndarray[Any, Any]) -> tuple[int, ...]:
    return (*q.shape[:-1], k.shape[-2] if k.ndim >= 2 else 0)


def _mask(function: str, mask: Any, shape: tuple[int, ...]) -> np.ndarray[Any, Any] | None:
    if mask is None:
        return None
    allowed = _broadcast(function, "mask", mask, shape)
    if allowed.dtype != np.bool_:
        raise TypeError(
            f"[{function}] mask: expected bool, True where attention is allowed (an additive one is "
            f"bias=); found {allowed.dtype}"
        )
    return allowed.view(np.uint8)


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

    The result is exact; the scores exist only in blocks, so memory is linear in L and S. A query with
    nothing to attend to gives zeros. The result does not depend on the number of threads.

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
        Broadcasts to (..., h, L, S); added to the scores. Of the type of `q` (float32 for bfloat16).
        ``-inf`` forbids, as a mask does.
    causal : bool, "top_left" or "bottom_right"
        Query l sees no key after its own place: key l (``"top_left"``), or key ``l + S - L``
        (``"bottom_right"``: the last query sees all keys, as when decoding). True needs L == S, where
        the two are one.
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
        Only with `return_lse`: float32, float64 for float64; -inf where there is nothing to attend to.

    Raises
    ------
    TypeError
        If an argument is not an array, or of another type.
    ValueError
        If a shape does not fit, or a causal order or window is ambiguous.

    Notes
    -----
    Each thread works in at most 240 rows of queries and results and 128 keys and values of the type of
    the computation.

    References
    ----------
    .. [1] T. Dao, D. Fu, S. Ermon, A. Rudra, C. Ré, "FlashAttention: Fast and Memory-Efficient Exact
       Attention with IO-Awareness", NeurIPS 2022.
    .. [2] M. Milakov, N. Gimelshein, "Online normalizer calculation for softmax", 2018.

    Examples
    --------
    >>> import marey, numpy as np
    >>> q, k, v = np.random.default_rng(0).random((3, 2, 4, 100, 32), dtype=np.float32)
    >>> marey.attention.attention(q, k, v, causal=True).shape
    (2, 4, 100, 32)
    """
    name = "marey.attention"
    queries = to_numpy(name, "q", q)
    keys = to_numpy(name, "k", k)
    values = to_numpy(name, "v", v)
    left, right, alignment = _limits(name, causal, window)
    shape = _scores_shape(queries, keys)
    added = None if bias is None else _broadcast(name, "bias", bias, shape)
    result = _cpu.attention(
        queries,
        keys,
        values,
        _mask(name, mask, shape),
        added,
        _scale(queries, scale),
        _softcap(name, softcap),
        left,
        right,
        alignment,
        return_lse,
        None if out is None else to_numpy(name, "out", out),
    )
    convert = from_numpy_like(q)
    if not return_lse:
        return convert(result) if out is None else out
    computed, lse = result
    return (convert(computed) if out is None else out), convert(lse)
