"""Gradients of attention."""

from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from marey import config
from marey.attention import (
    attention,
    attention_backward,
    attention_varlen,
    attention_varlen_backward,
)
from marey.reference import attention as reference
from numpy.typing import NDArray
from tolerances import assert_close

DTYPES = [np.float32, np.float64]
Arrays = tuple[NDArray[Any], ...]


def inputs(
    rng: np.random.Generator,
    dtype: Any = np.float32,
    *,
    batch: tuple[int, ...] = (2,),
    h: int = 2,
    h_kv: int | None = None,
    L: int = 17,
    S: int | None = None,
    D: int = 12,
    Dv: int | None = None,
) -> Arrays:
    """The gradient of the result, q, k and v."""
    h_kv, S, Dv = h_kv or h, L if S is None else S, Dv or D
    shapes = [(*batch, h, L, Dv), (*batch, h, L, D), (*batch, h_kv, S, D), (*batch, h_kv, S, Dv)]
    return tuple(rng.standard_normal(shape).astype(dtype) for shape in shapes)


def gradients(grad: NDArray[Any], *qkv: NDArray[Any], **options: Any) -> Arrays:
    out, lse = attention(*qkv, **options, return_lse=True)
    return attention_backward(
        grad, *qkv, out, lse, **options, bias_grad=options.get("bias") is not None
    )


def check(*arrays: NDArray[Any], **options: Any) -> None:
    """Compare with the reference."""
    found = gradients(*arrays, **options)
    exact = reference.attention_backward(*arrays, **options)
    assert len(found) == len(exact)
    for i, one in enumerate(found):
        # Gradients that cancel are small beside what they are sums of.
        scale = max(1.0, *(float(np.abs(x).max(initial=0)) for x in exact))
        assert_close(
            one,
            lambda dtype, i=i: reference.attention_backward(*arrays, **options, dtype=dtype)[i],
            "attention_backward",
            scale=scale,
        )


@pytest.mark.usefixtures("isa")
class TestEquation:
    @pytest.mark.parametrize("dtype", DTYPES)
    @pytest.mark.parametrize(("L", "S"), [(1, 1), (7, 97), (97, 7), (257, 130), (33, 65)])
    def test_lengths(self, dtype: type, L: int, S: int, rng: np.random.Generator) -> None:
        check(*inputs(rng, dtype, L=L, S=S, batch=(1,)))

    @pytest.mark.parametrize("dtype", DTYPES)
    @pytest.mark.parametrize(("D", "Dv"), [(1, 1), (7, 17), (64, 64), (113, 5), (3, 130)])
    def test_head_sizes(self, dtype: type, D: int, Dv: int, rng: np.random.Generator) -> None:
        check(*inputs(rng, dtype, L=37, S=70, D=D, Dv=Dv, batch=(1,)))

    @pytest.mark.parametrize(("L", "S"), [(0, 5), (5, 0), (0, 0)])
    def test_nothing(self, L: int, S: int, rng: np.random.Generator) -> None:
        arrays = inputs(rng, L=L, S=S)
        for one, array in zip(gradients(*arrays), arrays[1:], strict=True):
            np.testing.assert_array_equal(one, np.zeros_like(array), strict=True)

    @given(data=st.data())
    def test_options_together(self, data: st.DataObject) -> None:
        rng = np.random.default_rng(data.draw(st.integers(0, 1000)))
        size = st.sampled_from([1, 2, 7, 17, 60, 129])
        L, S = data.draw(size), data.draw(size)
        h_kv, group = data.draw(st.sampled_from([1, 2])), data.draw(st.sampled_from([1, 3]))
        dtype = data.draw(st.sampled_from(DTYPES))
        arrays = inputs(rng, dtype, L=L, S=S, h=h_kv * group, h_kv=h_kv, Dv=9)
        options: dict[str, Any] = {}
        causal = data.draw(st.sampled_from([False, True, "top_left", "bottom_right"]))
        sides = st.none() | st.integers(0, 40)
        window = data.draw(st.none() | st.integers(0, 40) | st.tuples(sides, sides))
        if L == S or causal in ("top_left", "bottom_right"):
            options |= {"causal": causal, "window": window}
        if data.draw(st.booleans()):
            shape = data.draw(st.sampled_from([(L, S), (2, 1, 1, S), (h_kv * group, L, 1)]))
            options["mask"] = rng.random(shape) < 0.6
        if data.draw(st.booleans()):
            shape = data.draw(
                st.sampled_from(
                    [(L, S), (1, S), (2, 1, L, S), (h_kv * group, L, S), (2, h_kv * group, L, S)]
                )
            )
            bias = rng.standard_normal(shape)
            options["bias"] = np.where(rng.random(shape) < 0.1, -np.inf, bias).astype(dtype)
        if data.draw(st.booleans()):
            options["softcap"] = data.draw(st.sampled_from([0.5, 20.0]))
        if data.draw(st.booleans()):
            options["scale"] = data.draw(st.sampled_from([-0.3, 0.0, 1.0]))
        check(*arrays, **options)

    @pytest.mark.parametrize(("h", "h_kv"), [(4, 2), (6, 1)])
    @pytest.mark.parametrize("L", [3, 150])
    def test_grouped_heads(self, h: int, h_kv: int, L: int, rng: np.random.Generator) -> None:
        check(*inputs(rng, h=h, h_kv=h_kv, L=L, S=140), causal="bottom_right")

    @pytest.mark.parametrize("shape", [(1, 3, 200, 1), (200, 200), (2, 1, 1, 200), (3, 1, 200)])
    def test_bias_gradients_are_summed_over_what_is_broadcast(
        self, shape: tuple[int, ...], rng: np.random.Generator
    ) -> None:
        arrays = inputs(rng, h=3, L=200)
        check(*arrays, bias=rng.standard_normal(shape).astype(np.float32))

    def test_finite_differences(self, rng: np.random.Generator) -> None:
        grad, *qkv = inputs(rng, np.float64, h=2, h_kv=1, L=9, S=11, D=5, Dv=4)
        bias = rng.standard_normal((2, 9, 11))
        mask = rng.random((9, 11)) < 0.7
        options = {"mask": mask, "softcap": 2.0, "window": (6, 4), "causal": "bottom_right"}
        found = gradients(grad, *qkv, bias=bias, **options)
        for i, array in enumerate((*qkv, bias)):
            step = rng.standard_normal(array.shape)

            def loss(t: float, i: int = i, step: NDArray[Any] = step) -> float:
                moved = [x + t * step if j == i else x for j, x in enumerate((*qkv, bias))]
                return float((attention(*moved[:3], bias=moved[3], **options) * grad).sum())

            slope = (loss(1e-5) - loss(-1e-5)) / 2e-5
            np.testing.assert_allclose((found[i] * step).sum(), slope, rtol=1e-7, atol=1e-8)


@pytest.mark.usefixtures("isa")
class TestNumerics:
    def test_queries_with_nothing_to_attend_to_have_and_give_none(
        self, rng: np.random.Generator
    ) -> None:
        grad, q, k, v = inputs(rng, L=70, S=7)
        grad_q, grad_k, grad_v = gradients(grad, q, k, v, causal="bottom_right")
        assert not grad_q[..., :63, :].any()
        grad[..., :63, :] = 1e6
        again = gradients(grad, q, k, v, causal="bottom_right")
        np.testing.assert_array_equal(again[1], grad_k)
        np.testing.assert_array_equal(again[2], grad_v)

    def test_large_scores_do_not_overflow(self, rng: np.random.Generator) -> None:
        grad, q, k, v = inputs(rng, L=50, S=60)
        for one in gradients(grad, 1000 * q, 1000 * k, v):
            assert np.isfinite(one).all()

    @pytest.mark.parametrize(
        ("L", "S", "D", "Dv"), [(1, 7, 8, 8), (97, 130, 64, 32), (51, 33, 7, 17)]
    )
    def test_bfloat16(self, L: int, S: int, D: int, Dv: int, rng: np.random.Generator) -> None:
        arrays = inputs(rng, ml_dtypes.bfloat16, L=L, S=S, D=D, Dv=Dv)
        for options in ({}, {"causal": "bottom_right"}, {"softcap": 3.0, "scale": -0.2}):
            found = gradients(*arrays, **options)
            exact = reference.attention_backward(*arrays, **options)
            # What torch and others do in bfloat16: P and the gradient of the scores are rounded to
            # it, each by at most 2^-9 of itself, and so are the result that delta is made of and,
            # at the end, the gradients.
            for one, other in zip(found, exact, strict=True):
                assert one.dtype == ml_dtypes.bfloat16
                error = np.abs(one.astype(float) - other)
                size = np.abs(other).max()
                assert error.max() <= 2**-6 * size
                assert np.sqrt((error**2).mean()) <= 2**-8 * size

    @pytest.mark.parametrize("h", [1, 8])
    def test_threads_change_nothing(self, h: int, rng: np.random.Generator) -> None:
        arrays = inputs(rng, L=300, h=h)
        bias = rng.standard_normal((300, 300)).astype(np.float32)
        for options in ({}, {"bias": bias}):
            whole = gradients(*arrays, **options)
            with config.threads(1):
                for one, other in zip(gradients(*arrays, **options), whole, strict=True):
                    np.testing.assert_array_equal(one, other)


@pytest.mark.usefixtures("isa")
class TestArrays:
    @pytest.mark.parametrize("dtype", [np.float32, np.float64, ml_dtypes.bfloat16])
    def test_any_strides(self, dtype: Any, rng: np.random.Generator) -> None:
        arrays = inputs(rng, dtype, L=50, S=70, D=24)
        out, lse = attention(*arrays[1:], return_lse=True)
        expected = attention_backward(*arrays, out, lse)
        for layout in ((0, 2, 1, 3), (3, 1, 0, 2)):
            back = np.argsort(layout)
            moved = [
                np.ascontiguousarray(x.transpose(layout)).transpose(back) for x in (*arrays, out)
            ]
            found = attention_backward(*moved, lse[..., ::-1].copy()[..., ::-1])
            for one, other in zip(found, expected, strict=True):
                np.testing.assert_array_equal(one, other)

    def test_errors_name_the_argument(self, rng: np.random.Generator) -> None:
        grad, q, k, v = inputs(rng)
        out, lse = attention(q, k, v, return_lse=True)
        for arguments, options, error, match in [
            ((grad[..., :3], q, k, v, out, lse), {}, ValueError, "grad: expected"),
            ((grad.astype(float), q, k, v, out, lse), {}, TypeError, "grad: expected float32"),
            ((grad, q, k[..., :3], v, out, lse), {}, ValueError, "k: expected"),
            ((grad, q, k, v, out[..., :3], lse), {}, ValueError, "out: expected"),
            ((grad, q, k, v, out, lse[..., :3]), {}, ValueError, "lse: expected"),
            ((grad, q, k, v, out, lse.astype(float)), {}, TypeError, "lse: expected float32"),
            ((grad, q, k, v, out, lse), {"bias_grad": True}, ValueError, "bias_grad: expected"),
        ]:
            with pytest.raises(error, match=rf"\[marey.attention_backward\] {match}"):
                attention_backward(*arguments, **options)


@pytest.mark.usefixtures("isa")
class TestVarlen:
    @pytest.mark.parametrize("h_kv", [1, 4])
    @pytest.mark.parametrize("causal", [False, "bottom_right"])
    def test_each_sequence_alone(self, h_kv: int, causal: Any, rng: np.random.Generator) -> None:
        lengths_q, lengths_k = [3, 0, 257, 1, 17, 5], [7, 4, 130, 0, 17, 90]
        cu_q, cu_k = np.cumsum([0, *lengths_q]), np.cumsum([0, *lengths_k])
        q = rng.standard_normal((cu_q[-1], 4, 12)).astype(np.float32)
        k = rng.standard_normal((cu_k[-1], h_kv, 12)).astype(np.float32)
        v = rng.standard_normal((cu_k[-1], h_kv, 9)).astype(np.float32)
        grad = rng.standard_normal((cu_q[-1], 4, 9)).astype(np.float32)
        out, lse = attention_varlen(q, k, v, cu_q, cu_k, causal=causal, return_lse=True)
        found = attention_varlen_backward(grad, q, k, v, out, lse, cu_q, cu_k, causal=causal)
        for i in range(len(lengths_q)):
            of_q, of_k = slice(cu_q[i], cu_q[i + 1]), slice(cu_k[i], cu_k[i + 1])
            parts = [
                x[of].swapaxes(0, 1) for x, of in ((grad, of_q), (q, of_q), (k, of_k), (v, of_k))
            ]
            exact = reference.attention_backward(*parts, causal=causal)
            for one, other, of in zip(found, exact, (of_q, of_k, of_k), strict=True):
                np.testing.assert_allclose(one[of].swapaxes(0, 1), other, atol=2e-5)

    def test_errors(self, rng: np.random.Generator) -> None:
        q, k, v = rng.standard_normal((3, 10, 2, 4)).astype(np.float32)
        cu = [0, 4, 10]
        out, lse = attention_varlen(q, k, v, cu, cu, return_lse=True)
        for arguments, error, match in [
            ((out[:5], q, k, v, out, lse, cu, cu), ValueError, "grad: expected"),
            ((out, q, k, v, out, lse[:5], cu, cu), ValueError, "lse: expected"),
            ((out, q, k, v, out, lse.astype(float), cu, cu), TypeError, "lse: expected"),
            ((out, q, k, v, out, lse, [0, 4], cu), ValueError, "cu_seqlens_k: expected as many"),
        ]:
            with pytest.raises(error, match=rf"\[marey.attention_varlen_backward\] {match}"):
                attention_varlen_backward(*arguments)
