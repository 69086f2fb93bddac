"""Linear Eulerian magnification, step by step as published.

References
----------
H.-Y. Wu, M. Rubinstein, E. Shih, J. Guttag, F. Durand and W. T. Freeman, "Eulerian video
magnification for revealing subtle changes in the world", ACM Transactions on Graphics 31 (4), 2012.
"""

from typing import Any, Literal

import numpy as np
import scipy.signal
from numpy.typing import ArrayLike, DTypeLike, NDArray

from marey.reference.pyramid import collapse, gaussian, laplacian
from marey.reference.temporal import butter_bandpass, sosfilt

__all__ = ["magnify"]

# NTSC: the luma of ITU-R BT.601, and two colour differences that are zero for grey.
RGB_TO_YIQ = np.array([[0.299, 0.587, 0.114], [0.596, -0.274, -0.322], [0.211, -0.523, 0.312]])
YIQ_TO_RGB = np.linalg.inv(RGB_TO_YIQ)


def magnify(
    video: ArrayLike,
    fs: float | None,
    low: float | None,
    high: float | None,
    alpha: float,
    *,
    mode: Literal["motion", "color"] = "motion",
    cutoff: float | None = None,
    chroma: float = 0.1,
    levels: int | None = None,
    order: int = 1,
    sos: ArrayLike | None = None,
    dtype: DTypeLike = np.float64,
) -> NDArray[Any]:
    """Amplify what changes between `low` and `high` Hz: in Laplacian bands, or in a Gaussian level.

    Parameters
    ----------
    video : array_like, (T, H, W) or (T, H, W, 3)
        uint8, or floats in [0, 1].
    fs, low, high : float
        Frames per second, and the band in Hz.
    alpha : float
        The change in the band is multiplied by `alpha` and added to the video.
    mode : {"motion", "color"}
        "motion" amplifies Laplacian bands 1 to `levels` - 1 (the finest, 0, is noise), "color" the
        Gaussian level `levels`.
    cutoff : float, optional
        The spatial wavelength in pixels, lambda_c, below which `alpha` is attenuated ("motion").
    chroma : float
        Multiplies `alpha` for I and Q.
    levels : int, optional
        Default ``max(2, floor(log2(min(H, W))) - 2)`` for "motion", 4 for "color".
    order : int
        Of the Butterworth band-pass.
    sos : array_like, (sections, 6), optional
        Another band-pass in its place; `fs`, `low` and `high` are then None.
    dtype : dtype
        What to compute in.

    Returns
    -------
    ndarray
        The video's shape, clipped to its range; uint8 for uint8, otherwise `dtype`.
    """
    video = np.asarray(video)
    in_color = video.ndim == 4
    channel_axis = -1 if in_color else None
    frames = video.astype(dtype)
    if in_color:
        frames = frames @ RGB_TO_YIQ.T.astype(dtype)

    if mode == "motion":
        if levels is None:
            levels = max(2, int(np.log2(min(video.shape[1:3]))) - 2)
        bands = laplacian(frames, levels, channel_axis=channel_axis, dtype=dtype)
        gains = [0.0, *(_attenuated(alpha, cutoff, band) for band in range(1, levels)), 0.0]
    else:
        levels = 4 if levels is None else levels
        bands = gaussian(frames, levels, channel_axis=channel_axis, dtype=dtype)
        gains = [0.0] * levels + [alpha]

    if sos is None:
        assert low is not None
        assert high is not None
        assert fs is not None
        sos = butter_bandpass(low, high, fs, order)
    sections = np.asarray(sos)
    amplified = [
        gain * _from_rest(sections, band, dtype) for gain, band in zip(gains, bands, strict=True)
    ]
    change = collapse(amplified, channel_axis=channel_axis, dtype=dtype)

    if in_color:
        change *= np.array([1, chroma, chroma], dtype)
    magnified = frames + change
    if in_color:
        magnified = magnified @ YIQ_TO_RGB.T.astype(dtype)
    peak = 255 if video.dtype == np.uint8 else 1
    clipped: NDArray[Any] = np.clip(magnified, 0, peak)
    return np.rint(clipped).astype(np.uint8) if video.dtype == np.uint8 else clipped


def _attenuated(alpha: float, cutoff: float | None, band: int) -> float:
    """Limit alpha to (1 + alpha) delta < lambda / 8, where delta is what lets lambda_c keep alpha.

    Band l holds an octave of wavelengths, [2, 4] 2**l pixels; lambda is its geometric centre.
    """
    if cutoff is None:
        return alpha
    wavelength = 2 * np.sqrt(2) * 2**band
    delta = cutoff / (8 * (1 + alpha))
    return float(np.clip(wavelength / (8 * delta) - 1, 0, alpha))


def _from_rest(sos: NDArray[np.float64], band: NDArray[Any], dtype: DTypeLike) -> NDArray[Any]:
    """Band-pass along time as if the first frame had always been there: it starts at zero."""
    zi = np.multiply.outer(scipy.signal.sosfilt_zi(sos), band[0])
    filtered: NDArray[Any] = sosfilt(sos, band, zi=zi, dtype=dtype)[0]
    return filtered
