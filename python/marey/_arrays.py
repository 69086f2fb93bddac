"""The one place that takes arrays of any kind in and hands the same kind out."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import numpy as np

from marey import _cpu, _device

if TYPE_CHECKING:
    from collections.abc import Callable

_CPU_DEVICE_TYPES = (1, 3)  # DLPack: kDLCPU, kDLCUDAHost (pinned memory of the host)


def _same(result: Any) -> Any:
    return result


def to_numpy(function: str, argument: str, array: Any) -> np.ndarray[Any, Any]:
    """Return `array` as a NumPy array without copying it.

    Raises
    ------
    TypeError
        If it is not an array in the memory of the CPU.
    """
    if isinstance(array, np.ndarray):
        if isinstance(array, np.ma.MaskedArray):
            raise TypeError(
                f"[{function}] {argument}: expected an array without a mask; found a masked array "
                "(fill it first)"
            )
        return array
    if not hasattr(array, "__dlpack__"):
        if hasattr(array, "__array_interface__"):
            return np.asarray(array)
        raise TypeError(
            f"[{function}] {argument}: expected an array (NumPy, or any with __dlpack__); found "
            f"{type(array).__name__} (np.asarray makes one)"
        )
    device_type = array.__dlpack_device__()[0]
    if device_type not in _CPU_DEVICE_TYPES:
        raise TypeError(
            f"[{function}] {argument}: expected an array in CPU memory; found one on DLPack device "
            f"type {int(device_type)} (this function runs on the CPU only)"
        )
    try:
        return np.from_dlpack(array)
    except (BufferError, RuntimeError) as error:
        raise TypeError(
            f"[{function}] {argument}: expected an array that NumPy can share; found "
            f"{type(array).__name__}: {error}"
        ) from error


def to_array(function: str, argument: str, array: Any) -> Any:
    """Return `array` as a NumPy array or a `_device.DeviceArray`, without copying it.

    Raises
    ------
    TypeError
        If it is neither in the memory of the CPU nor CuPy's or torch's on a CUDA device.
    """
    if isinstance(array, np.ndarray):
        return to_numpy(function, argument, array)
    library = _device.library_of(array)
    if library is None:
        return to_numpy(function, argument, array)
    return _device.take(function, argument, array, library)


def to_array_like(function: str, argument: str, array: Any, like: Any) -> Any:
    """Return `array` as `to_array` does; a TypeError unless it is of the kind of `like`."""
    result = to_array(function, argument, array)
    on_device = isinstance(result, _device.DeviceArray)
    if on_device != isinstance(like, _device.DeviceArray):
        raise TypeError(
            f"[{function}] {argument}: expected an array "
            f"{'in CPU memory' if on_device else 'on the CUDA device'}, as the others; "
            f"found {type(array).__name__} {'on a CUDA device' if on_device else 'in CPU memory'}"
        )
    return result


def plain(array: Any) -> Any:
    """Return what `to_array` was given, or the like of it."""
    return array.array if isinstance(array, _device.DeviceArray) else array


def zeros_like(source: Any, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Any:
    """Return zeros where `source`, an array of `to_array`, lies."""
    if isinstance(source, _device.DeviceArray):
        return source.zeros(shape, dtype)
    return np.zeros(shape, dtype)


def concatenate(arrays: list[Any], axis: int) -> Any:
    """Join arrays of `to_array`, all of one kind."""
    first = arrays[0]
    if isinstance(first, _device.DeviceArray):
        joined = first.library.concatenate([a.array for a in arrays], axis)
        return _device.DeviceArray(first.library, joined)
    return np.concatenate(arrays, axis=axis)


def repeated(array: Any, axis: int, times: int) -> Any:
    """Return an array that is `times` times `array`, which has one step along `axis`."""
    if isinstance(array, _device.DeviceArray):
        shape = list(array.shape)
        shape[axis] = 0
        return concatenate([array.empty(tuple(shape)), *[array] * times], axis)
    shape = list(array.shape)
    shape[axis] = times
    return np.broadcast_to(array, shape).copy()


def kernels(function: str, source: Any) -> Any:
    """Return what computes where an array of `to_array` lies: the module `_cpu`, or its like."""
    if isinstance(source, _device.DeviceArray):
        return _device.kernels(function)
    return _cpu


def from_numpy_like(array: Any) -> Callable[[np.ndarray[Any, Any]], Any]:
    """Return the function that turns what `kernels` gave into the kind of `array`.

    Nothing is copied.
    """
    if isinstance(array, np.ndarray) or not hasattr(array, "__dlpack__"):
        return _same
    if _device.library_of(array) is not None:
        return _same  # results come from the library itself
    if hasattr(array, "__array_namespace__"):
        convert: Callable[[Any], Any] = array.__array_namespace__().from_dlpack
        return convert
    for kind in type(array).__mro__:
        module = sys.modules.get(kind.__module__.partition(".")[0])
        convert_or_none = getattr(module, "from_dlpack", None)
        if convert_or_none is not None:
            return convert_or_none  # type: ignore[no-any-return]
    return _same
