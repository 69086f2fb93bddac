"""This machine's measured limits: multiply-add loops and a large copy."""

import ctypes
import hashlib
import os
import subprocess
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bench.disturbance import wait_until_quiet

SOURCE = Path(__file__).with_name("limits.cpp")
FLAGS = ("-std=c++20", "-O3", "-march=native", "-ffp-contract=fast", "-fopenmp", "-shared", "-fPIC")
COPIED_BYTES = 512 << 20  # far beyond any cache
TRIALS = 4  # each with fresh arrays: their physical pages alone moved the copy by a third here
REPEATS = 8
PAUSE = 0.02  # seconds between repeats, to see more than one moment of a shared machine


@dataclass(frozen=True)
class Limits:
    """The most that was reached."""

    gflops: float  # float32 multiply-adds, counted as two operations each
    gbytes: float  # per second, read plus written
    bfloat16_gflops: float  # tiles or dot products, with float32 sums; 0 without instructions
    bfloat16_dot_gflops: float  # dot products of vectors alone

    def or_more(self, other: "Limits") -> "Limits":
        """The better of two measurements: a limit is what nothing disturbed."""
        return Limits(
            max(self.gflops, other.gflops),
            max(self.gbytes, other.gbytes),
            max(self.bfloat16_gflops, other.bfloat16_gflops),
            max(self.bfloat16_dot_gflops, other.bfloat16_dot_gflops),
        )


def measure(threads: int) -> Limits:
    """Measure every limit, each the best of many repeats."""
    library = _library()
    wait_until_quiet()
    gflops = max(_loop(library.multiply_add, threads) for _ in range(TRIALS)) / 1e9
    dot_gflops = max(_loop(library.bfloat16_dot, threads) for _ in range(TRIALS)) / 1e9
    tile_gflops = max(_loop(library.bfloat16_tiles, threads) for _ in range(TRIALS)) / 1e9
    gbytes = max(_copy(library, threads) for _ in range(TRIALS)) / 1e9
    return Limits(gflops, gbytes, max(dot_gflops, tile_gflops), dot_gflops)


def _loop(loop: Callable[[int, int, int], float], threads: int) -> float:
    sink = np.empty(threads, np.float32)
    return _best_rate(lambda: loop(5_000_000, threads, sink.ctypes.data))


def _copy(library: ctypes.CDLL, threads: int) -> float:
    source, target = np.ones(COPIED_BYTES, np.uint8), np.ones(COPIED_BYTES, np.uint8)

    def copy() -> float:
        library.copy(target.ctypes.data, source.ctypes.data, COPIED_BYTES, threads)
        return 2.0 * COPIED_BYTES

    return _best_rate(copy)


def _best_rate(work: Callable[[], float]) -> float:
    """The highest amount per second; `work` returns the amount that it did."""
    best = 0.0
    for _ in range(REPEATS):
        time.sleep(PAUSE)
        start = time.perf_counter()
        amount = work()
        best = max(best, amount / (time.perf_counter() - start))
    return best


def _library() -> ctypes.CDLL:
    """limits.cpp, compiled on first use for this very machine, kept in the temporary folder."""
    command = (os.environ.get("CXX", "g++"), *FLAGS, str(SOURCE))
    key = hashlib.sha256(SOURCE.read_bytes() + repr(command).encode()).hexdigest()[:16]
    folder = Path(tempfile.gettempdir()) / f"marey-bench-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    path = folder / f"limits-{key}.so"
    if not path.exists():
        partial = path.with_suffix(f".{os.getpid()}")
        subprocess.run([*command, "-o", str(partial)], check=True)
        partial.replace(path)
    library = ctypes.CDLL(str(path))
    for loop in (library.multiply_add, library.bfloat16_dot, library.bfloat16_tiles):
        loop.restype = ctypes.c_double
        loop.argtypes = (ctypes.c_int64, ctypes.c_int, ctypes.c_void_p)
    library.copy.restype = None
    library.copy.argtypes = (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64, ctypes.c_int)
    return library
