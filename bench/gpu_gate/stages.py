"""The stages of the gate. None of them raises for what it finds: it says so."""

from __future__ import annotations

import importlib
import os
import platform
import re
import shutil
import statistics
import subprocess
import sys
import time
from functools import cache, partial
from typing import TYPE_CHECKING, Any

import numpy as np

from bench.gpu_gate.libraries import ROOT, Array, Library
from bench.gpu_gate.workloads import Work, large_works, small_works

if TYPE_CHECKING:
    from collections.abc import Callable

BUDGET = 570.0  # seconds in all
REPEATS = 30
TOOLS = ("memcheck", "racecheck", "synccheck", "initcheck")
START = time.monotonic()


def left() -> float:
    """Return how many seconds of the budget are left."""
    return BUDGET - (time.monotonic() - START)


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
    for work in small_works(dry=False):
        kind = work.name.split(",")[0] + work.inputs[0][1]
        if work.out[0] and np.prod(work.inputs[0][0]) > 200:
            chosen.setdefault(kind, work)
    for work in small_works(dry=False):
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


def _flushed(library: Library, call: Callable[[], Any], flush: Callable[[], None]) -> float:
    """Time a call that finds nothing of its arrays in a cache, and the device at work."""
    flush()
    return library.seconds(call)


def _peer(
    library: Library, work: Work, arrays: list[Any], flush: Callable[[], None]
) -> Callable[[], Any] | None:
    """Return what a workload is compared with, on arrays of the same values."""
    torch = library.torch
    if torch is None:
        return None
    if work.peer == "copy":
        # As many bytes, half of them read.
        size = max(int(work.bytes) // 2, 1)
        source = torch.empty(size, dtype=torch.uint8, device="cuda")
        target = torch.empty_like(source)
        return lambda: target.copy_(source)
    if work.peer.startswith("conv3d"):
        torch.backends.cudnn.benchmark = True
        torch.backends.cudnn.allow_tf32 = False
        # As it is called here, and in the other layout, which cuDNN may be faster in.
        forms = (torch.contiguous_format, torch.channels_last_3d)
        if work.options.get("layout") == "NTHWC":
            assert work.peer == "conv3d"  # a gradient and its input would both have the layout
            arrays = [arrays[0].permute(0, 4, 1, 2, 3), *arrays[1:]]
        held = [[x.contiguous(memory_format=form) for x in arrays] for form in forms]
        padding = work.options["padding"]
        if work.peer == "conv3d":
            convolve = torch.nn.functional.conv3d
            calls = [partial(convolve, *arrays, padding=padding) for arrays in held]
        else:
            backward, mask = torch.ops.aten.convolution_backward, work.options["mask"]
            stride = [work.options["stride"]] * 3
            options = ([0], stride, list(padding), [1] * 3, False, [0] * 3, 1, mask)
            calls = [partial(backward, *arrays, *options) for arrays in held]
        return _fastest(library, calls, flush)
    if work.peer.startswith("lstm"):
        torch.backends.cudnn.allow_tf32 = False
        hidden = work.options["hidden"]
        layer = torch.nn.LSTM(hidden, hidden, bias=False, device="cuda", dtype=arrays[0].dtype)
        if work.peer == "lstm":
            layer.requires_grad_(False).eval()  # as ours, it keeps nothing for a way back
            return lambda: layer(arrays[0])
        source = arrays[1].clone().requires_grad_()
        weights = (source, *layer.parameters())
        return lambda: torch.autograd.grad(layer(source)[0], weights, arrays[0])
    attend = torch.nn.functional.scaled_dot_product_attention
    options = {"is_causal": work.options["causal"], "enable_gqa": work.options["grouped"]}
    there_and_back = work.peer == "sdpa backward"
    if there_and_back:
        given = [x.clone().requires_grad_() for x in arrays[1:]]
    backends = importlib.import_module("torch.nn.attention")
    kinds = backends.SDPBackend

    def attended(kind: Any) -> Any:
        with backends.sdpa_kernel(kind):
            if there_and_back:
                return torch.autograd.grad(attend(*given, **options), given, arrays[0])
            return attend(*arrays, **options)

    named = (kinds.CUDNN_ATTENTION, kinds.FLASH_ATTENTION, kinds.EFFICIENT_ATTENTION)
    return _fastest(library, [partial(attended, kind) for kind in named], flush)


def _fastest(
    library: Library, calls: list[Callable[[], Any]], flush: Callable[[], None]
) -> Callable[[], Any] | None:
    """Return the fastest of those that run, timed as they will be."""
    best: tuple[float, Callable[[], Any]] | None = None
    for call in calls:
        try:
            call()
            took = statistics.median(_flushed(library, call, flush) for _ in range(3))
        except Exception:
            library.wait()
            continue
        if best is None or took < best[0]:
            best = (took, call)
    return None if best is None else best[1]


def benchmark_one(library: Library, work: Work, repeats: int) -> dict[str, Any]:
    """Time a workload and its peer by turns, on the same values, which no cache holds."""
    flush = library.flusher(3 * _l2_bytes())
    arrays = [library.random(shape, dtype) for shape, dtype in work.inputs]
    out, _ = library.guarded(*work.out)
    call = partial(work.run, *arrays, out)
    peer = _peer(library, work, arrays, flush)
    call()
    if peer is not None:
        peer()
    library.wait()
    ours, theirs = [], []
    for _ in range(repeats):
        if peer is not None:
            theirs.append(_flushed(library, peer, flush))
        ours.append(_flushed(library, call, flush))
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
