"""What the gate checks and times: one kernel on one shape."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from bench.gpu_gate.libraries import Array, item_size, numbers

if TYPE_CHECKING:
    from collections.abc import Callable


@dataclass(frozen=True)
class Work:
    """One kernel on one shape.

    Attributes
    ----------
    inputs : dict
        Shapes and types.
    run : callable
        ``run(*inputs, out)`` writes to `out`.
    out : (shape, dtype)
        Of the result.
    reference : callable
        The same of NumPy arrays, in float64.
    tolerance : float
        Largest error, as a share of the largest exact value.
    bytes, flops : float
        What must be read and written, and computed; for a benchmark.
    peer : str
        "copy", or torch's "sdpa", "conv3d" or "lstm"; with " backward", there and back.
    target : float
        The share of the peer's rate that is wanted at first.
    """

    name: str
    inputs: tuple[tuple[tuple[int, ...], str], ...]
    run: Callable[..., Any]
    out: tuple[tuple[int, ...], str]
    reference: Callable[..., Array] | None = None
    tolerance: float = 1e-5
    bytes: float = 0.0
    flops: float = 0.0
    peer: str = "copy"
    target: float = 0.85
    options: dict[str, Any] = field(default_factory=dict)

    def arrays(self) -> list[Array]:
        return [numbers(shape, dtype, k) for k, (shape, dtype) in enumerate(self.inputs)]


def nbytes(*arrays: tuple[tuple[int, ...], str]) -> float:
    return float(
        sum(np.prod(shape, dtype=np.float64) * item_size(dtype) for shape, dtype in arrays)
    )


def copied(out: Any, result: Any) -> None:
    out[...] = result
