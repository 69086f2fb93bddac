"""Softmax attention that never stores the scores."""

from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from marey import config
from marey.attention import KVCache, attention, attention_varlen, space_time_attention
from marey.reference import attention as reference
from numpy.typing import NDArray
from tolerances import assert_close

DTYPES = [np.float32, np.float64]
LENGTHS = [1, 7, 97, 257, 1025]
Arrays = tuple[NDArray[Any], NDArray[Any], NDArray[Any]]


def inputs(
    rng: np.random.Generator,
    dtype: Any = np.float32,
    *,
    batch: tuple[int, ...] = (2,),
    h: int = 2,
    h_kv: int | None = None,
    L: int = 17,
    S: int | None = None,
    D: int = 32,
    Dv: int | None = None,
) -> Arrays:
    h_kv, S, Dv = h_kv or h, L if S is None else S, Dv or D
    shapes = [(*batch, h, L, D), (*batch, h_kv, S, D), (*batch, h_kv, S, Dv)]
    q, k, v = (rng.standard_normal(shape).astype(dtype) for shape in shapes)
    return q, k, v


def check(q: NDArray[Any], k: NDArray[Any], v: NDArray[Any], **options: Any) -> None:
    """Compare the result and the lse with the reference."""

    def compute(dtype: type) -> Any:
        return reference.attention(q, k, v, **options, return_lse=True, dtype=dtype)

    out, lse = attention(q, k, v, **options, return_lse=True)
    assert out.dtype == q.dtype
    assert_close(out, lambda dtype: compute(dtype)[0], "attention")
    exact = compute(np.float64)[1]
    np.testing.assert_array_equal(np.isneginf(lse), np.isneginf(exact))
    finite = np.isfinite(exact)
    assert_close(
        lse[finite],
        lambda dtype: compute(dtype)[1][finite],
        "attention",
        scale=1 + float(np.abs(exact[finite]).max(initial=0)),
    )


def check_bfloat16(q: NDArray[Any], k: NDArray[Any], v: NDArray[Any], **options: Any) -> None:
    """Compare with the reference: weights may be rounded to bfloat16, and the result is."""
    out, lse = attention(q, k, v, **options, return_lse=True)
    assert out.dtype == ml_dtypes.bfloat16
    assert lse.dtype == np.float32
    exact, exact_lse = reference.attention(q, k, v, **options, return_lse=True)
    weights = 2**-8 * reference.attention(q, k, np.abs(v), **options)  # eight bits, to nearest
    # The result is rounded where it lies, which may be above a power of two.
    half_ulp = np.spacing((np.abs(exact) + weights).astype(ml_dtypes.bfloat16)).astype(float) / 2
    assert np.all(np.abs(out.astype(float) - exact) <= 1.01 * half_ulp + weights + 1e-6)
    np.testing.assert_allclose(lse, exact_lse, rtol=1e-6, atol=1e-6)


@pytest.mark.usefixtures("isa")
class TestEquation:
    @pytest.mark.parametrize("dtype", DTYPES)
    @pytest.mark.parametrize("L", LENGTHS)
    @pytest.mark.parametrize("S", [1, 7, 257])
    def test_lengths(self, dtype: type, L: int, S: int, rng: np.random.Generator) -> None:
        check(*inputs(rng, dtype, L=L, S=S, batch=(1,)))

    @pytest.mark.parametrize("dtype", DTYPES)
    @pytest.mark.parametrize(("D", "Dv"), [(1, 1), (7, 17), (64, 64), (113, 5), (3, 130), (256, 8)])
    def test_head_sizes(self, dtype: type, D: int, Dv: int, rng: np.random.Generator) -> None:
        check(*inputs(rng, dtype, L=97, S=130, D=D, Dv=Dv))

    @pytest.mark.parametrize("L", [0, 1, 5])
    @pytest.mark.parametrize("S", [0, 1])
    def test_nothing_and_one(self, L: int, S: int, rng: np.random.Generator) -> None:
        q, k, v = inputs(rng, L=L, S=S)
        out, lse = attention(q, k, v, return_lse=True)
        if S == 0:
            np.testing.assert_array_equal(out, np.zeros_like(q))
            np.testing.assert_array_equal(lse, np.full(q.shape[:-1], -np.inf))
        else:
            np.testing.assert_allclose(out, np.broadcast_to(v, q.shape), rtol=1e-6)

    @given(data=st.data())
    def test_options_together(self, data: st.DataObject) -> None:
        rng = np.random.default_rng(data.draw(st.integers(0, 1000)))
        size = st.sampled_from([1, 2, 7, 17, 60, 129, 150])
        L, S = data.draw(size), data.draw(size)
        h_kv, group = data.draw(st.sampled_from([1, 2])), data.draw(st.sampled_from([1, 3]))
        dtype = data.draw(st.sampled_from([*DTYPES, ml_dtypes.bfloat16]))
        D, Dv = data.draw(st.sampled_from([(12, 9), (32, 32), (16, 33)]))
        arrays = inputs(rng, dtype, L=L, S=S, h=h_kv * group, h_kv=h_kv, D=D, Dv=Dv)
        layout = data.draw(st.sampled_from([(0, 1, 2, 3), (0, 2, 1, 3), (3, 1, 0, 2)]))
        q, k, v = (
            np.ascontiguousarray(x.transpose(layout)).transpose(np.argsort(layout)) for x in arrays
        )
        options: dict[str, Any] = {}
        causal = data.draw(st.sampled_from([False, True, "top_left", "bottom_right"]))
        sides = st.none() | st.integers(0, 40)
        window = data.draw(st.none() | st.integers(0, 40) | st.tuples(sides, sides))
        if L == S or causal in ("top_left", "bottom_right"):
            options |= {"causal": causal, "window": window}
        if data.draw(st.booleans()):
            shape = data.draw(
                st.sampled_from([(L, S), (2, 1, 1, S), (h_kv * group, L, 1), (*q.shape[:-1], S)])
            )
            options["mask"] = rng.random(shape) < 0.6
        if data.draw(st.booleans()):
            shape = data.draw(st.sampled_from([(L, S), (1, S), (2, 1, L, S)]))
            bias = rng.standard_normal(shape)
            kind = np.float64 if dtype is np.float64 else np.float32
            options["bias"] = np.where(rng.random(shape) < 0.1, -np.inf, bias).astype(kind)
        if data.draw(st.booleans()):
            options["softcap"] = data.draw(st.sampled_from([0.5, 20.0]))
        if data.draw(st.booleans()):
            options["scale"] = data.draw(st.sampled_from([-0.3, 0.0, 1.0]))
        if dtype is ml_dtypes.bfloat16:
            check_bfloat16(q, k, v, **options)
        else:
            check(q, k, v, **options)


@pytest.mark.usefixtures("isa")
class TestHeads:
    @pytest.mark.parametrize(("h", "h_kv"), [(4, 4), (4, 2), (6, 1)])
    @pytest.mark.parametrize("L", [1, 3, 50, 130])
    def test_grouped(self, h: int, h_kv: int, L: int, rng: np.random.Generator) -> None:
        q, k, v = inputs(rng, h=h, h_kv=h_kv, L=L, S=140)
        check(q, k, v, causal="bottom_right")

    def test_batch_axes(self, rng: np.random.Generator) -> None:
        check(*inputs(rng, batch=(2, 3, 2), L=7))
        check(*inputs(rng, batch=(), L=7))


@pytest.mark.usefixtures("isa")
class TestLimits:
    def test_true_needs_as_many_keys_as_queries(self, rng: np.random.Generator) -> None:
        q, k, v = inputs(rng, L=5, S=7)
        with pytest.raises(ValueError, match=r"\[marey.attention\] causal: expected 'top_left'"):
            attention(q, k, v, causal=True)
        with pytest.raises(ValueError, match=r"\[marey.attention\] causal: expected 'top_left'"):
            attention(q, k, v, window=2)

    @pytest.mark.parametrize("causal", ["top_left", "bottom_right"])
    @pytest.mark.parametrize(("L", "S"), [(300, 257), (257, 300), (1, 300), (300, 1), (129, 128)])
    def test_alignment(self, causal: str, L: int, S: int, rng: np.random.Generator) -> None:
        check(*inputs(rng, L=L, S=S), causal=causal)

    @pytest.mark.parametrize("window", [0, 5, (0, 3), (200, None), (None, 0), (3, 130)])
    def test_window(self, window: Any, rng: np.random.Generator) -> None:
        check(*inputs(rng, L=300), window=window)
        check(*inputs(rng, L=300), window=window, causal=True)

    def test_queries_with_nothing_to_attend_to_give_zeros(self, rng: np.random.Generator) -> None:
        q, k, v = inputs(rng, L=150, S=7)
        out, lse = attention(q, k, v, causal="bottom_right", return_lse=True)
        assert not out[..., :143, :].any()
        assert np.isneginf(lse[..., :143]).all()
        assert np.isfinite(lse[..., 143:]).all()
        mask = np.ones((150, 7), bool)
        mask[[0, 77]] = False
        out = attention(q, k, v, mask=mask)
        assert not out[..., [0, 77], :].any()
        assert out[..., 1:77, :].all()
        bias = np.where(mask, np.float32(0), -np.float32(np.inf))
        np.testing.assert_array_equal(attention(q, k, v, bias=bias), out)


@pytest.mark.usefixtures("isa")
class TestNumerics:
    @pytest.mark.parametrize("dtype", DTYPES)
    def test_large_scores_do_not_overflow(self, dtype: type, rng: np.random.Generator) -> None:
        q, k, v = inputs(rng, dtype, L=130, S=200)
        out = attention(q * 1000, k * 1000, v)
        best = np.argmax(np.einsum("bhld,bhsd->bhls", q.astype(float), k.astype(float)), axis=-1)
        np.testing.assert_allclose(
            out, np.take_along_axis(v, best[..., None], axis=-2), rtol=1e-3, atol=1e-3
        )

    def test_nan_goes_where_it_belongs(self, rng: np.random.Generator) -> None:
        q, k, v = inputs(rng, L=30, S=40)
        q[0, 0, 3, 0] = np.nan
        out = attention(q, k, v)
        assert np.isnan(out[0, 0, 3]).all()
        out[0, 0, 3] = 0
        assert np.isfinite(out).all()

    def test_bfloat16(self, rng: np.random.Generator) -> None:
        for L, S in [(1, 7), (97, 130), (300, 257)]:
            check_bfloat16(*inputs(rng, ml_dtypes.bfloat16, L=L, S=S, Dv=17))

    def test_result_does_not_depend_on_threads_or_neighbours(
        self, rng: np.random.Generator
    ) -> None:
        q, k, v = inputs(rng, L=500, S=400, h=3, batch=(1,))
        whole = attention(q, k, v, causal="bottom_right")
        with config.threads(1):
            np.testing.assert_array_equal(attention(q, k, v, causal="bottom_right"), whole)
        full = attention(q, k, v)
        # Five rows and more: fewer take the path that splits the keys.
        for rows in (slice(0, 5), slice(3, 20), slice(100, 300)):
            np.testing.assert_array_equal(attention(q[..., rows, :], k, v), full[..., rows, :])


@pytest.mark.usefixtures("isa")
class TestArrays:
    @pytest.mark.parametrize("dtype", [np.float32, np.float64, ml_dtypes.bfloat16])
    def test_any_strides(self, dtype: Any, rng: np.random.Generator) -> None:
        q, k, v = inputs(rng, dtype, L=50, S=150, D=24)
        expected = attention(q, k, v)
        for layout in ((0, 2, 1, 3), (3, 1, 0, 2), (2, 3, 0, 1)):
            back = np.argsort(layout)
            moved = [np.ascontiguousarray(x.transpose(layout)).transpose(back) for x in (q, k, v)]
            out = np.empty(np.array(q.shape)[list(layout)], dtype).transpose(back)
            assert attention(*moved, out=out) is out
            np.testing.assert_array_equal(out, expected)
        np.testing.assert_array_equal(
            attention(q, k[..., ::-1, :], v[..., ::-1, :], causal=False).astype(float),
            attention(q, k[..., ::-1, :].copy(), v[..., ::-1, :].copy()).astype(float),
        )

    def test_errors_name_the_argument(self, rng: np.random.Generator) -> None:
        q, k, v = inputs(rng)
        for arguments, options, error, match in [
            ((q, k[..., :5], v), {}, ValueError, "k: expected"),
            ((q, k, v[:, :1]), {}, ValueError, "v: expected"),
            ((q, k[:1], v), {}, ValueError, "k: expected"),
            ((np.repeat(q, 3, 1)[:, :5], k, v), {}, ValueError, "k: expected a number of heads"),
            ((q[0, 0], k[0, 0], v[0, 0]), {}, ValueError, r"q: expected shape \(..., h, L, D\)"),
            ((q, k.astype(np.float64), v), {}, TypeError, "k: expected float32"),
            ((q.astype(np.uint8),) * 3, {}, TypeError, "q: expected float32, float64"),
            ((q, k, v), {"mask": np.ones((17, 17))}, TypeError, "mask: expected bool"),
            ((q, k, v), {"mask": np.ones((3, 17), bool)}, ValueError, "mask: expected a shape"),
            ((q, k, v), {"bias": np.ones((17, 17))}, TypeError, "bias: expected float32"),
            ((q, k, v), {"causal": "left"}, ValueError, "causal: expected"),
            ((q, k, v), {"window": -1}, ValueError, "window: expected"),
            ((q, k, v), {"softcap": 0.0}, ValueError, "softcap: expected"),
            ((q, k, v), {"scale": np.nan}, ValueError, "scale: expected"),
            ((q, k, v), {"out": q}, ValueError, "out: expected memory"),
            (
                (q, k, v),
                {"out": np.empty((2, 2, 3), np.float32)},
                ValueError,
                "out: expected shape",
            ),
        ]:
            with pytest.raises(error, match=rf"\[marey.attention\] {match}"):
                attention(*arguments, **options)


@pytest.mark.slow
def test_memory_is_linear_in_length() -> None:
    """65,536 queries and keys: the score matrix would have 16 GiB."""
    import subprocess
    import sys

    program = (
        "import numpy as np, resource, marey.attention as a\n"
        "q = np.ones((1, 1, 65536, 4), np.float32)\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "a.attention(q, q, q, window=64)\n"
        "out = a.attention(q[:, :, :2048], q, q)\n"
        "assert out.shape == (1, 1, 2048, 4) and abs(out - 1).max() < 1e-5\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], check=True, capture_output=True, text=True
    )
    assert int(done.stdout) < 200 * 1024


@pytest.mark.usefixtures("isa")
@pytest.mark.parametrize(("length", "keys"), [(16, 8), (160, 40)])
def test_large_results_written_past_the_caches_are_the_same(
    rng: np.random.Generator, length: int, keys: int
) -> None:
    batch = (9 << 20) // (length * 64 * 4)
    q = rng.standard_normal((batch, 1, length, 64), np.float32)
    k, v = rng.standard_normal((2, 1, 1, keys, 64), np.float32).repeat(batch, axis=1)
    whole = attention(q, k, v)
    assert whole.nbytes > 8 << 20
    assert whole.ctypes.data % 64 == 0
    memory = np.empty(whole.size + 1, np.float32)
    off_by_one = attention(q, k, v, out=memory[1:].reshape(whole.shape))
    halves = [attention(*(x[i::2] for x in (q, k, v))) for i in range(2)]
    np.testing.assert_array_equal(whole, off_by_one)
    np.testing.assert_array_equal(whole[0::2], halves[0])
    np.testing.assert_array_equal(whole[1::2], halves[1])
    check(q[:2], k[:2], v[:2])


@pytest.mark.usefixtures("isa")
@pytest.mark.parametrize("dtype", [*DTYPES, ml_dtypes.bfloat16])
@pytest.mark.parametrize(
    ("S", "D", "Dv"), [(1, 1, 3), (33, 20, 70), (515, 64, 128), (1030, 130, 257)]
)
def test_one_query_of_any_number_and_size_of_keys(
    rng: np.random.Generator, dtype: Any, S: int, D: int, Dv: int
) -> None:
    compare = check_bfloat16 if dtype is ml_dtypes.bfloat16 else check
    compare(*inputs(rng, dtype, h=4, h_kv=2, L=1, S=S, D=D, Dv=Dv))


@pytest.mark.usefixtures("isa")
class TestFewQueries:
    """One query, or a few that share a key head, take another path: keys are split over threads."""

    @pytest.mark.parametrize("dtype", DTYPES)
    @pytest.mark.parametrize("S", [0, 1, 17, 511, 512, 513, 1025, 4097])
    @pytest.mark.parametrize("D", [1, 7, 64, 97])
    def test_one(self, dtype: type, S: int, D: int, rng: np.random.Generator) -> None:
        q, k, v = inputs(rng, dtype, L=1, S=S, D=D, Dv=D + 2)
        if S == 0:
            assert not attention(q, k, v).any()
        else:
            check(q, k, v)

    @pytest.mark.parametrize(("h", "h_kv", "L"), [(4, 1, 1), (2, 1, 2), (3, 3, 4), (3, 1, 1)])
    def test_some(self, h: int, h_kv: int, L: int, rng: np.random.Generator) -> None:
        q, k, v = inputs(rng, h=h, h_kv=h_kv, L=L, S=1100)
        bias = rng.standard_normal((h, L, 1100)).astype(np.float32)
        mask = rng.random((L, 1100)) < 0.5
        mask[0] = False
        check(q, k, v)
        check(q, k, v, causal="bottom_right", window=(600, 0))
        check(q, k, v, causal="top_left")
        check(q, k, v, mask=mask, bias=bias, softcap=3.0)

    def test_bfloat16(self, rng: np.random.Generator) -> None:
        q, k, v = inputs(rng, ml_dtypes.bfloat16, L=1, S=1025, D=72)
        exact = reference.attention(q, k, v)
        np.testing.assert_allclose(attention(q, k, v).astype(float), exact, rtol=2**-8, atol=1e-6)

    def test_threads_change_nothing(self, rng: np.random.Generator) -> None:
        q, k, v = inputs(rng, L=1, S=4097)
        with config.threads(1):
            alone = attention(q, k, v)
        np.testing.assert_array_equal(attention(q, k, v), alone)


@pytest.mark.usefixtures("isa")
class TestVarlen:
    @pytest.mark.parametrize("dtype", DTYPES)
    @pytest.mark.parametrize("h_kv", [1, 2, 4])
    @pytest.mark.parametrize("causal", [False, "top_left", "bottom_right"])
    def test_each_sequence_alone(
        self, dtype: type, h_kv: int, causal: Any, rng: np.random.Generator
    ) -> None:
        lengths_q, lengths_k = [3, 0, 257, 1, 17, 5], [7, 4, 130, 0, 17, 300]
        cu_q, cu_k = np.cumsum([0, *lengths_q]), np.cumsum([0, *lengths_k])
        q = rng.standard_normal((cu_q[-1], 4, 24)).astype(dtype)
        k = rng.standard_normal((cu_k[-1], h_kv, 24)).astype(dtype)
        v = rng.standard_normal((cu_k[-1], h_kv, 9)).astype(dtype)
        out, lse = attention_varlen(q, k, v, cu_q, cu_k, causal=causal, return_lse=True)
        for i in range(len(lengths_q)):
            one_q = q[cu_q[i] : cu_q[i + 1]].swapaxes(0, 1)
            one_k, one_v = (x[cu_k[i] : cu_k[i + 1]].swapaxes(0, 1) for x in (k, v))
            exact, exact_lse = reference.attention(
                one_q, one_k, one_v, causal=causal, return_lse=True
            )
            eps = np.finfo(dtype).eps
            np.testing.assert_allclose(
                out[cu_q[i] : cu_q[i + 1]].swapaxes(0, 1), exact, rtol=0, atol=40 * eps
            )
            np.testing.assert_allclose(
                lse[cu_q[i] : cu_q[i + 1]].swapaxes(0, 1), exact_lse, rtol=0, atol=40 * eps
            )

    def test_many_short_sequences(self, rng: np.random.Generator) -> None:
        q, k, v = rng.standard_normal((3, 200_000, 1, 4)).astype(np.float32)
        cu = np.arange(0, 200_001, 2)
        out = attention_varlen(q, k, v, cu, cu)
        pairs = [x.reshape(-1, 2, 1, 4).swapaxes(1, 2) for x in (q, k, v)]
        expected = attention(*pairs).swapaxes(1, 2).reshape(out.shape)
        np.testing.assert_allclose(out, expected, rtol=1e-5, atol=1e-6)

    def test_errors(self, rng: np.random.Generator) -> None:
        q, k, v = rng.standard_normal((3, 10, 2, 4)).astype(np.float32)
        for cu_q, cu_k, match in [
            ([0, 5], [0, 10], "cu_seqlens_q: expected offsets"),
            ([0, 7, 5, 10], [0, 5, 7, 10], "cu_seqlens_q: expected offsets"),
            ([0, 10], [1, 10], "cu_seqlens_k: expected offsets"),
            ([0, 10], [0, 5, 10], "cu_seqlens_k: expected as many"),
        ]:
            with pytest.raises(ValueError, match=rf"\[marey.attention_varlen\] {match}"):
                attention_varlen(q, k, v, cu_q, cu_k)
        with pytest.raises(ValueError, match="causal: expected 'top_left'"):
            attention_varlen(q, k, v, [0, 4, 10], [0, 5, 10], causal=True)
        with pytest.raises(TypeError, match="cu_seqlens_q: expected integers"):
            attention_varlen(q, k, v, [0.0, 10.0], [0, 10])


@pytest.mark.usefixtures("isa")
class TestSpaceTime:
    @pytest.mark.parametrize("axis", ["time", "space", "joint"])
    @pytest.mark.parametrize("h_kv", [1, 3])
    def test_is_attention_of_permuted_copies(
        self, axis: Any, h_kv: int, rng: np.random.Generator
    ) -> None:
        B, T, H, W, h, D = 2, 5, 3, 7, 3, 8
        q = rng.standard_normal((B, T, H, W, h, D)).astype(np.float32)
        k, v = rng.standard_normal((2, B, T, H, W, h_kv, D)).astype(np.float32)
        letters = {"time": "bhwntd", "space": "btnhwd", "joint": "bnthwd"}[axis]

        def sequences(x: NDArray[Any]) -> NDArray[Any]:
            y = np.einsum(f"bthwnd->{letters}", x)
            return y if axis == "time" else y.reshape(*y.shape[: letters.index("n") + 1], -1, D)

        expected = reference.attention(*(sequences(x) for x in (q, k, v)))
        out = space_time_attention(q, k, v, axis)
        assert out.shape == q.shape
        np.testing.assert_allclose(sequences(out), expected, atol=2e-6)
        # Rows of a larger picture: H and W cannot be stepped through as one.
        wide = [np.pad(x, [(0, 0)] * 3 + [(0, 2)] + [(0, 0)] * 2) for x in (q, k, v, out)]
        cropped = [x[:, :, :, :W] for x in wide]
        assert space_time_attention(*cropped[:3], axis, out=cropped[3]) is cropped[3]
        np.testing.assert_allclose(cropped[3], out, atol=1e-6)

    @pytest.mark.parametrize("axis", ["time", "space", "joint"])
    def test_class_token(self, axis: Any, rng: np.random.Generator) -> None:
        B, T, H, W, h, D = 2, 5, 3, 4, 2, 8
        q, k, v = rng.standard_normal((3, B, T, H, W, h, D)).astype(np.float32)
        token = rng.standard_normal((3, B, h, D)).astype(np.float32)
        out, of_class = space_time_attention(q, k, v, axis, class_token=tuple(token))
        order = {"time": "bhwntd", "space": "btnhwd", "joint": "bnthwd"}[axis]

        def sequences(x: NDArray[Any], one: NDArray[Any], order: str) -> NDArray[Any]:
            y = np.einsum(f"bthwnd->{order}", x)
            head = order.index("n")
            y = y.reshape(*y.shape[: head + 1], -1, D)
            more = one.reshape(B, *[1] * (head - 1), h, 1, D)
            return np.concatenate([y, np.broadcast_to(more, (*y.shape[:-2], 1, D))], axis=-2)

        arrays = [sequences(x, one, order) for x, one in zip((q, k, v), token, strict=True)]
        expected = reference.attention(*arrays)[..., :-1, :]
        found = np.einsum(f"bthwnd->{order}", out).reshape(expected.shape)
        np.testing.assert_allclose(found, expected, atol=2e-6)
        arrays = [sequences(x, one, "bnthwd") for x, one in zip((q, k, v), token, strict=True)]
        np.testing.assert_allclose(of_class, reference.attention(*arrays)[:, :, -1], atol=2e-6)
        with pytest.raises(ValueError, match="class_token: expected shape"):
            space_time_attention(q, k, v, axis, class_token=tuple(token[:, :, :1]))

    def test_causal_in_time(self, rng: np.random.Generator) -> None:
        q, k, v = rng.standard_normal((3, 1, 9, 2, 2, 1, 8)).astype(np.float32)
        whole = space_time_attention(q, k, v, "time", causal=True)
        first = space_time_attention(q[:, :4], k[:, :4], v[:, :4], "time", causal=True)
        np.testing.assert_allclose(whole[:, :4], first, atol=1e-6)
        with pytest.raises(ValueError, match="causal: expected False"):
            space_time_attention(q, k, v, "space", causal=True)
        with pytest.raises(ValueError, match="axis: expected 'time', 'space' or 'joint'"):
            space_time_attention(q, k, v, "frames")  # type: ignore[arg-type]


@pytest.mark.usefixtures("isa")
class TestKVCache:
    @given(data=st.data())
    def test_any_chunking_gives_the_result_of_one_call(self, data: st.DataObject) -> None:
        rng = np.random.default_rng(0)
        L, capacity = 60, data.draw(st.sampled_from([1, 2, 7, 20, 59, 60, 100]))
        q, k, v = inputs(rng, L=L, h=4, h_kv=2, D=8, Dv=5)
        expected = attention(q, k, v, causal=True, window=(capacity - 1, 0))
        cache = KVCache((2, 2), capacity, 8, 5)
        done = 0
        while done < L:
            n = data.draw(st.integers(1, 30))
            part = slice(done, min(done + n, L))
            out = cache.attend(q[..., part, :], k[..., part, :], v[..., part, :])
            np.testing.assert_allclose(out, expected[..., part, :], atol=1e-6)
            done = part.stop
        assert cache.length <= capacity - 1 + 30
        np.testing.assert_array_equal(cache.k, k[..., L - cache.length :, :])
        cache.reset()
        assert cache.length == 0

    def test_errors(self) -> None:
        cache = KVCache((1, 2), 4, 8)
        good = np.zeros((1, 2, 3, 8), np.float32)
        with pytest.raises(ValueError, match=r"\[marey.KVCache\] k: expected shape"):
            cache.append(good[:, :1], good)
        with pytest.raises(TypeError, match=r"\[marey.KVCache\] v: expected float32"):
            cache.append(good, good.astype(np.float64))
        with pytest.raises(ValueError, match=r"\[marey.KVCache\] capacity: expected 1"):
            KVCache((1, 2), 0, 8)
