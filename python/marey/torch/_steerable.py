"""The complex steerable pyramid for tensors, with gradients."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

import torch

from marey import _adjoints
from marey.pyramid import SteerableCoefficients
from marey.pyramid import SteerablePyramid as Plain
from marey.torch._operation import gradient, not_differentiable, operation

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from marey.torch._operation import Call

_COMPLEX = {torch.float32: torch.complex64, torch.float64: torch.complex128}
_OPTIONS = "int height, int width, int orientations, int levels, float octave_fraction"


@functools.lru_cache(maxsize=16)
def _pyramid(height: int, width: int, orientations: int, levels: int, fraction: float) -> Plain:
    return Plain((height, width), orientations, levels, fraction)


def _of(call: Call) -> Plain:
    return _pyramid(call.height, call.width, call.orientations, call.levels, call.octave_fraction)


def _listed(coefficients: SteerableCoefficients) -> list[Any]:
    return [coefficients.highpass, *coefficients.bands, coefficients.lowpass]


def _coefficients(parts: Sequence[Any]) -> SteerableCoefficients:
    return SteerableCoefficients(parts[0], list(parts[1:-1]), parts[-1])


def _empty(like: Tensor, plain: Plain) -> list[Tensor]:
    """Return the highpass, the bands and the lowpass of images (..., H, W)."""
    real = torch.float64 if like.dtype is torch.float64 else torch.float32
    batch = like.shape[:-2]
    return [
        like.new_empty((*batch, *plain.shape), dtype=real),
        *[
            like.new_empty((*batch, plain.orientations, *scale), dtype=_COMPLEX[real])
            for scale in plain.scales
        ],
        like.new_empty((*batch, *_adjoints.steerable_residual(plain)), dtype=real),
    ]


_build = operation(
    f"pyramid_steerable_build(Tensor image, {_OPTIONS}) -> Tensor[]",
    lambda image, *options: _listed(_pyramid(*options).build(image)),
    lambda call: _empty(call.image, _of(call)),
)
_build_adjoint = operation(
    f"pyramid_steerable_build_adjoint(Tensor[] grads, {_OPTIONS}) -> Tensor",
    lambda grads, *options: _adjoints.steerable_build(_pyramid(*options), grads),
    lambda call: torch.empty_like(call.grads[0], memory_format=torch.contiguous_format),
)
_collapse = operation(
    f"pyramid_steerable_collapse(Tensor[] parts, {_OPTIONS}) -> Tensor",
    lambda parts, *options: _pyramid(*options).collapse(_coefficients(parts)),
    lambda call: torch.empty_like(call.parts[0], memory_format=torch.contiguous_format),
)
_collapse_adjoint = operation(
    f"pyramid_steerable_collapse_adjoint(Tensor grad, {_OPTIONS}) -> Tensor[]",
    lambda grad, *options: _adjoints.steerable_collapse(_pyramid(*options), grad),
    lambda call: _empty(call.grad, _of(call)),
)


def _options(call: Call) -> tuple[Any, ...]:
    return (call.height, call.width, call.orientations, call.levels, call.octave_fraction)


gradient(_build, lambda call, grads: {"image": _build_adjoint(grads, *_options(call))})
gradient(_collapse, lambda call, grad: {"parts": _collapse_adjoint(grad, *_options(call))})
for _op in (_build_adjoint, _collapse_adjoint):
    not_differentiable(_op, "the steerable pyramid has a first derivative only")


class SteerablePyramid:
    """Complex steerable pyramid: `marey.pyramid.SteerablePyramid` for tensors, differentiable.

    Parameters
    ----------
    shape, orientations, levels, octave_fraction
        As for `marey.pyramid.SteerablePyramid`.

    Notes
    -----
    The way back multiplies spectra with what an impulse gives, by scipy.fft, in float64 or float32.
    """

    def __init__(
        self,
        shape: tuple[int, int],
        orientations: int = 8,
        levels: int | None = None,
        octave_fraction: float = 1.0,
    ) -> None:
        plain = Plain(shape, orientations, levels, octave_fraction)
        self.shape, self.levels, self.scales = plain.shape, plain.levels, plain.scales
        self._options = (*plain.shape, plain.orientations, plain.levels, plain.octave_fraction)

    def build(self, image: Tensor) -> SteerableCoefficients:
        """Split images into sub-bands.

        Parameters
        ----------
        image : Tensor, (..., H, W)
            uint8, float32 or float64.

        Returns
        -------
        SteerableCoefficients
            Of tensors; the bands are complex.
        """
        return _coefficients(_build(image, *self._options))

    def collapse(self, coefficients: SteerableCoefficients) -> Tensor:
        """Rebuild images from their sub-bands, of which the real parts are used."""
        return _collapse(_listed(coefficients), *self._options)
