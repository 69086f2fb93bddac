"""Attention on a device."""

from __future__ import annotations

from typing import Any

import numpy as np

from marey._device._arrays import DeviceArray, beside, result

Limits = tuple[int | None, int | None, int]


def _real(x: DeviceArray) -> np.dtype[Any]:
    """Return the type that a type is computed with."""
    return np.dtype(np.float64 if x.dtype == np.float64 else np.float32)


class AttentionKernels:
    """Attention on a device, under the names of `marey._cpu`."""

    _cuda: Any

    def attention(
        self,
        q: DeviceArray,
        k: DeviceArray,
        v: DeviceArray,
        mask: DeviceArray | None,
        bias: DeviceArray | None,
        scale: float,
        softcap: float,
        left: int | None,
        right: int | None,
        alignment: int,
        return_lse: bool,
        out: DeviceArray | None,
    ) -> Any:
        function = "marey.attention"
        if q.ndim < 3 or v.ndim < 1:
            raise ValueError(f"[{function}] q: expected shape (..., h, L, D); found {q.shape}")
        others = {"k": k, "v": v, "mask": mask, "bias": bias}
        views = {
            argument: None if array is None else beside(function, argument, array, q).view
            for argument, array in others.items()
        }
        y = result(function, out, q, (*q.shape[:-1], v.shape[-1]))
        lse = q.empty(q.shape[:-1], _real(q)) if return_lse else None
        held, memory = q.workspace(self._cuda.attention_workspace(q.view, views["k"], views["v"]))
        self.last_kernel = self._cuda.attention(
            q.view,
            **views,
            scale=scale,
            softcap=softcap,
            left=left,
            right=right,
            alignment=alignment,
            out=y.view,
            lse=None if lse is None else lse.view,
            workspace=memory,
            queue=q.queue,
        )
        del held
        return y.array if lse is None else (y.array, lse.array)

    def attention_varlen(
        self,
        q: DeviceArray,
        k: DeviceArray,
        v: DeviceArray,
        cu_seqlens_q: DeviceArray | np.ndarray[Any, Any],
        cu_seqlens_k: DeviceArray | np.ndarray[Any, Any],
        scale: float,
        softcap: float,
        left: int | None,
        right: int | None,
        alignment: int,
        return_lse: bool,
        out: DeviceArray | None,
    ) -> Any:
        function = "marey.attention_varlen"
        _packed(function, q, k, v)
        limits = (left, right, alignment)
        there, count = _sequences(function, q, k, cu_seqlens_q, cu_seqlens_k, limits)
        y = result(function, out, q, (*q.shape[:2], v.shape[2]))
        lse = q.empty(q.shape[:2], _real(q)) if return_lse else None
        self._cuda.attention_varlen(
            q.view,
            beside(function, "k", k, q).view,
            beside(function, "v", v, q).view,
            *(offsets.view[0] for offsets in there),
            count,
            scale,
            softcap,
            *limits,
            y.view,
            None if lse is None else lse.view,
            q.queue,
        )
        del there
        return y.array if lse is None else (y.array, lse.array)

    def attention_backward(
        self,
        grad: DeviceArray,
        q: DeviceArray,
        k: DeviceArray,
        v: DeviceArray,
        out: DeviceArray,
        lse: DeviceArray,
        mask: DeviceArray | None,
        bias: DeviceArray | None,
        grad_bias: DeviceArray | None,
        scale: float,
        softcap: float,
        left: int | None,
        right: int | None,
        alignment: int,
    ) -> Any:
        arrays = {"grad": grad, "q": q, "k": k, "v": v, "out": out, "lse": lse, "mask": mask,
                  "bias": bias}  # fmt: skip
        limits = (left, right, alignment)
        options = (scale, softcap, limits)
        return self._backward("marey.attention_backward", arrays, options, None, grad_bias)

    def attention_varlen_backward(
        self,
        grad: DeviceArray,
        q: DeviceArray,
        k: DeviceArray,
        v: DeviceArray,
        out: DeviceArray,
        lse: DeviceArray,
        cu_seqlens_q: DeviceArray | np.ndarray[Any, Any],
        cu_seqlens_k: DeviceArray | np.ndarray[Any, Any],
        scale: float,
        softcap: float,
        left: int | None,
        right: int | None,
        alignment: int,
    ) -> Any:
        function = "marey.attention_varlen_backward"
        _packed(function, q, k, v)
        arrays = {"grad": grad, "q": q, "k": k, "v": v, "out": out, "lse": lse, "mask": None,
                  "bias": None}  # fmt: skip
        limits = (left, right, alignment)
        offsets = _sequences(function, q, k, cu_seqlens_q, cu_seqlens_k, limits)
        return self._backward(function, arrays, (scale, softcap, limits), offsets, None)

    def _backward(
        self,
        function: str,
        arrays: dict[str, DeviceArray | None],
        options: tuple[float, float, Limits],
        sequences: tuple[tuple[DeviceArray, DeviceArray], int] | None,
        grad_bias: DeviceArray | None,
    ) -> Any:
        q = arrays["q"]
        assert q is not None
        views = {
            argument: None if array is None else beside(function, argument, array, q).view
            for argument, array in arrays.items()
        }
        # Sequences that are of no length give none: what is not written must be zero.
        likes = [beside(function, argument, arrays[argument], q) for argument in "qkv"]
        made = [q.zeros(like.shape, q.dtype) for like in likes]
        rows = int(np.prod(q.shape[:-1], dtype=np.int64))
        held, memory = q.workspace(rows * _real(q).itemsize)
        scale, softcap, (left, right, alignment) = options
        pointers = (0, 0) if sequences is None else tuple(o.view[0] for o in sequences[0])
        self._cuda.attention_backward(
            function,
            **views,
            cu_seqlens_q=pointers[0],
            cu_seqlens_k=pointers[1],
            sequences=-1 if sequences is None else sequences[1],
            scale=scale,
            softcap=softcap,
            left=left,
            right=right,
            alignment=alignment,
            grad_q=made[0].view,
            grad_k=made[1].view,
            grad_v=made[2].view,
            grad_bias=None if grad_bias is None else grad_bias.view,
            workspace=memory,
            queue=q.queue,
        )
        del held
        return tuple(g.array for g in made)


def _packed(function: str, q: DeviceArray, k: DeviceArray, v: DeviceArray) -> None:
    for argument, x in (("q", q), ("k", k), ("v", v)):
        if x.ndim != 3:
            raise ValueError(
                f"[{function}] {argument}: expected shape (total, h, D); found {x.shape}"
            )


def _sequences(
    function: str,
    q: DeviceArray,
    k: DeviceArray,
    cu_seqlens_q: DeviceArray | np.ndarray[Any, Any],
    cu_seqlens_k: DeviceArray | np.ndarray[Any, Any],
    limits: Limits,
) -> tuple[tuple[DeviceArray, DeviceArray], int]:
    """Return the offsets on the device, and how many sequences there are.

    Those of the host are checked; to look at those of a device would mean to wait for it.
    """
    both = (("cu_seqlens_q", cu_seqlens_q, q), ("cu_seqlens_k", cu_seqlens_k, k))
    for argument, offsets, x in both:
        if offsets.ndim != 1 or offsets.shape != cu_seqlens_q.shape or offsets.shape[0] < 1:
            raise ValueError(
                f"[{function}] {argument}: expected shape (sequences + 1,), one for both; "
                f"found {offsets.shape}"
            )
        if isinstance(offsets, DeviceArray):
            beside(function, argument, offsets, q)
            if offsets.dtype != np.int64:
                raise TypeError(f"[{function}] {argument}: expected int64; found {offsets.dtype}")
        elif offsets[0] != 0 or offsets[-1] != x.shape[0] or (np.diff(offsets) < 0).any():
            raise ValueError(
                f"[{function}] {argument}: expected offsets that rise from 0 to {x.shape[0]}; "
                "found others"
            )
    left, right, alignment = limits
    ambiguous = (left is not None or right is not None) and alignment == 0
    if (
        ambiguous
        and isinstance(cu_seqlens_q, np.ndarray)
        and isinstance(cu_seqlens_k, np.ndarray)
        and not np.array_equal(cu_seqlens_q, cu_seqlens_k)
    ):
        raise ValueError(
            f"[{function}] causal: expected 'top_left' or 'bottom_right', since not every sequence "
            "has as many queries as keys; found neither"
        )
    there = [
        (offsets if offsets.view[3] == (8,) else offsets.copy())  # they are read side by side
        if isinstance(offsets, DeviceArray)
        else DeviceArray(q.library, q.library.put(offsets, q.device))
        for _, offsets, _ in both
    ]
    return (there[0], there[1]), cu_seqlens_q.shape[0] - 1
