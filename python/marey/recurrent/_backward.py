"""Back-propagation through time."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np

from marey import _arguments, _cpu
from marey._arrays import from_numpy_like, kernels, plain, to_array_like
from marey.recurrent import _call

if TYPE_CHECKING:
    from collections.abc import Callable


class Gradients(NamedTuple):
    """Gradients of a sequence's inputs, named as its arguments.

    Those of `x` and `h0` have the type of `x`; all others are float32 for bfloat16. None where
    there is no such argument.
    """

    x: Any
    weight_ih: Any
    weight_hh: Any
    bias_ih: Any
    bias_hh: Any
    h0: Any
    c0: Any = None
    peephole: Any = None
    weight_hr: Any = None
    layer_norm: Any = None


def _contiguous(array: Any) -> Any:
    """Return `array`, copied if its last axis is strided and the compiled code cannot step so."""
    if (
        not isinstance(array, np.ndarray)
        or array.shape[-1] <= 1
        or array.strides[-1] == array.itemsize
    ):
        return array
    return array.copy()


def _backward(
    function: str,
    cell: int,
    grad: Any,
    x: Any,
    weights: tuple[Any, ...],
    y: Any,
    h0: Any,
    c0: Any,
    grad_h: Any,
    grad_c: Any,
    lengths: Any,
    reverse: bool,
    batch_first: bool,
    kept: Any,
    checkpoints: int | None,
    truncate: int | None,
) -> Gradients:
    source = _call.time_first(function, "x", x, batch_first)
    arrays = [
        None if w is None else to_array_like(function, argument, w, source)
        for argument, w in zip(_call.WEIGHTS[:6], weights[:6], strict=True)
    ]
    norms = _call.norms(function, weights[6])
    for argument, given in (("weight_ih", arrays[0]), ("weight_hh", arrays[1])):
        if given is None:
            raise TypeError(f"[{function}] {argument}: expected an array; found None")
    grad_y = None if grad is None else _call.time_first(function, "grad", grad, batch_first)
    grad_y = None if grad_y is None else _contiguous(grad_y)
    steps = _call.lengths_array(function, lengths)
    states = [_call.optional(function, name, a) for name, a in (("h0", h0), ("c0", c0))]
    ends = [
        _call.optional(function, name, a) for name, a in (("grad_h", grad_h), ("grad_c", grad_c))
    ]
    run = _Run(function, cell, arrays, norms, reverse)
    if checkpoints is not None or truncate is not None:
        argument = "checkpoints" if truncate is None else "truncate"
        if not isinstance(source, np.ndarray):
            raise ValueError(
                f"[{function}] {argument}: expected None on a CUDA device; found "
                f"{checkpoints if truncate is None else truncate}"
            )
        if kept is not None or y is not None:
            raise ValueError(
                f"[{function}] {argument}: expected neither y nor kept beside it; found one"
            )
        if checkpoints is not None and truncate is not None:
            raise ValueError(
                f"[{function}] truncate: expected no checkpoints beside it; found {checkpoints}"
            )
        chunk = checkpoints if truncate is None else truncate
        every = _arguments.integer(function, argument, chunk, 1)
        gradients = run.by_chunks(source, states, grad_y, ends, steps, every, truncate is not None)
    else:
        if (kept is None) != (y is None) and cell in (_call.LSTM, _call.GRU, _call.GRU_BEFORE):
            raise ValueError(
                f"[{function}] kept: expected y and kept of one forward call, or neither; "
                f"found {'kept' if y is None else 'y'} alone"
            )
        if y is None:
            gradients = run.whole(source, states, grad_y, ends, steps)
        else:
            outputs = _contiguous(_call.time_first(function, "y", y, batch_first))
            memory = _call.optional(function, "kept", kept)
            gradients = run.back(source, outputs, states, grad_y, ends, steps, memory)
    convert = from_numpy_like(x)
    first = gradients[0].swapaxes(0, 1) if batch_first else gradients[0]
    rest = [None if g is None else convert(g) for g in gradients[1:]]
    # The last three are those of layer norm.
    norm_gradients = None if norms is None else tuple(rest[8:])
    return Gradients._make([convert(first), *rest[:8], norm_gradients])


class _Run:
    """One network, run forward and back."""

    def __init__(
        self,
        function: str,
        cell: int,
        arrays: list[Any],
        norms: tuple[Any, ...] | None,
        reverse: bool,
    ) -> None:
        self.function, self.cell, self.arrays, self.norms = function, cell, arrays, norms
        self.reverse = reverse
        self._packed: Any = None

    @property
    def packed(self) -> Any:
        if self._packed is None:
            arrays = [*map(plain, self.arrays), self.norms]
            self._packed = _call.pack(self.function, self.cell, arrays)
        return self._packed

    def back(
        self, x: Any, y: Any, states: Any, grad_y: Any, ends: Any, lengths: Any, kept: Any
    ) -> tuple[Any, ...]:
        compute = kernels(self.function, x)
        if kept is None and compute is _cpu:  # an RNN keeps nothing
            rows = x.shape[0] * x.shape[1] if lengths is None else int(lengths.sum())
            kept = np.empty((rows, 0), np.float64 if x.dtype == np.float64 else np.float32)
        weight_ih, weight_hh, _, _, peephole, weight_hr = self.arrays
        (h0, c0), (grad_h, grad_c) = states, ends
        backward: Callable[..., tuple[Any, ...]] = compute.recurrent_backward
        return backward(
            self.function,
            self.cell,
            (weight_ih, weight_hh, peephole, weight_hr, self.norms),
            x,
            y,
            h0,
            c0,
            lengths,
            self.reverse,
            grad_y,
            grad_h,
            grad_c,
            kept,
        )

    def forward(self, x: Any, states: Any, lengths: Any, keep: bool) -> tuple[Any, ...]:
        """Return y, h_n, c_n and what was kept."""
        h0, c0 = states
        found: tuple[Any, ...] = self.packed.run(
            self.function, x, h0, c0, lengths, self.reverse, keep, None
        )
        return found

    def whole(self, x: Any, states: Any, grad_y: Any, ends: Any, lengths: Any) -> tuple[Any, ...]:
        """Go forward once more, keeping everything."""
        y, _, _, kept = self.forward(x, states, lengths, True)
        y, kept = (to_array_like(self.function, "y", a, x) for a in (y, kept))
        return self.back(x, y, states, grad_y, ends, lengths, kept)

    def by_chunks(
        self,
        x: Any,
        states: Any,
        grad_y: Any,
        ends: Any,
        lengths: Any,
        every: int,
        truncated: bool,
    ) -> tuple[Any, ...]:
        """Go forward keeping the states between chunks, then back chunk by chunk."""
        T = x.shape[0]
        starts = range(0, T, every)
        if not starts:
            return self.whole(x, states, grad_y, ends, lengths)
        before = []
        for start in starts:
            before.append(states)
            chunk = _Chunk(T, lengths, start, every, self.reverse)
            _, h, c, _ = self.forward(chunk.of(x), states, chunk.lengths, False)
            states = [h, c]
        total: list[Any] = []
        grad_x = np.zeros(x.shape, x.dtype)
        for start, state in zip(reversed(starts), reversed(before), strict=True):
            chunk = _Chunk(T, lengths, start, every, self.reverse)
            chunk_grad = None if grad_y is None else chunk.of(grad_y)
            part = self.whole(chunk.of(x), state, chunk_grad, ends, chunk.lengths)
            chunk.put(part[0], grad_x)
            ends = [part[5], part[6]]
            if truncated and start > 0:
                ends = [None if end is None else chunk.past_end(end) for end in ends]
            if not total:
                total = list(part)
                continue
            for k in (*range(1, 5), *range(7, len(total))):
                if part[k] is not None:
                    total[k] += part[k]
        return (grad_x, *total[1:5], *ends, *total[7:])


class _Chunk:
    """The steps [start, start + every) of each sequence, from its own beginning."""

    def __init__(self, T: int, lengths: Any, start: int, every: int, reverse: bool) -> None:
        self.lengths = lengths
        self.frames: Any
        if lengths is None:
            end = min(start + every, T)
            self.frames = slice(T - end, T - start) if reverse else slice(start, end)
            return
        self.lengths = np.clip(lengths - start, 0, every)
        step = np.arange(self.lengths.max(initial=0))[:, None]
        # Reversed, the first steps of a sequence are its last frames, and within a chunk too.
        frame = lengths - start - self.lengths + step if reverse else start + step + 0 * lengths
        self.valid = step < self.lengths
        self.frames = (np.where(self.valid, frame, 0), np.arange(len(lengths))[None])

    def of(self, array: Any) -> Any:
        """Return the frames of the chunk: a view where all sequences have one length."""
        return array[self.frames]

    def put(self, part: Any, to: Any) -> None:
        """Write the frames of the chunk to where they belong."""
        if self.lengths is None:
            to[self.frames] = part
        else:
            frame, sequence = np.broadcast_arrays(*self.frames)
            to[frame[self.valid], sequence[self.valid]] = part[self.valid]

    def past_end(self, grad: Any) -> Any:
        """Return the gradient of a final state for the sequences that ended before the chunk."""
        if self.lengths is None:
            return np.zeros_like(grad)
        return np.where(self.lengths[:, None] == 0, grad, np.zeros_like(grad))


def lstm_backward(
    grad: Any,
    x: Any,
    weight_ih: Any,
    weight_hh: Any,
    bias_ih: Any = None,
    bias_hh: Any = None,
    *,
    y: Any = None,
    kept: Any = None,
    h0: Any = None,
    c0: Any = None,
    grad_h: Any = None,
    grad_c: Any = None,
    lengths: Any = None,
    reverse: bool = False,
    batch_first: bool = False,
    peephole: Any = None,
    weight_hr: Any = None,
    layer_norm: Any = None,
    checkpoints: int | None = None,
    truncate: int | None = None,
) -> Gradients:
    """Compute the gradients of `lstm`, by back-propagation through time.

    Parameters
    ----------
    grad : array, (T, N, H), or None
        Gradient of y, of the type of `x`; None for zeros. What stands after a sequence's end counts
        for nothing.
    x, weight_ih, weight_hh, bias_ih, bias_hh, h0, c0, lengths, reverse, batch_first, peephole, \
weight_hr, layer_norm
        As given to `lstm`.
    y, kept : array, optional
        What ``lstm(..., keep=True)`` returned. Without them the way there is gone once more.
    grad_h, grad_c : array, (N, H), optional
        Gradients of h_n and c_n.
    checkpoints : int, optional
        Keep only the states between chunks of so many steps, and go through each chunk once more on
        the way back: memory for ``T / checkpoints + 5 * checkpoints`` states in place of 5 T, at
        its least for the square root of T / 5, for one more way there. Without `y` and `kept`.
    truncate : int, optional
        Truncated back-propagation: no gradient passes from a chunk of so many steps, from a
        sequence's own beginning, to the one before. Memory as with `checkpoints`, which it
        excludes; without `y` and `kept`.

    Returns
    -------
    Gradients
        A named tuple: x, weight_ih, weight_hh, bias_ih, bias_hh, h0, c0, peephole, weight_hr,
        layer_norm (three).

    Raises
    ------
    TypeError, ValueError
        As `lstm`.

    With `truncate` the states still run through the whole sequence; only the gradient is cut [2]_.
    `grad_h` and `grad_c` reach the last chunk of their sequence, and the gradients of `h0` and `c0`
    are those of the first.

    References
    ----------
    .. [1] P. Werbos, "Backpropagation Through Time: What It Does and How to Do It", Proceedings of
       the IEEE 78(10), 1990.
    .. [2] R. Williams, J. Peng, "An Efficient Gradient-Based Algorithm for On-Line Training of
       Recurrent Network Trajectories", Neural Computation 2(4), 1990.

    Examples
    --------
    >>> import marey, numpy as np
    >>> rng = np.random.default_rng(0)
    >>> x = rng.random((100, 8, 32), dtype=np.float32)
    >>> w, u = rng.random((4 * 64, 32), np.float32), rng.random((4 * 64, 64), np.float32)
    >>> y, _, kept = marey.recurrent.lstm(x, w, u, keep=True)
    >>> marey.recurrent.lstm_backward(y, x, w, u, y=y, kept=kept).weight_hh.shape
    (256, 64)
    """
    weights = (weight_ih, weight_hh, bias_ih, bias_hh, peephole, weight_hr, layer_norm)
    return _backward(
        "marey.lstm_backward", _call.LSTM, grad, x, weights, y, h0, c0, grad_h, grad_c, lengths,
        reverse, batch_first, kept, checkpoints, truncate,
    )  # fmt: skip


def gru_backward(
    grad: Any,
    x: Any,
    weight_ih: Any,
    weight_hh: Any,
    bias_ih: Any = None,
    bias_hh: Any = None,
    *,
    y: Any = None,
    kept: Any = None,
    h0: Any = None,
    grad_h: Any = None,
    lengths: Any = None,
    reverse: bool = False,
    batch_first: bool = False,
    reset: Literal["after", "before"] = "after",
    checkpoints: int | None = None,
    truncate: int | None = None,
) -> Gradients:
    """Compute the gradients of `gru`, by back-propagation through time.

    Parameters
    ----------
    grad : array, (T, N, H), or None
        Gradient of y.
    x, weight_ih, weight_hh, bias_ih, bias_hh, h0, lengths, reverse, batch_first, reset
        As given to `gru`.
    y, kept, grad_h, checkpoints, truncate
        As for `lstm_backward`.

    Returns
    -------
    Gradients
        A named tuple: x, weight_ih, weight_hh, bias_ih, bias_hh, h0.

    Raises
    ------
    TypeError, ValueError
        As `gru`.
    """
    name = "marey.gru_backward"
    weights = (weight_ih, weight_hh, bias_ih, bias_hh, None, None, None)
    return _backward(
        name, _call.gru_cell(name, reset), grad, x, weights, y, h0, None, grad_h, None, lengths,
        reverse, batch_first, kept, checkpoints, truncate,
    )  # fmt: skip


def rnn_backward(
    grad: Any,
    x: Any,
    weight_ih: Any,
    weight_hh: Any,
    bias_ih: Any = None,
    bias_hh: Any = None,
    *,
    y: Any = None,
    h0: Any = None,
    grad_h: Any = None,
    lengths: Any = None,
    reverse: bool = False,
    batch_first: bool = False,
    nonlinearity: Literal["tanh", "relu"] = "tanh",
    checkpoints: int | None = None,
    truncate: int | None = None,
) -> Gradients:
    """Compute the gradients of `rnn`, by back-propagation through time.

    Parameters
    ----------
    grad : array, (T, N, H), or None
        Gradient of y.
    x, weight_ih, weight_hh, bias_ih, bias_hh, h0, lengths, reverse, batch_first, nonlinearity
        As given to `rnn`.
    y : array, (T, N, H), optional
        What `rnn` returned; nothing else needs keeping.
    grad_h, checkpoints, truncate
        As for `lstm_backward`.

    Returns
    -------
    Gradients
        A named tuple: x, weight_ih, weight_hh, bias_ih, bias_hh, h0.

    Raises
    ------
    TypeError, ValueError
        As `rnn`.
    """
    name = "marey.rnn_backward"
    weights = (weight_ih, weight_hh, bias_ih, bias_hh, None, None, None)
    return _backward(
        name, _call.rnn_cell(name, nonlinearity), grad, x, weights, y, h0, None, grad_h, None,
        lengths, reverse, batch_first, None, checkpoints, truncate,
    )  # fmt: skip
