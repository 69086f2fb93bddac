"""One step at a time, for streams: the state lives with the caller."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np

from marey import _arguments, _cpu
from marey._arrays import from_numpy_like, to_numpy
from marey.recurrent import _call

_step = _cpu.recurrent_step


def _general(
    function: str,
    cell: int,
    x: Any,
    h: Any,
    c: Any,
    weights: tuple[Any, ...],
    h_out: Any,
    c_out: Any,
) -> Any:
    """Take a step with arrays of any kind."""
    names = ("weight_ih", "weight_hh", "bias_ih", "bias_hh", "peephole")
    step: Any = _step
    result = step(
        function,
        cell,
        to_numpy(function, "x", x),
        to_numpy(function, "h", h),
        None if cell != _call.LSTM else to_numpy(function, "c", c),
        *(
            array if array is None and k >= 2 else to_numpy(function, names[k], array)
            for k, array in enumerate(weights)
        ),
        _call.optional(function, "out", h_out),
        _call.optional(function, "out", c_out),
    )
    convert = from_numpy_like(x)
    if cell != _call.LSTM:
        return convert(result) if h_out is None else h_out
    return (
        convert(result[0]) if h_out is None else h_out,
        convert(result[1]) if c_out is None else c_out,
    )


def lstm_step(
    x: Any,
    h: Any,
    c: Any,
    weight_ih: Any,
    weight_hh: Any,
    bias_ih: Any = None,
    bias_hh: Any = None,
    *,
    peephole: Any = None,
    out: Any = None,
) -> Any:
    """Take one step of a long short-term memory.

    Nothing is packed and nothing is allocated but the results: a call costs a few microseconds and
    reading the weights once.

    Parameters
    ----------
    x : array, (N, I)
        The frame: float32, float64 or bfloat16.
    h, c : array, (N, H)
        The state; `c` is float32 for bfloat16, its last axis contiguous.
    weight_ih, weight_hh, bias_ih, bias_hh, peephole
        As for `lstm`, but with contiguous rows.
    out : (h, c), optional
        Where to write the next state: other arrays, or the state itself.

    Returns
    -------
    (h, c) : arrays, (N, H)
        The next state.

    Raises
    ------
    TypeError, ValueError
        As `lstm`.

    Notes
    -----
    Sums are taken in another order than by `lstm`, so that results differ by rounding.

    Examples
    --------
    >>> import marey, numpy as np
    >>> rng = np.random.default_rng(0)
    >>> w, u = rng.random((4 * 64, 32), np.float32), rng.random((4 * 64, 64), np.float32)
    >>> h = c = np.zeros((1, 64), np.float32)
    >>> for frame in rng.random((10, 1, 32), np.float32):
    ...     h, c = marey.recurrent.lstm_step(frame, h, c, w, u)
    >>> h.shape
    (1, 64)
    """
    h_out, c_out = (None, None) if out is None else _pair("marey.lstm_step", out)
    if type(x) is type(h) is np.ndarray:
        # The quick way, when no array needs converting: the compiled code checks the others.
        return _step(
            "marey.lstm_step", 0, x, h, c, weight_ih, weight_hh, bias_ih, bias_hh, peephole,
            h_out, c_out,
        )  # fmt: skip
    weights = (weight_ih, weight_hh, bias_ih, bias_hh, peephole)
    return _general("marey.lstm_step", _call.LSTM, x, h, c, weights, h_out, c_out)


def _pair(function: str, out: Any) -> tuple[Any, Any]:
    pair = _arguments.items(function, "out", out, "a pair (h, c)")
    if len(pair) != 2:
        raise ValueError(f"[{function}] out: expected a pair (h, c); found {len(pair)} items")
    return pair


def gru_step(
    x: Any,
    h: Any,
    weight_ih: Any,
    weight_hh: Any,
    bias_ih: Any = None,
    bias_hh: Any = None,
    *,
    reset: Literal["after", "before"] = "after",
    out: Any = None,
) -> Any:
    """Take one step of a gated recurrent unit.

    Parameters
    ----------
    x : array, (N, I)
        The frame: float32, float64 or bfloat16.
    h : array, (N, H)
        The state.
    weight_ih, weight_hh, bias_ih, bias_hh, reset
        As for `gru`, but with contiguous rows.
    out : array, (N, H), optional
        Where to write the next state; `h` itself is allowed.

    Returns
    -------
    array, (N, H)
        The next state.

    Raises
    ------
    TypeError, ValueError
        As `gru`.
    """
    name = "marey.gru_step"
    weights = (weight_ih, weight_hh, bias_ih, bias_hh, None)
    return _general(name, _call.gru_cell(name, reset), x, h, None, weights, out, None)


def rnn_step(
    x: Any,
    h: Any,
    weight_ih: Any,
    weight_hh: Any,
    bias_ih: Any = None,
    bias_hh: Any = None,
    *,
    nonlinearity: Literal["tanh", "relu"] = "tanh",
    out: Any = None,
) -> Any:
    """Take one step of a vanilla recurrent network.

    Parameters
    ----------
    x : array, (N, I)
        The frame: float32, float64 or bfloat16.
    h : array, (N, H)
        The state.
    weight_ih, weight_hh, bias_ih, bias_hh, nonlinearity
        As for `rnn`, but with contiguous rows.
    out : array, (N, H), optional
        Where to write the next state; `h` itself is allowed.

    Returns
    -------
    array, (N, H)
        The next state.

    Raises
    ------
    TypeError, ValueError
        As `rnn`.
    """
    name = "marey.rnn_step"
    weights = (weight_ih, weight_hh, bias_ih, bias_hh, None)
    return _general(name, _call.rnn_cell(name, nonlinearity), x, h, None, weights, out, None)
