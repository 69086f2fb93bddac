"""The functions of `marey.conv` for tensors, with gradients."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from marey import conv as plain
from marey.conv._options import LAYOUTS, Activation, Layout, Numbers, Padding, pairs, triple
from marey.torch._operation import gradient, operation, wants_gradient

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from marey.torch._operation import Call

__all__ = ["conv3d"]

_OPTIONS = "int[] stride, int[] padding, int[] dilation, int groups, str layout"


def _keywords(stride: Any, padding: Any, dilation: Any, groups: int, layout: str) -> dict[str, Any]:
    return {
        "stride": tuple(stride),
        "padding": ((padding[0], padding[1]), (padding[2], padding[3]), (padding[4], padding[5])),
        "dilation": tuple(dilation),
        "groups": groups,
        "layout": layout,
    }


def _shape(call: Call) -> Tensor:
    spatial = call.x.shape[2:] if call.layout == "NCTHW" else call.x.shape[1:4]
    sizes = [
        (n + before + after - d * (kernel - 1) - 1) // s + 1
        for n, before, after, d, kernel, s in zip(
            spatial,
            call.padding[::2],
            call.padding[1::2],
            call.dilation,
            call.weight.shape[2:],
            call.stride,
            strict=True,
        )
    ]
    batch, filters = call.x.shape[0], call.weight.shape[0]
    if call.layout == "NCTHW":
        return call.x.new_empty([batch, filters, *sizes])
    return call.x.new_empty([batch, *sizes, filters])


_conv3d = operation(
    f"conv3d(Tensor x, Tensor weight, Tensor? bias, {_OPTIONS}, str? activation) -> Tensor",
    lambda x, weight, bias, *options: plain.conv3d(
        x, weight, bias, **_keywords(*options[:-1]), activation=options[-1]
    ),
    _shape,
    autocast=torch.bfloat16,
)
# The gradients that are wanted, in order.
_conv3d_backward = operation(
    f"conv3d_backward(Tensor grad, Tensor x, Tensor weight, {_OPTIONS}, bool[] wanted) -> Tensor[]",
    lambda grad, x, weight, *options: [
        wanted
        for wanted in plain.conv3d_backward(
            grad, x, weight, **_keywords(*options[:-1]), needs=tuple(options[-1])
        )
        if wanted is not None
    ],
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
    grads = iter(
        _conv3d_backward(
            grad,
            call.x,
            call.weight,
            call.stride,
            call.padding,
            call.dilation,
            call.groups,
            call.layout,
            needs,
        )
    )
    return {name: next(grads) for name, needed in zip(names, needs, strict=True) if needed}


def _second(call: Call, grads: Sequence[Tensor]) -> dict[str, Any]:
    """Differentiate the gradients, each of which is linear in `grad` and in one other tensor."""
    arriving = iter(grads)
    of_x, of_weight, of_bias = (next(arriving) if need else None for need in call.wanted)
    options = (call.stride, call.padding, call.dilation, call.groups, call.layout)
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
    if weight.ndim != 5 or x.ndim != 5:
        raise ValueError(
            f"[{name}] x, weight: expected 5 axes each; found {tuple(x.shape)} and "
            f"{tuple(weight.shape)}"
        )
    if layout not in LAYOUTS or (activation is not None and activation not in _ACTIVATIONS):
        raise ValueError(
            f"[{name}] layout, activation: expected 'NCTHW' or 'NTHWC', and None, 'relu', 'gelu' "
            f"or 'silu'; found {layout!r} and {activation!r}"
        )
    steps, apart = triple(name, "stride", stride, 1), triple(name, "dilation", dilation, 1)
    kernel = (weight.shape[2], weight.shape[3], weight.shape[4])
    around = pairs(name, padding, kernel, apart, steps)
    wanted = wants_gradient(x, weight, bias)
    fused = None if wanted else activation
    y = _conv3d(x, weight, bias, steps, around, apart, groups, layout, fused)
    return _ACTIVATIONS[activation](y) if wanted and activation is not None else y
