"""Applications: streams of whole frames."""

from __future__ import annotations

from typing import Any, Literal

import dask
import dask.array as da
import numpy as np

import marey
from marey import _arguments, background
from marey.background._masks import CLEAN, STATIC_FRAMES, THRESHOLD, static_median
from marey.dask._arguments import Array, Task, checked
from marey.dask._chains import Links, scan


def _whole_frames(function: str, video: Any) -> Any:
    checked(function, "video", video)
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

    return scan(x, 0, lambda _: dask.delayed(None), step, dtype)[0]


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
            Task(static_median),
            dtype=dtype,
            drop_axis=0,
            meta=np.empty((0,) * (x.ndim - 1), dtype),
        )
        whole = dask.delayed(picture.rechunk(-1))
        compare = dask.delayed(Task(background.difference), pure=True)
        parts = [
            da.from_delayed(compare(chunk, whole, level, clean=clean), (n, *shape[:2]), np.bool_)
            for chunk, n in zip(x.to_delayed().ravel(), x.chunks[0], strict=True)
        ]
        return da.concatenate(parts), picture

    def make() -> Any:
        if method == "mixture":
            limit: dict[str, Any] = {} if threshold is None else {"threshold": threshold}
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

    link = Links(x, feed)
    states: list[Any] = [dask.delayed(None)]
    parts = []
    for t, n in enumerate(x.chunks[0]):
        masks, state = link(states[-1], (x.name, t, *[0] * (x.ndim - 1)))
        states.append(state)
        parts.append(da.from_delayed(masks, (n, *shape[:2]), np.bool_))
    found = da.from_delayed(dask.delayed(Task(picture_of))(states[-1]), shape, dtype)
    return da.concatenate(parts), found
