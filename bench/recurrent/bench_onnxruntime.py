"""onnxruntime: its LSTM, GRU and RNN in float32, the only type that it has them in."""

from collections.abc import Callable
from typing import Any

import pytest

from bench.harness import Peer, Program, Workload
from bench.recurrent.workloads import WORKLOADS, Layer

onnxruntime = pytest.importorskip("onnxruntime")
onnx_model = pytest.importorskip("bench.recurrent.onnx_model")

THREADS = [0]


def _set_threads(threads: int) -> None:
    THREADS[0] = threads


def forward(inputs: Layer) -> Program:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = THREADS[0]
    session = onnxruntime.InferenceSession(
        onnx_model.model(inputs).SerializeToString(), options, providers=["CPUExecutionProvider"]
    )

    def call() -> Any:
        return session.run(None, {"X": inputs.x})[0][:, 0]

    return Program(call)


ONNXRUNTIME = Peer(
    name="onnxruntime",
    version=onnxruntime.__version__,
    programs={"forward float32": forward},
    set_threads=_set_threads,
)


@pytest.mark.parametrize("workload", ONNXRUNTIME.among(WORKLOADS), ids=str)
def bench_onnxruntime(race: Callable[..., None], workload: Workload) -> None:
    race(workload, ONNXRUNTIME)
