"""SciPy: scipy.signal and scipy.ndimage along the first axis; its FFT on a worker a thread."""

from collections.abc import Callable

import numpy as np
import pytest
import scipy
import scipy.fft
import scipy.ndimage
import scipy.signal

from bench.harness import Peer, Program, Workload
from bench.temporal.filters import BAND, FILTERS, SIGMA, TAPS
from bench.temporal.workloads import SOS, Video, chunks

_workers = 1


def _set_workers(threads: int) -> None:
    global _workers
    _workers = threads


def sosfiltfilt(x: Video) -> Program:
    # In the clip's own type; by itself it would promote to float64 and take longer still.
    sos = SOS.astype(x.dtype)
    return Program(lambda: scipy.signal.sosfiltfilt(sos, x, axis=0))


def ideal_bandpass(x: Video) -> Program:
    low, high, fs = BAND
    frequency = np.arange(len(x) // 2 + 1) * fs / len(x)
    outside = (frequency < low) | (frequency > high)

    def call() -> Video:
        spectrum = scipy.fft.rfft(x, axis=0, workers=_workers)
        spectrum[outside] = 0
        return scipy.fft.irfft(spectrum, len(x), axis=0, overwrite_x=True, workers=_workers)

    return Program(call)


def median_filter(size: int) -> Callable[[Video], Program]:
    return lambda x: Program(lambda: scipy.ndimage.median_filter(x, size, axes=(0,)))


def stream(x: Video, size: int, whole: Callable[[Video], Video]) -> Program:
    """A causal window from what SciPy has: each chunk behind the frames that it still needs."""

    def feed() -> Video:
        y: Video
        past = np.zeros((size - 1, *x.shape[1:]), x.dtype)
        for chunk in chunks(x):
            both = np.concatenate([past, chunk])
            y = whole(both)[size // 2 : size // 2 + len(chunk)]
            past = both[-(size - 1) :]
        return y

    return Program(feed)


SCIPY = Peer(
    name="SciPy",
    version=scipy.__version__,
    programs={
        "sosfiltfilt": sosfiltfilt,
        "ideal_bandpass": ideal_bandpass,
        "gaussian": lambda x: Program(lambda: scipy.ndimage.gaussian_filter1d(x, SIGMA, axis=0)),
        "convolve": lambda x: Program(lambda: scipy.ndimage.convolve1d(x, TAPS, axis=0)),
        "stream 5": lambda x: stream(
            x, len(TAPS), lambda v: scipy.ndimage.convolve1d(v, TAPS, axis=0)
        ),
        "stream median": lambda x: stream(
            x, 5, lambda v: scipy.ndimage.median_filter(v, 5, axes=(0,))
        ),
        "median_filter 5": median_filter(5),
        "median_filter 31": median_filter(31),
    },
    set_threads=_set_workers,
)


@pytest.mark.parametrize("workload", SCIPY.among(FILTERS), ids=str)
def bench_scipy_filters(race: Callable[..., None], workload: Workload) -> None:
    race(workload, SCIPY)
