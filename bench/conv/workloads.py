"""Convolutions of the shapes that video networks have.

The stem, the stages and the head of an R3D-18, the two halves of an R(2+1)D block, a depthwise
layer of an X3D and a pointwise one of a SlowFast, one clip at a time. Inputs are made in NCTHW;
each program lays them out as it likes before it is timed. Where ours is given NCTHW it is called as
most people call a convolution; in NTHWC it stands against every peer in that peer's own layout.
Weights are packed before anything is timed, as onnxruntime and OpenVINO do, but for the rows of a
function and of training.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np
from marey import conv

from bench.harness import Program, Unit, Workload

Triple = tuple[int, int, int]
Array = Any  # numpy's, of one of DTYPES

DTYPES = {"float32": np.dtype(np.float32), "bfloat16": np.dtype(ml_dtypes.bfloat16)}
LAYOUTS = ("NTHWC", "NCTHW")
# Results are of size 1, up to about 6: one unit in the last place of a bfloat16 is then 1/32.
# Fewer multiplications by Winograd's transforms cost float32 a digit.
TOLERANCE = {"float32": 2e-4, "bfloat16": 1 / 16}


@dataclass(frozen=True)
class Layer:
    """A convolution whose padding keeps the size, but for the stride."""

    name: str
    C: int
    K: int
    kernel: Triple
    size: Triple  # T, H, W of its input
    stride: Triple = (1, 1, 1)
    groups: int = 1

    @property
    def padding(self) -> Triple:
        t, h, w = self.kernel
        return t // 2, h // 2, w // 2

    @property
    def output(self) -> Triple:
        t, h, w = (
            (n + 2 * p - k) // s + 1
            for n, p, k, s in zip(self.size, self.padding, self.kernel, self.stride, strict=True)
        )
        return t, h, w

    @property
    def weight_shape(self) -> tuple[int, ...]:
        return (self.K, self.C // self.groups, *self.kernel)

    @property
    def operations(self) -> float:
        """Of one clip forward: two for each product, those with padding too."""
        return 2.0 * math.prod(self.output) * math.prod(self.weight_shape)

    @property
    def options(self) -> dict[str, Any]:
        """What every library calls by the same names."""
        return {"stride": self.stride, "padding": self.padding, "groups": self.groups}


STEM = Layer("stem 3 to 64, 3x7x7", 3, 64, (3, 7, 7), (16, 112, 112), stride=(1, 2, 2))
DENSE_64 = Layer("64 to 64, 3x3x3", 64, 64, (3, 3, 3), (16, 56, 56))
DENSE_128 = Layer("128 to 128, 3x3x3", 128, 128, (3, 3, 3), (8, 28, 28))
DENSE_256 = Layer("256 to 256, 3x3x3", 256, 256, (3, 3, 3), (4, 14, 14))
DENSE_512 = Layer("512 to 512, 3x3x3", 512, 512, (3, 3, 3), (2, 7, 7))
SPATIAL = Layer("64 to 144, 1x3x3", 64, 144, (1, 3, 3), (16, 56, 56))
TEMPORAL = Layer("144 to 64, 3x1x1", 144, 64, (3, 1, 1), (16, 56, 56))
DEPTHWISE = Layer("depthwise 54, 3x3x3", 54, 54, (3, 3, 3), (16, 56, 56), groups=54)
POINTWISE = Layer("256 to 64, 1x1x1", 256, 64, (1, 1, 1), (16, 56, 56))

LAYERS = [
    STEM,
    DENSE_64,
    DENSE_128,
    DENSE_256,
    DENSE_512,
    SPATIAL,
    TEMPORAL,
    DEPTHWISE,
    POINTWISE,
]
CALLED = [DENSE_64, DENSE_512, POINTWISE]
TRAINED = [DENSE_64, DENSE_128, DENSE_256, DEPTHWISE]
BATCHED = [STEM, DENSE_64, DEPTHWISE]
STREAMED = [DENSE_64, DENSE_128, DEPTHWISE]
CLIPS = 8


def inputs(layer: Layer, dtype: str = "float32", clips: int = 1) -> tuple[Layer, Array, Array]:
    """The layer, clips in NCTHW, and weights that give results of size 1."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((clips, layer.C, *layer.size), np.float32)
    weight = rng.standard_normal(layer.weight_shape, np.float32)
    weight /= math.sqrt(math.prod(layer.weight_shape[1:]))
    return layer, x.astype(DTYPES[dtype]), weight.astype(DTYPES[dtype])


def training_inputs(layer: Layer) -> tuple[Layer, Array, Array, Array]:
    """And the gradient of the result."""
    layer, x, weight = inputs(layer)
    shape = (len(x), layer.K, *layer.output)
    return layer, x, weight, np.random.default_rng(1).standard_normal(shape, np.float32)


def size_one(layer: Layer, grad_x: Array, grad_weight: Array) -> list[Array]:
    """The gradients, each divided by the size that its values have."""
    scale = np.float32(math.sqrt(math.prod(layer.output)))
    return [np.ascontiguousarray(grad_x), grad_weight / scale]


def to_channels_last(x: Array) -> Array:
    """NCTHW as NTHWC, copied."""
    return np.ascontiguousarray(np.moveaxis(x, 1, -1))


def laid_out(layout: str, x: Array) -> Array:
    """An array in NCTHW in this layout."""
    return to_channels_last(x) if layout == "NTHWC" else x


def _in_ncthw(layout: str, x: Array) -> Array:
    return np.moveaxis(x, -1, 1) if layout == "NTHWC" else x


def forward(layout: str, at_once: int | None = None) -> Callable[..., Program]:
    """Weights packed once, into an array that is given; all clips in one call, or so many."""

    def program(layer: Layer, x: Array, weight: Array) -> Program:
        x = laid_out(layout, x)
        convolve = conv.Conv3d(weight, layout=layout, **layer.options)
        out = np.zeros_like(convolve(x))
        clips = at_once or len(x)
        parts = [(x[i : i + clips], out[i : i + clips]) for i in range(0, len(x), clips)]

        def call() -> Array:
            for source, target in parts:
                convolve(source, out=target)
            return out

        return Program(call, result=lambda: _in_ncthw(layout, call()))

    return program


def function(layout: str) -> Callable[..., Program]:
    """A call with weights as they are, that allocates its result."""

    def program(layer: Layer, x: Array, weight: Array) -> Program:
        x = laid_out(layout, x)
        call = lambda: conv.conv3d(x, weight, layout=layout, **layer.options)  # noqa: E731
        return Program(call, result=lambda: _in_ncthw(layout, call()))

    return program


def training(layout: str) -> Callable[..., Program]:
    """Forward, then both gradients."""

    def program(layer: Layer, x: Array, weight: Array, grad: Array) -> Program:
        x, grad = laid_out(layout, x), laid_out(layout, grad)
        options = {"layout": layout, **layer.options}

        def call() -> Any:
            conv.conv3d(x, weight, **options)
            return conv.conv3d_backward(grad, x, weight, needs=(True, True, False), **options)

        def result() -> Any:
            grad_x, grad_weight, _ = call()
            return size_one(layer, _in_ncthw(layout, grad_x), grad_weight)

        return Program(call, result=result)

    return program


def causal(layout: str, frame_by_frame: bool) -> Callable[..., Program]:
    """Causal along time, weights packed once: a clip in one call, or a call for each frame.

    Into an array that is given: that of a frame is used again for the next one.
    """
    axis = 1 if layout == "NTHWC" else 2

    def program(layer: Layer, x: Array, weight: Array) -> Program:
        x = laid_out(layout, x)
        T = x.shape[axis]
        _, h, w = layer.padding
        options = {"padding": (0, h, w), "groups": layer.groups, "layout": layout}
        frames = [x.take(range(i, i + 1), axis) for i in range(T)] if frame_by_frame else [x]
        convolve = conv.CausalConv3d(weight, **options)
        out = np.zeros_like(convolve(frames[0])[0])

        def outputs() -> Iterator[Array]:
            state = None
            for frame in frames:
                _, state = convolve(frame, state, out=out)
                yield out

        def call() -> None:
            for _ in outputs():
                pass

        def result() -> Array:
            return _in_ncthw(layout, np.concatenate([y.copy() for y in outputs()], axis))

        return Program(call, result=result)

    return program


def _forward(layer: Layer, layout: str, dtype: str, clips: int = 1) -> Workload:
    many = f"{clips} clips " if clips > 1 else ""
    return Workload(
        name=f"{many}{layer.name} {layout} {dtype}",
        operation=f"{'batch' if clips > 1 else 'forward'} {layout} {dtype}",
        inputs=lambda: inputs(layer, dtype, clips),
        ours=forward(layout),
        amount=clips * layer.operations,
        unit=_UNIT[dtype],
        tolerance=TOLERANCE[dtype],
    )


def _function(layer: Layer, layout: str) -> Workload:
    return Workload(
        name=f"function {layer.name} {layout} float32",
        operation=f"function {layout}",
        inputs=lambda: inputs(layer),
        ours=function(layout),
        amount=layer.operations,
        unit="GFLOP/s",
        tolerance=TOLERANCE["float32"],
    )


def _training(layer: Layer, layout: str) -> Workload:
    return Workload(
        name=f"forward and backward {layer.name} {layout}",
        operation=f"training {layout}",
        inputs=lambda: training_inputs(layer),
        ours=training(layout),
        amount=3 * layer.operations,
        unit="GFLOP/s",
        tolerance=TOLERANCE["float32"],
    )


def _causal(layer: Layer, layout: str) -> Workload:
    return Workload(
        name=f"causal frame by frame {layer.name} {layout}",
        operation=f"causal frame by frame {layout}",
        inputs=lambda: inputs(layer),
        ours=causal(layout, frame_by_frame=True),
        amount=layer.operations,
        unit="GFLOP/s",
        tolerance=TOLERANCE["float32"],
    )


_UNIT: dict[str, Unit] = {"float32": "GFLOP/s", "bfloat16": "GFLOP/s bfloat16"}

WORKLOADS = [
    *(_forward(layer, layout, dtype) for dtype in DTYPES for layout in LAYOUTS for layer in LAYERS),
    *(_function(layer, "NCTHW") for layer in CALLED),
    *(_training(layer, layout) for layout in LAYOUTS for layer in TRAINED),
    *(_forward(layer, layout, "float32", CLIPS) for layout in LAYOUTS for layer in BATCHED),
    *(_causal(layer, layout) for layout in LAYOUTS for layer in STREAMED),
]
