"""Recurrent layers and cells as modules."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from marey import recurrent as plain
from marey.torch import recurrent as ops
from marey.torch._operation import to_array, to_tensor, wants_gradient
from marey.torch._packed import Packed, eager, on_cpu, without_gradient

if TYPE_CHECKING:
    from collections.abc import Sequence


def _packed_layers(module: torch.nn.Module, kind: Any, names: Sequence[str], **options: Any) -> Any:
    """Return marey's layers of these parameters, whose names torch and marey share."""
    parameters = [getattr(module, name) for name in names]
    kept = module.__dict__.setdefault("_packed", Packed())
    return kept.get(
        tuple(options.items()),
        parameters,
        lambda: kind(
            {
                name if "_l" in name else f"{name}_l0": to_array(parameter)
                for name, parameter in zip(names, parameters, strict=True)
            },
            **options,
        ),
    )


def _state(state: Tensor | None, batched: bool, dtype: Any = None) -> Any:
    if state is None:
        return None
    array = to_array(state if dtype is None else state.to(dtype))
    return array if batched else array[:, None]


def _ours(module: Any, input: Any, hx: Any) -> bool:  # noqa: A002
    """Return whether marey runs this call: whole tensors on the CPU, and no dropout."""
    if not isinstance(input, Tensor) or input.dim() not in (2, 3):
        return False
    if module.training and module.dropout > 0:
        return False
    states = hx if isinstance(hx, tuple) else (hx,)
    if not (on_cpu(input) and eager(input, *module._flat_weights, *states)):
        return False
    # torch says what does not fit.
    batch = input.shape[0 if module.batch_first else 1] if input.dim() == 3 else 1
    layers = module.num_layers * (2 if module.bidirectional else 1)
    sizes = (module.proj_size or module.hidden_size, module.hidden_size)  # of h and c
    return input.shape[-1] == module.input_size and all(
        state is None
        or state.shape == ((layers, batch, size) if input.dim() == 3 else (layers, size))
        for state, size in zip(states, sizes, strict=False)
    )


def _names(module: Any) -> list[str]:
    return [name for layer in module._all_weights for name in layer]


def _run(module: Any, kind: Any, input: Tensor, state: Any, **options: Any) -> tuple[Tensor, Any]:  # noqa: A002
    batched = input.dim() == 3
    layers = _packed_layers(
        module, kind, _names(module), batch_first=module.batch_first and batched, **options
    )
    x = to_array(input)
    if not batched:
        x = x[:, None]
    y, final = layers(x, state)
    output = to_tensor(y)
    return output if batched else output.squeeze(1), final


def _wants_gradient(module: Any, input: Tensor, hx: Any) -> bool:  # noqa: A002
    states = hx if isinstance(hx, tuple) else (hx,)
    return wants_gradient(input, *module._flat_weights, *states)


def _differentiable(
    module: Any,
    function: Any,
    input: Tensor,  # noqa: A002
    states: dict[str, Tensor],
    **options: Any,
) -> tuple[Tensor, list[Any]]:
    """Run layer by layer through the operation, which has a gradient; return y and last states."""
    batched = input.dim() == 3
    x = input if batched else input.unsqueeze(1)
    if not batched:
        states = {name: state.unsqueeze(1) for name, state in states.items()}
    directions = 2 if module.bidirectional else 1
    last = []
    for layer in range(module.num_layers):
        sides = []
        for direction in range(directions):
            k = layer * directions + direction
            y, final = function(
                x,
                **{n.rpartition("_l")[0]: getattr(module, n) for n in module._all_weights[k]},
                **{name: state[k] for name, state in states.items()},
                reverse=direction == 1,
                batch_first=module.batch_first and batched,
                **options,
            )
            sides.append(y)
            last.append(final)
        x = sides[0] if directions == 1 else torch.cat(sides, -1)
    return (x if batched else x.squeeze(1)), last


def _stacked(states: list[Tensor], batched: bool) -> Tensor:
    stacked = torch.stack(states)
    return stacked if batched else stacked.squeeze(1)


class LSTM(torch.nn.LSTM):
    """`torch.nn.LSTM` with marey's kernels: the same arguments, parameters and results."""

    def forward(self, input: Any, hx: Any = None) -> Any:  # noqa: A002
        """Run over sequences, as torch's."""
        if not _ours(self, input, hx):
            return super().forward(input, hx)
        batched = input.dim() == 3
        # The cell state of bfloat16 is float32 in marey.
        cell = torch.float32 if input.dtype is torch.bfloat16 else None
        if _wants_gradient(self, input, hx):
            states = {} if hx is None else {"h0": hx[0], "c0": hx[1].to(cell or hx[1].dtype)}
            y, last = _differentiable(self, ops.lstm, input, states)
            h, c = (_stacked(list(part), batched) for part in zip(*last, strict=True))
            return y, (h, c.to(input.dtype))
        state = None if hx is None else (_state(hx[0], batched), _state(hx[1], batched, cell))
        y, (h, c) = _run(self, plain.LSTM, input, state)
        finals = [to_tensor(h), to_tensor(c).to(input.dtype)]
        return y, tuple(finals if batched else [final.squeeze(1) for final in finals])


class _OneState:
    """What GRU and RNN have in common."""

    def _forward(self, kind: Any, input: Any, hx: Any, **options: Any) -> Any:  # noqa: A002
        batched = input.dim() == 3
        if _wants_gradient(self, input, hx):
            function = getattr(ops, kind.__name__.lower())
            states = {} if hx is None else {"h0": hx}
            y, last = _differentiable(self, function, input, states, **options)
            return y, _stacked(last, batched)
        y, h = _run(self, kind, input, _state(hx, batched), **options)
        final = to_tensor(h)
        return y, final if batched else final.squeeze(1)


class GRU(_OneState, torch.nn.GRU):
    """`torch.nn.GRU` with marey's kernels: the same arguments, parameters and results."""

    def forward(self, input: Any, hx: Any = None) -> Any:  # noqa: A002
        """Run over sequences, as torch's."""
        if not _ours(self, input, hx):
            return torch.nn.GRU.forward(self, input, hx)
        return self._forward(plain.GRU, input, hx)


class RNN(_OneState, torch.nn.RNN):
    """`torch.nn.RNN` with marey's kernels: the same arguments, parameters and results."""

    def forward(self, input: Any, hx: Any = None) -> Any:  # noqa: A002
        """Run over sequences, as torch's."""
        if not _ours(self, input, hx):
            return torch.nn.RNN.forward(self, input, hx)
        return self._forward(plain.RNN, input, hx, nonlinearity=self.nonlinearity)


_CELL = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")


def _cell_runs(module: Any, input: Tensor, states: Sequence[Tensor | None]) -> bool:  # noqa: A002
    weights = [getattr(module, name) for name in _CELL]
    if not on_cpu(input) or input.dim() not in (1, 2):
        return False
    shape = (*input.shape[:-1], module.hidden_size)
    fits = input.shape[-1] == module.input_size
    fits = fits and all(state is None or state.shape == shape for state in states)
    return fits and without_gradient(input, *weights, *states)


def _step(module: Any, kind: Any, input: Tensor, state: Any, **options: Any) -> Any:  # noqa: A002
    names = _CELL if module.bias else _CELL[:2]
    layers = _packed_layers(module, kind, names, **options)
    x = to_array(input)
    return layers(x[None] if x.ndim == 2 else x[None, None], state)[1]


def _cell_state(state: Tensor | None, dtype: Any = None) -> Any:
    if state is None:
        return None
    array = to_array(state if dtype is None else state.to(dtype))
    return array[None] if array.ndim == 2 else array[None, None]


class LSTMCell(torch.nn.LSTMCell):
    """`torch.nn.LSTMCell` with marey's kernels: the same arguments, parameters and results."""

    def forward(self, input: Tensor, hx: Any = None) -> Any:  # noqa: A002
        """Run one step, as torch's."""
        states = (None, None) if hx is None else hx
        if not _cell_runs(self, input, states):
            return super().forward(input, hx)
        cell = torch.float32 if input.dtype is torch.bfloat16 else None
        state = None if hx is None else (_cell_state(hx[0]), _cell_state(hx[1], cell))
        h, c = _step(self, plain.LSTM, input, state)
        shape = (*input.shape[:-1], self.hidden_size)
        return to_tensor(h).view(shape), to_tensor(c).to(input.dtype).view(shape)


class GRUCell(torch.nn.GRUCell):
    """`torch.nn.GRUCell` with marey's kernels: the same arguments, parameters and results."""

    def forward(self, input: Tensor, hx: Tensor | None = None) -> Tensor:  # noqa: A002
        """Run one step, as torch's."""
        if not _cell_runs(self, input, (hx,)):
            return super().forward(input, hx)
        h = _step(self, plain.GRU, input, _cell_state(hx))
        return to_tensor(h).view(*input.shape[:-1], self.hidden_size)


class RNNCell(torch.nn.RNNCell):
    """`torch.nn.RNNCell` with marey's kernels: the same arguments, parameters and results."""

    def forward(self, input: Tensor, hx: Tensor | None = None) -> Tensor:  # noqa: A002
        """Run one step, as torch's."""
        if not _cell_runs(self, input, (hx,)):
            return super().forward(input, hx)
        h = _step(self, plain.RNN, input, _cell_state(hx), nonlinearity=self.nonlinearity)
        return to_tensor(h).view(*input.shape[:-1], self.hidden_size)
