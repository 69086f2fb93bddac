"""Everything that can be learned of the CUDA kernels in one call on a machine with a GPU.

``python -m bench.gpu_gate`` builds, checks, sanitizes and times; under ten minutes, from a bare
checkout, with nvcc, CMake, pybind11, torch and CuPy installed and nothing to download. The JSON
file (``--out``) is written anew after each stage, so that a call that was cut off leaves what it
had. A stage that fails says why, and the next one runs all the same; stages that the time does not
reach say so. ``--dry-run`` runs the same code on small arrays on the CPU (MAREY_CUDA_ON_CPU is the
path of the module _cuda_on_cpu); it times nothing worth knowing.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import json
import os
import platform
import re
import shutil
import statistics
import subprocess
import sys
import time
import traceback
from dataclasses import dataclass, field
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

ROOT = Path(__file__).parents[1]
BUDGET = 570.0  # seconds in all
GUARD = 4096  # bytes on each side of a result, which nothing may write to
POISON = 0xFF  # NaN in every floating-point type
REPEATS = 30
TOOLS = ("memcheck", "racecheck", "synccheck", "initcheck")
START = time.monotonic()

Array = np.ndarray[Any, Any]


def left() -> float:
    """Return how many seconds of the budget are left."""
    return BUDGET - (time.monotonic() - START)


# ---------------------------------------------------------------------------------------------
# Array libraries


class Library:
    """What the stages need of an array library on a device."""

    name = ""
    torch: Any = None

    def put(self, array: Array, dtype: str) -> Any:
        """Copy to the device, as another type if need be."""
        raise NotImplementedError

    def get(self, array: Any) -> Array:
        """Copy to the host, bfloat16 as float32; waits."""
        raise NotImplementedError

    def guarded(self, shape: tuple[int, ...], dtype: str) -> tuple[Any, Callable[[], bool]]:
        """Return a poisoned array, and what says whether all around it is untouched."""
        raise NotImplementedError

    def random(self, shape: tuple[int, ...], dtype: str) -> Any:
        """Return random numbers, made on the device."""
        raise NotImplementedError

    def seconds(self, call: Callable[[], Any]) -> float:
        """Time one call on the device."""
        raise NotImplementedError

    def side_stream(self) -> contextlib.AbstractContextManager[Any]:
        """Make another stream than the default one current; wait for it at the end."""
        raise NotImplementedError

    def captured(self, call: Callable[[], Any]) -> Callable[[], Any]:
        """Capture a call in a CUDA graph and return what replays it."""
        raise NotImplementedError

    def wait(self) -> None:
        """Wait for the device."""


def _item(dtype: str) -> int:
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
        size = int(np.prod(shape, dtype=np.int64)) * _item(dtype)
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
        size = int(np.prod(shape, dtype=np.int64)) * _item(dtype)
        memory = self.cupy.full((size + 2 * GUARD,), POISON, dtype=np.uint8)
        array = memory[GUARD : GUARD + size].view(self._dtype(dtype)).reshape(shape)

        def untouched() -> bool:
            sides = self.cupy.concatenate([memory[:GUARD], memory[GUARD + size :]])
            return bool((sides == POISON).all())

        return array, untouched

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
        return self.put(_numbers(shape, dtype, 0), dtype)

    def seconds(self, call: Callable[[], Any]) -> float:
        begin = time.perf_counter()
        call()
        return time.perf_counter() - begin

    @contextlib.contextmanager
    def side_stream(self) -> Iterator[None]:
        yield

    def captured(self, call: Callable[[], Any]) -> Callable[[], Any]:
        return call


def _numbers(shape: tuple[int, ...], dtype: str, seed: int) -> Array:
    rng = np.random.default_rng(seed)
    if dtype == "uint8":
        return rng.integers(0, 256, shape, dtype=np.uint8)
    return rng.standard_normal(shape).astype(np.float64 if dtype == "float64" else np.float32)


# ---------------------------------------------------------------------------------------------
# Workloads


@dataclass(frozen=True)
class Work:
    """One kernel on one shape.

    Attributes
    ----------
    inputs : dict
        Shapes and types.
    run : callable
        ``run(*inputs, out)`` writes to `out`.
    out : (shape, dtype)
        Of the result.
    reference : callable
        The same of NumPy arrays, in float64.
    tolerance : float
        Largest error, as a share of the largest exact value.
    bytes, flops : float
        What must be read and written, and computed; for a benchmark.
    peer : str
        "copy", or torch's "sdpa", "conv3d" or "lstm".
    target : float
        The share of the peer's rate that is wanted at first.
    """

    name: str
    inputs: tuple[tuple[tuple[int, ...], str], ...]
    run: Callable[..., Any]
    out: tuple[tuple[int, ...], str]
    reference: Callable[..., Array] | None = None
    tolerance: float = 1e-5
    bytes: float = 0.0
    flops: float = 0.0
    peer: str = "copy"
    target: float = 0.85
    options: dict[str, Any] = field(default_factory=dict)

    def arrays(self) -> list[Array]:
        return [_numbers(shape, dtype, k) for k, (shape, dtype) in enumerate(self.inputs)]


def _nbytes(*arrays: tuple[tuple[int, ...], str]) -> float:
    return float(sum(np.prod(shape, dtype=np.float64) * _item(dtype) for shape, dtype in arrays))


def temporal_work(shape: tuple[int, ...], dtype: str) -> list[Work]:
    import marey
    from marey.reference import temporal as reference

    sos = marey.temporal.butter_bandpass(0.4, 3, 30, order=2)
    taps = np.hanning(11)[1:-1]
    result = "float32" if dtype == "uint8" else dtype
    eps = 1e-12 if dtype == "float64" else 2e-5
    label = f"{'x'.join(map(str, shape))} {dtype}"
    x, y = (shape, dtype), (shape, result)
    t = marey.temporal
    made = [
        Work(
            f"sosfilt, 2 sections, {label}",
            (x,),
            lambda x, out: t.sosfilt(sos, x, out=out),
            y,
            lambda x: reference.sosfilt(sos, x),
            eps,
            _nbytes(x, y),
        ),
        Work(
            f"convolve, 9 taps, {label}",
            (x,),
            lambda x, out: t.convolve(x, taps, out=out),
            y,
            lambda x: reference.convolve(x, taps),
            eps,
            _nbytes(x, y),
        ),
        Work(
            f"median_filter, 5, {label}",
            (x,),
            lambda x, out: t.median_filter(x, 5, out=out),
            x,
            lambda x: reference.median_filter(x, 5),
            0.0,
            _nbytes(x, x),
        ),
        Work(
            f"median, {label}",
            (x,),
            lambda x, out: t.median(x, out=out),
            (shape[1:], result),
            lambda x: np.median(x.astype(np.float64), axis=0),
            eps,
            _nbytes(x, (shape[1:], result)),
            target=0.5,
        ),
    ]
    if shape[0] > 20:
        made.append(
            Work(
                f"sosfiltfilt, 2 sections, {label}",
                (x,),
                lambda x, out: t.sosfiltfilt(sos, x, out=out),
                y,
                lambda x: reference.sosfiltfilt(sos, x),
                10 * eps,
                _nbytes(x, y, y, y),
            )
        )
    return made


def pyramid_work(shape: tuple[int, ...], dtype: str) -> list[Work]:
    import marey
    from marey.reference import pyramid as reference

    label = f"{'x'.join(map(str, shape))} {dtype}"
    n, h, w, c = shape
    half = (n, (h + 1) // 2, (w + 1) // 2, c)
    x = (shape, dtype)
    p = marey.pyramid
    eps = 1e-12 if dtype == "float64" else 1e-5
    made = [
        Work(
            f"down, {label}",
            (x,),
            lambda x, out: p.down(x, out=out),
            (half, dtype),
            reference.down,
            eps,
            _nbytes(x, (half, dtype)),
            target=0.75,
        ),
        Work(
            f"up, {label}",
            ((half, dtype),),
            lambda x, out: p.up(x, (h, w), out=out),
            x,
            lambda x: reference.up(x, (h, w)),
            eps,
            _nbytes((half, dtype), x),
            target=0.75,
        ),
    ]
    if dtype != "uint8":
        made.append(
            Work(
                f"laplacian and collapse, 4 levels, {label}",
                (x,),
                lambda x, out: p.collapse(p.laplacian(x, 4), out=out),
                x,
                lambda x: x.astype(np.float64),
                1e-5,
                4 * _nbytes(x),
                target=0.6,
            )
        )
    return made


def magnifier_work(shape: tuple[int, ...], dtype: str) -> list[Work]:
    import marey

    label = f"{'x'.join(map(str, shape))} {dtype}"

    def run(x: Any, out: Any) -> Any:
        magnifier = marey.Magnifier(shape[1:], 30, 0.4, 3, 10, cutoff=16, levels=3, dtype=dtype)
        return magnifier.feed(x, out=out)

    def reference(x: Array) -> Array:
        magnifier = marey.Magnifier(shape[1:], 30, 0.4, 3, 10, cutoff=16, levels=3, dtype=dtype)
        return np.asarray(magnifier.feed(x))

    x = (shape, dtype)
    return [
        Work(
            f"Magnifier, linear motion, {label}",
            (x,),
            run,
            x,
            reference,
            2.1 / 255,
            3 * _nbytes(x),
            target=0.5,
        )
    ]


def attention_work(
    batch: int,
    heads: tuple[int, int],
    length: int,
    depth: int,
    dtype: str,
    *,
    causal: bool = False,
    target: float = 0.6,
) -> list[Work]:
    from marey import attention as ours
    from marey.reference import attention as reference

    q = ((batch, heads[0], length, depth), dtype)
    kv = ((batch, heads[1], length, depth), dtype)
    label = f"B{batch} h{heads[0]}/{heads[1]} L{length} D{depth} {dtype}"
    pairs = length * (length + 1) / 2 if causal else length * length
    return [
        Work(
            f"attention{', causal' if causal else ''}, {label}",
            (q, kv, kv),
            lambda q, k, v, out: ours.attention(q, k, v, causal=causal, out=out),
            q,
            lambda q, k, v: reference.attention(q, k, v, causal=causal),
            2**-6 if dtype == "bfloat16" else 1e-5,
            _nbytes(q, q, kv, kv),
            4.0 * batch * heads[0] * depth * pairs,
            "sdpa",
            target,
            {"causal": causal, "grouped": heads[0] != heads[1]},
        )
    ]


def conv_work(
    x: tuple[int, ...], filters: int, kernel: tuple[int, int, int], dtype: str
) -> list[Work]:
    import marey
    from marey.reference import conv as reference

    n, c, t, h, w = x
    padding = tuple(k // 2 for k in kernel)
    weight = ((filters, c, *kernel), dtype)
    out = ((n, filters, t, h, w), dtype)
    label = f"{'x'.join(map(str, x))} {filters}x{'x'.join(map(str, kernel))} {dtype}"
    taps = c * kernel[0] * kernel[1] * kernel[2]
    return [
        Work(
            f"conv3d, {label}",
            ((x, dtype), weight),
            lambda x, weight, out: marey.conv.conv3d(x, weight, padding=padding, out=out),
            out,
            lambda x, weight: reference.conv3d(x, weight, padding=padding),
            2**-7 if dtype == "bfloat16" else 1e-5,
            _nbytes((x, dtype), weight, out),
            2.0 * n * filters * t * h * w * taps,
            "conv3d",
            0.65,
            {"padding": padding},
        )
    ]


def lstm_work(steps: int, rows: int, hidden: int, dtype: str) -> list[Work]:
    import marey

    x = ((steps, rows, hidden), dtype)
    weight = ((4 * hidden, hidden), dtype)
    # Weights of the size that they are initialised with, so that nothing saturates.
    small = hidden**-0.5

    def run(x: Any, w: Any, u: Any, out: Any) -> Any:
        return marey.recurrent.lstm(x, w * small, u * small, out=out)

    def reference(x: Array, w: Array, u: Array) -> Array:
        wide = [a.astype(np.float64) for a in (x, w * np.float32(small), u * np.float32(small))]
        return np.asarray(marey.recurrent.lstm(*wide)[0])

    return [
        Work(
            f"lstm, T{steps} N{rows} H{hidden} {dtype}",
            (x, weight, weight),
            run,
            x,
            reference,
            2**-5 if dtype == "bfloat16" else 1e-5,
            _nbytes(x, x, weight, weight),
            2.0 * steps * rows * 8 * hidden * hidden,
            "lstm",
            0.65,
            {"hidden": hidden},
        )
    ]


def small_works() -> list[Work]:
    """Return ragged, misaligned and tiny shapes, to be compared with float64."""
    made: list[Work] = []
    for dtype in ("uint8", "float32", "float64"):
        for shape in ((1, 1), (1, 97), (40, 257), (33, 16, 20, 3)):
            made += temporal_work(shape, dtype)
        for shape in ((1, 1, 1, 1), (2, 17, 33, 3), (1, 64, 130, 1), (3, 5, 2, 4)):
            made += pyramid_work(shape, dtype)
    for dtype in ("uint8", "float32"):
        made += magnifier_work((5, 33, 40, 3), dtype)
    made += attention_work(1, (2, 2), 40, 16, "float64")
    made += attention_work(2, (4, 2), 70, 40, "float32", causal=True)
    for dtype in ("float32", "float64", "bfloat16"):
        made += conv_work((2, 3, 4, 9, 7), 70, (3, 3, 3), dtype)
        made += conv_work((1, 17, 3, 5, 6), 4, (1, 1, 1), dtype)
    made += lstm_work(5, 3, 17, "float32")
    for length in (16, 127, 129, 300):
        for depth in (64, 128):
            made += attention_work(2, (4, 2), length, depth, "bfloat16", causal=length % 2 == 1)
    return made


def large_works(dry: bool) -> list[Work]:
    """Return what is timed."""
    if dry:
        return [
            *temporal_work((24, 64), "float32"),
            *pyramid_work((1, 32, 32, 3), "float32"),
            *magnifier_work((3, 32, 32, 3), "uint8"),
            *attention_work(1, (2, 2), 64, 64, "bfloat16"),
            *conv_work((1, 8, 4, 8, 8), 16, (3, 3, 3), "float32"),
            *lstm_work(3, 4, 16, "float32"),
        ]
    made = temporal_work((300, 1080, 1920), "uint8") + temporal_work((128, 1080, 1920), "float32")
    made += temporal_work((300, 128, 128), "float32")
    made += pyramid_work((32, 1080, 1920, 3), "uint8")
    made += pyramid_work((32, 1080, 1920, 3), "float32")
    made += magnifier_work((32, 1080, 1920, 3), "uint8")
    for length, batch in ((2048, 8), (8192, 2), (16384, 1)):
        made += attention_work(batch, (64, 8), length, 128, "bfloat16")
        made += attention_work(batch, (64, 8), length, 128, "bfloat16", causal=True)
    made += attention_work(2, (32, 32), 8192, 64, "bfloat16")
    made += attention_work(1, (16, 16), 2048, 64, "float32", target=0.3)
    made += conv_work((8, 64, 8, 56, 56), 64, (3, 3, 3), "float32")
    made += conv_work((8, 64, 8, 56, 56), 64, (3, 3, 3), "bfloat16")
    made += conv_work((8, 64, 8, 56, 56), 64, (1, 3, 3), "bfloat16")
    made += lstm_work(256, 16, 768, "float32")
    return made


# ---------------------------------------------------------------------------------------------
# Stages


def _tail(text: str | bytes | None, lines: int = 40) -> str:
    if isinstance(text, bytes):
        text = text.decode(errors="replace")
    return "\n".join((text or "").splitlines()[-lines:])


def _command(command: list[str], timeout: float, env: dict[str, str] | None = None) -> Any:
    """Run a program and say how it ended; never raises."""
    begin = time.monotonic()
    try:
        done = subprocess.run(
            command,
            cwd=ROOT,
            env={**os.environ, **(env or {})},
            capture_output=True,
            text=True,
            timeout=max(timeout, 1),
            check=False,
        )
        result = {"status": done.returncode, "tail": _tail(done.stdout + done.stderr)}
    except subprocess.TimeoutExpired as error:
        result = {"status": "timeout", "tail": _tail(error.stdout) + _tail(error.stderr)}
    except OSError as error:
        result = {"status": str(error), "tail": ""}
    return {"command": " ".join(command), "seconds": time.monotonic() - begin, **result}


def _output(*command: str) -> str:
    return str(_command(list(command), 20)["tail"])


def environment(libraries: list[Library]) -> Any:
    """Say where this ran."""
    return {
        "date": time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime()),
        "commit": _output("git", "rev-parse", "HEAD"),
        "changed": _output("git", "status", "--short"),
        "machine": platform.platform(),
        "python": sys.version.split()[0],
        "nvidia_smi": _output("nvidia-smi"),
        "nvcc": _output("nvcc", "--version"),
        "libraries": {
            name: getattr(sys.modules.get(name), "__version__", None)
            for name in ("numpy", "torch", "cupy", "scipy", "ml_dtypes")
        },
        "array_libraries": [library.name for library in libraries],
    }


def build(architectures: str) -> Any:
    """Compile both modules for this machine and put them into the package."""
    folder = ROOT / "build" / "gate"
    cmakedir = _output(sys.executable, "-m", "pybind11", "--cmakedir").strip()
    version = "0.0.0"
    if found := re.search(r'^version = "(.*)"', (ROOT / "pyproject.toml").read_text(), re.M):
        version = found.group(1)
    generator = ["-G", "Ninja"] if shutil.which("ninja") else []
    configured = _command(
        [
            "cmake",
            *("-S", str(ROOT), "-B", str(folder), *generator),
            "-DCMAKE_BUILD_TYPE=Release",
            f"-DSKBUILD_PROJECT_VERSION={version}",
            f"-DSKBUILD_PROJECT_VERSION_FULL={version}",
            "-DMAREY_ISAS=baseline",
            "-DMAREY_CUDA=ON",
            f"-DMAREY_CUDA_ARCHITECTURES={architectures}",
            f"-Dpybind11_DIR={cmakedir}",
            f"-DPython_EXECUTABLE={sys.executable}",
        ],
        60,
    )
    jobs = str(os.cpu_count() or 2)
    built = _command(
        ["cmake", "--build", str(folder), "--parallel", jobs, "--target", "_cpu", "_cuda"], 240
    )
    copied = []
    for module in [*folder.glob("_cpu*.so"), *folder.glob("_cuda*.so")]:
        copied.append(shutil.copy(module, ROOT / "python" / "marey"))
    return {"configured": configured, "built": built, "copied": list(map(str, copied))}


def importable() -> Any:
    """Import what was built, and say what it sees."""
    import marey
    from marey import _device

    module = _device.cuda_module()
    if module is None:
        raise RuntimeError("marey._cuda was not built")
    seen: dict[str, Any] = {"version": marey.__version__, "devices": module.device_count()}
    if hasattr(module, "device_info"):
        seen |= {"why_no_device": module.why_no_device(), "build": module.build_info()}
        seen["device"] = module.device_info(0)
    return seen


def ceilings(library: Library) -> Any:
    """Measure this device's copy and its matrix product."""
    torch = library.torch
    if torch is None:
        return {"skipped": "needs torch"}
    source = torch.empty(4 * 10**9, dtype=torch.uint8, device="cuda")
    target = torch.empty_like(source)
    a = torch.randn(8192, 8192, dtype=torch.bfloat16, device="cuda")
    b = torch.randn(8192, 8192, dtype=torch.bfloat16, device="cuda")
    copy = statistics.median(library.seconds(lambda: target.copy_(source)) for _ in range(10))
    for _ in range(5):
        a @ b
    product = statistics.median(library.seconds(lambda: a @ b) for _ in range(20))
    return {
        "copy_GB_per_s": 8.0 / copy,
        "bfloat16_TFLOP_per_s": 2 * 8192**3 / product * 1e-12,
    }


def _compare(work: Work, result: Array, inputs: list[Array]) -> dict[str, Any]:
    assert work.reference is not None
    exact = np.asarray(work.reference(*inputs))
    if result.shape != exact.shape:
        return {"ok": False, "why": f"shape {result.shape}, expected {exact.shape}"}
    if exact.size == 0:
        return {"ok": True, "error": 0.0}
    scale = max(float(np.abs(exact.astype(np.float64)).max()), 1e-30)
    if result.dtype == np.uint8:
        error = float(np.abs(result.astype(np.int64) - exact.astype(np.int64)).max())
        allowed = 1.0 if "Magnifier" in work.name else 0.0
    else:
        error = float(np.abs(result.astype(np.float64) - exact).max()) / scale
        allowed = work.tolerance
    return {"ok": bool(error <= allowed), "error": error, "allowed": allowed}


def _rounded(array: Array, dtype: str) -> Array:
    """Return what an array is once it is stored in a type."""
    if dtype != "bfloat16":
        return array
    bits = np.ascontiguousarray(array, np.float32).view(np.uint32).astype(np.uint64)
    bits = (bits + 0x7FFF + ((bits >> 16) & 1)) & 0xFFFF0000
    return bits.astype(np.uint32).view(np.float32)


def check_one(library: Library, work: Work) -> dict[str, Any]:
    """Compare with float64, and again: guards, another stream, a graph."""
    inputs = [_rounded(x, dtype) for x, (_, dtype) in zip(work.arrays(), work.inputs, strict=True)]
    there = [library.put(x, dtype) for x, (_, dtype) in zip(inputs, work.inputs, strict=True)]
    out, untouched = library.guarded(*work.out)
    work.run(*there, out)
    first = library.get(out)
    report = _compare(work, first, inputs)
    report["guards"] = untouched()
    again, _ = library.guarded(*work.out)
    work.run(*there, again)
    report["deterministic"] = bool(np.array_equal(library.get(again), first, equal_nan=True))
    aside, _ = library.guarded(*work.out)
    library.wait()
    with library.side_stream():
        work.run(*there, aside)
    library.wait()
    report["side_stream"] = bool(np.array_equal(library.get(aside), first, equal_nan=True))
    replayed, _ = library.guarded(*work.out)
    try:
        replay = library.captured(lambda: work.run(*there, replayed))
        replay()
        library.wait()
        report["graph"] = bool(np.array_equal(library.get(replayed), first, equal_nan=True))
    except Exception as error:
        report["graph"] = f"{type(error).__name__}: {error}"
        library.wait()
    report["ok"] = bool(
        report["ok"]
        and all(report[k] is True for k in ("guards", "deterministic", "side_stream", "graph"))
    )
    return report


def checks(library: Library, works: list[Work]) -> Any:
    """Check every small workload with one library."""
    report: dict[str, Any] = {}
    for work in works:
        if left() < 20:
            report[work.name] = {"skipped": "out of time"}
            continue
        try:
            report[work.name] = check_one(library, work)
        except Exception as error:
            report[work.name] = {"ok": False, "why": f"{type(error).__name__}: {error}"}
    wrong = [name for name, result in report.items() if result.get("ok") is False]
    return {"wrong": wrong, "checked": len(report), "results": report}


def sources() -> list[str]:
    """Return the folder of the source tree if the modules are in it; else marey is installed."""
    built = any((ROOT / "python" / "marey").glob("_cpu*.so"))
    return [str(ROOT / "python")] if built else []


def tests() -> Any:
    """Run the project's own CUDA tests."""
    files = sorted(str(path.relative_to(ROOT)) for path in (ROOT / "tests").glob("test_cuda_*.py"))
    command = [sys.executable, "-m", "pytest", "-q", "-m", "cuda", "-p", "no:cacheprovider", *files]
    path = os.pathsep.join([*sources(), os.environ.get("PYTHONPATH", "")])
    return _command(command, min(120.0, left() - 60), {"PYTHONPATH": path})


def sanitizers() -> Any:
    """Run the small workloads once under each tool of compute-sanitizer."""
    if shutil.which("compute-sanitizer") is None:
        return {"skipped": "compute-sanitizer is not installed"}
    report = {}
    for tool in TOOLS:
        if left() < 90:
            report[tool] = {"skipped": "out of time"}
            continue
        command = ["compute-sanitizer", "--tool", tool, "--error-exitcode", "9"]
        command += ["--kernel-regex", "kns=marey", sys.executable, "-m", "bench.gpu_gate", "--tiny"]
        # Its own allocations for every array, so that what is beyond one is nobody's.
        env = {"PYTORCH_NO_CUDA_MEMORY_CACHING": "1", "PYTHONPATH": str(ROOT / "python")}
        report[tool] = _command(command, min(75.0, left() - 60), env)
    return report


def tiny(library: Library) -> None:
    """Run a few workloads of each kernel once: what a sanitizer watches."""
    chosen: dict[str, Work] = {}
    for work in small_works():
        kind = work.name.split(",")[0] + work.inputs[0][1]
        if work.out[0] and np.prod(work.inputs[0][0]) > 200:
            chosen.setdefault(kind, work)
    for work in small_works():
        if "attention" in work.name and "L129" in work.name:
            chosen[work.name] = work
    for work in chosen.values():
        there = [
            library.put(x, dtype) for x, (_, dtype) in zip(work.arrays(), work.inputs, strict=True)
        ]
        out, _ = library.guarded(*work.out)
        work.run(*there, out)
        library.wait()
        print("ran", work.name, flush=True)


@cache
def _l2_bytes() -> int:
    from marey import _device

    module = _device.cuda_module()
    return int(module.device_info(0)["l2_bytes"]) if hasattr(module, "device_info") else 1


def _peer(library: Library, work: Work, arrays: list[Any]) -> Callable[[], Any] | None:
    """Return what a workload is compared with, on the same arrays."""
    torch = library.torch
    if torch is None:
        return None
    if work.peer == "copy":
        # As many bytes, half of them read.
        size = max(int(work.bytes) // 2, 1)
        source = torch.empty(size, dtype=torch.uint8, device="cuda")
        target = torch.empty_like(source)
        return lambda: target.copy_(source)
    if work.peer == "conv3d":
        torch.backends.cudnn.benchmark = True
        torch.backends.cudnn.allow_tf32 = False
        padding = work.options["padding"]
        return lambda: torch.nn.functional.conv3d(arrays[0], arrays[1], padding=padding)
    if work.peer == "lstm":
        torch.backends.cudnn.allow_tf32 = False
        hidden = work.options["hidden"]
        layer = torch.nn.LSTM(hidden, hidden, bias=False, device="cuda", dtype=arrays[0].dtype)
        return lambda: layer(arrays[0])
    attend = torch.nn.functional.scaled_dot_product_attention
    options = {"is_causal": work.options["causal"], "enable_gqa": work.options["grouped"]}
    backends = importlib.import_module("torch.nn.attention")
    kinds = backends.SDPBackend
    best: tuple[float, Callable[[], Any]] | None = None
    for kind in (kinds.CUDNN_ATTENTION, kinds.FLASH_ATTENTION, kinds.EFFICIENT_ATTENTION):

        def call(kind: Any = kind) -> Any:
            with backends.sdpa_kernel(kind):
                return attend(*arrays, **options)

        try:
            call()
            took = min(library.seconds(call) for _ in range(3))
        except Exception:
            library.wait()
            continue
        if best is None or took < best[0]:
            best = (took, call)
    return None if best is None else best[1]


def benchmark_one(library: Library, work: Work, repeats: int) -> dict[str, Any]:
    """Time a workload and its peer by turns, on buffers that no cache holds."""
    count = 1
    if work.bytes < 3 * _l2_bytes():
        count = min(int(3 * _l2_bytes() // max(work.bytes, 1)) + 1, 16)
    sets = []
    for _ in range(count):
        arrays = [library.random(shape, dtype) for shape, dtype in work.inputs]
        out, _ = library.guarded(*work.out)
        sets.append((arrays, out))
    peer = _peer(library, work, sets[0][0])
    for arrays, out in sets:
        work.run(*arrays, out)
    if peer is not None:
        peer()
    library.wait()
    ours, theirs = [], []
    for k in range(repeats):
        arrays, out = sets[k % count]
        if peer is not None:
            theirs.append(library.seconds(peer))
        ours.append(library.seconds(partial(work.run, *arrays, out)))
    took = statistics.median(ours)
    report: dict[str, Any] = {
        "seconds": took,
        "quartiles": statistics.quantiles(ours, n=4),
        "GB_per_s": work.bytes / took * 1e-9,
        "TFLOP_per_s": work.flops / took * 1e-12,
        "target": work.target,
    }
    if theirs:
        report["peer"] = work.peer
        report["peer_seconds"] = statistics.median(theirs)
        report["share"] = report["peer_seconds"] / took
        report["met"] = bool(report["share"] >= work.target)
    return report


def benchmarks(library: Library, works: list[Work], repeats: int, save: Callable[..., None]) -> Any:
    """Time every large workload."""
    report: dict[str, Any] = {}
    for work in works:
        if left() < 30:
            report[work.name] = {"skipped": "out of time"}
            continue
        try:
            report[work.name] = benchmark_one(library, work, repeats)
        except Exception as error:
            report[work.name] = {"why": f"{type(error).__name__}: {error}"}
        save("benchmarks", report)
        if library.torch is not None:
            library.torch.cuda.empty_cache()
    return report


def profiles(report: Any) -> Any:
    """Profile the workloads that miss their target."""
    if shutil.which("ncu") is None:
        return {"skipped": "ncu is not installed"}
    missed = [name for name, result in report.items() if result.get("met") is False]
    made = {}
    for name in missed[:4]:
        if left() < 60:
            made[name] = {"skipped": "out of time"}
            continue
        command = ["ncu", "--clock-control", "none", "--set", "basic", "-k", "regex:kernel"]
        command += ["--launch-count", "2", sys.executable, "-m", "bench.gpu_gate", "--one", name]
        made[name] = _command(command, min(45.0, left() - 15), {"PYTHONPATH": str(ROOT / "python")})
    return made


def run_one(library: Library, name: str, dry: bool) -> None:
    """Run one large workload twice: what a profiler watches."""
    (work,) = (work for work in large_works(dry) if work.name == name)
    arrays = [library.random(shape, dtype) for shape, dtype in work.inputs]
    out, _ = library.guarded(*work.out)
    for _ in range(2):
        work.run(*arrays, out)
    library.wait()


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


def main() -> int:
    """Run all stages, or the part that another program watches."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, help="the JSON file")
    parser.add_argument("--dry-run", action="store_true", help="on the CPU, small")
    parser.add_argument("--no-build", action="store_true", help="take the modules as they are")
    parser.add_argument("--architectures", default="90-real", help="for CMake")
    parser.add_argument("--tiny", action="store_true", help="run small workloads once")
    parser.add_argument("--one", help="run one large workload twice")
    arguments = parser.parse_args()
    dry = arguments.dry_run
    if dry or arguments.no_build:
        sys.path[:0] = sources()
    else:
        sys.path.insert(0, str(ROOT / "python"))  # where the modules will be
    if arguments.tiny or arguments.one:
        library = open_libraries(dry)[0]
        tiny(library) if arguments.tiny else run_one(library, arguments.one, dry)
        return 0

    out = arguments.out or ROOT / "bench" / "results" / "gpu_gate.json"
    out.parent.mkdir(parents=True, exist_ok=True)
    results: dict[str, Any] = {"dry_run": dry}

    def save(stage: str, result: Any) -> None:
        results[stage] = result
        results["seconds"] = time.monotonic() - START
        part = out.with_suffix(".part")
        part.write_text(json.dumps(results, indent=1, default=str) + "\n")
        part.replace(out)

    failed: list[str] = []

    def stage(name: str, run: Callable[[], Any]) -> Any:
        begin = time.monotonic()
        print(f"=== {name} ({left():.0f} s left)", flush=True)
        try:
            result = run()
        except Exception:
            result = {"failed": traceback.format_exc()}
            failed.append(name)
        save(name, result)
        print(f"    {time.monotonic() - begin:.1f} s", flush=True)
        return result

    if not (dry or arguments.no_build):
        stage("build", lambda: build(arguments.architectures))
    libraries = open_libraries(dry)
    stage("environment", lambda: environment(libraries))
    stage("module", importable)
    first = libraries[0]
    stage("ceilings", lambda: ceilings(first))
    works = small_works()
    for library in libraries:
        checked = stage(f"checks_{library.name}", partial(checks, library, works))
        if checked.get("wrong"):
            failed.append(f"checks_{library.name}: {len(checked['wrong'])} wrong")
            print("    wrong:", *checked["wrong"][:20], sep="\n      ", flush=True)
    large = large_works(dry)
    timed = stage("benchmarks", lambda: benchmarks(first, large, 3 if dry else REPEATS, save))
    if not dry:
        ended = stage("tests", tests)
        if ended.get("status") != 0:
            failed.append("tests")
        for tool, ended in stage("sanitizers", sanitizers).items():
            if isinstance(ended, dict) and ended.get("status") not in (0, None):
                failed.append(f"sanitizer {tool}")
        stage("profiles", lambda: profiles(timed))
    save("failed_stages", failed)
    print(json.dumps({"failed": failed, "out": str(out)}, indent=1), flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
