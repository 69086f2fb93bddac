"""The functions of `marey.pyramid` for tensors, with gradients."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from marey import _adjoints, pyramid
from marey.pyramid import RieszCoefficients
from marey.torch._operation import gradient, new, operation
from marey.torch._steerable import SteerablePyramid
from marey.torch.temporal import convolve

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

__all__ = [
    "RieszPyramid",
    "SteerablePyramid",
    "collapse",
    "down",
    "gaussian",
    "laplacian",
    "up",
]

Size = tuple[int, int]


def _size(shape: Sequence[int], channel_axis: int | None) -> Size:
    row, column = _adjoints.image_axes(len(shape), channel_axis)
    return shape[row], shape[column]


def _resized(image: Tensor, height: int, width: int, channel_axis: int | None) -> Tensor:
    shape = list(image.shape)
    row, column = _adjoints.image_axes(len(shape), channel_axis)
    shape[row], shape[column] = height, width
    return image.new_empty(shape)


def _halved(image: Tensor, channel_axis: int | None) -> Tensor:
    height, width = _size(image.shape, channel_axis)
    return _resized(image, (height + 1) // 2, (width + 1) // 2, channel_axis)


def _levels(image: Tensor, levels: int, channel_axis: int | None) -> list[Tensor]:
    found = [new(image)]
    for _ in range(levels):
        found.append(_halved(found[-1], channel_axis))
    return found


def _bands(image: Tensor, levels: int, channel_axis: int | None) -> list[Tensor]:
    found = _levels(image, levels, channel_axis)
    return [band.float() for band in found] if image.dtype is torch.uint8 else found


_down = operation(
    "pyramid_down(Tensor image, int? channel_axis) -> Tensor",
    lambda image, axis: pyramid.down(image, channel_axis=axis),
    lambda call: _halved(call.image, call.channel_axis),
)
_up = operation(
    "pyramid_up(Tensor image, SymInt height, SymInt width, int? channel_axis) -> Tensor",
    lambda image, height, width, axis: pyramid.up(image, (height, width), channel_axis=axis),
    lambda call: _resized(call.image, call.height, call.width, call.channel_axis),
)
_gaussian = operation(
    "pyramid_gaussian(Tensor image, int levels, int? channel_axis) -> Tensor[]",
    lambda image, levels, axis: pyramid.gaussian(image, levels, channel_axis=axis),
    lambda call: _levels(call.image, call.levels, call.channel_axis),
)
_laplacian = operation(
    "pyramid_laplacian(Tensor image, int levels, int? channel_axis) -> Tensor[]",
    lambda image, levels, axis: pyramid.laplacian(image, levels, channel_axis=axis),
    lambda call: _bands(call.image, call.levels, call.channel_axis),
)
_collapse = operation(
    "pyramid_collapse(Tensor[] bands, int? channel_axis) -> Tensor",
    lambda bands, axis: pyramid.collapse(bands, channel_axis=axis),
    lambda call: new(call.bands[0]),
)

# Adjoints; the gradient of one is the operation itself.
_down_adjoint = operation(
    "pyramid_down_adjoint(Tensor grad, SymInt height, SymInt width, int? channel_axis) -> Tensor",
    _adjoints.down,
    lambda call: _resized(call.grad, call.height, call.width, call.channel_axis),
)
_up_adjoint = operation(
    "pyramid_up_adjoint(Tensor grad, SymInt height, SymInt width, int? channel_axis) -> Tensor",
    _adjoints.up,
    lambda call: _resized(call.grad, call.height, call.width, call.channel_axis),
)
_gaussian_adjoint = operation(
    "pyramid_gaussian_adjoint(Tensor[] grads, int? channel_axis) -> Tensor",
    _adjoints.gaussian,
    lambda call: new(call.grads[0]),
)
_laplacian_adjoint = operation(
    "pyramid_laplacian_adjoint(Tensor[] grads, int? channel_axis) -> Tensor",
    _adjoints.laplacian,
    lambda call: new(call.grads[0]),
)
_collapse_adjoint = operation(
    "pyramid_collapse_adjoint(Tensor grad, int levels, int? channel_axis) -> Tensor[]",
    _adjoints.collapse,
    lambda call: _levels(call.grad, call.levels, call.channel_axis),
)

gradient(
    _down,
    lambda call, grad: {
        "image": _down_adjoint(grad, *_size(call.image, call.channel_axis), call.channel_axis)
    },
)
gradient(_down_adjoint, lambda call, grad: {"grad": _down(grad, call.channel_axis)})
gradient(
    _up,
    lambda call, grad: {
        "image": _up_adjoint(grad, *_size(call.image, call.channel_axis), call.channel_axis)
    },
)
gradient(
    _up_adjoint,
    lambda call, grad: {"grad": _up(grad, *_size(call.grad, call.channel_axis), call.channel_axis)},
)
gradient(
    _gaussian,
    lambda call, grads: {"image": _gaussian_adjoint(grads, call.channel_axis)},
)
gradient(
    _gaussian_adjoint,
    lambda call, grad: {"grads": _gaussian(grad, len(call.grads) - 1, call.channel_axis)},
)
gradient(
    _laplacian,
    lambda call, grads: {"image": _laplacian_adjoint(grads, call.channel_axis)},
)
gradient(
    _laplacian_adjoint,
    lambda call, grad: {"grads": _laplacian(grad, len(call.grads) - 1, call.channel_axis)},
)
gradient(
    _collapse,
    lambda call, grad: {"bands": _collapse_adjoint(grad, len(call.bands) - 1, call.channel_axis)},
)
gradient(
    _collapse_adjoint,
    lambda call, grads: {"grad": _collapse(grads, call.channel_axis)},
)


def _axis(image: Tensor, channel_axis: int | None) -> int | None:
    if channel_axis is None:
        return None
    if not -image.ndim <= channel_axis < image.ndim:
        raise ValueError(
            f"[marey.torch.pyramid] channel_axis: expected an axis of shape {tuple(image.shape)}; "
            f"found {channel_axis}"
        )
    return channel_axis % image.ndim


def down(image: Tensor, *, channel_axis: int | None = -1) -> Tensor:
    """Smooth an image and keep every second pixel: `marey.pyramid.down`.

    Parameters
    ----------
    image : Tensor, (..., H, W) or (..., H, W, C)
        uint8, float32 or float64, on the CPU; any strides.
    channel_axis : int or None
        The axis of the channels; None for an image without one, so for torch's (N, C, H, W) too,
        whose channels are a batch of images.

    Returns
    -------
    Tensor, (..., ceil(H / 2), ceil(W / 2)) or (..., ceil(H / 2), ceil(W / 2), C)
    """
    return _down(image, _axis(image, channel_axis))


def up(image: Tensor, shape: Size | None = None, *, channel_axis: int | None = -1) -> Tensor:
    """Double an image: `marey.pyramid.up`.

    Parameters
    ----------
    image : Tensor, (..., h, w) or (..., h, w, C)
        As for `down`.
    shape : (int, int), optional
        The height and width of the result: twice those of `image` (the default), or one less or
        more where that is odd.
    channel_axis : int or None
        As for `down`.

    Returns
    -------
    Tensor, (..., H, W) or (..., H, W, C)
    """
    axis = _axis(image, channel_axis)
    height, width = _size(image.shape, axis)
    height, width = (2 * height, 2 * width) if shape is None else shape
    return _up(image, height, width, axis)


def gaussian(image: Tensor, levels: int, *, channel_axis: int | None = -1) -> list[Tensor]:
    """Build a Gaussian pyramid: `marey.pyramid.gaussian`.

    Parameters
    ----------
    image : Tensor, (..., H, W) or (..., H, W, C)
        As for `down`.
    levels : int
        How many times to halve.
    channel_axis : int or None
        As for `down`.

    Returns
    -------
    list of levels + 1 tensors, finest first
    """
    return _gaussian(image, levels, _axis(image, channel_axis))


def laplacian(image: Tensor, levels: int, *, channel_axis: int | None = -1) -> list[Tensor]:
    """Build a Laplacian pyramid: `marey.pyramid.laplacian`.

    Parameters
    ----------
    image : Tensor, (..., H, W) or (..., H, W, C)
        As for `down`.
    levels : int
        How many bands.
    channel_axis : int or None
        As for `down`.

    Returns
    -------
    list of levels + 1 tensors
        The bands, finest first, then the residual; float32 for uint8.
    """
    return _laplacian(image, levels, _axis(image, channel_axis))


def collapse(bands: Sequence[Tensor], *, channel_axis: int | None = -1) -> Tensor:
    """Rebuild an image from its Laplacian pyramid: `marey.pyramid.collapse`.

    Parameters
    ----------
    bands : sequence of tensors
        As `laplacian` returns them; float32 or float64.
    channel_axis : int or None
        As for `down`.

    Returns
    -------
    Tensor, of the shape and type of ``bands[0]``
    """
    bands = list(bands)
    if not bands:
        raise ValueError("[marey.torch.pyramid] bands: expected at least one tensor; found none")
    return _collapse(bands, _axis(bands[0], channel_axis))


class RieszPyramid:
    """Riesz pyramid: `marey.pyramid.RieszPyramid` for tensors, differentiable.

    Parameters
    ----------
    shape : (int, int)
        Height and width of the images.
    levels : int, optional
        The number of bands, as for `marey.pyramid.RieszPyramid`.
    """

    def __init__(self, shape: Size, levels: int | None = None) -> None:
        plain = pyramid.RieszPyramid(shape, levels)
        self.shape, self.levels = plain.shape, plain.levels

    def build(self, image: Tensor) -> RieszCoefficients:
        """Split images into bands and their Riesz transforms.

        Parameters
        ----------
        image : Tensor, (..., H, W)
            uint8, float32 or float64.

        Returns
        -------
        RieszCoefficients
            Of tensors.
        """
        if tuple(image.shape[-2:]) != self.shape:
            raise ValueError(
                f"[marey.torch.RieszPyramid] image: expected shape (..., {self.shape[0]}, "
                f"{self.shape[1]}); found {tuple(image.shape)}"
            )
        *bands, lowpass = laplacian(image, self.levels, channel_axis=None)
        x, y = ([convolve(band, _RIESZ, axis, "mirror") for band in bands] for axis in (-1, -2))
        return RieszCoefficients(bands, x, y, lowpass)

    def collapse(self, coefficients: RieszCoefficients) -> Tensor:
        """Rebuild images from the bands and the low-pass residual: the inverse of `build`."""
        return collapse([*coefficients.bands, coefficients.lowpass], channel_axis=None)


# As csrc/ops/pyramid/riesz.h has it: band[i - 1] - band[i + 1], with a gain of 1 at pi / 4.
_RIESZ = (-(0.5**0.5), 0.0, 0.5**0.5)
