"""Filters along time on a CUDA device: the same results, the same errors."""

from functools import cache
from typing import Any

import numpy as np
import pytest
from cuda_devices import Device
from marey import _device, temporal
from marey.reference import temporal as reference
from marey.temporal import FirFilter, MedianFilter, SosFilter, butter_bandpass
from numpy.typing import NDArray
from tolerances import assert_close

DTYPES = [np.uint8, np.float32, np.float64]
MODES = ["reflect", "nearest", "mirror", "wrap", "constant"]
# Every mode of one type, and every type.
TYPES_AND_MODES = [
    *((np.float32, mode) for mode in MODES),
    (np.uint8, "reflect"),
    (np.uint8, "constant"),
    (np.float64, "mirror"),
]


def signal(rng: np.random.Generator, shape: tuple[int, ...], dtype: type) -> NDArray[Any]:
    if dtype == np.uint8:
        return rng.integers(0, 256, shape, dtype=np.uint8)
    return rng.standard_normal(shape).astype(dtype)


class TestSosfilt:
    @pytest.mark.parametrize("dtype", DTYPES)
    @pytest.mark.parametrize(
        ("sections", "shape"),
        [
            (1, (17, 97)),
            (1, (40, 1)),
            (2, (1, 7)),
            (2, (9, 4, 16)),
            (3, (7, 3, 113, 4)),
            (4, (17, 97)),
            (4, (9, 4, 16)),
            (7, (40, 1)),
            (7, (7, 3, 113, 4)),
        ],
    )
    def test_reference(
        self,
        cuda: Device,
        rng: np.random.Generator,
        shape: tuple[int, ...],
        sections: int,
        dtype: type,
    ) -> None:
        sos = butter_bandpass(0.4, 3, 30, order=sections)
        x = signal(rng, shape, dtype)
        y = cuda.get(temporal.sosfilt(sos, cuda.put(x)))
        scale = 4 * float(np.abs(x).max())  # the ringing of a few series adds up
        compute = cache(lambda dtype: reference.sosfilt(sos, x, dtype=dtype))
        assert_close(y, compute, "sosfilt", scale=scale)
        zi = rng.standard_normal((sections, 2, *shape[1:])).astype(y.dtype)
        y, zf = map(cuda.get, temporal.sosfilt(sos, cuda.put(x), zi=cuda.put(zi)))
        scale = max(scale, 4 * float(np.abs(zf).max()))
        compute = cache(lambda dtype: reference.sosfilt(sos, x, 0, zi, dtype=dtype))
        assert_close(y, lambda dtype: compute(dtype)[0], "sosfilt", scale=scale)
        assert_close(zf, lambda dtype: compute(dtype)[1], "sosfilt", scale=scale)

    @pytest.mark.parametrize("axis", [0, 1, 2, -1])
    def test_any_axis_and_strides(self, cuda: Device, rng: np.random.Generator, axis: int) -> None:
        sos = butter_bandpass(0.4, 3, 30, order=2)
        x = signal(rng, (12, 10, 8), np.float32)
        y = cuda.get(temporal.sosfilt(sos, cuda.put(x), axis))
        assert_close(y, lambda dtype: reference.sosfilt(sos, x, axis, dtype=dtype), "sosfilt")
        part = (slice(1, None, 2), slice(None, None), slice(1, 7))
        y = cuda.get(temporal.sosfilt(sos, cuda.put(x)[part], axis))
        compute = cache(lambda dtype: reference.sosfilt(sos, x[part], axis, dtype=dtype))
        assert_close(y, compute, "sosfilt")

    def test_in_place(self, cuda: Device, rng: np.random.Generator) -> None:
        sos = butter_bandpass(0.4, 3, 30, order=6)
        x = signal(rng, (30, 64), np.float32)
        there = cuda.put(x)
        assert temporal.sosfilt(sos, there, out=there) is there
        y = cuda.get(there)
        assert_close(y, lambda dtype: reference.sosfilt(sos, x, dtype=dtype), "sosfilt")

    def test_no_steps_leave_the_state(self, cuda: Device, rng: np.random.Generator) -> None:
        sos = butter_bandpass(0.4, 3, 30)
        zi = signal(rng, (1, 2, 6), np.float32)
        y, zf = temporal.sosfilt(sos, cuda.put(np.zeros((0, 6), np.float32)), zi=cuda.put(zi))
        assert cuda.get(y).shape == (0, 6)
        np.testing.assert_array_equal(cuda.get(zf), zi)

    def test_a_state_on_the_cpu_is_an_error(self, cuda: Device) -> None:
        x = cuda.put(np.zeros((4, 6), np.float32))
        zi = np.zeros((1, 2, 6), np.float32)
        with pytest.raises(TypeError, match=r"zi: expected an array on the CUDA device"):
            temporal.sosfilt(butter_bandpass(0.4, 3, 30), x, zi=zi)

    def test_a_last_state_in_memory_of_the_signal(self, cuda: Device) -> None:
        x = cuda.put(np.zeros((4, 6), np.float32))
        sos = butter_bandpass(0.4, 3, 30)
        taken = _device.take("test", "x", x, _device.library_of(x))  # type: ignore[arg-type]
        state = _device.take(
            "test",
            "zf",
            x[:2].reshape(1, 2, 6),
            _device.library_of(x),  # type: ignore[arg-type]
        )
        zi = cuda.put(np.zeros((1, 2, 6), np.float32))
        before = _device.take("test", "zi", zi, _device.library_of(zi))  # type: ignore[arg-type]
        with pytest.raises(ValueError, match="memory that does not overlap"):
            _device.kernels("test").sosfilt(sos, taken, 0, before, None, state)

    def test_errors_are_those_of_the_cpu(self, cuda: Device) -> None:
        x = np.zeros((4, 6), np.float32)
        zi = np.zeros((1, 2, 5), np.float32)
        sos = butter_bandpass(0.4, 3, 30)
        with pytest.raises(ValueError, match="zi: expected shape") as ours:
            temporal.sosfilt(sos, cuda.put(x), zi=cuda.put(zi))
        with pytest.raises(ValueError, match="zi: expected shape") as cpu:
            temporal.sosfilt(sos, x, zi=zi)
        assert str(ours.value) == str(cpu.value)

    def test_stream(self, cuda: Device, rng: np.random.Generator) -> None:
        sos = butter_bandpass(0.4, 3, 30, order=2)
        x = signal(rng, (20, 6, 4), np.float32)
        there = cuda.put(x)
        stream = SosFilter(sos)
        chunks = [cuda.get(stream(there[a:b])) for a, b in ((0, 1), (1, 8), (8, 8), (8, 20))]
        whole = cuda.get(temporal.sosfilt(sos, there))
        np.testing.assert_array_equal(np.concatenate(chunks), whole)
        assert cuda.get(stream.state).shape == (2, 2, 6, 4)
        again = SosFilter(sos)
        again.state = stream.state
        np.testing.assert_array_equal(cuda.get(again(there)), cuda.get(stream(there)))


class TestSosfiltfilt:
    @pytest.mark.parametrize("dtype", DTYPES)
    @pytest.mark.parametrize(
        ("sections", "shape"),
        [(1, (40, 97)), (2, (41, 4, 16)), (3, (45, 1)), (4, (40, 97)), (6, (41, 4, 16))],
    )
    def test_reference(
        self,
        cuda: Device,
        rng: np.random.Generator,
        shape: tuple[int, ...],
        sections: int,
        dtype: type,
    ) -> None:
        sos = butter_bandpass(0.4, 3, 30, order=sections)
        x = signal(rng, shape, dtype)
        y = cuda.get(temporal.sosfiltfilt(sos, cuda.put(x)))
        assert_close(y, lambda dtype: reference.sosfiltfilt(sos, x, dtype=dtype), "sosfiltfilt")

    @pytest.mark.parametrize("dtype", DTYPES)
    def test_more_sections_than_a_launch_takes(
        self, cuda: Device, rng: np.random.Generator, dtype: type
    ) -> None:
        sos = np.array([(0.6, 0.2, 0, 1, -0.2, 0), (0.7, 0, 0.1, 1, -0.1, -0.1)] * 35)
        x = signal(rng, (20, 8), dtype)
        y = cuda.get(temporal.sosfiltfilt(sos, cuda.put(x), padtype=None))
        compute = cache(lambda dtype: reference.sosfiltfilt(sos, x, padtype=None, dtype=dtype))
        assert_close(y, compute, "sosfiltfilt")

    @pytest.mark.parametrize("padtype", ["odd", "even", "constant", None])
    @pytest.mark.parametrize("axis", [0, -1])
    def test_extensions(
        self, cuda: Device, rng: np.random.Generator, padtype: Any, axis: int
    ) -> None:
        sos = butter_bandpass(0.4, 3, 30, order=2)
        x = signal(rng, (33, 34), np.float32)
        y = cuda.get(temporal.sosfiltfilt(sos, cuda.put(x), axis, padtype))
        compute = cache(lambda dtype: reference.sosfiltfilt(sos, x, axis, padtype, dtype=dtype))
        assert_close(y, compute, "sosfiltfilt")

    def test_in_place(self, cuda: Device, rng: np.random.Generator) -> None:
        sos = butter_bandpass(0.4, 3, 30)
        x = signal(rng, (30, 64), np.float32)
        there = cuda.put(x)
        temporal.sosfiltfilt(sos, there, out=there)
        compute = cache(lambda dtype: reference.sosfiltfilt(sos, x, dtype=dtype))
        assert_close(cuda.get(there), compute, "sosfiltfilt")


class TestConvolve:
    @pytest.mark.parametrize(("dtype", "mode"), TYPES_AND_MODES)
    @pytest.mark.parametrize(("steps", "size"), [(1, 3), (17, 1), (17, 5), (40, 9), (5, 30)])
    def test_reference(
        self,
        cuda: Device,
        rng: np.random.Generator,
        steps: int,
        size: int,
        dtype: type,
        mode: str,
    ) -> None:
        x = signal(rng, (steps, 6, 4), dtype)
        taps = rng.standard_normal(size)
        y = cuda.get(temporal.convolve(cuda.put(x), taps, mode=mode, cval=2.0))
        scale = float(np.abs(x.astype(np.float64)).max() * np.abs(taps).sum())
        compute = cache(lambda dtype: reference.convolve(x, taps, mode=mode, cval=2.0, dtype=dtype))
        assert_close(y, compute, "convolve", scale=scale)

    def test_more_taps_than_a_launch_takes(self, cuda: Device, rng: np.random.Generator) -> None:
        x = signal(rng, (50, 5), np.float32)
        taps = rng.standard_normal(600)
        y = cuda.get(temporal.convolve(cuda.put(x), taps, mode="wrap"))
        scale = float(np.abs(x).max() * np.abs(taps).sum())
        compute = cache(lambda dtype: reference.convolve(x, taps, mode="wrap", dtype=dtype))
        assert_close(y, compute, "convolve", scale=scale)

    def test_what_is_outside_of_the_window_has_no_say(self, cuda: Device) -> None:
        x = np.zeros((20, 4), np.float32)
        x[10] = np.inf
        y = cuda.get(temporal.convolve(cuda.put(x), [1.0, 1.0, 1.0]))
        assert np.isfinite(np.delete(y, [9, 10, 11], 0)).all()

    @pytest.mark.parametrize("start", ["rest", "first"])
    def test_stream(self, cuda: Device, rng: np.random.Generator, start: Any) -> None:
        x = signal(rng, (20, 6), np.float32)
        ours = FirFilter([0.25, 0.5, 1, -0.5], start=start)
        expected = FirFilter([0.25, 0.5, 1, -0.5], start=start)(x)
        there = cuda.put(x)
        chunks = [cuda.get(ours(there[a:b])) for a, b in ((0, 1), (1, 8), (8, 20))]
        np.testing.assert_allclose(np.concatenate(chunks), expected, rtol=1e-5, atol=1e-6)


class TestMedianFilter:
    @pytest.mark.parametrize(("dtype", "mode"), TYPES_AND_MODES)
    @pytest.mark.parametrize(
        ("steps", "size"), [(1, 3), (17, 1), (17, 4), (20, 5), (20, 8), (20, 13), (9, 31), (9, 40)]
    )
    def test_reference(
        self,
        cuda: Device,
        rng: np.random.Generator,
        steps: int,
        size: int,
        dtype: type,
        mode: str,
    ) -> None:
        x = signal(rng, (steps, 9), dtype)
        y = cuda.get(temporal.median_filter(cuda.put(x), size, mode=mode, cval=3.0))
        expected = reference.median_filter(x, size, mode=mode, cval=3.0)
        np.testing.assert_array_equal(y, expected, strict=True)

    @pytest.mark.parametrize("size", [3, 40])
    def test_nan_and_infinity(self, cuda: Device, rng: np.random.Generator, size: int) -> None:
        x = signal(rng, (50, 4), np.float32)
        x[7, 1] = np.nan
        x[20:, 2] = np.inf
        x[20:, 3] = -np.inf
        y = cuda.get(temporal.median_filter(cuda.put(x), size))
        np.testing.assert_array_equal(y, reference.median_filter(x, size))

    def test_stream(self, cuda: Device, rng: np.random.Generator) -> None:
        x = signal(rng, (20, 6), np.uint8)
        ours = MedianFilter(5)
        there = cuda.put(x)
        chunks = [cuda.get(ours(there[a:b])) for a, b in ((0, 1), (1, 8), (8, 20))]
        np.testing.assert_array_equal(np.concatenate(chunks), MedianFilter(5)(x))


class TestMedian:
    @pytest.mark.parametrize("dtype", DTYPES)
    @pytest.mark.parametrize("steps", [1, 2, 7, 10, 97])
    @pytest.mark.parametrize("axis", [0, -1])
    def test_reference(
        self, cuda: Device, rng: np.random.Generator, steps: int, dtype: type, axis: int
    ) -> None:
        x = signal(rng, (steps, 5, 7), dtype)
        if axis == -1:
            x = np.moveaxis(x, 0, -1)
        y = cuda.get(temporal.median(cuda.put(x), axis))
        expected = np.median(x.astype(np.float64), axis)
        np.testing.assert_allclose(y, expected, rtol=1e-6, atol=1e-7)

    def test_too_long_for_shared_memory(self, cuda: Device, rng: np.random.Generator) -> None:
        x = signal(rng, (3100, 3), np.uint8)
        y = cuda.get(temporal.median(cuda.put(x)))
        np.testing.assert_array_equal(y, np.median(x, 0))

    def test_nan(self, cuda: Device) -> None:
        x = np.array([[1, np.nan], [2, 3], [3, 4]], np.float32)
        np.testing.assert_array_equal(cuda.get(temporal.median(cuda.put(x))), [2, np.nan])
