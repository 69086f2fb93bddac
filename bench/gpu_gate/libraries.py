"""Array libraries on a device, as the gate needs them: torch, CuPy, and the CPU in a dry run."""

from __future__ import annotations

import abc
import contextlib
import importlib
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

ROOT = Path(__file__).parents[2]
GUARD = 4096  # bytes on each side of a result, which nothing may write to
POISON = 0xFF  # NaN in every floating-point type

Array = np.ndarray[Any, Any]


class Library(abc.ABC):
    """What the stages need of an array library on a device."""

    name = ""
    torch: Any = None

    @abc.abstractmethod
    def put(self, array: Array, dtype: str) -> Any:
        """Copy to the device, as another type if need be."""

    @abc.abstractmethod
    def get(self, array: Any) -> Array:
        """Copy to the host, bfloat16 as float32; waits."""

    @abc.abstractmethod
    def guarded(self, shape: tuple[int, ...], dtype: str) -> tuple[Any, Callable[[], bool]]:
        """Return a poisoned array, and what says whether all around it is untouched."""

    @abc.abstractmethod
    def random(self, shape: tuple[int, ...], dtype: str) -> Any:
        """Return random numbers, made on the device."""

    @abc.abstractmethod
    def flusher(self, nbytes: int) -> Callable[[], None]:
        """Return what reads so many bytes, so that a cache holds nothing else; it does not wait."""

    @abc.abstractmethod
    def seconds(self, call: Callable[[], Any]) -> float:
        """Time one call on the device."""

    @abc.abstractmethod
    def side_stream(self) -> contextlib.AbstractContextManager[Any]:
        """Make another stream than the default one current; wait for it at the end."""

    @abc.abstractmethod
    def captured(self, call: Callable[[], Any]) -> Callable[[], Any]:
        """Capture a call in a CUDA graph and return what replays it."""

    @abc.abstractmethod
    def wait(self) -> None:
        """Wait for the device."""


def item_size(dtype: str) -> int:
    return {"uint8": 1, "bfloat16": 2, "float32": 4, "float64": 8}[dtype]


class Torch(Library):
    name = "torch"

    def __init__(self) -> None:
        self.torch = importlib.import_module("torch")

    def put(self, array: Array, dtype: str) -> Any:
        return self.torch.from_numpy(np.ascontiguousarray(array)).cuda().to(self._dtype(dtype))

    def _dtype(self, dtype: str) -> Any:
        return getattr(self.torch, dtype)

    def get(self, array: Any) -> Array:
        if array.dtype == self.torch.bfloat16:
            array = array.float()
        return np.asarray(array.cpu().numpy())

    def guarded(self, shape: tuple[int, ...], dtype: str) -> tuple[Any, Callable[[], bool]]:
        size = int(np.prod(shape, dtype=np.int64)) * item_size(dtype)
        memory = self.torch.full((size + 2 * GUARD,), POISON, dtype=self.torch.uint8, device="cuda")
        array = memory[GUARD : GUARD + size].view(self._dtype(dtype)).view(shape)

        def untouched() -> bool:
            sides = self.torch.cat([memory[:GUARD], memory[GUARD + size :]])
            return bool((sides == POISON).all())

        return array, untouched

    def random(self, shape: tuple[int, ...], dtype: str) -> Any:
        if dtype == "uint8":
            return self.torch.randint(0, 256, shape, dtype=self.torch.uint8, device="cuda")
        return self.torch.randn(shape, dtype=self._dtype(dtype), device="cuda")

    def flusher(self, nbytes: int) -> Callable[[], None]:
        memory = self.torch.zeros(nbytes // 4 + 1, dtype=self.torch.int32, device="cuda")
        return lambda: memory.sum()

    def seconds(self, call: Callable[[], Any]) -> float:
        begin = self.torch.cuda.Event(enable_timing=True)
        end = self.torch.cuda.Event(enable_timing=True)
        begin.record()
        call()
        end.record()
        end.synchronize()
        return float(begin.elapsed_time(end)) * 1e-3

    @contextlib.contextmanager
    def side_stream(self) -> Iterator[None]:
        stream = self.torch.cuda.Stream()
        stream.wait_stream(self.torch.cuda.current_stream())
        with self.torch.cuda.stream(stream):
            yield
        self.torch.cuda.current_stream().wait_stream(stream)

    def captured(self, call: Callable[[], Any]) -> Callable[[], Any]:
        graph = self.torch.cuda.CUDAGraph()
        with self.torch.cuda.graph(graph):
            call()
        replay: Callable[[], Any] = graph.replay
        return replay

    def wait(self) -> None:
        self.torch.cuda.synchronize()


class Cupy(Library):
    name = "cupy"

    def __init__(self) -> None:
        self.cupy: Any = importlib.import_module("cupy")

    def _dtype(self, dtype: str) -> Any:
        if dtype == "bfloat16":
            return np.dtype(importlib.import_module("ml_dtypes").bfloat16)
        return np.dtype(dtype)

    def put(self, array: Array, dtype: str) -> Any:
        return self.cupy.asarray(array.astype(self._dtype(dtype)))

    def get(self, array: Any) -> Array:
        host = self.cupy.asnumpy(array)
        return np.asarray(host.astype(np.float32) if host.dtype.name == "bfloat16" else host)

    def guarded(self, shape: tuple[int, ...], dtype: str) -> tuple[Any, Callable[[], bool]]:
        size = int(np.prod(shape, dtype=np.int64)) * item_size(dtype)
        memory = self.cupy.full((size + 2 * GUARD,), POISON, dtype=np.uint8)
        array = memory[GUARD : GUARD + size].view(self._dtype(dtype)).reshape(shape)

        def untouched() -> bool:
            sides = self.cupy.concatenate([memory[:GUARD], memory[GUARD + size :]])
            return bool((sides == POISON).all())

        return array, untouched

    def random(self, shape: tuple[int, ...], dtype: str) -> Any:
        if dtype == "uint8":
            return self.cupy.random.randint(0, 256, shape, dtype=np.uint8)
        return self.cupy.random.standard_normal(shape, dtype=np.float32).astype(self._dtype(dtype))

    def flusher(self, nbytes: int) -> Callable[[], None]:
        memory = self.cupy.zeros(nbytes // 4 + 1, dtype=np.int32)
        return lambda: memory.sum()

    def seconds(self, call: Callable[[], Any]) -> float:
        begin, end = self.cupy.cuda.Event(), self.cupy.cuda.Event()
        begin.record()
        call()
        end.record()
        end.synchronize()
        return float(self.cupy.cuda.get_elapsed_time(begin, end)) * 1e-3

    @contextlib.contextmanager
    def side_stream(self) -> Iterator[None]:
        self.wait()
        stream = self.cupy.cuda.Stream(non_blocking=True)
        with stream:
            yield
        stream.synchronize()

    def captured(self, call: Callable[[], Any]) -> Callable[[], Any]:
        stream = self.cupy.cuda.Stream(non_blocking=True)
        with stream:
            call()  # so that the pool of this stream has the memory that the capture needs
            stream.synchronize()
            stream.begin_capture()
            call()
            graph = stream.end_capture()

        def replay() -> None:
            graph.launch(stream=stream)
            stream.synchronize()

        return replay

    def wait(self) -> None:
        self.cupy.cuda.Device().synchronize()


class Host(Library):
    """The dry run's: memory of the CPU."""

    name = "host"

    def __init__(self) -> None:
        sys.path.insert(0, str(ROOT / "tests"))
        self.host: Any = importlib.import_module("host_cupy")
        device = importlib.import_module("marey._device")
        self.library = self.host.HostLibrary()
        device._libraries["host_cupy"] = self.library
        device._module = self.host.load_module()
        if device._module is None:
            raise RuntimeError("MAREY_CUDA_ON_CPU is not the path of the module _cuda_on_cpu")

    def _dtype(self, dtype: str) -> Any:
        if dtype == "bfloat16":
            return np.dtype(importlib.import_module("ml_dtypes").bfloat16)
        return np.dtype(dtype)

    def put(self, array: Array, dtype: str) -> Any:
        return self.library.copy(self.host.HostArray(array.astype(self._dtype(dtype))))

    def get(self, array: Any) -> Array:
        host = array.numpy
        return np.array(host.astype(np.float32) if host.dtype.name == "bfloat16" else host)

    def guarded(self, shape: tuple[int, ...], dtype: str) -> tuple[Any, Callable[[], bool]]:
        array = self.library.empty(shape, self._dtype(dtype), 0)

        def untouched() -> bool:
            array.check_guards()
            return True

        return array, untouched

    def random(self, shape: tuple[int, ...], dtype: str) -> Any:
        return self.put(numbers(shape, dtype, 0), dtype)

    def flusher(self, nbytes: int) -> Callable[[], None]:
        del nbytes  # nothing is measured
        return lambda: None

    def seconds(self, call: Callable[[], Any]) -> float:
        begin = time.perf_counter()
        call()
        return time.perf_counter() - begin

    @contextlib.contextmanager
    def side_stream(self) -> Iterator[None]:
        yield

    def captured(self, call: Callable[[], Any]) -> Callable[[], Any]:
        return call

    def wait(self) -> None:
        """Nothing: calls return when they are done."""


def numbers(shape: tuple[int, ...], dtype: str, seed: int) -> Array:
    rng = np.random.default_rng(seed)
    if dtype == "uint8":
        return rng.integers(0, 256, shape, dtype=np.uint8)
    return rng.standard_normal(shape).astype(np.float64 if dtype == "float64" else np.float32)


def open_libraries(dry: bool) -> list[Library]:
    """Return the array libraries of this machine."""
    if dry:
        return [Host()]
    found: list[Library] = []
    for kind in (Torch, Cupy):
        try:
            found.append(kind())
        except ImportError as error:
            print(f"without {kind.name}: {error}", flush=True)
    return found
