"""An array on a device, as the compiled module takes it."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from marey._device._adapters import Library, Shape


class DeviceArray:
    """An array on a device, and what the compiled module needs to know of it.

    Attributes
    ----------
    array
        The library's own array: what is returned to the caller.
    view : (pointer, dtype name, shape, strides)
        For the compiled module.
    """

    __slots__ = ("array", "device", "dtype", "library", "shape", "view")

    def __init__(self, library: Library, array: Any) -> None:
        pointer, self.dtype, self.shape, strides, self.device = library.describe(array)
        self.array = array
        self.library = library
        self.view = (pointer, self.dtype.name, self.shape, strides)

    @property
    def ndim(self) -> int:
        return len(self.shape)

    @property
    def size(self) -> int:
        return math.prod(self.shape)

    @property
    def queue(self) -> tuple[int, int]:
        """The device and its current stream."""
        return self.device, self.library.stream(self.device)

    def empty(self, shape: Shape, dtype: Any = None) -> DeviceArray:
        """Return a new array beside this one."""
        made = self.library.empty(shape, self.dtype if dtype is None else dtype, self.device)
        return DeviceArray(self.library, made)

    def zeros(self, shape: Shape, dtype: Any) -> DeviceArray:
        """Return a new array of zeros beside this one."""
        return DeviceArray(self.library, self.library.zeros(shape, dtype, self.device))

    def workspace(self, nbytes: int) -> tuple[Any, int]:
        """Return memory, which must be held until the kernel is launched, and its address.

        Freed memory is handed out again in the order of the stream, so that need be no longer.
        """
        if nbytes == 0:
            return None, 0
        held = self.empty((nbytes,), np.dtype(np.uint8))
        return held, held.view[0]

    def swapaxes(self, first: int, second: int) -> DeviceArray:
        """Return a view."""
        return DeviceArray(self.library, self.array.swapaxes(first, second))

    def __getitem__(self, index: Any) -> DeviceArray:
        """Return a view: `index` has slices only."""
        return DeviceArray(self.library, self.array[index])

    def assign(self, value: DeviceArray) -> None:
        """Copy `value` here."""
        self.array[...] = value.array

    def strided(self, shape: Shape, strides: Shape) -> DeviceArray:
        """Return a view with these strides, in bytes."""
        return DeviceArray(self.library, self.library.strided(self.array, shape, strides))

    def broadcast(self, shape: Shape) -> DeviceArray:
        """Return a view of this shape; a ValueError if there is none."""
        try:
            return DeviceArray(self.library, self.library.broadcast(self.array, shape))
        except RuntimeError as error:  # torch's
            raise ValueError(str(error)) from None

    def copy(self) -> DeviceArray:
        """Return a C-ordered copy."""
        return DeviceArray(self.library, self.library.copy(self.array))


def take(function: str, argument: str, array: Any, library: Library) -> DeviceArray:
    """Return a library's array as a `DeviceArray`."""
    try:
        return DeviceArray(library, array)
    except TypeError as error:
        raise TypeError(
            f"[{function}] {argument}: expected an array of uint8, float32, float64 or bfloat16; "
            f"found {error}"
        ) from None


def float_type(x: DeviceArray) -> Any:
    return np.dtype(np.float32) if x.dtype == np.uint8 else x.dtype


def host(array: np.ndarray[Any, Any]) -> tuple[int, str, Shape, Shape]:
    """Return few numbers on the host, which the compiled module reads at the launch."""
    return array.ctypes.data, array.dtype.name, array.shape, array.strides


def beside(function: str, argument: str, array: Any, x: DeviceArray) -> DeviceArray:
    """Return an argument that must lie on the device of `x`."""
    if not isinstance(array, DeviceArray) or array.device != x.device:
        where = f"on CUDA device {array.device}" if isinstance(array, DeviceArray) else "on the CPU"
        raise TypeError(
            f"[{function}] {argument}: expected an array on CUDA device {x.device}, as the others; "
            f"found one {where}"
        )
    return array


def result(
    function: str, out: Any, x: DeviceArray, shape: Shape | None = None, dtype: Any = None
) -> DeviceArray:
    """Return `out`, which the compiled module checks, or a new array."""
    if out is None:
        return x.empty(x.shape if shape is None else shape, dtype)
    return beside(function, "out", out, x)
