"""Streams of windows that end at the newest frame."""

from __future__ import annotations

import operator
from typing import Any, ClassVar, Literal

import numpy as np

from marey._arrays import from_numpy_like, to_numpy

Start = Literal["rest", "first"]
Array = np.ndarray[Any, Any]


class WindowStream:
    """What filters over the last `size` frames have in common.

    The state is the last ``size - 1`` frames.
    """

    _name: ClassVar[str]

    def __init__(self, size: int, axis: int, start: Start) -> None:
        if start not in ("rest", "first"):
            raise ValueError(f"[{self._name}] start: expected 'rest' or 'first'; found {start!r}")
        self.axis = operator.index(axis)
        self.start = start
        self._past = size - 1
        self._state: Array | None = None

    def __call__(self, x: Any, out: Any = None) -> Any:
        """Filter the next chunk.

        Parameters
        ----------
        x : array
            uint8, float32 or float64: every chunk of the same type and of the same shape but for
            the length of the time axis.
        out : array, optional
            Where to write the result: an array that does not overlap `x`.

        Returns
        -------
        array, of the shape of `x`
        """
        source = to_numpy(self._name, "x", x)
        if not -source.ndim <= self.axis < source.ndim:
            raise ValueError(
                f"[{self._name}] axis: expected an axis of shape {source.shape}; found {self.axis}"
            )
        state = self._initial(source) if self._state is None else self._state
        target = None if out is None else to_numpy(self._name, "out", out)
        y = self._filter(source, state, target)
        steps = source.shape[self.axis]
        if self._state is not None or steps > 0:
            self._state = self._latest(state, source)
        return from_numpy_like(x)(y) if out is None else out

    def _filter(self, x: Array, state: Array, out: Array | None) -> Array:
        raise NotImplementedError

    def _initial(self, x: Array) -> Array:
        shape = list(x.shape)
        shape[self.axis] = self._past
        if self.start == "rest" or x.shape[self.axis] == 0:
            return np.zeros(shape, x.dtype)
        return np.broadcast_to(self._steps(x, slice(0, 1)), shape).copy()

    def _latest(self, state: Array, x: Array) -> Array:
        steps = x.shape[self.axis]
        if steps >= self._past:
            return self._steps(x, slice(steps - self._past, None)).copy()
        return np.concatenate([self._steps(state, slice(steps, None)), x], axis=self.axis)

    def _steps(self, x: Array, which: slice) -> Array:
        index: list[slice] = [slice(None)] * x.ndim
        index[self.axis] = which
        return x[tuple(index)]

    @property
    def state(self) -> Array | None:
        """The state to continue with (a copy), or None before the first frame."""
        return None if self._state is None else self._state.copy()

    @state.setter
    def state(self, value: Any) -> None:
        self._state = None if value is None else to_numpy(self._name, "state", value).copy()

    def reset(self) -> None:
        """Forget all chunks: the next one is the first."""
        self._state = None
