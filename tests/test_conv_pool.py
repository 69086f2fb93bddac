"""Pooling over space and time."""

from functools import lru_cache
from typing import Any

import numpy as np
import pytest
from conv_cases import BFLOAT16, DTYPES, LAYOUTS, assert_agrees, in_ncthw, laid_out
from hypothesis import assume, given
from hypothesis import strategies as st
from marey import config
from marey.conv import avg_pool3d, global_avg_pool3d, max_pool3d
from marey.reference import conv as reference
from numpy.lib.stride_tricks import as_strided

pytestmark = pytest.mark.no_bf16

# Name: channels, size of x, then the arguments of both functions.
CASES: dict[str, tuple[int, tuple[int, int, int], dict[str, Any]]] = {
    "everything 1": (1, (1, 1, 1), {"kernel": 1}),
    "default stride": (5, (4, 6, 8), {"kernel": 2}),
    "pairs along width": (3, (4, 6, 47), {"kernel": 2}),
    "one value of each window": (3, (4, 7, 9), {"kernel": 1, "stride": (2, 3, 4)}),
    "stem": (17, (3, 17, 19), {"kernel": (1, 3, 3), "stride": (1, 2, 2), "padding": (0, 1, 1)}),
    "same size": (7, (4, 7, 17), {"kernel": 3, "stride": 1, "padding": 1}),
    "along time": (5, (9, 3, 17), {"kernel": (3, 1, 1), "stride": (2, 1, 1), "padding": (1, 0, 0)}),
    "along height": (5, (3, 17, 7), {"kernel": (1, 5, 1), "stride": (1, 3, 1)}),
    "along width": (5, (2, 3, 97), {"kernel": (1, 1, 7), "stride": (1, 1, 3)}),
    "every second": (3, (2, 3, 97), {"kernel": (1, 2, 3), "stride": (1, 1, 2)}),
    "many channels": (97, (3, 5, 7), {"kernel": 2, "stride": (1, 2, 2)}),
    "boxes apart": (33, (5, 9, 11), {"kernel": 2, "stride": 3, "padding": 1}),
    "uneven padding": (4, (4, 5, 6), {"kernel": 3, "padding": ((2, 0), (0, 1), (1, 2))}),
    "ceil": (4, (5, 6, 7), {"kernel": 2, "stride": 2, "ceil_mode": True}),
    "ceil, padding": (4, (6, 8, 9), {"kernel": 3, "stride": 2, "padding": 1, "ceil_mode": True}),
    "ceil, not begun beyond": (
        2,
        (3, 3, 3),
        {"kernel": 2, "stride": 3, "padding": 1, "ceil_mode": True},
    ),
    "as large as x": (6, (4, 7, 9), {"kernel": (4, 7, 9)}),
    "larger than x": (6, (2, 3, 1), {"kernel": (4, 5, 3), "stride": 1, "padding": (1, 2, 1)}),
    "high": (2, (1, 97, 5), {"kernel": (2, 9, 2), "stride": (1, 2, 1), "padding": (1, 4, 1)}),
    "rows longer than the cache": (3, (3, 9, 2500), {"kernel": 3, "stride": 1, "padding": 1}),
}


@lru_cache(maxsize=128)
def video(C: int, size: tuple[int, int, int], dtype: np.dtype[Any]) -> Any:
    rng = np.random.default_rng([C, *size])
    x = rng.standard_normal((2, C, *size)).astype(dtype)
    x.flags.writeable = False
    return x


def check_max(x: Any, layout: str, **options: Any) -> None:
    y = max_pool3d(laid_out(x, layout), layout=layout, **options)
    exact = reference.max_pool3d(x, **options).astype(x.dtype)
    assert y.dtype == exact.dtype
    # As float64, because NumPy does not take NaN of bfloat16 for NaN.
    np.testing.assert_array_equal(in_ncthw(y, layout).astype(float), exact.astype(float))


def check_mean(x: Any, layout: str, **options: Any) -> None:
    y = avg_pool3d(laid_out(x, layout), layout=layout, **options)
    assert y.dtype == x.dtype
    assert_agrees(
        in_ncthw(y, layout),
        lambda dtype: reference.avg_pool3d(x, **options, dtype=dtype),
        "pool",
        scale=float(np.abs(x.astype(float)).max()),
    )


@st.composite
def options_that_fit(draw: st.DrawFn) -> tuple[int, Any, dict[str, Any]]:
    C = draw(st.sampled_from([1, 2, 7, 17, 64]))
    size = tuple(draw(st.sampled_from([1, 2, 5, 7, 17])) for _ in range(3))
    kernel = tuple(draw(st.integers(1, 4)) for _ in range(3))
    dilation = tuple(draw(st.integers(1, 3)) for _ in range(3))
    extent = [d * (k - 1) + 1 for k, d in zip(kernel, dilation, strict=True)]
    padding = tuple((draw(st.integers(0, e - 1)), draw(st.integers(0, e - 1))) for e in extent)
    assume(all(n + sum(p) >= e for n, p, e in zip(size, padding, extent, strict=True)))
    options: dict[str, Any] = {
        "kernel": kernel,
        "stride": tuple(draw(st.integers(1, 4)) for _ in range(3)),
        "padding": padding,
        "ceil_mode": draw(st.booleans()),
    }
    return C, size, {**options, "dilation": dilation}


@pytest.mark.usefixtures("isa")
class TestWindows:
    @pytest.mark.parametrize("layout", LAYOUTS)
    @pytest.mark.parametrize("dtype", DTYPES, ids=str)
    @pytest.mark.parametrize("name", CASES)
    def test_max(self, name: str, dtype: np.dtype[Any], layout: str) -> None:
        C, size, options = CASES[name]
        check_max(video(C, size, dtype), layout, **options)

    @pytest.mark.parametrize("layout", LAYOUTS)
    @pytest.mark.parametrize("dtype", DTYPES, ids=str)
    @pytest.mark.parametrize("count_include_pad", [True, False])
    @pytest.mark.parametrize("name", CASES)
    def test_mean(
        self, name: str, count_include_pad: bool, dtype: np.dtype[Any], layout: str
    ) -> None:
        C, size, options = CASES[name]
        x = video(C, size, dtype)
        check_mean(x, layout, count_include_pad=count_include_pad, **options)

    @given(drawn=options_that_fit(), dtype=st.sampled_from(DTYPES), layout=st.sampled_from(LAYOUTS))
    def test_max_with_options_together(self, drawn: Any, dtype: np.dtype[Any], layout: str) -> None:
        C, size, options = drawn
        check_max(video(C, size, dtype), layout, **options)

    @given(
        drawn=options_that_fit(),
        counted=st.booleans(),
        dtype=st.sampled_from(DTYPES),
        layout=st.sampled_from(LAYOUTS),
    )
    def test_mean_with_options_together(
        self, drawn: Any, counted: bool, dtype: np.dtype[Any], layout: str
    ) -> None:
        C, size, options = drawn
        check_mean(video(C, size, dtype), layout, count_include_pad=counted, **options)

    @pytest.mark.parametrize("dilation", [2, (1, 2, 3), (4, 1, 1)])
    @pytest.mark.parametrize("layout", LAYOUTS)
    def test_dilation(self, dilation: Any, layout: str) -> None:
        x = video(7, (9, 11, 19), DTYPES[0])
        check_max(x, layout, kernel=(2, 3, 2), stride=(1, 1, 2), dilation=dilation)
        check_max(x, layout, kernel=2, stride=2, padding=1, dilation=dilation, ceil_mode=True)

    def test_what_torch_documents_of_ceil_mode(self) -> None:
        """A window that would begin in the padding behind is left out."""
        x = np.arange(5, dtype=np.float32).reshape(1, 1, 1, 1, 5)
        row = {"kernel": (1, 1, 2), "stride": (1, 1, 2), "padding": (0, 0, 1)}
        assert max_pool3d(x, **row, ceil_mode=True).ravel().tolist() == [0, 2, 4]
        assert avg_pool3d(x, **row, ceil_mode=True).ravel().tolist() == [0, 1.5, 3.5]
        longer = np.arange(6, dtype=np.float32).reshape(1, 1, 1, 1, 6)
        assert max_pool3d(longer, **row, ceil_mode=True).ravel().tolist() == [0, 2, 4, 5]
        assert avg_pool3d(longer, **row).ravel().tolist() == [0, 1.5, 3.5, 2.5]


@pytest.mark.usefixtures("isa")
class TestNumbers:
    @pytest.mark.parametrize("layout", LAYOUTS)
    @pytest.mark.parametrize("dtype", DTYPES, ids=str)
    def test_nan_is_larger_than_any_number(self, dtype: np.dtype[Any], layout: str) -> None:
        for C, size in ((3, (3, 7, 37)), (19, (3, 5, 7))):
            x = video(C, size, dtype).copy()
            x[0, 1, 1, 2, 3] = np.nan
            x[1, 0, 0, 0] = np.inf
            x[1, 2] = -np.inf
            for options in (
                {"kernel": 3, "stride": 1, "padding": 1},
                {"kernel": 2, "stride": (1, 2, 2)},
                {"kernel": (1, 2, 3), "stride": (1, 1, 4)},
            ):
                check_max(x, layout, **options)

    def test_a_window_of_nothing(self) -> None:
        x = np.ones((1, 1, 1, 1, 2), np.float32)
        wide = {"kernel": (1, 1, 2), "padding": ((0, 0), (0, 0), (3, 3)), "dilation": (1, 1, 4)}
        assert max_pool3d(x, stride=1, **wide).ravel().tolist() == [1, -np.inf, -np.inf, 1]
        empty = np.ones((1, 2, 0, 3, 4), np.float32)
        options = {"kernel": (2, 1, 1), "stride": 1, "padding": (1, 0, 0)}
        assert np.isneginf(max_pool3d(empty, **options)).all()
        assert not avg_pool3d(empty, **options, count_include_pad=False).any()
        assert max_pool3d(empty, **options).shape == (1, 2, 1, 3, 4)

    @pytest.mark.parametrize("layout", LAYOUTS)
    def test_threads_change_nothing(self, layout: str) -> None:
        x = laid_out(video(33, (5, 17, 19), DTYPES[0]), layout)
        options = {"kernel": 3, "stride": (1, 2, 1), "padding": 1, "layout": layout}
        for pool in (max_pool3d, avg_pool3d):
            whole = pool(x, **options)
            for threads in (1, 7):
                with config.threads(threads):
                    np.testing.assert_array_equal(pool(x, **options), whole)


@pytest.mark.usefixtures("isa")
class TestGlobalMean:
    @pytest.mark.parametrize("layout", LAYOUTS)
    @pytest.mark.parametrize("dtype", DTYPES, ids=str)
    @pytest.mark.parametrize(
        ("C", "size"),
        [(1, (1, 1, 1)), (7, (1, 7, 7)), (97, (2, 3, 5)), (64, (17, 1, 1)), (3, (40, 33, 61))],
    )
    def test_against_the_mean(self, C: int, size: Any, dtype: np.dtype[Any], layout: str) -> None:
        x = video(C, size, dtype)
        y = global_avg_pool3d(laid_out(x, layout), layout=layout)
        assert y.dtype == dtype
        assert_agrees(
            y,
            lambda compute: reference.global_avg_pool3d(x, dtype=compute),
            "pool",
            scale=float(np.abs(x.astype(float)).max()),
        )
        out = np.zeros((C, 2), dtype).T
        assert global_avg_pool3d(laid_out(x, layout), layout=layout, out=out) is out
        np.testing.assert_array_equal(out, y)
        with config.threads(1):
            np.testing.assert_array_equal(global_avg_pool3d(laid_out(x, layout), layout=layout), y)

    @pytest.mark.parametrize("layout", LAYOUTS)
    def test_long_sums_lose_nothing(self, layout: str) -> None:
        """A plain float32 sum of a million items of 0.1 is off by a hundredth."""
        x = np.full((1, 1, 100, 100, 100), 0.1, np.float32)
        np.testing.assert_allclose(
            global_avg_pool3d(laid_out(x, layout), layout=layout), np.float32(0.1), rtol=5e-7
        )

    @pytest.mark.parametrize("order", [(0, 4, 3, 2, 1), (1, 0, 3, 4, 2), (0, 2, 3, 4, 1)])
    def test_any_strides(self, order: tuple[int, ...]) -> None:
        x = video(19, (5, 7, 9), DTYPES[0])
        moved = np.ascontiguousarray(x.transpose(order)).transpose(np.argsort(order))
        exact = reference.global_avg_pool3d(x)
        np.testing.assert_allclose(global_avg_pool3d(moved), exact, rtol=1e-6, atol=1e-7)
        np.testing.assert_allclose(
            global_avg_pool3d(x[:, ::2, ::-1, ::2, ::3]),
            reference.global_avg_pool3d(x[:, ::2, ::-1, ::2, ::3]),
            rtol=1e-6,
            atol=1e-7,
        )

    def test_nothing(self) -> None:
        assert global_avg_pool3d(np.ones((2, 3, 0, 4, 5), np.float32)).tolist() == [[0] * 3] * 2
        assert global_avg_pool3d(np.ones((0, 3, 2, 4, 5), np.float32)).shape == (0, 3)


@pytest.mark.usefixtures("isa")
class TestArrays:
    @pytest.mark.parametrize("layout", LAYOUTS)
    @pytest.mark.parametrize("dtype", DTYPES, ids=str)
    @pytest.mark.parametrize("pool", [max_pool3d, avg_pool3d])
    @pytest.mark.parametrize(
        "options",
        [
            {"kernel": 3, "stride": 1, "padding": 1},
            {"kernel": 2},
            {"kernel": (1, 3, 3), "stride": (1, 2, 3)},
            {"kernel": (3, 1, 1), "stride": 1},
        ],
        ids=str,
    )
    def test_any_strides(self, options: Any, pool: Any, dtype: np.dtype[Any], layout: str) -> None:
        x = laid_out(video(19, (4, 7, 9), dtype), layout)
        whole = pool(x, layout=layout, **options)

        def assert_same(actual: Any) -> None:
            """To the order of a sum, which depends on how windows are taken apart."""
            eps = 0.0 if pool is max_pool3d else 2.0**-7 if dtype == BFLOAT16 else 1e-6
            np.testing.assert_allclose(actual.astype(float), whole.astype(float), eps, eps)

        for order in ((0, 2, 3, 4, 1), (0, 4, 1, 2, 3), (4, 3, 2, 1, 0)):
            back = np.argsort(order)
            moved = np.ascontiguousarray(x.transpose(order)).transpose(back)
            out = np.zeros(np.array(whole.shape)[list(order)], dtype).transpose(back)
            assert pool(moved, layout=layout, out=out, **options) is out
            assert_same(out)
        larger = np.full([2 * n for n in x.shape], np.nan, dtype)
        part = larger[(slice(None, None, 2),) * 5][:, ::-1, ::-1, ::-1, ::-1]
        part[:] = x
        wide = np.full([2 * n for n in whole.shape], np.nan, dtype)
        out = wide[(slice(None, None, 2),) * 5][:, ::-1, :, :, ::-1]
        pool(part, layout=layout, out=out, **options)
        assert_same(out)
        assert np.isnan(wide.astype(float)).sum() == wide.size - whole.size

    def test_indices_beyond_32_bits(self) -> None:
        apart = 2**31 + 64
        memory = np.empty(2 * apart + 64, np.float32)
        item = memory.itemsize
        x = as_strided(memory, (1, 1, 3, 4, 5), (0, 0, item * apart, item * 5, item))
        x[:] = np.arange(60).reshape(x.shape)
        for pool in (max_pool3d, avg_pool3d):
            np.testing.assert_array_equal(pool(x, 2, 1), pool(x.copy(), 2, 1))
        np.testing.assert_array_equal(global_avg_pool3d(x), [[29.5]])

    def test_bfloat16_is_read_as_it_is(self) -> None:
        x = np.arange(-40, 40, dtype=np.float32).astype(BFLOAT16).reshape(1, 2, 2, 4, 5)
        assert max_pool3d(x, (2, 4, 5)).ravel().astype(float).tolist() == [-1, 39]

    def test_errors_name_the_argument(self) -> None:
        x = np.ones((2, 3, 4, 5, 6), np.float32)
        wrong: list[tuple[tuple[Any, ...], dict[str, Any], type[Exception], str]] = [
            ((x[0], 2), {}, ValueError, r"x: expected shape \(N, C, T, H, W\)"),
            ((x[0], 2), {"layout": "NTHWC"}, ValueError, r"x: expected shape \(N, T, H, W, C\)"),
            ((x.tolist(), 2), {}, TypeError, "x: expected an array"),
            ((x.astype(np.uint8), 2), {}, TypeError, "x: expected float32, float64 or bfloat16"),
            ((x, 0), {}, ValueError, "kernel: expected 1"),
            ((x, (2, 2)), {}, ValueError, "kernel: expected an integer, or three"),
            ((x, 2.0), {}, TypeError, "kernel: expected an integer"),
            ((x, 6), {}, ValueError, "kernel: expected at most the 4 that padded x has along T"),
            ((x, 2), {"stride": 0}, ValueError, "stride: expected 1"),
            ((x, 2), {"dilation": 0}, ValueError, "dilation: expected 1"),
            ((x, 2), {"padding": 2}, ValueError, "padding: expected less than the 2"),
            ((x, 2), {"padding": -1}, ValueError, "padding: expected 0"),
            ((x, 2), {"padding": "full"}, ValueError, "padding: expected 'same' or 'valid'"),
            ((x, 2), {"layout": "NHWC"}, ValueError, "layout: expected"),
            ((x, 2), {"out": np.ones((2, 3, 2, 2, 2), np.float32)}, ValueError, "out: expected"),
            ((x, 2), {"out": np.ones((2, 3, 2, 2, 3))}, TypeError, "out: expected float32"),
            ((x, 2), {"out": x[..., :2, :2, :3]}, ValueError, "out: expected memory"),
        ]
        for function in (max_pool3d, avg_pool3d):
            for arguments, options, error, match in wrong:
                with pytest.raises(error, match=rf"\[marey.{function.__name__}\] {match}"):
                    function(*arguments, **options)
        with pytest.raises(ValueError, match=r"\[marey.global_avg_pool3d\] x: expected shape"):
            global_avg_pool3d(x[0])
        with pytest.raises(ValueError, match=r"\[marey.global_avg_pool3d\] layout: expected"):
            global_avg_pool3d(x, layout="NHWC")  # type: ignore[arg-type]
