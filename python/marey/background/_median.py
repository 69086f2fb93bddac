"""The median of a sliding window, in a stream."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from marey import _arguments, _cpu
from marey._arrays import from_numpy_like, to_numpy
from marey.background._masks import (
    CLEAN,
    THRESHOLD,
    Masks,
    OneCaller,
    Picture,
    checked_frames,
    checked_window,
    masks_from,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray


class MedianBackground:
    """Subtract the median of the last frames, in a stream.

    The background is each pixel's median over a sliding window: every `every`-th frame enters it,
    and the oldest of `window` leaves. What stands at a pixel for less than half of ``window *
    every`` frames is in front of it. The values of each pixel are kept in order, so a new frame
    costs one pass over them. Any chunking gives the same result. Not for several threads at once.

    Parameters
    ----------
    shape : (H, W) or (H, W, 3)
        The shape of one frame.
    window : int
        The number of frames in the window.
    every : int
        Which frames enter it: the first, and every `every`-th from there.
    threshold : float
        How much the most different colour channel may differ from the background, in levels of 255.
    clean : int
        The width of the majority filter for masks; see `difference`.
    dtype : uint8 or float32
        The type of the frames; float32 frames are in [0, 1] and hold no NaN.

    Raises
    ------
    TypeError, ValueError
        If an argument is of another type or out of range.

    Notes
    -----
    A frame that enters the window does so before it is compared. Of an even number of values the
    median is the mean of the two in the middle, for uint8 rounded half up. Memory is ``2 *
    window`` frames.

    Examples
    --------
    >>> import marey, numpy as np
    >>> frames = np.full((9, 40, 60), 90, np.uint8)
    >>> frames[8, 10:20, 10:20] = 200
    >>> masks = marey.background.MedianBackground((40, 60), window=5, every=2, clean=0).feed(frames)
    >>> masks.sum(axis=(1, 2)).tolist()
    [0, 0, 0, 0, 0, 0, 0, 0, 100]
    """

    def __init__(
        self,
        shape: tuple[int, ...],
        *,
        window: int = 51,
        every: int = 7,
        threshold: float = THRESHOLD,
        clean: int = CLEAN,
        dtype: Any = np.uint8,
    ) -> None:
        name = "marey.MedianBackground"
        self._name = name
        self.shape = _arguments.frame_shape(name, "shape", shape)
        self.dtype = _arguments.frame_dtype(name, "dtype", dtype)
        self.window = _arguments.integer(name, "window", window, 1, 100_000)
        self.every = _arguments.integer(name, "every", every, 1)
        self.threshold = _arguments.number(name, "threshold", threshold, 0)
        self.clean = checked_window(name, clean)
        self._sorted = _cpu.SortedWindow(math.prod(self.shape), self.window, self.dtype.name)
        self._ring = np.empty((self.window, *self.shape), self.dtype)
        self._background = np.empty(self.shape, self.dtype)
        self._alone = OneCaller(name)
        self._frames = 0

    def _enter(self, frame: NDArray[Any]) -> None:
        """Put a frame into the window, in the place of the oldest if it is full."""
        index = self._frames // self.every
        slot = self._ring[index % self.window]
        if index >= self.window:
            # The oldest is still needed to find it in the sorted values.
            entering = np.ascontiguousarray(frame)
            self._sorted.replace(entering, slot)
            slot[...] = entering
        else:
            slot[...] = frame
            self._sorted.replace(slot, None)

    def feed(self, frames: Any) -> Any:
        """Take the next frames and mark what is in front of the background.

        Parameters
        ----------
        frames : array, (T, H, W), (T, H, W, 3), or one frame
            The next frames of the stream, of this object's `dtype`.

        Returns
        -------
        array of bool, (T, H, W) or (H, W)

        Raises
        ------
        TypeError, ValueError
            If `frames` is of another type or shape, or float32 that holds NaN.
        """
        source, single = checked_frames(self._name, frames, self.shape, self.dtype)
        if source.dtype == np.float32 and np.isnan(source).any():
            raise ValueError(f"[{self._name}] frames: expected no NaN; found NaN")
        masks = np.empty(source.shape[:3], np.bool_)
        with self._alone:
            self._take(source, masks)
        return from_numpy_like(frames)(masks[0] if single else masks)

    def _take(self, source: NDArray[Any], masks: Masks) -> None:
        done = 0
        try:
            while done < len(source):
                if self._frames % self.every == 0:
                    self._enter(source[done])
                    self._sorted.median(self._background)
                run = min(len(source) - done, self.every - self._frames % self.every)
                part = slice(done, done + run)
                masks[part] = masks_from(source[part], self._background, self.threshold, self.clean)
                self._frames += run
                done += run
        except BaseException:
            self._forget()
            raise

    @property
    def background(self) -> Picture | None:
        """The background as a frame (a copy); None before the first frame."""
        with self._alone:
            return self._background.copy() if self._frames else None

    @property
    def state(self) -> dict[str, Any]:
        """What to save: ``window`` (frames, oldest first) and ``frames``, how many were seen.

        Assign it to continue.
        """
        with self._alone:
            entered = -(-self._frames // self.every)
            kept = range(max(0, entered - self.window), entered)
            window = self._ring[[k % self.window for k in kept]]
            return {"window": window, "frames": self._frames}

    @state.setter
    def state(self, value: dict[str, Any]) -> None:
        array, count = _arguments.entries(self._name, "state", value, ("window", "frames"))
        window = to_numpy(self._name, "state", array)
        frames = _arguments.integer(self._name, "state", count, 0)
        entered = -(-frames // self.every)
        expected = (min(entered, self.window), *self.shape)
        if window.shape != expected or window.dtype != self.dtype:
            raise ValueError(
                f"[{self._name}] state: expected a window of shape {expected} and {self.dtype} for "
                f"{frames} frames; found {window.shape} and {window.dtype}"
            )
        if window.dtype == np.float32 and np.isnan(window).any():
            raise ValueError(f"[{self._name}] state: expected no NaN; found NaN")
        with self._alone:
            self._forget()
            for index, frame in zip(range(entered - len(window), entered), window, strict=True):
                slot = self._ring[index % self.window]
                slot[...] = frame
                self._sorted.replace(slot, None)
            if len(window):
                self._sorted.median(self._background)
            self._frames = frames

    def reset(self) -> None:
        """Forget all frames. An interrupted `feed` (Ctrl-C) does this too."""
        with self._alone:
            self._forget()

    def _forget(self) -> None:
        self._sorted.clear()
        self._frames = 0
