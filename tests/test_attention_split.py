"""Attention of float32 by the tiles of AMX, with split operands."""

from typing import Any

import numpy as np
import pytest
from marey import _cpu
from marey.attention import attention

pytestmark = pytest.mark.usefixtures("tiles")


def without_tiles(function: Any, *arrays: Any, **options: Any) -> Any:
    _cpu.set_isa("avx512_bf16")
    result = function(*arrays, **options)
    _cpu.set_isa("avx512_amx")
    return result


def test_no_further_from_the_exact_result(rng: np.random.Generator) -> None:
    """Than multiply-adds, which it is not equal to."""
    qkv = rng.standard_normal((3, 1, 2, 1100, 70), np.float32)
    exact = attention(*qkv.astype(np.float64))
    found = attention(*qkv), without_tiles(attention, *qkv)
    errors = [np.sqrt(np.mean((out - exact) ** 2)) for out in found]
    assert 0 < errors[0] < errors[1] < 1e-7


@pytest.mark.parametrize("value", [np.inf, -np.inf, np.nan, 3e38])
@pytest.mark.parametrize("operand", range(3))
def test_what_is_not_finite_comes_out_alike(
    operand: int, value: float, rng: np.random.Generator
) -> None:
    """In all that it reaches, and nowhere else."""
    qkv = [
        rng.standard_normal((2, 2, n, d), np.float32)
        for n, d in ((150, 40), (2100, 40), (2100, 24))
    ]
    qkv[operand][0, 0, 140, 3] = value
    qkv[operand][0, 1, [20, 70], 7:9] = value
    for options in ({}, {"causal": "top_left", "window": (40, 0)}, {"softcap": 5.0}):
        np.testing.assert_allclose(
            attention(*qkv, **options),
            without_tiles(attention, *qkv, **options),
            rtol=1e-4,
            atol=1e-5,
        )


@pytest.mark.parametrize(
    ("L", "S", "D", "Dv"), [(5, 1024, 1, 17), (33, 1217, 70, 40), (700, 1057, 130, 64)]
)
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"causal": "bottom_right"},
        {"causal": "top_left", "window": (40, 7)},
        {"softcap": 3.0, "scale": -0.5},
        {"mask": True},
        {"bias": True},
    ],
    ids=str,
)
def test_any_shape_and_option(
    L: int, S: int, D: int, Dv: int, options: dict[str, Any], rng: np.random.Generator
) -> None:
    """Two queries to a key head; rows and columns in any order in memory."""
    if "causal" in options:
        S += 1024
    arrays = [
        rng.standard_normal(shape, np.float32)
        for shape in ((1, 4, L, D), (1, 2, D, S), (1, 2, S, Dv))
    ]
    arrays[1] = arrays[1].swapaxes(-1, -2)
    options = dict(options)
    if "mask" in options:
        options["mask"] = rng.random((4, L, S)) < 0.7
        options["mask"][:, 3] = False
    wide = dict(options)
    if "bias" in options:
        options["bias"] = rng.standard_normal((4, L, S), np.float32)
        wide["bias"] = options["bias"].astype(np.float64)
    exact = [x.astype(np.float64) for x in arrays]
    np.testing.assert_allclose(
        attention(*arrays, **options), attention(*exact, **wide), rtol=1e-5, atol=2e-6
    )


def test_rows_do_not_depend_on_what_is_beside_them(rng: np.random.Generator) -> None:
    q, k, v = rng.standard_normal((3, 1, 1, 1100, 64), np.float32)
    before = attention(q, k, v)
    q[..., 100, 5] = np.inf
    after = attention(q, k, v)
    for rows in (slice(0, 100), slice(101, 1100)):
        np.testing.assert_array_equal(after[..., rows, :], before[..., rows, :])
