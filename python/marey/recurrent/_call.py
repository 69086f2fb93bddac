"""What all recurrent functions do with their arguments."""

from __future__ import annotations

from typing import Any

import numpy as np

from marey import _arguments, _cpu
from marey._arrays import to_numpy

Array = np.ndarray[Any, Any]

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


def optional(function: str, argument: str, array: Any) -> Array | None:
    """Return an array that may be left out as NumPy's."""
    return None if array is None else to_numpy(function, argument, array)


def pack(
    function: str,
    cell: int,
    weight_ih: Any,
    weight_hh: Any,
    bias_ih: Any = None,
    bias_hh: Any = None,
    peephole: Any = None,
) -> _cpu.CellWeights:
    """Check and pack the weights of one layer and direction."""
    return _cpu.CellWeights(
        function,
        cell,
        to_numpy(function, "weight_ih", weight_ih),
        to_numpy(function, "weight_hh", weight_hh),
        optional(function, "bias_ih", bias_ih),
        optional(function, "bias_hh", bias_hh),
        optional(function, "peephole", peephole),
    )


def lengths_array(function: str, lengths: Any) -> np.ndarray[Any, np.dtype[np.int64]] | None:
    """Return the lengths of sequences as the compiled code takes them."""
    if lengths is None:
        return None
    array = np.asarray(lengths)
    if array.dtype.kind not in "iu":
        raise TypeError(f"[{function}] lengths: expected integers; found {array.dtype}")
    return np.ascontiguousarray(array, np.int64)


def time_first(function: str, argument: str, array: Any, batch_first: bool) -> Array:
    """Return an array of three axes as (T, N, ...), a view."""
    source = to_numpy(function, argument, array)
    if source.ndim != 3:
        letters = "(N, T, I)" if batch_first else "(T, N, I)"
        raise ValueError(f"[{function}] {argument}: expected {letters}; found shape {source.shape}")
    return source.swapaxes(0, 1) if batch_first else source
