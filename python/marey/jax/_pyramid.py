"""Pyramids."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp

from marey import _adjoints, _arguments
from marey.jax._call import Shape, call, like, linear_in_signal

if TYPE_CHECKING:
    from collections.abc import Sequence

_NO_CHANNELS = -1000


def _image_axis(function: str, image: Any, channel_axis: int | None) -> int:
    """Return the channel axis counted from the back, for the kernel."""
    if channel_axis is None:
        return _NO_CHANNELS
    axis = _arguments.axis(f"marey.jax.{function}", "channel_axis", channel_axis, image.shape)
    return axis % image.ndim - image.ndim


def _rows_columns(shape: Shape, axis: int) -> tuple[int, int]:
    return _adjoints.image_axes(len(shape), None if axis == _NO_CHANNELS else axis)


def _resized(shape: Shape, axis: int, height: int, width: int) -> Shape:
    row, column = _rows_columns(shape, axis)
    new = list(shape)
    new[row], new[column] = height, width
    return tuple(new)


def _size(shape: Shape, axis: int) -> tuple[int, int]:
    row, column = _rows_columns(shape, axis)
    return shape[row], shape[column]


def _halved(shape: Shape, axis: int) -> Shape:
    height, width = _size(shape, axis)
    return _resized(shape, axis, (height + 1) // 2, (width + 1) // 2)


def _raw_down(x: Any, axis: int) -> Any:
    out = jax.ShapeDtypeStruct(_halved(x.shape, axis), x.dtype)
    return call("down", out, x, channel_axis=axis)


def _raw_up(x: Any, height: int, width: int, axis: int) -> Any:
    out = jax.ShapeDtypeStruct(_resized(x.shape, axis, height, width), x.dtype)
    return call("up", out, x, channel_axis=axis)


_down_adjoint: Any = linear_in_signal(
    lambda g, height, width, axis: call(
        "down_adjoint", like(g, _resized(g.shape, axis, height, width)), g, channel_axis=axis
    ),
    lambda g, *parameters: _down(g, parameters[-1]),
    3,
)
_up_adjoint: Any = linear_in_signal(
    lambda g, height, width, axis: call(
        "up_adjoint", like(g, _resized(g.shape, axis, height, width)), g, channel_axis=axis
    ),
    lambda g, shape, *parameters: _up(g, *_size(shape, parameters[-1]), parameters[-1]),
    3,
)
_down: Any = linear_in_signal(
    _raw_down, lambda g, shape, axis: _down_adjoint(g, *_size(shape, axis), axis), 1
)
_up: Any = linear_in_signal(
    _raw_up,
    lambda g, shape, *parameters: _up_adjoint(g, *_size(shape, parameters[-1]), parameters[-1]),
    3,
)


def _raw_laplacian(x: Any, levels: int, axis: int) -> list[Any]:
    if levels == 0:
        return [x.astype(like(x).dtype)]
    shapes = [x.shape]
    for _ in range(levels):
        shapes.append(_halved(shapes[-1], axis))
    return list(call("laplacian", [like(x, shape) for shape in shapes], x, channel_axis=axis))


def _laplacian_adjoint(grads: Sequence[Any], shape: Shape, levels: int, axis: int) -> Any:  # noqa: ARG001
    arriving = [grads[0]]
    for finer, grad in itertools.pairwise(grads):
        arriving.append(grad - _up_adjoint(finer, *_size(grad.shape, axis), axis))
    total = arriving.pop()
    for grad in reversed(arriving):
        total = grad + _down_adjoint(total, *_size(grad.shape, axis), axis)
    return total


_laplacian = linear_in_signal(_raw_laplacian, _laplacian_adjoint, 2)


def down(image: Any, *, channel_axis: int | None = -1) -> Any:
    """Smooth an image and keep every second pixel: `marey.pyramid.down`.

    Parameters
    ----------
    image : jax array, (..., H, W) or (..., H, W, C)
        uint8, float32 or float64.
    channel_axis : int or None
        The axis of the channels; None for an image without one.

    Returns
    -------
    jax array, (..., ceil(H / 2), ceil(W / 2)) or (..., ceil(H / 2), ceil(W / 2), C)
    """
    image = jnp.asarray(image)
    return _down(image, _image_axis("down", image, channel_axis))


def up(image: Any, shape: tuple[int, int] | None = None, *, channel_axis: int | None = -1) -> Any:
    """Double an image: `marey.pyramid.up`.

    Parameters
    ----------
    image : jax array, (..., h, w) or (..., h, w, C)
        uint8, float32 or float64.
    shape : (int, int), optional
        The height and width of the result.
    channel_axis : int or None
        As for `down`.

    Returns
    -------
    jax array, (..., H, W) or (..., H, W, C)
    """
    image = jnp.asarray(image)
    axis = _image_axis("up", image, channel_axis)
    height, width = _size(image.shape, axis)
    height, width = (2 * height, 2 * width) if shape is None else shape
    return _up(image, height, width, axis)


def gaussian(image: Any, levels: int, *, channel_axis: int | None = -1) -> list[Any]:
    """Build a Gaussian pyramid: `marey.pyramid.gaussian`.

    Parameters
    ----------
    image : jax array, (..., H, W) or (..., H, W, C)
        uint8, float32 or float64.
    levels : int
        How many times to halve.
    channel_axis : int or None
        As for `down`.

    Returns
    -------
    list of levels + 1 jax arrays, finest first
    """
    found = [jnp.asarray(image)]
    for _ in range(_arguments.integer("marey.jax.gaussian", "levels", levels, 0, 63)):
        found.append(down(found[-1], channel_axis=channel_axis))
    return found


def laplacian(image: Any, levels: int, *, channel_axis: int | None = -1) -> list[Any]:
    """Build a Laplacian pyramid: `marey.pyramid.laplacian`.

    Parameters
    ----------
    image : jax array, (..., H, W) or (..., H, W, C)
        uint8, float32 or float64.
    levels : int
        How many bands.
    channel_axis : int or None
        As for `down`.

    Returns
    -------
    list of levels + 1 jax arrays
        The bands, finest first, then the residual; float32 for uint8.
    """
    image = jnp.asarray(image)
    levels = _arguments.integer("marey.jax.laplacian", "levels", levels, 0, 63)
    return list(_laplacian(image, levels, _image_axis("laplacian", image, channel_axis)))


def collapse(bands: Sequence[Any], *, channel_axis: int | None = -1) -> Any:
    """Rebuild an image from its Laplacian pyramid: `marey.pyramid.collapse`.

    Parameters
    ----------
    bands : sequence of jax arrays
        As `laplacian` returns them.
    channel_axis : int or None
        As for `down`.

    Returns
    -------
    jax array, of the shape and type of ``bands[0]``
    """
    if not bands:
        raise ValueError("[marey.jax.collapse] bands: expected at least one array; found none")
    axis = _image_axis("collapse", bands[0], channel_axis)
    total = bands[-1]
    for band in reversed(bands[:-1]):
        total = band + _up(total, *_size(band.shape, axis), axis)
    return total
