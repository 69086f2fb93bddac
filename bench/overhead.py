"""What a call costs besides its kernel, on arrays of a few numbers: ``python -m bench.overhead``.

With torch beside a custom operation of torch's, made in the same way, of as many tensors, which
copies the first and keeps them all for the way back; with NumPy beside the compiled function by
itself, called with arguments that need no checking.
"""

from __future__ import annotations

import functools
import statistics
import sys
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
COLLAPSE = "pyramid.collapse"  # the one that takes a list
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


@functools.cache
def copying(name: str, arguments: str) -> Callable[..., torch.Tensor]:
    """Return an operation that copies its first tensor; only the way there is timed."""

    def tensors(given: Any) -> Any:
        return given[0] if isinstance(given[0], list) else given

    def setup_context(ctx: Any, inputs: Any, output: torch.Tensor) -> None:  # noqa: ARG001
        ctx.save_for_backward(*tensors(inputs))

    def backward(ctx: Any, grad: torch.Tensor) -> Any:
        raise NotImplementedError

    operation = torch.library.custom_op(
        f"bench::{name}",
        lambda *given: tensors(given)[0].clone(),
        mutates_args=(),
        schema=f"({arguments}) -> Tensor",
    )
    operation.register_fake(lambda *given: torch.empty_like(tensors(given)[0]))
    operation.register_autograd(backward, setup_context=setup_context)
    return operation


def copy_of(tensors: tuple[torch.Tensor, ...], listed: bool) -> Callable[[], torch.Tensor]:
    """Return a call of the operation that copies, with these tensors."""
    if listed:
        of_list = copying("copy_list", "Tensor[] tensors")
        return lambda: of_list(list(tensors))
    count = len(tensors)
    operation = copying(f"copy{count}", ", ".join(f"Tensor t{k}" for k in range(count)))
    return lambda: operation(*tensors)


def operations() -> dict[str, tuple[tuple[int, ...], tuple[Any, ...], Callable[..., Any]]]:
    """Return of each operation the shape of what may want a gradient, other tensors, and a call."""
    sos, h = torch.tensor(SOS), torch.rand(1, 4)
    cells = {n: (torch.rand(n * 4, 4), torch.rand(n * 4, 4)) for n in (1, 3, 4)}
    kernel, flat = torch.rand(2, 1, 1, 3, 3), torch.rand(2, 2, 3, 1, 1)
    zi, begins = torch.zeros(len(SOS), 2, 4), torch.tensor([0, 3, 8])
    t, p, a, c, r = mt.temporal, mt.pyramid, mt.attention, mt.conv, mt.recurrent
    image, clip, steps, step = (8, 4), (1, 1, 1, 8, 4), (1, 1, 4), (1, 4)
    tokens, packed = torch.rand(1, 8, 4), torch.rand(8, 1, 4)
    return {
        "temporal.sosfilt": (image, (sos,), lambda x, sos: t.sosfilt(sos, x)),
        "temporal.sosfilt, zi": (image, (sos, zi), lambda x, sos, zi: t.sosfilt(sos, x, zi=zi)),
        "temporal.sosfiltfilt": (image, (sos,), lambda x, sos: t.sosfiltfilt(sos, x, padlen=3)),
        "temporal.ideal_bandpass": (image, (), lambda x: t.ideal_bandpass(x, 1, 10, 30)),
        "temporal.convolve": (image, (), lambda x: t.convolve(x, [1.0, 2.0, 1.0])),
        "temporal.gaussian": (image, (), lambda x: t.gaussian(x, 1.0)),
        "temporal.derivative": (image, (), t.derivative),
        "temporal.median": (image, (), t.median),
        "temporal.median_filter": (image, (), lambda x: t.median_filter(x, 3)),
        "pyramid.down": (image, (), lambda x: p.down(x, channel_axis=None)),
        "pyramid.up": (image, (), lambda x: p.up(x, channel_axis=None)),
        "pyramid.gaussian": (image, (), lambda x: p.gaussian(x, 1, channel_axis=None)),
        "pyramid.laplacian": (image, (), lambda x: p.laplacian(x, 1, channel_axis=None)),
        COLLAPSE: (image, (torch.rand(4, 2),), lambda *x: p.collapse(x, channel_axis=None)),
        "pyramid.SteerablePyramid": (image, (), p.SteerablePyramid(image, 1, 0).build),
        "attention.linear": (image, (torch.rand(4, 4),), a.linear),
        "attention.layer_norm": (image, (), a.layer_norm),
        "attention.rotary": (image, (), a.rotary),
        "attention.attention": (tokens.shape, (tokens, tokens), a.attention),
        "attention.attention_varlen": (
            packed.shape,
            (packed, packed, begins, begins),
            a.attention_varlen,
        ),
        "conv.conv3d": (clip, (kernel,), c.conv3d),
        "conv.separable_conv3d": (
            clip,
            (kernel, flat),
            lambda *x: c.separable_conv3d(*x, padding=(1, 0, 0)),
        ),
        "conv.max_pool3d": (clip, (), lambda x: c.max_pool3d(x, (1, 2, 2))),
        "conv.avg_pool3d": (clip, (), lambda x: c.avg_pool3d(x, (1, 2, 2))),
        "conv.global_avg_pool3d": (clip, (), c.global_avg_pool3d),
        "recurrent.lstm": (steps, cells[4], r.lstm),
        "recurrent.gru": (steps, cells[3], r.gru),
        "recurrent.rnn": (steps, cells[1], r.rnn),
        "recurrent.lstm_step": (step, (h, h, *cells[4]), r.lstm_step),
        "recurrent.gru_step": (step, (h, *cells[3]), r.gru_step),
        "recurrent.rnn_step": (step, (h, *cells[1]), r.rnn_step),
    }


def with_torch(part: str) -> None:
    print("torch: microseconds, and times those of a custom operation that copies")
    for name, (shape, others, call) in operations().items():
        if part not in name:
            continue
        told = []
        for wanted in (False, True):
            tensors = (torch.rand(shape, requires_grad=wanted), *others)
            copy = copy_of(tensors, name == COLLAPSE)
            least, took = microseconds(copy, functools.partial(call, *tensors))
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
    with_torch(sys.argv[1] if len(sys.argv) > 1 else "")
    with_numpy()
