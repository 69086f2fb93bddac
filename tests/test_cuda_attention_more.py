"""Gradients of attention, packed sequences, caches and videos on a CUDA device."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from cuda_devices import Device, Recorder
from marey import _device
from marey import attention as ours
from numpy.typing import NDArray

ml_dtypes = pytest.importorskip("ml_dtypes")

# Relative to the largest number of each gradient.
TOLERANCE = {"float32": 1e-5, "float64": 1e-13, "bfloat16": 2**-6}


def arrays(rng: Any, q: Any, kv: Any, dtype: Any = np.float32) -> list[NDArray[Any]]:
    return [rng.standard_normal(shape).astype(dtype) for shape in (q, kv, kv)]


def compare(cuda: Device, ours_: Any, exact: Any, dtype: Any) -> None:
    for got, expected in zip(ours_, exact, strict=True):
        result = cuda.get(got)
        assert result.shape == expected.shape
        largest = max(float(np.abs(expected).max(initial=0)), 1)
        error = np.abs(result.astype(np.float64) - expected).max(initial=0)
        assert error <= TOLERANCE[np.dtype(dtype).name] * largest


def check(
    cuda: Device, rng: Any, parts: list[NDArray[Any]], *, gap: int = 0, **options: Any
) -> None:
    """Compare the gradients with the CPU's, in float64; `gap`: items between two rows."""
    q = parts[0]
    wide = [x.astype(np.float64) for x in parts]
    host = {
        name: x.astype(np.float64) if name == "bias" else x
        for name, x in options.items()
        if name != "bias_grad"
    }
    there = {name: cuda.put(x) if isinstance(x, np.ndarray) else x for name, x in options.items()}
    exact_out, exact_lse = ours.attention(*wide, return_lse=True, **host)
    grad = rng.standard_normal(exact_out.shape).astype(q.dtype)
    if "bias_grad" in options:
        host["bias_grad"] = options["bias_grad"]
    exact = ours.attention_backward(grad.astype(np.float64), *wide, exact_out, exact_lse, **host)
    held = [
        cuda.put(np.pad(x, [(0, 0)] * (x.ndim - 1) + [(0, gap)]))[..., : x.shape[-1]] for x in parts
    ]
    forward = {name: x for name, x in there.items() if name != "bias_grad"}
    out, lse = ours.attention(*held, return_lse=True, **forward)
    grads = ours.attention_backward(cuda.put(grad), *held, out, lse, **there)
    compare(cuda, grads, exact, q.dtype)


class TestBackward:
    @pytest.mark.parametrize("dtype", [np.float32, np.float64, ml_dtypes.bfloat16])
    @pytest.mark.parametrize("depth", [1, 17, 128])
    @pytest.mark.parametrize(("queries", "keys"), [(1, 1), (7, 40), (37, 19)])
    def test_plain(
        self, cuda: Device, rng: Any, queries: int, keys: int, depth: int, dtype: Any
    ) -> None:
        check(cuda, rng, arrays(rng, (2, queries, depth), (2, keys, depth), dtype))

    @pytest.mark.parametrize("causal", ["top_left", "bottom_right"])
    @pytest.mark.parametrize("window", [None, 5, (3, None)])
    def test_causal_and_window(self, cuda: Device, rng: Any, causal: Any, window: Any) -> None:
        parts = arrays(rng, (1, 37, 16), (1, 50, 16))
        check(cuda, rng, parts, causal=causal, window=window)

    def test_grouped_heads_and_two_batch_axes(self, cuda: Device, rng: Any) -> None:
        check(cuda, rng, arrays(rng, (2, 3, 6, 20, 16), (2, 3, 2, 30, 16)))

    def test_head_size_256(self, cuda: Device, rng: Any) -> None:
        q, k, _ = arrays(rng, (1, 9, 256), (1, 35, 256))
        check(cuda, rng, [q, k, rng.standard_normal((1, 35, 40)).astype(np.float32)])

    def test_softcap_and_mask(self, cuda: Device, rng: Any) -> None:
        mask = rng.random((2, 1, 20, 30)) < 0.7
        mask[0, 0, 3] = False  # a query with nothing to attend to
        parts = arrays(rng, (2, 3, 20, 16), (2, 3, 30, 16))
        check(cuda, rng, parts, mask=mask, softcap=2.0, scale=0.7)

    @pytest.mark.parametrize(
        "shape",
        [
            (2, 4, 20, 40),
            (4, 20, 40),
            (2, 1, 20, 40),
            (4, 1, 40),
            (4, 20, 1),
            (2, 4, 1, 1),
            (20, 40),
        ],
    )
    @pytest.mark.parametrize("causal", [False, "bottom_right"])
    def test_gradient_of_a_broadcast_bias(
        self, cuda: Device, rng: Any, causal: Any, shape: Any
    ) -> None:
        bias = rng.standard_normal(shape).astype(np.float32)
        bias[(0,) * (bias.ndim - 1)][..., :1] = 0.25
        parts = arrays(rng, (2, 4, 20, 16), (2, 2, 40, 16))
        check(cuda, rng, parts, bias=bias, bias_grad=True, causal=causal)

    def test_a_bias_that_forbids(self, cuda: Device, rng: Any) -> None:
        bias = np.zeros((20, 30), np.float32)
        bias[:, 7] = -np.inf
        check(cuda, rng, arrays(rng, (1, 20, 16), (1, 30, 16)), bias=bias, bias_grad=True)

    def test_an_infinite_key_that_none_may_see(self, cuda: Device, rng: Any) -> None:
        parts = [cuda.put(x) for x in arrays(rng, (1, 8, 16), (1, 8, 16))]
        k, v = (cuda.get(x).copy() for x in parts[1:])
        k[0, 7] = v[0, 7] = np.inf
        mask = np.ones((8, 8), bool)
        mask[:, 7] = False
        held = [parts[0], cuda.put(k), cuda.put(v)]
        out, lse = ours.attention(*held, mask=cuda.put(mask), return_lse=True)
        grads = ours.attention_backward(out, *held, out, lse, mask=cuda.put(mask))
        assert all(np.isfinite(cuda.get(g)).all() for g in grads)

    def test_no_keys(self, cuda: Device) -> None:
        q, k = cuda.put(np.ones((1, 5, 16), np.float32)), cuda.put(np.ones((1, 0, 16), np.float32))
        out, lse = ours.attention(q, k, k, return_lse=True)
        grads = ours.attention_backward(out, q, k, k, out, lse)
        assert (cuda.get(grads[0]) == 0).all()

    @pytest.mark.parametrize(("queries", "keys"), [(5, 0), (0, 5)])
    def test_a_bias_without_items(self, cuda: Device, queries: int, keys: int) -> None:
        shapes = ((1, queries, 16), (1, keys, 16), (1, queries, keys))
        q, k, bias = (cuda.put(np.ones(shape, np.float32)) for shape in shapes)
        out, lse = ours.attention(q, k, k, bias=bias, return_lse=True)
        grads = ours.attention_backward(out, q, k, k, out, lse, bias=bias, bias_grad=True)
        assert [g.shape for g in map(cuda.get, grads)] == [shapes[i] for i in (0, 1, 1, 2)]
        assert all((cuda.get(g) == 0).all() for g in grads)

    def test_a_gradient_of_another_shape(self, cuda: Device, rng: Any) -> None:
        q, k, v = map(cuda.put, arrays(rng, (1, 5, 16), (1, 6, 16)))
        out, lse = ours.attention(q, k, v, return_lse=True)
        with pytest.raises(ValueError, match="grad: expected shape"):
            ours.attention_backward(k, q, k, v, out, lse)


class TestBackwardOnTensorCores:
    """bfloat16 and head sizes 64, 128 and 256: the kernel for Hopper."""

    @pytest.fixture(autouse=True)
    def ran(self, cuda: Device, monkeypatch: Any) -> Iterator[None]:
        recorder = Recorder(_device.cuda_module(), "attention_backward")
        monkeypatch.setattr(_device, "_module", recorder)
        yield
        if cuda.has_hopper:
            assert recorder.kernels == ["sm90"]

    @pytest.mark.parametrize("depth", [64, 128, 256])
    @pytest.mark.parametrize(
        ("queries", "keys", "options"),
        [
            (1, 1, {}),
            (70, 130, {}),
            (300, 150, {"causal": "bottom_right"}),
            (150, 300, {"causal": "top_left", "window": 70}),
            (200, 200, {"window": (3, 100)}),
        ],
    )
    def test_orders_and_windows(
        self, cuda: Device, rng: Any, queries: int, keys: int, options: Any, depth: int
    ) -> None:
        parts = arrays(rng, (1, queries, depth), (1, keys, depth), ml_dtypes.bfloat16)
        check(cuda, rng, parts, **options)

    @pytest.mark.parametrize("depth", [64, 256])
    def test_grouped_heads_and_two_batch_axes(self, cuda: Device, rng: Any, depth: int) -> None:
        parts = arrays(rng, (2, 3, 6, 20, depth), (2, 3, 2, 30, depth), ml_dtypes.bfloat16)
        check(cuda, rng, parts)

    @pytest.mark.parametrize("depth", [64, 256])
    def test_axes_as_projections_leave_them(self, cuda: Device, rng: Any, depth: int) -> None:
        shapes = ((2, 40, 4, depth), (2, 33, 2, depth))
        q, k, v = arrays(rng, *shapes, ml_dtypes.bfloat16)
        grad = rng.standard_normal(shapes[0]).astype(ml_dtypes.bfloat16)
        held = [cuda.put(x).swapaxes(1, 2) for x in (q, k, v)]
        out, lse = ours.attention(*held, return_lse=True)
        grads = ours.attention_backward(cuda.put(grad).swapaxes(1, 2), *held, out, lse)
        wide = [x.astype(np.float64).swapaxes(1, 2) for x in (q, k, v, grad)]
        exact_out = ours.attention(*wide[:3], return_lse=True)
        exact = ours.attention_backward(wide[3], *wide[:3], *exact_out)
        compare(cuda, grads, exact, q.dtype)

    @pytest.mark.parametrize("depth", [64, 128, 256])
    def test_infinite_items_that_none_may_see(self, cuda: Device, rng: Any, depth: int) -> None:
        q, k, v = arrays(rng, (1, 40, depth), (1, 50, depth), ml_dtypes.bfloat16)
        grad = rng.standard_normal((1, 40, depth)).astype(ml_dtypes.bfloat16)
        wide = [x.astype(np.float64) for x in (q, k, v)]
        exact_out = ours.attention(*wide, causal="top_left", return_lse=True)
        exact = ours.attention_backward(
            grad.astype(np.float64), *wide, *exact_out, causal="top_left"
        )
        k[0, 45:] = v[0, 42:] = np.inf
        held = [cuda.put(x) for x in (q, k, v)]
        out, lse = ours.attention(*held, causal="top_left", return_lse=True)
        grads = ours.attention_backward(cuda.put(grad), *held, out, lse, causal="top_left")
        compare(cuda, grads, exact, q.dtype)

    @pytest.mark.parametrize("depth", [64, 256])
    def test_an_infinite_query_and_those_who_see_it(
        self, cuda: Device, rng: Any, depth: int
    ) -> None:
        parts = arrays(rng, (1, 70, depth), (1, 70, depth), ml_dtypes.bfloat16)
        grad = rng.standard_normal((1, 70, depth)).astype(ml_dtypes.bfloat16)
        held = [cuda.put(x) for x in parts]
        out, lse = ours.attention(*held, causal=True, return_lse=True)
        grad[0, 9] = np.inf  # seen by keys 0 to 9
        grads = ours.attention_backward(cuda.put(grad), *held, out, lse, causal=True)
        assert np.isfinite(cuda.get(grads[2])[0, 10:]).all()
        assert not np.isfinite(cuda.get(grads[2])[0, :10]).any()


class TestWhichBackwardRuns:
    """bfloat16 and a head size of 256, which the kernel for Hopper takes if all else is plain."""

    @pytest.mark.parametrize(
        ("value_depth", "masked", "gap", "expected"),
        [
            (256, False, 8, "sm90"),
            (128, False, 0, "generic"),
            (256, True, 0, "generic"),
            (256, False, 4, "generic"),  # every other row is not at 16 bytes
        ],
    )
    def test_by_values_mask_and_rows(
        self,
        cuda: Device,
        rng: Any,
        value_depth: int,
        masked: bool,
        gap: int,
        expected: str,
        monkeypatch: Any,
    ) -> None:
        if not cuda.has_hopper:
            pytest.skip("not a Hopper device")
        recorder = Recorder(_device.cuda_module(), "attention_backward")
        monkeypatch.setattr(_device, "_module", recorder)
        q, k, _ = arrays(rng, (2, 9, 256), (2, 20, 256), ml_dtypes.bfloat16)
        v = rng.standard_normal((2, 20, value_depth)).astype(ml_dtypes.bfloat16)
        options = {"mask": rng.random((9, 20)) < 0.7} if masked else {}
        check(cuda, rng, [q, k, v], gap=gap, **options)
        assert recorder.kernels == [expected]


class TestPacked:
    LENGTHS = ((5, 0, 33, 16, 1, 0), (7, 3, 20, 40, 0, 0))

    @pytest.mark.parametrize("dtype", [np.float32, ml_dtypes.bfloat16])
    @pytest.mark.parametrize("causal", [False, "top_left", "bottom_right"])
    @pytest.mark.parametrize("on_device", [False, True])
    def test_forward_and_backward(
        self, cuda: Device, rng: Any, on_device: bool, causal: Any, dtype: Any
    ) -> None:
        cu = [np.cumsum([0, *lengths], dtype=np.int64) for lengths in self.LENGTHS]
        parts = arrays(rng, (cu[0][-1], 4, 24), (cu[1][-1], 2, 24), dtype)
        wide = [x.astype(np.float64) for x in parts]
        exact = ours.attention_varlen(*wide, *cu, causal=causal, return_lse=True)
        grad = rng.standard_normal(exact[0].shape).astype(dtype)
        backward = ours.attention_varlen_backward
        exact_grads = backward(grad.astype(np.float64), *wide, *exact, *cu, causal=causal)
        there = [cuda.put(x) for x in cu] if on_device else cu
        held = [cuda.put(x) for x in parts]
        y, lse = ours.attention_varlen(*held, *there, causal=causal, return_lse=True)
        compare(cuda, [y], exact[:1], dtype)
        np.testing.assert_allclose(cuda.get(lse), exact[1], rtol=1e-4, atol=1e-4)
        grads = backward(cuda.put(grad), *held, y, lse, *there, causal=causal)
        compare(cuda, grads, exact_grads, dtype)

    def test_offsets_that_do_not_rise(self, cuda: Device, rng: Any) -> None:
        q, k, v = map(cuda.put, arrays(rng, (6, 2, 8), (6, 2, 8)))
        with pytest.raises(ValueError, match="cu_seqlens_q: expected offsets that rise"):
            ours.attention_varlen(q, k, v, [0, 4, 2, 6], [0, 2, 4, 6])

    def test_an_ambiguous_order(self, cuda: Device, rng: Any) -> None:
        q, k, v = map(cuda.put, arrays(rng, (6, 2, 8), (6, 2, 8)))
        with pytest.raises(ValueError, match="not every sequence has as many queries"):
            ours.attention_varlen(q, k, v, [0, 4, 6], [0, 2, 6], causal=True)


class TestFewQueriesManyKeys:
    """Blocks share the keys."""

    @pytest.mark.parametrize("dtype", [np.float32, np.float64, ml_dtypes.bfloat16])
    @pytest.mark.parametrize("options", [{}, {"causal": "bottom_right", "window": 300}])
    def test_decoding(self, cuda: Device, rng: Any, options: Any, dtype: Any) -> None:
        parts = arrays(rng, (4, 3, 32), (2, 1100, 32), dtype)
        y, lse = ours.attention(*map(cuda.put, parts), return_lse=True, **options)
        wide = [x.astype(np.float64) for x in parts]
        exact, exact_lse = ours.attention(*wide, return_lse=True, **options)
        compare(cuda, [y], [exact], dtype)
        np.testing.assert_allclose(cuda.get(lse), exact_lse, rtol=1e-4, atol=1e-4)

    def test_a_query_that_sees_nothing(self, cuda: Device, rng: Any) -> None:
        q, k, v = arrays(rng, (1, 2, 32), (1, 600, 32))
        mask = np.ones((2, 600), bool)
        mask[0] = False
        mask[1, 300:] = False  # one part has nothing
        y, lse = ours.attention(*map(cuda.put, (q, k, v)), mask=cuda.put(mask), return_lse=True)
        exact = ours.attention(q, k, v, mask=mask)
        np.testing.assert_allclose(cuda.get(y), exact, rtol=1e-5, atol=1e-6)
        assert (cuda.get(y)[0, 0] == 0).all()
        assert cuda.get(lse)[0, 0] == -np.inf


class TestCache:
    @pytest.mark.parametrize("dtype", [np.float32, ml_dtypes.bfloat16])
    def test_any_chunking(self, cuda: Device, rng: Any, dtype: Any) -> None:
        q, k, v = arrays(rng, (2, 4, 23, 16), (2, 2, 23, 16), dtype)
        host = ours.KVCache((2, 2), 6, 16, dtype=dtype)
        there = ours.KVCache((2, 2), 6, 16, dtype=dtype)
        for first, last in ((0, 1), (1, 2), (2, 9), (9, 10), (10, 23)):
            part = [x[:, :, first:last] for x in (q, k, v)]
            y = there.attend(*map(cuda.put, part))
            assert there.length == (host.attend(*part), host.length)[1]
            compare(cuda, [y], [host.attend(part[0]).astype(np.float64)], dtype)
            assert np.array_equal(cuda.get(there.k), host.k)

    def test_keys_from_two_places(self, cuda: Device) -> None:
        cache = ours.KVCache((1,), 6, 16)
        x = np.zeros((1, 2, 16), np.float32)
        cache.append(x, x)
        with pytest.raises(TypeError, match="k: expected an array in CPU memory"):
            cache.append(cuda.put(x), cuda.put(x))


class TestVideo:
    @pytest.mark.parametrize("dtype", [np.float32, ml_dtypes.bfloat16])
    @pytest.mark.parametrize("axis", ["time", "space", "joint"])
    def test_every_axis(self, cuda: Device, rng: Any, axis: Any, dtype: Any) -> None:
        parts = arrays(rng, (2, 3, 4, 5, 2, 64), (2, 3, 4, 5, 2, 64), dtype)
        y = ours.space_time_attention(*map(cuda.put, parts), axis)
        wide = [x.astype(np.float64) for x in parts]
        compare(cuda, [y], [ours.space_time_attention(*wide, axis)], dtype)

    def test_causal_into_a_given_array(self, cuda: Device, rng: Any) -> None:
        parts = arrays(rng, (1, 6, 2, 3, 2, 8), (1, 6, 2, 3, 1, 8))
        out = cuda.put(np.zeros((1, 6, 2, 3, 2, 8), np.float32))
        y = ours.space_time_attention(*map(cuda.put, parts), "time", causal=True, out=out)
        assert y is out
        compare(cuda, [y], [ours.space_time_attention(*parts, "time", causal=True)], np.float32)

    def test_arrays_that_no_one_stride_steps_through(self, cuda: Device, rng: Any) -> None:
        parts = arrays(rng, (1, 2, 6, 4, 2, 8), (1, 2, 6, 4, 2, 8))
        there = [cuda.put(x)[:, :, ::2] for x in parts]
        y = ours.space_time_attention(*there, "joint")
        exact = ours.space_time_attention(*(x[:, :, ::2] for x in parts), "joint")
        compare(cuda, [y], [exact], np.float32)

    def test_a_class_token(self, cuda: Device, rng: Any) -> None:
        parts = [cuda.put(x) for x in arrays(rng, (1, 2, 2, 2, 2, 8), (1, 2, 2, 2, 2, 8))]
        with pytest.raises(ValueError, match="class_token: expected None on a CUDA device"):
            ours.space_time_attention(*parts, "time", class_token=tuple(parts))
