"""The heart rate from video of skin.

With every beat the blood in the skin changes its colour, by less than one level of 255. `estimate`
takes a whole video; `PulseMonitor` takes frames as they come and keeps nothing of them but the
mean colours of a grid of patches, for a minute.
"""

from __future__ import annotations

import math
import warnings
from collections import deque
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from marey import _arguments, _cpu, _rates
from marey._arrays import to_numpy
from marey._progress import parts

__all__ = ["PulseEstimate", "PulseMonitor", "PulseWarning", "estimate", "patch_means"]

Signal = NDArray[np.float64]
Method = Literal["pos", "chrom", "green"]

LOW_BPM, HIGH_BPM = 42.0, 240.0
RATE_SECONDS = 10.0
"""The windows of `PulseEstimate.bpm_over_time`, one a second."""
WINDOW_SECONDS = 60.0
"""What `PulseMonitor` keeps."""
_LEAST_SECONDS = 3.0  # that a rate can be estimated from
_GRID = 16  # patches along the shorter side
_SMALLEST_PATCH = 8  # pixels


class PulseWarning(UserWarning):
    """The video shows no pulse that can be relied on."""


@dataclass(frozen=True)
class PulseEstimate:
    """What `estimate` found.

    Attributes
    ----------
    bpm : float
        The heart rate in beats a minute; NaN where there is nothing like one. Not to be relied on
        unless `reliable`.
    snr_db : float
        De Haan and Jeanne's signal-to-noise ratio: the power of the waveform within 0.1 Hz (or 1.5
        over the seconds of the recording, if that is more) of the rate and of twice the rate, over
        the remaining power of the band, in dB.
    required_snr_db : float
        What noise alone hardly ever reaches in a recording of this length.
    reliable : bool
        Whether there is a pulse: ``snr_db >= required_snr_db``, seen in skin-coloured patches (if
        those were looked for).
    waveform : array, (N,)
        The pulse wave, band-passed, of standard deviation 1, evenly spaced in time.
    times : array, (N,)
        The times of `waveform`, in the seconds of the frame times.
    bpm_over_time, rate_snr_db, rate_times : array, (M,)
        The rate in windows of 10 s (of the whole recording, if that is shorter), one a second; its
        signal- to-noise ratio; and the middle of each window.
    frequencies, power : array, (K,)
        The spectrum of the waveform, in Hz.
    weights : array, (rows, columns)
        What each patch contributes, of sum 1; 0 where it is no skin or shows no pulse.
    method : str
    reason : str
        Why it is not reliable; empty if it is.
    """

    bpm: float
    snr_db: float
    required_snr_db: float
    reliable: bool
    waveform: Signal = field(repr=False)
    times: Signal = field(repr=False)
    bpm_over_time: Signal = field(repr=False)
    rate_snr_db: Signal = field(repr=False)
    rate_times: Signal = field(repr=False)
    frequencies: Signal = field(repr=False)
    power: Signal = field(repr=False)
    weights: Signal = field(repr=False)
    method: str = "pos"
    reason: str = ""


def required_snr_db(seconds: float) -> float:
    """The signal-to-noise ratio, in dB, that a recording of this length must reach to be relied on.

    The highest peak of a noise spectrum holds a share of the band that falls with the length of the
    recording. 14 - 10 log10(seconds) lies above what POS gave for 99 % of simulated recordings of
    white and of pink noise of 4 to 60 s; below 8 s 3 dB more are asked for.
    """
    return max(-2.0, 14.0 - 10.0 * math.log10(seconds)) + (3.0 if seconds < 8.0 else 0.0)


def skin_coloured(colours: Any) -> NDArray[np.bool_]:
    """Whether colours are those of skin.

    The rectangle of Chai and Ngan [1]_ in the chrominance of ITU-R BT.601 (77 <= Cb <= 127 and
    133 <= Cr <= 173), for colours that are neither nearly black nor clipped. It is the same for
    light and for dark skin; wood, sand and many walls are in it too.

    Parameters
    ----------
    colours : array, (..., 3)
        RGB, in levels of 255.

    Returns
    -------
    array of bool, (...)

    References
    ----------
    .. [1] D. Chai and K. Ngan, "Face segmentation using skin-color map in videophone applications",
       IEEE Transactions on Circuits and Systems for Video Technology 9(4), 1999.
    """
    rgb = np.asarray(colours, np.float64)
    red, green, blue = rgb[..., 0], rgb[..., 1], rgb[..., 2]
    cb = 128.0 + (-37.797 * red - 74.203 * green + 112.0 * blue) / 255.0
    cr = 128.0 + (112.0 * red - 93.786 * green - 18.214 * blue) / 255.0
    luma = 0.299 * red + 0.587 * green + 0.114 * blue
    inside = (cb >= 77) & (cb <= 127) & (cr >= 133) & (cr <= 173)
    result: NDArray[np.bool_] = inside & (luma > 25.0) & (rgb.max(axis=-1) < 252.0)
    return result


def patch_means(frames: Any, row_edges: Any, column_edges: Any, mask: Any = None) -> Signal:
    """The mean colour of each patch of a grid, in every frame.

    Parameters
    ----------
    frames : array, (T, H, W, 3)
        uint8 or float32; any strides, fastest where the rows of a frame are contiguous.
    row_edges, column_edges : sequence of int
        Patch (i, j) is ``frames[:, row_edges[i]:row_edges[i + 1], column_edges[j]:column_edges[j +
        1]]``; rising from 0 or more to H (W) or less.
    mask : array of bool, (H, W), optional
        Which pixels count.

    Returns
    -------
    array of float64, (T, rows, columns, 3)
        NaN where the mask leaves nothing of a patch. uint8 is summed exactly.

    Raises
    ------
    TypeError, ValueError
        If a shape or a type does not fit, or edges do not rise.

    Examples
    --------
    >>> import marey, numpy as np
    >>> frames = np.full((5, 40, 60, 3), 7, np.uint8)
    >>> marey.pulse.patch_means(frames, [0, 20, 40], [0, 30, 60]).shape
    (5, 2, 2, 3)
    """
    name = "marey.pulse.patch_means"
    source = to_numpy(name, "frames", frames)
    selected = None
    if mask is not None:
        selected = np.ascontiguousarray(_mask(name, mask)).view(np.uint8)
    means: Signal = _cpu.patch_means(
        source,
        _arguments.integers(name, "row_edges", row_edges, "a sequence of integers"),
        _arguments.integers(name, "column_edges", column_edges, "a sequence of integers"),
        selected,
    )
    return means


def _mask(name: str, mask: Any) -> NDArray[np.bool_]:
    array = np.asarray(mask)
    if array.dtype != np.bool_ or array.ndim != 2:
        raise TypeError(
            f"[{name}] mask: expected a bool array (H, W); found {array.dtype}, shape {array.shape}"
        )
    return array


class _Region:
    """Where to look: the edges of patches, a mask, and whether skin is to be picked out."""

    def __init__(self, name: str, roi: Any, height: int, width: int) -> None:
        self.mask: NDArray[np.bool_] | None = None
        self.rows, self.columns = [0, height], [0, width]
        self.pick_skin = roi is None
        if roi is None:
            size = max(_SMALLEST_PATCH, min(height, width) // _GRID)
            self.rows = self._split(height, size)
            self.columns = self._split(width, size)
        elif isinstance(roi, str):
            if roi != "frame":
                raise ValueError(
                    f"[{name}] roi: expected None, 'frame', a box (x, y, width, height) or a bool "
                    f"mask (H, W); found {roi!r}"
                )
        elif np.ndim(roi) == 2:
            mask = _mask(name, roi)
            if mask.shape != (height, width) or not mask.any():
                raise ValueError(
                    f"[{name}] roi: expected a mask of shape {(height, width)} that is not empty; "
                    f"found shape {mask.shape}, {int(mask.sum())} pixels"
                )
            self.mask = mask
            rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
            self.rows = [int(rows[0]), int(rows[-1]) + 1]
            self.columns = [int(columns[0]), int(columns[-1]) + 1]
        else:
            box = _arguments.integers(name, "roi", roi, "a box (x, y, width, height)")
            x, y, w, h = box if len(box) == 4 else (0, 0, 0, 0)
            if not (0 <= x < x + w <= width and 0 <= y < y + h <= height):
                raise ValueError(
                    f"[{name}] roi: expected a box (x, y, width, height) inside {width}x{height} "
                    f"pixels; found {box}"
                )
            self.rows, self.columns = [y, y + h], [x, x + w]

    @staticmethod
    def _split(extent: int, size: int) -> list[int]:
        count = max(1, extent // size)
        return [round(k * extent / count) for k in range(count + 1)]


class PulseMonitor:
    """Follow the pulse in a stream of frames, in constant memory.

    Of the last seconds the mean colours of the patches are kept: 24 bytes a patch and frame. Not
    for several threads at once.

    Parameters
    ----------
    shape : (H, W, 3)
        The shape of one frame, RGB.
    fs : float, optional
        Frames per second as filmed, for frames that come without times.
    method : "pos", "chrom" or "green"
        POS [1]_, CHROM [2]_, or the green channel alone [3]_.
    roi : None, "frame", box or mask
        None: a grid of patches, of which the skin-coloured ones are weighted by the quality of
        their signals. "frame": the mean of the whole frame. (x, y, width, height): of a box, in
        pixels. A bool array (H, W): of the pixels where it is True.
    low_bpm, high_bpm : float
        The rates to look for, in beats a minute.
    window : float
        How many seconds are kept, 3 or more; infinity for all.

    Raises
    ------
    TypeError, ValueError
        If an argument is of another type or out of range.

    References
    ----------
    .. [1] W. Wang, A. den Brinker, S. Stuijk and G. de Haan, "Algorithmic principles of remote
       PPG", IEEE Transactions on Biomedical Engineering 64(7), 2017.
    .. [2] G. de Haan and V. Jeanne, "Robust pulse rate from chrominance-based rPPG", IEEE
       Transactions on Biomedical Engineering 60(10), 2013.
    .. [3] W. Verkruysse, L. Svaasand and J. Nelson, "Remote plethysmographic imaging using ambient
       light", Optics Express 16(26), 2008.

    Examples
    --------
    >>> import marey, numpy as np
    >>> scene = marey.synthetic.Scene(height=64, width=128, flush_hz=1.2)
    >>> monitor = marey.pulse.PulseMonitor((64, 128, 3), fs=30)
    >>> for start in range(0, 300, 30):
    ...     monitor.feed(scene.frames(start, start + 30))
    >>> round(monitor.estimate().bpm)
    72
    """

    _name = "marey.PulseMonitor"

    def __init__(
        self,
        shape: tuple[int, ...],
        fs: float | None = None,
        *,
        method: Method = "pos",
        roi: Any = None,
        low_bpm: float = LOW_BPM,
        high_bpm: float = HIGH_BPM,
        window: float = WINDOW_SECONDS,
    ) -> None:
        name = self._name
        self.shape = _arguments.image_shape(name, "shape", shape, "(H, W, 3), RGB,", ((3,),))
        self.method = _arguments.one_of(name, "method", method, _rates.METHODS)
        self.fs = None if fs is None else _arguments.positive(name, "fs", fs, "number of Hz")
        low_bpm = _arguments.number(name, "low_bpm", low_bpm, finite=False)
        high_bpm = _arguments.number(name, "high_bpm", high_bpm, finite=False)
        if not 0 < low_bpm < high_bpm < math.inf:
            raise ValueError(
                f"[{name}] low_bpm, high_bpm: expected 0 < low_bpm < high_bpm; "
                f"found {low_bpm}, {high_bpm}"
            )
        self.low_bpm, self.high_bpm = low_bpm, high_bpm
        self.window = _arguments.number(name, "window", window, finite=False)
        if not self.window >= _LEAST_SECONDS:
            raise ValueError(
                f"[{name}] window: expected {_LEAST_SECONDS:g} seconds or more; found {window}"
            )
        self._region = _Region(name, roi, *self.shape[:2])
        self.reset()

    def reset(self) -> None:
        """Forget all frames."""
        self._chunks: deque[tuple[Signal, Signal]] = deque()  # times and traces
        self._frames = 0
        self._last = -math.inf

    def feed(self, frames: Any, times: Any = None) -> None:
        """Take the next frames.

        Parameters
        ----------
        frames : array, (T, H, W, 3), or one frame
            uint8, or float32 in [0, 1].
        times : array, (T,), or float, optional
            When each frame was filmed, in seconds, rising; may be uneven. Default: `fs` frames a
            second.

        Raises
        ------
        TypeError, ValueError
            If a type or a shape does not fit, or times do not rise.
        """
        source = to_numpy(self._name, "frames", frames)
        _arguments.frame_dtype(self._name, "frames", source.dtype)
        if source.ndim == 3:
            source = source[np.newaxis]
        if source.shape[1:] != self.shape:
            raise ValueError(
                f"[{self._name}] frames: expected shape (T, {', '.join(map(str, self.shape))}); "
                f"found {np.shape(frames)}"
            )
        when = self._checked_times(times, len(source))
        if len(source) == 0:
            return
        means = patch_means(source, self._region.rows, self._region.columns, self._region.mask)
        if source.dtype != np.uint8:
            means *= 255.0
        if not np.isfinite(means).all():
            raise ValueError(
                f"[{self._name}] frames: expected finite values; found NaN or infinity"
            )
        self._keep(when, means)
        self._frames += len(source)

    def _checked_times(self, times: Any, count: int) -> Signal:
        """When the next frames were filmed."""
        name = self._name
        if times is not None:
            try:
                when = np.atleast_1d(np.asarray(times, np.float64))
            except (TypeError, ValueError):
                raise TypeError(
                    f"[{name}] times: expected numbers of seconds; found {times!r}"
                ) from None
        elif self.fs is not None:
            when = np.arange(self._frames, self._frames + count) / self.fs
        else:
            raise ValueError(f"[{name}] times: expected them, or fs; found neither")
        if when.shape != (count,):
            raise ValueError(f"[{name}] times: expected shape ({count},); found {when.shape}")
        rising = np.all(np.diff(when, prepend=self._last) > 0)
        if not (rising and np.isfinite(when).all()):
            raise ValueError(
                f"[{name}] times: expected {count} finite, rising numbers of seconds, after "
                f"{self._last:g}; found others"
            )
        return when

    def _keep(self, times: Signal, traces: Signal) -> None:
        """Add frames, one or more, and forget those that left the window."""
        self._last = float(times[-1])
        oldest = self._last - self.window
        while self._chunks and self._chunks[0][0][-1] < oldest:
            self._chunks.popleft()
        recent = times >= oldest
        # Not a view: it would keep what it is a part of.
        self._chunks.append((times[recent], traces[recent]))

    def _kept(self) -> tuple[Signal, Signal]:
        if not self._chunks:
            grid = (len(self._region.rows) - 1, len(self._region.columns) - 1, 3)
            return np.empty(0), np.empty((0, *grid))
        times, traces = (np.concatenate(parts) for parts in zip(*self._chunks, strict=True))
        first = int(np.searchsorted(times, self._last - self.window))
        return times[first:], traces[first:]

    @property
    def traces(self) -> Signal:
        """The mean colours in the window, (T, rows, columns, 3), in levels of 255."""
        return self._kept()[1]

    @property
    def times(self) -> Signal:
        """When the frames in the window were filmed, (T,), in seconds."""
        return self._kept()[0]

    @property
    def state(self) -> dict[str, Any]:
        """What to save: ``times``, ``traces``, and ``frames``, how many were seen.

        Assign it to continue.
        """
        times, traces = self._kept()
        return {"times": times, "traces": traces, "frames": self._frames}

    @state.setter
    def state(self, value: dict[str, Any]) -> None:
        name = self._name
        keys = ("times", "traces", "frames")
        *arrays, count = _arguments.entries(name, "state", value, keys)
        times, traces = (_arguments.reals(name, "state", array) for array in arrays)
        frames = _arguments.integer(name, "state", count, 0)
        grid = (len(self._region.rows) - 1, len(self._region.columns) - 1, 3)
        if times.ndim != 1 or traces.shape != (len(times), *grid) or len(times) > frames:
            raise ValueError(
                f"[{name}] state: expected times (T,) and traces (T, {', '.join(map(str, grid))}) "
                f"of at most {frames} frames; found {times.shape} and {traces.shape}"
            )
        finite = np.isfinite(times).all() and np.isfinite(traces).all()
        if not (finite and np.all(np.diff(times) > 0)):
            raise ValueError(f"[{name}] state: expected finite values and rising times")
        self.reset()
        self._frames = frames
        if len(times):
            self._keep(times, traces)

    def estimate(self, seconds: float | None = None) -> PulseEstimate:
        """Estimate the pulse from the frames so far.

        Parameters
        ----------
        seconds : float, optional
            Look at the last so many seconds only.

        Returns
        -------
        PulseEstimate

        Warns
        -----
        PulseWarning
            If there is no pulse that can be relied on.

        Raises
        ------
        TypeError
            If `seconds` is not a number.
        ValueError
            If the frames span less than 3 s, or are too few a second for the band.
        """
        times, traces = self._kept()
        if seconds is not None:
            seconds = _arguments.number(self._name, "seconds", seconds, finite=False)
        if seconds is not None and len(times):
            recent = times >= times[-1] - seconds
            traces, times = traces[recent], times[recent]
        result = _estimate(self, traces, times)
        if not result.reliable:
            warnings.warn(f"no pulse to rely on: {result.reason}", PulseWarning, stacklevel=2)
        return result


def _resample(traces: Signal, times: Signal, fs: float) -> tuple[Signal, Signal]:
    """Linear interpolation to evenly spaced times."""
    even = times[0] + np.arange(int((times[-1] - times[0]) * fs + 1e-6) + 1) / fs
    right = np.clip(np.searchsorted(times, even, side="right"), 1, len(times) - 1)
    share = (even - times[right - 1]) / (times[right] - times[right - 1])
    share = np.clip(share, 0.0, 1.0).reshape(-1, *[1] * (traces.ndim - 1))
    return traces[right - 1] * (1 - share) + traces[right] * share, even


def _rates_over_time(
    wave: Signal, times: Signal, fs: float, low: float, high: float
) -> tuple[Signal, Signal, Signal]:
    length = min(len(wave), round(RATE_SECONDS * fs))
    starts = np.arange(0, len(wave) - length + 1, max(1, round(fs)))
    rates, ratios = np.empty(len(starts)), np.empty(len(starts))
    for k, start in enumerate(starts):
        spectrum = _rates.spectrum(wave[start : start + length], fs)
        rates[k] = _rates.peak(spectrum, low, high)
        ratios[k] = _rates.snr_db(spectrum, float(rates[k]), length / fs, low, high)
    return 60.0 * rates, ratios, times[starts] + 0.5 * (length - 1) / fs


def _estimate(monitor: PulseMonitor, traces: Signal, times: Signal) -> PulseEstimate:
    span = float(times[-1] - times[0]) if len(times) else 0.0
    if span < _LEAST_SECONDS:
        raise ValueError(
            f"[{monitor._name}] frames: expected at least {_LEAST_SECONDS:g} s of them; "
            f"found {span:.3g} s"
        )
    fs = 1.0 / float(np.median(np.diff(times)))
    low, high = monitor.low_bpm / 60.0, min(monitor.high_bpm / 60.0, 0.45 * fs)
    if not low < 0.8 * high:
        raise ValueError(
            f"[{monitor._name}] fs: expected enough frames a second for rates from "
            f"{monitor.low_bpm:g} a minute; found {fs:.3g}"
        )
    traces, even = _resample(traces, times, fs)
    grid = traces.shape[1:3]
    traces = traces.reshape(len(traces), -1, 3)

    chosen = np.ones(traces.shape[1], np.bool_)
    reason = ""
    if monitor._region.pick_skin:
        skin = skin_coloured(traces.mean(axis=0))
        if skin.any():
            chosen = skin
        else:
            reason = "no skin-coloured patches"
    # Wider than the band, so that its edges are not where the filter's are.
    outer = (0.8 * low, min(1.2 * high, 0.49 * fs))
    patches = _rates.signals(traces[:, chosen], fs, monitor.method, *outer)
    signal, shares = _rates.combine(patches)
    weights = np.zeros(traces.shape[1])
    weights[chosen] = shares

    spectrum = _rates.spectrum(signal, fs)
    rate = _rates.peak(spectrum, low, high)
    seconds = len(signal) / fs
    ratio = _rates.snr_db(spectrum, rate, seconds, low, high)
    required = required_snr_db(seconds)
    if ratio < required:
        found = f"signal-to-noise ratio {ratio:.1f} dB, expected {required:.1f} dB or more"
        reason = f"{reason}; {found}" if reason else found
    wave = _rates.bandpass(signal, fs, low, high)
    deviation = float(np.std(wave))
    over_time, ratios, middles = _rates_over_time(signal, even, fs, low, high)
    return PulseEstimate(
        bpm=60.0 * rate,
        snr_db=ratio,
        required_snr_db=required,
        reliable=not reason,
        waveform=wave / deviation if deviation > 0 else wave,
        times=even,
        bpm_over_time=over_time,
        rate_snr_db=ratios,
        rate_times=middles,
        frequencies=spectrum.frequencies,
        power=spectrum.power,
        weights=weights.reshape(grid),
        method=monitor.method,
        reason=reason,
    )


class _Whole(PulseMonitor):
    """`estimate`'s, whose errors name it."""

    _name = "marey.pulse.estimate"


def estimate(
    video: Any,
    fs: float | None = None,
    *,
    times: Any = None,
    method: Method = "pos",
    roi: Any = None,
    low_bpm: float = LOW_BPM,
    high_bpm: float = HIGH_BPM,
    progress: bool = False,
) -> PulseEstimate:
    """Estimate the heart rate from a video of skin.

    `PulseMonitor` in one call; see there for the methods and the parameters.

    Parameters
    ----------
    video : array, (T, H, W, 3)
        RGB frames, uint8 or float32 in [0, 1], of 3 s or more.
    fs : float, optional
        Frames per second as filmed; or `times`.
    times : array, (T,), optional
        When each frame was filmed, in seconds, rising; may be uneven.
    method, roi, low_bpm, high_bpm
        As for `PulseMonitor`.
    progress : bool
        Show a progress bar (needs tqdm).

    Returns
    -------
    PulseEstimate

    Warns
    -----
    PulseWarning
        If there is no pulse that can be relied on; ``reliable`` is then False.

    Raises
    ------
    TypeError, ValueError
        If a type or a shape does not fit, or an argument is out of range.

    Notes
    -----
    Frames at uneven times are interpolated to the median frame rate. The spectrum's peak is
    interpolated between bins, so the rate is not held to multiples of one over the recording's
    length.

    Examples
    --------
    >>> import marey
    >>> video = marey.synthetic.Scene(height=64, width=128, flush_hz=1.1).frames(0, 300)
    >>> pulse = marey.pulse.estimate(video, fs=30)
    >>> round(pulse.bpm), pulse.reliable
    (66, True)
    """
    name = _Whole._name
    source = _arguments.whole_video(name, video)
    if source.ndim != 4:
        raise ValueError(f"[{name}] video: expected (T, H, W, 3); found shape {source.shape}")
    monitor = _Whole(
        source.shape[1:],
        fs,
        method=method,
        roi=roi,
        low_bpm=low_bpm,
        high_bpm=high_bpm,
        window=math.inf,
    )
    when = None if times is None else monitor._checked_times(times, len(source))
    for part in parts(len(source), progress):
        monitor.feed(source[part], None if when is None else when[part])
    result = _estimate(monitor, monitor.traces, monitor.times)
    if not result.reliable:
        warnings.warn(f"no pulse to rely on: {result.reason}", PulseWarning, stacklevel=2)
    return result
