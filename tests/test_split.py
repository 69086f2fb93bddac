"""Products of float32 by the tiles of AMX, as three parts of bfloat16, where there are tiles."""

import numpy as np
import pytest
from marey import _cpu, attention, config
from numpy.typing import NDArray

pytestmark = pytest.mark.usefixtures("tiles")

FloatArray = NDArray[np.float32]
LARGEST = np.finfo(np.float32).max


def by_multiply_adds(x: FloatArray, weight: FloatArray) -> FloatArray:
    """What the same processor gives without tiles."""
    _cpu.set_isa("avx512_bf16")
    try:
        return attention.linear(x, weight)
    finally:
        _cpu.set_isa("avx512_amx")


def errors(found: FloatArray, x: FloatArray, weight: FloatArray) -> NDArray[np.float64]:
    """Relative to the sum of the products' sizes."""
    exact = x.astype(np.float64) @ weight.astype(np.float64).T
    sizes = np.abs(x).astype(np.float64) @ np.abs(weight).astype(np.float64).T
    return np.abs(found - exact) / sizes


@pytest.mark.parametrize("depth", [1, 2, 7, 31, 32, 33, 64, 97, 383, 385, 800])
def test_any_rows_and_any_depth(depth: int, rng: np.random.Generator) -> None:
    """All products of one sign, so that a tile that is missing or counted twice shows."""
    weight = rng.integers(1, 2**20, (65, depth)).astype(np.float32)
    layer = attention.Linear(weight)
    for rows in range(16, 50):
        x = rng.integers(1, 2**20, (rows, depth)).astype(np.float32)
        assert errors(layer(x), x, weight).max() < 2**-20


@pytest.mark.parametrize("depth", [8, 64, 1000, 5000])
def test_the_error_is_below_that_of_multiply_adds(depth: int, rng: np.random.Generator) -> None:
    x = rng.standard_normal((70, depth)).astype(np.float32)
    weight = rng.standard_normal((50, depth)).astype(np.float32)
    found = attention.linear(x, weight)
    plain = by_multiply_adds(x, weight)
    assert (found != plain).any(), "the tiles did not run"
    ours, theirs = errors(found, x, weight), errors(plain, x, weight)
    assert np.sqrt((ours**2).mean()) < np.sqrt((theirs**2).mean())
    assert ours.max() < 2**-23


def test_sizes_far_apart(rng: np.random.Generator) -> None:
    """Each number has its own exponent, and so do its parts."""
    x = (rng.standard_normal((40, 96)) * 10.0 ** rng.integers(-15, 15, (40, 96))).astype(np.float32)
    weight = rng.standard_normal((33, 96)) * 10.0 ** rng.integers(-15, 15, (33, 96))
    weight = weight.astype(np.float32)
    assert errors(attention.linear(x, weight), x, weight).max() < 2**-22


@pytest.mark.parametrize("depth", [33, 64, 97])
def test_transposed_operands(depth: int, rng: np.random.Generator) -> None:
    """What a layer's gradients read: columns of both."""
    grad = rng.standard_normal((depth, 45)).astype(np.float32)
    x = rng.standard_normal((depth, 17)).astype(np.float32)
    weight = rng.standard_normal((45, 17)).astype(np.float32)
    grad_x, grad_weight, _ = attention.linear_backward(grad, x, weight)
    assert errors(grad_x, grad, np.ascontiguousarray(weight.T)).max() < 2**-23
    assert errors(grad_weight, grad.T, x.T).max() < 2**-23


def test_strided_operands(rng: np.random.Generator) -> None:
    x = rng.standard_normal((97, 2 * 70)).astype(np.float32)[::-1, ::2]
    weight = rng.standard_normal((3 * 37, 2 * 70)).astype(np.float32)[::3, ::-2]
    assert errors(attention.linear(x, weight), x, weight).max() < 2**-23


def test_a_row_does_not_depend_on_its_neighbours(rng: np.random.Generator) -> None:
    x = rng.standard_normal((300, 450)).astype(np.float32)
    x[7, 3] = np.inf
    x[20, 440] = np.nan
    layer = attention.Linear(rng.standard_normal((40, 450)).astype(np.float32))
    together = layer(x)
    assert np.isfinite(np.delete(together, [7, 20], axis=0)).all()
    for rows in (16, 17, 33, 270):
        for first in (0, 1, 30):
            np.testing.assert_array_equal(
                layer(x[first : first + rows]), together[first : first + rows]
            )


def test_few_rows_are_those_of_multiply_adds(rng: np.random.Generator) -> None:
    """Tiles are sixteen rows high; the same layer takes what either wants, in any order."""
    x = rng.standard_normal((3, 5, 200)).astype(np.float32)
    weight = rng.standard_normal((40, 200)).astype(np.float32)
    layer = attention.Linear(weight)
    for few in (x, x[:1], x[0, 0], x[:0]):
        np.testing.assert_array_equal(layer(few), by_multiply_adds(few, weight))
    many = np.concatenate([x, x[:1]])
    assert (layer(many)[:3] != layer(x)).any()
    np.testing.assert_allclose(layer(many)[:3], layer(x), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("value", [np.inf, -np.inf, np.nan, LARGEST, -LARGEST, 3.4e38])
@pytest.mark.parametrize("in_weight", [False, True])
@pytest.mark.parametrize("depth", [5, 500])
def test_values_that_parts_cannot_carry(
    value: float, in_weight: bool, depth: int, rng: np.random.Generator
) -> None:
    """Infinity minus infinity is in the parts, not in the numbers."""
    x = rng.uniform(-0.1, 0.1, (37, depth)).astype(np.float32)
    weight = rng.uniform(-0.1, 0.1, (34, depth)).astype(np.float32)
    target = weight if in_weight else x
    for row in (0, 18, 33):
        target[row, (7 * row) % depth] = value
    found, plain = attention.linear(x, weight), by_multiply_adds(x, weight)
    np.testing.assert_array_equal(np.isnan(found), np.isnan(plain))
    infinite = np.isinf(plain)
    np.testing.assert_array_equal(found[infinite], plain[infinite])
    finite = np.isfinite(plain)
    assert finite.any()
    assert np.isnan(plain).any() or infinite.any() or abs(value) < np.inf
    np.testing.assert_allclose(found[finite], plain[finite], rtol=1e-5, atol=1e-6)


def test_sums_beyond_the_largest_number(rng: np.random.Generator) -> None:
    """Infinite as those of multiply-adds, and not what parts of them overflow to."""
    x = np.full((20, 40), 3e38, np.float32)
    weight = rng.uniform(0.5, 1, (17, 40)).astype(np.float32)
    weight[3] = 0.01
    weight[4, 1:] = 0
    found = attention.linear(x, weight)
    assert np.isposinf(np.delete(found, [3, 4], axis=1)).all()
    np.testing.assert_allclose(found[:, 3], 1.2e38, rtol=1e-6)
    np.testing.assert_allclose(found[:, 4], np.float32(3e38) * weight[4, 0], rtol=1e-6)


def test_parts_of_a_sum_may_overflow_where_the_sum_does_not() -> None:
    """What is low in its pair is summed apart from what is high: infinity minus infinity."""
    x = np.full((20, 64), 3e38, np.float32)
    weight = np.ones((3, 64), np.float32)
    weight[:, 1::2] = -1
    found = attention.linear(x, weight)
    np.testing.assert_array_equal(found, by_multiply_adds(x, weight))
    np.testing.assert_array_equal(found, 0)


def test_small_numbers_lose_what_denormals_hold(rng: np.random.Generator) -> None:
    """Products of 2**-113: their last parts are below 2**-126, which count as zero."""
    x, weight = 1e-17 * rng.uniform(1, 2, (2, 40, 96))
    x, weight = x.astype(np.float32), weight.astype(np.float32)
    exact = x.astype(np.float64) @ weight.astype(np.float64).T
    found = attention.linear(x, weight)
    assert np.abs(found - exact).max() < 6 * 96 * 2.0**-126 + 2**-22 * exact.max()
    tiny = attention.linear(x, (1e-25 * weight).astype(np.float32))
    assert np.abs(tiny).max() < 2.0**-126


@pytest.mark.parametrize("rows", [1, 17, 1030])
def test_many_panels_with_what_follows_the_product(rows: int, rng: np.random.Generator) -> None:
    """More columns and rows than a thread takes at once, and all strided."""
    x = rng.standard_normal((rows, 385)).astype(np.float32)
    weight = rng.standard_normal((801, 385)).astype(np.float32)
    bias = rng.standard_normal(801).astype(np.float32)
    residual = rng.standard_normal((rows, 2 * 801)).astype(np.float32)[:, ::-2]
    out = np.zeros((rows, 3 * 801), np.float32)[:, 1::3]
    with config.threads(1):
        attention.linear(x, weight, bias, activation="relu", residual=residual, out=out)
    exact = x.astype(np.float64) @ weight.astype(np.float64).T + bias
    expected = np.maximum(exact, 0) + residual
    np.testing.assert_allclose(out, expected, rtol=1e-6, atol=2e-5)
    again = attention.linear(x, weight, bias, activation="relu", residual=residual)
    np.testing.assert_array_equal(out, again)
