"""What surrounds attention: projections, normalisation, rotary positions."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import torch

from marey import attention as plain
from marey.torch._operation import gradient, new, not_differentiable, operation, wants_gradient

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from marey.torch._operation import Call

Activation = Literal["relu", "gelu"] | None
_ACTIVATIONS = {"relu": torch.nn.functional.relu, "gelu": torch.nn.functional.gelu}

_linear = operation(
    "linear(Tensor x, Tensor weight, Tensor? bias, Tensor? residual, str? activation) -> Tensor",
    lambda x, weight, bias, residual, activation: plain.linear(
        x, weight, bias, activation=activation, residual=residual
    ),
    lambda call: new(call.x, [*call.x.shape[:-1], call.weight.shape[0]]),
    autocast=torch.bfloat16,
)
# The gradients that are wanted, in order.
_linear_backward = operation(
    "linear_backward(Tensor grad, Tensor x, Tensor weight, bool[] wanted) -> Tensor[]",
    lambda grad, x, weight, wanted: [
        found
        for found in plain.linear_backward(grad, x, weight, needs=tuple(wanted))
        if found is not None
    ],
    lambda call: [
        new(tensor, shape)
        for tensor, shape, needed in zip(
            (call.x, call.weight, call.weight),
            (None, None, call.weight.shape[:1]),
            call.wanted,
            strict=True,
        )
        if needed
    ],
)


def _linear_gradient(call: Call, grad: Tensor) -> dict[str, Any]:
    if call.activation is not None:
        raise NotImplementedError(
            "[marey.torch.linear] gradient: expected activation=None in the operation itself"
        )
    names = ("x", "weight", "bias")
    needs = [call.needs(name) for name in names]
    found = dict.fromkeys(names)
    if any(needs):
        grads = iter(_linear_backward(grad, call.x, call.weight, needs))
        found = {name: next(grads) for name, need in zip(names, needs, strict=True) if need}
    return {**found, "residual": grad if call.needs("residual") else None}


def _linear_second(call: Call, grads: Sequence[Tensor]) -> dict[str, Any]:
    """Differentiate ``grad @ weight``, ``grad.T @ x`` and ``grad.sum(0)``."""
    arriving = iter(grads)
    of_x, of_weight, of_bias = (next(arriving) if need else None for need in call.wanted)
    of_grad = torch.zeros_like(call.grad)
    found: dict[str, Any] = {}
    if of_x is not None:
        of_grad = of_grad + _linear(of_x, call.weight, None, None, None)
    if of_weight is not None:
        of_grad = of_grad + _linear(call.x, of_weight, None, None, None)
    if of_bias is not None:
        of_grad = of_grad + of_bias
    found["grad"] = of_grad
    if of_weight is not None:
        found["x"] = _linear_backward(call.grad, call.x, of_weight, [True, False, False])[0]
    if of_x is not None:
        found["weight"] = _linear_backward(call.grad, of_x, call.weight, [False, True, False])[0]
    return found


gradient(_linear, _linear_gradient, save=["x", "weight"])
gradient(_linear_backward, _linear_second, save=["grad", "x", "weight"])


def linear(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    activation: Activation = None,
    residual: Tensor | None = None,
) -> Tensor:
    """Compute ``activation(x @ weight.T + bias) + residual``: `marey.attention.linear`.

    Parameters
    ----------
    x : Tensor, (..., C)
        float32, float64 or bfloat16.
    weight : Tensor, (K, C)
    bias : Tensor, (K,), optional
    activation : None, "relu" or "gelu"
        Part of the kernel where no gradient is wanted.
    residual : Tensor, (..., K), optional

    Returns
    -------
    Tensor, (..., K)
    """
    if activation is not None and activation not in (*_ACTIVATIONS,):
        raise ValueError(
            f"[marey.torch.linear] activation: expected None, 'relu' or 'gelu'; "
            f"found {activation!r}"
        )
    if activation is None or not wants_gradient(x, weight, bias):
        return _linear(x, weight, bias, residual, activation)
    y = _ACTIVATIONS[activation](_linear(x, weight, bias, None, None))
    return y if residual is None else y + residual


_layer_norm = operation(
    "layer_norm(Tensor x, Tensor? weight, Tensor? bias, float eps) -> Tensor",
    lambda x, weight, bias, eps: plain.layer_norm(x, weight, bias, eps=eps),
    lambda call: new(call.x),
)
_layer_norm_backward = operation(
    "layer_norm_backward(Tensor grad, Tensor x, Tensor? weight, float eps) "
    "-> (Tensor, Tensor, Tensor)",
    lambda grad, x, weight, eps: plain.layer_norm_backward(grad, x, weight, eps=eps),
    lambda call: (new(call.x), *(new(call.x, call.x.shape[-1:]) for _ in range(2))),
)


def _layer_norm_gradient(call: Call, grad: Tensor) -> dict[str, Any]:
    found = _layer_norm_backward(grad, call.x, call.weight, call.eps)
    return {
        name: value if call.needs(name) else None
        for name, value in zip(("x", "weight", "bias"), found, strict=True)
    }


gradient(_layer_norm, _layer_norm_gradient, save=["x", "weight"])
not_differentiable(_layer_norm_backward, "layer normalisation has a first derivative only")


def layer_norm(
    x: Tensor, weight: Tensor | None = None, bias: Tensor | None = None, *, eps: float = 1e-5
) -> Tensor:
    """Normalise the last axis to mean 0 and variance 1: `marey.attention.layer_norm`.

    Parameters
    ----------
    x : Tensor, (..., C)
        float32, float64 or bfloat16; any strides.
    weight, bias : Tensor, (C,), optional
    eps : float
        Added to the variance.

    Returns
    -------
    Tensor, (..., C)
    """
    return _layer_norm(x, weight, bias, eps)


_rotary = operation(
    "rotary(Tensor x, Tensor positions, int[]? sections, float theta, bool interleaved) -> Tensor",
    lambda x, positions, sections, theta, interleaved: plain.rotary(
        x, positions, sections=sections, theta=theta, interleaved=interleaved
    ),
    lambda call: new(call.x),
)


def _rotary_gradient(call: Call, grad: Tensor) -> dict[str, Any]:
    if call.needs("positions"):
        raise NotImplementedError(
            "[marey.torch.rotary] positions: expected numbers that need no gradient"
        )
    back = _rotary(grad, -call.positions, call.sections, call.theta, call.interleaved)
    return {"x": back}


gradient(_rotary, _rotary_gradient, save=["positions"])


def rotary(
    x: Tensor,
    positions: Any = None,
    *,
    sections: Sequence[int] | None = None,
    theta: float = 10000.0,
    interleaved: bool = False,
) -> Tensor:
    """Turn queries or keys by angles that grow with their positions: `marey.attention.rotary`.

    Differentiable in `x`.

    Parameters
    ----------
    x : Tensor, (..., L, D)
        float32, float64 or bfloat16; D even.
    positions : Tensor or array, (L,) or (L, axes), optional
        Default ``arange(L)``.
    sections, theta, interleaved
        As for `marey.attention.rotary`.

    Returns
    -------
    Tensor, (..., L, D)
    """
    if x.ndim < 2:
        raise ValueError(
            f"[marey.torch.rotary] x: expected shape (..., L, D); found {tuple(x.shape)}"
        )
    if positions is None:
        place = torch.arange(x.shape[-2], dtype=torch.float64)
    else:
        place = torch.as_tensor(positions).to(torch.float64)
    parts = None if sections is None else list(sections)
    return _rotary(x, place, parts, float(theta), bool(interleaved))
