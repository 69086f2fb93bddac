"""Streams of windows that end at the newest frame."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np

from marey import _arguments
from marey._arrays import (
    concatenate,
    from_numpy_like,
    plain,
    repeated,
    to_array,
    to_array_like,
    zeros_like,
)

if TYPE_CHECKING:
    from collections.abc import Collection

Start = Literal["rest", "first"]
Array = Any  # what `to_array` gives: a NumPy array, or one on a device


def check_dtype(
    function: str, argument: str, array: Array, dtypes: Collection[Any], why: str = ""
) -> None:
    """Refuse an array of another type."""
    if array.dtype not in dtypes:
        names = " or ".join(np.dtype(dtype).name for dtype in dtypes)
        raise TypeError(f"[{function}] {argument}: expected {names}{why}; found {array.dtype}")


def check_chunk(
    function: str, x: Array, axis: int, held: tuple[int, ...], dtypes: Collection[Any]
) -> None:
    """Refuse a chunk that is not of the stream's shape (`held`, but for the time axis) and type."""
    time = axis % len(held)
    others = held[:time] + held[time + 1 :]
    if x.ndim != len(held) or x.shape[:time] + x.shape[time + 1 :] != others:
        wanted = ["T" if a == time else str(n) for a, n in enumerate(held)]
        raise ValueError(
            f"[{function}] x: expected shape ({', '.join(wanted)}), as the stream so far; "
            f"found {x.shape}"
        )
    check_dtype(function, "x", x, dtypes, ", as the stream so far")


class WindowStream(ABC):
    """What filters over the last `size` frames have in common.

    The state is the last ``size - 1`` frames.
    """

    _name: ClassVar[str]

    def __init__(self, size: int, axis: int, start: Start) -> None:
        self.axis = _arguments.integer(self._name, "axis", axis)
        self.start = _arguments.one_of(self._name, "start", start, ("rest", "first"))
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

        Raises
        ------
        TypeError, ValueError
            If `x` is of another type or shape than the chunks so far, or `out` does not fit. The
            state is then what it was before the call.
        """
        source = to_array(self._name, "x", x)
        if self._state is None:
            _arguments.axis(self._name, "axis", self.axis, source.shape)
            state = self._initial(source)
        else:
            state = self._state
            check_chunk(self._name, source, self.axis, state.shape, (state.dtype,))
        target = None if out is None else to_array_like(self._name, "out", out, source)
        y = self._filter(source, state, target)
        steps = source.shape[self.axis]
        if self._state is not None or steps > 0:
            self._state = self._latest(state, source)
        return from_numpy_like(x)(y) if out is None else out

    @abstractmethod
    def _filter(self, x: Array, state: Array, out: Array | None) -> Array:
        """The result for a chunk, given the frames before it."""

    def _initial(self, x: Array) -> Array:
        shape = list(x.shape)
        shape[self.axis] = self._past
        if self.start == "rest" or x.shape[self.axis] == 0:
            return zeros_like(x, tuple(shape), x.dtype)
        return repeated(self._steps(x, slice(0, 1)), self.axis, self._past)

    def _latest(self, state: Array, x: Array) -> Array:
        steps = x.shape[self.axis]
        if steps >= self._past:
            return self._steps(x, slice(steps - self._past, None)).copy()
        return concatenate([self._steps(state, slice(steps, None)), x], self.axis)

    def _steps(self, x: Array, which: slice) -> Array:
        index: list[slice] = [slice(None)] * x.ndim
        index[self.axis] = which
        return x[tuple(index)]

    @property
    def state(self) -> Any:
        """The state to continue with (a copy), or None before the first frame."""
        return None if self._state is None else plain(self._state.copy())

    @state.setter
    def state(self, value: Any) -> None:
        if value is None:
            self._state = None
            return
        state = to_array(self._name, "state", value)
        check_dtype(self._name, "state", state, (np.uint8, np.float32, np.float64))
        fits = -state.ndim <= self.axis < state.ndim and state.shape[self.axis] == self._past
        if not fits:
            raise ValueError(
                f"[{self._name}] state: expected {self._past} frames along axis {self.axis}; "
                f"found shape {state.shape}"
            )
        self._state = state.copy()

    def reset(self) -> None:
        """Forget all chunks: the next one is the first."""
        self._state = None
