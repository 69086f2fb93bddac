"""Softmax attention of the shapes that vision and video transformers have, float32."""

from typing import Any

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


def random(*shapes: tuple[int, ...]) -> Any:
    rng = np.random.default_rng(0)
    return tuple(rng.standard_normal(shape, np.float32) for shape in shapes)


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


def _workload(
    name: str, operation: str, ours: Any, amount: float, unit: Any, *shapes: tuple[int, ...]
) -> Workload:
    return Workload(
        name=name,
        operation=operation,
        inputs=lambda: random(*shapes),
        ours=ours,
        amount=amount,
        unit=unit,
        tolerance=1e-5,
    )


def _square(operation: str, ours: Any, shape: tuple[int, ...]) -> Workload:
    B, h, L, D = shape
    operations = 4.0 * B * h * L * L * D
    if operation == "causal":
        operations *= (L + 1) / (2 * L)
    name = f"{operation} {B}x{h}x{L}x{D}"
    return _workload(name, operation, ours, operations, "GFLOP/s", shape, shape, shape)


def _divided() -> Workload:
    B, T, H, W, h, D = VIDEO
    operations = 4.0 * B * h * D * T * H * W * (T + H * W)
    return _workload(
        f"time and space {B}x{T}x{H}x{W}x{h}x{D}",
        "divided",
        divided,
        operations,
        "GFLOP/s",
        VIDEO,
        VIDEO,
        VIDEO,
    )


def _decode() -> Workload:
    B, h, S, D = DECODE
    return _workload(
        f"decode {B}x{h}x1 of {S}x{D}",
        "full",
        full,
        8.0 * B * h * S * D,
        "GB/s",
        (B, h, 1, D),
        DECODE,
        DECODE,
    )


def _ragged() -> Workload:
    shape = (sum(RAGGED), RAGGED_HEADS, RAGGED_DEPTH)
    operations = 4.0 * RAGGED_HEADS * RAGGED_DEPTH * sum(n * n for n in RAGGED)
    return _workload(
        f"ragged batch of {len(RAGGED)}", "ragged", ragged, operations, "GFLOP/s", *[shape] * 3
    )


WORKLOADS = [
    *(_square("full", full, shape) for shape in FULL),
    *(_square("causal", causal, shape) for shape in CAUSAL),
    _square("full", full, SHORT),
    _decode(),
    _divided(),
    _ragged(),
]
