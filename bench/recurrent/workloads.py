"""Recurrent networks of the sizes that speech, pose and video models have."""

from dataclasses import dataclass
from functools import partial
from typing import Any

import ml_dtypes
import numpy as np
from marey import recurrent
from numpy.typing import NDArray

from bench.harness import Program, Workload

Weights = dict[str, NDArray[Any]]

GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}
TYPES = {"float32": np.dtype(np.float32), "bfloat16": np.dtype(ml_dtypes.bfloat16)}
# N, T, I, H
SIZES = {
    "LSTM": [
        (1, 100, 128, 128),
        (1, 100, 512, 512),
        (32, 100, 128, 128),
        (32, 100, 512, 512),
        (128, 64, 1024, 1024),
    ],
    "GRU": [(32, 100, 512, 512)],
    "RNN": [(32, 100, 512, 512)],
}
TRAINED = {"LSTM": (32, 100, 512, 512), "GRU": (32, 100, 512, 512)}
RAGGED = (32, 100, 512, 512)
STEPS = 100
STEP = (1, STEPS, 128, 128)


@dataclass(frozen=True)
class Layer:
    """One layer and direction, with its input."""

    kind: str
    x: NDArray[Any]
    weights: Weights
    lengths: NDArray[np.int64] | None = None


def layer(kind: str, size: tuple[int, ...], dtype: str, ragged: bool = False) -> tuple[Layer]:
    N, T, I, H = size
    rng = np.random.default_rng(0)
    bound = H**-0.5  # as torch initialises them
    rows = GATES[kind] * H

    def uniform(*shape: int) -> NDArray[Any]:
        return rng.uniform(-bound, bound, shape).astype(TYPES[dtype])

    weights = {
        "weight_ih_l0": uniform(rows, I),
        "weight_hh_l0": uniform(rows, H),
        "bias_ih_l0": uniform(rows),
        "bias_hh_l0": uniform(rows),
    }
    x = rng.standard_normal((T, N, I)).astype(TYPES[dtype])
    lengths = rng.integers(1, T + 1, N) if ragged else None
    return (Layer(kind, x, weights, lengths),)


def widened(y: NDArray[Any]) -> NDArray[np.float32]:
    """A result of any type, to be compared."""
    return np.asarray(y).astype(np.float32)


def forward(inputs: Layer) -> Program:
    network = getattr(recurrent, inputs.kind)(inputs.weights)
    return Program(
        lambda: network(inputs.x, lengths=inputs.lengths),
        result=lambda: widened(network(inputs.x, lengths=inputs.lengths)[0]),
    )


def ragged_as_whole(inputs: Layer) -> Program:
    """The full batch, as if the lengths were not known."""
    network = getattr(recurrent, inputs.kind)(inputs.weights)
    lengths = inputs.lengths
    assert lengths is not None

    def result() -> NDArray[Any]:
        y = np.array(network(inputs.x)[0])
        y[np.arange(len(y))[:, None] >= lengths] = 0
        return y

    return Program(lambda: network(inputs.x), result=result)


def gradients(inputs: Layer) -> Program:
    """A sequence there and back: all gradients."""
    name = inputs.kind.lower()
    run, back = getattr(recurrent, name), getattr(recurrent, name + "_backward")
    weights = list(inputs.weights.values())
    grad = np.random.default_rng(1).standard_normal(
        (*inputs.x.shape[:2], weights[1].shape[1]), np.float32
    )

    def call() -> list[NDArray[Any]]:
        y, _, kept = run(inputs.x, *weights, keep=True)
        return list(back(grad, inputs.x, *weights, y=y, kept=kept)[:5])

    return Program(call)


def steps(inputs: Layer) -> Program:
    """Frame by frame, the state with the caller."""
    weights = list(inputs.weights.values())
    N, H = inputs.x.shape[1], weights[1].shape[1]
    frames = list(inputs.x)

    def call() -> NDArray[Any]:
        h, c = np.zeros((2, N, H), np.float32)
        for frame in frames:
            h, c = recurrent.lstm_step(frame, h, c, *weights)
        return np.asarray(h)

    return Program(call)


def operations(kind: str, N: int, T: int, I: int, H: int) -> float:
    return 2.0 * N * T * GATES[kind] * H * (I + H)


def _forward(kind: str, size: tuple[int, ...], dtype: str) -> Workload:
    return Workload(
        name=f"{kind} {'x'.join(map(str, size))} {dtype}",
        operation=f"forward {dtype}",
        inputs=partial(layer, kind, size, dtype),
        ours=forward,
        amount=operations(kind, *size),
        unit="GFLOP/s" if dtype == "float32" else "GFLOP/s bfloat16",
        tolerance=1e-5 if dtype == "float32" else 0.03,
    )


def _ragged() -> Workload:
    inputs = layer("LSTM", RAGGED, "float32", ragged=True)
    _N, _, I, H = RAGGED
    assert inputs[0].lengths is not None
    return Workload(
        name=f"LSTM {'x'.join(map(str, RAGGED))} ragged",
        operation="ragged",
        inputs=lambda: inputs,
        ours=forward,
        amount=operations("LSTM", 1, int(inputs[0].lengths.sum()), I, H),
        unit="GFLOP/s",
        tolerance=1e-5,
    )


def _gradients(kind: str, size: tuple[int, ...]) -> Workload:
    return Workload(
        name=f"{kind} {'x'.join(map(str, size))} and gradients",
        operation="gradients float32",
        inputs=partial(layer, kind, size, "float32"),
        ours=gradients,
        amount=3 * operations(kind, *size),
        unit="GFLOP/s",
        tolerance=2e-3,  # of gradients of some hundred
    )


def _steps() -> Workload:
    return Workload(
        name=f"lstm_step {'x'.join(map(str, STEP))}",
        operation="steps",
        inputs=partial(layer, "LSTM", STEP, "float32"),
        ours=steps,
        amount=STEPS,
        unit="frames/s",
        tolerance=1e-5,
    )


WORKLOADS = [
    *(_forward(kind, size, dtype) for dtype in TYPES for kind in SIZES for size in SIZES[kind]),
    _ragged(),
    *(_gradients(kind, size) for kind, size in TRAINED.items()),
    _steps(),
]
