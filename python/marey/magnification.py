"""Motion and colour magnification of video (Eulerian)."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from marey import _arguments, _cpu, _device, _phase
from marey._arrays import from_numpy_like, to_array, to_array_like, to_numpy
from marey._progress import parts
from marey.temporal._recursive import band_sections

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["Magnifier", "magnify"]

_NAME = "marey.Magnifier"

Mode = Literal["motion", "color"]
Method = Literal["linear", "phase", "riesz"]


def band_alphas(levels: int, alpha: float, cutoff: float | None) -> list[float]:
    """Return the amplification of each Laplacian band of linear motion magnification.

    Wu et al. (2012), section 3.3: a motion of ``delta`` pixels can be amplified by ``alpha`` where
    the spatial wavelength is above ``cutoff = 8 (1 + alpha) delta``; below, the amplification falls
    linearly with the wavelength. Band `l` holds wavelengths of 2 to 4 times ``2**l`` pixels; its
    geometric centre stands for it. As in the published code the finest band is not amplified.

    Parameters
    ----------
    levels : int
        The number of bands.
    alpha : float
        The amplification.
    cutoff : float or None
        The spatial cut-off wavelength in pixels; None amplifies all but the finest band alike.

    Returns
    -------
    list of float
        One for each band, finest first.
    """
    alphas = [0.0]
    for level in range(1, levels):
        if cutoff is None:
            alphas.append(alpha)
            continue
        wavelength = 2.0 * math.sqrt(2.0) * 2.0**level
        delta = cutoff / (8.0 * (1.0 + alpha))
        alphas.append(min(max(wavelength / (8.0 * delta) - 1.0, 0.0), alpha))
    return alphas


def _factor(argument: str, value: Any, expected: str = "0 or more") -> float:
    most = float(np.finfo(np.float32).max)
    return _arguments.number(_NAME, argument, value, 0, most, expected=expected)


class Magnifier:
    """Magnify small motions or colour changes in a stream of frames, in constant memory.

    Linear Eulerian magnification [1]_: what changes in a band of frequencies is amplified and added
    to the frame. ``mode="motion"`` amplifies the bands of a Laplacian pyramid, so that small
    motions become large ones; ``mode="color"`` amplifies one Gaussian level, so that faint changes
    of colour, such as the pulse in a face, become visible. Feed frames as they come; any chunking
    gives the same result.

    Pyramid and temporal filter commute, and the finest band is not amplified; so the filter runs
    once, at a quarter of the pixels or fewer, and the result is the published one to rounding.

    ``method="phase"`` is phase-based magnification [2]_: the coefficients of a complex steerable
    pyramid of the luma are turned by `alpha` times their band-passed phase. That moves what linear
    magnification can only lighten or darken: larger factors, and noise is moved instead of
    amplified. ``method="riesz"`` does the same with a Riesz pyramid [3]_, several times faster.
    Both keep I and Q.

    Frames on a CUDA device (CuPy, torch) are magnified there, by ``method="linear"``; NaN and
    infinity are then not looked for, which would mean to wait for the device.

    Not for several threads at once.

    Parameters
    ----------
    shape : (H, W) or (H, W, 3)
        The shape of one frame: grey or RGB.
    fs : float
        Frames per second as filmed, in Hz.
    low, high : float
        The band of frequencies to amplify, in Hz, ``0 < low < high < fs / 2``; the gain of the
        temporal filter is -3 dB there. (Other filters: `sos`.)
    alpha : float
        The amplification, 0 or more: what moved by d moves by about ``(1 + alpha) d``. At most 1000
        for "phase" and "riesz".
    method : "linear", "phase" or "riesz"
        The algorithm.
    mode : "motion" or "color"
        What to amplify.
    cutoff : float, optional
        Linear motion only: the spatial wavelength in pixels below which amplification is reduced
        (the paper's lambda_c), because large amplification of fine detail gives artefacts and
        noise.
    chroma : float
        Linear only: what `alpha` is multiplied by for the I and Q channels of YIQ.
    levels : int, optional
        Motion: the number of bands, at least 2 (default: until the shorter side has about 4
        pixels); of "phase" and "riesz" the number of octaves, at least 1 (default: all that fit).
        Color: the Gaussian level that is amplified, at least 1 (default 4).
    order : int
        The order of the Butterworth band-pass' prototype.
    sos : array, (sections, 6), optional
        A band-pass of any other kind, in place of `low`, which is then None, `high` and `order`:
        rows ``b0 b1 b2 1 a1 a2`` of a stable filter whose gain at 0 Hz is 0, such as
        ``scipy.signal.cheby1(2, 1, (0.4, 3), "bandpass", fs=30, output="sos")`` or, for a FIR
        filter, `scipy.signal.tf2sos` of its taps. `fs` and `high` are then used by `attenuate` only
        and may be None.
    dtype : uint8 or float32
        The type of the frames; float32 frames are in [0, 1], and the results are limited to that.
    sigma : float
        "phase" and "riesz": the standard deviation, in pixels of each scale, of the Gaussian (cut
        at two) that phases are smoothed with, weighted by amplitude; 0 for none.
    orientations : int
        "phase": the pyramid's orientations, 1 to 1024.
    octave_fraction : float
        "phase": the width of its scales in octaves, 1, 1/2 or 1/4. Narrower scales can be moved
        farther, and cost more.
    attenuate : bool
        "phase" and "riesz": take motion faster than `high` away, by a Butterworth low-pass of the
        phase; motion below it then comes a little later.

    Raises
    ------
    ValueError
        If the band is not inside ``(0, fs / 2)``, `sos` is no stable band-pass, or another argument
        is out of range.
    TypeError
        If `dtype` is another type, or an argument is no number where one is expected.

    Notes
    -----
    The filter starts as if the first frame had stood for ever, so there is no flash at the start.
    Memory does not depend on the length of the stream (`workspace_bytes` says how much it is): the
    levels from 1 on of at most 16 frames, twice, and 16 bytes for each section, pixel and channel
    of the level that is filtered.

    References
    ----------
    .. [1] H.-Y. Wu, M. Rubinstein, E. Shih, J. Guttag, F. Durand and W. Freeman, "Eulerian Video
       Magnification for Revealing Subtle Changes in the World", ACM Transactions on Graphics 31(4),
       2012.
    .. [2] N. Wadhwa, M. Rubinstein, F. Durand and W. Freeman, "Phase-Based Video Motion
       Processing", ACM Transactions on Graphics 32(4), 2013.
    .. [3] N. Wadhwa, M. Rubinstein, F. Durand and W. Freeman, "Riesz Pyramids for Fast Phase-Based
       Video Magnification", IEEE ICCP, 2014.

    Examples
    --------
    >>> import marey, numpy as np
    >>> magnifier = marey.Magnifier((64, 96, 3), fs=30, low=0.4, high=3, alpha=10, cutoff=16)
    >>> frames = np.random.default_rng(0).integers(0, 256, (5, 64, 96, 3), np.uint8)
    >>> magnifier.feed(frames).shape
    (5, 64, 96, 3)
    """

    def __init__(
        self,
        shape: tuple[int, ...],
        fs: float | None,
        low: float | None,
        high: float | None,
        alpha: float,
        *,
        method: Method = "linear",
        mode: Mode = "motion",
        cutoff: float | None = None,
        chroma: float = 0.1,
        levels: int | None = None,
        order: int = 1,
        sos: Any = None,
        dtype: Any = np.uint8,
        sigma: float = 2.0,
        orientations: int = 8,
        octave_fraction: float = 1.0,
        attenuate: bool = False,
    ) -> None:
        self.shape = _arguments.frame_shape(_NAME, "shape", shape)
        self.dtype = _arguments.frame_dtype(_NAME, "dtype", dtype)
        _arguments.one_of(_NAME, "method", method, ("linear", "phase", "riesz"))
        _arguments.one_of(_NAME, "mode", mode, ("motion", "color"))
        alpha = _factor("alpha", alpha)
        chroma = _factor("chroma", chroma)
        if cutoff is not None:
            cutoff = _factor("cutoff", cutoff, "a wavelength in pixels, 0 or more")
        band = self._band(fs, low, high, order, sos)
        if method != "linear":
            if mode != "motion":
                raise ValueError(
                    f"[{_NAME}] mode: expected 'motion' for method {method!r}; found {mode!r}"
                )
            if cutoff is not None:
                raise ValueError(
                    f"[{_NAME}] cutoff: expected None for method {method!r}; found {cutoff}"
                )
            self._options: dict[str, Any] | None = None
            fast = self._fast(fs, high, order) if attenuate else np.empty((0, 6))
            self._magnifier, self.levels = _phase.make(
                _NAME,
                method,
                self.shape,
                band,
                fast,
                alpha,
                levels=levels,
                dtype=self.dtype,
                sigma=sigma,
                orientations=orientations,
                octave_fraction=octave_fraction,
            )
            return

        if mode == "motion":
            self.levels = self._checked_levels(levels, 2, self._default_levels())
            alphas = band_alphas(self.levels, alpha, cutoff or None)
            # Bands below the first amplified one need not be built.
            base = next((k for k, a in enumerate(alphas) if a > 0.0), self.levels - 1)
            alphas = alphas[base:]
        else:
            self.levels = self._checked_levels(levels, 1, 4)
            base, alphas = self.levels, [alpha]
        self._options = {
            "height": self.shape[0],
            "width": self.shape[1],
            "channels": 1 if len(self.shape) == 2 else 3,
            "dtype": self.dtype.name,
            "base_level": base,
            "alphas": alphas,
            "gaussian": mode == "color",
            "chroma": chroma,
            "sos": band.ravel().tolist(),
            "steady_zi": _cpu.sosfilt_zi(_NAME, band).ravel().tolist(),
        }
        self._magnifier = _cpu.LinearMagnifier(**self._options)

    def _on_device(self, frames: _device.DeviceArray) -> None:
        """Go on where the frames are: on a CUDA device, from the first of them."""
        if self._options is None:
            raise TypeError(
                f"[{_NAME}] frames: expected an array in CPU memory for this method; found one on "
                "a CUDA device"
            )
        make = _device.kernels(_NAME).LinearMagnifier
        state = self._magnifier.state
        self._magnifier = make(frames, **self._options)
        self._magnifier.state = state

    @staticmethod
    def _band(
        fs: float | None, low: float | None, high: float | None, order: int, sos: Any
    ) -> NDArray[np.float64]:
        if sos is not None:
            if low is not None:
                raise ValueError(f"[{_NAME}] low: expected None beside sos; found {low!r}")
            return _phase.band_pass(_NAME, sos)
        return band_sections(_NAME, low, high, fs, order)

    @staticmethod
    def _fast(fs: float | None, high: float | None, order: int) -> NDArray[np.float64]:
        rate = _arguments.positive(_NAME, "fs", fs, "number of Hz")
        high = _arguments.number(_NAME, "high", high, finite=False)
        if not 0 < high < rate / 2:
            raise ValueError(
                f"[{_NAME}] high: expected 0 < high < {rate / 2:g} Hz, half of fs = {rate:g} Hz, "
                f"to attenuate; found {high:g}"
            )
        return _phase.fast_sections(high, rate, _arguments.integer(_NAME, "order", order, 1))

    def _default_levels(self) -> int:
        return max(2, min(self.shape[:2]).bit_length() - 3)

    @staticmethod
    def _checked_levels(levels: int | None, minimum: int, default: int) -> int:
        if levels is None:
            return default
        return _arguments.integer(_NAME, "levels", levels, minimum, 30)

    def feed(self, frames: Any, out: Any = None) -> Any:
        """Magnify the next frames.

        Parameters
        ----------
        frames : array, (T, H, W), (T, H, W, 3), or one frame
            The next frames of the stream, of this object's `dtype`.
        out : array, optional
            Where to write the result: its rows are contiguous, and it does not overlap `frames`.

        Returns
        -------
        array, of the shape and type of `frames`

        Raises
        ------
        TypeError, ValueError
            If `frames` is of another type or shape, or holds NaN or infinity. The state is then
            what it was before the call, as it is after a KeyboardInterrupt.
        """
        source = to_array(_NAME, "frames", frames)
        on_device = isinstance(source, _device.DeviceArray)
        if on_device and not isinstance(self._magnifier, _device.LinearMagnifier):
            self._on_device(source)
        elif isinstance(self._magnifier, _device.LinearMagnifier) and not on_device:
            raise TypeError(
                f"[{_NAME}] frames: expected an array on the CUDA device, as the stream so far; "
                "found one in CPU memory"
            )
        target = None if out is None else to_array_like(_NAME, "out", out, source)
        if source.ndim == len(self.shape):
            one = None if target is None else target[np.newaxis]
            result = self._magnifier.feed(source[np.newaxis], one)[0]
        else:
            result = self._magnifier.feed(source, target)
        return from_numpy_like(frames)(result) if out is None else out

    @property
    def state(self) -> Any:
        """The filter's state (a copy), or None before the first frame; assign it to continue."""
        return self._magnifier.state

    @state.setter
    def state(self, value: Any) -> None:
        if value is not None and _device.library_of(value) is None:
            value = np.ascontiguousarray(to_numpy(_NAME, "state", value))
        self._magnifier.state = value

    def reset(self) -> None:
        """Forget all frames: the next one is the first."""
        self._magnifier.state = None

    @property
    def workspace_bytes(self) -> int:
        """How much memory this object holds, in bytes."""
        return self._magnifier.workspace_bytes  # type: ignore[no-any-return]


def magnify(
    video: Any,
    fs: float | None,
    low: float | None,
    high: float | None,
    alpha: float,
    *,
    method: Method = "linear",
    mode: Mode = "motion",
    cutoff: float | None = None,
    chroma: float = 0.1,
    levels: int | None = None,
    order: int = 1,
    sos: Any = None,
    sigma: float = 2.0,
    orientations: int = 8,
    octave_fraction: float = 1.0,
    attenuate: bool = False,
    progress: bool = False,
) -> Any:
    """Magnify small motions or colour changes in a video.

    `Magnifier` in one call; see there for the algorithm and the parameters.

    Parameters
    ----------
    video : array, (T, H, W) or (T, H, W, 3)
        Grey or RGB frames, uint8 or float32 in [0, 1].
    fs, low, high, alpha, method, mode, cutoff, chroma, levels, order, sos
        As for `Magnifier`.
    sigma, orientations, octave_fraction, attenuate
        As for `Magnifier`.
    progress : bool
        Show a progress bar (needs tqdm).

    Returns
    -------
    array, of the shape and type of `video`

    Raises
    ------
    TypeError, ValueError
        If `video` is of another type or shape, has no frames, or holds NaN or infinity; if an
        argument is of another type or out of range.

    Examples
    --------
    >>> import marey, numpy as np
    >>> video = np.random.default_rng(0).random((30, 32, 32), dtype=np.float32)
    >>> marey.magnify(video, fs=30, low=0.4, high=3, alpha=10).shape
    (30, 32, 32)
    """
    source = _arguments.whole_video("marey.magnify", video)
    magnifier = Magnifier(
        source.shape[1:],
        fs,
        low,
        high,
        alpha,
        method=method,
        mode=mode,
        cutoff=cutoff,
        chroma=chroma,
        levels=levels,
        order=order,
        sos=sos,
        dtype=source.dtype,
        sigma=sigma,
        orientations=orientations,
        octave_fraction=octave_fraction,
        attenuate=attenuate,
    )
    if not progress:
        return from_numpy_like(video)(magnifier.feed(source))
    result = np.empty_like(source, order="C")
    for part in parts(len(source), progress):
        magnifier.feed(source[part], out=result[part])
    return from_numpy_like(video)(result)
