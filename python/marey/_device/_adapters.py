"""CuPy and torch: how arrays on CUDA devices are described and made."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import ModuleType

Shape = tuple[int, ...]


class _BFloat16:
    """What stands for the type where NumPy has none."""

    name = "bfloat16"
    itemsize = 2
    kind = "V"

    def __repr__(self) -> str:
        return self.name

    __str__ = __repr__


BFLOAT16 = _BFloat16()


class Library(Protocol):
    """What marey needs of a library whose arrays lie on CUDA devices."""

    def owns(self, array: Any) -> bool:
        """Whether `array` is this library's, and on a CUDA device."""

    def describe(self, array: Any) -> tuple[int, Any, Shape, Shape, int]:
        """Return the pointer, dtype, shape, strides in bytes and device of `array`."""

    def empty(self, shape: Shape, dtype: Any, device: int) -> Any:
        """Return a new C-ordered array."""

    def zeros(self, shape: Shape, dtype: Any, device: int) -> Any:
        """Return a new C-ordered array of zeros."""

    def copy(self, array: Any) -> Any:
        """Return a C-ordered copy."""

    def concatenate(self, arrays: Sequence[Any], axis: int) -> Any:
        """Join arrays along an axis."""

    def broadcast(self, array: Any, shape: Shape) -> Any:
        """Return a view of this shape."""

    def strided(self, array: Any, shape: Shape, strides: Shape) -> Any:
        """Return a view of the same memory with these strides, in bytes."""

    def put(self, array: np.ndarray[Any, Any], device: int) -> Any:
        """Copy a NumPy array to a device."""

    def stream(self, device: int) -> int:
        """Return the current stream of a device."""


class _Torch:
    def __init__(self, torch: ModuleType) -> None:
        self._torch: Any = torch
        self._dtypes = {
            torch.uint8: np.dtype(np.uint8),
            torch.float32: np.dtype(np.float32),
            torch.float64: np.dtype(np.float64),
            torch.bool: np.dtype(np.bool_),
            torch.bfloat16: BFLOAT16,
            torch.int64: np.dtype(np.int64),  # offsets, which no kernel computes with
        }
        self._of = {dtype: ours for ours, dtype in self._dtypes.items()}

    def owns(self, array: Any) -> bool:
        return isinstance(array, self._torch.Tensor) and array.is_cuda

    def describe(self, array: Any) -> tuple[int, Any, Shape, Shape, int]:
        if array.requires_grad and self._torch.is_grad_enabled():
            raise TypeError("a tensor that requires grad (detach it)")
        if array.dtype not in self._dtypes or array.is_neg():
            raise TypeError(str(array.dtype))
        item = array.element_size()
        strides = tuple(item * stride for stride in array.stride())
        shape = tuple(array.shape)
        return array.data_ptr(), self._dtypes[array.dtype], shape, strides, array.device.index

    def empty(self, shape: Shape, dtype: Any, device: int) -> Any:
        return self._torch.empty(shape, dtype=self._of[dtype], device=f"cuda:{device}")

    def zeros(self, shape: Shape, dtype: Any, device: int) -> Any:
        return self._torch.zeros(shape, dtype=self._of[dtype], device=f"cuda:{device}")

    def copy(self, array: Any) -> Any:
        return array.clone(memory_format=self._torch.contiguous_format)

    def concatenate(self, arrays: Sequence[Any], axis: int) -> Any:
        return self._torch.cat(list(arrays), axis)

    def broadcast(self, array: Any, shape: Shape) -> Any:
        return self._torch.broadcast_to(array, shape)

    def strided(self, array: Any, shape: Shape, strides: Shape) -> Any:
        item = array.element_size()
        steps = tuple(stride // item for stride in strides)
        return self._torch.as_strided(array, shape, steps, array.storage_offset())

    def put(self, array: np.ndarray[Any, Any], device: int) -> Any:
        return self._torch.from_numpy(np.ascontiguousarray(array)).to(f"cuda:{device}")

    def stream(self, device: int) -> int:
        return int(self._torch.cuda.current_stream(device).cuda_stream)


class _Cupy:
    def __init__(self, cupy: ModuleType) -> None:
        self._cupy: Any = cupy

    def owns(self, array: Any) -> bool:
        return isinstance(array, self._cupy.ndarray)

    def describe(self, array: Any) -> tuple[int, Any, Shape, Shape, int]:
        dtype = BFLOAT16 if array.dtype.name == "bfloat16" else array.dtype
        return int(array.data.ptr), dtype, array.shape, array.strides, int(array.device.id)

    def _numpy_dtype(self, dtype: Any) -> Any:
        if dtype is not BFLOAT16:
            return dtype
        import ml_dtypes  # that of the arrays that came in

        return np.dtype(ml_dtypes.bfloat16)

    def empty(self, shape: Shape, dtype: Any, device: int) -> Any:
        with self._cupy.cuda.Device(device):
            return self._cupy.empty(shape, self._numpy_dtype(dtype))

    def zeros(self, shape: Shape, dtype: Any, device: int) -> Any:
        with self._cupy.cuda.Device(device):
            return self._cupy.zeros(shape, self._numpy_dtype(dtype))

    def copy(self, array: Any) -> Any:
        with array.device:
            return array.copy(order="C")

    def concatenate(self, arrays: Sequence[Any], axis: int) -> Any:
        with arrays[0].device:
            return self._cupy.concatenate(list(arrays), axis)

    def broadcast(self, array: Any, shape: Shape) -> Any:
        return self._cupy.broadcast_to(array, shape)

    def strided(self, array: Any, shape: Shape, strides: Shape) -> Any:
        return self._cupy.lib.stride_tricks.as_strided(array, shape, strides)

    def put(self, array: np.ndarray[Any, Any], device: int) -> Any:
        with self._cupy.cuda.Device(device):
            return self._cupy.asarray(array)

    def stream(self, device: int) -> int:
        with self._cupy.cuda.Device(device):
            return int(self._cupy.cuda.get_current_stream().ptr)


_ADAPTERS: dict[str, tuple[Any, str]] = {"torch": (_Torch, "Tensor"), "cupy": (_Cupy, "ndarray")}
_libraries: dict[str, Library] = {}


def library_of(array: Any) -> Library | None:
    """Return the library of an array on a CUDA device; None for anything else."""
    for kind in type(array).__mro__:
        name = kind.__module__.partition(".")[0]
        if name not in _libraries and name in _ADAPTERS:
            adapter, attribute = _ADAPTERS[name]
            module = sys.modules.get(name)
            if module is None or not hasattr(module, attribute):
                continue
            _libraries[name] = adapter(module)
        if name in _libraries:
            library = _libraries[name]
            return library if library.owns(array) else None
    return None
