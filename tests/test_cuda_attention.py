"""Attention on a CUDA device."""

from typing import Any

import numpy as np
import pytest
from cuda_devices import Device, Recorder
from marey import _device
from marey import attention as ours
from marey.reference import attention as reference
from numpy.typing import NDArray
from tolerances import assert_close

ml_dtypes = pytest.importorskip("ml_dtypes")


def arrays(
    rng: np.random.Generator, q: tuple[int, ...], kv: tuple[int, ...], dtype: Any = np.float32
) -> list[NDArray[Any]]:
    return [rng.standard_normal(shape).astype(dtype) for shape in (q, kv, kv)]


def check(cuda: Device, q: Any, k: Any, v: Any, **options: Any) -> None:
    """Compare a float32 or float64 result, and its normaliser, with the reference."""
    there = {name: cuda.put(x) if isinstance(x, np.ndarray) else x for name, x in options.items()}
    y, lse = ours.attention(cuda.put(q), cuda.put(k), cuda.put(v), return_lse=True, **there)

    def compute(dtype: type) -> Any:
        return reference.attention(q, k, v, return_lse=True, dtype=dtype, **options)

    assert_close(cuda.get(y), lambda dtype: compute(dtype)[0], "attention")
    np.testing.assert_allclose(cuda.get(lse), compute(np.float64)[1], rtol=1e-5, atol=1e-5)


class TestReference:
    @pytest.mark.parametrize("dtype", [np.float32, np.float64])
    @pytest.mark.parametrize("depth", [17, 64, 128])
    @pytest.mark.parametrize(("queries", "keys"), [(1, 1), (7, 40), (40, 70)])
    def test_plain(
        self, cuda: Device, rng: Any, queries: int, keys: int, depth: int, dtype: type
    ) -> None:
        check(cuda, *arrays(rng, (2, queries, depth), (2, keys, depth), dtype))

    @pytest.mark.parametrize("causal", [False, "top_left", "bottom_right"])
    @pytest.mark.parametrize("window", [None, 5, (3, None)])
    def test_causal_and_window(self, cuda: Device, rng: Any, causal: Any, window: Any) -> None:
        if not causal and window is not None:
            causal = "bottom_right"
        check(cuda, *arrays(rng, (1, 37, 16), (1, 70, 16)), causal=causal, window=window)

    def test_a_window_of_any_size(self, cuda: Device, rng: Any) -> None:
        parts = arrays(rng, (1, 9, 8), (1, 12, 8))
        wide = ours.attention(*map(cuda.put, parts), causal="bottom_right", window=2**63 - 1)
        exact = ours.attention(*parts, causal="bottom_right")
        np.testing.assert_allclose(cuda.get(wide), exact, rtol=2e-5, atol=2e-6)

    def test_grouped_heads(self, cuda: Device, rng: Any) -> None:
        check(cuda, *arrays(rng, (2, 6, 20, 16), (2, 2, 30, 16)))

    def test_mask_bias_softcap_scale(self, cuda: Device, rng: Any) -> None:
        q, k, v = arrays(rng, (2, 3, 20, 16), (2, 3, 30, 16))
        mask = rng.random((2, 1, 20, 30)) < 0.7
        mask[0, 0, 3] = False  # a query with nothing to attend to
        bias = rng.standard_normal((3, 20, 30)).astype(np.float32)
        check(cuda, q, k, v, mask=mask)
        check(cuda, q, k, v, softcap=2.0, scale=0.7)
        y = cuda.get(ours.attention(*map(cuda.put, (q, k, v)), bias=cuda.put(bias)))
        expected = reference.attention(*(x.astype(float) for x in (q, k, v)), bias=bias)
        np.testing.assert_allclose(y, expected, rtol=2e-5, atol=2e-6)

    def test_values_of_another_size(self, cuda: Device, rng: Any) -> None:
        q, k, _ = arrays(rng, (2, 20, 8), (2, 30, 8))
        v = rng.standard_normal((2, 30, 200)).astype(np.float32)
        check(cuda, q, k, v)

    def test_an_infinite_value_that_none_may_see(self, cuda: Device, rng: Any) -> None:
        q, k, v = arrays(rng, (1, 8, 16), (1, 8, 16))
        v[0, 7] = np.inf
        y = cuda.get(ours.attention(*map(cuda.put, (q, k, v)), causal=True))
        assert np.isfinite(y[0, :7]).all()
        assert np.isinf(y[0, 7]).all()

    def test_no_keys(self, cuda: Device) -> None:
        q = np.ones((1, 5, 16), np.float32)
        k = np.ones((1, 0, 16), np.float32)
        y, lse = ours.attention(cuda.put(q), cuda.put(k), cuda.put(k), return_lse=True)
        assert (cuda.get(y) == 0).all()
        assert (cuda.get(lse) == -np.inf).all()

    def test_heads_behind_positions(self, cuda: Device, rng: Any) -> None:
        q, k, v = arrays(rng, (2, 20, 3, 16), (2, 30, 3, 16))
        y = ours.attention(*(cuda.put(x).swapaxes(1, 2) for x in (q, k, v)))
        expected = reference.attention(*(x.swapaxes(1, 2).astype(float) for x in (q, k, v)))
        np.testing.assert_allclose(cuda.get(y), expected, rtol=2e-5, atol=2e-6)


class TestBfloat16:
    @pytest.mark.parametrize("depth", [32, 64, 128, 256])
    @pytest.mark.parametrize(
        ("queries", "keys", "causal"),
        [(1, 1, False), (100, 130, "bottom_right"), (130, 300, False), (257, 97, "bottom_right")],
    )
    def test_reference(
        self, cuda: Device, rng: Any, queries: int, keys: int, causal: Any, depth: int
    ) -> None:
        q, k, v = arrays(rng, (4, queries, depth), (2, keys, depth), ml_dtypes.bfloat16)
        y, lse = ours.attention(
            cuda.put(q), cuda.put(k), cuda.put(v), causal=causal, return_lse=True
        )
        exact, exact_lse = reference.attention(
            *(x.astype(np.float64) for x in (q, k, v)), causal=causal, return_lse=True
        )
        # The result and the probabilities are rounded to eight bits.
        y = cuda.get(y)
        assert y.dtype == ml_dtypes.bfloat16
        largest = np.abs(v.astype(np.float64)).max()
        np.testing.assert_allclose(y.astype(np.float64), exact, rtol=2**-8, atol=largest * 2**-8)
        np.testing.assert_allclose(cuda.get(lse), exact_lse, rtol=1e-3, atol=1e-3)

    @pytest.mark.parametrize("depth", [64, 128, 256])
    def test_infinite_values_are_for_those_only_who_see_them(
        self, cuda: Device, rng: Any, depth: int
    ) -> None:
        q, k, v = arrays(rng, (1, 150, depth), (1, 150, depth), ml_dtypes.bfloat16)
        options: dict[str, Any] = {"causal": True, "window": 30}
        exact = ours.attention(*(x.astype(np.float64) for x in (q, k, v)), **options)
        v[0, 140] = np.inf
        v[0, 20, 3] = np.nan
        y = cuda.get(ours.attention(*map(cuda.put, (q, k, v)), **options)).astype(np.float64)
        spoilt = np.zeros(y.shape, bool)
        spoilt[0, 140:] = True
        spoilt[0, 20:51, 3] = True
        np.testing.assert_array_equal(np.isfinite(y), ~spoilt)
        np.testing.assert_allclose(y[~spoilt], exact[~spoilt], rtol=2**-8, atol=2**-6)


class TestWhichKernelRuns:
    @pytest.mark.parametrize(
        ("depth", "dtype", "expected"),
        [
            (64, "bf16", "sm90"),
            (128, "bf16", "sm90"),
            (256, "bf16", "sm90"),
            (32, "bf16", "generic"),
            (64, "", "generic"),
        ],
    )
    def test_by_type_and_head_size(
        self, cuda: Device, rng: Any, depth: int, dtype: str, expected: str, monkeypatch: Any
    ) -> None:
        if not cuda.has_hopper:
            pytest.skip("not a Hopper device")
        recorder = Recorder(_device.cuda_module(), "attention")
        monkeypatch.setattr(_device, "_module", recorder)
        kind = ml_dtypes.bfloat16 if dtype else np.float32
        q, k, v = arrays(rng, (3, 2, 20, 3, depth), (3, 2, 33, 3, depth), kind)
        # Axes as projections leave them, and two of batch.
        y = ours.attention(*(cuda.put(x).swapaxes(2, 3) for x in (q, k, v)))
        assert recorder.kernels == [expected]
        exact = reference.attention(*(x.astype(float).swapaxes(2, 3) for x in (q, k, v)))
        np.testing.assert_allclose(cuda.get(y).astype(float), exact, rtol=0.02, atol=0.02)


class TestErrors:
    def test_head_size(self, cuda: Device) -> None:
        x = cuda.put(np.zeros((1, 4, 257), np.float32))
        with pytest.raises(ValueError, match="a head size of at most 256 on a CUDA device"):
            ours.attention(x, x, x)

    def test_those_of_the_cpu(self, cuda: Device) -> None:
        q = np.zeros((1, 4, 16), np.float32)
        k = np.zeros((1, 5, 16), np.float32)
        with pytest.raises(ValueError, match="'top_left' or 'bottom_right'") as there:
            ours.attention(cuda.put(q), cuda.put(k), cuda.put(k), causal=True)
        with pytest.raises(ValueError, match="'top_left' or 'bottom_right'") as here:
            ours.attention(q, k, k, causal=True)
        assert str(there.value) == str(here.value)

    def test_arrays_in_two_places(self, cuda: Device) -> None:
        q = np.zeros((1, 4, 16), np.float32)
        with pytest.raises(TypeError, match="k: expected an array on the CUDA device"):
            ours.attention(cuda.put(q), q, q)
