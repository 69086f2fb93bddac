"""What a call costs besides its kernel, on arrays of a few numbers: ``python -m bench.overhead``.

With torch beside a custom operation of torch's that copies its argument, made in the same way; with
NumPy beside the compiled function by itself, called with arguments that need no checking.
"""

from __future__ import annotations

import statistics
import time
from typing import TYPE_CHECKING, Any

import marey
import numpy as np
import torch
from marey import _cpu
from marey import torch as mt

if TYPE_CHECKING:
    from collections.abc import Callable

CALLS, ROUNDS = 400, 9
SOS = marey.temporal.butter_bandpass(0.4, 3, fs=30)


def microseconds(call: Callable[[], Any]) -> float:
    for _ in range(CALLS):
        call()
    rounds = []
    for _ in range(ROUNDS):
        start = time.perf_counter()
        for _ in range(CALLS):
            call()
        rounds.append(1e6 * (time.perf_counter() - start) / CALLS)
    return statistics.median(rounds)


@torch.library.custom_op("bench::copy", mutates_args=())
def copy(x: torch.Tensor) -> torch.Tensor:
    return x.clone()


copy.register_fake(torch.empty_like)
copy.register_autograd(lambda *arguments: arguments[1])


def with_torch() -> None:
    sos, weight = torch.tensor(SOS), torch.rand(4, 4)
    q = torch.rand(1, 1, 2, 8)
    calls: dict[str, Callable[[torch.Tensor], Any]] = {
        "temporal.sosfilt": lambda x: mt.temporal.sosfilt(sos, x),
        "temporal.convolve": lambda x: mt.temporal.convolve(x, [1.0, 2.0, 1.0]),
        "pyramid.down": lambda x: mt.pyramid.down(x, channel_axis=None),
        "attention.linear": lambda x: mt.attention.linear(x, weight),
        "attention.layer_norm": mt.attention.layer_norm,
        "attention.attention": lambda x: mt.attention.attention(
            q.requires_grad_(x.requires_grad), q, q
        ),
    }
    plain, wanted = torch.rand(8, 4), torch.rand(8, 4, requires_grad=True)
    least = [microseconds(lambda x=x: copy(x)) for x in (plain, wanted)]
    print(f"torch: a custom operation {least[0]:.1f} us, where a gradient is wanted {least[1]:.1f}")
    for name, call in calls.items():
        took = [microseconds(lambda x=x, call=call: call(x)) for x in (plain, wanted)]
        ratios = [a / b for a, b in zip(took, least, strict=True)]
        print(
            f"  {name}: {took[0]:.1f} us, {ratios[0]:.1f} times; "
            f"{took[1]:.1f} us, {ratios[1]:.1f} times"
        )


def with_numpy() -> None:
    x, weight = np.random.default_rng(0).random((2, 4, 4), np.float32)
    taps = np.array([1.0, 2.0, 1.0])
    calls: dict[str, tuple[Callable[[], Any], Callable[[], Any]]] = {
        "temporal.sosfilt": (
            lambda: marey.temporal.sosfilt(SOS, x),
            lambda: _cpu.sosfilt(SOS, x, 0, None, None, None),
        ),
        "temporal.convolve": (
            lambda: marey.temporal.convolve(x, taps),
            lambda: _cpu.convolve("marey.convolve", x, 0, taps, 1, "reflect", 0.0, None, None),
        ),
        "pyramid.down": (
            lambda: marey.pyramid.down(x, channel_axis=None),
            lambda: _cpu.down(x, None, None),
        ),
        "attention.linear": (
            lambda: marey.attention.linear(x, weight),
            lambda: _cpu.linear(x, weight, None, None, None, None),
        ),
        "attention.layer_norm": (
            lambda: marey.attention.layer_norm(x),
            lambda: _cpu.layer_norm(x, None, None, 1e-5, None),
        ),
    }
    print("NumPy: microseconds above the compiled function")
    for name, (call, compiled) in calls.items():
        took, least = microseconds(call), microseconds(compiled)
        print(f"  {name}: {took - least:.1f} us of {took:.1f}")


if __name__ == "__main__":
    with_torch()
    with_numpy()
