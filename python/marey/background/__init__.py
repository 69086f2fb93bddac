"""Background subtraction: what moves in front of a camera that stands still.

`subtract` takes a whole video; `MedianBackground` and `MixtureBackground` take frames as they
come. All of them give a mask for each frame (True where something is in front of the background)
and the background.
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np

from marey import _arguments
from marey._arrays import from_numpy_like
from marey.background._masks import (
    CLEAN,
    STATIC_FRAMES,
    THRESHOLD,
    Picture,
    difference,
    static_median,
)
from marey.background._median import MedianBackground
from marey.background._mixture import MixtureBackground

__all__ = ["MedianBackground", "MixtureBackground", "difference", "subtract"]

_CHUNK = 16


def subtract(
    video: Any,
    method: Literal["median", "mixture"] = "median",
    *,
    window: int | None = None,
    every: int | None = None,
    threshold: float | None = None,
    clean: int = CLEAN,
    shadows: bool = False,
    progress: bool = False,
    **options: Any,
) -> tuple[Any, Any]:
    """Find what moves in a video, and the background behind it.

    Parameters
    ----------
    video : array, (T, H, W) or (T, H, W, 3)
        uint8, or float32 in [0, 1].
    method : "median" or "mixture"
        The median of frames of the whole video, compared with every frame (with `window`, of a
        sliding window: `MedianBackground`); or an adaptive Gaussian mixture (`MixtureBackground`).
    window : int, optional
        Median only: the number of frames of a sliding window. Default: the whole video.
    every : int, optional
        Median only: take every `every`-th frame. Default: so many that 101 frames are taken at
        most; with `window`, 7.
    threshold : float, optional
        For the median in levels of 255 (default 30), for the mixture as in `MixtureBackground`
        (16).
    clean : int
        The width of the majority filter for masks; see `difference`.
    shadows : bool
        Mixture only: take shadows for background.
    progress : bool
        Show a progress bar (needs tqdm).
    **options
        Mixture only: the other arguments of `MixtureBackground`.

    Returns
    -------
    masks : array of bool, (T, H, W)
        True where something is in front of the background.
    background : array
        The background (with a sliding method, at the end), of the shape and type of a frame.

    Raises
    ------
    TypeError, ValueError
        If `video` is of another type or shape, or has no frames; if an argument is out of range,
        or does not belong to `method`.

    Examples
    --------
    >>> import marey, numpy as np
    >>> video = np.full((30, 40, 60, 3), 90, np.uint8)
    >>> for t in range(30):
    ...     video[t, 10:20, t : t + 10] = 200
    >>> masks, background = marey.background.subtract(video, clean=0)
    >>> int(masks[7].sum()), int(background.max())
    (100, 90)
    """
    name = "marey.background.subtract"
    source = _arguments.whole_video(name, video)
    shape, dtype = source.shape[1:], source.dtype
    _arguments.one_of(name, "method", method, ("median", "mixture"))
    unused = [*options, *(["shadows"] if shadows else [])] if method == "median" else []
    if method == "mixture":
        unused = [k for k, v in (("window", window), ("every", every)) if v is not None]
    if unused:
        raise ValueError(f"[{name}] {unused[0]}: expected only with the other method; found it")

    stream: MedianBackground | MixtureBackground | None = None
    background: Picture | None = None
    level = THRESHOLD if threshold is None else threshold
    if method == "mixture":
        limit: dict[str, Any] = {} if threshold is None else {"threshold": threshold}
        stream = MixtureBackground(
            shape, clean=clean, shadows=shadows, dtype=dtype, **limit, **options
        )
    elif window is not None:
        stream = MedianBackground(
            shape,
            window=window,
            every=7 if every is None else every,
            threshold=level,
            clean=clean,
            dtype=dtype,
        )
    else:
        step = -(-len(source) // STATIC_FRAMES) if every is None else every
        background = static_median(source[:: _arguments.integer(name, "every", step, 1)])

    convert = from_numpy_like(video)
    masks = np.empty(source.shape[:3], np.bool_)
    with _bar(len(source), progress) as bar:
        for first in range(0, len(source), _CHUNK):
            part = slice(first, first + _CHUNK)
            if stream is not None:
                masks[part] = stream.feed(source[part])
            else:
                masks[part] = difference(source[part], background, level, clean=clean)
            bar.update(len(source[part]))
    if stream is not None:
        background = stream.background
    return convert(masks), convert(np.asarray(background))


class _NoBar:
    def __enter__(self) -> _NoBar:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def update(self, frames: int) -> None:
        pass


def _bar(total: int, progress: bool) -> Any:
    if not progress:
        return _NoBar()
    from tqdm import tqdm

    return tqdm(total=total, unit=" frames")
