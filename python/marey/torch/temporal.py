"""The functions of `marey.temporal` for tensors, with gradients."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from marey import _adjoints, temporal
from marey.temporal._fir import gaussian_taps
from marey.temporal._recursive import extension
from marey.torch._operation import gradient, new, not_differentiable, operation

if TYPE_CHECKING:
    from torch import Tensor

    from marey.torch._operation import Call

__all__ = [
    "convolve",
    "derivative",
    "gaussian",
    "ideal_bandpass",
    "median",
    "median_filter",
    "sosfilt",
    "sosfiltfilt",
]


def _like(x: Tensor) -> Tensor:
    dtype = torch.float32 if x.dtype is torch.uint8 else x.dtype
    return torch.empty_like(x, dtype=dtype, memory_format=torch.contiguous_format)


def _without(x: Tensor, axis: int) -> Tensor:
    shape = list(x.shape)
    del shape[axis]
    return _like(x).new_empty(shape)


_sosfilt = operation(
    "temporal_sosfilt(Tensor sos, Tensor x, int axis) -> Tensor",
    temporal.sosfilt,
    lambda call: _like(call.x),
)
_sosfilt_from = operation(
    "temporal_sosfilt_from(Tensor sos, Tensor x, Tensor zi, int axis) -> (Tensor, Tensor)",
    lambda sos, x, zi, axis: temporal.sosfilt(sos, x, axis, zi),
    lambda call: (_like(call.x), new(call.zi)),
)
_sosfilt_adjoint = operation(
    "temporal_sosfilt_adjoint(Tensor sos, Tensor grad, int axis) -> Tensor",
    _adjoints.sosfilt,
    lambda call: new(call.grad),
)
_sosfilt_from_adjoint = operation(
    "temporal_sosfilt_from_adjoint(Tensor sos, Tensor grad, Tensor grad_zf, int axis) "
    "-> (Tensor, Tensor)",
    lambda sos, grad, grad_zf, axis: (
        _adjoints.sosfilt(sos, grad, axis, grad_zf),
        _adjoints.sosfilt_zi(sos, grad, axis, grad_zf),
    ),
    lambda call: (new(call.grad), new(call.grad_zf)),
)
_sosfiltfilt = operation(
    "temporal_sosfiltfilt(Tensor sos, Tensor x, int axis, str? padtype, int? padlen) -> Tensor",
    temporal.sosfiltfilt,
    lambda call: _like(call.x),
)
_sosfiltfilt_adjoint = operation(
    "temporal_sosfiltfilt_adjoint(Tensor sos, Tensor grad, int axis, str? padtype, int? padlen) "
    "-> Tensor",
    lambda sos, grad, axis, padtype, padlen: _adjoints.sosfiltfilt(
        sos, grad, axis, padtype, extension(sos, padtype, padlen)
    ),
    lambda call: new(call.grad),
)
_ideal_bandpass = operation(
    "temporal_ideal_bandpass(Tensor x, float low, float high, float fs, int axis) -> Tensor",
    temporal.ideal_bandpass,
    lambda call: _like(call.x),
)
_convolve = operation(
    "temporal_convolve(Tensor x, Tensor taps, int axis, str mode, int origin, float cval) "
    "-> Tensor",
    lambda x, taps, axis, mode, origin, cval: temporal.convolve(
        x, taps, axis, mode, origin, cval=cval
    ),
    lambda call: _like(call.x),
)
_convolve_adjoint = operation(
    "temporal_convolve_adjoint(Tensor grad, Tensor taps, int axis, str mode, int origin) -> Tensor",
    _adjoints.convolve,
    lambda call: new(call.grad),
)
_gaussian = operation(
    "temporal_gaussian(Tensor x, float sigma, int axis, str mode, float cval, float truncate) "
    "-> Tensor",
    lambda x, sigma, axis, mode, cval, truncate: temporal.gaussian(
        x, sigma, axis, mode=mode, cval=cval, truncate=truncate
    ),
    lambda call: _like(call.x),
)
_along_motion = operation(
    "temporal_gaussian_along_motion(Tensor x, float sigma, float vy, float vx, str mode, "
    "float cval, float truncate) -> Tensor",
    lambda x, sigma, vy, vx, mode, cval, truncate: temporal.gaussian(
        x, sigma, velocity=(vy, vx), mode=mode, cval=cval, truncate=truncate
    ),
    lambda call: _like(call.x),
)
_derivative = operation(
    "temporal_derivative(Tensor x, float fs, int axis) -> Tensor",
    temporal.derivative,
    lambda call: _like(call.x),
)
_derivative_adjoint = operation(
    "temporal_derivative_adjoint(Tensor grad, float fs, int axis) -> Tensor",
    _adjoints.derivative,
    lambda call: new(call.grad),
)
_median_filter = operation(
    "temporal_median_filter(Tensor x, int size, int axis, str mode, int origin, float cval) "
    "-> Tensor",
    lambda x, size, axis, mode, origin, cval: temporal.median_filter(
        x, size, axis, mode, origin, cval=cval
    ),
    lambda call: new(call.x),
)
_median = operation(
    "temporal_median(Tensor x, int axis) -> Tensor",
    temporal.median,
    lambda call: _without(call.x, call.axis),
)
_median_gradient = operation(
    "temporal_median_gradient(Tensor grad, Tensor x, Tensor y, int axis) -> Tensor",
    _adjoints.median,
    lambda call: new(call.x),
)


def _no_gradient_of(coefficients: str, call: Call) -> None:
    if call.needs(coefficients):
        raise NotImplementedError(
            f"[marey.torch.temporal] {coefficients}: expected coefficients that need no gradient "
            "(the filters are differentiable in x and zi)"
        )


def _sosfilt_gradient(call: Call, grad: Tensor) -> dict[str, Any]:
    _no_gradient_of("sos", call)
    return {"x": _sosfilt_adjoint(call.sos, grad, call.axis)}


def _sosfilt_from_gradient(call: Call, grad: Tensor, grad_zf: Tensor) -> dict[str, Any]:
    _no_gradient_of("sos", call)
    x, zi = _sosfilt_from_adjoint(call.sos, grad, grad_zf, call.axis)
    return {"x": x, "zi": zi}


def _sosfilt_from_adjoint_gradient(call: Call, x: Tensor, zi: Tensor) -> dict[str, Any]:
    grad, grad_zf = _sosfilt_from(call.sos, x, zi, call.axis)
    return {"grad": grad, "grad_zf": grad_zf}


def _sosfiltfilt_gradient(call: Call, grad: Tensor) -> dict[str, Any]:
    _no_gradient_of("sos", call)
    return {"x": _sosfiltfilt_adjoint(call.sos, grad, call.axis, call.padtype, call.padlen)}


def _convolve_gradient(call: Call, grad: Tensor) -> dict[str, Any]:
    _no_gradient_of("taps", call)
    return {"x": _convolve_adjoint(grad, call.taps, call.axis, call.mode, call.origin)}


def _gaussian_gradient(call: Call, grad: Tensor) -> dict[str, Any]:
    taps = torch.tensor(gaussian_taps("marey.gaussian", call.sigma, call.truncate))
    return {"x": _convolve_adjoint(grad, taps, call.axis, call.mode, 0)}


gradient(_sosfilt, _sosfilt_gradient, save=["sos"])
gradient(
    _sosfilt_adjoint,
    lambda call, x: {"grad": _sosfilt(call.sos, x, call.axis)},
    save=["sos"],
)
gradient(_sosfilt_from, _sosfilt_from_gradient, save=["sos"])
gradient(_sosfilt_from_adjoint, _sosfilt_from_adjoint_gradient, save=["sos"])
gradient(_sosfiltfilt, _sosfiltfilt_gradient, save=["sos"])
gradient(
    _sosfiltfilt_adjoint,
    lambda call, x: {"grad": _sosfiltfilt(call.sos, x, call.axis, call.padtype, call.padlen)},
    save=["sos"],
)
# A projection: its own adjoint.
gradient(
    _ideal_bandpass,
    lambda call, grad: {"x": _ideal_bandpass(grad, call.low, call.high, call.fs, call.axis)},
)
gradient(_convolve, _convolve_gradient, save=["taps"])
gradient(
    _convolve_adjoint,
    lambda call, x: {"grad": _convolve(x, call.taps, call.axis, call.mode, call.origin, 0.0)},
    save=["taps"],
)
gradient(_gaussian, _gaussian_gradient)
gradient(_derivative, lambda call, grad: {"x": _derivative_adjoint(grad, call.fs, call.axis)})
gradient(
    _derivative_adjoint,
    lambda call, x: {"grad": _derivative(x, call.fs, call.axis)},
)
gradient(
    _median,
    lambda call, grad: {"x": _median_gradient(grad, call.x, call.result0, call.axis)},
    save=["x", "result0"],
)
not_differentiable(_median_gradient, "the median has a first derivative only")
not_differentiable(
    _median_filter, "expected an operation that has one; found a sliding median (detach() it)"
)
not_differentiable(
    _along_motion,
    "expected an operation that has one; found a mean along a motion (detach() it, or leave "
    "velocity out)",
)


def _axis(x: Tensor, axis: int) -> int:
    if not -x.ndim <= axis < x.ndim:
        raise ValueError(
            f"[marey.torch.temporal] axis: expected an axis of shape {tuple(x.shape)}; found {axis}"
        )
    return axis % x.ndim


def _coefficients(values: Any) -> Tensor:
    if isinstance(values, torch.Tensor) and values.dtype is torch.float64 and values.is_cpu:
        return values
    return torch.as_tensor(values, dtype=torch.float64, device="cpu")


def sosfilt(sos: Any, x: Tensor, axis: int = 0, zi: Tensor | None = None) -> Any:
    """Filter along one axis with cascaded second-order sections: `marey.temporal.sosfilt`.

    Differentiable in `x` and `zi`.

    Parameters
    ----------
    sos : Tensor or array, (sections, 6)
        Rows ``b0 b1 b2 a0 a1 a2`` with ``a0 = 1``; taken as float64.
    x : Tensor
        uint8, float32 or float64.
    axis : int
        The axis to filter along.
    zi : Tensor, optional
        The state to start from: the shape of `x` with `axis` of length 2, behind a first axis for
        the sections; of the type of the result.

    Returns
    -------
    y : Tensor, of the shape of `x`
    zf : Tensor
        Only if `zi` is given: the state to continue with.
    """
    axis = _axis(x, axis)
    if zi is None:
        return _sosfilt(_coefficients(sos), x, axis)
    return _sosfilt_from(_coefficients(sos), x, zi, axis)


def sosfiltfilt(
    sos: Any, x: Tensor, axis: int = 0, padtype: str | None = "odd", padlen: int | None = None
) -> Tensor:
    """Filter forward and backward along one axis: `marey.temporal.sosfiltfilt`.

    Differentiable in `x`.

    Parameters
    ----------
    sos : Tensor or array, (sections, 6)
        As for `sosfilt`.
    x : Tensor
        uint8, float32 or float64, longer than `padlen` along `axis`.
    axis, padtype, padlen
        As for `marey.temporal.sosfiltfilt`.

    Returns
    -------
    Tensor, of the shape of `x`
    """
    return _sosfiltfilt(_coefficients(sos), x, _axis(x, axis), padtype, padlen)


def ideal_bandpass(x: Tensor, low: float, high: float, fs: float, axis: int = 0) -> Tensor:
    """Keep the frequencies of a band and no others: `marey.temporal.ideal_bandpass`.

    Parameters
    ----------
    x : Tensor
        uint8, float32 or float64.
    low, high, fs, axis
        As for `marey.temporal.ideal_bandpass`.

    Returns
    -------
    Tensor, of the shape of `x`
    """
    return _ideal_bandpass(x, low, high, fs, _axis(x, axis))


def convolve(
    x: Tensor,
    taps: Any,
    axis: int = 0,
    mode: str = "reflect",
    origin: int = 0,
    *,
    cval: float = 0.0,
) -> Tensor:
    """Filter along one axis with a finite impulse response: `marey.temporal.convolve`.

    Differentiable in `x`.

    Parameters
    ----------
    x : Tensor
        uint8, float32 or float64.
    taps : Tensor, array or sequence of float
        The impulse response; taken as float64.
    axis, mode, origin, cval
        As for `marey.temporal.convolve`.

    Returns
    -------
    Tensor, of the shape of `x`
    """
    return _convolve(x, _coefficients(taps), _axis(x, axis), mode, origin, cval)


def gaussian(
    x: Tensor,
    sigma: float,
    axis: int = 0,
    *,
    velocity: tuple[float, float] | None = None,
    mode: str = "reflect",
    cval: float = 0.0,
    truncate: float = 4.0,
) -> Tensor:
    """Smooth along time with a Gaussian, at rest or along a motion: `marey.temporal.gaussian`.

    Differentiable in `x` without a velocity.

    Parameters
    ----------
    x : Tensor
        uint8, float32 or float64. With a velocity (T, H, W) or (T, H, W, C).
    sigma, axis, velocity, mode, cval, truncate
        As for `marey.temporal.gaussian`.

    Returns
    -------
    Tensor, of the shape of `x`
    """
    axis = _axis(x, axis)
    if velocity is None:
        return _gaussian(x, sigma, axis, mode, cval, truncate)
    if axis != 0:
        raise ValueError(f"[marey.torch.temporal] axis: expected 0 with a velocity; found {axis}")
    vy, vx = velocity
    return _along_motion(x, sigma, vy, vx, mode, cval, truncate)


def derivative(x: Tensor, fs: float = 1.0, axis: int = 0) -> Tensor:
    """Differentiate along time by central differences: `marey.temporal.derivative`.

    Parameters
    ----------
    x : Tensor
        uint8, float32 or float64, at least two steps long.
    fs, axis
        As for `marey.temporal.derivative`.

    Returns
    -------
    Tensor, of the shape of `x`
    """
    return _derivative(x, fs, _axis(x, axis))


def median_filter(
    x: Tensor,
    size: int,
    axis: int = 0,
    mode: str = "reflect",
    origin: int = 0,
    *,
    cval: float = 0.0,
) -> Tensor:
    """Take the median of a window that slides along one axis: `marey.temporal.median_filter`.

    Not differentiable.

    Parameters
    ----------
    x : Tensor
        uint8, float32 or float64.
    size, axis, mode, origin, cval
        As for `marey.temporal.median_filter`.

    Returns
    -------
    Tensor, of the shape and the type of `x`
    """
    return _median_filter(x, size, _axis(x, axis), mode, origin, cval)


def median(x: Tensor, axis: int = 0) -> Tensor:
    """Take the median over all of one axis: `marey.temporal.median`.

    Of an even number of values the mean of the middle two, as in NumPy. The gradient goes to the
    value, or the two, that the median is made of; equal values share it.

    Parameters
    ----------
    x : Tensor
        uint8, float32 or float64, at least one step long.
    axis : int
        The axis to take the median over.

    Returns
    -------
    Tensor, of the shape of `x` without `axis`
    """
    return _median(x, _axis(x, axis))
