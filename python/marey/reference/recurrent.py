"""Recurrent networks, one frame after the other."""

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

__all__ = ["gru", "gru_step", "lstm", "lstm_step", "rnn", "rnn_step"]


def _sigmoid(x: NDArray[Any]) -> NDArray[Any]:
    one = x.dtype.type(1)
    return np.asarray(one / (one + np.exp(-x)))


def _normalised(x: NDArray[Any]) -> NDArray[Any]:
    d = x - x.mean(axis=-1, keepdims=True)
    return np.asarray(d / np.sqrt((d * d).mean(axis=-1, keepdims=True) + d.dtype.type(1e-5)))


def lstm_step(
    x: NDArray[Any],
    h: NDArray[Any],
    c: NDArray[Any],
    weight_ih: NDArray[Any],
    weight_hh: NDArray[Any],
    bias_ih: Any = 0,
    bias_hh: Any = 0,
    peephole: Any = None,
    weight_hr: Any = None,
    layer_norm: Any = None,
) -> tuple[NDArray[Any], NDArray[Any]]:
    """Take one step of a long short-term memory, in the type of its arrays.

    ::

        i, f, o = sigmoid(W x + U h + b)        with peepholes + p c, of the next c for o
        g = tanh(W x + U h + b)
        c = f c + i g
        h = o tanh(c)                           with a projection V (o tanh(c))

    With layer norm, W x, U h and the c in the last line are normalised.
    """
    from_x, from_h = x @ weight_ih.T, h @ weight_hh.T
    if layer_norm is not None:
        gain_x, gain_h, (gain_c, bias_c) = layer_norm
        from_x, from_h = gain_x * _normalised(from_x), gain_h * _normalised(from_h)
    i, f, g, o = np.split(from_x + from_h + (bias_ih + bias_hh), 4, axis=-1)
    p_i, p_f, p_o = np.zeros((3, 1), x.dtype) if peephole is None else peephole
    i, f, g = _sigmoid(i + p_i * c), _sigmoid(f + p_f * c), np.tanh(g)
    c = f * c + i * g
    shown = c if layer_norm is None else gain_c * _normalised(c) + bias_c
    h = _sigmoid(o + p_o * c) * np.tanh(shown)
    return (h if weight_hr is None else h @ weight_hr.T), c


def gru_step(
    x: NDArray[Any],
    h: NDArray[Any],
    weight_ih: NDArray[Any],
    weight_hh: NDArray[Any],
    bias_ih: Any = 0,
    bias_hh: Any = 0,
    reset: str = "after",
) -> NDArray[Any]:
    """Take one step of a gated recurrent unit, in the type of its arrays.

    ::

        r, z = sigmoid(W x + b + U h + b')
        n = tanh(W x + b + r (U h + b'))        after
        n = tanh(W x + b + U (r h) + b')        before
        h = (1 - z) n + z h
    """
    H = h.shape[-1]
    from_x = x @ weight_ih.T + bias_ih
    from_h = h @ weight_hh.T + bias_hh
    r, z = np.split(_sigmoid((from_x + from_h)[..., : 2 * H]), 2, axis=-1)
    if reset == "after":
        n = np.tanh(from_x[..., 2 * H :] + r * from_h[..., 2 * H :])
    else:
        n = np.tanh(((r * h) @ weight_hh.T + bias_hh + from_x)[..., 2 * H :])
    return np.asarray((1 - z) * n + z * h)


def rnn_step(
    x: NDArray[Any],
    h: NDArray[Any],
    weight_ih: NDArray[Any],
    weight_hh: NDArray[Any],
    bias_ih: Any = 0,
    bias_hh: Any = 0,
    nonlinearity: str = "tanh",
) -> NDArray[Any]:
    """Take one step of a vanilla network, in the type of its arrays: tanh(W x + U h + b)."""
    sums = x @ weight_ih.T + h @ weight_hh.T + (bias_ih + bias_hh)
    return np.asarray(np.tanh(sums) if nonlinearity == "tanh" else np.maximum(sums, 0))


def _run(
    step: Any,
    x: ArrayLike,
    weights: tuple[Any, ...],
    states: tuple[Any, ...],
    lengths: Any,
    reverse: bool,
    dtype: DTypeLike,
    **options: Any,
) -> Any:
    """Go through the frames of each sequence by itself."""
    x = np.asarray(x).astype(dtype)
    arrays = [np.asarray(0 if w is None else w).astype(dtype) for w in weights]
    T, N, _ = x.shape
    P = arrays[1].shape[1]  # of h; c has H
    H = P if options.get("weight_hr") is None else options["weight_hr"].shape[1]
    start = [
        np.zeros((N, size), dtype) if s is None else np.array(s, dtype)
        for s, size in zip(states, (P, H), strict=False)
    ]
    y = np.zeros((T, N, P), dtype)
    ends = [s.copy() for s in start]
    for n in range(N):
        frames = range(T if lengths is None else int(lengths[n]))
        state = tuple(s[n] for s in start)
        for t in reversed(frames) if reverse else frames:
            result = step(x[t, n], *state, *arrays, **options)
            state = result if isinstance(result, tuple) else (result,)
            y[t, n] = state[0]
        for end, s in zip(ends, state, strict=True):
            end[n] = s
    return y, *ends


def lstm(
    x: ArrayLike,
    weight_ih: ArrayLike,
    weight_hh: ArrayLike,
    bias_ih: Any = None,
    bias_hh: Any = None,
    *,
    h0: Any = None,
    c0: Any = None,
    lengths: Any = None,
    reverse: bool = False,
    peephole: Any = None,
    weight_hr: Any = None,
    layer_norm: Any = None,
    dtype: DTypeLike = np.float64,
) -> tuple[NDArray[Any], tuple[NDArray[Any], NDArray[Any]]]:
    """Run a long short-term memory over (T, N, I); as `marey.recurrent.lstm`."""
    options: dict[str, Any] = {
        name: None if array is None else np.asarray(array).astype(dtype)
        for name, array in (("peephole", peephole), ("weight_hr", weight_hr))
    }
    if layer_norm is not None:
        options["layer_norm"] = [np.asarray(array).astype(dtype) for array in layer_norm]
    weights = (weight_ih, weight_hh, bias_ih, bias_hh)
    y, h, c = _run(lstm_step, x, weights, (h0, c0), lengths, reverse, dtype, **options)
    return y, (h, c)


def gru(
    x: ArrayLike,
    weight_ih: ArrayLike,
    weight_hh: ArrayLike,
    bias_ih: Any = None,
    bias_hh: Any = None,
    *,
    h0: Any = None,
    lengths: Any = None,
    reverse: bool = False,
    reset: str = "after",
    dtype: DTypeLike = np.float64,
) -> tuple[NDArray[Any], NDArray[Any]]:
    """Run a gated recurrent unit over (T, N, I); as `marey.recurrent.gru`."""
    weights = (weight_ih, weight_hh, bias_ih, bias_hh)
    y, h = _run(gru_step, x, weights, (h0,), lengths, reverse, dtype, reset=reset)
    return y, h


def rnn(
    x: ArrayLike,
    weight_ih: ArrayLike,
    weight_hh: ArrayLike,
    bias_ih: Any = None,
    bias_hh: Any = None,
    *,
    h0: Any = None,
    lengths: Any = None,
    reverse: bool = False,
    nonlinearity: str = "tanh",
    dtype: DTypeLike = np.float64,
) -> tuple[NDArray[Any], NDArray[Any]]:
    """Run a vanilla network over (T, N, I); as `marey.recurrent.rnn`."""
    weights = (weight_ih, weight_hh, bias_ih, bias_hh)
    y, h = _run(rnn_step, x, weights, (h0,), lengths, reverse, dtype, nonlinearity=nonlinearity)
    return y, h
