"""Keys and values of a stream."""

from __future__ import annotations

from typing import Any

import numpy as np

from marey import _arguments, _device
from marey._arrays import assign, empty_like, plain, to_array, to_array_like
from marey.attention._softmax import attention


class KVCache:
    """Keys and values of a stream: each query attends to the last `capacity` keys.

    Any chunking gives the result of one call with ``causal=True, window=(capacity - 1, 0)``. The
    arrays hold twice the capacity (more if a chunk is longer), so that the latest keys always lie
    in one piece and attention reads them in place; about every `capacity` steps they are moved to
    the front. They lie where the first keys that are appended do: in the memory of the CPU, or on a
    CUDA device. Not for several threads at once.

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
        self._k: Any = np.empty((*shape, 2 * self.capacity, D), dtype)
        self._v: Any = np.empty((*shape, 2 * self.capacity, D if Dv is None else Dv), dtype)
        self._begin = self._end = 0

    @property
    def length(self) -> int:
        """How many keys are held now."""
        return self._end - self._begin

    @property
    def k(self) -> Any:
        """The keys, oldest first: a view, valid until the next call of `append`."""
        return plain(self._k[..., self._begin : self._end, :])

    @property
    def v(self) -> Any:
        """The values, oldest first: a view, valid until the next call of `append`."""
        return plain(self._v[..., self._begin : self._end, :])

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
        keys = to_array("marey.KVCache", "k", k)
        values = to_array_like("marey.KVCache", "v", v, keys)
        self._check(keys, values)
        n = keys.shape[-2]
        keep = min(self.length, self.capacity - 1)
        begin = self._end - keep
        if self._end + n > self._k.shape[-2]:
            grown = max(2 * self.capacity, keep + n)
            self._k = self._moved(self._k, begin, grown)
            self._v = self._moved(self._v, begin, grown)
            begin, self._end = 0, keep
        assign(self._k[..., self._end : self._end + n, :], keys)
        assign(self._v[..., self._end : self._end + n, :], values)
        self._begin, self._end = begin, self._end + n

    def _moved(self, array: Any, begin: int, size: int) -> Any:
        """Return an array of `size` steps that starts with those from `begin` to the end."""
        kept = array[..., begin : self._end, :]
        if size > array.shape[-2]:
            array = empty_like(array, (*array.shape[:-2], size, array.shape[-1]), array.dtype)
        else:
            kept = kept.copy()  # the two places may overlap
        assign(array[..., : kept.shape[-2], :], kept)
        return array

    def _check(self, k: Any, v: Any) -> None:
        steps = k.shape[-2] if k.ndim >= 2 else 0
        for argument, array, mine in (("k", k, self._k), ("v", v, self._v)):
            shape = (*mine.shape[:-2], steps, mine.shape[-1])
            if array.shape != shape:
                raise ValueError(
                    f"[marey.KVCache] {argument}: expected shape {shape}; found {array.shape}"
                )
            if array.dtype.name != mine.dtype.name:
                raise TypeError(
                    f"[marey.KVCache] {argument}: expected {mine.dtype}; found {array.dtype}"
                )
        where = [isinstance(array, _device.DeviceArray) for array in (k, self._k)]
        if where[0] != where[1]:
            if self.length:
                to_array_like("marey.KVCache", "k", plain(k), self._k)  # says what is wrong
            self._k = empty_like(k, self._k.shape, k.dtype)
            self._v = empty_like(v, self._v.shape, v.dtype)
            self._begin = self._end = 0

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
