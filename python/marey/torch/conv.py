"""The functions of `marey.conv` for tensors, with gradients."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import torch

from marey._arguments import integer
from marey._arrays import to_array
from marey.conv._backward import convolved_backward
from marey.conv._conv3d import convolved
from marey.conv._options import (
    LAYOUTS,
    MOST,
    Activation,
    Layout,
    Numbers,
    Padding,
    of_numbers,
    pairs,
    triple,
)
from marey.conv._separable import separated
from marey.torch._operation import (
    gradient,
    new,
    not_differentiable,
    operation,
    wants_gradient,
)
from marey.torch._pool import avg_pool3d, global_avg_pool3d, max_pool3d

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from marey.torch._operation import Call

__all__ = [
    "avg_pool3d",
    "causal_conv3d",
    "conv3d",
    "global_avg_pool3d",
    "inflate",
    "max_pool3d",
    "separable_conv3d",
]

# Each argument costs a call some tenths of a microsecond, and one that is differentiated more, so
# all numbers come in one: three of the stride, six of the padding, three of the dilation, groups.
_OPTIONS = "int[] numbers, str layout"


def _parts(numbers: Sequence[int]) -> tuple[Any, Any, Any, int]:
    return numbers[:3], numbers[3:9], numbers[9:12], numbers[12]


def _forward(x: Any, weight: Any, bias: Any, numbers: Any, layout: str, activation: Any) -> Any:
    name = "marey.conv3d"
    filters = to_array(name, "weight", weight)
    checked = of_numbers(name, *_parts(numbers), layout, activation)
    return convolved(name, x, filters, bias, checked, None)


def _backward(
    grad: Any, x: Any, weight: Any, numbers: Any, layout: str, wanted: Sequence[bool]
) -> list[Any]:
    name = "marey.conv3d_backward"
    filters = to_array(name, "weight", weight)
    checked = of_numbers(name, *_parts(numbers), layout)
    gradients = convolved_backward(name, grad, x, filters, checked, wanted)
    return [found for found in gradients if found is not None]


def _shape(call: Call) -> Tensor:
    spatial = call.x.shape[2:] if call.layout == "NCTHW" else call.x.shape[1:4]
    stride, padding, dilation, _ = _parts(call.numbers)
    sizes = [
        (n + before + after - d * (kernel - 1) - 1) // s + 1
        for n, before, after, d, kernel, s in zip(
            spatial,
            padding[::2],
            padding[1::2],
            dilation,
            call.weight.shape[2:],
            stride,
            strict=True,
        )
    ]
    batch, filters = call.x.shape[0], call.weight.shape[0]
    if call.layout == "NCTHW":
        return call.x.new_empty([batch, filters, *sizes])
    return call.x.new_empty([batch, *sizes, filters])


_conv3d = operation(
    f"conv3d(Tensor x, Tensor weight, Tensor? bias, {_OPTIONS}, str? activation) -> Tensor",
    _forward,
    _shape,
    autocast=torch.bfloat16,
)
# The gradients that are wanted, in order.
_conv3d_backward = operation(
    f"conv3d_backward(Tensor grad, Tensor x, Tensor weight, {_OPTIONS}, bool[] wanted) -> Tensor[]",
    _backward,
    lambda call: [
        tensor
        for tensor, needed in zip(
            (
                call.x.new_empty(call.x.shape),
                call.weight.new_empty(call.weight.shape),
                call.weight.new_empty(call.weight.shape[:1]),
            ),
            call.wanted,
            strict=True,
        )
        if needed
    ],
)


def _gradient(call: Call, grad: Tensor) -> dict[str, Any]:
    names = ("x", "weight", "bias")
    needs = [call.needs(name) for name in names]
    if call.activation is not None:
        raise NotImplementedError(
            "[marey.torch.conv3d] gradient: expected activation=None in the operation itself"
        )
    grads = iter(_conv3d_backward(grad, call.x, call.weight, call.numbers, call.layout, needs))
    return {name: next(grads) for name, needed in zip(names, needs, strict=True) if needed}


def _second(call: Call, grads: Sequence[Tensor]) -> dict[str, Any]:
    """Differentiate the gradients, each of which is linear in `grad` and in one other tensor."""
    arriving = iter(grads)
    of_x, of_weight, of_bias = (next(arriving) if need else None for need in call.wanted)
    options = (call.numbers, call.layout)
    of_grad = torch.zeros_like(call.grad)
    found: dict[str, Any] = {}
    if of_x is not None:
        of_grad = of_grad + _conv3d(of_x, call.weight, None, *options, None)
        found["weight"] = _conv3d_backward(
            call.grad, of_x, call.weight, *options, [False, True, False]
        )[0]
    if of_weight is not None:
        of_grad = of_grad + _conv3d(call.x, of_weight, None, *options, None)
        found["x"] = _conv3d_backward(call.grad, call.x, of_weight, *options, [True, False, False])[
            0
        ]
    if of_bias is not None:
        shape = (1, -1, 1, 1, 1) if call.layout == "NCTHW" else (-1,)
        of_grad = of_grad + of_bias.view(shape)
    return {**found, "grad": of_grad}


gradient(_conv3d, _gradient, save=["x", "weight"])
gradient(_conv3d_backward, _second, save=["grad", "x", "weight"])

_ACTIVATIONS = {
    "relu": torch.nn.functional.relu,
    "gelu": torch.nn.functional.gelu,
    "silu": torch.nn.functional.silu,
}


def _check(name: str, layout: Any, activation: Any, **tensors: Tensor) -> None:
    for tensor in tensors.values():
        if tensor.ndim != 5:
            raise ValueError(
                f"[{name}] {', '.join(tensors)}: expected 5 axes each; found "
                f"{' and '.join(str(tuple(each.shape)) for each in tensors.values())}"
            )
    if layout not in (*LAYOUTS,) or (activation is not None and activation not in (*_ACTIVATIONS,)):
        raise ValueError(
            f"[{name}] layout, activation: expected 'NCTHW' or 'NTHWC', and None, 'relu', 'gelu' "
            f"or 'silu'; found {layout!r} and {activation!r}"
        )


def _activated(
    x: Tensor, weight: Tensor, bias: Tensor | None, numbers: Any, layout: Layout, activation: Any
) -> Tensor:
    """Convolve; the activation is part of the kernel where no gradient is wanted."""
    if activation is None or not wants_gradient(x, weight, bias):
        return _conv3d(x, weight, bias, numbers, layout, activation)
    return _ACTIVATIONS[activation](_conv3d(x, weight, bias, numbers, layout, None))


def conv3d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    stride: Numbers = 1,
    padding: Padding = 0,
    dilation: Numbers = 1,
    groups: int = 1,
    layout: Layout = "NCTHW",
    activation: Activation = None,
) -> Tensor:
    """Convolve a video: `marey.conv.conv3d`.

    Its gradient is `marey.conv.conv3d_backward`.

    Parameters
    ----------
    x : Tensor, (N, C, T, H, W) or (N, T, H, W, C)
        float32, float64 or bfloat16; any strides.
    weight : Tensor, (K, C / groups, kT, kH, kW)
    bias : Tensor, (K,), optional
    stride, padding, dilation, groups, layout, activation
        As for `marey.conv.conv3d`. The activation is part of the kernel where no gradient is
        wanted.

    Returns
    -------
    Tensor, (N, K, T', H', W') or (N, T', H', W', K)
    """
    name = "marey.torch.conv3d"
    _check(name, layout, activation, x=x, weight=weight)
    steps, apart = triple(name, "stride", stride, 1), triple(name, "dilation", dilation, 1)
    around = pairs(name, padding, weight.shape[2:], apart, steps)
    numbers = (*steps, *around, *apart, integer(name, "groups", groups, 1, MOST))
    return _activated(x, weight, bias, numbers, layout, activation)


def _separable_shape(call: Call) -> Tensor:
    first = 2 if call.layout == "NCTHW" else 1
    kernel = (call.temporal_weight.shape[2], *call.spatial_weight.shape[3:])
    shape = list(call.x.shape)
    for a in range(3):
        around = call.numbers[3 + 2 * a] + call.numbers[4 + 2 * a]
        shape[first + a] = (shape[first + a] + around - kernel[a]) // call.numbers[a] + 1
    shape[1 if call.layout == "NCTHW" else 4] = call.temporal_weight.shape[0]
    return new(call.x, shape)


_separable = operation(
    "separable_conv3d(Tensor x, Tensor spatial_weight, Tensor temporal_weight, "
    "Tensor? spatial_bias, Tensor? temporal_bias, int[] numbers, str layout, str? activation) "
    "-> Tensor",
    lambda x, w, u, b, d, numbers, layout, activation: separated(
        "marey.separable_conv3d",
        x,
        (w, u),
        (b, d),
        numbers[:3],
        numbers[3:],
        layout,
        activation,
        None,
    ),
    _separable_shape,
    autocast=torch.bfloat16,
)
not_differentiable(
    _separable, "expected a call of the function, which then convolves in space and in time"
)


def separable_conv3d(
    x: Tensor,
    spatial_weight: Tensor,
    temporal_weight: Tensor,
    spatial_bias: Tensor | None = None,
    temporal_bias: Tensor | None = None,
    *,
    stride: Numbers = 1,
    padding: Padding = 0,
    layout: Layout = "NCTHW",
    activation: Activation = None,
) -> Tensor:
    """Convolve in space, then in time: `marey.conv.separable_conv3d`.

    In one pass where no gradient is wanted; else one convolution after the other, because what lies
    between them is needed on the way back.

    Parameters
    ----------
    x : Tensor, (N, C, T, H, W) or (N, T, H, W, C)
        As for `conv3d`.
    spatial_weight : Tensor, (M, C, 1, kH, kW)
    temporal_weight : Tensor, (K, M, kT, 1, 1)
    spatial_bias, temporal_bias : Tensor, (M,) and (K,), optional
    stride, padding, layout, activation
        As for `marey.conv.separable_conv3d`.

    Returns
    -------
    Tensor, (N, K, T', H', W') or (N, T', H', W', K)
    """
    name = "marey.torch.separable_conv3d"
    weights = {"spatial_weight": spatial_weight, "temporal_weight": temporal_weight}
    _check(name, layout, activation, x=x, **weights)
    steps = triple(name, "stride", stride, 1)
    kernel = (temporal_weight.shape[2], spatial_weight.shape[3], spatial_weight.shape[4])
    around = pairs(name, padding, kernel, (1, 1, 1), steps)
    tensors = (x, spatial_weight, temporal_weight, spatial_bias, temporal_bias)
    if not wants_gradient(*tensors):
        return _separable(*tensors, (*steps, *around), layout, activation)
    t, h, w = steps
    t0, t1, h0, h1, w0, w1 = around
    of_space = (1, h, w, 0, 0, h0, h1, w0, w1, 1, 1, 1, 1)
    of_time = (t, 1, 1, t0, t1, 0, 0, 0, 0, 1, 1, 1, 1)
    between = _activated(x, spatial_weight, spatial_bias, of_space, layout, activation)
    return _conv3d(between, temporal_weight, temporal_bias, of_time, layout, None)


def causal_conv3d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    state: Tensor | None = None,
    padding: Padding = 0,
    stride: Numbers = 1,
    dilation: Numbers = 1,
    groups: int = 1,
    layout: Layout = "NCTHW",
    activation: Activation = None,
) -> tuple[Tensor, Tensor]:
    """Convolve so that no result sees a later frame: `marey.conv.causal_conv3d`.

    Frames are put behind the state, a copy that `marey.conv.CausalConv3d`, for streams, saves.

    Parameters
    ----------
    x : Tensor, (N, C, T, H, W) or (N, T, H, W, C)
        As for `conv3d`.
    weight, bias, dilation, groups, layout, activation
        As for `conv3d`.
    state : Tensor, optional
        The ``(kT - 1) * dilation`` frames before `x`. Default zeros.
    padding, stride
        Of H and W, as for `conv3d`; along time 0 and 1.

    Returns
    -------
    y : Tensor
        With as many frames as `x`.
    state : Tensor
        For the next call.
    """
    name = "marey.torch.causal_conv3d"
    _check(name, layout, activation, x=x, weight=weight)
    steps, apart = triple(name, "stride", stride, 1), triple(name, "dilation", dilation, 1)
    kernel = (1, weight.shape[3], weight.shape[4])
    t0, t1, h0, h1, w0, w1 = pairs(name, padding, kernel, apart, steps)
    if steps[0] != 1 or (t0, t1) != (0, 0):
        raise ValueError(
            f"[{name}] stride, padding: expected 1 and 0 along time; found {stride!r} and "
            f"{padding!r}"
        )
    kept, time = (weight.shape[2] - 1) * apart[0], 2 if layout == "NCTHW" else 1
    shape = list(x.shape)
    shape[time] = kept
    past = x.new_zeros(shape) if state is None else state
    if list(past.shape) != shape:
        raise ValueError(
            f"[{name}] state: expected shape {tuple(shape)} for x of shape {tuple(x.shape)}; "
            f"found {tuple(past.shape)}"
        )
    whole = torch.cat([past, x], time)
    count = integer(name, "groups", groups, 1, MOST)
    numbers = (*steps, 0, 0, h0, h1, w0, w1, *apart, count)
    y = _activated(whole, weight, bias, numbers, layout, activation)
    return y, whole.narrow(time, whole.shape[time] - kept, kept).clone()


def inflate(weight2d: Tensor, time: int, mode: Literal["mean", "centre"] = "mean") -> Tensor:
    """Make weights of a 3-D convolution from those of a 2-D one: `marey.conv.inflate`.

    Parameters
    ----------
    weight2d : Tensor, (K, C / groups, kH, kW)
    time : int
        kT of the result.
    mode : "mean" or "centre"

    Returns
    -------
    Tensor, (K, C / groups, time, kH, kW)
    """
    if weight2d.ndim != 4 or time < 1 or mode not in ("mean", "centre"):
        raise ValueError(
            f"[marey.torch.inflate] weight2d, time, mode: expected 4 axes, 1 or more, and 'mean' "
            f"or 'centre'; found {tuple(weight2d.shape)}, {time} and {mode!r}"
        )
    deep = weight2d.unsqueeze(2)
    if mode == "mean":
        return (deep / time).repeat(1, 1, time, 1, 1)
    behind = time - 1 - time // 2
    return torch.nn.functional.pad(deep, (0, 0, 0, 0, time // 2, behind))
