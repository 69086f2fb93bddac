"""The heart rate from video of skin.

With every beat the blood in the skin changes its colour, by less than one level of 255. `estimate`
takes a whole video; `PulseMonitor` takes frames as they come and keeps nothing of them but the
mean colours of a grid of patches, for a minute.
"""

from __future__ import annotations

import math
import warnings
from typing import Any

from marey import _arguments
from marey._progress import parts
from marey.pulse._estimate import Method, PulseEstimate, PulseWarning
from marey.pulse._monitor import HIGH_BPM, LOW_BPM, PulseMonitor
from marey.pulse._regions import patch_means

__all__ = ["PulseEstimate", "PulseMonitor", "PulseWarning", "estimate", "patch_means"]


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
    result = monitor._estimate()
    if not result.reliable:
        warnings.warn(f"no pulse to rely on: {result.reason}", PulseWarning, stacklevel=2)
    return result
