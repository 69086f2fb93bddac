"""Space-time convolution on a CUDA device."""

from typing import Any

import numpy as np
import pytest
from cuda_devices import Device
from marey import _device, conv
from marey.reference import conv as reference
from numpy.typing import NDArray

ml_dtypes = pytest.importorskip("ml_dtypes")

# Relative to the largest result: sums of up to a few hundred products, in another order.
TOLERANCE = {"float32": 2e-6, "float64": 1e-14, "bfloat16": 2**-8}


def check(
    cuda: Device, x: NDArray[Any], weight: NDArray[Any], bias: Any = None, **options: Any
) -> None:
    there = [cuda.put(a) for a in (x, weight)] + [None if bias is None else cuda.put(bias)]
    y = cuda.get(conv.conv3d(*there, **options))
    wide = [a.astype(np.float64) for a in (x, weight)]
    exact = reference.conv3d(*wide, None if bias is None else bias.astype(np.float64), **options)
    assert y.dtype == x.dtype
    assert y.shape == exact.shape
    largest = float(np.abs(exact).max()) if exact.size else 1.0
    limit = TOLERANCE[x.dtype.name] * max(largest, 1)
    assert np.abs(y.astype(np.float64) - exact).max(initial=0) <= limit


def arrays(
    rng: Any, x: tuple[int, ...], weight: tuple[int, ...], dtype: Any = np.float32
) -> list[NDArray[Any]]:
    return [rng.standard_normal(s).astype(dtype) for s in (x, weight, weight[:1])]


class TestReference:
    @pytest.mark.parametrize("dtype", [np.float32, np.float64, ml_dtypes.bfloat16])
    @pytest.mark.parametrize("layout", ["NCTHW", "NTHWC"])
    @pytest.mark.parametrize("kernel", [(1, 1, 1), (3, 3, 3), (1, 3, 2), (3, 1, 1)])
    def test_types_and_layouts(
        self, cuda: Device, rng: Any, kernel: Any, layout: Any, dtype: Any
    ) -> None:
        x, weight, bias = arrays(rng, (2, 5, 4, 7, 9), (70, 5, *kernel), dtype)
        if layout == "NTHWC":
            x = np.ascontiguousarray(np.moveaxis(x, 1, -1))
        check(cuda, x, weight, bias, layout=layout, padding=1)

    @pytest.mark.parametrize("groups", [1, 2, 6])
    @pytest.mark.parametrize("stride", [1, (1, 2, 3)])
    @pytest.mark.parametrize("dilation", [1, (2, 1, 2)])
    def test_options(self, cuda: Device, rng: Any, dilation: Any, stride: Any, groups: int) -> None:
        x, weight, _ = arrays(rng, (1, 6, 6, 8, 11), (12, 6 // groups, 2, 3, 3))
        check(cuda, x, weight, stride=stride, dilation=dilation, groups=groups, padding=(1, 2, 0))

    @pytest.mark.parametrize("activation", ["relu", "gelu", "silu"])
    def test_activations(self, cuda: Device, rng: Any, activation: Any) -> None:
        x, weight, bias = arrays(rng, (1, 3, 3, 5, 5), (4, 3, 2, 2, 2))
        check(cuda, x, weight, bias, activation=activation)

    def test_nothing(self, cuda: Device) -> None:
        x = cuda.put(np.zeros((0, 3, 3, 5, 5), np.float32))
        y = conv.conv3d(x, cuda.put(np.zeros((4, 3, 2, 2, 2), np.float32)))
        assert cuda.get(y).shape == (0, 4, 2, 4, 4)

    def test_frames_of_a_stream(self, cuda: Device, rng: Any) -> None:
        x, weight, _ = arrays(rng, (2, 3, 6, 5, 5), (4, 3, 3, 2, 2))
        exact = reference.conv3d(x.astype(float), weight.astype(float))
        take = [
            _device.take("test", "x", cuda.put(a), _device.library_of(cuda.put(a)))  # type: ignore[arg-type]
            for a in (x[:, :, 2:], x[:, :, :2], weight)
        ]
        packed = _device.kernels("test").Conv3d(
            "test", take[2], None, (1, 1, 1), (0,) * 6, (1, 1, 1), 1, False, 0, 0
        )
        y = cuda.get(packed(take[0], take[1], None))
        np.testing.assert_allclose(y, exact, rtol=0, atol=2e-6 * np.abs(exact).max())


class TestErrors:
    def test_those_of_the_cpu(self, cuda: Device) -> None:
        x = np.zeros((1, 3, 3, 5, 5), np.float32)
        weight = np.zeros((4, 2, 2, 2, 2), np.float32)
        with pytest.raises(ValueError, match="x: expected 2 channels") as there:
            conv.conv3d(cuda.put(x), cuda.put(weight))
        with pytest.raises(ValueError, match="x: expected 2 channels") as here:
            conv.conv3d(x, weight)
        assert str(there.value) == str(here.value)
