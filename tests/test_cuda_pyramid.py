"""Gaussian and Laplacian pyramids on a CUDA device."""

from typing import Any

import numpy as np
import pytest
from cuda_devices import Device
from marey import _device, pyramid
from marey.reference import pyramid as reference
from numpy.typing import NDArray
from tolerances import assert_close, assert_equal

SIZES = [(1, 1), (1, 7), (2, 2), (3, 2), (17, 1), (17, 33), (40, 97)]


def image(rng: np.random.Generator, shape: tuple[int, ...], dtype: type) -> NDArray[Any]:
    if dtype == np.uint8:
        return rng.integers(0, 256, shape, dtype=np.uint8)
    return rng.random(shape).astype(dtype)


@pytest.mark.parametrize(
    ("dtype", "channels"),
    [
        *((np.float32, channels) for channels in (None, 1, 3, 5)),
        (np.uint8, None),
        (np.uint8, 3),
        (np.float64, 3),
    ],
)
@pytest.mark.parametrize("size", SIZES)
class TestReference:
    @staticmethod
    def case(
        rng: np.random.Generator, size: tuple[int, int], channels: int | None, dtype: type
    ) -> tuple[NDArray[Any], int | None]:
        shape = size if channels is None else (*size, channels)
        return image(rng, (2, *shape), dtype), None if channels is None else -1

    def test_down(self, cuda: Device, rng: Any, size: Any, channels: Any, dtype: Any) -> None:
        x, axis = self.case(rng, size, channels, dtype)
        y = cuda.get(pyramid.down(cuda.put(x), channel_axis=axis))
        if dtype == np.uint8:
            assert_equal(y, reference.down(x, channel_axis=axis))
        else:
            assert_close(y, lambda d: reference.down(x, channel_axis=axis, dtype=d), "down")

    def test_up(self, cuda: Device, rng: Any, size: Any, channels: Any, dtype: Any) -> None:
        x, axis = self.case(rng, size, channels, dtype)
        h, w = size
        for shape in ((2 * h, 2 * w), (2 * h - 1, 2 * w + 1), (2 * h + 1, 2 * w - 1)):
            y = cuda.get(pyramid.up(cuda.put(x), shape, channel_axis=axis))
            if dtype == np.uint8:
                assert_equal(y, reference.up(x, shape, channel_axis=axis))
            else:
                assert_close(
                    y,
                    lambda d, shape=shape: reference.up(x, shape, channel_axis=axis, dtype=d),
                    "up",
                )

    def test_laplacian_and_collapse(
        self, cuda: Device, rng: Any, size: Any, channels: Any, dtype: Any
    ) -> None:
        x, axis = self.case(rng, size, channels, dtype)
        bands = pyramid.laplacian(cuda.put(x), 3, channel_axis=axis)
        scale = float(x.max())
        for k, band in enumerate(bands):
            assert_close(
                cuda.get(band),
                lambda d, k=k: reference.laplacian(x, 3, channel_axis=axis, dtype=d)[k],
                "laplacian",
                scale=scale,
            )
        y = cuda.get(pyramid.collapse(bands, channel_axis=axis))
        np.testing.assert_allclose(y, x, rtol=0, atol=4e-6 * max(scale, 1))


class TestViews:
    def test_a_part_of_a_batch_with_its_channels_in_front(
        self, cuda: Device, rng: np.random.Generator
    ) -> None:
        x = image(rng, (2, 3, 20, 30), np.float32)
        part = (slice(None), slice(None), slice(3, 17), slice(1, None, 2))
        y = cuda.get(pyramid.down(cuda.put(x)[part], channel_axis=1))
        assert_close(y, lambda d: reference.down(x[part], channel_axis=1, dtype=d), "down")

    def test_out(self, cuda: Device, rng: np.random.Generator) -> None:
        x = image(rng, (20, 30), np.float32)
        out = cuda.put(np.zeros((10, 15), np.float32))
        assert pyramid.down(cuda.put(x), channel_axis=None, out=out) is out
        expected = reference.down(x, channel_axis=None)
        np.testing.assert_allclose(cuda.get(out), expected, rtol=1e-5)

    def test_gaussian(self, cuda: Device, rng: np.random.Generator) -> None:
        x = image(rng, (20, 30), np.uint8)
        levels = [cuda.get(y) for y in pyramid.gaussian(cuda.put(x), 3, channel_axis=None)]
        expected = reference.gaussian(x, 3, channel_axis=None)
        for ours, theirs in zip(levels, expected, strict=True):
            assert_equal(ours, theirs)

    def test_levels_of_another_shape_or_type_or_in_one_place(self, cuda: Device) -> None:
        x = np.ones((8, 8), np.float32)
        there = cuda.put(x)
        double, half = (cuda.put(np.zeros(n, t)) for n, t in (((8, 8), "f8"), ((4, 4), "f4")))
        with pytest.raises(ValueError, match=r"gaussian\] out: expected shape \(8, 8\)"):
            pyramid.gaussian(there, 1, channel_axis=None, out=[half, half])
        with pytest.raises(TypeError, match=r"gaussian\] out: expected float32"):
            pyramid.gaussian(there, 1, channel_axis=None, out=[double, half])
        with pytest.raises(ValueError, match=r"gaussian\] out: expected memory that does not"):
            pyramid.gaussian(there, 1, channel_axis=None, out=[there, half])
        with pytest.raises(TypeError, match=r"laplacian\] out: expected float32"):
            pyramid.laplacian(there, 0, channel_axis=None, out=[double])
        with pytest.raises(TypeError, match=r"collapse\] out: expected float32"):
            pyramid.collapse([there], channel_axis=None, out=double)
        with pytest.raises(TypeError, match=r"collapse\] bands\[0\]: expected float32"):
            pyramid.collapse([cuda.put(x.astype(np.uint8))], channel_axis=None)
        (same,) = pyramid.laplacian(there, 0, channel_axis=None)
        y = cuda.get(pyramid.collapse([same], channel_axis=None))
        np.testing.assert_array_equal(y, x)

    def test_numbers_and_not_truth_values(self, cuda: Device) -> None:
        with pytest.raises(TypeError, match=r"image: expected dtype uint8.*; found bool"):
            pyramid.down(cuda.put(np.ones((8, 8), bool)), channel_axis=None)

    def test_a_result_that_is_broadcast(self, cuda: Device) -> None:
        x, row = cuda.put(np.ones((8, 8), np.float32)), cuda.put(np.zeros((1, 4), np.float32))
        library = _device.library_of(row)
        assert library is not None
        out = library.broadcast(row, (4, 4))
        with pytest.raises(ValueError, match="out: expected memory of its own for every item"):
            pyramid.down(x, channel_axis=None, out=out)

    def test_infinity_stays_where_it_is(self, cuda: Device) -> None:
        x = np.zeros((8, 8), np.float32)
        x[4, 4] = np.inf
        y = cuda.get(pyramid.up(cuda.put(x), channel_axis=None))
        assert np.isinf(y[7:10, 7:10]).all()
        assert np.isfinite(np.delete(y, range(6, 11), 0)).all()

    def test_wrong_shape_is_the_error_of_the_cpu(self, cuda: Device) -> None:
        x = np.zeros((8, 8), np.float32)
        with pytest.raises(ValueError, match="a height of 16") as ours:
            pyramid.up(cuda.put(x), (19, 16), channel_axis=None)
        with pytest.raises(ValueError, match="a height of 16") as cpu:
            pyramid.up(x, (19, 16), channel_axis=None)
        assert str(ours.value) == str(cpu.value)
