"""The vector functions keep the error that csrc/core/math.h states."""

from typing import Any

import numpy as np
import pytest
from marey import _cpu
from numpy.typing import NDArray

pytestmark = pytest.mark.no_bf16

WIDER = {np.float32: np.float64, np.float64: np.longdouble}
DTYPES = [np.float32, np.float64]


def ulps(actual: NDArray[Any], exact: NDArray[Any]) -> float:
    """Return the largest error in units of the last place of the exact result."""
    dtype = actual.dtype.type
    spacing = np.spacing(np.abs(exact).astype(dtype)).astype(exact.dtype)
    return float(np.max(np.abs(actual.astype(exact.dtype) - exact) / spacing))


def grid(low: float, high: float, dtype: type, rng: np.random.Generator) -> NDArray[Any]:
    """Return points over the whole range, most of them where floats are densest too."""
    even = rng.uniform(low, high, 400_000)
    small = rng.uniform(-1, 1, 200_000) * 2.0 ** rng.uniform(-30, 1, 200_000)
    halves = np.arange(np.ceil(low), high, 0.5)
    points = np.concatenate([even, small, halves]).astype(dtype)
    return points[(points >= low) & (points <= high)]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.usefixtures("isa")
class TestExp2:
    def test_is_within_its_bound(self, dtype: type, rng: np.random.Generator) -> None:
        info = np.finfo(dtype)
        x = grid(info.minexp, info.maxexp - 1e-3, dtype, rng)
        assert ulps(_cpu.vector_math("exp2", x), np.exp2(x.astype(WIDER[dtype]))) <= 2.5

    def test_nonpositive_is_within_its_bound(self, dtype: type, rng: np.random.Generator) -> None:
        x = grid(np.finfo(dtype).minexp, 0, dtype, rng)
        y = _cpu.vector_math("exp2_nonpositive", x)
        assert ulps(y, np.exp2(x.astype(WIDER[dtype]))) <= 2.5

    @pytest.mark.parametrize("function", ["exp2", "exp2_nonpositive"])
    def test_is_exact_at_its_ends(self, function: str, dtype: type) -> None:
        info = np.finfo(dtype)
        x = np.array([0, -1, info.minexp, info.minexp - 1, -1e9, info.min, -np.inf], dtype)
        y = _cpu.vector_math(function, x)
        np.testing.assert_array_equal(y, np.array([1, 0.5, info.tiny, 0, 0, 0, 0], dtype))
        assert np.isnan(_cpu.vector_math(function, np.array([np.nan], dtype)))[0]

    @pytest.mark.parametrize("function", ["exp2", "exp2_nonpositive"])
    def test_error_below_the_normal_numbers(self, function: str, dtype: type) -> None:
        info = np.finfo(dtype)
        x = np.linspace(info.minexp - 3, info.minexp, 10_001).astype(dtype)
        error = np.abs(_cpu.vector_math(function, x) - np.exp2(x.astype(WIDER[dtype])))
        assert np.max(error) < info.tiny

    def test_overflows_to_infinity(self, dtype: type) -> None:
        info = np.finfo(dtype)
        x = np.array([info.maxexp, info.maxexp + 1, 1e30, np.inf], dtype)
        np.testing.assert_array_equal(_cpu.vector_math("exp2", x), np.inf)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.usefixtures("isa")
class TestTanh:
    def test_is_within_its_bound(self, dtype: type, rng: np.random.Generator) -> None:
        x = np.concatenate([grid(-2, 2, dtype, rng), grid(-25, 25, dtype, rng)])
        bound = 7 if dtype == np.float32 else 3
        assert ulps(_cpu.vector_math("tanh", x), np.tanh(x.astype(WIDER[dtype]))) <= bound

    def test_is_at_most_one(self, dtype: type, rng: np.random.Generator) -> None:
        assert np.abs(_cpu.vector_math("tanh", grid(-25, 25, dtype, rng))).max() <= 1

    def test_is_odd_and_exact_at_its_ends(self, dtype: type) -> None:
        x = np.array([0.0, -0.0, np.inf, -np.inf, 100, -1e30], dtype)
        y = _cpu.vector_math("tanh", x)
        # float32 without fused multiply-adds ends one unit below 1.
        rtol = 2.0**-23 if dtype == np.float32 else 0
        np.testing.assert_allclose(y, np.array([0, 0, 1, -1, 1, -1], dtype), rtol=rtol, atol=0)
        assert np.isnan(_cpu.vector_math("tanh", np.array([np.nan], dtype)))[0]
        x = np.linspace(0, 5, 1001).astype(dtype)
        np.testing.assert_array_equal(_cpu.vector_math("tanh", -x), -_cpu.vector_math("tanh", x))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.usefixtures("isa")
class TestSigmoid:
    @staticmethod
    def exact(x: NDArray[Any]) -> NDArray[Any]:
        wide = x.astype(WIDER[x.dtype.type])
        return 1 / (1 + np.exp(-wide))

    def test_is_within_four_ulp(self, dtype: type, rng: np.random.Generator) -> None:
        low = np.log(np.finfo(dtype).tiny) + 0.01
        x = np.concatenate([grid(-20, 40, dtype, rng), grid(low, -low, dtype, rng)])
        assert ulps(_cpu.vector_math("sigmoid", x), self.exact(x)) <= 4

    def test_is_exact_at_its_ends(self, dtype: type) -> None:
        x = np.array([0.0, -0.0, np.inf, 100, 1e30], dtype)
        y = _cpu.vector_math("sigmoid", x)
        np.testing.assert_array_equal(y, np.array([0.5, 0.5, 1, 1, 1], dtype))
        assert np.isnan(_cpu.vector_math("sigmoid", np.array([np.nan], dtype)))[0]

    def test_is_tiny_below_the_normal_numbers(self, dtype: type) -> None:
        tiny = np.finfo(dtype).tiny
        x = np.array([np.log(tiny) - 0.2, -1000, -1e30, -np.inf], dtype)
        y = _cpu.vector_math("sigmoid", x)
        assert np.all(y > 0)
        assert np.all(y < tiny)
