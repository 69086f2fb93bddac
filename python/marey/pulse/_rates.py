"""Pulse signals from mean colours, and their rates: what `marey.pulse` computes with."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import scipy.fft
import scipy.signal
from numpy.typing import NDArray

Signal = NDArray[np.float64]

METHODS = ("pos", "chrom", "green")

WINDOW_SECONDS = 1.6
"""Of POS and CHROM: a little more than a beat at 40 a minute."""

_PROJECTION = np.array([[0.0, 1.0, -1.0], [-2.0, 1.0, 1.0]])
_CHROMINANCE = np.array([[3.0, -2.0, 0.0], [1.5, 1.0, -1.5]])


def bandpass(signals: Signal, fs: float, low: float, high: float) -> Signal:
    """Band-pass along axis 0 without shifting in time (Butterworth, forward and backward)."""
    sos = scipy.signal.butter(2, [low, high], "bandpass", fs=fs, output="sos")
    padding = min(len(signals) - 1, round(3 * fs / low))
    filtered: Signal = scipy.signal.sosfiltfilt(sos, signals, axis=0, padlen=max(0, padding))
    return filtered


def _running_sum(x: Signal, length: int) -> Signal:
    """Sums of each `length` consecutive items along axis 0."""
    total = np.concatenate([np.zeros_like(x[:1]), np.cumsum(x, axis=0)])
    sums: Signal = total[length:] - total[:-length]
    return sums


def _overlap(x: Signal, length: int) -> Signal:
    """At each time the sum over the windows that hold it (`length` - 1 more than windows)."""
    edge = np.zeros((length - 1, *x.shape[1:]))
    return _running_sum(np.concatenate([edge, x, edge]), length)


def pos(traces: Signal, fs: float) -> Signal:
    """Plane orthogonal to skin (Wang et al. 2017, algorithm 1), to the last window.

    In a window with mean colour m, and x / m projected to S1 and S2, the signal is
    h = S1 + std(S1) / std(S2) S2, which has mean 0. It is linear in x, so the sum over all windows
    that hold a time is x times the sum of the windows' coefficients: running sums instead of
    windows. The sum is divided by the number of windows.

    Parameters
    ----------
    traces : array, (T, ..., 3)
        Mean colours, evenly spaced in time.
    fs : float
        Samples a second.

    Returns
    -------
    array, (T, ...)
    """
    length = min(max(2, round(WINDOW_SECONDS * fs)), len(traces))
    mean = _running_sum(traces, length) / length
    # Second moments about the mean of the whole trace, where rounding does no harm.
    centre = traces.mean(axis=0)
    offset = traces - centre
    offset_mean = _running_sum(offset, length) / length
    products = _running_sum(offset[..., :, None] * offset[..., None, :], length) / length
    covariance = products - offset_mean[..., :, None] * offset_mean[..., None, :]
    with np.errstate(invalid="ignore", divide="ignore"):
        gains = np.nan_to_num(_PROJECTION / mean[..., None, :], posinf=0.0, neginf=0.0)
        variance = np.einsum("...ij,...jk,...ik->...i", gains, covariance, gains)
        deviation = np.sqrt(np.maximum(variance, 0.0))
        alpha = np.nan_to_num(deviation[..., 0] / deviation[..., 1], posinf=0.0)
    coefficients = gains[..., 0, :] + alpha[..., None] * gains[..., 1, :]
    # h has mean 0 in its window because coefficients . m = 0; about `centre` that is a constant.
    constant = np.sum(coefficients * offset_mean, axis=-1)
    number = _overlap(np.ones((len(mean), *[1] * (mean.ndim - 2))), length)
    summed = np.sum(offset * _overlap(coefficients, length), axis=-1) - _overlap(constant, length)
    signal: Signal = summed / number
    return signal


def _normalised(traces: Signal, fs: float) -> Signal:
    """Each sample over the mean of the window around it, less 1."""
    length = min(max(2, round(WINDOW_SECONDS * fs)), len(traces))
    ones = np.ones((len(traces), *[1] * (traces.ndim - 1)))
    half = length // 2

    def around(x: Signal) -> Signal:
        edge = np.zeros((half, *x.shape[1:]))
        return _running_sum(np.concatenate([edge, x, edge]), 2 * half + 1)

    mean = around(traces) / around(ones)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.nan_to_num(traces / mean, nan=1.0, posinf=1.0) - 1.0


def chrom(traces: Signal, fs: float, low: float, high: float) -> Signal:
    """Chrominance (de Haan and Jeanne 2013): X - std(X) / std(Y) Y, in windows.

    X = 3 R - 2 G and Y = 1.5 R + G - 1.5 B of normalised, band-passed colours; Hann windows that
    overlap by half, the last one ending with the signal; their sum is divided by the sum of the
    windows.

    Parameters
    ----------
    traces : array, (T, ..., 3)
        Mean colours, evenly spaced in time.
    fs, low, high : float
        Samples a second, and the band, in Hz.

    Returns
    -------
    array, (T, ...)
    """
    colours = bandpass(_normalised(traces, fs), fs, low, high)
    x, y = (colours @ row for row in _CHROMINANCE)
    length = min(max(4, round(WINDOW_SECONDS * fs)), len(traces))
    shape = (length, *[1] * (x.ndim - 1))
    window = scipy.signal.windows.hann(length + 2)[1:-1].reshape(shape)
    signal, weight = np.zeros_like(x), np.zeros((len(x), *shape[1:]))
    last = len(x) - length
    for start in sorted({*range(0, last + 1, max(1, length // 2)), last}):
        part = slice(start, start + length)
        deviation = np.std(y[part], axis=0)
        alpha = np.divide(
            np.std(x[part], axis=0), deviation, out=np.zeros_like(deviation), where=deviation > 0
        )
        signal[part] += window * (x[part] - alpha * y[part])
        weight[part] += window
    result: Signal = signal / weight
    return result


def green(traces: Signal, fs: float) -> Signal:
    """The green channel over its running mean (Verkruysse et al. 2008), rising with the blood."""
    return -_normalised(traces, fs)[..., 1]


def signals(traces: Signal, fs: float, method: str, low: float, high: float) -> Signal:
    """The pulse signal of each patch, band-passed: (T, ..., 3) to (T, ...)."""
    if method == "pos":
        raw = pos(traces, fs)
    elif method == "chrom":
        raw = chrom(traces, fs, low, high)
    else:
        raw = green(traces, fs)
    return bandpass(raw, fs, low, high)


def combine(patches: Signal, rounds: int = 3) -> tuple[Signal, Signal]:
    """One signal from many, each weighted by how well it fits what the others say.

    With s the weighted sum of the other patches, a patch is taken for a s + noise; the best weight
    is then a / var(noise) (none where a < 0). Starting from 1 / var(patch), a few rounds are
    enough. No frequency is looked at, so noise is not combed for a rate.

    Parameters
    ----------
    patches : array, (T, P)

    Returns
    -------
    signal : array, (T,)
    weights : array, (P,)
        Of sum 1.
    """
    variance = np.mean(patches**2, axis=0)
    usable = variance > 0
    if not usable.any():
        return np.zeros(len(patches)), np.full(patches.shape[1], 1.0 / patches.shape[1])
    weights = np.where(usable, 1.0 / np.where(usable, variance, 1.0), 0.0)
    weights /= weights.sum()
    if usable.sum() > 2:
        for _ in range(rounds):
            others = (patches @ weights)[:, None] - patches * weights
            power = np.sum(others**2, axis=0)
            gain = np.sum(patches * others, axis=0) / np.where(power > 0, power, 1.0)
            noise = np.mean((patches - gain * others) ** 2, axis=0)
            better = np.where(usable & (gain > 0), gain / np.where(noise > 0, noise, np.inf), 0.0)
            if not better.sum() > 0:
                break
            weights = better / better.sum()
    return patches @ weights, weights


class Spectrum(NamedTuple):
    """Power of a Hann-windowed signal at closely spaced frequencies (Hz)."""

    frequencies: Signal
    power: Signal


def spectrum(signal: Signal, fs: float) -> Spectrum:
    """The spectrum, zero-padded at least 16-fold."""
    size = scipy.fft.next_fast_len(16 * len(signal))
    windowed = (signal - signal.mean()) * scipy.signal.windows.hann(len(signal), sym=False)
    power: Signal = np.abs(scipy.fft.rfft(windowed, size)) ** 2
    return Spectrum(scipy.fft.rfftfreq(size, 1 / fs), power)


def peak(spectrum: Spectrum, low: float, high: float) -> float:
    """The frequency of the highest maximum in a band, interpolated between bins.

    A parabola through the logarithms of three bins says where the maximum lies.

    NaN where the power has no maximum inside.
    """
    frequency, power = spectrum
    middle = power[1:-1]
    maxima = 1 + np.flatnonzero((middle > power[:-2]) & (middle >= power[2:]))
    maxima = maxima[(frequency[maxima] >= low) & (frequency[maxima] <= high)]
    if len(maxima) == 0:
        return math.nan
    best = int(maxima[np.argmax(power[maxima])])
    before, here, after = np.log(power[best - 1 : best + 2] + np.finfo(float).tiny)
    curve = before - 2 * here + after
    shift = 0.5 * (before - after) / curve if curve < 0 else 0.0
    return float(frequency[best] + shift * (frequency[1] - frequency[0]))


def snr_db(spectrum: Spectrum, rate: float, seconds: float, low: float, high: float) -> float:
    """De Haan and Jeanne's signal-to-noise ratio (2013), in dB.

    The power around the rate and around twice the rate, over the rest of the band. "Around" is 0.1
    Hz to either side, or the half-width of the window's main lobe where the signal is too short
    for that.
    """
    if not math.isfinite(rate):
        return -math.inf
    frequency, power = spectrum
    band = (frequency >= low) & (frequency <= high)
    half_width = max(0.1, 1.5 / seconds)
    near = np.abs(frequency - rate) <= half_width
    near |= np.abs(frequency - 2 * rate) <= half_width
    signal, noise = float(power[band & near].sum()), float(power[band & ~near].sum())
    if signal <= 0:
        return -math.inf
    return 10 * math.log10(signal / noise) if noise > 0 else math.inf
