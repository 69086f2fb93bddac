"""Gradients of space-time convolution."""

from typing import Any

import numpy as np
import pytest
from conv_cases import (
    BFLOAT16,
    CASES,
    DTYPES,
    LAYOUTS,
    Case,
    assert_agrees,
    expected_gradients,
    gradient,
    in_ncthw,
    inputs,
    laid_out,
)
from hypothesis import given
from hypothesis import strategies as st
from marey import config
from marey.conv import conv3d, conv3d_backward
from test_conv import cases

# The gradient of an activation is not asked for; bias has one, given or not.
LINEAR = {name: case for name, case in CASES.items() if case.activation is None}
NAMES = ("grad_x", "grad_weight", "grad_bias")


def backward(case: Case, dtype: np.dtype[Any], layout: str = "NCTHW", **options: Any) -> Any:
    x, weight, _ = inputs(case, dtype)
    grad = laid_out(gradient(case, dtype), layout)
    return conv3d_backward(
        grad, laid_out(x, layout), weight, layout=layout, **case.geometry, **options
    )


def check(case: Case, dtype: np.dtype[Any], layout: str, **options: Any) -> None:
    grad_x, grad_weight, grad_bias = backward(case, dtype, layout, **options)
    actual = (in_ncthw(grad_x, layout), grad_weight, grad_bias)
    for i, name in enumerate(NAMES):
        assert actual[i].dtype == dtype, name

        def compute(compute_dtype: type, i: int = i) -> Any:
            return expected_gradients(case, dtype, compute_dtype)[i]

        exact = compute(np.float64)
        scale = max(float(np.abs(exact).max(initial=0)), 1.0)
        assert_agrees(actual[i], compute, "conv_backward", scale=scale)


@pytest.mark.usefixtures("isa")
class TestGradients:
    @pytest.mark.parametrize("layout", LAYOUTS)
    @pytest.mark.parametrize("dtype", DTYPES, ids=str)
    @pytest.mark.parametrize("name", LINEAR)
    def test_against_the_sums(self, name: str, dtype: np.dtype[Any], layout: str) -> None:
        check(LINEAR[name], dtype, layout)

    @given(case=cases(), dtype=st.sampled_from(DTYPES), layout=st.sampled_from(LAYOUTS))
    def test_options_together(self, case: Case, dtype: np.dtype[Any], layout: str) -> None:
        check(case, dtype, layout)

    @pytest.mark.parametrize("layout", LAYOUTS)
    @pytest.mark.parametrize(
        "case",
        [
            Case(40, 33, (1, 3, 3), (3, 7, 17), padding=(0, 1, 1)),
            Case(33, 64, (3, 3, 3), (3, 9, 30), padding=1, N=2),
            Case(64, 40, (3, 3, 3), (4, 8, 8)),
        ],
        ids=str,
    )
    def test_many_channels(self, case: Case, layout: str) -> None:
        """Where the forward convolution would take Winograd's way."""
        check(case, DTYPES[0], layout)

    @pytest.mark.parametrize("name", LINEAR)
    def test_finite_differences(self, name: str) -> None:
        """Of the sum of grad * y along one direction: y is linear in each argument by itself."""
        case, dtype = LINEAR[name], np.dtype(np.float64)
        x, weight, _ = inputs(case, dtype)
        bias = np.zeros(case.K)
        grad = gradient(case, dtype)
        rng = np.random.default_rng(7)
        for i, (argument, derivative) in enumerate(
            zip((x, weight, bias), backward(case, dtype), strict=True)
        ):
            direction = rng.standard_normal(argument.shape)
            values = []
            for sign in (1, -1):
                moved = [x, weight, bias]
                moved[i] = argument + sign * 0.5 * direction
                values.append(np.sum(grad * conv3d(*moved, **case.geometry)))
            size = np.abs(grad).sum() * max(1.0, float(np.abs(direction).max()))
            np.testing.assert_allclose(
                values[0] - values[1], np.sum(direction * derivative), rtol=1e-9, atol=1e-11 * size
            )

    def test_more_patches_than_are_copied_at_once(self, rng: np.random.Generator) -> None:
        """Of 16 MiB, here 170 frames."""
        x = rng.standard_normal((1, 3, 200, 64, 64))
        weight, grad = (
            rng.standard_normal((5, 3, 1, 2, 2)),
            rng.standard_normal((1, 5, 200, 32, 32)),
        )
        grad_x, grad_weight, _ = conv3d_backward(grad, x, weight, stride=(1, 2, 2))
        patches = x.reshape(3, 200, 32, 2, 32, 2).transpose(0, 3, 5, 1, 2, 4).reshape(12, -1)
        expected = grad.reshape(5, -1) @ patches.T
        np.testing.assert_allclose(grad_weight.reshape(5, 12), expected, rtol=1e-10, atol=1e-10)
        back = (weight.reshape(5, 12).T @ grad.reshape(5, -1)).reshape(3, 2, 2, 200, 32, 32)
        expected = back.transpose(0, 3, 4, 1, 5, 2).reshape(x.shape)
        np.testing.assert_allclose(grad_x, expected, rtol=1e-12, atol=1e-12)

    @pytest.mark.parametrize("needs", [(1, 0, 0), (0, 1, 0), (0, 0, 1), (1, 0, 1), (0, 0, 0)])
    def test_only_what_is_needed(self, needs: tuple[int, ...]) -> None:
        case = CASES["dense"]
        whole = backward(case, DTYPES[0])
        some = backward(case, DTYPES[0], needs=tuple(map(bool, needs)))
        for needed, all_of_it, result in zip(needs, whole, some, strict=True):
            if needed:
                np.testing.assert_array_equal(result, all_of_it)
            else:
                assert result is None


@pytest.mark.usefixtures("isa")
class TestArrays:
    @pytest.mark.parametrize("layout", LAYOUTS)
    @pytest.mark.parametrize("dtype", DTYPES, ids=str)
    @pytest.mark.parametrize("name", ["dense", "stem", "depthwise", "pointwise", "patches"])
    def test_any_strides(self, name: str, dtype: np.dtype[Any], layout: str) -> None:
        case = CASES[name]
        x, weight, _ = inputs(case, dtype)
        arrays = (laid_out(gradient(case, dtype), layout), laid_out(x, layout), weight)
        options = {"layout": layout, **case.geometry}
        whole = conv3d_backward(*arrays, **options)
        for order in ((0, 2, 3, 4, 1), (0, 4, 1, 2, 3), (4, 3, 2, 1, 0)):
            back = np.argsort(order)
            moved = [np.ascontiguousarray(a.transpose(order)).transpose(back) for a in arrays]
            for a, b in zip(conv3d_backward(*moved, **options), whole, strict=True):
                np.testing.assert_array_equal(a, b)
        larger = [np.full([2 * n for n in a.shape], np.nan, dtype) for a in arrays]
        parts = [a[(slice(None, None, 2),) * 5][:, ::-1, :, ::-1, ::-1] for a in larger]
        for part, array in zip(parts, arrays, strict=True):
            part[:] = array
        for a, b in zip(conv3d_backward(*parts, **options), whole, strict=True):
            np.testing.assert_array_equal(a, b)

    @pytest.mark.parametrize("layout", LAYOUTS)
    @pytest.mark.parametrize("name", ["dense, many", "stem", "depthwise, few", "pointwise, many"])
    def test_threads_change_nothing(self, name: str, layout: str) -> None:
        whole = backward(CASES[name], DTYPES[0], layout)
        for threads in (1, 7):
            with config.threads(threads):
                for a, b in zip(backward(CASES[name], DTYPES[0], layout), whole, strict=True):
                    np.testing.assert_array_equal(a, b)

    @pytest.mark.parametrize("layout", LAYOUTS)
    @pytest.mark.parametrize("dtype", DTYPES, ids=str)
    def test_empty(self, dtype: np.dtype[Any], layout: str) -> None:
        def gradients(
            x_shape: tuple[int, ...], weight_shape: tuple[int, ...], y_shape: tuple[int, ...]
        ) -> Any:
            grad, x = (laid_out(np.ones(shape, dtype), layout) for shape in (y_shape, x_shape))
            grad_x, grad_weight, grad_bias = conv3d_backward(
                grad, x, np.ones(weight_shape, dtype), layout=layout
            )
            grad_x = in_ncthw(grad_x, layout)
            assert grad_x.shape == x_shape
            assert grad_weight.shape == weight_shape
            assert grad_bias.shape == (weight_shape[0],)
            return grad_x, grad_weight, grad_bias

        for some in gradients((0, 3, 4, 5, 6), (8, 3, 1, 3, 3), (0, 8, 4, 3, 4))[1:]:
            assert not some.any()
        assert not gradients((1, 3, 4, 5, 6), (0, 3, 1, 3, 3), (1, 0, 4, 3, 4))[0].any()
        assert (gradients((1, 0, 4, 5, 6), (8, 0, 1, 3, 3), (1, 8, 4, 3, 4))[2] == 48).all()
        gradients((1, 3, 0, 5, 6), (8, 3, 1, 3, 3), (1, 8, 0, 3, 4))
        for shape in ((0, 5, 6), (4, 0, 6), (4, 5, 0)):
            gradients((1, 3, *shape), (8, 3, 1, 1, 1), (1, 8, *shape))

    def test_long_sums_of_bfloat16(self) -> None:
        """Of ten thousand positions: in bfloat16 a sum of ones would stop at 256."""
        x = np.ones((1, 2, 10, 32, 32), BFLOAT16)
        grad = np.ones((1, 3, 10, 32, 32), BFLOAT16)
        _, grad_weight, grad_bias = conv3d_backward(grad, x, np.ones((3, 2, 1, 1, 1), BFLOAT16))
        assert (grad_weight.astype(float) == 10240).all()
        assert (grad_bias.astype(float) == 10240).all()

    def test_errors_name_the_argument(self) -> None:
        x = np.ones((2, 6, 4, 5, 6), np.float32)
        weight = np.ones((4, 6, 3, 3, 3), np.float32)
        grad = np.ones((2, 4, 2, 3, 4), np.float32)
        wrong: list[tuple[tuple[Any, ...], dict[str, Any], type[Exception], str]] = [
            ((grad[..., :3], x, weight), {}, ValueError, r"grad: expected.*\(2, 4, 2, 3, 4\)"),
            ((grad[0], x, weight), {}, ValueError, "grad: expected"),
            ((grad.astype(np.float64), x, weight), {}, TypeError, "(grad|x): expected"),
            ((grad.tolist(), x, weight), {}, TypeError, "grad: expected an array"),
            ((grad, x[0], weight), {}, ValueError, "x: expected"),
            ((grad, x[:, :5], weight), {}, ValueError, "x: expected"),
            ((grad, x, weight[0]), {}, ValueError, "weight: expected"),
            ((grad, x, weight), {"stride": 0}, ValueError, "stride: expected"),
            ((grad, x, weight), {"padding": -1}, ValueError, "padding: expected"),
            ((grad, x, weight), {"groups": 2}, ValueError, "(weight|groups|x): expected"),
            ((grad, x, weight), {"layout": "NHWC"}, ValueError, "layout: expected"),
            ((grad, x, weight), {"needs": (True, True)}, ValueError, "needs: expected"),
        ]
        for arguments, options, error, match in wrong:
            with pytest.raises(error, match=rf"\[marey.conv3d_backward\] {match}"):
                conv3d_backward(*arguments, **options)
