"""OpenVINO: the same ONNX model, compiled for each size and asked for float32 or bfloat16."""

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest

from bench.harness import Peer, Program, Workload
from bench.recurrent.workloads import WORKLOADS, Layer

openvino = pytest.importorskip("openvino")
onnx_model = pytest.importorskip("bench.recurrent.onnx_model")

THREADS = [0]


def _set_threads(threads: int) -> None:
    THREADS[0] = threads


def forward(precision: str, inputs: Layer) -> Program:
    options = {
        "INFERENCE_PRECISION_HINT": precision,
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_NUM_THREADS": THREADS[0],
    }
    core = openvino.Core()
    network = core.read_model(onnx_model.model(inputs).SerializeToString())
    request = core.compile_model(network, "CPU", options).create_infer_request()
    x = inputs.x.astype(np.float32)
    tensor = openvino.Tensor(x, shared_memory=True)
    request.set_input_tensor(tensor)

    def call(_kept: Any = (x, tensor)) -> Any:  # whose memory the request reads
        request.infer()
        return request.get_output_tensor(0).data[:, 0]

    return Program(call, result=lambda: call().copy())


OPENVINO = Peer(
    name="OpenVINO",
    version=openvino.__version__.partition("-")[0],
    programs={
        "forward float32": partial(forward, "f32"),
        "forward bfloat16": partial(forward, "bf16"),
    },
    set_threads=_set_threads,
)


@pytest.mark.parametrize("workload", OPENVINO.among(WORKLOADS), ids=str)
def bench_openvino(race: Callable[..., None], workload: Workload) -> None:
    race(workload, OPENVINO)
