"""Pyramids: each image whole in its chunk."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import dask
import dask.array as da
import numpy as np

from marey import pyramid
from marey.dask._arguments import Array, Task, axis_of, checked, float_type

if TYPE_CHECKING:
    from collections.abc import Sequence


def _whole_images(function: str, x: Any, channel_axis: int | None) -> tuple[Any, int | None]:
    """Return the images with one chunk each, and the channel axis counted from the front."""
    checked(function, "image", x)
    axis = None
    if channel_axis is not None:
        axis = axis_of(function, channel_axis, x, "channel_axis")
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
    delayed = dask.delayed(Task(run), nout=len(shapes), pure=True)
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
    size = (2 * x.shape[row], 2 * x.shape[column]) if shape is None else (shape[0], shape[1])
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

    return _levels(x, run, _level_shapes(x, levels, axis), float_type(x.dtype))


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
    levels = [first, *[checked("collapse", "bands", band).rechunk(joined) for band in bands[1:]]]
    run = dask.delayed(
        Task(lambda *chunks: pyramid.collapse(list(chunks), channel_axis=axis)), pure=True
    )
    chunks = [level.to_delayed() for level in levels]
    found = np.empty(chunks[0].shape, object)
    for index in np.ndindex(*found.shape):
        extent = tuple([sizes[k] for sizes, k in zip(first.chunks, index, strict=True)])
        found[index] = da.from_delayed(run(*[c[index] for c in chunks]), extent, first.dtype)
    return da.block(found.tolist())
