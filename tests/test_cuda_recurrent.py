"""Recurrent networks on a CUDA device, forward."""

from typing import Any

import numpy as np
import pytest
from cuda_devices import Device
from marey import recurrent
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
        ("steps", "rows", "inputs", "hidden"), [(1, 1, 1, 1), (5, 3, 7, 17), (3, 70, 20, 33)]
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


class TestErrors:
    def test_what_there_is_no_kernel_for(self, cuda: Device, rng: Any) -> None:
        parts = list(map(cuda.put, arrays(rng, "gru", 2, 2, 2, 2, np.float32)))
        with pytest.raises(ValueError, match="reset: expected 'after' on a CUDA device"):
            recurrent.gru(*parts, reset="before")

    def test_weights_elsewhere(self, cuda: Device, rng: Any) -> None:
        x, *weights = arrays(rng, "lstm", 2, 2, 2, 2, np.float32)
        with pytest.raises(TypeError, match="weight_hh: expected an array on the CUDA device"):
            recurrent.lstm(cuda.put(x), cuda.put(weights[0]), *weights[1:])
