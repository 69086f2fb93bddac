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
    if type(array) is np.ndarray:
        return array
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
    if _is_bfloat16(array):
        return _bfloat16_view(function, argument, array)
    try:
        return np.from_dlpack(array)
    except (BufferError, RuntimeError) as error:
        raise TypeError(
            f"[{function}] {argument}: expected an array that NumPy can share; found "
            f"{type(array).__name__}: {error}"
        ) from error


def _is_bfloat16(array: Any) -> bool:
    return str(getattr(array, "dtype", "")).endswith("bfloat16")


def _bfloat16_view(function: str, argument: str, array: Any) -> np.ndarray[Any, Any]:
    """Return another library's bfloat16, which NumPy takes from `ml_dtypes` and not by DLPack."""
    try:
        from ml_dtypes import bfloat16
    except ImportError:
        raise TypeError(
            f"[{function}] {argument}: expected the package ml_dtypes beside arrays of bfloat16; "
            "found none"
        ) from None
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(array, torch.Tensor):
        return array.detach().view(torch.int16).numpy().view(bfloat16)  # type: ignore[no-any-return]
    return np.asarray(array)


def _of_bfloat16(convert: Callable[..., Any]) -> Callable[[np.ndarray[Any, Any]], Any]:
    """Return `convert` for what DLPack cannot say."""

    def result(array: np.ndarray[Any, Any]) -> Any:
        if array.dtype.name != "bfloat16":
            return convert(array)
        torch = sys.modules.get("torch")
        if torch is not None and convert is torch.from_dlpack:
            return convert(array.view(np.int16)).view(torch.bfloat16)
        jax = sys.modules.get("jax")
        return array if jax is None else jax.numpy.asarray(array)

    return result


def to_array(function: str, argument: str, array: Any) -> Any:
    """Return `array` as a NumPy array or a `_device.DeviceArray`, without copying it.

    Raises
    ------
    TypeError
        If it is neither in the memory of the CPU nor CuPy's or torch's on a CUDA device.
    """
    if type(array) is np.ndarray:  # the usual case first: microseconds of every call
        return array
    if isinstance(array, np.ndarray):
        return to_numpy(function, argument, array)
    library = _device.library_of(array)
    if library is None:
        return to_numpy(function, argument, array)
    return _device.take(function, argument, array, library)


def to_array_like(function: str, argument: str, array: Any, like: Any) -> Any:
    """Return `array` as `to_array` does; a TypeError unless it is of the kind of `like`."""
    if type(array) is type(like) is np.ndarray:
        return array
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


def broadcast_to(array: Any, shape: tuple[int, ...]) -> Any:
    """Return a view of an array of `to_array`; a ValueError if there is none."""
    if isinstance(array, _device.DeviceArray):
        return array.broadcast(shape)
    return np.broadcast_to(array, shape)


def zeros_like(source: Any, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Any:
    """Return zeros where `source`, an array of `to_array`, lies."""
    if isinstance(source, _device.DeviceArray):
        return source.zeros(shape, dtype)
    return np.zeros(shape, dtype)


def empty_like(source: Any, shape: tuple[int, ...], dtype: Any) -> Any:
    """Return a new array where `source`, an array of `to_array`, lies."""
    if isinstance(source, _device.DeviceArray):
        return source.empty(shape, dtype)
    # As kernels make their results: in memory that is kept, and aligned.
    return _cpu.empty_like(np.broadcast_to(np.empty((), dtype), shape))


def assign(target: Any, value: Any) -> None:
    """Copy `value` to `target`, both of one kind of `to_array`."""
    if isinstance(target, _device.DeviceArray):
        target.assign(value)
    else:
        target[...] = value


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
        return _of_bfloat16(convert) if _is_bfloat16(array) else convert
    for kind in type(array).__mro__:
        module = sys.modules.get(kind.__module__.partition(".")[0])
        convert_or_none = getattr(module, "from_dlpack", None)
        if convert_or_none is not None:
            return _of_bfloat16(convert_or_none) if _is_bfloat16(array) else convert_or_none
    return _same
