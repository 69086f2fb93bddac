"""Gaussian and Laplacian pyramids (Burt and Adelson), with the borders of OpenCV, and Riesz's.

References
----------
P. J. Burt and E. H. Adelson, "The Laplacian pyramid as a compact image code", IEEE Transactions on
Communications 31 (4), 1983. N. Wadhwa, M. Rubinstein, F. Durand and W. Freeman, "Riesz pyramids for
fast phase-based video magnification", IEEE ICCP, 2014.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import scipy.ndimage
from numpy.typing import ArrayLike, DTypeLike, NDArray

from marey.reference.steerable import SteerableCoefficients, SteerablePyramid

__all__ = [
    "RieszCoefficients",
    "RieszPyramid",
    "SteerableCoefficients",
    "SteerablePyramid",
    "collapse",
    "down",
    "gaussian",
    "laplacian",
    "riesz_transform",
    "up",
]

TAPS = np.array([1, 4, 6, 4, 1]) / 16


def down(
    image: ArrayLike, *, channel_axis: int | None = -1, dtype: DTypeLike = np.float64
) -> NDArray[Any]:
    """Smooth with 1 4 6 4 1 along rows and columns and keep every second sample.

    Parameters
    ----------
    image : array_like
        (..., H, W, C), or (..., H, W) with ``channel_axis=None``.
    channel_axis : int or None
        The axis that is neither rows nor columns; of the others the last two are rows and columns.
    dtype : dtype
        What to compute in.

    Returns
    -------
    ndarray
        (..., ceil(H/2), ceil(W/2), C) of `dtype`; uint8 for uint8, halves rounded up.
    """
    image = np.asarray(image)
    y = image.astype(dtype)
    for axis in _rows_and_columns(y.ndim, channel_axis):
        y = np.moveaxis(_down(np.moveaxis(y, axis, 0)), 0, axis)
    return _as_stored(y, image.dtype)


def up(
    image: ArrayLike,
    shape: tuple[int, int] | None = None,
    *,
    channel_axis: int | None = -1,
    dtype: DTypeLike = np.float64,
) -> NDArray[Any]:
    """Put a zero after every sample and smooth with twice 1 4 6 4 1 along rows and columns.

    Parameters
    ----------
    image : array_like
        (..., h, w, C), or (..., h, w) with ``channel_axis=None``.
    shape : (H, W), optional
        Rows and columns of the result: 2h - 1, 2h or 2h + 1, and likewise for w. Default (2h, 2w).
        As in OpenCV, a last row 2h repeats row 2h - 2, and a last column 2w repeats column 2w - 1
        (where w is 1 OpenCV leaves it undefined).
    channel_axis, dtype
        As in `down`.

    Returns
    -------
    ndarray
        (..., H, W, C) of `dtype`; uint8 for uint8, halves rounded up.
    """
    image = np.asarray(image)
    y = image.astype(dtype)
    axes = _rows_and_columns(y.ndim, channel_axis)
    sizes = tuple(2 * y.shape[axis] for axis in axes) if shape is None else shape
    for axis, size, extra in zip(axes, sizes, (2, 1), strict=True):
        y = np.moveaxis(_up(np.moveaxis(y, axis, 0), size, extra), 0, axis)
    return _as_stored(y, image.dtype)


def gaussian(
    image: ArrayLike,
    levels: int,
    *,
    channel_axis: int | None = -1,
    dtype: DTypeLike = np.float64,
) -> list[NDArray[Any]]:
    """Return the image and its `levels` reductions, finest first: G[l+1] = down(G[l])."""
    image = np.asarray(image)
    pyramid = [image if image.dtype == np.uint8 else image.astype(dtype)]
    for _ in range(levels):
        pyramid.append(down(pyramid[-1], channel_axis=channel_axis, dtype=dtype))
    return pyramid


def laplacian(
    image: ArrayLike,
    levels: int,
    *,
    channel_axis: int | None = -1,
    dtype: DTypeLike = np.float64,
) -> list[NDArray[Any]]:
    """Return `levels` bands, finest first, L[l] = G[l] - up(G[l+1]), then the residual G[levels].

    A uint8 image is first made a `dtype` one, so nothing is rounded.
    """
    g = gaussian(np.asarray(image).astype(dtype), levels, channel_axis=channel_axis, dtype=dtype)
    bands = [fine - _up_to(coarse, fine, channel_axis, dtype) for fine, coarse in pairwise(g)]
    return [*bands, g[-1]]


def collapse(
    bands: Sequence[ArrayLike], *, channel_axis: int | None = -1, dtype: DTypeLike = np.float64
) -> NDArray[Any]:
    """Undo `laplacian`: G[l] = L[l] + up(G[l+1]), from the residual down to the image."""
    *details, residual = (np.asarray(band).astype(dtype) for band in bands)
    image = residual
    for band in reversed(details):
        image = band + _up_to(image, band, channel_axis, dtype)
    return image


def _down(x: NDArray[Any]) -> NDArray[Any]:
    """Along axis 0: y[i] = sum_k TAPS[k] x[2i + k - 2], where x[-1] is x[1] and x[n] is x[n-2]."""
    n = len(x)
    if n == 0:
        return x
    padded = np.pad(x, [(2, 2)] + [(0, 0)] * (x.ndim - 1), mode="reflect")
    y: NDArray[Any] = sum(
        (x.dtype.type(tap) * padded[k : k + n : 2] for k, tap in enumerate(TAPS)),
        start=np.zeros((), x.dtype),
    )
    return y


def _up(x: NDArray[Any], size: int, extra: int) -> NDArray[Any]:
    """Along axis 0: y[2i] = (x[i-1] + 6 x[i] + x[i+1]) / 8 and y[2i+1] = (x[i] + x[i+1]) / 2.

    x[-1] is x[1], and x[n] is x[n-1]. A last y[2n] repeats y[2n - extra].
    """
    n = len(x)
    if abs(size - 2 * n) != size % 2 or (n == 0 and size > 0):
        raise ValueError(
            f"shape: expected {2 * n}, or one more or less where {n} > 0; found {size}"
        )
    before = np.concatenate([x[1:2] if n > 1 else x[:1], x[:-1]])
    after = np.concatenate([x[1:], x[-1:]])
    even = (before + 6 * x + after) / 8
    odd = (x + after) / 2
    y = np.stack([even, odd], axis=1).reshape(2 * n, *x.shape[1:])
    return np.concatenate([y, y[-extra:][:1]])[:size]


def _up_to(
    coarse: NDArray[Any], fine: NDArray[Any], channel_axis: int | None, dtype: DTypeLike
) -> NDArray[Any]:
    rows, columns = _rows_and_columns(fine.ndim, channel_axis)
    shape = (fine.shape[rows], fine.shape[columns])
    return up(coarse, shape, channel_axis=channel_axis, dtype=dtype)


def _rows_and_columns(ndim: int, channel_axis: int | None) -> tuple[int, int]:
    channel = None if channel_axis is None else channel_axis % ndim
    rows, columns = [axis for axis in range(ndim) if axis != channel][-2:]
    return rows, columns


def _as_stored(y: NDArray[Any], dtype: np.dtype[Any]) -> NDArray[Any]:
    return np.floor(y + 0.5).astype(np.uint8) if dtype == np.uint8 else y


def riesz_transform(band: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return the x and y components: differences of three taps, borders reflected."""
    taps = np.sqrt(0.5) * np.array([-1, 0, 1])
    return (
        scipy.ndimage.correlate1d(band, -taps, axis=-1, mode="mirror"),
        scipy.ndimage.correlate1d(band, -taps, axis=-2, mode="mirror"),
    )


@dataclass
class RieszCoefficients:
    """Bands ``A cos phi``, their transforms ``A sin phi (cos theta, sin theta)``, the residual."""

    bands: list[NDArray[Any]]
    x: list[NDArray[Any]]
    y: list[NDArray[Any]]
    lowpass: NDArray[Any]

    def amplitude(self, level: int) -> NDArray[Any]:
        """Return A."""
        amplitude: NDArray[Any] = np.sqrt(
            self.bands[level] ** 2 + self.x[level] ** 2 + self.y[level] ** 2
        )
        return amplitude

    def phase(self, level: int) -> NDArray[Any]:
        """Return phi in [0, pi]."""
        phase: NDArray[Any] = np.arctan2(np.hypot(self.x[level], self.y[level]), self.bands[level])
        return phase

    def orientation(self, level: int) -> NDArray[Any]:
        """Return theta."""
        theta: NDArray[Any] = np.angle(self.x[level] + 1j * self.y[level])
        return theta


class RieszPyramid:
    """As `marey.pyramid.RieszPyramid`; images are (..., H, W)."""

    def __init__(
        self, shape: tuple[int, int], levels: int | None = None, dtype: DTypeLike = np.float64
    ) -> None:
        self.levels = max(1, int(np.log2(min(shape))) - 2) if levels is None else levels
        self.dtype = dtype

    def build(self, image: ArrayLike) -> RieszCoefficients:
        """Return the Laplacian bands and the Riesz transform of each."""
        *bands, residual = laplacian(image, self.levels, channel_axis=None, dtype=self.dtype)
        x, y = zip(*map(riesz_transform, bands), strict=True)
        return RieszCoefficients(bands, list(x), list(y), residual)

    def collapse(self, coefficients: RieszCoefficients) -> NDArray[Any]:
        """Collapse the bands; the transforms say nothing more."""
        return collapse([*coefficients.bands, coefficients.lowpass], channel_axis=None)
