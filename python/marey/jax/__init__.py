"""The functions of marey for JAX on the CPU: under `jax.jit`, with `jax.grad` and `jax.vmap`.

They are XLA custom calls (`jax.ffi`), differentiable by `jax.custom_vjp` in their arrays: signals,
weights, states. Parameters (coefficients, taps, sizes, axes) are plain numbers, not traced. Names
and meanings are those of `marey.pyramid`, `marey.temporal`, `marey.conv`, `marey.recurrent` and
`marey.attention`; `temporal_gaussian` is `marey.temporal.gaussian`, and `gaussian` the pyramid.
"""

from marey.jax._networks import attention, conv3d, gru, linear, lstm, rnn
from marey.jax._pyramid import collapse, down, gaussian, laplacian, up
from marey.jax._temporal import (
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
    "attention",
    "collapse",
    "conv3d",
    "convolve",
    "derivative",
    "down",
    "gaussian",
    "gru",
    "ideal_bandpass",
    "laplacian",
    "linear",
    "lstm",
    "median",
    "median_filter",
    "rnn",
    "sosfilt",
    "sosfiltfilt",
    "temporal_gaussian",
    "up",
]
