"""Projections, normalisation, positions, multi-head attention and transformer blocks."""

from typing import Any

import ml_dtypes
import numpy as np
import pytest
from marey import _cpu, config
from marey.attention import (
    Linear,
    MultiHeadAttention,
    TransformerBlock,
    attention,
    layer_norm,
    layer_norm_backward,
    linear,
    linear_backward,
    multi_head_attention,
    rotary,
    sinusoidal_positions,
    transformer_block,
)
from marey.reference import attention as reference
from numpy.typing import NDArray
from tolerances import assert_close

DTYPES = [np.float32, np.float64]


def normal(rng: np.random.Generator, *shape: int, dtype: Any = np.float32) -> NDArray[Any]:
    return rng.standard_normal(shape).astype(dtype)


def assert_bfloat16(actual: NDArray[Any], exact: NDArray[Any], size: NDArray[Any] | float) -> None:
    """Rounded to bfloat16 at the end, and otherwise off by float32 sums of terms of `size`."""
    assert actual.dtype == ml_dtypes.bfloat16
    error = np.abs(actual.astype(float) - exact)
    assert np.all(error <= 2**-8 * np.abs(exact) + 1e-5 * size)


@pytest.mark.usefixtures("isa")
class TestLinear:
    @pytest.mark.parametrize("dtype", DTYPES)
    @pytest.mark.parametrize(
        ("rows", "C", "K"),
        [(1, 1, 1), (7, 17, 97), (97, 113, 7), (200, 64, 33), (13, 1100, 40), (100, 3, 300)],
    )
    def test_equation(
        self, dtype: type, rows: int, C: int, K: int, rng: np.random.Generator
    ) -> None:
        x, weight = normal(rng, rows, C, dtype=dtype), normal(rng, K, C, dtype=dtype)
        bias, more = normal(rng, K, dtype=dtype), normal(rng, rows, K, dtype=dtype)
        scale = float((np.abs(x) @ np.abs(weight).T).max(initial=1))
        for options in (
            {},
            {"bias": bias},
            {"activation": "relu", "residual": more},
            {"bias": bias, "activation": "gelu"},
        ):
            assert_close(
                linear(x, weight, **options),
                lambda t, o=options: reference.linear(x, weight, **o, dtype=t),
                "linear",
                scale=scale,
            )

    @pytest.mark.parametrize(("rows", "C", "K"), [(0, 4, 3), (3, 0, 4), (3, 4, 0)])
    def test_nothing(self, rows: int, C: int, K: int) -> None:
        bias = np.arange(K, dtype=np.float32)
        y = linear(np.ones((rows, C), np.float32), np.ones((K, C), np.float32), bias)
        np.testing.assert_array_equal(y, np.broadcast_to(bias + C, (rows, K)))

    def test_bfloat16(self, rng: np.random.Generator) -> None:
        for rows, C, K in [(50, 64, 70), (7, 33, 17), (100, 1601, 5)]:
            x = normal(rng, rows, C, dtype=ml_dtypes.bfloat16)
            weight = normal(rng, K, C, dtype=ml_dtypes.bfloat16)
            bias = normal(rng, K, dtype=ml_dtypes.bfloat16)
            exact = reference.linear(x, weight, bias)
            size = reference.linear(np.abs(x), np.abs(weight), np.abs(bias))
            assert_bfloat16(linear(x, weight, bias), exact, size)

    @pytest.mark.parametrize("dtype", [np.float32, np.float64, ml_dtypes.bfloat16])
    def test_any_strides(self, dtype: Any, rng: np.random.Generator) -> None:
        x, weight = normal(rng, 6, 5, 40, dtype=dtype), normal(rng, 50, 40, dtype=dtype)
        expected = linear(x, weight)
        np.testing.assert_array_equal(linear(x, np.asfortranarray(weight)), expected)
        np.testing.assert_array_equal(linear(x, weight[:, ::-1].copy()[:, ::-1]), expected)
        moved = np.ascontiguousarray(x.swapaxes(0, 1)).swapaxes(0, 1)
        np.testing.assert_array_equal(linear(moved, weight), expected)
        np.testing.assert_array_equal(linear(np.repeat(x, 2, -1)[..., ::2], weight), expected)
        out = np.empty((6, 5, 100), dtype)[..., ::2]
        assert linear(x, weight, out=out) is out
        np.testing.assert_array_equal(out, expected)

    def test_a_row_does_not_depend_on_the_others_nor_on_threads(
        self, rng: np.random.Generator
    ) -> None:
        x, weight = normal(rng, 500, 700), normal(rng, 300, 700)
        whole = linear(x, weight)
        np.testing.assert_array_equal(linear(x[3:20], weight), whole[3:20])
        with config.threads(1):
            np.testing.assert_array_equal(linear(x, weight), whole)

    def test_packed_once(self, rng: np.random.Generator) -> None:
        x, weight, bias = normal(rng, 9, 40), normal(rng, 50, 40), normal(rng, 50)
        layer = Linear(weight, bias)
        for part in (x, x[:1], x[:0]):
            np.testing.assert_array_equal(layer(part), linear(part, weight, bias))
        residual = normal(rng, 9, 50)
        expected = linear(x, weight, bias, activation="relu", residual=residual)
        assert layer(x, activation="relu", residual=residual, out=residual) is residual
        np.testing.assert_array_equal(residual, expected)

    def test_packed_for_another_instruction_set(self, rng: np.random.Generator) -> None:
        x, weight = normal(rng, 9, 40), normal(rng, 50, 40)
        before = _cpu.active_isa()
        layer = Linear(weight)
        try:
            for isa in config.available_isas():
                _cpu.set_isa(isa)
                np.testing.assert_array_equal(layer(x), linear(x, weight))
        finally:
            _cpu.set_isa(before)

    @pytest.mark.parametrize("dtype", DTYPES)
    @pytest.mark.parametrize(
        ("rows", "C", "K"), [(1, 1, 1), (97, 17, 40), (500, 40, 7), (150, 437, 9)]
    )
    def test_gradients(
        self, dtype: type, rows: int, C: int, K: int, rng: np.random.Generator
    ) -> None:
        x, weight = normal(rng, rows, C, dtype=dtype), normal(rng, K, C, dtype=dtype)
        grad = normal(rng, rows, K, dtype=dtype)
        found = linear_backward(grad, x, weight)
        g, a, w = (z.astype(np.longdouble) for z in (grad, x, weight))
        for one, exact in zip(found, (g @ w, g.T @ a, g.sum(0)), strict=True):
            assert one.dtype == dtype
            bound = 4 * np.finfo(dtype).eps * np.sqrt(max(rows, K)) * np.abs(exact).max()
            np.testing.assert_allclose(one, exact.astype(float), atol=max(bound, 1e-15))
        assert linear_backward(grad, x, weight, needs=(False, True, False))[::2] == (None, None)

    def test_gradients_bfloat16(self, rng: np.random.Generator) -> None:
        grad, x, weight = (
            normal(rng, *shape, dtype=ml_dtypes.bfloat16)
            for shape in ((101, 30), (101, 50), (30, 50))
        )
        g, a, w = (z.astype(float) for z in (grad, x, weight))
        found = linear_backward(grad, x, weight)
        sizes = (abs(g) @ abs(w), abs(g).T @ abs(a), abs(g).sum(0))
        for one, exact, size in zip(found, (g @ w, g.T @ a, g.sum(0)), sizes, strict=True):
            assert_bfloat16(one, exact, size)

    def test_errors_name_the_argument(self, rng: np.random.Generator) -> None:
        x, weight = normal(rng, 5, 8), normal(rng, 3, 8)
        for arguments, options, error, match in [
            ((x[:, :7], weight), {}, ValueError, r"x: expected shape \(..., 8\)"),
            ((x, weight[0]), {}, ValueError, r"weight: expected shape \(K, C\)"),
            ((x.astype(float), weight), {}, TypeError, "x: expected float32"),
            ((x, weight.astype(np.uint8)), {}, TypeError, "weight: expected float32, float64"),
            ((x, weight, weight[0]), {}, ValueError, "bias: expected"),
            ((x, weight, np.ones(3)), {}, TypeError, "bias: expected float32"),
            ((x, weight), {"activation": "tanh"}, ValueError, "activation: expected None, 'relu'"),
            ((x, weight), {"residual": x}, ValueError, "residual: expected"),
            ((x, weight), {"out": x}, ValueError, "out: expected shape"),
        ]:
            with pytest.raises(error, match=rf"\[marey.linear\] {match}"):
                linear(*arguments, **options)
        with pytest.raises(ValueError, match=r"\[marey.linear_backward\] grad: expected"):
            linear_backward(x, x, weight)


@pytest.mark.usefixtures("isa")
def test_gelu_is_exact_everywhere() -> None:
    for dtype in DTYPES:
        x = np.linspace(-8, 8, 100_001, dtype=dtype)[:, None]
        y = linear(x, np.ones((1, 1), dtype), activation="gelu")
        exact = reference.linear(x, np.ones((1, 1)), activation="gelu", dtype=np.float64)
        eps = float(np.finfo(dtype).eps)
        assert np.all(np.abs(y - exact) <= 3 * eps * np.abs(x))
        assert np.isnan(
            linear(np.full((1, 1), np.nan, dtype), np.ones((1, 1), dtype), activation="gelu")
        )


@pytest.mark.no_bf16
@pytest.mark.usefixtures("isa")
class TestLayerNorm:
    @pytest.mark.parametrize("dtype", DTYPES)
    @pytest.mark.parametrize(("rows", "C"), [(1, 1), (7, 17), (300, 97), (3, 768)])
    def test_equation(self, dtype: type, rows: int, C: int, rng: np.random.Generator) -> None:
        x = normal(rng, rows, C, dtype=dtype) + dtype(3)
        weight, bias = normal(rng, 2, C, dtype=dtype)
        for arguments in ((), (weight, bias), (None, bias)):
            assert_close(
                layer_norm(x, *arguments),
                lambda t, a=arguments: reference.layer_norm(x, *a, dtype=t),
                "layer_norm",
                scale=10.0,
            )

    @pytest.mark.parametrize("dtype", DTYPES)
    @pytest.mark.parametrize(("rows", "C"), [(1, 2), (7, 17), (700, 97)])
    def test_gradients(self, dtype: type, rows: int, C: int, rng: np.random.Generator) -> None:
        grad, x = normal(rng, 2, rows, C, dtype=dtype)
        weight = normal(rng, C, dtype=dtype)
        for w in (None, weight):
            found = layer_norm_backward(grad, x, w)
            for i, one in enumerate(found):
                assert_close(
                    one,
                    lambda t, i=i, w=w: reference.layer_norm_backward(grad, x, w, dtype=t)[i],
                    "layer_norm_backward",
                    scale=10.0 * np.sqrt(rows) if i else 10.0,
                )

    def test_finite_differences(self, rng: np.random.Generator) -> None:
        grad, x, step = normal(rng, 3, 5, 9, dtype=np.float64)
        weight = normal(rng, 9, dtype=np.float64)
        slope = (
            (layer_norm(x + 1e-6 * step, weight) - layer_norm(x - 1e-6 * step, weight)) * grad
        ).sum() / 2e-6
        found = layer_norm_backward(grad, x, weight)[0]
        np.testing.assert_allclose((found * step).sum(), slope, rtol=1e-7)

    def test_bfloat16_strides_and_out(self, rng: np.random.Generator) -> None:
        x = normal(rng, 6, 5, 40, dtype=ml_dtypes.bfloat16)
        weight = normal(rng, 40, dtype=ml_dtypes.bfloat16)
        expected = layer_norm(x, weight)
        assert_bfloat16(expected, reference.layer_norm(x, weight), 4.0)
        moved = np.asfortranarray(x)
        np.testing.assert_array_equal(layer_norm(moved, weight), expected)
        assert layer_norm(moved, weight, out=moved) is moved
        np.testing.assert_array_equal(moved, expected)

    def test_threads_change_nothing(self, rng: np.random.Generator) -> None:
        grad, x = normal(rng, 2, 3000, 33)
        whole = layer_norm_backward(grad, x)
        with config.threads(1):
            for one, other in zip(layer_norm_backward(grad, x), whole, strict=True):
                np.testing.assert_array_equal(one, other)

    def test_errors_name_the_argument(self, rng: np.random.Generator) -> None:
        x = normal(rng, 5, 8)
        for arguments, options, error, match in [
            ((x, x), {}, ValueError, "weight: expected"),
            ((x, np.ones(8)), {}, TypeError, "weight: expected float32"),
            ((x,), {"eps": -1.0}, ValueError, "eps: expected"),
            ((x.astype(np.uint8),), {}, TypeError, "x: expected float32, float64"),
            ((x,), {"out": x[:, ::-1]}, ValueError, "out: expected"),
        ]:
            with pytest.raises(error, match=rf"\[marey.layer_norm\] {match}"):
                layer_norm(*arguments, **options)
        with pytest.raises(ValueError, match=r"\[marey.layer_norm_backward\] grad: expected"):
            layer_norm_backward(x[:3], x)


class TestPositions:
    def test_sinusoidal(self) -> None:
        found = sinusoidal_positions(50, 9, dtype=np.float64)
        for place in (0, 1, 49):
            for i in range(9):
                angle = place / 10000 ** (i // 2 * 2 / 9)
                expected = np.cos(angle) if i % 2 else np.sin(angle)
                np.testing.assert_allclose(found[place, i], expected, atol=1e-12)
        np.testing.assert_array_equal(
            sinusoidal_positions([[3, 4]], 9), sinusoidal_positions(5, 9)[None, 3:]
        )
        with pytest.raises(ValueError, match=r"\[marey.sinusoidal_positions\] D: expected 1"):
            sinusoidal_positions(5, 0)

    @pytest.mark.no_bf16
    @pytest.mark.usefixtures("isa")
    @pytest.mark.parametrize("dtype", [*DTYPES, ml_dtypes.bfloat16])
    @pytest.mark.parametrize("interleaved", [False, True])
    def test_rotary_in_a_video(
        self, dtype: Any, interleaved: bool, rng: np.random.Generator
    ) -> None:
        x = normal(rng, 2, 3, 3 * 4 * 5, 76, dtype=dtype)
        places = np.indices((3, 4, 5)).reshape(3, -1).T
        sections = (38, 4, 34)
        options: dict[str, Any] = {"sections": sections, "theta": 100.0, "interleaved": interleaved}
        exact = reference.rotary(x, places, **options)
        found = rotary(x, places, **options)
        if dtype is ml_dtypes.bfloat16:
            assert_bfloat16(found, exact, 4.0)
        else:
            np.testing.assert_allclose(found, exact, atol=8 * np.finfo(dtype).eps)
        moved = np.asfortranarray(x)
        assert rotary(moved, places, **options, out=moved) is moved
        np.testing.assert_array_equal(moved, found)

    def test_rotary_depends_on_differences_and_is_undone(self, rng: np.random.Generator) -> None:
        q, k = normal(rng, 2, 1, 20, 32, dtype=np.float64)
        places = np.arange(20)
        here = rotary(q) @ rotary(k).swapaxes(-1, -2)
        there = rotary(q, places + 7) @ rotary(k, places + 7).swapaxes(-1, -2)
        np.testing.assert_allclose(here, there, atol=1e-12)
        np.testing.assert_allclose(rotary(rotary(q), -places), q, atol=1e-12)

    def test_default_sections_share_a_head(self, rng: np.random.Generator) -> None:
        x = normal(rng, 1, 8, 64)
        places = rng.integers(0, 9, (8, 3))
        np.testing.assert_array_equal(rotary(x, places), rotary(x, places, sections=(22, 22, 20)))

    def test_errors_name_the_argument(self, rng: np.random.Generator) -> None:
        x = normal(rng, 1, 8, 6)
        for arguments, options, match in [
            ((x[..., :5],), {}, "x: expected"),
            ((x, np.arange(7)), {}, "positions: expected"),
            ((x,), {"sections": (4,)}, "sections: expected 1 even"),
            ((x,), {"sections": (3, 3)}, "sections: expected 1 even"),
            ((x,), {"theta": 0.0}, "theta: expected"),
        ]:
            with pytest.raises(ValueError, match=rf"\[marey.rotary\] {match}"):
                rotary(*arguments, **options)


def heads_weights(rng: np.random.Generator, E: int, dtype: Any = np.float64) -> dict[str, Any]:
    return {
        "in_proj_weight": normal(rng, 3 * E, E, dtype=dtype) / np.sqrt(E).astype(dtype),
        "in_proj_bias": normal(rng, 3 * E, dtype=dtype),
        "out_proj_weight": normal(rng, E, E, dtype=dtype) / np.sqrt(E).astype(dtype),
        "out_proj_bias": normal(rng, E, dtype=dtype),
    }


def block_weights(rng: np.random.Generator, E: int, decoder: bool) -> dict[str, NDArray[Any]]:
    weights = {}
    for part in ["self_attn", *(["multihead_attn"] if decoder else [])]:
        for name, w in heads_weights(rng, E).items():
            weights[f"{part}.{name.replace('out_proj_', 'out_proj.')}"] = w
    for name, shape in (("linear1", (4 * E, E)), ("linear2", (E, 4 * E))):
        weights[f"{name}.weight"] = normal(rng, *shape, dtype=np.float64) / np.sqrt(shape[1])
        weights[f"{name}.bias"] = normal(rng, shape[0], dtype=np.float64)
    for i in range(1, 4 if decoder else 3):
        weights[f"norm{i}.weight"], weights[f"norm{i}.bias"] = normal(rng, 2, E, dtype=np.float64)
    return weights


class TestMultiHeadAttention:
    @pytest.mark.parametrize("options", [{}, {"causal": True}, {"mask": True}])
    def test_self_attention(self, options: dict[str, Any], rng: np.random.Generator) -> None:
        x, weights = normal(rng, 2, 17, 24, dtype=np.float64), heads_weights(rng, 24)
        if "mask" in options:
            options = {"mask": rng.random((17, 17)) < 0.6}
        found = multi_head_attention(x, num_heads=4, **weights, **options)
        exact = reference.multi_head_attention(x, num_heads=4, **weights, **options)
        np.testing.assert_allclose(found, exact, atol=1e-12)

    def test_cross_attention_and_separate_weights(self, rng: np.random.Generator) -> None:
        x, y = normal(rng, 2, 5, 24, dtype=np.float64), normal(rng, 2, 9, 24, dtype=np.float64)
        weights = heads_weights(rng, 24)
        exact = reference.multi_head_attention(x, y, num_heads=4, **weights)
        found = multi_head_attention(x, y, num_heads=4, **weights)
        np.testing.assert_allclose(found, exact, atol=1e-12)
        q, k, v = np.split(weights.pop("in_proj_weight"), 3)
        layer = MultiHeadAttention(4, q_proj_weight=q, k_proj_weight=k, v_proj_weight=v, **weights)
        np.testing.assert_allclose(layer(x, y), exact, atol=1e-12)
        np.testing.assert_allclose(layer(x, y, y), exact, atol=1e-12)

    def test_fewer_key_heads_and_positions(self, rng: np.random.Generator) -> None:
        x = normal(rng, 2, 9, 24, dtype=np.float64)
        q, k = normal(rng, 32, 24, dtype=np.float64), normal(rng, 16, 24, dtype=np.float64)
        v, out = normal(rng, 6, 24, dtype=np.float64), normal(rng, 24, 12, dtype=np.float64)
        layer = MultiHeadAttention(
            4, q_proj_weight=q, k_proj_weight=k, v_proj_weight=v, out_proj_weight=out
        )

        def heads(weight: NDArray[Any], h: int) -> NDArray[Any]:
            return (x @ weight.T).reshape(2, 9, h, -1).swapaxes(1, 2)

        turned = [rotary(heads(w, h), np.arange(9) + 5) for w, h in ((q, 4), (k, 2))]
        mixed = attention(*turned, heads(v, 2), causal=True)
        expected = mixed.swapaxes(1, 2).reshape(2, 9, -1) @ out.T
        found = layer(x, causal=True, positions=np.arange(9) + 5)
        np.testing.assert_allclose(found, expected, atol=1e-11)

    def test_errors_name_the_argument(self, rng: np.random.Generator) -> None:
        weights = heads_weights(rng, 24)
        x = normal(rng, 2, 17, 24, dtype=np.float64)
        for heads, change, match in [
            (5, {}, "num_heads: expected a number that divides 24"),
            (4, {"in_proj_weight": None}, "in_proj_weight: expected it, or all"),
            (4, {"k_proj_weight": x[0]}, "in_proj_weight: expected it, or all"),
            (4, {"in_proj_bias": np.ones(3)}, r"in_proj_bias: expected shape \(72,\)"),
            (4, {"out_proj_weight": np.ones(3)}, "out_proj_weight: expected 2 axes"),
        ]:
            with pytest.raises(ValueError, match=rf"\[marey.multi_head_attention\] {match}"):
                multi_head_attention(x, num_heads=heads, **(weights | change))


class TestTransformerBlock:
    @pytest.mark.parametrize("norm_first", [False, True])
    @pytest.mark.parametrize("activation", ["relu", "gelu"])
    @pytest.mark.parametrize("decoder", [False, True])
    def test_equation(
        self, norm_first: bool, activation: Any, decoder: bool, rng: np.random.Generator
    ) -> None:
        x, memory = normal(rng, 2, 9, 24, dtype=np.float64), normal(rng, 2, 5, 24, dtype=np.float64)
        weights = block_weights(rng, 24, decoder)
        more = (memory,) if decoder else ()
        options = {"norm_first": norm_first, "activation": activation, "causal": True}
        before = x.copy()
        found = transformer_block(x, weights, 4, *more, **options)
        exact = reference.transformer_block(x, weights, 4, *more, **options)
        np.testing.assert_allclose(found, exact, atol=1e-11)
        np.testing.assert_array_equal(x, before)

    def test_float32_and_bfloat16(self, rng: np.random.Generator) -> None:
        x, weights = normal(rng, 2, 33, 24, dtype=np.float64), block_weights(rng, 24, False)
        for dtype, tolerance in ((np.float32, 2e-5), (ml_dtypes.bfloat16, 0.2)):
            block = TransformerBlock({n: w.astype(dtype) for n, w in weights.items()}, 4)
            found = block(x.astype(dtype))
            assert found.dtype == dtype
            exact = reference.transformer_block(x, weights, 4)
            np.testing.assert_allclose(found.astype(float), exact, atol=tolerance)

    def test_errors_name_the_argument(self, rng: np.random.Generator) -> None:
        weights = block_weights(rng, 24, False)
        x = normal(rng, 2, 9, 24, dtype=np.float64)
        for change, options, match in [
            ({}, {"memory": x}, "memory: expected None for an encoder's layer"),
            ({}, {"activation": "tanh"}, "activation: expected 'relu' or 'gelu'"),
            ({"linear1.weight": None}, {}, "weights: expected 'linear1.weight'"),
            (
                {"self_attn.in_proj_weight": None},
                {},
                "weights: expected 'self_attn.in_proj_weight'",
            ),
        ]:
            some = {n: w for n, w in (weights | change).items() if w is not None}
            with pytest.raises(ValueError, match=rf"\[marey.transformer_block\] {match}"):
                transformer_block(x, some, 4, **options)


class TestTorch:
    """torch's own modules, their state passed as it is."""

    @pytest.mark.parametrize("norm_first", [False, True])
    def test_layers(self, norm_first: bool, rng: np.random.Generator) -> None:
        torch = pytest.importorskip("torch")
        for kind, more in (
            (torch.nn.TransformerEncoderLayer, 0),
            (torch.nn.TransformerDecoderLayer, 1),
        ):
            module = kind(
                24, 4, 48, dropout=0.0, activation="gelu", batch_first=True, norm_first=norm_first
            ).eval()
            arrays = [torch.from_numpy(normal(rng, 2, n, 24)) for n in (9, 5)[: 1 + more]]
            weights = {name: x.numpy() for name, x in module.state_dict().items()}
            with torch.no_grad():
                expected = module(*arrays).numpy()
            found = transformer_block(
                arrays[0].numpy(),
                weights,
                4,
                *(a.numpy() for a in arrays[1:]),
                norm_first=norm_first,
            )
            np.testing.assert_allclose(found, expected, atol=2e-5)
