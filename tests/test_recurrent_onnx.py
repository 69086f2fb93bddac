"""ONNX's own tests of LSTM, GRU and RNN, which the package makes."""

import importlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import pytest
from marey import recurrent
from numpy.typing import NDArray
from onnx.backend.test.case import node as operators

Array = NDArray[Any]

# ONNX's place of each of our gates: it has i, o, f, c (peepholes i, o, f) and z, r, h.
ORDER = {"LSTM": (0, 2, 3, 1), "GRU": (1, 0, 2), "RNN": (0,)}
PEEPHOLES = (0, 2, 1)
NAMES = ("X", "W", "R", "B", "sequence_lens", "initial_h", "initial_c", "P")
# What a case may ask for; anything else would be left out in silence.
ATTRIBUTES = {"hidden_size", "layout", "direction", "linear_before_reset"}


@dataclass(frozen=True, eq=False)
class Case:
    name: str
    node: Any
    inputs: list[Array]
    outputs: list[Array]
    rtol: float
    atol: float

    def __str__(self) -> str:
        return self.name


def cases() -> Iterator[Case]:
    for module in ("lstm", "gru", "rnn"):
        importlib.import_module(f"{operators.__name__}.{module}")
    for test in operators._NodeTestCases:
        (node,) = test.model.graph.node
        if node.op_type in ORDER:
            for inputs, outputs in test.data_sets:
                yield Case(test.name, node, list(inputs), list(outputs), test.rtol, test.atol)


CASES = list(cases())


def reordered(array: Array, order: tuple[int, ...]) -> Array:
    parts = np.split(array, len(order))
    return np.concatenate([parts[k] for k in order])


def weights(kind: str, direction: int, given: dict[str, Array]) -> dict[str, Array]:
    """One direction's, as ours has them."""
    found = {
        "weight_ih": reordered(given["W"][direction], ORDER[kind]),
        "weight_hh": reordered(given["R"][direction], ORDER[kind]),
    }
    if "B" in given:
        halves = np.split(given["B"][direction], 2)
        for name, half in zip(("bias_ih", "bias_hh"), halves, strict=True):
            found[name] = reordered(half, ORDER[kind])
    if "P" in given:
        found["peephole"] = given["P"][direction].reshape(3, -1)[list(PEEPHOLES)]
    return found


def run(case: Case) -> dict[str, Array]:
    attributes = {a.name: onnx.helper.get_attribute_value(a) for a in case.node.attribute}
    assert attributes.keys() <= ATTRIBUTES
    kind = case.node.op_type
    names = [name for name in case.node.input if name]
    given = dict(zip(names, case.inputs, strict=True))
    assert given.keys() <= set(NAMES)
    batch_first = bool(attributes.get("layout", 0))
    states = [given.get(name) for name in ("initial_h", "initial_c")]
    if batch_first:
        states = [None if s is None else s.swapaxes(0, 1) for s in states]
    options: dict[str, Any] = {"batch_first": batch_first}
    if kind == "GRU":
        options["reset"] = "after" if attributes.get("linear_before_reset", 0) else "before"
    lengths = given.get("sequence_lens")
    direction = attributes.get("direction", b"forward")
    x = given["X"]
    if direction == b"bidirectional":
        both = {
            f"{name}_l0{suffix}": array
            for k, suffix in enumerate(("", "_reverse"))
            for name, array in weights(kind, k, given).items()
        }
        layers = getattr(recurrent, kind)(both, **options)
        state = states[0] if kind != "LSTM" or states[0] is None else tuple(states)
        y, ends = layers(x, state, lengths=lengths)
        y = np.stack(np.split(y, 2, axis=-1), axis=2)  # (T or N, N or T, directions, H)
    else:
        for name, state in zip(("h0", "c0"), states, strict=True):
            if state is not None:
                options[name] = state[0]
        y, ends = getattr(recurrent, kind.lower())(
            x, **weights(kind, 0, given), **options, lengths=lengths,
            reverse=direction == b"reverse",
        )  # fmt: skip
        y = y[:, :, None]
        ends = tuple(end[None] for end in ends) if kind == "LSTM" else ends[None]
    h, c = ends if kind == "LSTM" else (ends, None)
    results = {"Y": y if batch_first else y.swapaxes(1, 2), "Y_h": h, "Y_c": c}
    if batch_first:
        results |= {name: results[name].swapaxes(0, 1) for name in ("Y_h", "Y_c") if
                    results[name] is not None}  # fmt: skip
    return results


def test_all_kinds_and_directions_are_there() -> None:
    assert {case.node.op_type for case in CASES} == set(ORDER)
    assert len(CASES) >= 12


@pytest.mark.usefixtures("isa")
@pytest.mark.parametrize("case", CASES, ids=str)
def test_onnx(case: Case) -> None:
    results = run(case)
    names = [name for name in case.node.output if name]
    for name, expected in zip(names, case.outputs, strict=True):
        assert results[name].dtype == expected.dtype
        np.testing.assert_allclose(
            results[name], expected, rtol=case.rtol, atol=max(case.atol, 1e-6), strict=True
        )
