"""What all recurrent functions do with their arguments."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from marey import _arguments, _cpu
from marey._arrays import kernels, to_array, to_array_like

if TYPE_CHECKING:
    from collections.abc import Sequence

Array = np.ndarray[Any, Any]

WEIGHTS = ("weight_ih", "weight_hh", "bias_ih", "bias_hh", "peephole", "weight_hr", "layer_norm")
NORMS = ("norm_ih", "norm_hh", "norm_c")

# As csrc/ops/recurrent/kernels.h numbers the cells.
LSTM, GRU, GRU_BEFORE, RNN_TANH, RNN_RELU = range(5)


def gru_cell(function: str, reset: str) -> int:
    """Return the number of the GRU whose reset gate acts after or before the product."""
    _arguments.one_of(function, "reset", reset, ("after", "before"))
    return GRU if reset == "after" else GRU_BEFORE


def rnn_cell(function: str, nonlinearity: str) -> int:
    """Return the number of the RNN with this activation."""
    _arguments.one_of(function, "nonlinearity", nonlinearity, ("tanh", "relu"))
    return RNN_TANH if nonlinearity == "tanh" else RNN_RELU


def optional(function: str, argument: str, array: Any) -> Any:
    """Return an array that may be left out as compiled code takes it."""
    return None if array is None else to_array(function, argument, array)


def pack(function: str, cell: int, weights: Sequence[Any]) -> _cpu.CellWeights:
    """Check and pack the weights of one layer and direction, in the order of WEIGHTS.

    Those at the end may be left out.
    """
    missing: list[Any] = [None] * (len(WEIGHTS) - len(weights))
    weight_ih, weight_hh, bias_ih, bias_hh, peephole, weight_hr, layer_norm = [*weights, *missing]
    first = to_array(function, "weight_ih", weight_ih)
    packed: _cpu.CellWeights = kernels(function, first).CellWeights(
        function,
        cell,
        first,
        to_array_like(function, "weight_hh", weight_hh, first),
        optional(function, "bias_ih", bias_ih),
        optional(function, "bias_hh", bias_hh),
        optional(function, "peephole", peephole),
        optional(function, "weight_hr", weight_hr),
        norms(function, layer_norm),
    )
    return packed


def norms(function: str, layer_norm: Any) -> tuple[Any, ...] | None:
    """Return gains and bias of an LSTM's layer norm as the compiled code takes them."""
    if layer_norm is None:
        return None
    kinds = "(norm_ih, norm_hh, norm_c)"
    given = _arguments.items(function, "layer_norm", layer_norm, kinds)
    if len(given) != len(NORMS):
        raise ValueError(f"[{function}] layer_norm: expected {kinds}; found {len(given)} items")
    return tuple(to_array(function, name, a) for name, a in zip(NORMS, given, strict=True))


def lengths_array(function: str, lengths: Any) -> np.ndarray[Any, np.dtype[np.int64]] | None:
    """Return the lengths of sequences as the compiled code takes them."""
    if lengths is None:
        return None
    array = np.asarray(lengths)
    if array.dtype.kind not in "iu":
        raise TypeError(f"[{function}] lengths: expected integers; found {array.dtype}")
    return np.ascontiguousarray(array, np.int64)


def time_first(function: str, argument: str, array: Any, batch_first: bool) -> Any:
    """Return an array of three axes as (T, N, ...), a view."""
    source = to_array(function, argument, array)
    if source.ndim != 3:
        letters = "(N, T, I)" if batch_first else "(T, N, I)"
        raise ValueError(f"[{function}] {argument}: expected {letters}; found shape {source.shape}")
    return source.swapaxes(0, 1) if batch_first else source
