"""ONNX's own tests of Conv, MaxPool, AveragePool and GlobalAveragePool.

Those of the operators, which the package makes, and those that torch's modules were converted to,
which it brings along. One and two dimensions are three of which the first are 1 long.
"""

import importlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from marey.conv import avg_pool3d, conv3d, global_avg_pool3d, max_pool3d
from numpy.typing import NDArray
from onnx import numpy_helper
from onnx.backend.test.case import node as operators

Array = NDArray[Any]

MODULES = ("conv", "maxpool", "averagepool", "globalaveragepool")
OPERATORS = ("Conv", "MaxPool", "AveragePool", "GlobalAveragePool")
CONVERTED = Path(onnx.__file__).parent / "backend" / "test" / "data" / "pytorch-converted"


@dataclass(frozen=True, eq=False)
class Case:
    name: str
    node: Any
    inputs: list[Array]
    output: Array  # of MaxPool the first: marey gives no indices
    rtol: float = 1e-3  # the suite's own
    atol: float = 1e-7

    @property
    def attributes(self) -> dict[str, Any]:
        return {a.name: onnx.helper.get_attribute_value(a) for a in self.node.attribute}


def of_operators() -> Iterator[Case]:
    for module in MODULES:
        importlib.import_module(f"{operators.__name__}.{module}")
    for test in operators._NodeTestCases:
        (node,) = test.model.graph.node
        if node.op_type in OPERATORS:
            for inputs, outputs in test.data_sets:
                yield Case(test.name, node, list(inputs), outputs[0], test.rtol, test.atol)


def of_torch() -> Iterator[Case]:
    for folder in sorted(CONVERTED.iterdir()):
        graph = onnx.load(folder / "model.onnx").graph
        if len(graph.node) != 1 or graph.node[0].op_type not in OPERATORS:
            continue
        constants = {each.name: numpy_helper.to_array(each) for each in graph.initializer}
        given, result = (
            numpy_helper.to_array(onnx.load_tensor(folder / "test_data_set_0" / f"{name}_0.pb"))
            for name in ("input", "output")
        )
        (node,) = graph.node
        inputs = [constants.get(name, given) for name in node.input]
        yield Case(folder.name, node, inputs, result)


# Not for parameters: the package takes seconds to make its own, in each process that finds tests.
@cache
def cases() -> list[Case]:
    return [*of_operators(), *of_torch()]


def three(values: Any, fill: int = 1) -> tuple[int, ...]:
    return (*(fill,) * (3 - len(values)), *map(int, values))


def pads(case: Case, size: tuple[int, ...]) -> tuple[tuple[int, int], ...]:
    """The padding of T, H and W."""
    attributes = case.attributes
    dims = len(size)
    auto = attributes.get("auto_pad", b"NOTSET")
    if auto in (b"SAME_UPPER", b"SAME_LOWER"):
        pairs = []
        for n, k, s, d in zip(
            size,
            attributes["kernel_shape"],
            attributes.get("strides", [1] * dims),
            attributes.get("dilations", [1] * dims),
            strict=True,
        ):
            total = max((-(-n // s) - 1) * s + d * (k - 1) + 1 - n, 0)
            small, large = total // 2, total - total // 2
            pairs.append((small, large) if auto == b"SAME_UPPER" else (large, small))
    else:
        assert auto == b"NOTSET"
        given = attributes.get("pads", [0] * 2 * dims)
        pairs = list(zip(given[:dims], given[dims:], strict=True))
    return (*((0, 0),) * (3 - dims), *pairs)


def run(case: Case, layout: str) -> Array:
    x, *others = case.inputs
    dims = x.ndim - 2
    attributes = case.attributes

    def in_three(array: Array) -> Array:
        return array.reshape(*array.shape[:2], *three(array.shape[2:]))

    clip = in_three(x)
    clip = np.ascontiguousarray(np.moveaxis(clip, 1, -1)) if layout == "NTHWC" else clip
    options: dict[str, Any] = {"layout": layout}
    if case.node.op_type == "GlobalAveragePool":
        return global_avg_pool3d(clip, **options).reshape(case.output.shape)
    options |= {
        "stride": three(attributes.get("strides", [1] * dims)),
        "padding": pads(case, x.shape[2:]),
        "dilation": three(attributes.get("dilations", [1] * dims)),
    }
    if case.node.op_type == "Conv":
        weight, bias = (*others, None)[:2]
        options["groups"] = attributes.get("group", 1)
        y = conv3d(clip, in_three(weight), bias, **options)
    else:
        options["ceil_mode"] = attributes.get("ceil_mode", 0)
        kernel = three(attributes["kernel_shape"])
        if case.node.op_type == "AveragePool":
            options["count_include_pad"] = attributes.get("count_include_pad", 0)
            y = avg_pool3d(clip, kernel, **options)
        else:
            y = max_pool3d(clip, kernel, **options)
    y = np.moveaxis(y, -1, 1) if layout == "NTHWC" else y
    assert y.shape[2 : 5 - dims] == (1,) * (3 - dims)
    return y.reshape(*y.shape[:2], *y.shape[5 - dims :])


def check(case: Case, layout: str) -> None:
    if case.inputs[0].dtype == np.uint8:
        with pytest.raises(TypeError, match="x: expected float32, float64 or bfloat16"):
            run(case, layout)
        return
    y = run(case, layout)
    assert y.dtype == case.output.dtype
    assert y.shape == case.output.shape
    np.testing.assert_allclose(y, case.output, rtol=case.rtol, atol=max(case.atol, 1e-6))


@pytest.mark.usefixtures("isa")
@pytest.mark.parametrize("layout", ["NCTHW", "NTHWC"])
@pytest.mark.parametrize("operator", OPERATORS)
def test_onnx(operator: str, layout: str) -> None:
    failed = {}
    for case in cases():
        if case.node.op_type == operator:
            try:
                check(case, layout)
            except (Exception, pytest.fail.Exception) as error:
                failed[case.name] = error
    assert not failed


def test_none_is_missing() -> None:
    """As many as the package had in version 1.23, or more."""
    count = Counter(case.node.op_type for case in cases())
    assert count["Conv"] >= 6 + 26
    assert count["MaxPool"] >= 19 + 8
    assert count["AveragePool"] >= 20 + 5
    assert count["GlobalAveragePool"] >= 2
    assert sum(case.inputs[0].dtype == np.uint8 for case in cases()) == 1
