"""Masks from a background picture, and what all methods have in common."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
from numpy.typing import NDArray

from marey import _arguments, _cpu
from marey._arrays import from_numpy_like, to_numpy

Masks = NDArray[np.bool_]
Picture = NDArray[Any]

THRESHOLD = 30.0
"""Levels of 255 by which a colour channel differs from the background."""
CLEAN = 5
"""Width in pixels of the majority filter for masks."""
STATIC_FRAMES = 101
"""As many frames, evenly spread, are enough for a static median."""


class OneCaller:
    """Lets one caller in at a time: a state is not made for two (or for a signal handler)."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._lock = threading.Lock()

    def __enter__(self) -> None:
        if not self._lock.acquire(blocking=False):
            raise RuntimeError(
                f"[{self._name}] expected one caller at a time; found another call in progress"
            )

    def __exit__(self, *_: object) -> None:
        self._lock.release()


def checked_window(name: str, value: Any) -> int:
    size = _arguments.integer(name, "clean", value)
    if size not in (0, *range(1, 16, 2)):
        raise ValueError(
            f"[{name}] clean: expected an odd number of pixels from 1 to 15, or 0 for none; "
            f"found {value}"
        )
    return size


def checked_frames(
    name: str, frames: Any, shape: tuple[int, ...], dtype: np.dtype[Any]
) -> tuple[NDArray[Any], bool]:
    """The frames as (T, ...), and whether one frame was given alone."""
    source = to_numpy(name, "frames", frames)
    single = source.ndim == len(shape)
    if single:
        source = source[np.newaxis]
    if source.shape[1:] != shape:
        wanted = ", ".join(map(str, shape))
        raise ValueError(
            f"[{name}] frames: expected shape (T, {wanted}) or ({wanted}); found {np.shape(frames)}"
        )
    if source.dtype != dtype:
        raise TypeError(f"[{name}] frames: expected {dtype}; found {source.dtype}")
    return source, single


def cleaned(mask: NDArray[np.uint8], size: int) -> Masks:
    """A mask of 0 and 1 as bool, after the majority filter."""
    result: NDArray[np.uint8] = mask if size <= 1 else _cpu.background_majority(mask, size)
    return result.view(np.bool_)


def picture_of(levels: NDArray[np.floating[Any]], dtype: np.dtype[Any]) -> Picture:
    """A background in levels of 255 as a frame, rounded half up to uint8."""
    rounded: Picture = np.floor(levels + 0.5) if dtype == np.uint8 else levels / 255.0
    return rounded.astype(dtype)


def difference(
    frames: Any, background: Any, threshold: float = THRESHOLD, *, clean: int = CLEAN
) -> Any:
    """Mark the pixels that differ from a background picture.

    Parameters
    ----------
    frames : array, (T, H, W), (T, H, W, 3), or one frame
        uint8, or float32 in [0, 1]; any strides.
    background : array, (H, W) or (H, W, 3)
        The picture to compare with, of the type of `frames`. It is copied if it is not
        C-contiguous.
    threshold : float
        How much the most different colour channel may differ, in levels of 255.
    clean : int
        The width of a majority filter for the masks, an odd number of pixels up to 15: a pixel is
        set if more than half of those around it differ (at the border, of those inside the image).
        0 or 1 for none.

    Returns
    -------
    array of bool, (T, H, W) or (H, W)

    Raises
    ------
    TypeError, ValueError
        If shapes or types do not fit together, or an argument is out of range.

    Examples
    --------
    >>> import marey, numpy as np
    >>> empty = np.full((40, 60, 3), 90, np.uint8)
    >>> frame = empty.copy()
    >>> frame[10:20, 10:20, 1] = 200
    >>> int(marey.background.difference(frame, empty, clean=0).sum())
    100
    """
    name = "marey.background.difference"
    picture = to_numpy(name, "background", background)
    shape = _arguments.frame_shape(name, "background", picture.shape)
    dtype = _arguments.frame_dtype(name, "background", picture.dtype)
    source, single = checked_frames(name, frames, shape, dtype)
    threshold = _arguments.number(name, "threshold", threshold, 0)
    size = checked_window(name, clean)
    masks = masks_from(source, np.ascontiguousarray(picture), threshold, size)
    return from_numpy_like(frames)(masks[0] if single else masks)


def masks_from(frames: NDArray[Any], background: Picture, threshold: float, clean: int) -> Masks:
    if frames.dtype == np.float32:
        threshold /= 255.0
    return cleaned(_cpu.background_difference(frames, background, threshold, 1), clean)


def static_median(sample: NDArray[Any]) -> Picture:
    """The median of frames (T, ...), rounded half up for uint8."""
    from marey import temporal

    median = np.asarray(temporal.median(sample, axis=0))
    if sample.dtype == np.uint8:
        return np.floor(median + 0.5).astype(np.uint8)
    return median.astype(sample.dtype, copy=False)
