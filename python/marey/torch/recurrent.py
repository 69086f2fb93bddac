"""The functions of `marey.recurrent` for tensors, with gradients by back-propagation through time.

Weights have torch's layout and names. `marey.torch.nn` has the layers and cells as modules.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import torch

from marey import recurrent as plain
from marey.recurrent import _call
from marey.recurrent._sequences import run_sequence
from marey.torch._operation import gradient, new, not_differentiable, operation, wants_gradient

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    from marey.torch._operation import Call

__all__ = ["gru", "gru_step", "lstm", "lstm_step", "rnn", "rnn_step"]

# For each cell: the inputs that may be left out, its one option, how many numbers for a step and
# unit it keeps for the way back, and its states' gradients.
_INPUTS = {
    "lstm": (
        *("bias_ih", "bias_hh", "peephole", "weight_hr"),
        *("norm_ih", "norm_hh", "norm_c", "h0", "c0"),
    ),
    "gru": ("bias_ih", "bias_hh", "h0"),
    "rnn": ("bias_ih", "bias_hh", "h0"),
}
_OPTION = {"lstm": None, "gru": "reset", "rnn": "nonlinearity"}
_NUMBER: dict[str, Callable[..., int]] = {
    "lstm": lambda: _call.LSTM,
    "gru": lambda reset: _call.gru_cell("marey.gru", reset),
    "rnn": lambda nonlinearity: _call.rnn_cell("marey.rnn", nonlinearity),
}
_NORMS = ("norm_ih", "norm_hh", "norm_c")
_KEPT = {("lstm", None): 5, ("gru", "after"): 4, ("gru", "before"): 3}
_STATES = {"lstm": ("grad_h", "grad_c"), "gru": ("grad_h",), "rnn": ("grad_h",)}


def _inputs(cell: str) -> tuple[str, ...]:
    return ("x", "weight_ih", "weight_hh", *_INPUTS[cell])


def _tensors(cell: str) -> str:
    required = "Tensor x, Tensor weight_ih, Tensor weight_hh"
    return ", ".join([required, *(f"Tensor? {name}" for name in _INPUTS[cell])])


def _options(cell: str) -> str:
    option = _OPTION[cell]
    named = "" if option is None else f", str {option}"
    return f"Tensor? lengths, bool reverse, bool batch_first{named}"


def _keywords(cell: str, values: Any) -> dict[str, Any]:
    names = ["lengths", "reverse", "batch_first"]
    if _OPTION[cell] is not None:
        names.append(str(_OPTION[cell]))
    return dict(zip(names, values, strict=True))


def _by_name(cell: str, values: Any) -> dict[str, Any]:
    """Return the inputs of an operation as arguments of marey's function."""
    found = dict(zip(_inputs(cell), values, strict=True))
    if cell == "lstm":
        found["c0"] = _float32(found["c0"])
        norms = [found.pop(name) for name in _NORMS]
        found["layer_norm"] = None if norms[0] is None else tuple(norms)
    return found


def _float32(array: Any) -> Any:
    """Return a cell state as kernels have it: bfloat16's is float32."""
    return array.astype("float32") if array is not None and array.dtype.itemsize == 2 else array


def _define(cell: str) -> tuple[Any, Any]:
    """Define the operation of a cell over sequences, and that of its gradients."""
    name, number = f"marey.{cell}", _NUMBER[cell]
    backward = getattr(plain, f"{cell}_backward")
    states = _STATES[cell]
    count = len(_inputs(cell))

    def run(x: Any, *values: Any) -> tuple[Any, ...]:
        lengths, reverse, batch_first, *option, keep = values[count - 1 :]
        if cell == "lstm":
            *weights, norm_ih, norm_hh, norm_c, h0, c0 = values[: count - 1]
            weights.append(None if norm_ih is None else (norm_ih, norm_hh, norm_c))
            c0 = _float32(c0)
        else:
            *weights, h0 = values[: count - 1]
            c0 = None
        y, h, c, kept = run_sequence(
            name, number(*option), weights, x, h0, c0, lengths, reverse, batch_first, keep, None
        )
        ends = (h,) if c is None else (h, c)
        return (y, *ends, y[:0].reshape(-1) if kept is None else kept)

    def shapes(call: Call) -> tuple[Tensor, ...]:
        N, T = call.x.shape[:2] if call.batch_first else (call.x.shape[1], call.x.shape[0])
        P = call.weight_hh.shape[1]
        y = new(call.x, [*call.x.shape[:2], P])
        real = torch.float64 if call.x.dtype is torch.float64 else torch.float32
        ends = [new(call.x, [N, P])]
        option = _OPTION[cell]
        numbers = _KEPT.get((cell, None if option is None else getattr(call, option)), 0)
        H = P
        if cell == "lstm":
            H = call.weight_hh.shape[0] // 4
            ends.append(call.x.new_empty([N, H], dtype=real))
            numbers += (call.weight_hr is not None) + 10 * (call.norm_ih is not None)
        if not call.keep or numbers == 0:
            return (y, *ends, new(call.x, [0]))
        rows: Any = T * N if call.lengths is None else torch.library.get_ctx().new_dynamic_size()
        pitch = (H + 31) // 32 * 32
        return (y, *ends, call.x.new_empty([rows, numbers * pitch], dtype=real))

    def run_back(*values: Any) -> list[Any]:
        grad, *rest = values
        of_states = dict(zip(states, rest, strict=False))
        rest = rest[len(states) :]
        tensors = _by_name(cell, rest[:count])
        y, kept, *options = rest[count:]
        if cell != "rnn" and kept.size:
            tensors["kept"] = kept
        if cell == "rnn" or kept.size:
            tensors["y"] = y
        gradients = backward(grad, **tensors, **of_states, **_keywords(cell, options))
        found = gradients._asdict()
        if found["layer_norm"] is not None:
            found.update(zip(_NORMS, found["layer_norm"], strict=True))
        return [
            found[name].astype(given.dtype, copy=False)
            for name, given in zip(_inputs(cell), rest[:count], strict=True)
            if given is not None
        ]

    arriving = ", ".join(f"Tensor {name}" for name in states)
    results = ", ".join(["Tensor"] * (2 + len(states)))
    op = operation(
        f"{cell}({_tensors(cell)}, {_options(cell)}, bool keep) -> ({results})",
        run,
        shapes,
        autocast=torch.bfloat16,
    )
    back = operation(
        f"{cell}_backward(Tensor grad, {arriving}, {_tensors(cell)}, Tensor y, Tensor kept, "
        f"{_options(cell)}) -> Tensor[]",
        run_back,
        lambda call: [
            new(getattr(call, name)) for name in _inputs(cell) if getattr(call, name) is not None
        ],
    )
    kept = f"result{1 + len(states)}"

    def derivative(call: Call, *grads: Tensor) -> dict[str, Any]:
        tensors = {name: getattr(call, name) for name in _inputs(cell)}
        option = _OPTION[cell]
        options = [call.lengths, call.reverse, call.batch_first]
        if option is not None:
            options.append(getattr(call, option))
        found = iter(
            back(
                *grads[: 1 + len(states)],
                *tensors.values(),
                call.result0,
                getattr(call, kept),
                *options,
            )
        )
        return {name: next(found) for name, given in tensors.items() if given is not None}

    save = [*_inputs(cell), "lengths", "result0", kept]
    gradient(op, derivative, save=save, constant=[kept])
    not_differentiable(back, "recurrent networks have first derivatives only")
    return op, back


_lstm, _lstm_backward = _define("lstm")
_gru, _gru_backward = _define("gru")
_rnn, _rnn_backward = _define("rnn")


def _lengths(lengths: Any) -> Tensor | None:
    return None if lengths is None else torch.as_tensor(lengths, device="cpu")


def lstm(
    x: Tensor,
    weight_ih: Tensor,
    weight_hh: Tensor,
    bias_ih: Tensor | None = None,
    bias_hh: Tensor | None = None,
    *,
    h0: Tensor | None = None,
    c0: Tensor | None = None,
    lengths: Any = None,
    reverse: bool = False,
    batch_first: bool = False,
    peephole: Tensor | None = None,
    weight_hr: Tensor | None = None,
    layer_norm: tuple[Tensor, Tensor, Tensor] | None = None,
) -> tuple[Tensor, tuple[Tensor, Tensor]]:
    """Run a long short-term memory over sequences: `marey.recurrent.lstm`.

    Parameters
    ----------
    x : Tensor, (T, N, I)
        float32, float64 or bfloat16; any strides. (N, T, I) with `batch_first`.
    weight_ih, weight_hh, bias_ih, bias_hh, peephole, weight_hr, layer_norm
        As for `marey.recurrent.lstm`.
    h0, c0 : Tensor, (N, H), optional
    lengths : Tensor or sequence of int, (N,), optional
        How many steps of each sequence are real.
    reverse, batch_first : bool
        As for `marey.recurrent.lstm`.

    Returns
    -------
    y : Tensor, (T, N, H)
    (h_n, c_n) : Tensors, (N, H)
        c_n is float32 for bfloat16.

    Raises
    ------
    TypeError, ValueError
        As `marey.recurrent.lstm`.
    """
    norms = (None, None, None) if layer_norm is None else layer_norm
    if len(norms) != 3:
        raise ValueError(
            "[marey.torch.lstm] layer_norm: expected three tensors (norm_ih, norm_hh, norm_c); "
            f"found {len(norms)}"
        )
    inputs = (x, weight_ih, weight_hh, bias_ih, bias_hh, peephole, weight_hr, *norms, h0, c0)
    keep = wants_gradient(*inputs)
    y, h, c, _ = _lstm(*inputs, _lengths(lengths), reverse, batch_first, keep)
    return y, (h, c)


def gru(
    x: Tensor,
    weight_ih: Tensor,
    weight_hh: Tensor,
    bias_ih: Tensor | None = None,
    bias_hh: Tensor | None = None,
    *,
    h0: Tensor | None = None,
    lengths: Any = None,
    reverse: bool = False,
    batch_first: bool = False,
    reset: Literal["after", "before"] = "after",
) -> tuple[Tensor, Tensor]:
    """Run a gated recurrent unit over sequences: `marey.recurrent.gru`.

    Parameters
    ----------
    x : Tensor, (T, N, I)
        As for `lstm`.
    weight_ih, weight_hh, bias_ih, bias_hh, reset
        As for `marey.recurrent.gru`.
    h0, lengths, reverse, batch_first
        As for `lstm`.

    Returns
    -------
    y : Tensor, (T, N, H)
    h_n : Tensor, (N, H)
    """
    inputs = (x, weight_ih, weight_hh, bias_ih, bias_hh, h0)
    y, h, _ = _gru(*inputs, _lengths(lengths), reverse, batch_first, reset, wants_gradient(*inputs))
    return y, h


def rnn(
    x: Tensor,
    weight_ih: Tensor,
    weight_hh: Tensor,
    bias_ih: Tensor | None = None,
    bias_hh: Tensor | None = None,
    *,
    h0: Tensor | None = None,
    lengths: Any = None,
    reverse: bool = False,
    batch_first: bool = False,
    nonlinearity: Literal["tanh", "relu"] = "tanh",
) -> tuple[Tensor, Tensor]:
    """Run a vanilla recurrent network over sequences: `marey.recurrent.rnn`.

    Parameters
    ----------
    x : Tensor, (T, N, I)
        As for `lstm`.
    weight_ih, weight_hh, bias_ih, bias_hh, nonlinearity
        As for `marey.recurrent.rnn`.
    h0, lengths, reverse, batch_first
        As for `lstm`.

    Returns
    -------
    y : Tensor, (T, N, H)
    h_n : Tensor, (N, H)
    """
    inputs = (x, weight_ih, weight_hh, bias_ih, bias_hh, h0)
    y, h, _ = _rnn(*inputs, _lengths(lengths), reverse, batch_first, nonlinearity, False)
    return y, h


# Steps: kernels of their own where no gradient is wanted, sequences of one step where one is.


_lstm_step = operation(
    "lstm_step(Tensor x, Tensor h, Tensor c, Tensor weight_ih, Tensor weight_hh, Tensor? bias_ih, "
    "Tensor? bias_hh, Tensor? peephole) -> (Tensor, Tensor)",
    lambda x, h, c, w, u, b, d, peephole: plain.lstm_step(
        x, h, _float32(c), w, u, b, d, peephole=peephole
    ),
    lambda call: (
        new(call.h),
        call.c.new_empty(
            call.c.shape, dtype=torch.float32 if call.c.dtype is torch.bfloat16 else call.c.dtype
        ),
    ),
    autocast=torch.bfloat16,
)
_STEP = "Tensor x, Tensor h, Tensor weight_ih, Tensor weight_hh, Tensor? bias_ih, Tensor? bias_hh"
_gru_step = operation(
    f"gru_step({_STEP}, str reset) -> Tensor",
    lambda *a: plain.gru_step(*a[:-1], reset=a[-1]),
    lambda call: new(call.h),
    autocast=torch.bfloat16,
)
_rnn_step = operation(
    f"rnn_step({_STEP}, str nonlinearity) -> Tensor",
    lambda *a: plain.rnn_step(*a[:-1], nonlinearity=a[-1]),
    lambda call: new(call.h),
    autocast=torch.bfloat16,
)
for _op in (_lstm_step, _gru_step, _rnn_step):
    not_differentiable(_op, "expected a call of the function, which takes a sequence of one step")


def lstm_step(
    x: Tensor,
    h: Tensor,
    c: Tensor,
    weight_ih: Tensor,
    weight_hh: Tensor,
    bias_ih: Tensor | None = None,
    bias_hh: Tensor | None = None,
    *,
    peephole: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Take one step of a long short-term memory: `marey.recurrent.lstm_step`.

    Parameters
    ----------
    x : Tensor, (N, I)
    h, c : Tensor, (N, H)
        The state; `c` is float32 for bfloat16.
    weight_ih, weight_hh, bias_ih, bias_hh, peephole
        As for `lstm`.

    Returns
    -------
    (h, c) : Tensors, (N, H)
    """
    weights = (weight_ih, weight_hh, bias_ih, bias_hh)
    if wants_gradient(x, h, c, *weights, peephole):
        return lstm(x[None], *weights, h0=h, c0=c, peephole=peephole)[1]
    return _lstm_step(x, h, c, *weights, peephole)


def gru_step(
    x: Tensor,
    h: Tensor,
    weight_ih: Tensor,
    weight_hh: Tensor,
    bias_ih: Tensor | None = None,
    bias_hh: Tensor | None = None,
    *,
    reset: Literal["after", "before"] = "after",
) -> Tensor:
    """Take one step of a gated recurrent unit: `marey.recurrent.gru_step`.

    Parameters
    ----------
    x : Tensor, (N, I)
    h : Tensor, (N, H)
    weight_ih, weight_hh, bias_ih, bias_hh, reset
        As for `gru`.

    Returns
    -------
    Tensor, (N, H)
    """
    weights = (weight_ih, weight_hh, bias_ih, bias_hh)
    if wants_gradient(x, h, *weights):
        return gru(x[None], *weights, h0=h, reset=reset)[1]
    return _gru_step(x, h, *weights, reset)


def rnn_step(
    x: Tensor,
    h: Tensor,
    weight_ih: Tensor,
    weight_hh: Tensor,
    bias_ih: Tensor | None = None,
    bias_hh: Tensor | None = None,
    *,
    nonlinearity: Literal["tanh", "relu"] = "tanh",
) -> Tensor:
    """Take one step of a vanilla recurrent network: `marey.recurrent.rnn_step`.

    Parameters
    ----------
    x : Tensor, (N, I)
    h : Tensor, (N, H)
    weight_ih, weight_hh, bias_ih, bias_hh, nonlinearity
        As for `rnn`.

    Returns
    -------
    Tensor, (N, H)
    """
    weights = (weight_ih, weight_hh, bias_ih, bias_hh)
    if wants_gradient(x, h, *weights):
        return rnn(x[None], *weights, h0=h, nonlinearity=nonlinearity)[1]
    return _rnn_step(x, h, *weights, nonlinearity)
