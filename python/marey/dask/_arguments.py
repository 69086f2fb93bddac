"""What all functions over dask arrays do with their arguments."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import dask
import dask.array as da
import numpy as np

from marey import _arguments

if TYPE_CHECKING:
    from collections.abc import Callable

Array = np.ndarray[Any, Any]


def checked(function: str, argument: str, x: Any) -> Any:
    if not isinstance(x, da.Array):
        raise TypeError(
            f"[marey.dask.{function}] {argument}: expected a dask array; found {type(x).__name__}"
        )
    if any(np.isnan(extent) for extent in x.shape):
        raise ValueError(
            f"[marey.dask.{function}] {argument}: expected known chunk sizes; found {x.chunks}"
        )
    return x


def axis_of(function: str, axis: Any, x: Any, argument: str = "axis") -> int:
    """Return an axis counted from the front."""
    return _arguments.axis(f"marey.dask.{function}", argument, axis, x.shape) % x.ndim


def float_type(dtype: Any) -> Any:
    return np.dtype(np.float32) if dtype == np.uint8 else dtype


class Task:
    """A function on a worker, whose arrays may have come in a message, at any address."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self.function = function
        self.__name__ = f"marey-{getattr(function, '__name__', 'task').strip('<>')}"

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        return self.function(*[aligned(argument) for argument in arguments], **options)

    def __dask_tokenize__(self) -> Any:
        return dask.base.normalize_token((type(self).__name__, self.function))


def aligned(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        return np.require(value, requirements="A")
    if isinstance(value, dict):
        return {key: aligned(item) for key, item in value.items()}
    return value
