"""Filters in time."""

from __future__ import annotations

import functools
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from marey import _adjoints, _arguments, _cpu
from marey.jax._call import Shape, call, like, linear_in_signal
from marey.temporal import _ideal
from marey.temporal._fir import gaussian_taps
from marey.temporal._recursive import extension, sections_of

_BOUNDARIES = {
    "reflect": 0,
    "grid-mirror": 0,
    "nearest": 1,
    "mirror": 2,
    "wrap": 3,
    "grid-wrap": 3,
    "constant": 4,
    "grid-constant": 4,
}
_EXTENSIONS = {"odd": 0, "even": 1, "constant": 2}

Numbers = tuple[float, ...]


def _time_axis(function: str, x: Any, axis: int) -> int:
    """Return the axis counted from the back."""
    return _arguments.axis(f"marey.jax.{function}", "axis", axis, x.shape) % x.ndim - x.ndim


def _numbers(array: Any) -> Numbers:
    return tuple(array.ravel().tolist())


def _turned(sos: Numbers) -> Numbers:
    return _numbers(np.reshape(sos, (-1, 6))[::-1])


_sosfilt: Any = linear_in_signal(
    lambda x, sos, axis, reverse: call("sosfilt", like(x), x, sos=sos, axis=axis, reverse=reverse),
    lambda g, _, sos, axis, reverse: _sosfilt(g, _turned(sos), axis, 1 - reverse),
    3,
)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _sosfilt_from(x: Any, zi: Any, sos: Numbers, axis: int) -> tuple[Any, Any]:
    results = (like(x), jax.ShapeDtypeStruct(zi.shape, zi.dtype))
    y, zf = call("sosfilt", results, x, zi, vmap="sequential", sos=sos, axis=axis, reverse=0)
    return y, zf


def _sosfilt_from_back(sos: Numbers, axis: int, _: None, grads: Any) -> tuple[Any, Any]:
    grad, grad_zf = grads
    sections = np.reshape(sos, (-1, 6))
    # By superposition: what is there at rest, and what the final state adds, run backward.
    y, zf = _responses(sections, grad.shape[axis])
    grads_zi = jnp.tensordot(jnp.asarray(y.T, grad.dtype), grad, ([1], [axis % grad.ndim]))
    final = jnp.moveaxis(grad_zf, axis, 1)
    final = final.reshape(-1, *final.shape[2:])
    grads_zi += jnp.tensordot(jnp.asarray(zf.T, grad.dtype), final, 1)
    grads_zi = grads_zi.reshape(len(sections), 2, *grads_zi.shape[1:])
    grads_zi = jnp.moveaxis(grads_zi, 1, axis)
    # The response of the final state to x at each step.
    x = _sosfilt(grad, _turned(sos), axis, 1)
    inputs = _inputs_to_state(sections, grad.shape[axis])
    added = jnp.tensordot(jnp.asarray(inputs.T, grad.dtype), final, 1)
    return x + jnp.moveaxis(added, 0, axis), grads_zi


@functools.lru_cache(maxsize=32)
def _cached_inputs(sos: bytes, steps: int) -> Any:
    """Return what an impulse at each step leaves in the final state, (2 S, steps)."""
    sections = np.frombuffer(sos).reshape(-1, 6)
    states = 2 * len(sections)
    # The last step's impulse first: its state after one step, after two, ...
    impulse = np.zeros((1, 1))
    impulse[0] = 1
    zi = np.zeros((len(sections), 2, 1))
    _, state = _cpu.sosfilt(sections, impulse, 0, zi, None, None)
    found = np.empty((states, steps))
    zero = np.zeros((1, 1))
    for t in range(steps - 1, -1, -1):
        found[:, t] = state.ravel()
        _, state = _cpu.sosfilt(sections, zero, 0, state, None, None)
    return found


def _inputs_to_state(sections: Any, steps: int) -> Any:
    return _cached_inputs(np.ascontiguousarray(sections, np.float64).tobytes(), steps)


def _responses(sections: Any, steps: int) -> tuple[Any, Any]:
    return _adjoints.responses(np.ascontiguousarray(sections, np.float64), steps)


_sosfilt_from.defvjp(
    lambda x, zi, sos, axis: (_sosfilt_from(x, zi, sos, axis), None), _sosfilt_from_back
)


def sosfilt(sos: Any, x: Any, axis: int = 0, zi: Any = None) -> Any:
    """Filter along one axis with cascaded second-order sections: `marey.temporal.sosfilt`.

    Parameters
    ----------
    sos : array, (sections, 6)
        Rows ``b0 b1 b2 a0 a1 a2`` with ``a0 = 1``; not traced.
    x : jax array
        uint8, float32 or float64.
    axis : int
        The axis to filter along.
    zi : jax array, optional
        The state to start from, as for `marey.temporal.sosfilt`.

    Returns
    -------
    y : jax array, of the shape of `x`
    zf : jax array
        Only if `zi` is given: the state to continue with.
    """
    x = jnp.asarray(x)
    coefficients = _numbers(sections_of("marey.jax.sosfilt", sos))
    axis = _time_axis("sosfilt", x, axis)
    if zi is None:
        return _sosfilt(x, coefficients, axis, 0)
    return _sosfilt_from(x, jnp.asarray(zi), coefficients, axis)


def _along(x: Any, axis: int, part: slice) -> Any:
    index = [slice(None)] * x.ndim
    index[axis] = part
    return x[tuple(index)]


def _steady_adjoint(grad: Any, sos: Numbers, axis: int, reverse: int) -> Any:
    """Return the gradient of a signal that a filter started from in its steady state."""
    sections = np.reshape(sos, (-1, 6))
    steps = grad.shape[axis]
    zi = _cpu.sosfilt_zi("marey.jax.sosfiltfilt", sections)[:, :, np.newaxis]
    response = _cpu.sosfilt(sections, np.zeros((steps, 1)), 0, zi, None, None)[0][:, 0]
    weights = jnp.asarray(response[::-1] if reverse else response, grad.dtype)
    first = jnp.tensordot(weights, grad, ([0], [axis % grad.ndim]))
    result = _sosfilt(grad, _turned(sos), axis, 1 - reverse)
    index: list[Any] = [slice(None)] * grad.ndim
    index[axis] = -1 if reverse else 0
    return result.at[tuple(index)].add(first)


def _sosfiltfilt_adjoint(
    grad: Any, shape: Shape, sos: Numbers, axis: int, padtype: str | None, padlen: int
) -> Any:
    steps = shape[axis]
    widths = [(0, 0)] * grad.ndim
    widths[axis] = (padlen, padlen)
    grad = jnp.pad(grad, widths)
    grad = _steady_adjoint(grad, sos, axis, 1)
    grad = _steady_adjoint(grad, sos, axis, 0)

    def extend(x: Any) -> Any:
        if padlen == 0:
            return x
        head, tail = _along(x, axis, slice(0, 1)), _along(x, axis, slice(steps - 1, steps))
        if padtype == "constant":
            return jnp.pad(x, widths, mode="edge")
        before = jnp.flip(_along(x, axis, slice(1, padlen + 1)), axis)
        after = jnp.flip(_along(x, axis, slice(steps - padlen - 1, steps - 1)), axis)
        if padtype == "odd":
            before, after = 2 * head - before, 2 * tail - after
        return jnp.concatenate([before, x, after], axis)

    template = jax.ShapeDtypeStruct(shape, grad.dtype)
    return jax.linear_transpose(extend, template)(grad)[0]


_sosfiltfilt = linear_in_signal(
    lambda x, sos, axis, padtype, padlen: call(
        "sosfiltfilt",
        like(x),
        x,
        sos=sos,
        axis=axis,
        extension=_EXTENSIONS[padtype or "constant"],
        padlen=padlen,
    ),
    _sosfiltfilt_adjoint,
    4,
)


def sosfiltfilt(
    sos: Any,
    x: Any,
    axis: int = 0,
    padtype: Literal["odd", "even", "constant"] | None = "odd",
    padlen: int | None = None,
) -> Any:
    """Filter forward and backward along one axis: `marey.temporal.sosfiltfilt`.

    Parameters
    ----------
    sos : array, (sections, 6)
        As for `sosfilt`.
    x : jax array
        uint8, float32 or float64, longer than `padlen` along `axis`.
    axis, padtype, padlen
        As for `marey.temporal.sosfiltfilt`.

    Returns
    -------
    jax array, of the shape of `x`
    """
    x = jnp.asarray(x)
    sections = sections_of("marey.jax.sosfiltfilt", sos)
    _arguments.one_of(
        "marey.jax.sosfiltfilt", "padtype", padtype, ("odd", "even", "constant", None)
    )
    width = extension(sections, padtype, padlen)
    axis = _time_axis("sosfiltfilt", x, axis)
    return _sosfiltfilt(x, _numbers(sections), axis, padtype, width)


_ideal_bandpass: Any = linear_in_signal(
    lambda x, axis, first, last: call(
        "ideal_bandpass", like(x), x, axis=axis, first=first, last=last
    ),
    lambda g, _, *parameters: _ideal_bandpass(g, *parameters),
    3,
)


def ideal_bandpass(x: Any, low: float, high: float, fs: float, axis: int = 0) -> Any:
    """Keep the frequencies of a band and no others: `marey.temporal.ideal_bandpass`.

    Parameters
    ----------
    x : jax array
        uint8, float32 or float64.
    low, high, fs, axis
        As for `marey.temporal.ideal_bandpass`.

    Returns
    -------
    jax array, of the shape of `x`
    """
    x = jnp.asarray(x)
    axis = _time_axis("ideal_bandpass", x, axis)
    fs = _arguments.positive("marey.jax.ideal_bandpass", "fs", fs, "number of Hz")
    if not 0 <= low <= high <= fs / 2:
        raise ValueError(
            f"[marey.jax.ideal_bandpass] low, high: expected 0 <= low <= high <= {fs / 2:g} Hz; "
            f"found low = {low:g}, high = {high:g}"
        )
    return _ideal_bandpass(x, axis, *_ideal.bins(x.shape[axis], low, high, fs))


def _raw_convolve(x: Any, taps: Numbers, axis: int, mode: str, origin: int, cval: float) -> Any:
    return call(
        "convolve",
        like(x),
        x,
        taps=taps,
        axis=axis,
        boundary=_BOUNDARIES[mode],
        origin=origin,
        cval=cval,
    )


def _convolve_adjoint(
    grad: Any,
    shape: Shape,
    taps: Numbers,
    axis: int,
    mode: str,
    origin: int,
    cval: float,  # noqa: ARG001
) -> Any:
    steps, size = shape[axis], len(taps)
    before = (size - 1) // 2 - origin
    after = size - 1 - before
    # Over the extended signal, and what lies beyond its ends folded back.
    widths = [(0, 0)] * grad.ndim
    widths[axis] = (before, after)
    turned = taps[::-1]
    extended = _convolve(
        jnp.pad(grad, widths), turned, axis, "constant", (size - 1) // 2 - after, 0.0
    )
    result = _along(extended, axis, slice(before, before + steps))
    index: list[Any] = [slice(None)] * grad.ndim
    for step in [*range(-before, 0), *range(steps, steps + after)]:
        source = _adjoints.source_step(step, steps, mode)
        if source is not None:
            index[axis] = source
            outside = jnp.take(extended, before + step, axis)
            result = result.at[tuple(index)].add(outside)
    return result


_convolve: Any = linear_in_signal(_raw_convolve, _convolve_adjoint, 5)


def _taps_and_mode(function: str, taps: Any, mode: str, origin: int) -> Numbers:
    array = _arguments.reals(f"marey.jax.{function}", "taps", taps)
    if array.ndim != 1 or array.size == 0:
        raise ValueError(
            f"[marey.jax.{function}] taps: expected shape (size,) with at least one tap; "
            f"found {array.shape}"
        )
    _arguments.one_of(f"marey.jax.{function}", "mode", mode, tuple(_BOUNDARIES))
    behind = (len(array) - 1) // 2
    _arguments.integer(f"marey.jax.{function}", "origin", origin, behind - len(array) + 1, behind)
    return tuple(array.tolist())


def convolve(
    x: Any,
    taps: Any,
    axis: int = 0,
    mode: str = "reflect",
    origin: int = 0,
    *,
    cval: float = 0.0,
) -> Any:
    """Filter along one axis with a finite impulse response: `marey.temporal.convolve`.

    Parameters
    ----------
    x : jax array
        uint8, float32 or float64.
    taps : array, (size,)
        The impulse response; not traced.
    axis, mode, origin, cval
        As for `marey.temporal.convolve`.

    Returns
    -------
    jax array, of the shape of `x`
    """
    x = jnp.asarray(x)
    checked = _taps_and_mode("convolve", taps, mode, origin)
    return _convolve(x, checked, _time_axis("convolve", x, axis), mode, origin, float(cval))


def temporal_gaussian(
    x: Any,
    sigma: float,
    axis: int = 0,
    *,
    mode: str = "reflect",
    cval: float = 0.0,
    truncate: float = 4.0,
) -> Any:
    """Smooth along time with a Gaussian: `marey.temporal.gaussian` without a velocity.

    Parameters
    ----------
    x : jax array
        uint8, float32 or float64.
    sigma, axis, mode, cval, truncate
        As for `marey.temporal.gaussian`.

    Returns
    -------
    jax array, of the shape of `x`
    """
    taps = gaussian_taps("marey.jax.temporal_gaussian", sigma, truncate)
    return convolve(x, taps, axis, mode, cval=cval)


def derivative(x: Any, fs: float = 1.0, axis: int = 0) -> Any:
    """Differentiate along time by central differences: `marey.temporal.derivative`.

    Parameters
    ----------
    x : jax array
        uint8, float32 or float64, at least two steps long.
    fs, axis
        As for `marey.temporal.derivative`.

    Returns
    -------
    jax array, of the shape of `x`
    """
    x = jnp.asarray(x)
    axis = _time_axis("derivative", x, axis)
    fs = _arguments.positive("marey.jax.derivative", "fs", fs, "number of Hz")
    if x.shape[axis] < 2:
        raise ValueError(
            f"[marey.jax.derivative] x: expected at least two steps; found shape {x.shape}"
        )
    y = _convolve(x, (0.5 * fs, 0.0, -0.5 * fs), axis, "nearest", 0, 0.0)
    index: list[Any] = [slice(None)] * x.ndim
    for end in (0, -1):
        index[axis] = end
        y = y.at[tuple(index)].multiply(2)
    return y


def median_filter(
    x: Any, size: int, axis: int = 0, mode: str = "reflect", origin: int = 0, *, cval: float = 0.0
) -> Any:
    """Take the median of a window that slides along one axis: `marey.temporal.median_filter`.

    Its gradient is an error: `jax.lax.stop_gradient` what goes in.

    Parameters
    ----------
    x : jax array
        uint8, float32 or float64.
    size, axis, mode, origin, cval
        As for `marey.temporal.median_filter`.

    Returns
    -------
    jax array, of the shape and the type of `x`
    """
    x = jnp.asarray(x)
    _arguments.one_of("marey.jax.median_filter", "mode", mode, tuple(_BOUNDARIES))
    return call(
        "median_filter",
        jax.ShapeDtypeStruct(x.shape, x.dtype),
        x,
        size=_arguments.integer("marey.jax.median_filter", "size", size, 1),
        axis=_time_axis("median_filter", x, axis),
        boundary=_BOUNDARIES[mode],
        origin=_arguments.integer("marey.jax.median_filter", "origin", origin),
        cval=float(cval),
    )


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def _median(x: Any, axis: int) -> Any:
    shape = list(x.shape)
    del shape[axis]
    return call("median", like(x, tuple(shape)), x, axis=axis)


def _median_forward(x: Any, axis: int) -> Any:
    y = _median(x, axis)
    return y, (x, y)


def _median_back(axis: int, saved: Any, grad: Any) -> tuple[Any]:
    x, y = saved
    y, grad = jnp.expand_dims(y, axis), jnp.expand_dims(grad, axis)
    low = jnp.where(x <= y, x, -jnp.inf).max(axis, keepdims=True)
    high = jnp.where(x >= y, x, jnp.inf).min(axis, keepdims=True)

    def share(middle: Any) -> Any:
        equal = x == middle
        return equal * (0.5 * grad / jnp.maximum(equal.sum(axis, keepdims=True), 1))

    return ((share(low) + share(high)).astype(x.dtype),)


_median.defvjp(_median_forward, _median_back)


def median(x: Any, axis: int = 0) -> Any:
    """Take the median over all of one axis: `marey.temporal.median`.

    The gradient goes to the value, or the two, that the median is made of; equal values share it.

    Parameters
    ----------
    x : jax array
        uint8, float32 or float64, at least one step long.
    axis : int
        The axis to take the median over.

    Returns
    -------
    jax array, of the shape of `x` without `axis`
    """
    x = jnp.asarray(x)
    return _median(x, _time_axis("median", x, axis))
