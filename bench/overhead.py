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

CALLS, ROUNDS = 50, 21
SOS = marey.temporal.butter_bandpass(0.4, 3, fs=30)


def microseconds(*calls: Callable[[], Any]) -> list[float]:
    """Return the median for each, of rounds that take them in turn."""
    rounds = []
    for _ in range(ROUNDS):
        rounds.append([])
        for call in calls:
            call()
            start = time.perf_counter()
            for _ in range(CALLS):
                call()
            rounds[-1].append(1e6 * (time.perf_counter() - start) / CALLS)
    return [statistics.median(column) for column in zip(*rounds, strict=True)]


@torch.library.custom_op("bench::copy", mutates_args=())
def copy(x: torch.Tensor) -> torch.Tensor:
    return x.clone()


copy.register_fake(torch.empty_like)
copy.register_autograd(lambda *arguments: arguments[1])


def operations() -> dict[str, tuple[tuple[int, ...], Callable[[torch.Tensor], Any]]]:
    """Return a shape and a call of each operation, of the one tensor that may want a gradient."""
    sos, weight, h = torch.tensor(SOS), torch.rand(4, 4), torch.rand(1, 4)
    cells = {n: (torch.rand(n * 4, 4), torch.rand(n * 4, 4)) for n in (1, 3, 4)}
    kernel, flat = torch.rand(2, 1, 1, 3, 3), torch.rand(2, 2, 3, 1, 1)
    zi, begins, coarse = torch.zeros(len(SOS), 2, 4), torch.tensor([0, 3, 8]), torch.rand(4, 2)
    t, p, a, c, r = mt.temporal, mt.pyramid, mt.attention, mt.conv, mt.recurrent
    image, clip, steps, step = (8, 4), (1, 1, 1, 8, 4), (1, 1, 4), (1, 4)
    return {
        "temporal.sosfilt": (image, lambda x: t.sosfilt(sos, x)),
        "temporal.sosfilt, zi": (image, lambda x: t.sosfilt(sos, x, zi=zi)),
        "temporal.sosfiltfilt": (image, lambda x: t.sosfiltfilt(sos, x, padlen=3)),
        "temporal.ideal_bandpass": (image, lambda x: t.ideal_bandpass(x, 1, 10, 30)),
        "temporal.convolve": (image, lambda x: t.convolve(x, [1.0, 2.0, 1.0])),
        "temporal.gaussian": (image, lambda x: t.gaussian(x, 1.0)),
        "temporal.derivative": (image, t.derivative),
        "temporal.median": (image, t.median),
        "temporal.median_filter": (image, lambda x: t.median_filter(x, 3)),
        "pyramid.down": (image, lambda x: p.down(x, channel_axis=None)),
        "pyramid.up": (image, lambda x: p.up(x, channel_axis=None)),
        "pyramid.gaussian": (image, lambda x: p.gaussian(x, 1, channel_axis=None)),
        "pyramid.laplacian": (image, lambda x: p.laplacian(x, 1, channel_axis=None)),
        "pyramid.collapse": (image, lambda x: p.collapse([x, coarse], channel_axis=None)),
        "pyramid.SteerablePyramid": (image, p.SteerablePyramid(image, 1, 0).build),
        "attention.linear": (image, lambda x: a.linear(x, weight)),
        "attention.layer_norm": (image, a.layer_norm),
        "attention.rotary": (image, a.rotary),
        "attention.attention": ((1, 8, 4), lambda x: a.attention(x, x, x)),
        "attention.attention_varlen": (
            (8, 1, 4),
            lambda x: a.attention_varlen(x, x, x, begins, begins),
        ),
        "conv.conv3d": (clip, lambda x: c.conv3d(x, kernel)),
        "conv.separable_conv3d": (
            clip,
            lambda x: c.separable_conv3d(x, kernel, flat, padding=(1, 0, 0)),
        ),
        "conv.max_pool3d": (clip, lambda x: c.max_pool3d(x, (1, 2, 2))),
        "conv.avg_pool3d": (clip, lambda x: c.avg_pool3d(x, (1, 2, 2))),
        "conv.global_avg_pool3d": (clip, c.global_avg_pool3d),
        "recurrent.lstm": (steps, lambda x: r.lstm(x, *cells[4])),
        "recurrent.gru": (steps, lambda x: r.gru(x, *cells[3])),
        "recurrent.rnn": (steps, lambda x: r.rnn(x, *cells[1])),
        "recurrent.lstm_step": (step, lambda x: r.lstm_step(x, h, h, *cells[4])),
        "recurrent.gru_step": (step, lambda x: r.gru_step(x, h, *cells[3])),
        "recurrent.rnn_step": (step, lambda x: r.rnn_step(x, h, *cells[1])),
    }


def with_torch() -> None:
    print("torch: microseconds, and times those of a custom operation that copies")
    for name, (shape, call) in operations().items():
        told = []
        for wanted in (False, True):
            x = torch.rand(shape, requires_grad=wanted)
            least, took = microseconds(lambda x=x: copy(x), lambda x=x, call=call: call(x))
            what = "where a gradient is wanted " if wanted else ""
            told.append(f"{what}{took:.1f} of {least:.1f}, {took / least:.1f} times")
        print(f"  {name}: {'; '.join(told)}", flush=True)


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
        took, least = microseconds(call, compiled)
        print(f"  {name}: {took - least:.1f} us of {took:.1f}")


if __name__ == "__main__":
    with_torch()
    with_numpy()
