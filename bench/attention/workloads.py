"""Softmax attention of the shapes that vision and video transformers have."""

from typing import Any

import ml_dtypes
import numpy as np
from marey import attention
from numpy.typing import NDArray

from bench.harness import Program, Workload

Arrays = tuple[NDArray[Any], NDArray[Any], NDArray[Any]]

# B, h, L, S, D: as long as it is wide, unless said otherwise.
FULL = [(1, 12, 197, 64), (8, 12, 197, 64), (1, 12, 1568, 64), (1, 8, 4096, 64)]
CAUSAL = [(1, 12, 1568, 64), (1, 8, 4096, 64), (1, 8, 4096, 128)]
SHORT = (196, 12, 8, 64)
DECODE = (1, 16, 4096, 128)
VIDEO = (2, 16, 14, 14, 12, 64)  # B, T, H, W, h, D
RAGGED = [197, 64, 512, 33, 300, 8, 128, 450]  # lengths of a batch
RAGGED_HEADS, RAGGED_DEPTH = 12, 64


BACKWARD = (1, 12, 1568, 64)
LINEAR = [(1568, 768, 768), (1568, 768, 3072), (1568, 3072, 768)]  # rows, C, K


def random(dtype: Any, *shapes: tuple[int, ...]) -> Any:
    rng = np.random.default_rng(0)
    return tuple(rng.standard_normal(shape, np.float32).astype(dtype) for shape in shapes)


def full(q: Any, k: Any, v: Any) -> Program:
    out = np.zeros_like(q)
    return Program(lambda: attention.attention(q, k, v, out=out))


def causal(q: Any, k: Any, v: Any) -> Program:
    out = np.zeros_like(q)
    return Program(lambda: attention.attention(q, k, v, causal=True, out=out))


def divided(q: Any, k: Any, v: Any) -> Program:
    def time_and_space() -> Any:
        along_time = attention.space_time_attention(q, k, v, "time")
        return attention.space_time_attention(along_time, k, v, "space")

    return Program(time_and_space)


def ragged(q: Any, k: Any, v: Any) -> Program:
    offsets = np.cumsum([0, *RAGGED])
    return Program(lambda: attention.attention_varlen(q, k, v, offsets, offsets))


def gradients(q: Any, k: Any, v: Any, grad: Any, *, is_causal: bool = False) -> Program:
    def call() -> Any:
        out, lse = attention.attention(q, k, v, causal=is_causal, return_lse=True)
        return attention.attention_backward(grad, q, k, v, out, lse, causal=is_causal)

    return Program(call)


def causal_gradients(*arrays: Any) -> Program:
    return gradients(*arrays, is_causal=True)


def linear(x: Any, weight: Any, bias: Any) -> Program:
    layer = attention.Linear(weight, bias)
    out = np.zeros((len(x), len(weight)), x.dtype)
    return Program(lambda: layer(x, out=out))


def _workload(
    name: str,
    operation: str,
    ours: Any,
    amount: float,
    unit: Any,
    *shapes: tuple[int, ...],
    dtype: Any = np.float32,
    tolerance: float = 1e-5,
    # Both round their weights to bfloat16, and the results, which are of size 1 and more.
    narrow_tolerance: float = 0.05,
) -> Workload:
    narrow = dtype is ml_dtypes.bfloat16
    return Workload(
        name=f"{name} bfloat16" if narrow else name,
        operation=f"{operation} bfloat16" if narrow else operation,
        inputs=lambda: random(dtype, *shapes),
        ours=ours,
        amount=amount,
        unit="GFLOP/s bfloat16" if narrow and unit == "GFLOP/s" else unit,
        tolerance=narrow_tolerance if narrow else tolerance,
    )


def _square(operation: str, ours: Any, shape: tuple[int, ...], dtype: Any = np.float32) -> Workload:
    B, h, L, D = shape
    operations = 4.0 * B * h * L * L * D
    if operation == "causal":
        operations *= (L + 1) / (2 * L)
    name = f"{operation} {B}x{h}x{L}x{D}"
    return _workload(name, operation, ours, operations, "GFLOP/s", shape, shape, shape, dtype=dtype)


def _gradients(operation: str, ours: Any, dtype: Any = np.float32) -> Workload:
    B, h, L, D = BACKWARD
    operations = 14.0 * B * h * L * L * D
    if operation == "causal gradients":
        operations *= (L + 1) / (2 * L)
    return _workload(
        f"{operation} {B}x{h}x{L}x{D}",
        operation,
        ours,
        operations,
        "GFLOP/s",
        *[BACKWARD] * 4,
        dtype=dtype,
        tolerance=1e-4,
    )


def _linear(shape: tuple[int, int, int], dtype: Any = np.float32) -> Workload:
    rows, C, K = shape
    return _workload(
        f"linear {rows}x{C} to {K}",
        "linear",
        linear,
        2.0 * rows * C * K,
        "GFLOP/s",
        (rows, C),
        (K, C),
        (K,),
        dtype=dtype,
        tolerance=1e-3,
        narrow_tolerance=2.0,  # a unit in the last place of the largest results, 256 and more
    )


def _divided() -> Workload:
    B, T, H, W, h, D = VIDEO
    operations = 4.0 * B * h * D * T * H * W * (T + H * W)
    name = f"time and space {B}x{T}x{H}x{W}x{h}x{D}"
    return _workload(name, "divided", divided, operations, "GFLOP/s", *[VIDEO] * 3)


def _decode(dtype: Any = np.float32) -> Workload:
    B, h, S, D = DECODE
    read = 2.0 * np.dtype(dtype).itemsize * B * h * S * D
    name = f"decode {B}x{h}x1 of {S}x{D}"
    return _workload(name, "full", full, read, "GB/s", (B, h, 1, D), DECODE, DECODE, dtype=dtype)


def _ragged() -> Workload:
    shape = (sum(RAGGED), RAGGED_HEADS, RAGGED_DEPTH)
    operations = 4.0 * RAGGED_HEADS * RAGGED_DEPTH * sum(n * n for n in RAGGED)
    return _workload(
        f"ragged batch of {len(RAGGED)}", "ragged", ragged, operations, "GFLOP/s", *[shape] * 3
    )


BFLOAT16 = ml_dtypes.bfloat16
WORKLOADS = [
    *(_square("full", full, shape) for shape in FULL),
    *(_square("causal", causal, shape) for shape in CAUSAL),
    _square("full", full, SHORT),
    _decode(),
    _divided(),
    _ragged(),
    _gradients("gradients", gradients),
    _gradients("causal gradients", causal_gradients),
    *(_linear(shape) for shape in LINEAR),
    *(_square("full", full, shape, BFLOAT16) for shape in FULL),
    *(_square("causal", causal, shape, BFLOAT16) for shape in CAUSAL),
    _square("full", full, SHORT, BFLOAT16),
    _decode(BFLOAT16),
    _gradients("gradients", gradients, BFLOAT16),
    *(_linear(shape, BFLOAT16) for shape in LINEAR),
]
