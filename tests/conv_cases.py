"""Convolutions that the tests are run on, and what they must give."""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache, partial
from typing import Any

import ml_dtypes
import numpy as np
from marey.reference import conv as reference
from numpy.typing import NDArray
from tolerances import assert_close, assert_rounded_once

Array = NDArray[Any]

BFLOAT16 = np.dtype(ml_dtypes.bfloat16)
DTYPES = [np.dtype(np.float32), np.dtype(np.float64), BFLOAT16]
LAYOUTS = ["NCTHW", "NTHWC"]


@dataclass(frozen=True)
class Case:
    """A convolution, by its shapes and options."""

    C: int = 5
    K: int = 7
    kernel: tuple[int, int, int] = (3, 3, 3)
    size: tuple[int, int, int] = (3, 7, 9)
    N: int = 1
    groups: int = 1
    stride: Any = 1
    padding: Any = 0
    dilation: Any = 1
    activation: str | None = None
    bias: bool = True
    seed: int = field(default=0, compare=True)

    @property
    def geometry(self) -> dict[str, Any]:
        """The options of forward and backward."""
        names = ("stride", "padding", "dilation", "groups")
        return {name: getattr(self, name) for name in names}

    @property
    def options(self) -> dict[str, Any]:
        return {**self.geometry, "activation": self.activation}


CASES = {
    "everything 1": Case(1, 1, (1, 1, 1), (1, 1, 1)),
    "pointwise": Case(17, 7, (1, 1, 1), (3, 7, 17)),
    "pointwise, many": Case(97, 97, (1, 1, 1), (1, 7, 7), N=2),
    "dense": Case(17, 33, (3, 3, 3), (3, 7, 17), padding=1),
    "dense, many": Case(97, 97, (3, 3, 3), (2, 3, 4), padding=1),
    "spatial": Case(7, 17, (1, 3, 3), (2, 7, 17), padding=(0, 1, 1)),
    "temporal": Case(17, 7, (3, 1, 1), (7, 5, 17), padding=(1, 0, 0)),
    "temporal, many": Case(230, 33, (3, 1, 1), (3, 6, 16), padding=(1, 0, 0), activation="relu"),
    "pointwise, tiles": Case(150, 70, (1, 1, 1), (2, 5, 13)),
    "pointwise, tiles, groups": Case(256, 140, (1, 1, 1), (2, 4, 9), groups=2, N=2),
    "temporal, tiles": Case(60, 81, (3, 1, 1), (4, 4, 16), padding=(1, 0, 0), activation="relu"),
    "temporal, tiles, in parts": Case(800, 64, (3, 1, 1), (3, 2, 8), padding=(1, 0, 0), dilation=2),
    "temporal, tiles, strides": Case(64, 64, (3, 1, 1), (7, 5, 9), stride=(2, 1, 3)),
    "stem, tiles, stride 3": Case(2, 70, (3, 5, 5), (4, 11, 14), stride=(1, 3, 2), padding=2),
    "dense, tiles": Case(32, 64, (2, 3, 3), (3, 5, 11), padding=1, stride=2),
    "dense, tiles, dilation": Case(64, 65, (2, 2, 3), (3, 5, 11), padding=1, dilation=(1, 2, 2)),
    "neighbours, tiles": Case(64, 80, (3, 3, 3), (5, 7, 13), padding=1, activation="relu"),
    "neighbours, tiles, stride": Case(60, 65, (3, 3, 3), (6, 5, 9), stride=(2, 1, 1), padding=1),
    "neighbours, tiles, groups": Case(64, 130, (1, 3, 3), (2, 9, 8), groups=2, padding=(0, 2, 0)),
    "patches, tiles": Case(3, 70, (2, 4, 16), (4, 8, 40), stride=(2, 4, 16)),
    "wide": Case(2, 3, (1, 1, 3), (1, 1, 97), padding=(0, 0, 1)),
    "tall": Case(2, 3, (1, 3, 1), (1, 97, 1), padding=(0, 1, 0)),
    "long": Case(2, 3, (3, 1, 1), (97, 1, 1), padding=(1, 0, 0)),
    "stem": Case(3, 64, (3, 7, 7), (3, 17, 19), stride=(1, 2, 2), padding=(1, 3, 3)),
    "patches": Case(3, 17, (2, 4, 4), (4, 8, 12), stride=(2, 4, 4)),
    "patches, some left": Case(3, 17, (2, 4, 4), (5, 11, 14), stride=(2, 4, 4)),
    "patches of clips": Case(3, 33, (1, 4, 4), (3, 20, 24), stride=(1, 4, 4), N=2),
    "as large as x": Case(4, 5, (3, 7, 9), (3, 7, 9)),
    "larger than x": Case(4, 5, (5, 4, 7), (2, 3, 1), padding=(2, 2, 3)),
    "beyond x": Case(2, 3, (2, 2, 2), (1, 2, 3), padding=3),
    "stride 3": Case(5, 7, (2, 3, 3), (7, 17, 17), stride=(3, 3, 3), padding=1),
    "stride beyond the kernel": Case(5, 7, (1, 2, 1), (7, 9, 11), stride=(2, 3, 4)),
    "dilation": Case(5, 7, (2, 3, 3), (7, 11, 17), dilation=(3, 2, 4), padding=(1, 2, 4)),
    "dilation, stride": Case(5, 7, (2, 3, 3), (7, 11, 17), dilation=(2, 3, 2), stride=(1, 2, 3)),
    "uneven padding": Case(4, 5, (3, 3, 3), (4, 5, 6), padding=((2, 0), (0, 1), (1, 2))),
    "same": Case(4, 5, (3, 5, 1), (4, 5, 6), padding="same"),
    "same, even kernel": Case(4, 5, (2, 4, 6), (4, 5, 7), padding="same", dilation=(1, 2, 1)),
    "valid": Case(4, 5, (2, 3, 3), (4, 5, 6), padding="valid"),
    "groups": Case(6, 9, (3, 3, 3), (3, 5, 7), groups=3, padding=1),
    "groups of many": Case(34, 38, (1, 3, 3), (2, 5, 7), groups=2, padding=(0, 1, 1), N=2),
    "groups of one filter": Case(8, 4, (3, 3, 3), (3, 5, 7), groups=4, padding=1),
    "depthwise": Case(54, 54, (3, 3, 3), (4, 7, 9), groups=54, padding=1),
    "depthwise, few": Case(7, 7, (3, 5, 5), (4, 9, 17), groups=7, padding=(1, 2, 2), N=2),
    "depthwise, stride": Case(17, 17, (3, 3, 3), (4, 9, 11), groups=17, stride=2, padding=1),
    "depthwise, dilation": Case(17, 17, (3, 1, 3), (7, 3, 17), groups=17, dilation=2),
    "depthwise, two filters each": Case(7, 14, (3, 3, 3), (3, 5, 7), groups=7, padding=1),
    "no bias": Case(5, 7, (3, 3, 3), (3, 5, 7), padding=1, bias=False),
    "relu": Case(5, 7, (3, 3, 3), (3, 5, 7), padding=1, activation="relu"),
    "gelu": Case(5, 7, (1, 1, 1), (3, 5, 7), activation="gelu"),
    "silu": Case(5, 17, (1, 3, 3), (3, 5, 7), activation="silu"),
    "depthwise, long rows": Case(19, 19, (3, 3, 3), (5, 9, 41), groups=19, padding=1),
    "depthwise, spatial": Case(
        3, 3, (1, 3, 3), (4, 7, 26), groups=3, padding=(0, 2, 0), activation="relu"
    ),
    "depthwise, long rows, gelu": Case(
        5,
        5,
        (2, 3, 3),
        (7, 16, 12),
        groups=5,
        stride=(2, 1, 1),
        padding=(1, 0, 1),
        N=2,
        activation="gelu",
    ),
    "depthwise, gelu": Case(9, 9, (3, 3, 3), (3, 5, 7), groups=9, activation="gelu"),
}


@lru_cache(maxsize=256)
def inputs(case: Case, dtype: np.dtype[Any]) -> tuple[Array, Array, Array | None]:
    """x in NCTHW, the weights and the bias."""
    rng = np.random.default_rng([case.seed, *map(ord, repr(case)[:200])])
    shape = (case.K, case.C // case.groups, *case.kernel)
    weight = rng.standard_normal(shape) / np.sqrt(max(np.prod(shape[1:]), 1))
    x = rng.standard_normal((case.N, case.C, *case.size))
    bias = rng.standard_normal(case.K) if case.bias else None
    arrays = tuple(None if a is None else a.astype(dtype) for a in (x, weight, bias))
    for array in arrays:
        if array is not None:
            array.flags.writeable = False
    return arrays  # type: ignore[return-value]


@lru_cache(maxsize=512)
def expected(case: Case, dtype: np.dtype[Any], compute: type) -> Array:
    """The result in NCTHW for inputs of `dtype`, computed in another."""
    return reference.conv3d(*inputs(case, dtype), **case.options, dtype=compute)


@lru_cache(maxsize=128)
def gradient(case: Case, dtype: np.dtype[Any]) -> Array:
    """A gradient of the result, in NCTHW."""
    shape = expected(case, dtype, np.float64).shape
    return np.random.default_rng(case.seed + 1).standard_normal(shape).astype(dtype)


@lru_cache(maxsize=256)
def expected_gradients(
    case: Case, dtype: np.dtype[Any], compute: type
) -> tuple[Array, Array, Array]:
    x, weight, _ = inputs(case, dtype)
    grad = gradient(case, dtype)
    return reference.conv3d_backward(grad, x, weight, **case.geometry, dtype=compute)


def laid_out(x: Array, layout: str) -> Array:
    """An array in NCTHW in this layout, copied."""
    return np.ascontiguousarray(np.moveaxis(x, 1, -1) if layout == "NTHWC" else x)


def in_ncthw(x: Array, layout: str) -> Array:
    return np.moveaxis(x, -1, 1) if layout == "NTHWC" else x


def assert_agrees(
    actual: Array, compute: Callable[[type], Array], kind: str = "conv", **options: Any
) -> None:
    """Hold a result of any type to the error rule."""
    check = assert_rounded_once if actual.dtype == BFLOAT16 else assert_close
    check(actual, compute, kind, **options)


def assert_convolution(actual: Array, case: Case, dtype: np.dtype[Any], layout: str) -> None:
    assert actual.dtype == dtype
    assert_agrees(in_ncthw(actual, layout), partial(expected, case, dtype))
