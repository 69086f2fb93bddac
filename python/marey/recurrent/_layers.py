"""Layers with packed weights: any number of them, in one or both directions."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from marey import _arguments
from marey._arrays import from_numpy_like, to_numpy
from marey.recurrent import _call

if TYPE_CHECKING:
    from collections.abc import Mapping

    from marey import _cpu

_NAMES = _call.WEIGHTS[:6]


class _Layers:
    """The packed weights of all layers and directions, and the run through them."""

    _function: str
    _cell: int

    def __init__(self, weights: Mapping[str, Any], cell: int, batch_first: bool) -> None:
        name = self._function
        self.batch_first = bool(batch_first)
        self._cell = cell
        if not hasattr(weights, "keys"):
            raise TypeError(
                f"[{name}] weights: expected a mapping from torch's names to arrays; found "
                f"{type(weights).__name__}"
            )
        left = dict(weights)
        directions = 2 if "weight_ih_l0_reverse" in left else 1
        self._packed: list[list[_cpu.CellWeights]] = []
        while not self._packed or f"weight_ih_l{len(self._packed)}" in left:
            layer = len(self._packed)
            suffixes = (f"_l{layer}", f"_l{layer}_reverse")[:directions]
            self._packed.append([self._take(left, suffix) for suffix in suffixes])
        if left:
            raise ValueError(
                f"[{name}] weights: expected torch's names (weight_ih_l0, weight_hh_l0, bias_ih_l0,"
                f" bias_hh_l0, ..., _reverse for the other direction); found {sorted(left)} too"
            )
        first = self._packed[0][0]
        self.hidden_size: int = first.hidden
        self.input_size: int = first.input
        # What h and y have: as hidden_size, but with a projection.
        self.state_size: int = first.state
        for layer, packed in enumerate(self._packed):
            for each in packed:
                size = directions * self.state_size if layer else self.input_size
                if each.state != self.state_size:
                    raise ValueError(
                        f"[{name}] weights: expected states of size {self.state_size} in layer "
                        f"{layer}; found {each.state}"
                    )
                if (each.hidden, each.input) != (self.hidden_size, size):
                    raise ValueError(
                        f"[{name}] weights: expected input size {size} and hidden size "
                        f"{self.hidden_size} in layer {layer}; found {each.input} and {each.hidden}"
                    )

    def _take(self, weights: dict[str, Any], suffix: str) -> _cpu.CellWeights:
        """Pack one layer and direction, and take its arrays out of `weights`."""
        allowed = (*_NAMES, *_call.NORMS) if self._cell == _call.LSTM else _NAMES[:4]
        for each in allowed:
            if weights.get(each + suffix) is not None:
                to_numpy(self._function, each + suffix, weights[each + suffix])
        for needed in _NAMES[:2]:
            if needed + suffix not in weights:
                raise ValueError(
                    f"[{self._function}] weights: expected {needed + suffix}; found none"
                )
        norms = [weights.pop(each + suffix, None) for each in _call.NORMS if each in allowed]
        given = [norm is not None for norm in norms]
        if any(given) and not all(given):
            raise ValueError(
                f"[{self._function}] weights: expected all of norm_ih, norm_hh and norm_c, or "
                f"none, in {suffix[1:]}; found {sum(given)} of them"
            )
        return _call.pack(
            self._function,
            self._cell,
            [
                *(weights.pop(each + suffix, None) for each in _NAMES if each in allowed),
                *([norms] if any(given) else []),
            ],
        )

    @property
    def num_layers(self) -> int:
        """How many layers there are."""
        return len(self._packed)

    @property
    def bidirectional(self) -> bool:
        """Whether there are both directions."""
        return len(self._packed[0]) == 2

    def _state(self, argument: str, state: Any, batch: int, size: int) -> list[Any]:
        """Return the state of each layer and direction, in torch's order."""
        count = len(self._packed) * len(self._packed[0])
        if state is None:
            return [None] * count
        array = to_numpy(self._function, argument, state)
        shape = (count, batch, size)
        if array.shape != shape:
            raise ValueError(
                f"[{self._function}] {argument}: expected shape {shape}; found {array.shape}"
            )
        return list(array)

    def _run(self, x: Any, h0: Any, c0: Any, lengths: Any) -> tuple[Any, Any, Any]:
        name = self._function
        source = _call.time_first(name, "x", x, self.batch_first)
        T, N, _ = source.shape
        h = self._state("h0", h0, N, self.state_size)
        c = self._state("c0", c0, N, self.hidden_size)
        steps = _call.lengths_array(name, lengths)
        directions = len(self._packed[0])
        h_n, c_n = [], []
        for layer, packed in enumerate(self._packed):
            y = None
            last = layer == len(self._packed) - 1
            if last and self.batch_first:
                y = np.empty((N, T, directions * self.state_size), source.dtype).swapaxes(0, 1)
            elif directions == 2:
                y = np.empty((T, N, directions * self.state_size), source.dtype)
            for direction, weights in enumerate(packed):
                k = layer * directions + direction
                out = y
                if y is not None and directions == 2:
                    first = direction * self.state_size
                    out = y[..., first : first + self.state_size]
                result, h_last, c_last, _ = weights.run(
                    name, source, h[k], c[k], steps, direction == 1, False, out
                )
                h_n.append(h_last)
                c_n.append(c_last)
            source = result if y is None else y
        convert = from_numpy_like(x)
        cells = None if c_n[0] is None else convert(np.stack(c_n))
        y = source.swapaxes(0, 1) if self.batch_first else source
        return convert(y), convert(np.stack(h_n)), cells


class LSTM(_Layers):
    """Long short-term memories with packed weights: layers, in one or both directions.

    Parameters
    ----------
    weights : mapping
        Arrays by torch's names, as ``torch.nn.LSTM(...).state_dict()`` has them: ``weight_ih_l0``,
        ``weight_hh_l0``, ``bias_ih_l0``, ``bias_hh_l0`` (biases may be missing), ``..._l1`` for the
        next layer, ``..._reverse`` for the other direction, ``weight_hr_l0`` for a projection; and
        ``peephole_l0``, ``norm_ih_l0``, ``norm_hh_l0``, ``norm_c_l0`` (layer norm) as for `lstm`.
        They are copied. Shapes and types as for `lstm`.
    batch_first : bool
        Whether x and y are (N, T, ...).

    Raises
    ------
    TypeError, ValueError
        As `lstm`; and for missing, unknown or unfitting names.

    Examples
    --------
    >>> import marey, numpy as np
    >>> rng = np.random.default_rng(0)
    >>> weights = {
    ...     "weight_ih_l0": rng.standard_normal((4 * 64, 32), np.float32),
    ...     "weight_hh_l0": rng.standard_normal((4 * 64, 64), np.float32),
    ... }
    >>> layers = marey.recurrent.LSTM(weights)
    >>> y, (h, c) = layers(rng.standard_normal((100, 8, 32), np.float32))
    >>> y.shape, h.shape
    ((100, 8, 64), (1, 8, 64))
    """

    _function = "marey.LSTM"

    def __init__(self, weights: Mapping[str, Any], *, batch_first: bool = False) -> None:
        super().__init__(weights, _call.LSTM, batch_first)

    def __call__(self, x: Any, state: Any = None, *, lengths: Any = None) -> Any:
        """Run over sequences.

        Parameters
        ----------
        x : array, (T, N, I)
            As for `lstm`.
        state : (h0, c0), optional
            Arrays (layers * directions, N, H), as torch orders them.
        lengths : array of int, (N,), optional
            As for `lstm`.

        Returns
        -------
        y : array, (T, N, directions * H)
        (h_n, c_n) : arrays, (layers * directions, N, H)
            With a projection y and h have its size P in place of H.
        """
        h0, c0 = (None, None) if state is None else _pair(self._function, state)
        y, h_n, c_n = self._run(x, h0, c0, lengths)
        return y, (h_n, c_n)


def _pair(function: str, state: Any) -> tuple[Any, Any]:
    pair = _arguments.items(function, "state", state, "a pair (h0, c0)")
    if len(pair) != 2:
        raise ValueError(f"[{function}] state: expected a pair (h0, c0); found {len(pair)} items")
    return pair


class GRU(_Layers):
    """Gated recurrent units with packed weights: layers, in one or both directions.

    Parameters
    ----------
    weights : mapping
        As for `LSTM`. Shapes and types as for `gru`.
    batch_first : bool
        Whether x and y are (N, T, ...).
    reset : "after" or "before"
        As for `gru`.

    Raises
    ------
    TypeError, ValueError
        As `LSTM`.
    """

    _function = "marey.GRU"

    def __init__(
        self,
        weights: Mapping[str, Any],
        *,
        batch_first: bool = False,
        reset: Literal["after", "before"] = "after",
    ) -> None:
        super().__init__(weights, _call.gru_cell(self._function, reset), batch_first)

    def __call__(self, x: Any, state: Any = None, *, lengths: Any = None) -> Any:
        """Run over sequences: as `LSTM`, but the state is h alone.

        Returns
        -------
        y : array, (T, N, directions * H)
        h_n : array, (layers * directions, N, H)
        """
        y, h_n, _ = self._run(x, state, None, lengths)
        return y, h_n


class RNN(_Layers):
    """Vanilla recurrent networks with packed weights: layers, in one or both directions.

    Parameters
    ----------
    weights : mapping
        As for `LSTM`. Shapes and types as for `rnn`.
    batch_first : bool
        Whether x and y are (N, T, ...).
    nonlinearity : "tanh" or "relu"

    Raises
    ------
    TypeError, ValueError
        As `LSTM`.
    """

    _function = "marey.RNN"

    def __init__(
        self,
        weights: Mapping[str, Any],
        *,
        batch_first: bool = False,
        nonlinearity: Literal["tanh", "relu"] = "tanh",
    ) -> None:
        super().__init__(weights, _call.rnn_cell(self._function, nonlinearity), batch_first)

    __call__ = GRU.__call__
