"""Causal and separable convolution."""

from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from conv_cases import BFLOAT16, DTYPES, LAYOUTS, Case, assert_agrees, in_ncthw, inputs, laid_out
from hypothesis import given
from hypothesis import strategies as st
from marey import config
from marey.conv import CausalConv3d, causal_conv3d, conv3d, separable_conv3d
from marey.reference import conv as reference

CAUSAL = {
    "dense": Case(17, 33, (3, 3, 3), (9, 7, 17), padding=(0, 1, 1)),
    "many": Case(64, 40, (3, 3, 3), (5, 7, 7), padding=(0, 1, 1), N=2),
    "temporal": Case(17, 7, (5, 1, 1), (11, 3, 7)),
    "temporal, longer rows": Case(17, 7, (3, 1, 1), (5, 4, 17), dilation=(2, 1, 1)),
    "one step": Case(5, 7, (1, 3, 3), (4, 5, 7)),
    "dilation": Case(5, 7, (3, 3, 1), (13, 5, 7), dilation=(4, 1, 1), activation="relu"),
    "stride": Case(3, 7, (2, 3, 3), (5, 9, 11), stride=(1, 2, 2), padding=(0, 1, 1)),
    "groups": Case(6, 9, (3, 3, 3), (5, 5, 7), groups=3, padding=(0, 1, 1), N=2),
    "depthwise": Case(19, 19, (3, 3, 3), (7, 5, 7), groups=19, padding=(0, 1, 1)),
    "temporal, tiles": Case(64, 65, (3, 1, 1), (6, 2, 16)),
    "dense, tiles": Case(32, 64, (2, 3, 3), (5, 6, 9), padding=(0, 1, 1), stride=(1, 2, 2)),
    "depthwise, long rows": Case(19, 19, (3, 3, 3), (7, 5, 26), groups=19, padding=(0, 1, 1)),
    "depthwise, wide": Case(
        5, 5, (3, 3, 3), (4, 15, 67), groups=5, padding=(0, 2, 0), activation="relu"
    ),
    "depthwise, nothing outside": Case(
        5, 5, (2, 3, 3), (4, 8, 21), groups=5, activation="gelu", N=2
    ),
    "longer than the clip": Case(4, 5, (9, 1, 1), (3, 2, 5)),
}


def clip(case: Case, dtype: np.dtype[Any], layout: str) -> tuple[Any, Any, Any, dict[str, Any]]:
    x, weight, bias = inputs(case, dtype)
    return laid_out(x, layout), weight, bias, {"layout": layout, **case.options}


def frames(x: Any, layout: str, begin: int, end: int) -> Any:
    return x[:, begin:end] if layout == "NTHWC" else x[:, :, begin:end]


@pytest.mark.usefixtures("isa")
class TestCausal:
    @pytest.mark.parametrize("layout", LAYOUTS)
    @pytest.mark.parametrize("dtype", DTYPES, ids=str)
    @pytest.mark.parametrize("name", CAUSAL)
    def test_against_the_sum(self, name: str, dtype: np.dtype[Any], layout: str) -> None:
        case = CAUSAL[name]
        x, weight, bias, options = clip(case, dtype, layout)
        y, state = causal_conv3d(x, weight, bias, **options)
        assert y.dtype == state.dtype == dtype

        def compute(compute_dtype: type) -> Any:
            exact, _ = reference.causal_conv3d(x, weight, bias, **options, dtype=compute_dtype)
            return in_ncthw(exact, layout)

        assert_agrees(in_ncthw(y, layout), compute, "conv")
        _, kept = reference.causal_conv3d(x, weight, bias, **options)
        np.testing.assert_array_equal(state.astype(float), kept)

    @pytest.mark.parametrize("layout", LAYOUTS)
    @pytest.mark.parametrize("name", CAUSAL)
    def test_is_a_convolution_padded_in_front(self, name: str, layout: str) -> None:
        case = CAUSAL[name]
        x, weight, bias, options = clip(case, DTYPES[0], layout)
        y, _ = causal_conv3d(x, weight, bias, **options)
        _, pH, pW = reference._triple(case.padding)
        dT = reference._triple(case.dilation)[0]
        options["padding"] = (((case.kernel[0] - 1) * dT, 0), (pH, pH), (pW, pW))
        np.testing.assert_array_equal(y, conv3d(x, weight, bias, **options))

    @pytest.mark.parametrize("layout", LAYOUTS)
    @pytest.mark.parametrize("dtype", DTYPES, ids=str)
    @pytest.mark.parametrize("name", [name for name in CAUSAL if name.startswith("depthwise")])
    def test_frames_one_by_one_are_the_clip(
        self, name: str, dtype: np.dtype[Any], layout: str
    ) -> None:
        x, weight, bias, options = clip(CAUSAL[name], dtype, layout)
        whole, last = causal_conv3d(x, weight, bias, **options)
        state = None
        for t in range(CAUSAL[name].size[0]):
            y, state = causal_conv3d(
                frames(x, layout, t, t + 1), weight, bias, state=state, **options
            )
            np.testing.assert_array_equal(y, frames(whole, layout, t, t + 1))
        np.testing.assert_array_equal(state, last)

    @given(data=st.data(), name=st.sampled_from(list(CAUSAL)), layout=st.sampled_from(LAYOUTS))
    def test_any_chunking_gives_one_result(
        self, data: st.DataObject, name: str, layout: str
    ) -> None:
        """Chunks of no frames too."""
        case = CAUSAL[name]
        dtype = data.draw(st.sampled_from(DTYPES))
        x, weight, bias, options = clip(case, dtype, layout)
        whole, last = causal_conv3d(x, weight, bias, **options)
        T = case.size[0]
        cuts = data.draw(st.lists(st.integers(0, T), max_size=T))
        edges = [0, *sorted(cuts), T]
        state, results = None, []
        for begin, end in pairwise(edges):
            chunk = frames(x, layout, begin, end)
            y, state = causal_conv3d(chunk, weight, bias, state=state, **options)
            results.append(y)
        joined = np.concatenate(results, 1 if layout == "NTHWC" else 2)
        np.testing.assert_array_equal(joined, whole)
        np.testing.assert_array_equal(state, last)

    def test_the_state_is_the_callers(self) -> None:
        """It is not written to, may lie anywhere, and can be saved and used again."""
        case = CAUSAL["dense"]
        x, weight, bias, options = clip(case, DTYPES[0], "NCTHW")
        whole, _ = causal_conv3d(x, weight, bias, **options)
        _, state = causal_conv3d(x[:, :, :4], weight, bias, **options)
        saved = state.copy()
        scattered = np.full([2 * n for n in state.shape], np.nan, state.dtype)
        part = scattered[(slice(None, None, 2),) * 5][:, :, :, ::-1]
        part[:] = saved
        for _ in range(2):
            for given_state in (state, part):
                y, _ = causal_conv3d(x[:, :, 4:], weight, bias, state=given_state, **options)
                np.testing.assert_array_equal(y, whole[:, :, 4:])
        np.testing.assert_array_equal(state, saved)

    @pytest.mark.parametrize("layout", LAYOUTS)
    @pytest.mark.parametrize("name", ["dense", "many", "dilation", "longer than the clip"])
    def test_no_state_changes_while_a_stream_goes_on(self, name: str, layout: str) -> None:
        """Though they share frames: any may be kept, and be gone on from more than once."""
        case = CAUSAL[name]
        x, weight, bias, options = clip(case, DTYPES[0], layout)
        conv = CausalConv3d(weight, bias, **options)
        whole, last = conv(x)
        T = case.size[0]
        states = [conv(frames(x, layout, 0, 0))[1]]
        saved = [states[0].copy()]
        for t in range(T):
            _, state = conv(frames(x, layout, t, t + 1), states[-1])
            states.append(state)
            saved.append(state.copy())
        with pytest.raises(ValueError, match="read-only"):
            state[:] = 0
        for t in (0, T // 2, 1):  # again from there, keeping the branch
            state = states[t]
            for frame in range(t, T):
                y, state = conv(frames(x, layout, frame, frame + 1), state)
                expected = frames(whole, layout, frame, frame + 1)
                np.testing.assert_array_equal(y, expected)
                states.append(state)
                saved.append(state.copy())
            np.testing.assert_array_equal(state, last)
        for state, expected in zip(states, saved, strict=True):
            np.testing.assert_array_equal(state, expected)

    def test_a_long_stream_goes_round_in_three_frames(self) -> None:
        """Where states have two; the last frame of one state is the first of the next."""
        conv = CausalConv3d(np.ones((1, 1, 3, 1, 1), np.float32))
        x = np.ones((1, 1, 1, 4, 4), np.float32)
        _, state = conv(x)
        places = [[state[:, :, i].__array_interface__["data"][0] for i in (0, 1)]]
        for _ in range(30):
            _, state = conv(x, state)
            places.append([state[:, :, i].__array_interface__["data"][0] for i in (0, 1)])
            assert places[-1][0] == places[-2][1]
        assert len({first for first, _ in places}) == 3
        np.testing.assert_array_equal(state, 1)

    def test_states_of_torch_lie_forwards(self) -> None:
        """It has no arrays that lie in the reverse order."""
        torch = pytest.importorskip("torch")
        x, weight, bias, options = clip(CAUSAL["dense"], DTYPES[0], "NCTHW")
        conv = CausalConv3d(weight, bias, **options)
        whole, _ = conv(x)
        state = None
        for t in range(x.shape[2]):
            y, state = conv(torch.from_numpy(x[:, :, t : t + 1].copy()), state)
            np.testing.assert_array_equal(y.numpy(), whole[:, :, t : t + 1])

    def test_the_state_is_no_view_of_the_video(self) -> None:
        """So that a decoder may write the next frame into the same memory."""
        case = CAUSAL["dense"]
        x, weight, bias, options = clip(case, DTYPES[0], "NCTHW")
        frame = np.empty_like(x[:, :, :1])
        state, results = None, []
        for t in range(case.size[0]):
            frame[:] = x[:, :, t : t + 1]
            y, state = causal_conv3d(frame, weight, bias, state=state, **options)
            results.append(y)
        whole, _ = causal_conv3d(x, weight, bias, **options)
        np.testing.assert_array_equal(np.concatenate(results, 2), whole)

    def test_threads_change_nothing(self) -> None:
        x, weight, bias, options = clip(CAUSAL["many"], DTYPES[0], "NTHWC")
        whole, _ = causal_conv3d(x, weight, bias, **options)
        with config.threads(1):
            np.testing.assert_array_equal(causal_conv3d(x, weight, bias, **options)[0], whole)

    @pytest.mark.parametrize("layout", LAYOUTS)
    @pytest.mark.parametrize("rows", [1, 5, 9, 17, 161])
    def test_any_number_of_threads_shares_the_rows(self, rows: int, layout: str) -> None:
        """Shares that are not all as long, more threads than rows, spans in several caches."""
        rng = np.random.default_rng(rows)
        weight = rng.standard_normal((16, 16, 3, 3, 3)).astype(np.float32)
        x = rng.standard_normal((1, 16, 3, rows, 12)).astype(np.float32)
        x = np.ascontiguousarray(np.moveaxis(x, 1, -1)) if layout == "NTHWC" else x
        for algorithm in ("direct", "winograd"):
            conv = CausalConv3d(weight, padding=(0, 1, 1), layout=layout, algorithm=algorithm)
            results = []
            for threads in (1, 2, 3, 9, 17):
                with config.threads(threads):
                    first, state = conv(frames(x, layout, 0, 1))
                    rest, state = conv(frames(x, layout, 1, 3), state)
                    results.append((first, rest, state))
            for result in results[1:]:
                for found, expected in zip(result, results[0], strict=True):
                    np.testing.assert_array_equal(found, expected)

    def test_errors_name_the_argument(self) -> None:
        x = np.ones((2, 6, 4, 5, 6), np.float32)
        weight = np.ones((4, 6, 3, 3, 3), np.float32)
        state = np.ones((2, 6, 2, 5, 6), np.float32)
        wrong: list[tuple[tuple[Any, ...], dict[str, Any], type[Exception], str]] = [
            ((x[0], weight), {}, ValueError, "x: expected"),
            ((x, weight[0]), {}, ValueError, "weight: expected"),
            ((x, weight), {"state": state[:, :, :1]}, ValueError, "state: expected"),
            ((x, weight), {"state": state[..., :5]}, ValueError, "state: expected"),
            ((x, weight), {"state": state[0]}, ValueError, "state: expected"),
            ((x, weight), {"state": state.astype(np.float64)}, TypeError, "state: expected"),
            ((x, weight), {"state": state.tolist()}, TypeError, "state: expected an array"),
            ((x, weight), {"stride": (2, 1, 1)}, ValueError, "stride: expected"),
            ((x, weight), {"padding": (1, 1, 1)}, ValueError, "padding: expected"),
            ((x, weight), {"layout": "NHWC"}, ValueError, "layout: expected"),
        ]
        for arguments, options, error, match in wrong:
            with pytest.raises(error, match=rf"\[marey.causal_conv3d\] {match}"):
                causal_conv3d(*arguments, **options)


# Channels, filters between, filters; spatial kernel, temporal kernel; size; stride and padding.
SEPARABLE: dict[str, tuple[tuple[int, int, int], Any, int, Any, dict[str, Any]]] = {
    "R(2+1)D": ((17, 40, 33), (3, 3), 3, (4, 7, 9), {"padding": 1, "activation": "relu"}),
    "many": ((64, 144, 64), (3, 3), 3, (3, 5, 7), {"padding": 1}),
    "stride": ((5, 7, 9), (3, 3), 3, (7, 9, 11), {"stride": 2, "padding": 1}),
    "stem": ((3, 45, 16), (7, 7), 3, (5, 17, 19), {"stride": (1, 2, 2), "padding": (1, 3, 3)}),
    "even": ((2, 3, 4), (2, 4), 2, (5, 7, 9), {"activation": "silu"}),
    "ones": ((3, 5, 7), (1, 1), 1, (2, 3, 5), {"activation": "gelu"}),
    "long": ((3, 4, 5), (1, 3), 9, (17, 3, 5), {"padding": (4, 0, 1)}),
}


def parts(name: str, dtype: np.dtype[Any], layout: str) -> tuple[list[Any], dict[str, Any]]:
    (C, M, K), (kH, kW), kT, size, options = SEPARABLE[name]
    rng = np.random.default_rng(3)
    x = laid_out(rng.standard_normal((2, C, *size)), layout)
    spatial = rng.standard_normal((M, C, 1, kH, kW)) / np.sqrt(C * kH * kW)
    temporal = rng.standard_normal((K, M, kT, 1, 1)) / np.sqrt(M * kT)
    biases = rng.standard_normal(M), rng.standard_normal(K)
    arrays = [a.astype(dtype) for a in (x, spatial, temporal, *biases)]
    return arrays, {"layout": layout, **options}


@pytest.mark.usefixtures("isa")
class TestSeparable:
    @pytest.mark.parametrize("layout", LAYOUTS)
    @pytest.mark.parametrize("dtype", DTYPES, ids=str)
    @pytest.mark.parametrize("name", SEPARABLE)
    def test_against_the_two_sums(self, name: str, dtype: np.dtype[Any], layout: str) -> None:
        arrays, options = parts(name, dtype, layout)
        y = separable_conv3d(*arrays, **options)
        assert y.dtype == dtype
        compute = partial(_separable, arrays, options)
        if dtype == BFLOAT16:
            # What stands between the two is rounded to bfloat16, or not: either is right.
            exact = compute(np.float64)
            size = float(np.abs(exact).max())
            np.testing.assert_allclose(
                in_ncthw(y, layout).astype(float), exact, rtol=2**-7, atol=2**-6 * size
            )
        else:
            assert_agrees(in_ncthw(y, layout), compute, "conv")

    @pytest.mark.parametrize("layout", LAYOUTS)
    def test_without_biases(self, layout: str) -> None:
        arrays, options = parts("R(2+1)D", DTYPES[0], layout)
        y = separable_conv3d(*arrays[:3], **options)
        compute = partial(_separable, arrays[:3], options)
        assert_agrees(in_ncthw(y, layout), compute, "conv")

    @pytest.mark.parametrize("layout", LAYOUTS)
    def test_threads_and_out(self, layout: str) -> None:
        arrays, options = parts("many", DTYPES[0], layout)
        whole = separable_conv3d(*arrays, **options)
        out = np.zeros_like(whole)
        with config.threads(1):
            assert separable_conv3d(*arrays, out=out, **options) is out
        np.testing.assert_array_equal(out, whole)

    @pytest.mark.parametrize("dtype", DTYPES, ids=str)
    def test_any_strides(self, dtype: np.dtype[Any]) -> None:
        arrays, options = parts("stride", dtype, "NCTHW")
        x, *others = arrays
        whole = separable_conv3d(x, *others, **options)
        for order in ((0, 2, 3, 4, 1), (4, 3, 2, 1, 0)):
            moved = np.ascontiguousarray(x.transpose(order)).transpose(np.argsort(order))
            np.testing.assert_array_equal(separable_conv3d(moved, *others, **options), whole)

    def test_empty(self) -> None:
        arrays, options = parts("R(2+1)D", DTYPES[0], "NCTHW")
        x, *others = arrays
        whole = separable_conv3d(x, *others, **options)
        assert separable_conv3d(x[:0], *others, **options).shape == (0, *whole.shape[1:])

    def test_errors_name_the_argument(self) -> None:
        arrays, options = parts("R(2+1)D", DTYPES[0], "NCTHW")
        x, spatial, temporal, _, _ = arrays
        wrong: list[tuple[tuple[Any, ...], dict[str, Any], type[Exception], str]] = [
            ((x[0], spatial, temporal), {}, ValueError, "x: expected"),
            ((x, spatial[0], temporal), {}, ValueError, "spatial_weight: expected"),
            ((x, temporal, temporal), {}, ValueError, "spatial_weight: expected"),
            ((x, spatial, spatial), {}, ValueError, "temporal_weight: expected"),
            ((x, spatial, temporal[:, :5]), {}, ValueError, "temporal_weight: expected"),
            ((x, spatial, temporal.astype(np.float64)), {}, TypeError, "temporal_weight: expected"),
            ((x, spatial, temporal), {"activation": "tanh"}, ValueError, "activation: expected"),
            ((x, spatial, temporal), {"stride": 0}, ValueError, "stride: expected"),
        ]
        for arguments, changed, error, match in wrong:
            with pytest.raises(error, match=rf"\[marey.separable_conv3d\] {match}"):
                separable_conv3d(*arguments, **{**options, **changed})


def _separable(arrays: list[Any], options: dict[str, Any], dtype: type) -> Any:
    y = reference.separable_conv3d(*arrays, **options, dtype=dtype)
    return in_ncthw(y, options["layout"])
