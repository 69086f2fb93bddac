"""Gradients of the operations that are linear in their signal, for frameworks that differentiate.

If ``y = f(x)`` is linear, its adjoint takes ``dL/dy`` to ``dL/dx``. Filters in time that start from
rest have themselves for an adjoint, run backward; pyramids have kernels of their own. What goes on
beyond a signal's ends is folded back to where it came from.
"""

from __future__ import annotations

import functools
import itertools
from typing import TYPE_CHECKING, Any

import numpy as np
import scipy.fft

from marey import _cpu
from marey._steerable import SteerableCoefficients, SteerablePyramid

if TYPE_CHECKING:
    from collections.abc import Sequence

Array = np.ndarray[Any, Any]


# Pyramids


def image_axes(ndim: int, channel_axis: int | None) -> tuple[int, int]:
    """Return the axes of rows and columns."""
    axes = list(range(ndim))
    if channel_axis is not None:
        axes.pop(channel_axis)
    return axes[-2], axes[-1]


def _size(array: Array, channel_axis: int | None) -> tuple[int, int]:
    row, column = image_axes(array.ndim, channel_axis)
    return array.shape[row], array.shape[column]


def down(grad: Array, height: int, width: int, channel_axis: int | None) -> Array:
    """Return the gradient of the image (height, width) of which `grad` is the half's."""
    return _cpu.down_adjoint(grad, height, width, channel_axis)


def up(grad: Array, height: int, width: int, channel_axis: int | None) -> Array:
    """Return the gradient of the image (height, width) of which `grad` is the double's."""
    return _cpu.up_adjoint(grad, height, width, channel_axis)


def gaussian(grads: Sequence[Array], channel_axis: int | None) -> Array:
    """Return the gradient of the image from those of the levels."""
    *finer, total = grads
    if not finer:
        return total.copy()
    for grad in reversed(finer):
        total = _cpu.down_adjoint(total, *_size(grad, channel_axis), channel_axis, grad)
    return total


def laplacian(grads: Sequence[Array], channel_axis: int | None) -> Array:
    """Return the gradient of the image from those of the bands and the residual."""
    levels = [grads[0]]
    for finer, grad in itertools.pairwise(grads):
        size = _size(grad, channel_axis)
        levels.append(_cpu.up_adjoint(finer, *size, channel_axis, grad, -1.0))
    return gaussian(levels, channel_axis)


def collapse(grad: Array, levels: int, channel_axis: int | None) -> list[Array]:
    """Return the gradients of the bands and of the residual from that of the image."""
    grads = [grad.copy()]
    height, width = _size(grad, channel_axis)
    for _ in range(levels):
        height, width = (height + 1) // 2, (width + 1) // 2
        grads.append(_cpu.up_adjoint(grads[-1], height, width, channel_axis))
    return grads


# The steerable pyramid multiplies the spectrum of an image with that of its response to an impulse,
# at the low frequencies that a scale has, and so does its inverse. Their adjoints multiply with the
# conjugates. Responses are found by trying.


def steerable_residual(pyramid: SteerablePyramid) -> tuple[int, int]:
    """Return the height and width of the lowpass."""
    return pyramid._residual


def _frequencies(extent: int, whole: int) -> Array:
    """Return where the frequencies of a scale stand in the spectrum of the whole image."""
    places: Array = np.round(scipy.fft.fftfreq(extent, 1 / extent)).astype(np.int64) % whole
    return places


def _places(pyramid: SteerablePyramid, part: Array) -> tuple[Array, Array]:
    height, width = pyramid.shape
    rows = _frequencies(part.shape[-2], height)
    return rows[:, None], _frequencies(part.shape[-1], width)


def _parts(coefficients: SteerableCoefficients) -> list[Array]:
    """Return all bands with an axis for orientations."""
    residuals = [coefficients.highpass[..., None, :, :], coefficients.lowpass[..., None, :, :]]
    return [residuals[0], *coefficients.bands, residuals[1]]


@functools.lru_cache(maxsize=16)
def _build_spectra(pyramid: SteerablePyramid) -> list[Array]:
    impulse = np.zeros(pyramid.shape)
    impulse[0, 0] = 1
    return [scipy.fft.fft2(part) for part in _parts(pyramid.build(impulse))]


@functools.lru_cache(maxsize=16)
def _collapse_spectra(pyramid: SteerablePyramid) -> list[Array]:
    """Return for each part (orientations, h, w): the response to an impulse in it."""
    found = []
    for k, part in enumerate(_parts(pyramid.build(np.zeros(pyramid.shape)))):
        count = part.shape[-3]
        zeros = pyramid.build(np.zeros((count, *pyramid.shape)))
        each = np.arange(count)
        _parts(zeros)[k][each, each, 0, 0] = 1  # one orientation for each image
        spectrum = scipy.fft.fft2(pyramid.collapse(zeros))
        found.append(spectrum[(..., *_places(pyramid, part))])
    return found


def steerable_build(pyramid: SteerablePyramid, grads: Sequence[Array]) -> Array:
    """Return the gradient of the image from those of the highpass, the bands and the lowpass."""
    parts = _parts(SteerableCoefficients(grads[0], list(grads[1:-1]), grads[-1]))
    pixels = grads[0].shape[-2] * grads[0].shape[-1]
    total = np.zeros(grads[0].shape, np.result_type(grads[0].dtype, np.complex64))
    for part, response in zip(parts, _build_spectra(pyramid), strict=True):
        spectrum = (scipy.fft.fft2(part) * response.conj()).sum(-3)
        scale = pixels / (part.shape[-2] * part.shape[-1])
        total[(..., *_places(pyramid, part))] += scale * spectrum
    image: Array = scipy.fft.ifft2(total).real.astype(grads[0].dtype)
    return image


def steerable_collapse(pyramid: SteerablePyramid, grad: Array) -> list[Array]:
    """Return the gradients of the highpass, the bands and the lowpass from that of the image."""
    spectrum = scipy.fft.fft2(grad)[..., None, :, :]
    pixels = grad.shape[-2] * grad.shape[-1]
    found = []
    for response in _collapse_spectra(pyramid):
        here = spectrum[(..., *_places(pyramid, response))]
        scale = response.shape[-2] * response.shape[-1] / pixels
        found.append(scale * scipy.fft.ifft2(here * response.conj()).real)
    highpass, *bands, lowpass = found
    kind = np.result_type(grad.dtype, np.complex64)
    return [
        highpass[..., 0, :, :].astype(grad.dtype),
        *[band.astype(kind) for band in bands],
        lowpass[..., 0, :, :].astype(grad.dtype),
    ]


# Filters in time


def _reversed(array: Array, axis: int) -> Array:
    flipped: Array = np.flip(array, axis)
    return flipped


def _add_along(array: Array, axis: int, index: int, values: Any) -> None:
    which: list[Any] = [slice(None)] * array.ndim
    which[axis] = index
    array[tuple(which)] += values


def _steps(array: Array, axis: int, first: int | None, last: int | None) -> Array:
    which: list[Any] = [slice(None)] * array.ndim
    which[axis] = slice(first, last)
    part: Array = array[tuple(which)]
    return part


def sosfilt(sos: Array, grad: Array, axis: int, grad_zf: Array | None = None) -> Array:
    """Return the gradient of x from those of y and of the final state.

    Transposing a section (direct form II transposed) gives direct form II run backward, which has
    another state w. With a section written as ``z' = A z + B x, y = z1 + b0 x`` it is ``w = M z``
    for the symmetric M that has ``M A^T = A M`` and B for its first column.
    """
    axis %= grad.ndim
    zi = None
    if grad_zf is not None:
        zi = np.empty_like(grad_zf)
        first, second = np.moveaxis(grad_zf, axis + 1, 0)
        out_first, out_second = np.moveaxis(zi[::-1], axis + 1, 0)
        for s, (b0, b1, b2, _, a1, a2) in enumerate(sos.tolist()):
            m11, m12 = b1 - a1 * b0, b2 - a2 * b0
            m22 = a1 * m12 - a2 * m11
            out_first[s] = m11 * first[s] + m12 * second[s]
            out_second[s] = m12 * first[s] + m22 * second[s]
    result = _cpu.empty_like(grad)
    sections = np.ascontiguousarray(sos[::-1])
    _cpu.sosfilt(sections, _reversed(grad, axis), axis, zi, _reversed(result, axis), None)
    return result


def responses(sos: Array, steps: int) -> tuple[Array, Array]:
    """Return what each of the 2 S numbers of the state does alone: to y (steps, 2 S), to zf."""
    states = 2 * len(sos)
    zi = np.eye(states).reshape(len(sos), 2, states)
    y, zf = _cpu.sosfilt(sos, np.zeros((steps, states)), 0, zi, None, None)
    return y, zf.reshape(states, states)


def sosfilt_zi(sos: Array, grad: Array, axis: int, grad_zf: Array) -> Array:
    """Return the gradient of the initial state from those of y and of the final state."""
    axis %= grad.ndim
    y, zf = responses(sos, grad.shape[axis])
    grads = np.tensordot(y.astype(grad.dtype).T, grad, ([1], [axis]))
    final = np.moveaxis(grad_zf, axis + 1, 1)
    final = final.reshape(len(zf), *final.shape[2:])
    grads += np.tensordot(zf.astype(grad.dtype).T, final, 1)
    grads = grads.reshape(len(sos), 2, *grads.shape[1:])
    return np.ascontiguousarray(np.moveaxis(grads, 1, axis + 1))


def sosfiltfilt(sos: Array, grad: Array, axis: int, padtype: str | None, padlen: int) -> Array:
    """Return the gradient of x.

    Each pass starts from its steady state for the first value, which therefore also gets the sum of
    the gradient times the response to that state.
    """
    axis %= grad.ndim
    steps = grad.shape[axis] + 2 * padlen
    shape = list(grad.shape)
    shape[axis] = steps
    padded = np.zeros(shape, grad.dtype)
    _steps(padded, axis, padlen, steps - padlen)[...] = grad
    zi = _cpu.sosfilt_zi("marey.sosfiltfilt", sos)[:, :, np.newaxis]
    response, _ = _cpu.sosfilt(sos, np.zeros((steps, 1)), 0, zi, None, None)
    response = response[:, 0].astype(grad.dtype)
    sections = np.ascontiguousarray(sos[::-1])
    # Each filter's first value was the last one of its view here.
    for view, weights in ((padded, response[::-1]), (_reversed(padded, axis), response)):
        steady = np.tensordot(weights, padded, ([0], [axis]))
        _cpu.sosfilt(sections, view, axis, None, view, None)
        _add_along(view, axis, -1, steady)
    result = _steps(padded, axis, padlen, steps - padlen).copy()
    if padlen > 0 and padtype is not None:
        head = _reversed(_steps(padded, axis, 0, padlen), axis)  # nearest the signal first
        tail = _steps(padded, axis, steps - padlen, None)
        if padtype != "constant":
            sign = -1.0 if padtype == "odd" else 1.0
            inner = _steps(result, axis, 1, padlen + 1)
            inner += sign * head
            inner = _reversed(_steps(result, axis, -padlen - 1, -1), axis)
            inner += sign * tail
        weight = {"odd": 2.0, "even": 0.0, "constant": 1.0}[padtype]
        _add_along(result, axis, 0, weight * head.sum(axis))
        _add_along(result, axis, -1, weight * tail.sum(axis))
    return result


def source_step(i: int, n: int, mode: str) -> int | None:
    """Return the step that stands for step i of n > 0; None for the constant."""
    if mode in ("reflect", "grid-mirror"):
        i %= 2 * n
        return min(i, 2 * n - 1 - i)
    if mode == "mirror":
        i %= max(1, 2 * (n - 1))
        return min(i, 2 * (n - 1) - i)
    if mode == "nearest":
        return min(max(i, 0), n - 1)
    if mode in ("wrap", "grid-wrap"):
        return i % n
    return i if 0 <= i < n else None


def convolve(grad: Array, taps: Array, axis: int, mode: str, origin: int) -> Array:
    """Return the gradient of x: the taps turned round, what lies beyond the ends folded back."""
    name = "marey.convolve_adjoint"
    axis %= grad.ndim
    steps, size = grad.shape[axis], len(taps)
    before = (size - 1) // 2 - origin
    after = size - 1 - before
    turned = np.ascontiguousarray(taps[::-1])
    result = _cpu.convolve(name, grad, axis, turned, after, "constant", 0.0, None, None)
    if steps == 0 or source_step(-1, steps, mode) is None:
        return result
    for beyond, first in ((before, -before), (after, steps)):
        near = min(beyond, steps)
        if near == 0:
            continue
        shape = list(grad.shape)
        shape[axis] = near + beyond
        padded = np.zeros(shape, grad.dtype)
        if first < 0:
            _steps(padded, axis, beyond, None)[...] = _steps(grad, axis, 0, near)
        else:
            _steps(padded, axis, 0, near)[...] = _steps(grad, axis, steps - near, None)
        outside = _cpu.convolve(name, padded, axis, turned, after, "constant", 0.0, None, None)
        outside = np.moveaxis(outside, axis, 0)
        for k in range(beyond):
            step = source_step(first + k, steps, mode)
            assert step is not None
            _add_along(result, axis, step, outside[k if first < 0 else near + k])
    return result


def derivative(grad: Array, fs: float, axis: int) -> Array:
    """Return the gradient of x. The two ends are differences of neighbours, twice as steep."""
    taps = np.array([0.5, 0.0, -0.5]) * fs
    result = convolve(grad, taps, axis, "nearest", 0)
    first, last = (0.5 * fs * grad.take(k, axis) for k in (0, -1))
    for step, change in ((0, -first), (1, first), (-2, -last), (-1, last)):
        _add_along(result, axis, step, change)
    return result


def median(grad: Array, x: Array, y: Array, axis: int) -> Array:
    """Return the gradient of x: to the middle value, or half to each of the middle two.

    Values that are equal share it.
    """
    grad, y = np.expand_dims(grad, axis), np.expand_dims(y, axis)
    low = np.where(x <= y, x, -np.inf).max(axis, keepdims=True)
    high = np.where(x >= y, x, np.inf).min(axis, keepdims=True)
    result = np.zeros_like(x)
    for middle in (low, high):
        equal = x == middle
        count = np.maximum(np.count_nonzero(equal, axis=axis, keepdims=True), 1)
        result += equal * (0.5 * grad / count)
    return result.astype(x.dtype, copy=False)
