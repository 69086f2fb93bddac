"""Stands in for CuPy where there is no device: arrays whose memory the CPU can read.

With it and the module ``_cuda_on_cpu``, which runs the CUDA kernels on the CPU, everything between
a public function and a kernel is tested without a device.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Sequence
from typing import Any

import numpy as np
from marey import _device

GUARD = 256  # bytes before and behind a new array, which nothing may write to
POISON = 0xFF  # NaN in every floating-point type


class HostArray:
    """A NumPy array in the part of an array on a device."""

    def __init__(self, array: np.ndarray[Any, Any], owner: np.ndarray[Any, Any] | None = None):
        self.numpy = array
        self.owner = owner

    def __getitem__(self, index: Any) -> HostArray:
        return HostArray(self.numpy[index], self.owner)

    def __setitem__(self, index: Any, value: HostArray) -> None:
        self.numpy[index] = value.numpy

    def __mul__(self, factor: float) -> HostArray:
        return HostArray(self.numpy * self.numpy.dtype.type(factor))

    def check_guards(self) -> None:
        """Fail if anything was written outside of a new array."""
        if self.owner is not None:
            assert (self.owner[:GUARD] == POISON).all(), "a write before an array"
            assert (self.owner[-GUARD:] == POISON).all(), "a write behind an array"

    # For code that is written for any library's arrays.
    @property
    def shape(self) -> tuple[int, ...]:
        return self.numpy.shape

    @property
    def dtype(self) -> np.dtype[Any]:
        return self.numpy.dtype

    @property
    def ndim(self) -> int:
        return self.numpy.ndim

    def transpose(self, *axes: int) -> HostArray:
        return HostArray(self.numpy.transpose(*axes), self.owner)

    def swapaxes(self, first: int, second: int) -> HostArray:
        return HostArray(self.numpy.swapaxes(first, second), self.owner)

    def reshape(self, *shape: int) -> HostArray:
        return HostArray(self.numpy.reshape(*shape), self.owner)


class HostLibrary:
    """The library of `HostArray`."""

    def __init__(self) -> None:
        self.made: list[HostArray] = []

    def owns(self, array: Any) -> bool:
        return isinstance(array, HostArray)

    def describe(self, array: HostArray) -> tuple[int, Any, tuple[int, ...], tuple[int, ...], int]:
        x = array.numpy
        dtype = _device.BFLOAT16 if x.dtype.name == "bfloat16" else x.dtype
        return x.ctypes.data, dtype, x.shape, x.strides, 0

    def empty(self, shape: tuple[int, ...], dtype: Any, device: int) -> HostArray:
        if dtype is _device.BFLOAT16:
            import ml_dtypes

            dtype = np.dtype(ml_dtypes.bfloat16)
        nbytes = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
        owner = np.full(nbytes + 2 * GUARD + 256, POISON, np.uint8)
        first = -(owner.ctypes.data + GUARD) % 256 + GUARD
        owner = owner[first - GUARD : first + nbytes + GUARD]
        made = HostArray(owner[GUARD : GUARD + nbytes].view(dtype).reshape(shape), owner)
        self.made.append(made)
        return made

    def zeros(self, shape: tuple[int, ...], dtype: Any, device: int) -> HostArray:
        made = self.empty(shape, dtype, device)
        made.numpy[...] = 0
        return made

    def copy(self, array: HostArray) -> HostArray:
        made = self.empty(array.numpy.shape, array.numpy.dtype, 0)
        made.numpy[...] = array.numpy
        return made

    def concatenate(self, arrays: Sequence[HostArray], axis: int) -> HostArray:
        return HostArray(np.concatenate([a.numpy for a in arrays], axis))

    def broadcast(self, array: HostArray, shape: tuple[int, ...]) -> HostArray:
        return HostArray(np.broadcast_to(array.numpy, shape), array.owner)

    def strided(
        self, array: HostArray, shape: tuple[int, ...], strides: tuple[int, ...]
    ) -> HostArray:
        view = np.lib.stride_tricks.as_strided(array.numpy, shape, strides)
        return HostArray(view, array.owner)

    def put(self, array: np.ndarray[Any, Any], device: int) -> HostArray:
        return self.copy(HostArray(array))

    def stream(self, device: int) -> int:
        return 0

    def check_guards(self) -> None:
        """Check all arrays that were made, and forget them."""
        for array in self.made:
            array.check_guards()
        self.made.clear()


def load_module() -> Any:
    """Return the module that MAREY_CUDA_ON_CPU is the path of; None if it is not set."""
    path = os.environ.get("MAREY_CUDA_ON_CPU")
    if not path:
        return None
    spec = importlib.util.spec_from_file_location("_cuda_on_cpu", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
