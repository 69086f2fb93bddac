"""The pulse in mean colours, and whether it can be relied on."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from marey.pulse import _rates
from marey.pulse._regions import skin_coloured

Signal = NDArray[np.float64]
Method = Literal["pos", "chrom", "green"]

RATE_SECONDS = 10.0
"""The windows of `PulseEstimate.bpm_over_time`, one a second."""
LEAST_SECONDS = 3.0
"""That a rate can be estimated from."""


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


def estimate_pulse(
    name: str,
    traces: Signal,
    times: Signal,
    *,
    method: Method,
    low_bpm: float,
    high_bpm: float,
    pick_skin: bool,
) -> PulseEstimate:
    """Estimate the pulse from mean colours, (T, rows, columns, 3), for `name`, which errors name.

    With `pick_skin` only patches count that are skin-coloured on average, if there are any.
    """
    span = float(times[-1] - times[0]) if len(times) else 0.0
    if span < LEAST_SECONDS:
        raise ValueError(
            f"[{name}] frames: expected at least {LEAST_SECONDS:g} s of them; found {span:.3g} s"
        )
    fs = 1.0 / float(np.median(np.diff(times)))
    low, high = low_bpm / 60.0, min(high_bpm / 60.0, 0.45 * fs)
    if not low < 0.8 * high:
        raise ValueError(
            f"[{name}] fs: expected enough frames a second for rates from {low_bpm:g} a minute; "
            f"found {fs:.3g}"
        )
    traces, even = _resample(traces, times, fs)
    grid = traces.shape[1:3]
    traces = traces.reshape(len(traces), -1, 3)

    chosen = np.ones(traces.shape[1], np.bool_)
    reason = ""
    if pick_skin:
        skin = skin_coloured(traces.mean(axis=0))
        if skin.any():
            chosen = skin
        else:
            reason = "no skin-coloured patches"
    # Wider than the band, so that its edges are not where the filter's are.
    outer = (0.8 * low, min(1.2 * high, 0.49 * fs))
    patches = _rates.signals(traces[:, chosen], fs, method, *outer)
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
        method=method,
        reason=reason,
    )
