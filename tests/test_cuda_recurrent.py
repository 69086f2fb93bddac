"""Recurrent networks on a CUDA device."""

from typing import Any

import numpy as np
import pytest
from cuda_devices import Device
from marey import _device, recurrent
from numpy.typing import NDArray

ml_dtypes = pytest.importorskip("ml_dtypes")

GATES = {"lstm": 4, "gru": 3, "rnn": 1}
TOLERANCE = {"float32": 2e-6, "float64": 1e-14, "bfloat16": 2**-7}


def arrays(
    rng: Any, kind: str, steps: int, rows: int, inputs: int, hidden: int, dtype: Any
) -> list[NDArray[Any]]:
    gates = GATES[kind] * hidden
    shapes = [(steps, rows, inputs), (gates, inputs), (gates, hidden), (gates,), (gates,)]
    return [(0.3 * rng.standard_normal(shape)).astype(dtype) for shape in shapes]


def check(cuda: Device, kind: str, parts: list[NDArray[Any]], **options: Any) -> None:
    """Compare with the CPU, in float64."""
    function = getattr(recurrent, kind)
    there = {k: cuda.put(v) if k in ("h0", "c0") else v for k, v in options.items()}
    ours = function(*map(cuda.put, parts), **there)
    wide = [x.astype(np.float64) for x in parts]
    here = {k: v.astype(np.float64) if k in ("h0", "c0") else v for k, v in options.items()}
    exact = function(*wide, **here)
    limit = TOLERANCE[parts[0].dtype.name]
    for got, expected in zip(_flat(ours), _flat(exact), strict=True):
        result = cuda.get(got)
        assert result.shape == expected.shape
        np.testing.assert_allclose(result.astype(np.float64), expected, rtol=limit, atol=4 * limit)


def _flat(results: Any) -> list[Any]:
    return [x for part in results for x in (_flat(part) if isinstance(part, tuple) else [part])]


@pytest.mark.parametrize("kind", ["lstm", "gru", "rnn"])
class TestTheSameAsOnTheCpu:
    @pytest.mark.parametrize("dtype", [np.float32, np.float64, ml_dtypes.bfloat16])
    @pytest.mark.parametrize(
        ("steps", "rows", "inputs", "hidden"),
        [(1, 1, 1, 1), (5, 3, 7, 17), (3, 35, 20, 33), (2, 130, 3, 18), (2, 2, 3, 136)],
    )
    def test_sizes(
        self,
        cuda: Device,
        rng: Any,
        steps: int,
        rows: int,
        inputs: int,
        hidden: int,
        dtype: Any,
        kind: str,
    ) -> None:
        check(cuda, kind, arrays(rng, kind, steps, rows, inputs, hidden, dtype))

    @pytest.mark.parametrize("reverse", [False, True])
    def test_lengths_and_direction(self, cuda: Device, rng: Any, reverse: bool, kind: str) -> None:
        parts = arrays(rng, kind, 6, 4, 5, 9, np.float32)
        options: dict[str, Any] = {"h0": rng.standard_normal((4, 9)).astype(np.float32)}
        if kind == "lstm":
            options["c0"] = rng.standard_normal((4, 9)).astype(np.float32)
        check(cuda, kind, parts, reverse=reverse, lengths=[6, 0, 3, 1], **options)

    def test_batch_first(self, cuda: Device, rng: Any, kind: str) -> None:
        parts = arrays(rng, kind, 6, 4, 5, 9, np.float32)
        check(cuda, kind, parts, batch_first=True)


def check_backward(
    cuda: Device,
    kind: str,
    parts: list[NDArray[Any]],
    rng: Any,
    *,
    keep: bool = False,
    **options: Any,
) -> None:
    """Compare all gradients with the CPU's, in float64."""
    x, _, weight = parts[:3]
    steps, rows = x.shape[1::-1] if options.get("batch_first") else x.shape[:2]
    hidden = weight.shape[1]
    shape = (rows, steps, hidden) if options.get("batch_first") else (steps, rows, hidden)
    grad = rng.standard_normal(shape).astype(x.dtype)
    states = {"h0": x.dtype, "grad_h": x.dtype}
    if kind == "lstm":
        real = np.dtype(np.float64 if x.dtype == np.float64 else np.float32)
        states |= {"c0": real, "grad_c": real}
    given = {k: rng.standard_normal((rows, hidden)).astype(t) for k, t in states.items()}
    backward = getattr(recurrent, f"{kind}_backward")
    there = {k: cuda.put(v) for k, v in given.items()}
    held = list(map(cuda.put, parts))
    if keep:
        before = {k: v for k, v in there.items() if k in ("h0", "c0")}
        forward = getattr(recurrent, kind)
        if kind == "rnn":
            there["y"] = forward(*held, **before, **options)[0]
        else:
            there["y"], _, there["kept"] = forward(*held, keep=True, **before, **options)
    ours = backward(cuda.put(grad), *held, **there, **options)
    wide = [a.astype(np.float64) for a in parts]
    here = {k: v.astype(np.float64) for k, v in given.items()}
    exact = backward(grad.astype(np.float64), *wide, **here, **options)
    # Of bfloat16 the states in between are rounded too.
    limit = {"float32": 5e-6, "float64": 1e-13, "bfloat16": 2**-5}[x.dtype.name]
    for name, got, expected in zip(ours._fields, ours, exact, strict=True):
        if expected is None:
            assert got is None
            continue
        result = cuda.get(got)
        assert result.shape == expected.shape
        assert result.dtype == (x.dtype if name in ("x", "h0") else np.result_type(x.dtype, "f4"))
        largest = max(float(np.abs(expected).max(initial=0)), 1)
        error = np.abs(result.astype(np.float64) - expected).max(initial=0)
        assert error <= limit * largest, name


@pytest.mark.parametrize("kind", ["lstm", "gru", "rnn"])
class TestBackward:
    @pytest.mark.parametrize("dtype", [np.float32, np.float64, ml_dtypes.bfloat16])
    @pytest.mark.parametrize(
        ("steps", "rows", "inputs", "hidden"),
        [(1, 1, 1, 1), (5, 3, 7, 17), (2, 130, 3, 66), (3, 18, 3, 136)],
    )
    def test_sizes(
        self,
        cuda: Device,
        rng: Any,
        steps: int,
        rows: int,
        inputs: int,
        hidden: int,
        dtype: Any,
        kind: str,
    ) -> None:
        parts = arrays(rng, kind, steps, rows, inputs, hidden, dtype)
        check_backward(cuda, kind, parts, rng)

    @pytest.mark.parametrize("reverse", [False, True])
    @pytest.mark.parametrize("keep", [False, True])
    def test_lengths_and_direction(
        self, cuda: Device, rng: Any, keep: bool, reverse: bool, kind: str
    ) -> None:
        parts = arrays(rng, kind, 6, 4, 5, 9, np.float32)
        check_backward(cuda, kind, parts, rng, keep=keep, reverse=reverse, lengths=[6, 0, 3, 1])

    def test_batch_first(self, cuda: Device, rng: Any, kind: str) -> None:
        parts = arrays(rng, kind, 4, 6, 5, 9, np.float32)
        check_backward(cuda, kind, parts, rng, batch_first=True)

    def test_gates_one_after_the_other(self, cuda: Device, rng: Any, kind: str) -> None:
        # Of an LSTM and a GRU the gradients of all gates do not fit beside the weights.
        check_backward(cuda, kind, arrays(rng, kind, 3, 2, 4, 192, np.float64), rng)

    def test_no_steps(self, cuda: Device, rng: Any, kind: str) -> None:
        check_backward(cuda, kind, arrays(rng, kind, 0, 3, 5, 9, np.float32), rng)


@pytest.mark.parametrize("dtype", [np.float32, ml_dtypes.bfloat16])
class TestAPartOfTheDevice:
    """A grid that the device would hold, and the part of it that this process has does not."""

    # 17 hidden units are three blocks of eight, or two of sixteen.
    @pytest.mark.parametrize(("multiprocessors", "refused"), [(3, 0), (2, 1), (1, 2)])
    def test_there_and_back(
        self, cuda: Device, rng: Any, multiprocessors: int, refused: int, dtype: Any
    ) -> None:
        module = _device.cuda_module()
        if not hasattr(module, "set_multiprocessors"):
            pytest.skip("a device is whole")
        before = module.refused_grids()
        module.set_multiprocessors(multiprocessors)
        try:
            check(cuda, "lstm", arrays(rng, "lstm", 3, 5, 7, 17, dtype))
            assert module.refused_grids() == before + refused
            check_backward(cuda, "lstm", arrays(rng, "lstm", 3, 5, 7, 17, dtype), rng)
            assert module.refused_grids() == before + 3 * refused  # there again, and back
        finally:
            module.set_multiprocessors()


class TestErrors:
    def test_checkpoints(self, cuda: Device, rng: Any) -> None:
        parts = list(map(cuda.put, arrays(rng, "lstm", 2, 2, 2, 2, np.float32)))
        with pytest.raises(ValueError, match="checkpoints: expected None on a CUDA device"):
            recurrent.lstm_backward(None, *parts, checkpoints=1)

    def test_what_there_is_no_kernel_for(self, cuda: Device, rng: Any) -> None:
        parts = list(map(cuda.put, arrays(rng, "gru", 2, 2, 2, 2, np.float32)))
        with pytest.raises(ValueError, match="reset: expected 'after' on a CUDA device"):
            recurrent.gru(*parts, reset="before")

    def test_weights_elsewhere(self, cuda: Device, rng: Any) -> None:
        x, *weights = arrays(rng, "lstm", 2, 2, 2, 2, np.float32)
        with pytest.raises(TypeError, match="weight_hh: expected an array on the CUDA device"):
            recurrent.lstm(cuda.put(x), cuda.put(weights[0]), *weights[1:])
