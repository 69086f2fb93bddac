"""Phase-based and Riesz magnification of luma, step by step on the whole video.

References
----------
N. Wadhwa, M. Rubinstein, F. Durand and W. Freeman, "Phase-based video motion processing", ACM
Transactions on Graphics 32 (4), 2013; "Riesz pyramids for fast phase-based video magnification",
IEEE ICCP, 2014.
"""

from typing import Any, Literal

import numpy as np
import scipy.ndimage
import scipy.signal
from numpy.typing import ArrayLike, NDArray

from marey.reference.pyramid import collapse, laplacian, riesz_transform
from marey.reference.steerable import SteerablePyramid

__all__ = ["magnify"]

LUMA = np.array([0.299, 0.587, 0.114])


def magnify(
    video: ArrayLike,
    fs: float | None,
    low: float | None,
    high: float | None,
    alpha: float,
    *,
    method: Literal["phase", "riesz"],
    levels: int | None = None,
    order: int = 1,
    sos: ArrayLike | None = None,
    sigma: float = 2.0,
    orientations: int = 8,
    octave_fraction: float = 1.0,
    attenuate: bool = False,
) -> NDArray[np.float64]:
    """Move what moves between `low` and `high` Hz, in float64, not rounded and not clipped.

    Parameters
    ----------
    video : array_like, (T, H, W) or (T, H, W, 3)
    fs, low, high, alpha, method, levels, order, sos, sigma, orientations, octave_fraction,
    attenuate
        As for `marey.magnify`.

    Returns
    -------
    ndarray, of the video's shape
    """
    video = np.asarray(video, np.float64)
    luma = video @ LUMA if video.ndim == 4 else video
    if sos is None:
        sos = scipy.signal.butter(order, [low, high], "bandpass", fs=fs, output="sos")

    def shift_of(phase: NDArray[Any]) -> NDArray[Any]:
        """Of a phase unwrapped along time, less its first value: the filters start at rest."""
        shift: NDArray[Any] = alpha * scipy.signal.sosfilt(sos, phase, axis=0)
        if attenuate:
            fast = scipy.signal.butter(order, high, fs=fs, output="sos")
            shift += scipy.signal.sosfilt(fast, phase, axis=0) - phase
        return shift

    if method == "phase":
        pyramid = SteerablePyramid(luma.shape[1:], orientations, levels, octave_fraction)
        coefficients = pyramid.build(luma)
        for band in coefficients.bands:
            phase = np.unwrap(np.angle(band), axis=0)
            shift = _smooth(shift_of(phase - phase[0]), np.abs(band), sigma, "wrap")
            band *= np.exp(1j * shift)
        changed = pyramid.collapse(coefficients)
    else:
        if levels is None:
            levels = max(1, int(np.log2(min(luma.shape[1:]))) - 2)
        *bands, residual = laplacian(luma, levels, channel_axis=None)
        turned = []
        for band in bands:
            x, y = riesz_transform(band)
            # The logarithm of the quotient of successive quaternions (band, x, y), without its k.
            real = band[1:] * band[:-1] + x[1:] * x[:-1] + y[1:] * y[:-1]
            u = x[1:] * band[:-1] - band[1:] * x[:-1]
            v = y[1:] * band[:-1] - band[1:] * y[:-1]
            sine = np.hypot(u, v)
            factor = np.arctan2(sine, real) / np.where(sine == 0, 1, sine)
            amplitude = np.sqrt(band**2 + x**2 + y**2)
            along_x, along_y = (
                _smooth(
                    shift_of(np.concatenate([0 * w[:1], np.cumsum(factor * w, axis=0)])),
                    amplitude,
                    sigma,
                    "mirror",
                )
                for w in (u, v)
            )
            shift = np.hypot(along_x, along_y)
            across = (x * along_x + y * along_y) / np.where(shift == 0, 1, shift)
            turned.append(band * np.cos(shift) - across * np.sin(shift))
        changed = collapse([*turned, residual], channel_axis=None)
    change = changed - luma
    magnified: NDArray[np.float64] = video + (
        change[..., np.newaxis] if video.ndim == 4 else change
    )
    return magnified


def _smooth(
    shift: NDArray[Any], amplitude: NDArray[Any], sigma: float, mode: Literal["wrap", "mirror"]
) -> NDArray[Any]:
    """Gaussian mean over each image, weighted by amplitude."""
    if sigma == 0:
        return shift
    radius = int(np.ceil(2 * sigma))
    taps = np.exp(-0.5 * (np.arange(-radius, radius + 1) / sigma) ** 2)

    def blurred(x: NDArray[Any]) -> NDArray[Any]:
        for axis in (-2, -1):
            x = scipy.ndimage.correlate1d(x, taps / taps.sum(), axis=axis, mode=mode)
        return x

    weight = blurred(amplitude)
    mean: NDArray[Any] = blurred(amplitude * shift) / np.where(weight == 0, 1, weight)
    return mean
