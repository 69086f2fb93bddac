"""Recurrent networks on a device."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from marey._device._arrays import DeviceArray, beside, result

if TYPE_CHECKING:
    from collections.abc import Sequence


def _on_device(
    function: str, lengths: np.ndarray[Any, Any] | None, x: DeviceArray
) -> DeviceArray | None:
    """Return the lengths of sequences, checked, where the sequences are."""
    if lengths is None:
        return None
    steps, rows = x.shape[:2]
    if lengths.shape != (rows,) or ((lengths < 0) | (lengths > steps)).any():
        raise ValueError(
            f"[{function}] lengths: expected {rows} integers of 0 to {steps}; found {lengths}"
        )
    there = x.library.put(np.ascontiguousarray(lengths).view(np.uint8), x.device)
    return DeviceArray(x.library, there)


def _refuse(function: str, **arguments: Any) -> None:
    """Raise a ValueError for what only the CPU's kernels have."""
    for argument, given in arguments.items():
        if given is not None:
            raise ValueError(f"[{function}] {argument}: expected None on a CUDA device; found one")


class CellWeights:
    """The class of `marey._cpu`, for weights on a device: nothing is packed."""

    def __init__(
        self,
        module: Any,
        function: str,
        cell: int,
        weight_ih: DeviceArray,
        weight_hh: DeviceArray,
        bias_ih: DeviceArray | None,
        bias_hh: DeviceArray | None,
        peephole: DeviceArray | None,
        weight_hr: DeviceArray | None = None,
        layer_norm: Any = None,
    ) -> None:
        _refuse(function, peephole=peephole, weight_hr=weight_hr, layer_norm=layer_norm)
        self._cuda = module
        self._cell = cell
        named = {"weight_hh": weight_hh, "bias_ih": bias_ih, "bias_hh": bias_hh}
        given = {k: v for k, v in named.items() if v is not None}
        held = {k: beside(function, k, v, weight_ih).copy() for k, v in given.items()}
        self._held = [weight_ih.copy(), *(held.get(k) for k in named)]
        self._views = [None if array is None else array.view for array in self._held]
        self.hidden = int(module.recurrent_check(function, cell, *self._views))
        self.state = self.hidden
        self.input = weight_ih.shape[1]

    def run(
        self,
        function: str,
        x: DeviceArray,
        h0: DeviceArray | None,
        c0: DeviceArray | None,
        lengths: np.ndarray[Any, Any] | None,
        reverse: bool,
        keep: bool,
        out: DeviceArray | None,
    ) -> Any:
        weight = self._held[0]
        assert weight is not None
        beside(function, "x", x, weight)
        size = self._cuda.recurrent_workspace(function, self._cell, *self._views[:2], x.view)
        steps, rows = x.shape[:2]
        y = result(function, out, x, (steps, rows, self.hidden))
        double = x.dtype == np.float64
        dtype = {"h0": x.dtype, "c0": np.dtype(np.float64 if double else np.float32)}
        states = {}
        for argument, state in (("h0", h0), ("c0", c0)):
            if state is None:
                states[argument] = x.zeros((rows, self.hidden), dtype[argument])
                continue
            beside(function, argument, state, x)
            if state.shape != (rows, self.hidden):
                raise ValueError(
                    f"[{function}] {argument}: expected shape {(rows, self.hidden)}; "
                    f"found {state.shape}"
                )
            if state.dtype != dtype[argument]:
                raise TypeError(
                    f"[{function}] {argument}: expected {dtype[argument]}; found {state.dtype}"
                )
            states[argument] = state.copy()
        other = x.empty((rows, self.hidden))
        held, gates = x.workspace(size)
        ends = _on_device(function, lengths, x)
        kept = None
        if keep:
            count = self._cuda.recurrent_kept(self._cell) * self.hidden
            kept = x.empty((steps * rows, count), dtype["c0"])
        is_lstm = self._cell == 0
        self._cuda.recurrent(
            function,
            self._cell,
            *self._views,
            x.view,
            0 if ends is None else ends.view[0],
            reverse,
            y.view,
            states["h0"].view[0],
            other.view[0],
            states["c0"].view[0] if is_lstm else 0,
            gates,
            0 if kept is None else kept.view[0],
            x.queue,
        )
        del held, ends
        last = other if steps % 2 else states["h0"]
        return (
            y.array,
            last.array,
            states["c0"].array if is_lstm else None,
            None if kept is None else kept.array,
        )


class RecurrentKernels:
    """Recurrent networks on a device, under the names of `marey._cpu`."""

    _cuda: Any

    def recurrent_backward(
        self,
        function: str,
        cell: int,
        weights: Sequence[Any],
        x: DeviceArray,
        y: DeviceArray,
        h0: DeviceArray | None,
        c0: DeviceArray | None,
        lengths: np.ndarray[Any, Any] | None,
        reverse: bool,
        grad_y: DeviceArray | None,
        grad_h: DeviceArray | None,
        grad_c: DeviceArray | None,
        kept: DeviceArray | None,
    ) -> Any:
        weight_ih, weight_hh, peephole, weight_hr, layer_norm = weights
        _refuse(function, peephole=peephole, weight_hr=weight_hr, layer_norm=layer_norm)
        named = {"weight_ih": weight_ih, "weight_hh": weight_hh, "y": y, "h0": h0, "c0": c0,
                 "grad": grad_y, "grad_h": grad_h, "grad_c": grad_c, "kept": kept}  # fmt: skip
        views = {
            k: None if array is None else beside(function, k, array, x).view
            for k, array in named.items()
        }
        steps, rows, inputs = x.shape
        gates, hidden = weight_hh.shape
        real = np.dtype(np.float64 if x.dtype == np.float64 else np.float32)
        if kept is None:  # an RNN keeps nothing
            views["kept"] = x.empty((steps * rows, 0), real).view
        two = [views.pop("weight_ih"), views.pop("weight_hh")]
        size = self._cuda.recurrent_backward_workspace(function, cell, *two, x.view)
        held, memory = x.workspace(size)
        ends = _on_device(function, lengths, x)
        made = [
            x.empty(x.shape),
            x.empty((gates, inputs), real),
            x.empty((gates, hidden), real),
            x.empty((gates,), real),
            x.empty((gates,), real),
            x.empty((rows, hidden)),
            x.empty((rows, hidden), real) if cell == 0 else None,
        ]
        self._cuda.recurrent_backward(
            function,
            cell,
            *two,
            x.view,
            **views,
            lengths=0 if ends is None else ends.view[0],
            reverse=reverse,
            gradients=tuple(0 if g is None else g.view[0] for g in made),
            workspace=memory,
            queue=x.queue,
        )
        del held, ends
        return (*(None if g is None else g.array for g in made), None, None)
