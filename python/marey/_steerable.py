"""The complex steerable pyramid and the Riesz pyramid."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from marey import _arguments, _cpu
from marey._arrays import from_numpy_like, to_numpy
from marey._phase import (
    checked_levels,
    checked_orientations,
    most_octaves,
    scales_per_octave,
)

__all__ = ["RieszCoefficients", "RieszPyramid", "SteerableCoefficients", "SteerablePyramid"]

_COMPLEX = {np.dtype(np.float32): np.complex64, np.dtype(np.float64): np.complex128}


def _checked_shape(name: str, shape: Any) -> tuple[int, int]:
    height, width = _arguments.image_shape(name, "shape", shape, "(H, W)")
    return height, width


def _checked_image(name: str, image: Any, shape: tuple[int, int]) -> np.ndarray[Any, Any]:
    array = to_numpy(name, "image", image)
    if array.dtype not in (np.uint8, np.float32, np.float64):
        raise TypeError(
            f"[{name}] image: expected dtype uint8, float32 or float64; found {array.dtype}"
        )
    if array.ndim < 2 or array.shape[-2:] != shape:
        raise ValueError(
            f"[{name}] image: expected shape (..., {shape[0]}, {shape[1]}); found {array.shape}"
        )
    return array


def _checked_band(
    name: str, argument: str, band: Any, shape: tuple[int, ...], dtype: Any
) -> np.ndarray[Any, Any]:
    array = to_numpy(name, argument, band)
    if array.shape != shape:
        raise ValueError(f"[{name}] {argument}: expected shape {shape}; found {array.shape}")
    if array.dtype != np.dtype(dtype):
        raise TypeError(
            f"[{name}] {argument}: expected dtype {np.dtype(dtype)}; found {array.dtype}"
        )
    return array


@dataclass
class SteerableCoefficients:
    """What `SteerablePyramid.build` makes of an image.

    Attributes
    ----------
    highpass : array, (..., H, W)
        What lies above the sub-bands.
    bands : list of arrays, (..., orientations, h, w), complex
        The sub-bands, finest scale first.
    lowpass : array, (..., h, w)
        What lies below them.
    """

    highpass: Any
    bands: list[Any]
    lowpass: Any


class SteerablePyramid:
    """Complex steerable pyramid [1]_ [2]_, in the frequency domain.

    An image is split into bands of spatial frequency and orientation. The coefficients of a band
    are complex: their magnitude says how strong a texture of that scale and orientation is there,
    their phase where it stands; motion shows as a change of phase. Nothing is lost: `collapse`
    inverts `build` to rounding. Borders are circular.

    With one scale an octave the filters are those of Portilla and Simoncelli [2]_, and the
    coefficients those of pyrtools' ``SteerablePyramidFreq(image, levels, orientations - 1,
    is_complex=True)`` (whose tables are interpolated, to about 1e-5 of the largest coefficient), at
    sizes where pyrtools' grid is centred: even ones. With more scales the same functions of
    log-frequency are spaced by `octave_fraction` and are ``(1 + octave_fraction) / 2`` octaves wide
    in their flanks.

    Any number of threads may use one object.

    Parameters
    ----------
    shape : (int, int)
        Height and width of the images; any size from one pixel up. Sizes whose prime factors are 31
        or less are transformed about five times faster than others.
    orientations : int
        The number of orientations, 1 to 1024.
    levels : int, optional
        The number of octaves; default (and at most) ``floor(log2(min(H, W))) - 2``, or 0.
    octave_fraction : float
        The width of a scale in octaves: 1, 1/2 or 1/4.

    Attributes
    ----------
    scales : list of (int, int)
        The height and width of each scale's sub-bands, finest first.

    Raises
    ------
    TypeError, ValueError
        If an argument is of another type or out of range.

    Notes
    -----
    The masks take about 4 bytes (float32) for each coefficient of one image. Transforms are marey's
    own, not scipy.fft's: many lines at a time in the lanes of vectors, with the masks applied on
    the way.

    References
    ----------
    .. [1] E. Simoncelli and W. Freeman, "The Steerable Pyramid: A Flexible Architecture for
       Multi-Scale Derivative Computation", IEEE ICIP, 1995.
    .. [2] J. Portilla and E. Simoncelli, "A Parametric Texture Model based on Joint Statistics of
       Complex Wavelet Coefficients", International Journal of Computer Vision 40(1), 2000.

    Examples
    --------
    >>> import marey, numpy as np
    >>> image = np.random.default_rng(0).random((97, 113), dtype=np.float32)
    >>> pyramid = marey.pyramid.SteerablePyramid(image.shape, orientations=4)
    >>> coefficients = pyramid.build(image)
    >>> [band.shape for band in coefficients.bands]
    [(4, 97, 113), (4, 49, 57), (4, 25, 29), (4, 13, 15)]
    >>> bool(np.allclose(pyramid.collapse(coefficients), image, atol=1e-5))
    True
    """

    _NAME = "marey.SteerablePyramid"

    def __init__(
        self,
        shape: tuple[int, int],
        orientations: int = 8,
        levels: int | None = None,
        octave_fraction: float = 1.0,
    ) -> None:
        self.shape = _checked_shape(self._NAME, shape)
        self.orientations = checked_orientations(self._NAME, orientations)
        fraction = scales_per_octave(self._NAME, octave_fraction)
        self.octave_fraction = float(octave_fraction)
        self.levels = checked_levels(self._NAME, levels, self.shape, 0, most_octaves(*self.shape))
        self._arguments = (*self.shape, self.orientations, self.levels, fraction)
        self._transforms: dict[np.dtype[Any], Any] = {}
        extents = self._transform(np.dtype(np.float32)).extents
        self.scales: list[tuple[int, int]] = extents[:-1]
        self._residual: tuple[int, int] = extents[-1]

    def _transform(self, dtype: np.dtype[Any]) -> Any:
        # Masks are made for the types that are used.
        if dtype not in self._transforms:
            double = dtype == np.float64
            kind = _cpu.SteerablePyramidF64 if double else _cpu.SteerablePyramidF32
            self._transforms[dtype] = kind(*self._arguments)
        return self._transforms[dtype]

    def build(
        self, image: Any, *, out: SteerableCoefficients | None = None
    ) -> SteerableCoefficients:
        """Split images into sub-bands.

        Parameters
        ----------
        image : array, (..., H, W)
            uint8, float32 or float64; uint8 is treated as float32. Leading axes are batch.
        out : SteerableCoefficients, optional
            NumPy arrays to write the result to, C-ordered.

        Returns
        -------
        SteerableCoefficients

        Raises
        ------
        TypeError, ValueError
            If `image` is of another type or shape, or `out` does not fit.
        """
        source = _checked_image(self._NAME, image, self.shape)
        dtype = np.dtype(np.float64 if source.dtype == np.float64 else np.float32)
        batch = source.shape[:-2]
        shapes = [(*batch, self.orientations, *scale) for scale in self.scales]
        if out is None:
            made = SteerableCoefficients(
                np.empty((*batch, *self.shape), dtype),
                [np.empty(shape, _COMPLEX[dtype]) for shape in shapes],
                np.empty((*batch, *self._residual), dtype),
            )
        else:
            made = out
            self._check(made, batch, dtype)
            for array in (made.highpass, *made.bands, made.lowpass):
                if not (isinstance(array, np.ndarray) and array.flags.carray):
                    raise ValueError(
                        f"[{self._NAME}] out: expected writable C-ordered NumPy arrays; "
                        "found others"
                    )
                if np.may_share_memory(array, source):
                    raise ValueError(
                        f"[{self._NAME}] out: expected memory that does not overlap the input; "
                        "found overlapping arrays"
                    )
        self._transform(dtype).build(
            source, made.highpass, [band.view(dtype) for band in made.bands], made.lowpass
        )
        if out is not None:
            return out
        convert = from_numpy_like(image)
        return SteerableCoefficients(
            convert(made.highpass), list(map(convert, made.bands)), convert(made.lowpass)
        )

    def collapse(self, coefficients: SteerableCoefficients, *, out: Any = None) -> Any:
        """Rebuild images from their sub-bands: the inverse of `build`.

        As in Portilla and Simoncelli's code only the real parts are used: the imaginary parts that
        `build` gives are their Hilbert transforms, and say nothing more.

        Parameters
        ----------
        coefficients : SteerableCoefficients
            As `build` returns them, changed or not.
        out : array, (..., H, W), optional
            Where to write the images: of the residuals' type, its rows contiguous.

        Returns
        -------
        array, (..., H, W)
            float32 or float64, as the residuals are.

        Raises
        ------
        TypeError, ValueError
            If an array is of another type or shape.
        """
        highpass = to_numpy(self._NAME, "highpass", coefficients.highpass)
        if highpass.dtype not in _COMPLEX or highpass.ndim < 2:
            raise TypeError(
                f"[{self._NAME}] highpass: expected (..., H, W) float32 or float64; found "
                f"{highpass.dtype} of shape {highpass.shape}"
            )
        bands, lowpass = self._check(coefficients, highpass.shape[:-2], highpass.dtype)
        if out is None:
            image = np.empty(highpass.shape, highpass.dtype)
        else:
            image = _checked_band(self._NAME, "out", out, highpass.shape, highpass.dtype)
            if not image.flags.carray:
                raise ValueError(
                    f"[{self._NAME}] out: expected a writable C-ordered array; found another"
                )
            if any(np.may_share_memory(image, a) for a in (highpass, *bands, lowpass)):
                raise ValueError(
                    f"[{self._NAME}] out: expected memory that does not overlap the input; found "
                    "overlapping arrays"
                )
        self._transform(highpass.dtype).collapse(
            highpass, [band.real for band in bands], lowpass, image
        )
        return from_numpy_like(coefficients.highpass)(image) if out is None else out

    def _check(
        self, coefficients: SteerableCoefficients, batch: tuple[int, ...], dtype: np.dtype[Any]
    ) -> tuple[list[np.ndarray[Any, Any]], np.ndarray[Any, Any]]:
        name = self._NAME
        _checked_band(name, "highpass", coefficients.highpass, (*batch, *self.shape), dtype)
        if len(coefficients.bands) != len(self.scales):
            raise ValueError(
                f"[{name}] bands: expected {len(self.scales)} arrays; found "
                f"{len(coefficients.bands)}"
            )
        bands = [
            _checked_band(
                name, f"bands[{k}]", band, (*batch, self.orientations, *scale), _COMPLEX[dtype]
            )
            for k, (band, scale) in enumerate(zip(coefficients.bands, self.scales, strict=True))
        ]
        lowpass = _checked_band(
            name, "lowpass", coefficients.lowpass, (*batch, *self._residual), dtype
        )
        return bands, lowpass


@dataclass
class RieszCoefficients:
    """What `RieszPyramid.build` makes of an image: bands, and their Riesz transforms.

    A coefficient is ``(band, x, y) = A (cos phi, sin phi cos theta, sin phi sin theta)``.

    Attributes
    ----------
    bands : list of arrays, (..., h, w)
        The Laplacian bands, finest first.
    x, y : lists of arrays, (..., h, w)
        The two components of each band's Riesz transform.
    lowpass : array, (..., h, w)
        The low-pass residual.
    """

    bands: list[Any]
    x: list[Any]
    y: list[Any]
    lowpass: Any

    def amplitude(self, level: int) -> Any:
        """Return the local amplitude A of a band."""
        band, x, y = self._of(level)
        return from_numpy_like(self.bands[level])(np.sqrt(band * band + x * x + y * y))

    def phase(self, level: int) -> Any:
        """Return the local phase phi of a band across its orientation, in [0, pi]."""
        band, x, y = self._of(level)
        return from_numpy_like(self.bands[level])(np.arctan2(np.hypot(x, y), band))

    def orientation(self, level: int) -> Any:
        """Return the local orientation theta of a band, from x to y in [-pi, pi]."""
        _, x, y = self._of(level)
        return from_numpy_like(self.bands[level])(np.arctan2(y, x))

    def _of(self, level: int) -> tuple[np.ndarray[Any, Any], ...]:
        name = "marey.RieszPyramid"
        return tuple(
            to_numpy(name, part, arrays[level])
            for part, arrays in (("bands", self.bands), ("x", self.x), ("y", self.y))
        )


class RieszPyramid:
    """Riesz pyramid [1]_: a Laplacian pyramid with the approximate Riesz transform of each band.

    It stands for amplitude, phase and orientation as the steerable pyramid does, with three numbers
    a pixel instead of two for each orientation. The transform is approximated by differences of
    three taps, which is near where the Laplacian bands have their energy.

    Parameters
    ----------
    shape : (int, int)
        Height and width of the images.
    levels : int, optional
        The number of bands; default (and at most) ``floor(log2(min(H, W))) - 2``, or 1.

    Raises
    ------
    TypeError, ValueError
        If an argument is of another type or out of range.

    References
    ----------
    .. [1] N. Wadhwa, M. Rubinstein, F. Durand and W. Freeman, "Riesz Pyramids for Fast Phase-Based
       Video Magnification", IEEE ICCP, 2014.

    Examples
    --------
    >>> import marey, numpy as np
    >>> image = np.random.default_rng(0).random((97, 113), dtype=np.float32)
    >>> pyramid = marey.pyramid.RieszPyramid(image.shape, levels=3)
    >>> coefficients = pyramid.build(image)
    >>> coefficients.phase(1).shape
    (49, 57)
    >>> bool(np.allclose(pyramid.collapse(coefficients), image, atol=1e-6))
    True
    """

    _NAME = "marey.RieszPyramid"

    def __init__(self, shape: tuple[int, int], levels: int | None = None) -> None:
        self.shape = _checked_shape(self._NAME, shape)
        most = max(1, most_octaves(*self.shape))
        self.levels = checked_levels(self._NAME, levels, self.shape, 1, most)

    def build(self, image: Any) -> RieszCoefficients:
        """Split images into bands and their Riesz transforms.

        Parameters
        ----------
        image : array, (..., H, W)
            uint8, float32 or float64; uint8 gives float32. Leading axes are batch.

        Returns
        -------
        RieszCoefficients

        Raises
        ------
        TypeError, ValueError
            If `image` is of another type or shape.
        """
        source = _checked_image(self._NAME, image, self.shape)
        *bands, lowpass = _cpu.laplacian(source, self.levels, None, None)
        x = [np.empty_like(band) for band in bands]
        y = [np.empty_like(band) for band in bands]
        for band, along_x, along_y in zip(bands, x, y, strict=True):
            _cpu.riesz_transform(band, along_x, along_y)
        convert = from_numpy_like(image)
        return RieszCoefficients(
            list(map(convert, bands)),
            list(map(convert, x)),
            list(map(convert, y)),
            convert(lowpass),
        )

    def collapse(self, coefficients: RieszCoefficients, *, out: Any = None) -> Any:
        """Rebuild images from the bands and the low-pass residual: the inverse of `build`.

        Parameters
        ----------
        coefficients : RieszCoefficients
            As `build` returns them, changed or not; `x` and `y` are not used.
        out : array, (..., H, W), optional
            Where to write the images.

        Returns
        -------
        array, (..., H, W)
            Of the bands' type.

        Raises
        ------
        TypeError, ValueError
            If an array is of another type or shape, or `out` does not fit.
        """
        arrays = [
            to_numpy(self._NAME, "bands", band)
            for band in (*coefficients.bands, coefficients.lowpass)
        ]
        if len(arrays) != self.levels + 1 or arrays[0].shape[-2:] != self.shape:
            raise ValueError(
                f"[{self._NAME}] bands: expected {self.levels} arrays, the first of shape "
                f"(..., {self.shape[0]}, {self.shape[1]}); found {len(arrays) - 1}, the first of "
                f"shape {arrays[0].shape}"
            )
        target = None if out is None else to_numpy(self._NAME, "out", out)
        result = _cpu.collapse(arrays, None, target)
        return from_numpy_like(coefficients.bands[0])(result) if out is None else out
