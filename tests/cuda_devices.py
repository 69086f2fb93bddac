"""The devices that the CUDA tests run on, and how arrays get there and back."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import host_cupy
import numpy as np
import pytest
from marey import _device


class Device:
    """A device, by the library whose arrays are used on it."""

    name = ""

    @property
    def has_hopper(self) -> bool:
        """Whether the kernels of sm_90a run here."""
        return bool(_device.cuda_module().device_info(0)["compute_capability"] == (9, 0))

    def put(self, array: Any) -> Any:
        """Copy to the device, in C order."""
        raise NotImplementedError

    def get(self, array: Any) -> np.ndarray[Any, Any]:
        """Copy back; also check what can be checked only then."""
        raise NotImplementedError


class OnCpu(Device):
    """The kernels on the CPU, under an order of threads."""

    def __init__(self, order: str, library: host_cupy.HostLibrary) -> None:
        self.name = f"on_cpu-{order}"
        self.library = library

    @property
    def has_hopper(self) -> bool:
        return True

    def put(self, array: Any) -> Any:
        return self.library.copy(host_cupy.HostArray(np.asarray(array)))

    def get(self, array: Any) -> np.ndarray[Any, Any]:
        self.library.check_guards()
        assert isinstance(array, host_cupy.HostArray)
        return array.numpy


class Cupy(Device):
    name = "cupy"

    def __init__(self) -> None:
        self.cupy: Any = pytest.importorskip("cupy")

    def put(self, array: Any) -> Any:
        return self.cupy.asarray(array, order="C")

    def get(self, array: Any) -> np.ndarray[Any, Any]:
        assert isinstance(array, self.cupy.ndarray)
        return np.asarray(self.cupy.asnumpy(array))


class Torch(Device):
    name = "torch"

    def __init__(self) -> None:
        self.torch: Any = pytest.importorskip("torch")

    def put(self, array: Any) -> Any:
        array = np.ascontiguousarray(array)
        if array.dtype.name == "bfloat16":
            return self.torch.from_numpy(array.view(np.uint16)).cuda().view(self.torch.bfloat16)
        return self.torch.from_numpy(array).cuda()

    def get(self, array: Any) -> np.ndarray[Any, Any]:
        assert array.is_cuda
        if array.dtype == self.torch.bfloat16:
            import ml_dtypes

            bits = array.contiguous().view(self.torch.uint16).cpu().numpy()
            return bits.view(ml_dtypes.bfloat16)
        return np.asarray(array.cpu().numpy())


class Recorder:
    """The compiled module, and what one of its functions returned: the names of kernels."""

    def __init__(self, module: Any, function: str) -> None:
        self.module = module
        self.function = function
        self.kernels: list[str] = []

    def __getattr__(self, name: str) -> Any:
        found = getattr(self.module, name)
        if name != self.function:
            return found

        def call(*arguments: Any, **named: Any) -> Any:
            self.kernels.append(found(*arguments, **named))
            return self.kernels[-1]

        return call


DEVICES = ("on_cpu-forward", "on_cpu-shuffled", "cupy", "torch")


@cache
def why_no_cuda() -> str:
    """Return why nothing can run on a CUDA device; an empty string if it can."""
    module = _device.cuda_module()
    if module is None:
        return "marey is built without CUDA kernels"
    return str(module.why_no_device())


@cache
def _on_cpu() -> Any:
    return host_cupy.load_module()


@contextmanager
def opened(name: str) -> Iterator[Device]:
    """Make `name` the device that marey's CUDA functions run on."""
    if not name.startswith("on_cpu"):
        if reason := why_no_cuda():
            pytest.skip(reason)
        yield Cupy() if name == "cupy" else Torch()
        return
    module = _on_cpu()
    if module is None:
        pytest.skip("MAREY_CUDA_ON_CPU is not set to the path of the module _cuda_on_cpu")
    order = name.partition("-")[2]
    module.set_order(order)
    library = host_cupy.HostLibrary()
    before = _device._module
    _device._module = module
    _device._libraries["host_cupy"] = library
    try:
        yield OnCpu(order, library)
    finally:
        _device._module = before
        del _device._libraries["host_cupy"]
        module.set_order("forward")
