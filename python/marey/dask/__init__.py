"""The functions of marey over dask arrays: videos larger than memory, on any Dask cluster.

Everything is lazy: a call builds a graph, and Dask computes it chunk by chunk. What is independent
in space is computed in any order; along time each chunk hands its state on to the next one, so that
chunks of any length give the result of one call.

Functions have the names, the arguments and the results of those of `marey.temporal`,
`marey.pyramid`, `marey.magnification` and `marey.background`. `temporal_gaussian` is
`marey.temporal.gaussian`, and `gaussian` the pyramid.
"""

from marey.dask._applications import magnify, subtract
from marey.dask._pyramid import collapse, down, gaussian, laplacian, up
from marey.dask._temporal import (
    convolve,
    derivative,
    ideal_bandpass,
    median,
    median_filter,
    sosfilt,
    sosfiltfilt,
    temporal_gaussian,
)

__all__ = [
    "collapse",
    "convolve",
    "derivative",
    "down",
    "gaussian",
    "ideal_bandpass",
    "laplacian",
    "magnify",
    "median",
    "median_filter",
    "sosfilt",
    "sosfiltfilt",
    "subtract",
    "temporal_gaussian",
    "up",
]
