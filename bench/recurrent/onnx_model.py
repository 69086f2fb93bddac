"""The ONNX model of a layer, for the peers that take one."""

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from bench.recurrent.workloads import GATES, Layer

onnx = pytest.importorskip("onnx")

# ONNX's order of the gates, by ours.
ORDER = {"LSTM": (0, 3, 1, 2), "GRU": (1, 0, 2), "RNN": (0,)}


def _reordered(kind: str, weight: NDArray[Any]) -> NDArray[np.float32]:
    gates = np.split(weight.astype(np.float32), GATES[kind])
    return np.concatenate([gates[k] for k in ORDER[kind]])


def model(inputs: Layer) -> Any:
    """A model of float32, from X (T, N, I) to Y (T, 1, N, H)."""
    kind = inputs.kind
    ih, hh, bias_ih, bias_hh = (_reordered(kind, array) for array in inputs.weights.values())
    constants = {"W": ih[None], "R": hh[None], "B": np.concatenate([bias_ih, bias_hh])[None]}
    attributes = {"linear_before_reset": 1} if kind == "GRU" else {}
    node = onnx.helper.make_node(
        kind, ["X", "W", "R", "B"], ["Y"], hidden_size=hh.shape[1], **attributes
    )
    T, N, _ = inputs.x.shape
    value = onnx.helper.make_tensor_value_info
    graph = onnx.helper.make_graph(
        [node],
        kind,
        [value("X", onnx.TensorProto.FLOAT, inputs.x.shape)],
        [value("Y", onnx.TensorProto.FLOAT, [T, 1, N, hh.shape[1]])],
        [onnx.numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    opset = onnx.helper.make_opsetid("", 14)
    return onnx.helper.make_model(graph, opset_imports=[opset], ir_version=8)
