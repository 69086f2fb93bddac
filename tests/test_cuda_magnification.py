"""Linear magnification on a CUDA device."""

from typing import Any

import marey
import numpy as np
import pytest
from cuda_devices import Device


def video(rng: np.random.Generator, shape: tuple[int, ...], dtype: type) -> Any:
    if dtype == np.uint8:
        return rng.integers(0, 256, shape, dtype=np.uint8)
    return rng.random(shape, dtype=np.float32)


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
@pytest.mark.parametrize("shape", [(6, 33, 40, 3), (5, 17, 33)])
@pytest.mark.parametrize("mode", ["motion", "color"])
class TestTheSameAsOnTheCpu:
    def test_any_chunking(
        self, cuda: Device, rng: Any, mode: Any, shape: tuple[int, ...], dtype: type
    ) -> None:
        frames = video(rng, shape, dtype)
        options: Any = {
            "fs": 30,
            "low": 0.4,
            "high": 3,
            "alpha": 10,
            "mode": mode,
            "dtype": dtype,
            "levels": 3,
            "order": 2,
        }
        expected = marey.Magnifier(shape[1:], **options).feed(frames)
        there = cuda.put(frames)
        magnifier = marey.Magnifier(shape[1:], **options)
        chunks = [cuda.get(magnifier.feed(there[a:b])) for a, b in ((0, 1), (1, 4), (4, 4))]
        again = marey.Magnifier(shape[1:], **options)
        again.feed(there[:1])
        again.state = magnifier.state
        chunks.append(cuda.get(again.feed(there[4:])))
        tolerance = 1 if dtype == np.uint8 else 2e-5
        y = np.concatenate(chunks)
        assert y.dtype == expected.dtype
        np.testing.assert_allclose(y.astype(float), expected.astype(float), atol=tolerance)


class TestErrors:
    def test_other_methods(self, cuda: Device) -> None:
        magnifier = marey.Magnifier((32, 32), 30, 0.4, 3, 10, method="riesz")
        with pytest.raises(TypeError, match="expected an array in CPU memory for this method"):
            magnifier.feed(cuda.put(np.zeros((1, 32, 32), np.uint8)))

    def test_frames_elsewhere_than_those_before(self, cuda: Device) -> None:
        magnifier = marey.Magnifier((32, 32), 30, 0.4, 3, 10)
        magnifier.feed(cuda.put(np.zeros((1, 32, 32), np.uint8)))
        with pytest.raises(TypeError, match="as the stream so far"):
            magnifier.feed(np.zeros((1, 32, 32), np.uint8))
