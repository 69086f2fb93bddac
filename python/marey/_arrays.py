"""The one place that takes arrays of any kind in and hands the same kind out."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import numpy as np

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
            f"type {int(device_type)} (this build of marey has no kernels for it)"
        )
    if str(getattr(array, "dtype", "")).endswith("bfloat16"):
        return _bfloat16_view(function, argument, array)
    try:
        return np.from_dlpack(array)
    except (BufferError, RuntimeError) as error:
        raise TypeError(
            f"[{function}] {argument}: expected an array that NumPy can share; found "
            f"{type(array).__name__}: {error}"
        ) from error


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


def from_numpy_like(array: Any) -> Callable[[np.ndarray[Any, Any]], Any]:
    """Return the function that turns a NumPy array into the kind of `array`, without copying."""
    if isinstance(array, np.ndarray) or not hasattr(array, "__dlpack__"):
        return _same
    if hasattr(array, "__array_namespace__"):
        convert: Callable[[Any], Any] = array.__array_namespace__().from_dlpack
        return _of_bfloat16(convert) if "bfloat16" in str(array.dtype) else convert
    for kind in type(array).__mro__:
        module = sys.modules.get(kind.__module__.partition(".")[0])
        convert_or_none = getattr(module, "from_dlpack", None)
        if convert_or_none is not None:
            half = "bfloat16" in str(getattr(array, "dtype", ""))
            return _of_bfloat16(convert_or_none) if half else convert_or_none
    return _same
