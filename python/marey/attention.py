"""Softmax attention that never stores the score matrix.

``q`` is ``(..., h, L, D)``, ``k`` and ``v`` are ``(..., h_kv, S, D)``: batch axes, heads,
positions, head size. Strides are free, so the ``(B, L, h, D)`` arrays that projections make are
passed as ``x.transpose(0, 2, 1, 3)`` and read where they lie. Arrays are float32, float64, or
bfloat16 (`ml_dtypes.bfloat16`), which is computed in float32.
"""

from __future__ import annotations

import math
from typing import Any, Literal

import numpy as np

from marey import _arguments, _cpu
from marey._arrays import from_numpy_like, to_numpy

__all__ = ["KVCache", "attention", "attention_varlen", "space_time_attention"]

Causal = Literal["top_left", "bottom_right"] | bool
Window = int | tuple[int | None, int | None] | None

_ALIGNMENT = {False: 0, True: 0, "top_left": 1, "bottom_right": 2}


def _limits(function: str, causal: Causal, window: Window) -> tuple[int | None, int | None, int]:
    """Return how far a query sees to the left and to the right, and how the two are aligned."""
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
    if causal:
        right = 0
    return left, right, _ALIGNMENT[causal]


def _scale(function: str, q: np.ndarray[Any, Any], scale: float | None) -> float:
    """Return the factor of the scores, 1 / sqrt(D) if not given."""
    if scale is not None:
        return _arguments.number(function, "scale", scale)
    return 1.0 / math.sqrt(max(q.shape[-1], 1)) if q.ndim else 1.0


def _softcap(function: str, softcap: float | None) -> float:
    return 0.0 if softcap is None else _arguments.positive(function, "softcap", softcap)


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
            f"[{function}] mask: expected bool, True where attention is allowed (an additive one "
            f"is bias=); found {allowed.dtype}"
        )
    return allowed.view(np.uint8)


def _returned(result: Any, q: Any, out: Any, return_lse: bool) -> Any:
    """Return what the compiled function gave as the kind of `q`, or `out`."""
    convert = from_numpy_like(q)
    if not return_lse:
        return convert(result) if out is None else out
    computed, lse = result
    return (convert(computed) if out is None else out), convert(lse)


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
        _scale(name, queries, scale),
        _softcap(name, softcap),
        left,
        right,
        alignment,
        return_lse,
        None if out is None else to_numpy(name, "out", out),
    )
    return _returned(result, q, out, return_lse)


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
        ``cu_seqlens_k[i + 1]`` only.
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
    queries = to_numpy(name, "q", q)
    left, right, alignment = _limits(name, causal, window)
    result = _cpu.attention_varlen(
        queries,
        to_numpy(name, "k", k),
        to_numpy(name, "v", v),
        _offsets(name, "cu_seqlens_q", cu_seqlens_q),
        _offsets(name, "cu_seqlens_k", cu_seqlens_k),
        _scale(name, queries, scale),
        _softcap(name, softcap),
        left,
        right,
        alignment,
        return_lse,
        None if out is None else to_numpy(name, "out", out),
    )
    return _returned(result, q, out, return_lse)


def _offsets(function: str, argument: str, offsets: Any) -> np.ndarray[Any, np.dtype[np.int64]]:
    array = np.asarray(offsets)
    if array.dtype.kind not in "iu":
        raise TypeError(f"[{function}] {argument}: expected integers; found {array.dtype}")
    return np.ascontiguousarray(array, np.int64)


# The axes that become the sequence, by name: (B, T, H, W, h, D) -> (batch..., h, sequence..., D).
_SPACE_TIME = {"time": (0, 2, 3, 4, 1, 5), "space": (0, 1, 4, 2, 3, 5), "joint": (0, 4, 1, 2, 3, 5)}


def _as_sequences(x: np.ndarray[Any, Any], axis: str) -> np.ndarray[Any, Any]:
    """Return (batch..., h, L, D): a view where one stride steps through a sequence."""
    order = _SPACE_TIME[axis]
    moved = x.transpose(order)
    if axis == "time":
        return moved
    head = order.index(4)
    return moved.reshape(*moved.shape[: head + 1], -1, moved.shape[-1])


def space_time_attention(
    q: Any,
    k: Any,
    v: Any,
    axis: Literal["time", "space", "joint"],
    *,
    causal: bool = False,
    scale: float | None = None,
    softcap: float | None = None,
    out: Any = None,
) -> Any:
    """Compute attention within a video, along time, space, or both.

    The arrays are read in place: no permuted copies (unless H and W, or T, H and W for ``"joint"``,
    cannot be stepped through with one stride).

    Parameters
    ----------
    q, k : array, (B, T, H, W, h, D)
        Queries and keys; `k` and `v` may have fewer heads, as in `attention`.
    v : array, (B, T, H, W, h, Dv)
        Values.
    axis : "time", "space" or "joint"
        ``"time"``: each place attends to itself in all frames. ``"space"``: each frame attends to
        itself. ``"joint"``: all of the video at once. Time and space one after the other is the
        divided attention of TimeSformer [1]_.
    causal : bool
        Whether no frame sees a later one: only with ``"time"``.
    scale, softcap
        As for `attention`.
    out : array, (B, T, H, W, h, Dv), optional
        Where to write the result.

    Returns
    -------
    array, (B, T, H, W, h, Dv)

    Raises
    ------
    TypeError, ValueError
        As `attention`; and for an unknown `axis`, or `causal` with another one than ``"time"``.

    References
    ----------
    .. [1] G. Bertasius, H. Wang, L. Torresani, "Is Space-Time Attention All You Need for Video
       Understanding?", ICML 2021.

    Examples
    --------
    >>> import marey, numpy as np
    >>> q, k, v = np.random.default_rng(0).random((3, 1, 8, 14, 14, 12, 64), dtype=np.float32)
    >>> y = marey.attention.space_time_attention(q, k, v, "time")
    >>> marey.attention.space_time_attention(y, k, v, "space").shape
    (1, 8, 14, 14, 12, 64)
    """
    name = "marey.space_time_attention"
    if axis not in _SPACE_TIME:
        raise ValueError(f"[{name}] axis: expected 'time', 'space' or 'joint'; found {axis!r}")
    if causal and axis != "time":
        raise ValueError(f"[{name}] causal: expected False with axis={axis!r}; found {causal!r}")
    arrays = [to_numpy(name, argument, x) for argument, x in (("q", q), ("k", k), ("v", v))]
    for argument, x in zip("qkv", arrays, strict=True):
        if x.ndim != 6 or x.shape[:4] != arrays[0].shape[:4]:
            expected = "(B, T, H, W, h, D)" if argument == "q" else f"that of q {arrays[0].shape}"
            raise ValueError(f"[{name}] {argument}: expected shape {expected}; found {x.shape}")
    shape = (*arrays[0].shape[:5], arrays[2].shape[5])
    given = None if out is None else to_numpy(name, "out", out)
    if given is not None and given.shape != shape:
        raise ValueError(f"[{name}] out: expected shape {shape}; found {given.shape}")
    target = np.empty(shape, arrays[0].dtype) if given is None else given
    sequences = [_as_sequences(x, axis) for x in arrays]
    view = _as_sequences(target, axis)
    attention(*sequences, causal=causal, scale=scale, softcap=softcap, out=view)
    if given is None:
        return from_numpy_like(q)(target)
    if not np.may_share_memory(view, given):
        given[...] = view.swapaxes(-2, -3).reshape(shape)
    return out


class KVCache:
    """Keys and values of a stream: each query attends to the last `capacity` keys.

    Any chunking gives the result of one call with ``causal=True, window=(capacity - 1, 0)``. The
    arrays hold twice the capacity (more if a chunk is longer), so that the latest keys always lie
    in one piece and attention reads them in place; about every `capacity` steps they are moved to
    the front. Not for several threads at once.

    Parameters
    ----------
    shape : tuple of int
        The batch axes and the number of key heads: ``(B, h_kv)`` for keys (B, h_kv, S, D).
    capacity : int
        How many keys a query sees at most, its own included.
    D : int
        Head size of the keys.
    Dv : int, optional
        Head size of the values; default D.
    dtype : dtype
        float32, float64 or bfloat16.

    Attributes
    ----------
    length : int
        How many keys are held now: at most ``capacity - 1`` and the last chunk.
    k, v : array, (..., h_kv, length, D or Dv)
        They, oldest first: views, valid until the next call of `append`.

    Examples
    --------
    >>> import marey, numpy as np
    >>> rng = np.random.default_rng(0)
    >>> cache = marey.attention.KVCache((1, 2), capacity=64, D=32)
    >>> for frame in range(100):
    ...     q, k, v = rng.random((3, 1, 2, 1, 32), dtype=np.float32)
    ...     y = cache.attend(q, k, v)
    >>> y.shape, cache.length
    ((1, 2, 1, 32), 64)
    """

    def __init__(
        self,
        shape: tuple[int, ...],
        capacity: int,
        D: int,
        Dv: int | None = None,
        dtype: Any = np.float32,
    ) -> None:
        self.capacity = _arguments.integer("marey.KVCache", "capacity", capacity, 1)
        self._k = np.empty((*shape, 2 * self.capacity, D), dtype)
        self._v = np.empty((*shape, 2 * self.capacity, D if Dv is None else Dv), dtype)
        self._begin = self._end = 0

    @property
    def length(self) -> int:
        """How many keys are held now."""
        return self._end - self._begin

    @property
    def k(self) -> np.ndarray[Any, Any]:
        """The keys, oldest first: a view, valid until the next call of `append`."""
        return self._k[..., self._begin : self._end, :]

    @property
    def v(self) -> np.ndarray[Any, Any]:
        """The values, oldest first: a view, valid until the next call of `append`."""
        return self._v[..., self._begin : self._end, :]

    def append(self, k: Any, v: Any) -> None:
        """Add the keys and values of the next steps.

        Parameters
        ----------
        k : array, (..., h_kv, n, D)
            Any n.
        v : array, (..., h_kv, n, Dv)

        Raises
        ------
        TypeError, ValueError
            If they are of another type or shape than the cache.
        """
        keys, values = to_numpy("marey.KVCache", "k", k), to_numpy("marey.KVCache", "v", v)
        self._check(keys, values)
        n = keys.shape[-2]
        keep = min(self.length, self.capacity - 1)
        begin = self._end - keep
        if self._end + n > self._k.shape[-2]:
            grown = max(2 * self.capacity, keep + n)
            self._k = self._moved(self._k, begin, grown)
            self._v = self._moved(self._v, begin, grown)
            begin, self._end = 0, keep
        self._k[..., self._end : self._end + n, :] = keys
        self._v[..., self._end : self._end + n, :] = values
        self._begin, self._end = begin, self._end + n

    def _moved(self, array: np.ndarray[Any, Any], begin: int, size: int) -> np.ndarray[Any, Any]:
        """Return an array of `size` steps that starts with those from `begin` to the end."""
        kept = array[..., begin : self._end, :]
        if size > array.shape[-2]:
            array = np.empty((*array.shape[:-2], size, array.shape[-1]), array.dtype)
        else:
            kept = kept.copy()  # the two places may overlap
        array[..., : kept.shape[-2], :] = kept
        return array

    def _check(self, k: np.ndarray[Any, Any], v: np.ndarray[Any, Any]) -> None:
        steps = k.shape[-2] if k.ndim >= 2 else 0
        for argument, array, mine in (("k", k, self._k), ("v", v, self._v)):
            shape = (*mine.shape[:-2], steps, mine.shape[-1])
            if array.shape != shape:
                raise ValueError(
                    f"[marey.KVCache] {argument}: expected shape {shape}; found {array.shape}"
                )
            if array.dtype != mine.dtype:
                raise TypeError(
                    f"[marey.KVCache] {argument}: expected {mine.dtype}; found {array.dtype}"
                )

    def attend(
        self,
        q: Any,
        k: Any = None,
        v: Any = None,
        *,
        scale: float | None = None,
        softcap: float | None = None,
        out: Any = None,
    ) -> Any:
        """Append `k` and `v`, if given, and attend to what the cache holds.

        The last query stands at the last key: no query sees a later one, nor one `capacity` or more
        steps back.

        Parameters
        ----------
        q : array, (..., h, L, D)
            The queries of the last L steps, L no more than were appended last.
        k, v : array, optional
            As for `append`.
        scale, softcap, out
            As for `attention`.

        Returns
        -------
        array, (..., h, L, Dv)
        """
        if k is not None or v is not None:
            self.append(k, v)
        return attention(
            q,
            self.k,
            self.v,
            causal="bottom_right",
            window=(self.capacity - 1, 0),
            scale=scale,
            softcap=softcap,
            out=out,
        )

    def reset(self) -> None:
        """Forget all keys."""
        self._begin = self._end = 0
