"""Poolings of the shapes that video networks have.

The pool behind a stem, those of C3D and of an inflated Inception, one along time only, and the
means at the end. What must be read and written at least once is the input and the result.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from marey import conv

from bench.conv.workloads import LAYOUTS, Array, Triple, laid_out
from bench.harness import Program, Workload


@dataclass(frozen=True)
class Pool:
    """The maximum or the mean of windows; of everything where `kernel` is None."""

    name: str
    kind: str
    C: int
    size: Triple
    kernel: Triple | None = None
    stride: Triple | None = None
    padding: Triple = (0, 0, 0)

    @property
    def output(self) -> Triple:
        if self.kernel is None or self.stride is None:
            return (1, 1, 1)
        t, h, w = (
            (n + 2 * p - k) // s + 1
            for n, k, s, p in zip(self.size, self.kernel, self.stride, self.padding, strict=True)
        )
        return t, h, w


POOLS = [
    Pool("max 1x3x3 / 1x2x2", "max", 64, (16, 112, 112), (1, 3, 3), (1, 2, 2), (0, 1, 1)),
    Pool("max 2x2x2 / 2", "max", 128, (16, 56, 56), (2, 2, 2), (2, 2, 2)),
    Pool("max 3x3x3 / 1", "max", 192, (8, 28, 28), (3, 3, 3), (1, 1, 1), (1, 1, 1)),
    Pool("mean 2x2x2 / 2", "mean", 128, (16, 56, 56), (2, 2, 2), (2, 2, 2)),
    Pool("global mean", "mean", 512, (16, 28, 28)),
]
TRAINED = ["max 1x3x3 / 1x2x2", "max 3x3x3 / 1", "mean 2x2x2 / 2"]


def inputs(pool: Pool) -> tuple[Pool, Array]:
    return pool, np.random.default_rng(0).standard_normal((1, pool.C, *pool.size), np.float32)


def _call(pool: Pool, x: Array, layout: str, out: Array | None) -> Array:
    if pool.kernel is None:
        return conv.global_avg_pool3d(x, layout=layout, out=out)
    function = conv.max_pool3d if pool.kind == "max" else conv.avg_pool3d
    return function(x, pool.kernel, pool.stride, pool.padding, layout=layout, out=out)


def ours(layout: str) -> Callable[..., Program]:
    """Into an array that is given."""

    def program(pool: Pool, x: Array) -> Program:
        x = laid_out(layout, x)
        out = np.zeros_like(_call(pool, x, layout, None))

        def result() -> Array:
            y = _call(pool, x, layout, out)
            return np.moveaxis(y, -1, 1) if layout == "NTHWC" and y.ndim == 5 else y

        return Program(lambda: _call(pool, x, layout, out), result=result)

    return program


def training_inputs(pool: Pool) -> tuple[Pool, Array, Array]:
    """And the gradient of the result."""
    pool, x = inputs(pool)
    shape = (1, pool.C, *pool.output) if pool.kernel else (1, pool.C)
    return pool, x, np.random.default_rng(1).standard_normal(shape, np.float32)


def training(layout: str) -> Callable[..., Program]:
    """Forward, then the gradient."""

    def program(pool: Pool, x: Array, grad: Array) -> Program:
        x = laid_out(layout, x)
        if pool.kernel is not None:
            grad = laid_out(layout, grad)
        window = (pool.kernel, pool.stride, pool.padding)

        def call() -> Array:
            _call(pool, x, layout, None)
            if pool.kernel is None:
                return conv.global_avg_pool3d_backward(grad, x.shape, layout=layout)
            if pool.kind == "max":
                return conv.max_pool3d_backward(grad, x, *window, layout=layout)
            return conv.avg_pool3d_backward(grad, x.shape, *window, layout=layout)

        def result() -> Array:
            y = call()
            return np.moveaxis(y, -1, 1) if layout == "NTHWC" else y

        return Program(call, result=result)

    return program


def _training(pool: Pool, layout: str) -> Workload:
    read, written = pool.C * math.prod(pool.size), pool.C * math.prod(pool.output)
    return Workload(
        name=f"forward and backward {pool.name}, {pool.C} {layout}",
        operation=f"pool training {layout}",
        inputs=lambda: training_inputs(pool),
        ours=training(layout),
        amount=2 * (read + written) * 4,
        unit="GB/s",
        tolerance=1e-5,
    )


def _workload(pool: Pool, layout: str) -> Workload:
    read, written = pool.C * math.prod(pool.size), pool.C * math.prod(pool.output)
    return Workload(
        name=f"{pool.name}, {pool.C} {layout}",
        operation=f"pool {layout}",
        inputs=lambda: inputs(pool),
        ours=ours(layout),
        amount=(read + written) * 4,
        unit="GB/s",
        tolerance=2e-6,
    )


POOLINGS = [
    *(_workload(pool, layout) for layout in LAYOUTS for pool in POOLS),
    *(_training(pool, layout) for layout in LAYOUTS for pool in POOLS if pool.name in TRAINED),
]
