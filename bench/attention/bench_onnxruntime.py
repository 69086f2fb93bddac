"""onnxruntime: its MultiHeadAttention operator, which takes (B, L, h D); float32 on the CPU."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from bench.attention.workloads import WORKLOADS
from bench.harness import Peer, Program, Workload

onnxruntime = pytest.importorskip("onnxruntime")
onnx = pytest.importorskip("onnx")

THREADS = [0]


def _set_threads(threads: int) -> None:
    THREADS[0] = threads


def _session(heads: int, causal: bool) -> Any:
    helper = onnx.helper
    node = helper.make_node(
        "MultiHeadAttention",
        ["q", "k", "v"],
        ["out"],
        domain="com.microsoft",
        num_heads=heads,
        unidirectional=int(causal),
    )
    values = [
        helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, ["B", length, "E"])
        for name, length in (("q", "L"), ("k", "S"), ("v", "S"), ("out", "L"))
    ]
    graph = helper.make_graph([node], "attention", values[:3], values[3:])
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=8)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = THREADS[0]
    return onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )


def _program(qkv: Any, causal: bool) -> Program:
    B, h, L, D = qkv[0].shape
    session = _session(h, causal)
    joined = [np.ascontiguousarray(x.swapaxes(1, 2)).reshape(B, -1, h * D) for x in qkv]
    feed = dict(zip("qkv", joined, strict=True))

    def result() -> Any:
        return session.run(None, feed)[0].reshape(B, L, h, D).swapaxes(1, 2)

    return Program(lambda: session.run(None, feed)[0], result=result)


def full(*qkv: Any) -> Program:
    return _program(qkv, False)


def causal(*qkv: Any) -> Program:
    return _program(qkv, True)


ONNXRUNTIME = Peer(
    name="onnxruntime",
    version=onnxruntime.__version__,
    programs={"full": full, "causal": causal},
    set_threads=_set_threads,
)


@pytest.mark.parametrize("workload", ONNXRUNTIME.among(WORKLOADS), ids=str)
def bench_onnxruntime(race: Callable[..., None], workload: Workload) -> None:
    race(workload, ONNXRUNTIME)
