"""Space-time convolution on a CUDA device."""

from typing import Any

import numpy as np
import pytest
from cuda_devices import Device, Recorder
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

    @pytest.mark.parametrize("groups", [1, 6])
    @pytest.mark.parametrize(("stride", "dilation"), [(1, (2, 1, 2)), ((1, 2, 3), 1), (2, 2)])
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


def check_backward(
    cuda: Device, x: NDArray[Any], weight: NDArray[Any], layout: str = "NCTHW", **options: Any
) -> None:
    """Compare with the CPU, in float64."""
    wide = [a.astype(np.float64) for a in (x, weight)]
    shape = conv.conv3d(*wide, layout=layout, **options).shape
    grad = np.random.default_rng(1).standard_normal(shape).astype(x.dtype)
    ours = conv.conv3d_backward(*map(cuda.put, (grad, x, weight)), layout=layout, **options)
    exact = conv.conv3d_backward(grad.astype(np.float64), *wide, layout=layout, **options)
    for mine, expected in zip(ours, exact, strict=True):
        result = cuda.get(mine)
        assert result.dtype == x.dtype
        assert result.shape == expected.shape
        largest = max(float(np.abs(expected).max(initial=0)), 1)
        limit = TOLERANCE[x.dtype.name] * largest
        assert np.abs(result.astype(np.float64) - expected).max(initial=0) <= limit


class TestBackward:
    @pytest.mark.parametrize("dtype", [np.float32, np.float64, ml_dtypes.bfloat16])
    @pytest.mark.parametrize("layout", ["NCTHW", "NTHWC"])
    @pytest.mark.parametrize("kernel", [(1, 1, 1), (3, 2, 1)])
    def test_types_and_layouts(
        self, cuda: Device, rng: Any, kernel: Any, layout: Any, dtype: Any
    ) -> None:
        x, weight, _ = arrays(rng, (2, 5, 4, 7, 6), (70, 5, *kernel), dtype)
        if layout == "NTHWC":
            x = np.ascontiguousarray(np.moveaxis(x, 1, -1))
        check_backward(cuda, x, weight, layout, padding=1)

    @pytest.mark.parametrize("groups", [1, 3])
    @pytest.mark.parametrize(
        ("stride", "dilation"), [(1, (2, 3, 2)), ((1, 2, 3), (2, 3, 2)), (4, 1)]
    )
    def test_options(self, cuda: Device, rng: Any, dilation: Any, stride: Any, groups: int) -> None:
        # With a stride of 4 some inputs meet no tap: their gradient is zero.
        x, weight, _ = arrays(rng, (1, 6, 6, 9, 11), (9, 6 // groups, 2, 3, 3))
        check_backward(
            cuda, x, weight, stride=stride, dilation=dilation, groups=groups, padding=(1, 2, 0)
        )

    def test_positions_in_parts(self, cuda: Device, rng: Any) -> None:
        x, weight, _ = arrays(rng, (3, 2, 5, 20, 19), (3, 2, 1, 3, 3))
        check_backward(cuda, x, weight, padding=(0, 1, 1))

    def test_only_what_is_asked_for(self, cuda: Device, rng: Any) -> None:
        x, weight, _ = arrays(rng, (1, 2, 3, 5, 4), (3, 2, 2, 2, 2))
        grad = np.ones((1, 3, 2, 4, 3), np.float32)
        there = list(map(cuda.put, (grad, x, weight)))
        whole = [cuda.get(g) for g in conv.conv3d_backward(*there)]
        for k in range(3):
            needs = tuple(i == k for i in range(3))
            some = conv.conv3d_backward(*there, needs=needs)
            assert [g is None for g in some] == [not need for need in needs]
            assert np.array_equal(cuda.get(some[k]), whole[k])

    def test_nothing(self, cuda: Device) -> None:
        x, weight = np.zeros((0, 2, 3, 5, 4), np.float32), np.ones((3, 2, 1, 1, 1), np.float32)
        grad = np.zeros((0, 3, 3, 5, 4), np.float32)
        grads = conv.conv3d_backward(*map(cuda.put, (grad, x, weight)))
        assert cuda.get(grads[0]).shape == x.shape
        assert (cuda.get(grads[1]) == 0).all()
        assert (cuda.get(grads[2]) == 0).all()

    def test_a_gradient_of_another_shape(self, cuda: Device, rng: Any) -> None:
        x, weight, _ = arrays(rng, (1, 2, 3, 5, 4), (3, 2, 2, 2, 2))
        with pytest.raises(ValueError, match="grad: expected shape"):
            conv.conv3d_backward(*map(cuda.put, (x, x, weight)))


class TestTensorCores:
    """bfloat16 with channels side by side, eight of them or more: the kernel for Hopper."""

    @pytest.mark.parametrize(
        ("channels", "filters", "groups", "kernel"),
        [
            (8, 3, 1, (3, 3, 3)),
            (24, 130, 1, (1, 3, 2)),
            (72, 16, 1, (1, 1, 1)),
            (72, 16, 1, (1, 2, 2)),  # all stages of shared memory are used again
            (16, 6, 2, (3, 3, 3)),
        ],
    )
    def test_forward_and_backward(
        self, cuda: Device, rng: Any, channels: int, filters: int, groups: int, kernel: Any
    ) -> None:
        x, weight, bias = arrays(
            rng,
            (2, 3, 7, 9, channels),
            (filters, channels // groups, *kernel),
            ml_dtypes.bfloat16,
        )
        bias = rng.standard_normal(filters).astype(ml_dtypes.bfloat16)
        options: dict[str, Any] = {"layout": "NTHWC", "padding": 1, "groups": groups}
        check(cuda, x, weight, bias, activation="relu", **options)
        check_backward(cuda, x, weight, stride=(1, 2, 1), dilation=(2, 1, 1), **options)

    def test_a_stream(self, cuda: Device, rng: Any) -> None:
        x, weight, _ = arrays(rng, (1, 6, 5, 6, 8), (9, 8, 3, 2, 2), ml_dtypes.bfloat16)
        wide = [a.astype(np.float64) for a in (x, weight)]
        whole, _ = conv.causal_conv3d(*wide, layout="NTHWC")
        state, parts = None, []
        for chunk in np.split(x, [1, 5], axis=1):
            y, state = conv.causal_conv3d(
                cuda.put(chunk), cuda.put(weight), state=state, layout="NTHWC"
            )
            parts.append(cuda.get(y).astype(np.float64))
        limit = 2**-7 * np.abs(whole).max()
        np.testing.assert_allclose(np.concatenate(parts, 1), whole, rtol=0, atol=limit)

    @pytest.mark.parametrize(
        ("layout", "channels", "dtype", "expected"),
        [
            ("NTHWC", 8, ml_dtypes.bfloat16, "sm90"),
            ("NTHWC", 12, ml_dtypes.bfloat16, "generic"),
            ("NCTHW", 8, ml_dtypes.bfloat16, "generic"),
            ("NTHWC", 8, np.float32, "generic"),
        ],
    )
    def test_which_kernel_runs(
        self,
        cuda: Device,
        layout: Any,
        channels: int,
        dtype: Any,
        expected: str,
        monkeypatch: Any,
    ) -> None:
        if not cuda.has_hopper:
            pytest.skip("not a Hopper device")
        recorder = Recorder(_device.cuda_module(), "conv3d")
        monkeypatch.setattr(_device, "_module", recorder)
        x = np.ones((1, channels, channels, channels, channels), dtype)
        conv.conv3d(*map(cuda.put, (x, np.ones((3, channels, 1, 1, 1), dtype))), layout=layout)
        assert recorder.kernels == [expected]


class TestStream:
    @pytest.mark.parametrize("layout", ["NCTHW", "NTHWC"])
    def test_chunks_give_the_result_of_one_call(self, cuda: Device, rng: Any, layout: Any) -> None:
        x, weight, bias = arrays(rng, (2, 3, 7, 5, 4), (4, 3, 3, 2, 2))
        time = 2
        if layout == "NTHWC":
            x, time = np.ascontiguousarray(np.moveaxis(x, 1, -1)), 1
        made = conv.CausalConv3d(cuda.put(weight), cuda.put(bias), layout=layout)
        whole, last = conv.causal_conv3d(x, weight, bias, layout=layout)
        state, parts = None, []
        for chunk in np.split(x, [1, 2, 2, 6], axis=time):
            y, state = made(cuda.put(chunk), state)
            parts.append(cuda.get(y))
        y = np.concatenate(parts, axis=time)
        np.testing.assert_allclose(y, whole, rtol=0, atol=2e-6 * np.abs(whole).max())
        assert np.array_equal(cuda.get(state), last)


class TestErrors:
    def test_those_of_the_cpu(self, cuda: Device) -> None:
        x = np.zeros((1, 3, 3, 5, 5), np.float32)
        weight = np.zeros((4, 2, 2, 2, 2), np.float32)
        with pytest.raises(ValueError, match="x: expected 2 channels") as there:
            conv.conv3d(cuda.put(x), cuda.put(weight))
        with pytest.raises(ValueError, match="x: expected 2 channels") as here:
            conv.conv3d(x, weight)
        assert str(there.value) == str(here.value)
