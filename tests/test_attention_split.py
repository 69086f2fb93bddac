"""Attention of float32 by the tiles of AMX, with split operands."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from marey import _cpu, config
from marey.attention import attention, attention_backward

pytestmark = pytest.mark.skipif(
    "avx512_amx" not in config.available_isas(), reason="this processor has no AMX"
)


@pytest.fixture(autouse=True)
def tiles() -> Iterator[None]:
    """Run with tiles, and leave what was active before."""
    previous = _cpu.active_isa()
    _cpu.set_isa("avx512_amx")
    yield
    _cpu.set_isa(previous)


def without_tiles(function: Any, *arrays: Any, **options: Any) -> Any:
    _cpu.set_isa("avx512_bf16")
    result = function(*arrays, **options)
    _cpu.set_isa("avx512_amx")
    return result


def gradients(grad: Any, q: Any, k: Any, v: Any, **options: Any) -> Any:
    out, lse = attention(q, k, v, return_lse=True, **options)
    return attention_backward(grad, q, k, v, out, lse, **options)[:3]


def test_no_further_from_the_exact_result(rng: np.random.Generator) -> None:
    """Than multiply-adds, which it is not equal to."""
    qkv = rng.standard_normal((3, 1, 2, 300, 70), np.float32)
    exact = attention(*qkv.astype(np.float64))
    found = attention(*qkv), without_tiles(attention, *qkv)
    errors = [np.sqrt(np.mean((out - exact) ** 2)) for out in found]
    assert 0 < errors[0] < errors[1] < 1e-7


def test_gradients_no_further_from_the_exact_ones(rng: np.random.Generator) -> None:
    arrays = rng.standard_normal((4, 1, 2, 300, 70), np.float32)
    exact = gradients(*arrays.astype(np.float64))
    found = gradients(*arrays), without_tiles(gradients, *arrays)
    for right, *both in zip(exact, *found, strict=True):
        errors = [np.sqrt(np.mean((x - right) ** 2)) for x in both]
        assert 0 < errors[0] < errors[1] < 2e-7


@pytest.mark.parametrize("value", [np.inf, -np.inf, np.nan, 3e38])
@pytest.mark.parametrize("operand", range(3))
def test_what_is_not_finite_comes_out_alike(
    operand: int, value: float, rng: np.random.Generator
) -> None:
    """In all that it reaches, and nowhere else."""
    qkv = [
        rng.standard_normal((2, 2, n, d), np.float32) for n, d in ((150, 40), (300, 40), (300, 24))
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
    ("L", "S", "D", "Dv"), [(5, 256, 1, 17), (33, 449, 70, 40), (700, 289, 130, 64)]
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
    arrays = [
        rng.standard_normal(shape, np.float32)
        for shape in ((1, 4, L, Dv), (1, 4, L, D), (1, 2, D, S), (1, 2, S, Dv))
    ]
    arrays[2] = arrays[2].swapaxes(-1, -2)
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
        attention(*arrays[1:], **options), attention(*exact[1:], **wide), rtol=1e-5, atol=2e-6
    )
    for found, right in zip(gradients(*arrays, **options), gradients(*exact, **wide), strict=True):
        np.testing.assert_allclose(found, right, rtol=1e-4, atol=5e-6)


# Scores of such a size are of no use to a softmax: large are what is summed by its weights.
@pytest.mark.parametrize(
    ("operand", "value"),
    [*((i, x) for i in range(4) for x in (np.inf, np.nan)), (0, 1e20), (3, 1e20)],
)
def test_gradients_of_what_is_large_come_out_alike(
    operand: int, value: float, rng: np.random.Generator
) -> None:
    """By multiply-adds, where sums of split operands might not be finite."""
    arrays = rng.standard_normal((4, 1, 2, 300, 24), np.float32)
    arrays[operand, 0, 0, 140, 3] = value
    for options in ({}, {"causal": True, "window": (40, 0)}):
        for found, expected in zip(
            gradients(*arrays, **options),
            without_tiles(gradients, *arrays, **options),
            strict=True,
        ):
            largest = np.max(np.abs(expected), where=np.isfinite(expected), initial=0)
            np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5 * largest)


def test_rows_do_not_depend_on_what_is_beside_them(rng: np.random.Generator) -> None:
    q, k, v = rng.standard_normal((3, 1, 1, 700, 64), np.float32)
    before = attention(q, k, v)
    q[..., 100, 5] = np.inf
    after = attention(q, k, v)
    for rows in (slice(0, 100), slice(101, 700)):
        np.testing.assert_array_equal(after[..., rows, :], before[..., rows, :])
