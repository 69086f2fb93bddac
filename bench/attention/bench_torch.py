"""torch: scaled_dot_product_attention, which has a fused kernel on the CPU.

Along time and space its layout demands permuted copies; a ragged batch is padded and masked.
"""

from collections.abc import Callable
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from bench.attention.workloads import RAGGED, WORKLOADS
from bench.harness import Peer, Program, Workload

torch = pytest.importorskip("torch")
sdpa = torch.nn.functional.scaled_dot_product_attention


def _tensor(array: Any) -> Any:
    if array.dtype == ml_dtypes.bfloat16:
        return torch.from_numpy(array.view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(array)


def _array(tensor: Any) -> Any:
    if tensor.dtype == torch.bfloat16:
        return tensor.view(torch.int16).numpy().view(ml_dtypes.bfloat16)
    return tensor.numpy()


def _program(call: Callable[[], Any]) -> Program:
    def without_gradients() -> Any:
        with torch.no_grad():
            return _array(call())

    return Program(without_gradients)


def full(*qkv: Any) -> Program:
    q, k, v = map(_tensor, qkv)
    return _program(lambda: sdpa(q, k, v))


def causal(*qkv: Any) -> Program:
    q, k, v = map(_tensor, qkv)
    return _program(lambda: sdpa(q, k, v, is_causal=True))


def gradients(*arrays: Any, is_causal: bool = False) -> Program:
    *qkv, grad = map(_tensor, arrays)

    def call() -> Any:
        leaves = [x.detach().requires_grad_() for x in qkv]
        sdpa(*leaves, is_causal=is_causal).backward(grad)
        return [_array(x.grad) for x in leaves]

    return Program(call)


def causal_gradients(*arrays: Any) -> Program:
    return gradients(*arrays, is_causal=True)


def linear(*arrays: Any) -> Program:
    x, weight, bias = map(_tensor, arrays)
    return _program(lambda: torch.nn.functional.linear(x, weight, bias))


def divided(*qkv: Any) -> Program:
    q, k, v = map(torch.from_numpy, qkv)
    B, T, H, W, h, D = q.shape

    def along(x: Any, y: Any, z: Any, order: tuple[int, ...], batch: int, n: int) -> Any:
        parts = [a.permute(order).reshape(batch, h, n, D) for a in (x, y, z)]
        return sdpa(*parts)

    def call() -> Any:
        x = along(q, k, v, (0, 2, 3, 4, 1, 5), B * H * W, T)
        x = x.reshape(B, H, W, h, T, D).permute(0, 4, 1, 2, 3, 5)
        x = along(x, k, v, (0, 1, 4, 2, 3, 5), B * T, H * W)
        return x.reshape(B, T, h, H, W, D).permute(0, 1, 3, 4, 2, 5).contiguous()

    return _program(call)


def ragged(*qkv: Any) -> Program:
    longest = max(RAGGED)
    shape = (len(RAGGED), qkv[0].shape[1], longest, qkv[0].shape[2])
    starts = np.cumsum([0, *RAGGED[:-1]])
    padded = [np.zeros(shape, np.float32) for _ in qkv]
    for i, (start, n) in enumerate(zip(starts, RAGGED, strict=True)):
        for target, source in zip(padded, qkv, strict=True):
            target[i, :, :n] = source[start : start + n].swapaxes(0, 1)
    q, k, v = map(torch.from_numpy, padded)
    lengths = np.asarray(RAGGED)
    allowed = torch.from_numpy(np.arange(longest) < lengths[:, None])[:, None, None]

    def packed() -> Any:
        y = sdpa(q, k, v, attn_mask=allowed).numpy()
        return np.concatenate([y[i, :, :n].swapaxes(0, 1) for i, n in enumerate(RAGGED)])

    program = _program(lambda: sdpa(q, k, v, attn_mask=allowed))
    return Program(program.call, result=packed)


TORCH = Peer(
    name="torch",
    version=torch.__version__,
    programs={
        "full": full,
        "causal": causal,
        "divided": divided,
        "ragged": ragged,
        "gradients": gradients,
        "causal gradients": causal_gradients,
        "linear": linear,
        "full bfloat16": full,
        "causal bfloat16": causal,
        "gradients bfloat16": gradients,
        "linear bfloat16": linear,
    },
    set_threads=torch.set_num_threads,
)


@pytest.mark.parametrize("workload", TORCH.among(WORKLOADS), ids=str)
def bench_torch(race: Callable[..., None], workload: Workload) -> None:
    race(workload, TORCH)
