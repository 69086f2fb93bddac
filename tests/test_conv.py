"""Space-time convolution."""

from dataclasses import replace
from functools import partial
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
    assert_convolution,
    expected,
    in_ncthw,
    inputs,
    laid_out,
)
from hypothesis import assume, given
from hypothesis import strategies as st
from marey import _cpu, config
from marey.conv import Conv3d, conv3d, inflate
from marey.reference import conv as reference
from numpy.lib.stride_tricks import as_strided

# Those that float32 takes tiles of AMX for, where there are any, but for "stem".
TILED = ["pointwise, tiles", "temporal, tiles", "dense, tiles"]


def convolve(case: Case, dtype: np.dtype[Any], layout: str = "NCTHW", **options: Any) -> Any:
    x, weight, bias = inputs(case, dtype)
    return conv3d(laid_out(x, layout), weight, bias, layout=layout, **case.options, **options)


@st.composite
def cases(draw: st.DrawFn) -> Case:
    """Any options together, of sizes that fit."""
    groups = draw(st.sampled_from([1, 1, 2, 5]))
    C = groups * draw(st.sampled_from([1, 2, 3, 17]))
    K = groups * draw(st.sampled_from([1, 2, 4, 19]))
    triples = lambda *values: st.tuples(*[st.sampled_from(values)] * 3)  # noqa: E731
    kernel, dilation = draw(triples(1, 1, 2, 3, 4)), draw(triples(1, 1, 2, 3))
    size, stride = draw(triples(1, 2, 5, 7, 17)), draw(triples(1, 1, 2, 3))
    sides = st.integers(0, 3)
    padding = draw(
        sides
        | st.tuples(sides, sides, sides)
        | st.tuples(*[st.tuples(sides, sides)] * 3)
        | st.sampled_from(["valid", "same"])
    )
    if padding == "same":
        stride = (1, 1, 1)
    else:
        pairs = reference._pairs(padding, kernel, dilation)
        assume(
            all(
                n + sum(p) > d * (k - 1)
                for n, p, k, d in zip(size, pairs, kernel, dilation, strict=True)
            )
        )
    return Case(
        C,
        K,
        kernel,
        size,
        N=draw(st.sampled_from([1, 2])),
        groups=groups,
        stride=stride,
        padding=padding,
        dilation=dilation,
        activation=draw(st.sampled_from([None, None, "relu", "gelu", "silu"])),
        bias=draw(st.booleans()),
    )


@pytest.mark.usefixtures("isa")
class TestEquation:
    @pytest.mark.parametrize("layout", LAYOUTS)
    @pytest.mark.parametrize("dtype", DTYPES, ids=str)
    @pytest.mark.parametrize("name", CASES)
    def test_against_the_sum(self, name: str, dtype: np.dtype[Any], layout: str) -> None:
        assert_convolution(convolve(CASES[name], dtype, layout), CASES[name], dtype, layout)

    @given(case=cases(), dtype=st.sampled_from(DTYPES), layout=st.sampled_from(LAYOUTS))
    def test_options_together(self, case: Case, dtype: np.dtype[Any], layout: str) -> None:
        assert_convolution(convolve(case, dtype, layout), case, dtype, layout)

    @pytest.mark.parametrize("layout", LAYOUTS)
    @pytest.mark.parametrize("width", [1, 2, 7, 17, 29, 97])
    @pytest.mark.parametrize("kernel", [(1, 3, 3), (3, 3, 3)])
    def test_winograd(self, kernel: tuple[int, int, int], width: int, layout: str) -> None:
        case = Case(40, 33, kernel, (2, 5, width), padding=(kernel[0] // 2, 1, 1))
        y = convolve(case, DTYPES[0], layout, algorithm="winograd")
        assert_convolution(y, case, DTYPES[0], layout)

    @given(
        C=st.sampled_from([1, 7, 32, 70]),
        K=st.sampled_from([1, 5, 32, 70]),
        size=st.tuples(st.integers(1, 3), st.integers(1, 9), st.integers(1, 19)),
        padding=st.tuples(st.integers(0, 1), st.integers(1, 2), st.integers(1, 3)),
        layout=st.sampled_from(LAYOUTS),
    )
    def test_winograd_of_any_size(
        self, C: int, K: int, size: Any, padding: Any, layout: str
    ) -> None:
        case = Case(C, K, (1, 3, 3), size, padding=padding, activation="relu")
        y = convolve(case, DTYPES[0], layout, algorithm="winograd")
        assert_convolution(y, case, DTYPES[0], layout)

    def test_both_algorithms_are_what_they_say(self) -> None:
        case = Case(64, 64, (3, 3, 3), (2, 9, 9), padding=1)
        direct = convolve(case, DTYPES[0], algorithm="direct")
        winograd = convolve(case, DTYPES[0], algorithm="winograd")
        assert np.any(direct != winograd)
        chosen = convolve(case, DTYPES[0])
        assert np.array_equal(chosen, direct) or np.array_equal(chosen, winograd)

    def test_bias_of_bfloat16_may_be_float32(self) -> None:
        x, weight, _ = inputs(CASES["dense"], BFLOAT16)
        bias = np.linspace(-1, 1, len(weight), dtype=np.float32)
        options = CASES["dense"].options
        compute = partial(_computed, x, weight, bias, options)
        assert_agrees(conv3d(x, weight, bias, **options), compute)

    def test_one_and_two_dimensions_are_special_cases(self, rng: np.random.Generator) -> None:
        signal, taps = rng.standard_normal(97), rng.standard_normal(7)
        y = conv3d(signal.reshape(1, 1, -1, 1, 1), taps[::-1].reshape(1, 1, -1, 1, 1))
        np.testing.assert_allclose(y.ravel(), np.convolve(signal, taps, "valid"), rtol=1e-12)


def _computed(x: Any, weight: Any, bias: Any, options: dict[str, Any], dtype: type) -> Any:
    return reference.conv3d(x, weight, bias, **options, dtype=dtype)


@pytest.mark.usefixtures("isa")
class TestNumbers:
    @pytest.mark.parametrize("layout", LAYOUTS)
    @pytest.mark.parametrize("dtype", DTYPES, ids=str)
    @pytest.mark.parametrize("name", ["dense", "stem", "depthwise", "groups of many", *TILED])
    def test_nan_goes_where_it_belongs(self, name: str, dtype: np.dtype[Any], layout: str) -> None:
        case = CASES[name]
        x, weight, bias = inputs(case, dtype)
        clean = conv3d(laid_out(x, layout), weight, bias, layout=layout, **case.options)
        x = x.copy()
        x[0, 1, 1, 3, 4] = np.nan
        y = conv3d(
            laid_out(x, layout), weight, bias, layout=layout, algorithm="direct", **case.options
        )
        where = np.zeros(x.shape)
        where[np.isnan(x)] = 1
        ones = np.ones(weight.shape)
        geometry = {**case.geometry, "layout": "NCTHW"}
        seen = reference.conv3d(where, ones, **geometry) > 0
        np.testing.assert_array_equal(np.isnan(in_ncthw(y, layout)), seen)
        np.testing.assert_array_equal(in_ncthw(y, layout)[~seen], in_ncthw(clean, layout)[~seen])

    @pytest.mark.parametrize("value", [np.inf, -np.inf, 1e38])
    @pytest.mark.parametrize("name", ["dense", "stem", *TILED])
    def test_infinite_and_huge_numbers(self, name: str, value: float) -> None:
        """Operands in parts, or beside an infinite one, are what they are."""
        case = replace(CASES[name], padding=0, activation=None)
        for operand, at in ((0, (0, 1, 1, 3, 4)), (1, (2, 1, 0, 0, 0))):
            arrays = [np.array(a) for a in inputs(case, DTYPES[0])]
            arrays[operand][at] = value
            exact = reference.conv3d(*arrays, **case.options, dtype=np.float64)
            for layout in LAYOUTS:
                x = laid_out(arrays[0], layout)
                options = {"algorithm": "direct", "layout": layout, **case.options}
                y = in_ncthw(conv3d(x, *arrays[1:], **options), layout)
                finite = np.isfinite(exact)
                np.testing.assert_array_equal(y[~finite], exact[~finite])
                np.testing.assert_allclose(y[finite], exact[finite], rtol=1e-6, atol=1e-5)

    @pytest.mark.parametrize("layout", LAYOUTS)
    @pytest.mark.parametrize("dtype", DTYPES, ids=str)
    @pytest.mark.parametrize("name", ["dense, many", "stem", "depthwise", "groups", *TILED])
    def test_threads_change_nothing(self, name: str, dtype: np.dtype[Any], layout: str) -> None:
        whole = convolve(CASES[name], dtype, layout)
        with config.threads(1):
            np.testing.assert_array_equal(convolve(CASES[name], dtype, layout), whole)
        with config.threads(7):
            np.testing.assert_array_equal(convolve(CASES[name], dtype, layout), whole)

    @pytest.mark.parametrize("layout", LAYOUTS)
    @pytest.mark.parametrize("name", ["dense, many", "stem", "depthwise, few", *TILED])
    def test_a_batch_is_its_clips(self, name: str, layout: str) -> None:
        x, weight, bias = inputs(CASES[name], DTYPES[0])
        x = laid_out(np.concatenate([x, 2 * x, x[::-1]]), layout)
        options = {"layout": layout, **CASES[name].options}
        whole = conv3d(x, weight, bias, **options)
        for n in range(len(x)):
            np.testing.assert_array_equal(
                conv3d(x[n : n + 1], weight, bias, **options), whole[n : n + 1]
            )


@pytest.mark.skipif("avx512_amx" not in config.available_isas(), reason="no tiles of AMX here")
@pytest.mark.parametrize(
    ("name", "algorithm"),
    [*((name, "direct") for name in ["stem", *TILED]), ("neighbours, tiles", "winograd")],
)
def test_tiles_are_as_exact_as_multiply_adds(name: str, algorithm: str) -> None:
    case = CASES[name]
    exact = expected(case, DTYPES[0], np.float64)
    before = _cpu.active_isa()
    results = []
    try:
        for isa in ("avx512_bf16", "avx512_amx"):
            _cpu.set_isa(isa)
            results.append(convolve(case, DTYPES[0], algorithm=algorithm))
    finally:
        _cpu.set_isa(before)
    assert np.any(results[0] != results[1])
    errors = [float(np.sqrt(np.mean((y - exact) ** 2))) for y in results]
    assert errors[1] <= errors[0]


@pytest.mark.usefixtures("isa")
class TestArrays:
    @pytest.mark.parametrize("layout", LAYOUTS)
    @pytest.mark.parametrize("dtype", DTYPES, ids=str)
    @pytest.mark.parametrize("name", ["dense", "stem", "depthwise", "patches", *TILED])
    def test_any_strides(self, name: str, dtype: np.dtype[Any], layout: str) -> None:
        case = CASES[name]
        x, weight, bias = inputs(case, dtype)
        x = laid_out(x, layout)
        options = {"layout": layout, **case.options}
        whole = conv3d(x, weight, bias, **options)
        for order in ((0, 2, 3, 4, 1), (0, 4, 1, 2, 3), (4, 3, 2, 1, 0)):
            back = np.argsort(order)
            moved, moved_weight = (
                np.ascontiguousarray(a.transpose(order)).transpose(back) for a in (x, weight)
            )
            out = np.zeros(np.array(whole.shape)[list(order)], dtype).transpose(back)
            assert conv3d(moved, moved_weight, bias, out=out, **options) is out
            np.testing.assert_array_equal(out, whole)

    @pytest.mark.parametrize("layout", LAYOUTS)
    @pytest.mark.parametrize("name", ["dense", "stem", "depthwise", "patches", *TILED])
    def test_parts_of_arrays(self, name: str, layout: str) -> None:
        """Every second item, backwards: nothing between is read or written."""
        case = CASES[name]
        x, weight, bias = inputs(case, DTYPES[0])
        x = laid_out(x, layout)
        options = {"layout": layout, **case.options}
        whole = conv3d(x, weight, bias, **options)
        every_second = (slice(None, None, 2),) * 5
        larger = np.full([2 * n for n in x.shape], np.nan, np.float32)
        part = larger[every_second][:, ::-1, ::-1, ::-1, ::-1]
        part[:] = x
        wide = np.full([2 * n for n in whole.shape], np.nan, np.float32)
        out = wide[every_second][:, :, ::-1, :, ::-1]
        large_weight = np.full([2 * n for n in weight.shape], np.nan, np.float32)
        part_weight = large_weight[every_second][::-1, :, :, ::-1]
        part_weight[:] = weight
        conv3d(part, part_weight, bias, out=out, **options)
        np.testing.assert_array_equal(out, whole)
        assert np.isnan(wide).sum() == wide.size - whole.size

    def test_one_value_everywhere(self) -> None:
        """Strides of zero."""
        x = np.broadcast_to(np.float32(2), (1, 3, 4, 5, 6))
        weight = np.broadcast_to(np.float32(0.5), (8, 3, 2, 2, 2))
        np.testing.assert_array_equal(conv3d(x, weight), np.full((1, 8, 3, 4, 5), 24))

    @pytest.mark.parametrize("dtype", DTYPES, ids=str)
    @pytest.mark.parametrize("kernel", [(1, 1, 1), (3, 1, 1), (1, 3, 3)])
    def test_one_image_for_all_channels(
        self, kernel: tuple[int, ...], dtype: np.dtype[Any], rng: np.random.Generator
    ) -> None:
        """A stride of zero from one channel to the next."""
        image = rng.standard_normal((1, 1, 3, 4, 16)).astype(dtype)
        x = np.broadcast_to(image, (1, 5, 3, 4, 16))
        weight = rng.standard_normal((7, 5, *kernel)).astype(dtype)
        np.testing.assert_array_equal(conv3d(x, weight), conv3d(np.array(x), weight))

    @pytest.mark.parametrize("layout", LAYOUTS)
    @pytest.mark.parametrize("dtype", DTYPES, ids=str)
    def test_empty(self, dtype: np.dtype[Any], layout: str) -> None:
        def y(x_shape: tuple[int, ...], weight_shape: tuple[int, ...], **options: Any) -> Any:
            x = laid_out(np.ones(x_shape, dtype), layout)
            bias = np.full(weight_shape[0], 2, dtype)
            result = conv3d(x, np.ones(weight_shape, dtype), bias, layout=layout, **options)
            return in_ncthw(result, layout)

        assert y((0, 3, 4, 5, 6), (8, 3, 1, 3, 3)).shape == (0, 8, 4, 3, 4)
        assert y((1, 3, 4, 5, 6), (0, 3, 1, 3, 3)).shape == (1, 0, 4, 3, 4)
        assert y((1, 3, 0, 5, 6), (8, 3, 1, 3, 3)).shape == (1, 8, 0, 3, 4)
        for shape in ((0, 5, 6), (4, 0, 6), (4, 5, 0)):
            assert y((1, 3, *shape), (8, 3, 1, 1, 1)).shape == (1, 8, *shape)
            assert y((1, 3, *shape), (3, 1, 1, 1, 1), groups=3).shape == (1, 3, *shape)
        # A sum of nothing, and the bias.
        np.testing.assert_array_equal(
            y((1, 0, 4, 5, 6), (8, 0, 1, 3, 3)), np.full((1, 8, 4, 3, 4), 2)
        )
        np.testing.assert_array_equal(
            y((1, 3, 0, 5, 6), (8, 3, 1, 3, 3), padding=1), np.full((1, 8, 2, 5, 6), 2)
        )

    def test_indices_beyond_32_bits(self) -> None:
        """Frames 2**31 items apart; what lies between is never touched."""
        apart = 2**31 + 64
        memory = np.empty(2 * apart + 64, np.float32)
        item = memory.itemsize
        x = as_strided(memory, (1, 1, 3, 4, 5), (0, 0, item * apart, item * 5, item))
        x[:] = np.arange(60).reshape(x.shape)
        weight = np.ones((1, 1, 2, 3, 3), np.float32)
        for options in ({}, {"algorithm": "direct"}):
            np.testing.assert_array_equal(conv3d(x, weight, **options), conv3d(x.copy(), weight))

    def test_errors_name_the_argument(self) -> None:
        x, weight = np.ones((2, 6, 4, 5, 6), np.float32), np.ones((4, 6, 3, 3, 3), np.float32)
        wrong: list[tuple[tuple[Any, ...], dict[str, Any], type[Exception], str]] = [
            ((x[0], weight), {}, ValueError, "x: expected"),
            ((x.tolist(), weight), {}, TypeError, "x: expected an array"),
            ((x.astype(np.uint8), weight.astype(np.uint8)), {}, TypeError, "weight: expected"),
            ((x, weight[0]), {}, ValueError, "weight: expected"),
            ((x, weight[:, :5]), {}, ValueError, "x: expected 5 channels"),
            ((x, weight), {"groups": 2}, ValueError, "x: expected 12 channels"),
            ((x, weight[:3, :3]), {"groups": 2}, ValueError, "(weight|groups): expected"),
            ((x, weight), {"groups": 0}, ValueError, "groups: expected"),
            ((x.astype(np.float64), weight), {}, TypeError, "x: expected float32"),
            ((x, weight, np.ones(5, np.float32)), {}, ValueError, "bias: expected"),
            ((x, weight, np.ones(4)), {}, TypeError, "bias: expected"),
            ((x, weight), {"stride": 0}, ValueError, "stride: expected"),
            ((x, weight), {"stride": (1, 2)}, ValueError, "stride: expected"),
            ((x, weight), {"stride": 1.5}, TypeError, "stride: expected"),
            ((x, weight), {"dilation": (1, 1, 0)}, ValueError, "dilation: expected"),
            ((x, weight), {"padding": -1}, ValueError, "padding: expected"),
            ((x, weight), {"padding": "full"}, ValueError, "padding: expected"),
            ((x, weight), {"padding": ((1, 2, 3),) * 3}, ValueError, "padding: expected"),
            ((x, weight), {"padding": "same", "stride": 2}, ValueError, "padding: expected"),
            ((x, weight), {"dilation": 3}, ValueError, "(weight|x): expected"),
            ((x, weight), {"layout": "NHWC"}, ValueError, "layout: expected"),
            ((x, weight), {"activation": "tanh"}, ValueError, "activation: expected"),
            ((x, weight), {"algorithm": "fft"}, ValueError, "algorithm: expected"),
            ((x, weight[..., :2]), {"algorithm": "winograd"}, ValueError, "algorithm: expected"),
            ((x, weight), {"out": np.ones((2, 4, 2, 3, 3), "f4")}, ValueError, "out: expected"),
            ((x, weight), {"out": np.ones((2, 4, 2, 3, 4))}, TypeError, "out: expected"),
            ((x, weight), {"out": x[:, :4, :2, :3, :4]}, ValueError, "out: expected"),
        ]
        for arguments, options, error, match in wrong:
            with pytest.raises(error, match=rf"\[marey.conv3d\] {match}"):
                conv3d(*arguments, **options)


@pytest.mark.usefixtures("isa")
class TestConv3d:
    @pytest.mark.parametrize("layout", LAYOUTS)
    @pytest.mark.parametrize("dtype", DTYPES, ids=str)
    @pytest.mark.parametrize("name", ["dense", "stem", "depthwise", "groups", "patches", "gelu"])
    def test_is_the_function(self, name: str, dtype: np.dtype[Any], layout: str) -> None:
        case = CASES[name]
        x, weight, bias = inputs(case, dtype)
        x, once = laid_out(x, layout), weight.copy()
        layer = Conv3d(once, bias, layout=layout, **case.options)
        once[:] = 0  # the weights are its own
        whole = convolve(case, dtype, layout)
        for _ in range(2):
            np.testing.assert_array_equal(layer(x), whole)
        out = np.zeros_like(whole)
        assert layer(x, out=out) is out
        np.testing.assert_array_equal(out, whole)
        assert layer(np.concatenate([x, x])).shape[0] == 2 * len(x)

    def test_workspace_is_bounded(self) -> None:
        """More of a video takes no more workspace."""
        for name in ("dense, many", "stem", "depthwise", "pointwise"):
            case = CASES[name]
            _, weight, bias = inputs(case, DTYPES[0])
            layer = Conv3d(weight, bias, **case.options)
            assert layer.packed_bytes >= weight.nbytes
            with config.threads(2):
                small = layer.workspace((1, case.C, 16, 56, 56))
                assert layer.workspace((8, case.C, 160, 56, 56)) <= 2 * small
                assert small <= 2 * (8 << 20)


class TestInflate:
    @pytest.mark.parametrize("dtype", DTYPES, ids=str)
    @pytest.mark.parametrize("mode", ["mean", "centre"])
    @pytest.mark.parametrize("time", [1, 2, 3, 7])
    def test_against_the_reference(self, dtype: np.dtype[Any], mode: Any, time: int) -> None:
        weight = np.random.default_rng(0).standard_normal((4, 3, 3, 5)).astype(dtype)
        actual = inflate(weight, time, mode)
        assert actual.dtype == dtype
        exact = reference.inflate(weight, time, mode, dtype=np.longdouble)
        np.testing.assert_allclose(actual.astype(np.longdouble), exact, rtol=_half_ulp(dtype))

    @pytest.mark.parametrize("time", [1, 2, 4, 8])
    def test_a_still_video_gives_the_response_in_two_dimensions(
        self, time: int, rng: np.random.Generator
    ) -> None:
        """Exactly, for values whose sums are exact in any order."""
        weight = rng.integers(-8, 9, (4, 3, 3, 3)).astype(np.float32)
        frame = rng.integers(-8, 9, (1, 3, 1, 6, 7)).astype(np.float32)
        flat = conv3d(frame, weight[:, :, None], algorithm="direct")
        video = np.repeat(frame, time, 2)
        np.testing.assert_array_equal(
            conv3d(video, inflate(weight, time), algorithm="direct"), flat
        )

    def test_centre_gives_each_frame_its_response(self, rng: np.random.Generator) -> None:
        weight = rng.standard_normal((4, 3, 3, 3))
        video = rng.standard_normal((1, 3, 5, 6, 7))
        frames = conv3d(video, weight[:, :, None])
        inflated = inflate(weight, 3, "centre")
        np.testing.assert_allclose(conv3d(video, inflated, padding=(1, 0, 0)), frames, rtol=1e-12)

    def test_errors_name_the_argument(self) -> None:
        weight = np.ones((4, 3, 3, 3), np.float32)
        for arguments, error, match in [
            ((weight[0], 3), ValueError, r"weight2d: expected shape \(K, C / groups, kH, kW\)"),
            ((weight.astype(int), 3), TypeError, "weight2d: expected float32"),
            ((weight.tolist(), 3), TypeError, "weight2d: expected an array"),
            ((weight, 0), ValueError, "time: expected 1 or more"),
            ((weight, 2.0), TypeError, "time: expected an integer"),
            ((weight, 3, "center"), ValueError, "mode: expected 'mean' or 'centre'"),
        ]:
            with pytest.raises(error, match=rf"\[marey.inflate\] {match}"):
                inflate(*arguments)  # type: ignore[arg-type]


def _half_ulp(dtype: np.dtype[Any]) -> float:
    """Relative, with a little room."""
    return 0.51 * float(2.0**-7 if dtype == BFLOAT16 else np.finfo(dtype).eps)


def test_the_cases_are_what_they_are_called() -> None:
    """Every case has a result, and no two are the same."""
    assert len(set(CASES.values())) == len(CASES)
    for case in CASES.values():
        assert expected(case, DTYPES[0], np.float64).size > 0
