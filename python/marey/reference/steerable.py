"""The complex steerable pyramid, by its filters' definition on whole Fourier transforms.

References
----------
E. Simoncelli and W. Freeman, "The steerable pyramid: a flexible architecture for multi-scale
derivative computation", IEEE ICIP, 1995. J. Portilla and E. Simoncelli, "A parametric texture model
based on joint statistics of complex wavelet coefficients", International Journal of Computer Vision
40 (1), 2000.
"""

from dataclasses import dataclass
from math import comb
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

__all__ = ["SteerableCoefficients", "SteerablePyramid"]


@dataclass
class SteerableCoefficients:
    """The high-pass residual, the sub-bands of each scale, finest first, the low-pass residual."""

    highpass: NDArray[Any]
    bands: list[NDArray[Any]]
    lowpass: NDArray[Any]


class SteerablePyramid:
    """As `marey.pyramid.SteerablePyramid`; images are (..., H, W).

    With ``dtype=np.float32`` masks are rounded to it and transforms done in it.
    """

    def __init__(
        self,
        shape: tuple[int, int],
        orientations: int = 8,
        levels: int | None = None,
        octave_fraction: float = 1.0,
        dtype: DTypeLike = np.float64,
    ) -> None:
        self.shape = shape
        self.orientations = orientations
        self.step = octave_fraction
        self.dtype = dtype
        most = max(0, int(np.log2(min(shape))) - 2)
        self.count = round((most if levels is None else levels) / octave_fraction)

    def build(self, image: ArrayLike) -> SteerableCoefficients:
        """Multiply the spectrum by each filter, crop it to the scale's grid, and transform back."""
        spectrum = np.fft.fft2(np.asarray(image).astype(self.dtype))
        bands = []
        for scale in range(self.count):
            grid = self._grid(scale)
            cropped = _crop(spectrum, grid)
            masks = self._band_masks(scale, grid)
            bands.append(np.fft.ifft2(cropped[..., np.newaxis, :, :] * masks))
        grid = self._grid(self.count)
        high = np.fft.ifft2(spectrum * self._high(0, self.shape)).real
        low = np.fft.ifft2(_crop(spectrum, grid) * self._lows(self.count + 1, grid)).real
        return SteerableCoefficients(high, bands, low)

    def collapse(self, coefficients: SteerableCoefficients) -> NDArray[Any]:
        """Add up the spectra of the real parts, each times the filter of a real pyramid."""
        grid = self._grid(self.count)
        total = np.fft.fft2(coefficients.highpass) * self._high(0, self.shape)
        low = np.fft.fft2(coefficients.lowpass) * self._lows(self.count + 1, grid)
        total += _pad(low, self.shape)
        for scale, band in enumerate(coefficients.bands):
            masks = self._band_masks(scale, self._grid(scale))
            # The part of a one-sided filter that keeps a real image real: it is two-sided.
            mirrored = np.roll(masks[..., ::-1, ::-1], 1, axis=(-2, -1))
            two_sided = (masks + np.conj(mirrored)) / 2
            spectrum = np.sum(np.fft.fft2(band.real) * np.conj(two_sided), axis=-3)
            total += _pad(spectrum, self.shape)
        image: NDArray[Any] = np.fft.ifft2(total).real
        return image

    def _grid(self, scale: int) -> tuple[int, int]:
        octave = int(scale * self.step)
        return -(-self.shape[0] // 2**octave), -(-self.shape[1] // 2**octave)

    def _frequencies(self, grid: tuple[int, int]) -> tuple[NDArray[Any], NDArray[Any]]:
        """Return fy and fx of a grid's transform, in units of the image's Nyquist frequency."""
        fy, fx = (
            np.fft.fftfreq(n, 1 / n) * 2 / full for n, full in zip(grid, self.shape, strict=True)
        )
        return fy[:, np.newaxis], fx[np.newaxis, :]

    def _transition(self, j: int, grid: tuple[int, int]) -> NDArray[Any]:
        """From 0 at log2 r = -j f - w to pi / 2 at -j f."""
        width = (1 + self.step) / 2
        with np.errstate(divide="ignore"):
            log_r = np.log2(np.hypot(*self._frequencies(grid)))
        t: NDArray[Any] = np.clip((log_r + j * self.step + width) / width, 0, 1)
        return np.pi / 2 * t

    def _high(self, j: int, grid: tuple[int, int]) -> NDArray[Any]:
        mask: NDArray[Any] = np.sin(self._transition(j, grid)).astype(self.dtype)
        return mask

    def _lows(self, count: int, grid: tuple[int, int]) -> NDArray[Any]:
        product = np.ones(grid)
        for j in range(count):
            product *= np.cos(self._transition(j, grid))
        return product.astype(self.dtype)

    def _band_masks(self, scale: int, grid: tuple[int, int]) -> NDArray[Any]:
        """(orientations, h, w), complex."""
        fy, fx = self._frequencies(grid)
        order = self.orientations - 1
        angles = np.pi * np.arange(self.orientations) / self.orientations
        angles = angles[:, np.newaxis, np.newaxis]
        # The cosine of the angle between a frequency and a filter, exact where it is zero.
        with np.errstate(invalid="ignore"):
            cosine = (fx * np.cos(angles) + fy * np.sin(angles)) / np.hypot(fy, fx)
        cosine[:, 0, 0] = 0
        one_sided = np.where(cosine > 0, 2 * np.maximum(cosine, 0) ** order, 0)
        if order == 0:
            one_sided[cosine == 0] = 1
        norm = np.sqrt(4.0**order / (self.orientations * comb(2 * order, order)))
        radial = np.prod(
            [np.cos(self._transition(j, grid)) for j in range(scale + 1)], axis=0
        ) * np.sin(self._transition(scale + 1, grid))
        kind = np.result_type(self.dtype, np.complex64)
        masks: NDArray[Any] = ((-1j) ** order * norm * radial * one_sided).astype(kind)
        return masks


def _rows(n: int, full: int) -> NDArray[np.intp]:
    """Where the frequencies of a transform of n stand in one of `full`."""
    return np.fft.fftfreq(n, 1 / n).astype(np.intp) % full


def _crop(spectrum: NDArray[Any], grid: tuple[int, int]) -> NDArray[Any]:
    height, width = spectrum.shape[-2:]
    cropped: NDArray[Any] = spectrum[
        ..., _rows(grid[0], height)[:, np.newaxis], _rows(grid[1], width)
    ]
    return cropped


def _pad(spectrum: NDArray[Any], shape: tuple[int, int]) -> NDArray[Any]:
    padded = np.zeros((*spectrum.shape[:-2], *shape), spectrum.dtype)
    rows = _rows(spectrum.shape[-2], shape[0])[:, np.newaxis]
    padded[..., rows, _rows(spectrum.shape[-1], shape[1])] = spectrum
    return padded
