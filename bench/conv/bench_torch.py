"""torch (oneDNN): in NCTHW, as most people call it, and in channels_last_3d, its faster layout.

A causal convolution frame by frame keeps the last frames and joins each new one to them, as
streaming models do.
"""

from collections.abc import Callable
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from bench.conv.pooling import POOLINGS, Pool
from bench.conv.workloads import DTYPES, WORKLOADS, Layer, size_one
from bench.harness import Peer, Program, Workload

torch = pytest.importorskip("torch")
conv3d = torch.nn.functional.conv3d
WORK = [*WORKLOADS, *POOLINGS]


def to_torch(x: Any) -> Any:
    if x.dtype == ml_dtypes.bfloat16:
        return torch.from_numpy(x.view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(x)


def to_numpy(x: Any) -> Any:
    if x.dtype == torch.bfloat16:
        return x.view(torch.int16).numpy().view(ml_dtypes.bfloat16)
    return x.numpy()


def without_gradients(call: Callable[[], Any]) -> Program:
    def run() -> Any:
        with torch.no_grad():
            return call()

    return Program(run, result=lambda: to_numpy(run()))


class Programs:
    """What torch does, in one memory format."""

    def __init__(self, memory_format: Any) -> None:
        self.memory_format = memory_format

    def tensors(self, *arrays: Any) -> list[Any]:
        return [to_torch(x).contiguous(memory_format=self.memory_format) for x in arrays]

    def forward(self, layer: Layer, *arrays: Any) -> Program:
        x, weight = self.tensors(*arrays)
        return without_gradients(lambda: conv3d(x, weight, **layer.options))

    def training(self, layer: Layer, *arrays: Any) -> Program:
        x, weight, grad = self.tensors(*arrays)
        x.requires_grad_()
        weight.requires_grad_()

        def call() -> Any:
            return torch.autograd.grad(conv3d(x, weight, **layer.options), (x, weight), grad)

        return Program(call, result=lambda: size_one(layer, *(g.numpy() for g in call())))

    def stream(self, layer: Layer, *arrays: Any) -> Program:
        x, weight = self.tensors(*arrays)
        t, h, w = layer.padding
        frames = [
            x[:, :, i : i + 1].contiguous(memory_format=self.memory_format)
            for i in range(x.shape[2])
        ]

        def outputs() -> list[Any]:
            kept = torch.zeros_like(x[:, :, : 2 * t])
            results = []
            for frame in frames:
                joined = torch.cat([kept, frame], 2)
                results.append(conv3d(joined, weight, padding=(0, h, w), groups=layer.groups))
                kept = joined[:, :, 1:]
            return results

        with_results = without_gradients(lambda: torch.cat(outputs(), 2))
        return Program(without_gradients(outputs).call, result=with_results.result)

    def pool(self, pool: Pool, *arrays: Any) -> Program:
        (x,) = self.tensors(*arrays)
        if pool.kernel is None:
            return without_gradients(lambda: x.mean((2, 3, 4)))
        functions = torch.nn.functional
        function = functions.max_pool3d if pool.kind == "max" else functions.avg_pool3d
        return without_gradients(lambda: function(x, pool.kernel, pool.stride, pool.padding))

    def pool_training(self, pool: Pool, x: Any, grad: Any) -> Program:
        (x,) = self.tensors(x)
        grad = to_torch(grad) if pool.kernel is None else self.tensors(grad)[0]
        x.requires_grad_()
        functions = torch.nn.functional
        function = functions.max_pool3d if pool.kind == "max" else functions.avg_pool3d

        def call() -> Any:
            if pool.kernel is None:
                y = x.mean((2, 3, 4))
            else:
                y = function(x, pool.kernel, pool.stride, pool.padding)
            return torch.autograd.grad(y, x, grad)[0]

        return Program(call, result=lambda: call().numpy())


def _peer(name: str, memory_format: Any, layout: str) -> Peer:
    """Races ours in one layout; in NTHWC forward against both of torch's."""
    does = Programs(memory_format)
    programs = {
        f"forward {each} {dtype}": does.forward for each in ("NTHWC", layout) for dtype in DTYPES
    }
    programs |= {
        f"function {layout}": does.forward,
        f"training {layout}": does.training,
        f"causal frame by frame {layout}": does.stream,
        f"pool {layout}": does.pool,
        f"pool training {layout}": does.pool_training,
    }
    return Peer(
        name=name, version=torch.__version__, programs=programs, set_threads=torch.set_num_threads
    )


TORCH = _peer("torch NCTHW", torch.contiguous_format, "NCTHW")
CHANNELS_LAST = _peer("torch channels_last", torch.channels_last_3d, "NTHWC")


@pytest.mark.parametrize("workload", TORCH.among(WORK), ids=str)
def bench_torch(race: Callable[..., None], workload: Workload) -> None:
    race(workload, TORCH)


@pytest.mark.parametrize("workload", CHANNELS_LAST.among(WORK), ids=str)
def bench_torch_channels_last(race: Callable[..., None], workload: Workload) -> None:
    race(workload, CHANNELS_LAST)
