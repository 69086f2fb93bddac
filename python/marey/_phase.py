"""Phase-based and Riesz magnification: what of them is designed in Python."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import scipy.signal

from marey import _arguments, _cpu

if TYPE_CHECKING:
    from numpy.typing import NDArray

_NOTHING = 1e-6  # of the coefficients' size: rounding leaves less, a stop band more
SCALES_PER_OCTAVE = {1.0: 1, 0.5: 2, 0.25: 4}


def scales_per_octave(name: str, octave_fraction: Any) -> int:
    """Check `octave_fraction` and return how many of it make an octave."""
    fraction = _arguments.number(name, "octave_fraction", octave_fraction)
    if fraction not in SCALES_PER_OCTAVE:
        raise ValueError(f"[{name}] octave_fraction: expected 1, 1/2 or 1/4; found {fraction:g}")
    return SCALES_PER_OCTAVE[fraction]


def checked_orientations(name: str, orientations: Any) -> int:
    """Return the number of orientations."""
    return _arguments.integer(name, "orientations", orientations, 1, 1024)


def checked_levels(
    name: str, levels: Any, shape: tuple[int, ...], minimum: int, maximum: int
) -> int:
    """Return the number of octaves; None is as many as there may be."""
    if levels is None:
        return maximum
    expected = f"{minimum} to {maximum} for {shape[0]}x{shape[1]} pixels"
    return _arguments.integer(name, "levels", levels, minimum, maximum, expected=expected)


def most_octaves(height: int, width: int) -> int:
    """Return how many octaves fit: the coarsest grid has about 4 pixels a side, or more."""
    return max(0, min(height, width).bit_length() - 3)


def gains_at_zero(sos: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return how much of its numerator's size each section has left at frequency 0."""
    b = sos[:, :3]
    gains: NDArray[np.float64] = np.abs(b.sum(axis=1)) / np.maximum(np.abs(b).sum(axis=1), 1e-300)
    return gains


def band_pass(name: str, sos: Any) -> NDArray[np.float64]:
    """Check sections that the caller designed: finite, normalised, stable, nothing at 0 Hz."""
    array = _arguments.reals(name, "sos", sos)
    if array.ndim != 2 or array.shape[0] < 1 or array.shape[1] != 6:
        raise ValueError(
            f"[{name}] sos: expected shape (sections, 6) with at least one section; "
            f"found {array.shape}"
        )
    if not np.isfinite(array).all() or not (array[:, 3] == 1.0).all():
        raise ValueError(f"[{name}] sos: expected finite rows b0 b1 b2 1 a1 a2; found others")
    pole = max(np.abs(np.roots(row)).max(initial=0.0) for row in array[:, 3:])
    if pole >= 1.0:
        raise ValueError(
            f"[{name}] sos: expected a stable filter; found a pole of magnitude {pole:g}"
        )
    if (rest := float(gains_at_zero(array).min())) > _NOTHING:
        raise ValueError(
            f"[{name}] sos: expected a band-pass, whose gain at 0 Hz is 0; found "
            f"{rest:.2g} of its coefficients' size there"
        )
    return array


def increment_sections(sos: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return sections G with ``H(z) = (1 - 1/z) G(z)``, for sections H that block frequency 0.

    H of a phase that is unwrapped along time is G of the phase's wrapped increments.
    """
    sections = sos.copy()
    b = sections[np.argmin(gains_at_zero(sos))]
    b[:3] = b[0], b[0] + b[1], 0.0
    return sections


def fast_sections(high: float, fs: float, order: int) -> NDArray[np.float64]:
    """Return sections that, from a phase's increments, make its low-pass less itself.

    With the Butterworth low-pass B(z) / A(z) at `high`: (B - A) / A, divided by ``1 - 1/z``.
    """
    b, a = scipy.signal.butter(order, high, fs=fs)
    sections: NDArray[np.float64] = scipy.signal.tf2sos(np.cumsum(b - a)[:-1], a)
    return sections


def half_gaussian(sigma: float) -> list[float]:
    """Return the taps of a Gaussian from its centre on, cut at two standard deviations."""
    radius = math.ceil(2.0 * sigma)
    taps = np.exp(-0.5 * (np.arange(radius + 1) / max(sigma, 1e-9)) ** 2)
    taps /= taps[0] + 2.0 * taps[1:].sum()
    return [float(tap) for tap in taps]


def make(
    name: str,
    method: str,
    shape: tuple[int, ...],
    sos: NDArray[np.float64],
    fast: NDArray[np.float64],
    alpha: float,
    *,
    levels: int | None,
    dtype: np.dtype[Any],
    sigma: float,
    orientations: int,
    octave_fraction: float,
) -> tuple[Any, int]:
    """Return the compiled magnifier of `method` "phase" or "riesz", and its number of levels.

    `sos` is the band-pass, `fast` the `fast_sections` or none.
    """
    height, width = shape[:2]
    fraction = scales_per_octave(name, octave_fraction)
    orientations = checked_orientations(name, orientations)
    # Beyond, the sine of a shift has no correct digits in float32.
    alpha = _arguments.number(name, "alpha", alpha, 0, 1000, expected="0 to 1000")
    sigma = _arguments.number(name, "sigma", sigma, 0, 100, expected="0 to 100 pixels")
    most = most_octaves(height, width)
    if method == "riesz":
        most = max(1, most)
    levels = checked_levels(name, levels, shape, 1, most)
    band = increment_sections(sos)
    common: dict[str, Any] = {
        "height": height,
        "width": width,
        "channels": 1 if len(shape) == 2 else 3,
        "dtype": dtype.name,
        "band": np.delete(band, 3, axis=1).ravel().tolist(),
        "fast": np.delete(fast, 3, axis=1).ravel().tolist(),
        "alpha": alpha,
        "smoothing": half_gaussian(sigma),
    }
    if method == "riesz":
        return _cpu.RieszMagnifier(levels=levels, **common), levels
    magnifier = _cpu.PhaseMagnifier(
        orientations=orientations,
        octaves=levels,
        scales_per_octave=fraction,
        **common,
    )
    return magnifier, levels
