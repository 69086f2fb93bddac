"""One layer and direction over sequences."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from marey._arrays import empty_like, from_numpy_like
from marey.recurrent import _call

if TYPE_CHECKING:
    from collections.abc import Sequence


def run_sequence(
    function: str,
    cell: int,
    weights: Sequence[Any],
    x: Any,
    h0: Any,
    c0: Any,
    lengths: Any,
    reverse: bool,
    batch_first: bool,
    keep: bool,
    out: Any,
) -> tuple[Any, Any, Any, Any]:
    """Return y, h_n, c_n and what was kept, as the kind of `x`."""
    source = _call.time_first(function, "x", x, batch_first)
    packed = _call.pack(function, cell, weights)
    if out is not None:
        target = _call.time_first(function, "out", out, batch_first)
    elif batch_first:
        T, N, _ = source.shape
        target = empty_like(source, (N, T, packed.state), source.dtype).swapaxes(0, 1)
    else:
        target = None
    y, h_n, c_n, kept = packed.run(
        function,
        source,
        _call.optional(function, "h0", h0),
        _call.optional(function, "c0", c0),
        _call.lengths_array(function, lengths),
        reverse,
        keep,
        target,
    )
    convert = from_numpy_like(x)
    result = out if out is not None else convert(y.swapaxes(0, 1) if batch_first else y)
    return (
        result,
        convert(h_n),
        None if c_n is None else convert(c_n),
        None if kept is None else convert(kept),
    )


def lstm(
    x: Any,
    weight_ih: Any,
    weight_hh: Any,
    bias_ih: Any = None,
    bias_hh: Any = None,
    *,
    h0: Any = None,
    c0: Any = None,
    lengths: Any = None,
    reverse: bool = False,
    batch_first: bool = False,
    peephole: Any = None,
    weight_hr: Any = None,
    layer_norm: Any = None,
    keep: bool = False,
    out: Any = None,
) -> Any:
    r"""Run a long short-term memory over sequences.

    .. math::
        i, f, o &= \sigma(W x_t + U h_{t-1} + b), \quad g = \tanh(W x_t + U h_{t-1} + b) \\
        c_t &= f c_{t-1} + i g, \quad h_t = o \tanh(c_t)

    With `weight_hr`, :math:`h_t = V (o \tanh(c_t))`, of size P [3]_, as torch's ``proj_size``. With
    `layer_norm` [4]_, :math:`N_x(W x_t) + N_h(U h_{t-1}) + b` stands for the sums and
    :math:`N_c(c_t)` for :math:`c_t` inside the tanh, where

    .. math::
        N(a) = \gamma (a - \operatorname{mean} a) / \sqrt{\operatorname{var} a + 10^{-5}} (+ \beta)

    over the four gates of a product together, or over the cell state.

    Parameters
    ----------
    x : array, (T, N, I)
        The sequences: float32, float64 or bfloat16, any strides. (N, T, I) with `batch_first`.
    weight_ih : array, (4 * H, I)
        W, the gates i, f, g, o below each other; of the type of `x`, as all weights.
    weight_hh : array, (4 * H, H)
        U. (4 * H, P) with `weight_hr`.
    bias_ih, bias_hh : array, (4 * H,), optional
        Added up to b. With `layer_norm` they are the biases of the two normalised products.
    h0 : array, (N, H), optional
        The state before the first step, of the type of `x`. Default: zeros.
    c0 : array, (N, H), optional
        The cell state before the first step: float32 for bfloat16.
    lengths : array of int, (N,), optional
        How many steps of each sequence are real; 0 to T, in any order. The others cost nothing:
        their results are zeros, and the final states are those after the last real step.
    reverse : bool
        Whether to go from the last (real) step to the first.
    batch_first : bool
        Whether `x` and the result are (N, T, ...). Costs nothing.
    peephole : array, (3, H), optional
        Weights of c_{t-1} in i and f, and of c_t in o [2]_, in this order.
    weight_hr : array, (P, H), optional
        V, the projection. h and y have the size P then.
    layer_norm : (norm_ih, norm_hh, norm_c), optional
        Gains (4 * H,) of the products with x and with h; and gain and bias of the cell state,
        (2, H). The state c itself is handed on as it is, as published; torch's example of a
        ``LayerNormLSTMCell`` hands on the normalised one.
    keep : bool
        Whether to return what `lstm_backward` would otherwise compute again: 5 numbers for each
        step and unit, 1 more with `weight_hr` and 10 more with `layer_norm`.
    out : array, (T, N, H), optional
        Where to write the result; its last axis contiguous.

    Returns
    -------
    y : array, (T, N, H)
        h of all steps, of the type of `x`.
    (h_n, c_n) : arrays, (N, H)
        The states after the last step. c_n is float32 for bfloat16.
    kept : array
        Only with `keep`: opaque.

    Raises
    ------
    TypeError
        If an argument is not an array, or of another type.
    ValueError
        If a shape does not fit.

    Notes
    -----
    Sums are taken in one order, so that the result depends neither on the number of threads nor on
    the other sequences of the batch, and chunk after chunk, with the states handed on, gives the
    result of one call. (float32 with AMX has two orders: one for batches of 32 and more without
    `lengths`, with 256 units and more, one for all others.)

    References
    ----------
    .. [1] S. Hochreiter, J. Schmidhuber, "Long Short-Term Memory", Neural Computation 9(8), 1997.
    .. [2] F. Gers, J. Schmidhuber, "Recurrent Nets that Time and Count", IJCNN 2000.
    .. [3] H. Sak, A. Senior, F. Beaufays, "Long Short-Term Memory Recurrent Neural Network
       Architectures for Large Scale Acoustic Modeling", Interspeech 2014.
    .. [4] J. Ba, J. Kiros, G. Hinton, "Layer Normalization", arXiv:1607.06450, 2016.

    Examples
    --------
    >>> import marey, numpy as np
    >>> rng = np.random.default_rng(0)
    >>> x = rng.random((100, 8, 32), dtype=np.float32)
    >>> w, u = rng.random((4 * 64, 32), np.float32), rng.random((4 * 64, 64), np.float32)
    >>> y, (h, c) = marey.recurrent.lstm(x, w, u)
    >>> y.shape, h.shape
    ((100, 8, 64), (8, 64))
    """
    weights = (weight_ih, weight_hh, bias_ih, bias_hh, peephole, weight_hr, layer_norm)
    y, h_n, c_n, kept = run_sequence(
        "marey.lstm", _call.LSTM, weights, x, h0, c0, lengths, reverse, batch_first, keep, out
    )
    return (y, (h_n, c_n), kept) if keep else (y, (h_n, c_n))


def gru(
    x: Any,
    weight_ih: Any,
    weight_hh: Any,
    bias_ih: Any = None,
    bias_hh: Any = None,
    *,
    h0: Any = None,
    lengths: Any = None,
    reverse: bool = False,
    batch_first: bool = False,
    reset: Literal["after", "before"] = "after",
    keep: bool = False,
    out: Any = None,
) -> Any:
    r"""Run a gated recurrent unit over sequences.

    .. math::
        r, z &= \sigma(W x_t + b + U h_{t-1} + b') \\
        n &= \tanh(W x_t + b + r (U h_{t-1} + b')) \quad\text{(after)} \\
        n &= \tanh(W x_t + b + U (r h_{t-1}) + b') \quad\text{(before)} \\
        h_t &= (1 - z) n + z h_{t-1}

    Parameters
    ----------
    x : array, (T, N, I)
        The sequences: float32, float64 or bfloat16, any strides. (N, T, I) with `batch_first`.
    weight_ih : array, (3 * H, I)
        W, the gates r, z, n below each other; of the type of `x`, as all weights.
    weight_hh : array, (3 * H, H)
        U.
    bias_ih, bias_hh : array, (3 * H,), optional
        b and b'.
    h0, lengths, reverse, batch_first, out
        As for `lstm`.
    reset : "after" or "before"
        Whether the reset gate acts on the state after the product, as in torch and cuDNN, or
        before, as published [1]_.
    keep : bool
        Whether to return what `gru_backward` would otherwise compute again: 3 or 4 numbers for each
        step and unit.

    Returns
    -------
    y : array, (T, N, H)
    h_n : array, (N, H)
    kept : array
        Only with `keep`: opaque.

    Raises
    ------
    TypeError, ValueError
        As `lstm`.

    Notes
    -----
    What `lstm` says of the order of its sums holds here, too.

    References
    ----------
    .. [1] K. Cho et al., "Learning Phrase Representations using RNN Encoder-Decoder for Statistical
       Machine Translation", EMNLP 2014.

    Examples
    --------
    >>> import marey, numpy as np
    >>> rng = np.random.default_rng(0)
    >>> x = rng.random((100, 8, 32), dtype=np.float32)
    >>> w, u = rng.random((3 * 64, 32), np.float32), rng.random((3 * 64, 64), np.float32)
    >>> y, h = marey.recurrent.gru(x, w, u, lengths=[100, 3, 50, 0, 7, 99, 1, 10])
    >>> y.shape, h.shape
    ((100, 8, 64), (8, 64))
    """
    name = "marey.gru"
    cell = _call.gru_cell(name, reset)
    weights = (weight_ih, weight_hh, bias_ih, bias_hh)
    y, h_n, _, kept = run_sequence(
        name, cell, weights, x, h0, None, lengths, reverse, batch_first, keep, out
    )
    return (y, h_n, kept) if keep else (y, h_n)


def rnn(
    x: Any,
    weight_ih: Any,
    weight_hh: Any,
    bias_ih: Any = None,
    bias_hh: Any = None,
    *,
    h0: Any = None,
    lengths: Any = None,
    reverse: bool = False,
    batch_first: bool = False,
    nonlinearity: Literal["tanh", "relu"] = "tanh",
    out: Any = None,
) -> Any:
    r"""Run a vanilla recurrent network over sequences.

    .. math:: h_t = \tanh(W x_t + b + U h_{t-1} + b')

    Parameters
    ----------
    x : array, (T, N, I)
        The sequences: float32, float64 or bfloat16, any strides. (N, T, I) with `batch_first`.
    weight_ih : array, (H, I)
        W; of the type of `x`, as all weights.
    weight_hh : array, (H, H)
        U.
    bias_ih, bias_hh : array, (H,), optional
        b and b'.
    h0, lengths, reverse, batch_first, out
        As for `lstm`.
    nonlinearity : "tanh" or "relu"

    Returns
    -------
    y : array, (T, N, H)
    h_n : array, (N, H)

    Raises
    ------
    TypeError, ValueError
        As `lstm`.

    Notes
    -----
    What `lstm` says of the order of its sums holds here, too.

    References
    ----------
    .. [1] J. Elman, "Finding Structure in Time", Cognitive Science 14(2), 1990.

    Examples
    --------
    >>> import marey, numpy as np
    >>> rng = np.random.default_rng(0)
    >>> x = rng.random((8, 100, 32), dtype=np.float32)
    >>> w, u = rng.random((64, 32), np.float32), rng.random((64, 64), np.float32)
    >>> y, h = marey.recurrent.rnn(x, w, u, batch_first=True)
    >>> y.shape, h.shape
    ((8, 100, 64), (8, 64))
    """
    name = "marey.rnn"
    cell = _call.rnn_cell(name, nonlinearity)
    weights = (weight_ih, weight_hh, bias_ih, bias_hh)
    y, h_n, _, _ = run_sequence(
        name, cell, weights, x, h0, None, lengths, reverse, batch_first, False, out
    )
    return y, h_n
