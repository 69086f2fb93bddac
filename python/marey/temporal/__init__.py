"""Filters along time.

The names and meanings are those of `scipy.signal` and `scipy.ndimage`, along ``axis=0`` by default,
because a video's first axis is time. Arrays are uint8, float32 or float64; float32 stays float32,
and what cannot be said in uint8 comes in float32.

Whole recordings are filtered by functions. The classes filter streams: they are called chunk by
chunk, any chunking gives the result of one call, and their state can be saved.
"""

from marey.temporal._fir import FirFilter, convolve, derivative, gaussian
from marey.temporal._ideal import ideal_bandpass
from marey.temporal._median import MedianFilter, median, median_filter
from marey.temporal._recursive import SosFilter, butter_bandpass, sosfilt, sosfiltfilt

__all__ = [
    "FirFilter",
    "MedianFilter",
    "SosFilter",
    "butter_bandpass",
    "convolve",
    "derivative",
    "gaussian",
    "ideal_bandpass",
    "median",
    "median_filter",
    "sosfilt",
    "sosfiltfilt",
]
