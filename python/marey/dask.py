"""The functions of marey over dask arrays: videos larger than memory, on any Dask cluster.

Everything is lazy: a call builds a graph, and Dask computes it chunk by chunk. What is independent
in space is computed in any order; along time each chunk hands its state on to the next one, so that
chunks of any length give the result of one call.

Functions have the names, the arguments and the results of those of `marey.temporal`,
`marey.pyramid`, `marey.magnification` and `marey.background`. `temporal_gaussian` is
`marey.temporal.gaussian`, and `gaussian` the pyramid.
"""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any, Literal

import dask
import dask.array as da
import numpy as np
import scipy.signal
from dask.delayed import Delayed

import marey
from marey import _arguments, background, pyramid, temporal
from marey.background._masks import CLEAN, STATIC_FRAMES, THRESHOLD, static_median
from marey.temporal._fir import gaussian_taps

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

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

Array = np.ndarray[Any, Any]


def _checked(function: str, argument: str, x: Any) -> Any:
    if not isinstance(x, da.Array):
        raise TypeError(
            f"[marey.dask.{function}] {argument}: expected a dask array; found {type(x).__name__}"
        )
    if any(np.isnan(extent) for extent in x.shape):
        raise ValueError(
            f"[marey.dask.{function}] {argument}: expected known chunk sizes; found {x.chunks}"
        )
    return x


def _axis(function: str, axis: Any, x: Any, argument: str = "axis") -> int:
    """Return an axis counted from the front."""
    return _arguments.axis(f"marey.dask.{function}", argument, axis, x.shape) % x.ndim


def _float_type(dtype: Any) -> Any:
    return np.dtype(np.float32) if dtype == np.uint8 else dtype


class _Task:
    """A function on a worker, whose arrays may have come in a message, at any address."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self.function = function
        self.__name__ = f"marey-{getattr(function, '__name__', 'task').strip('<>')}"

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        return self.function(*[_aligned(argument) for argument in arguments], **options)

    def __dask_tokenize__(self) -> Any:
        return dask.base.normalize_token((type(self).__name__, self.function))


def _aligned(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        return np.require(value, requirements="A")
    if isinstance(value, dict):
        return {key: _aligned(item) for key, item in value.items()}
    return value


# Chains: chunk after chunk along time. A worker that waits for the chain would meanwhile read ahead,
# without end. So what only one chunk is made of (reading it, usually) becomes part of the link
# itself; what several chunks are made of stays a task of its own.


class _Constant:
    def __init__(self, value: Any) -> None:
        self.value = value

    def __call__(self) -> Any:
        return self.value


class _Link:
    """A link of a chain: makes its chunk by a graph of its own, and runs the step."""

    def __init__(self, step: Callable[..., Any], graph: dict[Any, Any], key: Any, given: list[Any]):
        self.step, self.graph, self.key, self.given = step, graph, key, given

    def __call__(self, state: Any, *values: Any) -> Any:
        given = {k: (_Constant(value),) for k, value in zip(self.given, values, strict=True)}
        chunk = dask.get({**self.graph, **given}, self.key)
        return self.step(_aligned(state), _aligned(chunk))


class _Links:
    """The links for the chunks of an array."""

    def __init__(self, x: Any, step: Callable[..., Any]) -> None:
        self.step = step
        self.name = "marey-links-" + dask.base.tokenize(x.name, step)
        keys = list(dask.core.flatten(x.__dask_keys__()))
        graph = dict(x.__dask_optimize__(x.dask, keys))
        self.graph = graph
        self.shared = dask.highlevelgraph.HighLevelGraph.from_collections(self.name, graph)
        self.needs = {key: self._reached(key) for key in keys}
        uses: dict[Any, int] = {}
        for reached in self.needs.values():
            for key in reached:
                uses[key] = uses.get(key, 0) + 1
        self.own = {key for key, count in uses.items() if count == 1 and _is_task(graph[key])}

    def _reached(self, key: Any) -> set[Any]:
        found, open_keys = set(), [key]
        while open_keys:
            key = open_keys.pop()
            if key not in found:
                found.add(key)
                open_keys.extend(dask.core.get_dependencies(self.graph, key))
        return found

    def __call__(self, state: Any, key: Any) -> Any:
        """Return the delayed (result, state) of the chunk with this key."""
        own = {k: self.graph[k] for k in self.needs[key] if k in self.own}
        given = set()
        for k in own or [key]:
            needed = dask.core.get_dependencies(self.graph, k) if own else {key}
            given |= {n for n in needed if n not in own}
        order = sorted(given, key=str)
        link = _Link(self.step, own, key, order)
        values = [Delayed(k, self.shared, layer=self.name) for k in order]
        name = "marey-link-" + dask.base.tokenize(self.name, key, state.key)
        return dask.delayed(link, nout=2, pure=False, traverse=False)(
            state, *values, dask_key_name=name
        )


def _is_task(node: Any) -> bool:
    return callable(getattr(node, "func", None)) or dask.core.istask(node)


def _scan(
    x: Any,
    axis: int,
    first: Callable[[tuple[slice, ...]], Any],
    step: Callable[[Any, Array], tuple[Array, Any]],
    dtype: Any,
) -> tuple[Any, dict[tuple[int, ...], Any]]:
    """Run `step(state, chunk)`, which returns a result and the next state, along an axis.

    `first` makes the state to start from, given which part of the other axes it is for. Returns the
    results, of the chunks' shapes, and the last state for each place of the other axes.
    """
    link = _Links(x, step)
    grid = x.numblocks
    results = np.empty(grid, object)
    slices = da.core.slices_from_chunks(x.chunks)
    places = dict(zip(np.ndindex(*grid), slices, strict=True))
    last: dict[tuple[int, ...], Any] = {}
    for place in np.ndindex(*grid[:axis], *grid[axis + 1 :]):
        states = [first(places[(*place[:axis], 0, *place[axis:])])]
        for t in range(grid[axis]):
            index = (*place[:axis], t, *place[axis:])
            result, state = link(states[-1], (x.name, *index))
            states.append(state)
            shape = tuple([sizes[k] for sizes, k in zip(x.chunks, index, strict=True)])
            results[index] = da.from_delayed(result, shape, dtype)
        last[place] = states[-1]
    return da.block(results.tolist()), last


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
    _checked("sosfilt", "x", x)
    axis = _axis("sosfilt", axis, x)
    sos = _arguments.reals("marey.dask.sosfilt", "sos", sos)
    dtype = _float_type(x.dtype)
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

    y, last = _scan(x, axis, rest, _filter(sos, axis), dtype)
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
    axis : int
        The axis to filter along.
    padtype : {"odd", "even", "constant"} or None
        How the signal is extended at both ends.
    padlen : int, optional
        By how many values; default as in SciPy.

    Returns
    -------
    dask array, of the shape of `x`
    """
    function = "marey.dask.sosfiltfilt"
    _checked("sosfiltfilt", "x", x)
    axis = _axis("sosfiltfilt", axis, x)
    sos = _arguments.reals(function, "sos", sos)
    _arguments.one_of(function, "padtype", padtype, ("odd", "even", "constant", None))
    if padtype is None:
        padlen = 0
    elif padlen is None:
        first_order = (sos[:, [2, 5]] == 0).sum(axis=0).min()
        padlen = 3 * (2 * len(sos) + 1 - int(first_order))
    padlen = _arguments.integer(function, "padlen", padlen, 0)
    steps = x.shape[axis]
    if steps <= padlen:
        raise ValueError(f"[{function}] x: expected more than {padlen} steps; found {steps}")
    x = x.astype(_float_type(x.dtype))

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
    zi = scipy.signal.sosfilt_zi(sos)

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
        return x.map_blocks(_Task(apply), dtype=dtype, meta=np.empty((0,) * x.ndim, dtype))

    def part(first: int, last: int) -> Any:
        index: list[Any] = [slice(None)] * x.ndim
        index[axis] = slice(first, last)
        return x[tuple(index)]

    if before >= steps or after >= steps:
        return x.rechunk({axis: -1}).map_blocks(_Task(apply), dtype=dtype)
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
                _Task(_cut(apply, axis, first - start, last - start)),
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
    axis : int
        The axis to filter along.
    mode : {"reflect", "nearest", "mirror", "wrap", "constant"}
        How the signal goes on beyond its ends.
    origin : int
        The tap that meets step t itself is ``size // 2 + origin``.
    cval : float
        For ``mode="constant"``.

    Returns
    -------
    dask array, of the shape of `x`
    """
    _checked("convolve", "x", x)
    axis = _axis("convolve", axis, x)
    taps = _arguments.reals("marey.dask.convolve", "taps", taps)
    before = (len(taps) - 1) // 2 - origin
    return _windows(
        x,
        axis,
        max(before, 0),
        max(len(taps) - 1 - before, 0),
        lambda chunk: temporal.convolve(chunk, taps, axis, mode, origin, cval=cval),
        mode in ("wrap", "grid-wrap"),
        _float_type(x.dtype),
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
    sigma : float
        The standard deviation in frames.
    axis : int
        The axis to smooth along.
    mode, cval
        As for `convolve`.
    truncate : float
        The window ends at this many standard deviations.

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
    fs : float
        The sampling rate in Hz.
    axis : int
        The axis that is time.

    Returns
    -------
    dask array, of the shape of `x`
    """
    _checked("derivative", "x", x)
    axis = _axis("derivative", axis, x)
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
        _float_type(x.dtype),
    )


def median_filter(
    x: Any, size: int, axis: int = 0, mode: str = "reflect", origin: int = 0, *, cval: float = 0.0
) -> Any:
    """Take the median of a window that slides along one axis: `marey.temporal.median_filter`.

    Parameters
    ----------
    x : dask array
        uint8, float32 or float64; any chunks.
    size : int
        The window's length.
    axis : int
        The axis to filter along.
    mode, cval
        As for `convolve`.
    origin : int
        The window of step t starts at ``t - size // 2 - origin``.

    Returns
    -------
    dask array, of the shape and the type of `x`
    """
    _checked("median_filter", "x", x)
    axis = _axis("median_filter", axis, x)
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
    low, high : float
        The band in Hz, both ends included.
    fs : float
        The sampling rate in Hz.
    axis : int
        The axis that is time.

    Returns
    -------
    dask array, of the shape of `x`
    """
    _checked("ideal_bandpass", "x", x)
    axis = _axis("ideal_bandpass", axis, x)
    dtype = _float_type(x.dtype)
    return x.rechunk({axis: -1}).map_blocks(
        _Task(temporal.ideal_bandpass),
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
    _checked("median", "x", x)
    axis = _axis("median", axis, x)
    dtype = _float_type(x.dtype)
    return x.rechunk({axis: -1}).map_blocks(
        _Task(temporal.median),
        axis,
        dtype=dtype,
        drop_axis=axis,
        meta=np.empty((0,) * (x.ndim - 1), dtype),
    )


# Images: each whole in its chunk


def _whole_images(function: str, x: Any, channel_axis: int | None) -> tuple[Any, int | None]:
    """Return the images with one chunk each, and the channel axis counted from the front."""
    _checked(function, "image", x)
    axis = None
    if channel_axis is not None:
        axis = _axis(function, channel_axis, x, "channel_axis")
    others = [a for a in range(x.ndim) if a != axis]
    if len(others) < 2:
        raise ValueError(
            f"[marey.dask.{function}] image: expected at least two axes besides the channels; "
            f"found shape {x.shape}"
        )
    whole = [*others[-2:], *([] if axis is None else [axis])]
    return x.rechunk(dict.fromkeys(whole, -1)), axis


def _levels(x: Any, run: Any, shapes: Sequence[tuple[int, ...]], dtype: Any) -> list[Any]:
    """Return arrays of these shapes, which one call for each chunk of images makes."""
    chunks = x.to_delayed()
    found = [np.empty(chunks.shape, object) for _ in shapes]
    delayed = dask.delayed(_Task(run), nout=len(shapes), pure=True)
    for index in np.ndindex(*chunks.shape):
        parts = delayed(chunks[index])
        for level, shape in enumerate(shapes):
            extent = tuple(
                [
                    sizes[k] if len(sizes) > 1 else full
                    for sizes, k, full in zip(x.chunks, index, shape, strict=True)
                ]
            )
            found[level][index] = da.from_delayed(parts[level], extent, dtype)
    return [da.block(level.tolist()) for level in found]


def _level_shapes(x: Any, levels: int, axis: int | None) -> list[tuple[int, ...]]:
    row, column = [a for a in range(x.ndim) if a != axis][-2:]
    shapes = [list(x.shape)]
    for _ in range(levels):
        shape = list(shapes[-1])
        shape[row], shape[column] = (shape[row] + 1) // 2, (shape[column] + 1) // 2
        shapes.append(shape)
    return [tuple(shape) for shape in shapes]


def down(image: Any, *, channel_axis: int | None = -1) -> Any:
    """Smooth images and keep every second pixel: `marey.pyramid.down`.

    Parameters
    ----------
    image : dask array, (..., H, W) or (..., H, W, C)
        uint8, float32 or float64; each image is put into one chunk.
    channel_axis : int or None
        The axis of the channels; None for images without one.

    Returns
    -------
    dask array, (..., ceil(H / 2), ceil(W / 2)) or (..., ceil(H / 2), ceil(W / 2), C)
    """
    x, axis = _whole_images("down", image, channel_axis)
    shape = _level_shapes(x, 1, axis)[1]

    def run(chunk: Array) -> list[Array]:
        return [pyramid.down(chunk, channel_axis=axis)]

    return _levels(x, run, [shape], x.dtype)[0]


def up(image: Any, shape: tuple[int, int] | None = None, *, channel_axis: int | None = -1) -> Any:
    """Double images: `marey.pyramid.up`.

    Parameters
    ----------
    image : dask array, (..., h, w) or (..., h, w, C)
        As for `down`.
    shape : (int, int), optional
        The height and width of the result.
    channel_axis : int or None
        As for `down`.

    Returns
    -------
    dask array, (..., H, W) or (..., H, W, C)
    """
    x, axis = _whole_images("up", image, channel_axis)
    row, column = [a for a in range(x.ndim) if a != axis][-2:]
    size = (2 * x.shape[row], 2 * x.shape[column]) if shape is None else tuple(shape)
    full = list(x.shape)
    full[row], full[column] = size

    def run(chunk: Array) -> list[Array]:
        return [pyramid.up(chunk, size, channel_axis=axis)]

    return _levels(x, run, [tuple(full)], x.dtype)[0]


def gaussian(image: Any, levels: int, *, channel_axis: int | None = -1) -> list[Any]:
    """Build Gaussian pyramids: `marey.pyramid.gaussian`.

    Parameters
    ----------
    image : dask array, (..., H, W) or (..., H, W, C)
        As for `down`.
    levels : int
        How many times to halve.
    channel_axis : int or None
        As for `down`.

    Returns
    -------
    list of levels + 1 dask arrays, finest first
    """
    x, axis = _whole_images("gaussian", image, channel_axis)

    def run(chunk: Array) -> list[Array]:
        return pyramid.gaussian(chunk, levels, channel_axis=axis)

    return _levels(x, run, _level_shapes(x, levels, axis), x.dtype)


def laplacian(image: Any, levels: int, *, channel_axis: int | None = -1) -> list[Any]:
    """Build Laplacian pyramids: `marey.pyramid.laplacian`.

    Parameters
    ----------
    image : dask array, (..., H, W) or (..., H, W, C)
        As for `down`.
    levels : int
        How many bands.
    channel_axis : int or None
        As for `down`.

    Returns
    -------
    list of levels + 1 dask arrays
        The bands, finest first, then the residual; float32 for uint8.
    """
    x, axis = _whole_images("laplacian", image, channel_axis)

    def run(chunk: Array) -> list[Array]:
        return pyramid.laplacian(chunk, levels, channel_axis=axis)

    return _levels(x, run, _level_shapes(x, levels, axis), _float_type(x.dtype))


def collapse(bands: Sequence[Any], *, channel_axis: int | None = -1) -> Any:
    """Rebuild images from their Laplacian pyramids: `marey.pyramid.collapse`.

    Parameters
    ----------
    bands : sequence of dask arrays
        As `laplacian` returns them; float32 or float64.
    channel_axis : int or None
        As for `down`.

    Returns
    -------
    dask array, of the shape and type of ``bands[0]``
    """
    if not bands:
        raise ValueError("[marey.dask.collapse] bands: expected at least one array; found none")
    first, axis = _whole_images("collapse", bands[0], channel_axis)
    whole = [a for a, sizes in enumerate(first.chunks) if len(sizes) == 1]
    joined = {a: -1 if a in whole else first.chunks[a] for a in range(first.ndim)}
    levels = [first, *[_checked("collapse", "bands", band).rechunk(joined) for band in bands[1:]]]
    run = dask.delayed(
        _Task(lambda *chunks: pyramid.collapse(list(chunks), channel_axis=axis)), pure=True
    )
    chunks = [level.to_delayed() for level in levels]
    found = np.empty(chunks[0].shape, object)
    for index in np.ndindex(*found.shape):
        extent = tuple([sizes[k] for sizes, k in zip(first.chunks, index, strict=True)])
        found[index] = da.from_delayed(run(*[c[index] for c in chunks]), extent, first.dtype)
    return da.block(found.tolist())


# Applications: streams of whole frames


def _whole_frames(function: str, video: Any) -> Any:
    _checked(function, "video", video)
    if video.ndim < 3 or video.shape[3:] not in ((), (3,)) or 0 in video.shape:
        raise ValueError(
            f"[marey.dask.{function}] video: expected (T, H, W) or (T, H, W, 3) with at least one "
            f"frame; found shape {video.shape}"
        )
    _arguments.frame_dtype(f"marey.dask.{function}", "video", video.dtype)
    return video.rechunk(dict.fromkeys(range(1, video.ndim), -1))


def magnify(video: Any, fs: float, low: float, high: float, alpha: float, **options: Any) -> Any:
    """Magnify small motions or colour changes in a video: `marey.magnify`.

    Frames are put whole into chunks; the filter's state goes from chunk to chunk.

    Parameters
    ----------
    video : dask array, (T, H, W) or (T, H, W, 3)
        Grey or RGB frames, uint8 or float32 in [0, 1].
    fs, low, high, alpha
        As for `marey.Magnifier`.
    **options
        The other arguments of `marey.Magnifier`, but `dtype`.

    Returns
    -------
    dask array, of the shape and type of `video`
    """
    x = _whole_frames("magnify", video)
    shape, dtype = x.shape[1:], x.dtype

    def make() -> marey.Magnifier:
        return marey.Magnifier(shape, fs, low, high, alpha, dtype=dtype, **options)

    make()  # wrong arguments are errors now and not on a worker

    def step(state: Any, chunk: Array) -> tuple[Array, Any]:
        magnifier = make()
        magnifier.state = state
        result = magnifier.feed(chunk)
        return result, magnifier.state

    return _scan(x, 0, lambda _: dask.delayed(None), step, dtype)[0]


def subtract(
    video: Any,
    method: Literal["median", "mixture"] = "median",
    *,
    window: int | None = None,
    every: int | None = None,
    threshold: float | None = None,
    clean: int = CLEAN,
    **options: Any,
) -> tuple[Any, Any]:
    """Find what moves in a video, and the background behind it: `marey.background.subtract`.

    Frames are put whole into chunks. The streaming methods hand their state from chunk to chunk;
    the median of the whole video is taken of its sample of at most 101 frames (or every
    `every`-th), in parts of the picture.

    Parameters
    ----------
    video : dask array, (T, H, W) or (T, H, W, 3)
        uint8, or float32 in [0, 1].
    method, window, every, threshold, clean, **options
        As for `marey.background.subtract`.

    Returns
    -------
    masks : dask array of bool, (T, H, W)
    background : dask array, of the shape and type of a frame
    """
    name = "marey.dask.subtract"
    x = _whole_frames("subtract", video)
    shape, dtype = x.shape[1:], x.dtype
    _arguments.one_of(name, "method", method, ("median", "mixture"))
    level = THRESHOLD if threshold is None else threshold
    if method == "median" and window is None:
        step = -(-len(x) // STATIC_FRAMES) if every is None else every
        sample = x[:: _arguments.integer(name, "every", step, 1)].rechunk({0: -1, 1: "auto"})
        picture = sample.map_blocks(
            _Task(static_median),
            dtype=dtype,
            drop_axis=0,
            meta=np.empty((0,) * (x.ndim - 1), dtype),
        )
        whole = dask.delayed(picture.rechunk(-1))
        compare = dask.delayed(_Task(background.difference), pure=True)
        parts = [
            da.from_delayed(compare(chunk, whole, level, clean=clean), (n, *shape[:2]), np.bool_)
            for chunk, n in zip(x.to_delayed().ravel(), x.chunks[0], strict=True)
        ]
        return da.concatenate(parts), picture

    def make() -> Any:
        if method == "mixture":
            limit = {} if threshold is None else {"threshold": threshold}
            return background.MixtureBackground(shape, clean=clean, dtype=dtype, **limit, **options)
        assert window is not None
        return background.MedianBackground(
            shape,
            window=window,
            every=7 if every is None else every,
            threshold=level,
            clean=clean,
            dtype=dtype,
        )

    make()

    def feed(state: Any, chunk: Array) -> tuple[Array, Any]:
        stream = make()
        if state is not None:
            stream.state = state
        masks = stream.feed(chunk)
        return masks, stream.state

    def picture_of(state: Any) -> Array:
        stream = make()
        stream.state = state
        return np.asarray(stream.background)

    link = _Links(x, feed)
    states: list[Any] = [dask.delayed(None)]
    parts = []
    for t, n in enumerate(x.chunks[0]):
        masks, state = link(states[-1], (x.name, t, *[0] * (x.ndim - 1)))
        states.append(state)
        parts.append(da.from_delayed(masks, (n, *shape[:2]), np.bool_))
    found = da.from_delayed(dask.delayed(_Task(picture_of))(states[-1]), shape, dtype)
    return da.concatenate(parts), found
