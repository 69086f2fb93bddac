"""OpenVINO: its scaled_dot_product_attention, compiled for each shape, in its inputs' type."""

from collections.abc import Callable
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from bench.attention.workloads import WORKLOADS
from bench.harness import Peer, Program, Workload

openvino = pytest.importorskip("openvino")
opset = pytest.importorskip("openvino.opset13")

THREADS = [0]


def _set_threads(threads: int) -> None:
    THREADS[0] = threads


def _program(qkv: Any, causal: bool) -> Program:
    narrow = qkv[0].dtype == ml_dtypes.bfloat16
    kind = openvino.Type.bf16 if narrow else openvino.Type.f32
    parameters = [opset.parameter(x.shape, dtype=kind) for x in qkv]
    model = openvino.Model(
        [opset.scaled_dot_product_attention(*parameters, causal=causal)], parameters
    )
    options = {
        "INFERENCE_PRECISION_HINT": "bf16" if narrow else "f32",
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_NUM_THREADS": THREADS[0],
    }
    request = openvino.Core().compile_model(model, "CPU", options).create_infer_request()
    tensors = [
        openvino.Tensor(x.view(np.int16), list(x.shape), kind)
        if narrow
        else openvino.Tensor(x, shared_memory=True)
        for x in qkv
    ]
    for i, tensor in enumerate(tensors):
        request.set_input_tensor(i, tensor)

    def call() -> Any:
        request.infer()
        out = request.get_output_tensor(0).data
        return out.view(ml_dtypes.bfloat16) if narrow else out

    return Program(call)


def full(*qkv: Any) -> Program:
    return _program(qkv, False)


def causal(*qkv: Any) -> Program:
    return _program(qkv, True)


OPENVINO = Peer(
    name="OpenVINO",
    version=openvino.__version__.partition("-")[0],
    programs={
        "full": full,
        "causal": causal,
        "full bfloat16": full,
        "causal bfloat16": causal,
    },
    set_threads=_set_threads,
)


@pytest.mark.parametrize("workload", OPENVINO.among(WORKLOADS), ids=str)
def bench_openvino(race: Callable[..., None], workload: Workload) -> None:
    race(workload, OPENVINO)
