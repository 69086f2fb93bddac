"""onnxruntime: a model of one Conv, its result bound to memory that is kept."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from bench.conv.pooling import POOLINGS, Pool
from bench.conv.workloads import WORKLOADS, Layer
from bench.harness import Peer, Program, Workload

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")

THREADS = [0]
OPSET = 17


def _set_threads(threads: int) -> None:
    THREADS[0] = threads


def session(nodes: list[Any], inputs: dict[str, Any], constants: dict[str, Any]) -> Any:
    """Of a graph from `inputs` to ``y``."""
    tensor = onnx.helper.make_tensor_value_info
    float32 = onnx.TensorProto.FLOAT
    graph = onnx.helper.make_graph(
        nodes,
        "work",
        [tensor(name, float32, x.shape) for name, x in inputs.items()],
        [tensor("y", float32, None)],
        [onnx.numpy_helper.from_array(x, name) for name, x in constants.items()],
    )
    opset = onnx.helper.make_opsetid("", OPSET)
    model = onnx.helper.make_model(graph, opset_imports=[opset], ir_version=8)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = THREADS[0]
    return onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )


def bound(session: Any, inputs: dict[str, Any]) -> Program:
    """Runs it on `inputs`, which stay where they are."""
    binding = session.io_binding()
    for name, x in inputs.items():
        binding.bind_ortvalue_input(name, onnxruntime.OrtValue.ortvalue_from_numpy(x))
    binding.bind_output("y")
    session.run_with_iobinding(binding)
    (y,) = binding.get_outputs()
    binding.bind_ortvalue_output("y", y)

    def call() -> None:
        session.run_with_iobinding(binding)

    def result() -> Any:
        call()
        return y.numpy()

    return Program(call, result=result)


def convolution(layer: Layer, x: Any, weight: Any) -> Program:
    node = onnx.helper.make_node(
        "Conv",
        ["x", "weight"],
        ["y"],
        strides=layer.stride,
        pads=layer.padding * 2,
        group=layer.groups,
    )
    return bound(session([node], {"x": x}, {"weight": weight}), {"x": np.ascontiguousarray(x)})


def pooling(pool: Pool, x: Any) -> Program:
    if pool.kernel is None:
        node = onnx.helper.make_node("GlobalAveragePool", ["x"], ["mean"])
        flat = onnx.helper.make_node("Flatten", ["mean"], ["y"])
        return bound(session([node, flat], {"x": x}, {}), {"x": x})
    node = onnx.helper.make_node(
        "MaxPool" if pool.kind == "max" else "AveragePool",
        ["x"],
        ["y"],
        kernel_shape=pool.kernel,
        strides=pool.stride,
        pads=pool.padding * 2,
        **({} if pool.kind == "max" else {"count_include_pad": 1}),
    )
    return bound(session([node], {"x": x}, {}), {"x": x})


ONNXRUNTIME = Peer(
    name="onnxruntime",
    version=onnxruntime.__version__,
    programs={
        "forward NTHWC float32": convolution,
        "pool NCTHW": pooling,
    },
    set_threads=_set_threads,
)


@pytest.mark.parametrize("workload", ONNXRUNTIME.among([*WORKLOADS, *POOLINGS]), ids=str)
def bench_onnxruntime(race: Callable[..., None], workload: Workload) -> None:
    race(workload, ONNXRUNTIME)
