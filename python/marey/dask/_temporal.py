"""Filters in time."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any, Literal

import dask
import dask.array as da
import numpy as np

from marey import _arguments, _cpu, temporal
from marey.dask._arguments import Array, Task, axis_of, checked, float_type
from marey.dask._chains import scan
from marey.temporal._fir import gaussian_taps
from marey.temporal._recursive import extension, sections_of

if TYPE_CHECKING:
    from collections.abc import Callable


def _filter(sos: Array, axis: int) -> Callable[[Any, Array], tuple[Array, Any]]:
    def step(state: Any, chunk: Array) -> tuple[Array, Any]:
        y, zf = temporal.sosfilt(sos, chunk, axis, state)
        return y, zf

    return step


def sosfilt(sos: Any, x: Any, axis: int = 0, zi: Any = None) -> Any:
    """Filter along one axis with cascaded second-order sections: `marey.temporal.sosfilt`.

    Parameters
    ----------
    sos : array, (sections, 6)
        Rows ``b0 b1 b2 a0 a1 a2`` with ``a0 = 1``.
    x : dask array
        uint8, float32 or float64; any chunks.
    axis : int
        The axis to filter along.
    zi : array, optional
        The state to start from: the shape of `x` with `axis` of length 2, behind a first axis for
        the sections.

    Returns
    -------
    y : dask array, of the shape and the chunks of `x`
    zf : dask array
        Only if `zi` is given: the state to continue with.
    """
    checked("sosfilt", "x", x)
    axis = axis_of("sosfilt", axis, x)
    sos = sections_of("marey.dask.sosfilt", sos)
    dtype = float_type(x.dtype)
    sections = len(sos)
    if zi is not None:
        zi = da.asarray(zi)

    def rest(part: tuple[slice, ...]) -> Any:
        shape = [s.stop - s.start for s in part]
        shape[axis] = 2
        if zi is None:
            return dask.delayed(np.zeros)((sections, *shape), dtype)
        which = (slice(None), *part[:axis], slice(None), *part[axis + 1 :])
        return dask.delayed(np.asarray)(zi[which])

    y, last = scan(x, axis, rest, _filter(sos, axis), dtype)
    if zi is None:
        return y
    grid = [len(sizes) for sizes in x.chunks]
    grid[axis] = 1
    finals = np.empty((1, *grid), object)
    for index in np.ndindex(*grid):
        shape = [sizes[k] for sizes, k in zip(x.chunks, index, strict=True)]
        shape[axis] = 2
        place = (*index[:axis], *index[axis + 1 :])
        finals[(0, *index)] = da.from_delayed(last[place], (sections, *shape), dtype)
    return y, da.block(finals.tolist())


def sosfiltfilt(
    sos: Any,
    x: Any,
    axis: int = 0,
    padtype: Literal["odd", "even", "constant"] | None = "odd",
    padlen: int | None = None,
) -> Any:
    """Filter forward and backward along one axis: `marey.temporal.sosfiltfilt`.

    One chain of chunks forward, and then one backward: the forward results are what Dask keeps, in
    memory or on disk.

    Parameters
    ----------
    sos : array, (sections, 6)
        As for `sosfilt`.
    x : dask array
        uint8, float32 or float64, longer than `padlen` along `axis`; any chunks.
    axis, padtype, padlen
        As for `marey.temporal.sosfiltfilt`.

    Returns
    -------
    dask array, of the shape of `x`
    """
    function = "marey.dask.sosfiltfilt"
    checked("sosfiltfilt", "x", x)
    axis = axis_of("sosfiltfilt", axis, x)
    sos = sections_of(function, sos)
    _arguments.one_of(function, "padtype", padtype, ("odd", "even", "constant", None))
    padlen = _arguments.integer(function, "padlen", extension(sos, padtype, padlen), 0)
    steps = x.shape[axis]
    if steps <= padlen:
        raise ValueError(f"[{function}] x: expected more than {padlen} steps; found {steps}")
    x = x.astype(float_type(x.dtype))

    def part(first: int, last: int, stride: int = 1) -> Any:
        index: list[Any] = [slice(None)] * x.ndim
        index[axis] = slice(first, None if last < 0 else last, stride)
        return x[tuple(index)]

    extended = x
    if padlen > 0:
        head, tail = part(0, 1), part(steps - 1, steps)
        if padtype == "constant":
            before, after = (da.repeat(end, padlen, axis) for end in (head, tail))
        else:
            before = part(padlen, 0, -1)
            after = part(steps - 2, steps - padlen - 2, -1)
            if padtype == "odd":
                before, after = 2 * head - before, 2 * tail - after
        extended = da.concatenate([before, x, after], axis)
    zi = _cpu.sosfilt_zi(function, sos)

    def steady_pass(signal: Any) -> Any:
        start: list[Any] = [slice(None)] * signal.ndim
        start[axis] = slice(0, 1)
        # The state for each series: its first value times the steady state of a step of one.
        shape = [1] * (signal.ndim + 1)
        shape[0], shape[axis + 1] = zi.shape
        state = zi.reshape(shape).astype(x.dtype) * signal[tuple(start)][np.newaxis]
        return sosfilt(sos, signal, axis, state)[0]

    y = da.flip(steady_pass(da.flip(steady_pass(extended), axis)), axis)
    kept: list[Any] = [slice(None)] * x.ndim
    kept[axis] = slice(padlen, padlen + steps)
    return y[tuple(kept)]


# Windows: each chunk sees its neighbours' nearest steps


def _windows(
    x: Any,
    axis: int,
    before: int,
    after: int,
    apply: Callable[[Array], Array],
    wrap: bool,
    dtype: Any,
) -> Any:
    """Apply a filter over windows from t - before to t + after; `apply` knows how time ends."""
    steps = x.shape[axis]
    if steps == 0 or len(x.chunks[axis]) == 1:
        return x.map_blocks(Task(apply), dtype=dtype, meta=np.empty((0,) * x.ndim, dtype))

    def part(first: int, last: int) -> Any:
        index: list[Any] = [slice(None)] * x.ndim
        index[axis] = slice(first, last)
        return x[tuple(index)]

    if before >= steps or after >= steps:
        return x.rechunk({axis: -1}).map_blocks(Task(apply), dtype=dtype)
    pieces = []
    edges = np.cumsum([0, *x.chunks[axis]]).tolist()
    for first, last in itertools.pairwise(edges):
        low, high = first - before, last + after
        # What is reflected at an end must be in the piece.
        start = max(min(low, steps - after - 1) if high > steps else low, 0)
        stop = min(max(high, before + 1) if low < 0 else high, steps)
        if wrap:
            start, stop = max(low, 0), min(high, steps)
        parts = [part(start, stop)]
        if wrap and low < 0:
            parts.insert(0, part(steps + low, steps))
            start = low
        if wrap and high > steps:
            parts.append(part(0, high - steps))
        piece = da.concatenate(parts, axis).rechunk({axis: -1})
        sizes = list(piece.chunks)
        sizes[axis] = (last - first,)
        pieces.append(
            piece.map_blocks(
                Task(_cut(apply, axis, first - start, last - start)),
                dtype=dtype,
                chunks=tuple(sizes),
                meta=np.empty((0,) * x.ndim, dtype),
            )
        )
    return da.concatenate(pieces, axis)


def _cut(
    apply: Callable[[Array], Array], axis: int, first: int, last: int
) -> Callable[[Array], Array]:
    """Return a filter that keeps of its result the steps that a chunk is for."""

    def windows(chunk: Array) -> Array:
        index: list[Any] = [slice(None)] * chunk.ndim
        index[axis] = slice(first, last)
        return apply(chunk)[tuple(index)]

    return windows


def convolve(
    x: Any, taps: Any, axis: int = 0, mode: str = "reflect", origin: int = 0, *, cval: float = 0.0
) -> Any:
    """Filter along one axis with a finite impulse response: `marey.temporal.convolve`.

    Parameters
    ----------
    x : dask array
        uint8, float32 or float64; any chunks.
    taps : array, (size,)
        The impulse response.
    axis, mode, origin, cval
        As for `marey.temporal.convolve`.

    Returns
    -------
    dask array, of the shape of `x`
    """
    checked("convolve", "x", x)
    axis = axis_of("convolve", axis, x)
    taps = _arguments.reals("marey.dask.convolve", "taps", taps)
    before = (len(taps) - 1) // 2 - origin
    return _windows(
        x,
        axis,
        max(before, 0),
        max(len(taps) - 1 - before, 0),
        lambda chunk: temporal.convolve(chunk, taps, axis, mode, origin, cval=cval),
        mode in ("wrap", "grid-wrap"),
        float_type(x.dtype),
    )


def temporal_gaussian(
    x: Any,
    sigma: float,
    axis: int = 0,
    *,
    mode: str = "reflect",
    cval: float = 0.0,
    truncate: float = 4.0,
) -> Any:
    """Smooth along time with a Gaussian: `marey.temporal.gaussian` without a velocity.

    Parameters
    ----------
    x : dask array
        uint8, float32 or float64; any chunks.
    sigma, axis, mode, cval, truncate
        As for `marey.temporal.gaussian`.

    Returns
    -------
    dask array, of the shape of `x`
    """
    taps = gaussian_taps("marey.dask.temporal_gaussian", sigma, truncate)
    return convolve(x, taps, axis, mode, cval=cval)


def derivative(x: Any, fs: float = 1.0, axis: int = 0) -> Any:
    """Differentiate along time by central differences: `marey.temporal.derivative`.

    Parameters
    ----------
    x : dask array
        uint8, float32 or float64, at least two steps long; any chunks.
    fs, axis
        As for `marey.temporal.derivative`.

    Returns
    -------
    dask array, of the shape of `x`
    """
    checked("derivative", "x", x)
    axis = axis_of("derivative", axis, x)
    if x.shape[axis] < 2:
        raise ValueError(
            f"[marey.dask.derivative] x: expected at least two steps; found shape {x.shape}"
        )
    return _windows(
        x,
        axis,
        1,
        1,
        lambda chunk: temporal.derivative(chunk, fs, axis),
        False,
        float_type(x.dtype),
    )


def median_filter(
    x: Any, size: int, axis: int = 0, mode: str = "reflect", origin: int = 0, *, cval: float = 0.0
) -> Any:
    """Take the median of a window that slides along one axis: `marey.temporal.median_filter`.

    Parameters
    ----------
    x : dask array
        uint8, float32 or float64; any chunks.
    size, axis, mode, origin, cval
        As for `marey.temporal.median_filter`.

    Returns
    -------
    dask array, of the shape and the type of `x`
    """
    checked("median_filter", "x", x)
    axis = axis_of("median_filter", axis, x)
    size = _arguments.integer("marey.dask.median_filter", "size", size, 1)
    before = size // 2 + origin
    return _windows(
        x,
        axis,
        max(before, 0),
        max(size - 1 - before, 0),
        lambda chunk: temporal.median_filter(chunk, size, axis, mode, origin, cval=cval),
        mode in ("wrap", "grid-wrap"),
        x.dtype,
    )


# All of time at once: chunks in space only


def ideal_bandpass(x: Any, low: float, high: float, fs: float, axis: int = 0) -> Any:
    """Keep the frequencies of a band and no others: `marey.temporal.ideal_bandpass`.

    All steps of a series are needed at once: chunks are joined along time, so they should be small
    in space.

    Parameters
    ----------
    x : dask array
        uint8, float32 or float64.
    low, high, fs, axis
        As for `marey.temporal.ideal_bandpass`.

    Returns
    -------
    dask array, of the shape of `x`
    """
    checked("ideal_bandpass", "x", x)
    axis = axis_of("ideal_bandpass", axis, x)
    dtype = float_type(x.dtype)
    return x.rechunk({axis: -1}).map_blocks(
        Task(temporal.ideal_bandpass),
        low,
        high,
        fs,
        axis,
        dtype=dtype,
        meta=np.empty((0,) * x.ndim, dtype),
    )


def median(x: Any, axis: int = 0) -> Any:
    """Take the median over all of one axis: `marey.temporal.median`.

    All steps of a series are needed at once: chunks are joined along time, so they should be small
    in space.

    Parameters
    ----------
    x : dask array
        uint8, float32 or float64.
    axis : int
        The axis to take the median over.

    Returns
    -------
    dask array, of the shape of `x` without `axis`
    """
    checked("median", "x", x)
    axis = axis_of("median", axis, x)
    dtype = float_type(x.dtype)
    return x.rechunk({axis: -1}).map_blocks(
        Task(temporal.median),
        axis,
        dtype=dtype,
        drop_axis=axis,
        meta=np.empty((0,) * (x.ndim - 1), dtype),
    )
