"""Gradients of pooling."""

from typing import Any

import numpy as np
import pytest
from conv_cases import BFLOAT16, DTYPES, LAYOUTS, assert_agrees, in_ncthw, laid_out
from hypothesis import given
from hypothesis import strategies as st
from marey import config
from marey.conv import (
    avg_pool3d,
    avg_pool3d_backward,
    global_avg_pool3d,
    global_avg_pool3d_backward,
    max_pool3d,
    max_pool3d_backward,
)
from marey.reference import conv as reference
from test_conv_pool import CASES, options_that_fit, video

pytestmark = pytest.mark.no_bf16


def gradient(y: Any) -> Any:
    return np.random.default_rng(y.size).standard_normal(y.shape).astype(y.dtype)


def largest(x: Any) -> float:
    return float(np.abs(x.astype(float)).max(initial=1.0))


def check_max(x: Any, layout: str, **options: Any) -> None:
    grad = gradient(max_pool3d(x, **options))
    actual = max_pool3d_backward(
        laid_out(grad, layout), laid_out(x, layout), layout=layout, **options
    )
    assert actual.dtype == x.dtype
    assert actual.flags.c_contiguous
    assert_agrees(
        in_ncthw(actual, layout),
        lambda dtype: reference.max_pool3d_backward(grad, x, **options, dtype=dtype),
        "pool",
        scale=largest(grad),
    )


def check_mean(x: Any, layout: str, **options: Any) -> None:
    grad = gradient(avg_pool3d(x, **options))
    actual = avg_pool3d_backward(
        laid_out(grad, layout), laid_out(x, layout).shape, layout=layout, **options
    )
    assert actual.dtype == x.dtype
    assert_agrees(
        in_ncthw(actual, layout),
        lambda dtype: reference.avg_pool3d_backward(grad, x.shape, **options, dtype=dtype),
        "pool",
        scale=largest(grad),
    )


@pytest.mark.usefixtures("isa")
class TestWindows:
    @pytest.mark.parametrize("layout", LAYOUTS)
    @pytest.mark.parametrize("name", CASES)
    def test_against_the_reference(self, name: str, layout: str) -> None:
        C, size, options = CASES[name]
        x = video(C, size, DTYPES[0])
        check_max(x, layout, **options)
        for counted in (True, False):
            check_mean(x, layout, count_include_pad=counted, **options)

    @pytest.mark.parametrize("layout", LAYOUTS)
    @pytest.mark.parametrize("dtype", DTYPES[1:], ids=str)
    @pytest.mark.parametrize("name", ["stem", "same size", "default stride", "ceil, padding"])
    def test_types(self, name: str, dtype: np.dtype[Any], layout: str) -> None:
        C, size, options = CASES[name]
        check_max(video(C, size, dtype), layout, **options)
        check_mean(video(C, size, dtype), layout, **options)

    @given(drawn=options_that_fit(), dtype=st.sampled_from(DTYPES), layout=st.sampled_from(LAYOUTS))
    def test_options_together(self, drawn: Any, dtype: np.dtype[Any], layout: str) -> None:
        C, size, options = drawn
        check_max(video(C, size, dtype), layout, **options)
        check_mean(video(C, size, dtype), layout, **options)

    @pytest.mark.parametrize("name", ["stem", "same size", "ceil, padding", "uneven padding"])
    def test_finite_differences(self, name: str) -> None:
        """Of the sum of grad * y along one direction: small steps change no maximum's place."""
        C, size, options = CASES[name]
        x = video(C, size, np.dtype(np.float64))
        direction = np.random.default_rng(7).standard_normal(x.shape)
        step = 1e-7
        for pool, derivative in (
            (max_pool3d, lambda grad: max_pool3d_backward(grad, x, **options)),
            (avg_pool3d, lambda grad: avg_pool3d_backward(grad, x.shape, **options)),
        ):
            grad = gradient(pool(x, **options))
            up, down = (pool(x + sign * step * direction, **options) for sign in (1, -1))
            np.testing.assert_allclose(
                np.sum(grad * (up - down)) / (2 * step),
                np.sum(direction * derivative(grad)),
                rtol=1e-6,
                atol=1e-6 * np.sqrt(grad.size),
            )


@pytest.mark.usefixtures("isa")
class TestNumbers:
    @pytest.mark.parametrize("layout", LAYOUTS)
    @pytest.mark.parametrize("dtype", DTYPES, ids=str)
    def test_the_first_of_equals_has_the_gradient(self, dtype: np.dtype[Any], layout: str) -> None:
        x = np.zeros((2, 19, 4, 6, 22), dtype)
        for options in ({"kernel": 2}, {"kernel": 3, "stride": (1, 2, 1), "padding": 1}):
            check_max(x, layout, **options)
            check_max(np.full_like(x, -np.inf), layout, **options)

    @pytest.mark.parametrize("layout", LAYOUTS)
    @pytest.mark.parametrize("dtype", DTYPES, ids=str)
    def test_nan_is_larger_than_any_number(self, dtype: np.dtype[Any], layout: str) -> None:
        x = video(3, (3, 7, 37), dtype).copy()
        x[0, 1, 1, 2, 3:5] = np.nan
        x[1, 0, 0, 0] = np.inf
        for options in ({"kernel": 3, "stride": 1, "padding": 1}, {"kernel": 2}):
            check_max(x, layout, **options)

    def test_a_window_of_nothing(self) -> None:
        x = np.ones((1, 1, 1, 1, 2), np.float32)
        wide = {"kernel": (1, 1, 2), "padding": ((0, 0), (0, 0), (3, 3)), "dilation": (1, 1, 4)}
        grad = np.array([1, 20, 300, 4000], np.float32).reshape(1, 1, 1, 1, 4)
        assert max_pool3d_backward(grad, x, stride=1, **wide).ravel().tolist() == [4000, 1]
        empty = np.ones((1, 2, 0, 3, 4), np.float32)
        options = {"kernel": (2, 1, 1), "stride": 1, "padding": (1, 0, 0)}
        one = np.ones((1, 2, 1, 3, 4), np.float32)
        assert max_pool3d_backward(one, empty, **options).shape == empty.shape
        assert avg_pool3d_backward(one, empty.shape, **options).shape == empty.shape

    def test_sums_of_bfloat16_are_rounded_once(self) -> None:
        """Of a thousand windows: added one by one in bfloat16, ones would stop at 256."""
        x = np.zeros((1, 1, 1, 1, 2047), BFLOAT16)
        x[..., 1023] = 1
        options = {"kernel": (1, 1, 1024), "stride": 1}
        grad = np.ones((1, 1, 1, 1, 1024), BFLOAT16)
        assert max_pool3d_backward(grad, x, **options).astype(float).max() == 1024
        assert avg_pool3d_backward(grad, x.shape, **options).astype(float).max() == 1

    @pytest.mark.parametrize("layout", LAYOUTS)
    def test_threads_change_nothing(self, layout: str) -> None:
        x = laid_out(video(33, (5, 17, 19), DTYPES[0]), layout)
        options: dict[str, Any] = {"kernel": 3, "stride": (1, 2, 1), "padding": 1, "layout": layout}
        grad = gradient(max_pool3d(x, **options))
        for derivative in (
            lambda: max_pool3d_backward(grad, x, **options),
            lambda: avg_pool3d_backward(grad, x.shape, **options),
        ):
            whole = derivative()
            for threads in (1, 7):
                with config.threads(threads):
                    np.testing.assert_array_equal(derivative(), whole)


@pytest.mark.usefixtures("isa")
class TestGlobalMean:
    @pytest.mark.parametrize("layout", LAYOUTS)
    @pytest.mark.parametrize("dtype", DTYPES, ids=str)
    @pytest.mark.parametrize(("C", "size"), [(1, (1, 1, 1)), (7, (1, 7, 7)), (97, (2, 3, 5))])
    def test_against_the_reference(
        self, C: int, size: Any, dtype: np.dtype[Any], layout: str
    ) -> None:
        x = laid_out(video(C, size, dtype), layout)
        grad = gradient(global_avg_pool3d(x, layout=layout))
        actual = global_avg_pool3d_backward(grad, x.shape, layout=layout)
        assert actual.dtype == dtype
        assert_agrees(
            actual,
            lambda compute: reference.global_avg_pool3d_backward(
                grad, x.shape, layout=layout, dtype=compute
            ),
            "pool",
            scale=largest(grad),
        )

    def test_nothing(self) -> None:
        grad = np.ones((2, 3), np.float32)
        assert global_avg_pool3d_backward(grad, (2, 3, 0, 4, 5)).shape == (2, 3, 0, 4, 5)


@pytest.mark.usefixtures("isa")
class TestArrays:
    @pytest.mark.parametrize("layout", LAYOUTS)
    @pytest.mark.parametrize("dtype", DTYPES, ids=str)
    @pytest.mark.parametrize("options", [{"kernel": 3, "stride": 1, "padding": 1}, {"kernel": 2}])
    def test_any_strides(self, options: Any, dtype: np.dtype[Any], layout: str) -> None:
        x = laid_out(video(19, (4, 7, 9), dtype), layout)
        grad = gradient(max_pool3d(x, layout=layout, **options))
        whole = max_pool3d_backward(grad, x, layout=layout, **options)
        mean = avg_pool3d_backward(grad, x.shape, layout=layout, **options)
        for order in ((0, 2, 3, 4, 1), (0, 4, 1, 2, 3), (4, 3, 2, 1, 0)):
            back = np.argsort(order)
            moved_grad, moved = (
                np.ascontiguousarray(a.transpose(order)).transpose(back) for a in (grad, x)
            )
            # One of the two in another order, and both.
            for arrays in ((moved_grad, x), (grad, moved), (moved_grad, moved)):
                np.testing.assert_array_equal(
                    max_pool3d_backward(*arrays, layout=layout, **options), whole
                )
            np.testing.assert_array_equal(
                avg_pool3d_backward(moved_grad, x.shape, layout=layout, **options), mean
            )

    def test_errors_name_the_argument(self) -> None:
        x = np.ones((2, 3, 4, 5, 6), np.float32)
        grad = np.ones((2, 3, 2, 2, 3), np.float32)
        wrong: list[tuple[Any, tuple[Any, ...], dict[str, Any], type[Exception], str]] = [
            (max_pool3d_backward, (grad[..., :2], x, 2), {}, ValueError, "grad: expected shape"),
            (max_pool3d_backward, (grad[0], x, 2), {}, ValueError, "grad: expected shape"),
            (max_pool3d_backward, (grad, x[0], 2), {}, ValueError, "x: expected shape"),
            (max_pool3d_backward, (grad.astype(float), x, 2), {}, TypeError, "grad: expected"),
            (max_pool3d_backward, (grad, x.tolist(), 2), {}, TypeError, "x: expected an array"),
            (max_pool3d_backward, (grad, x, 2), {"layout": "NHWC"}, ValueError, "layout: expected"),
            (max_pool3d_backward, (grad, x, 0), {}, ValueError, "kernel: expected 1"),
            (avg_pool3d_backward, (grad, x.shape, 3), {}, ValueError, "grad: expected shape"),
            (avg_pool3d_backward, (grad, x.shape[1:], 2), {}, ValueError, "shape: expected"),
            (avg_pool3d_backward, (grad, (2, 3, -4, 5, 6), 2), {}, ValueError, "shape: expected"),
            (global_avg_pool3d_backward, (grad, x.shape), {}, ValueError, "grad: expected shape"),
        ]
        for function, arguments, options, error, match in wrong:
            with pytest.raises(error, match=rf"\[marey.{function.__name__}\] {match}"):
                function(*arguments, **options)
