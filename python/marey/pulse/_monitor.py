"""The pulse in a stream of frames."""

from __future__ import annotations

import math
import warnings
from collections import deque
from typing import Any

import numpy as np
from numpy.typing import NDArray

from marey import _arguments
from marey._arrays import to_numpy
from marey.pulse import _rates
from marey.pulse._estimate import (
    LEAST_SECONDS,
    Method,
    PulseEstimate,
    PulseWarning,
    estimate_pulse,
)
from marey.pulse._regions import Region, patch_means

Signal = NDArray[np.float64]

LOW_BPM, HIGH_BPM = 42.0, 240.0
WINDOW_SECONDS = 60.0
"""What `PulseMonitor` keeps."""


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
        if not self.window >= LEAST_SECONDS:
            raise ValueError(
                f"[{name}] window: expected {LEAST_SECONDS:g} seconds or more; found {window}"
            )
        self._region = Region(name, roi, *self.shape[:2])
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
        result = self._estimate(seconds)
        if not result.reliable:
            warnings.warn(f"no pulse to rely on: {result.reason}", PulseWarning, stacklevel=2)
        return result

    def _estimate(self, seconds: float | None = None) -> PulseEstimate:
        """`estimate`, without a warning."""
        times, traces = self._kept()
        if seconds is not None:
            seconds = _arguments.number(self._name, "seconds", seconds, finite=False)
        if seconds is not None and len(times):
            recent = times >= times[-1] - seconds
            traces, times = traces[recent], times[recent]
        return estimate_pulse(
            self._name,
            traces,
            times,
            method=self.method,
            low_bpm=self.low_bpm,
            high_bpm=self.high_bpm,
            pick_skin=self._region.pick_skin,
        )
