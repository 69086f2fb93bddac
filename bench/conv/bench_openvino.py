"""OpenVINO: a convolution compiled for its shape, weights constant."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from bench.conv.workloads import DTYPES, WORKLOADS, Layer
from bench.harness import Peer, Program, Workload

openvino = pytest.importorskip("openvino")
opset = pytest.importorskip("openvino.opset13")

THREADS = [0]


def _set_threads(threads: int) -> None:
    THREADS[0] = threads


def _tensor(x: Any) -> Any:
    if x.dtype == np.float32:
        return openvino.Tensor(x, shared_memory=True)
    return openvino.Tensor(x.view(np.uint16), openvino.Shape(x.shape), openvino.Type.bf16)


def convolution(layer: Layer, x: Any, weight: Any) -> Program:
    inputs = _tensor(x)
    parameter = opset.parameter(x.shape, dtype=inputs.element_type)
    padding = layer.padding
    if layer.groups == 1:
        weights = opset.constant(_tensor(weight))
        make = opset.convolution
    else:
        grouped = weight.reshape(layer.groups, -1, *weight.shape[1:])
        weights = opset.constant(_tensor(grouped))
        make = opset.group_convolution
    node = make(parameter, weights, layer.stride, padding, padding, (1, 1, 1))
    options = {
        "INFERENCE_PRECISION_HINT": "f32" if x.dtype == np.float32 else "bf16",
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_NUM_THREADS": THREADS[0],
    }
    model = openvino.Model([node], [parameter])
    request = openvino.Core().compile_model(model, "CPU", options).create_infer_request()
    request.set_input_tensor(0, inputs)

    def result() -> Any:
        request.infer()
        return request.get_output_tensor(0).data.view(x.dtype)

    return Program(request.infer, result=result)


OPENVINO = Peer(
    name="OpenVINO",
    version=openvino.__version__.partition("-")[0],
    programs={f"forward NTHWC {dtype}": convolution for dtype in DTYPES},
    set_threads=_set_threads,
)


@pytest.mark.parametrize("workload", OPENVINO.among(WORKLOADS), ids=str)
def bench_openvino(race: Callable[..., None], workload: Workload) -> None:
    race(workload, OPENVINO)
