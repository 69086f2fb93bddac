"""Background subtraction: what moves in front of a camera that stands still.

`subtract` takes a whole video; `MedianBackground` and `MixtureBackground` take frames as they
come. All of them give a mask for each frame (True where something is in front of the background)
and the background.
"""

from __future__ import annotations

import math
import operator
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from marey import _cpu
from marey._arrays import from_numpy_like, to_numpy

__all__ = ["MedianBackground", "MixtureBackground", "difference", "subtract"]

Masks = NDArray[np.bool_]
Picture = NDArray[Any]

THRESHOLD = 30.0
"""Levels of 255 by which a colour channel differs from the background."""
CLEAN = 5
"""Width in pixels of the majority filter for masks."""
STATIC_FRAMES = 101
"""As many frames, evenly spread, are enough for a static median."""

_CHUNK = 16


def _number(name: str, argument: str, value: float, low: float, high: float) -> float:
    number = float(value)
    if not low <= number <= high:
        limits = f"{low:g} or more" if math.isinf(high) else f"{low:g} to {high:g}"
        raise ValueError(f"[{name}] {argument}: expected {limits}; found {value}")
    return number


def _count(name: str, argument: str, value: int, least: int, most: int | None = None) -> int:
    count = operator.index(value)
    if count < least or (most is not None and count > most):
        limits = f"{least} or more" if most is None else f"{least} to {most}"
        raise ValueError(f"[{name}] {argument}: expected {limits}; found {value}")
    return count


def _window(name: str, value: int) -> int:
    size = operator.index(value)
    if size not in (0, *range(1, 16, 2)):
        raise ValueError(
            f"[{name}] clean: expected an odd number of pixels from 1 to 15, or 0 for none; "
            f"found {value}"
        )
    return size


def _frame_shape(name: str, shape: tuple[int, ...]) -> tuple[int, ...]:
    result = tuple(operator.index(n) for n in shape)
    grey = len(result) == 2
    if not (grey or (len(result) == 3 and result[2] == 3)) or min(result) < 1:
        raise ValueError(
            f"[{name}] shape: expected (H, W) or (H, W, 3) of at least one pixel; found {shape}"
        )
    return result


def _frame_dtype(name: str, dtype: Any) -> np.dtype[Any]:
    result = np.dtype(dtype)
    if result not in (np.dtype(np.uint8), np.dtype(np.float32)):
        raise TypeError(f"[{name}] dtype: expected uint8 or float32; found {result}")
    return result


def _frames(
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


def _cleaned(mask: NDArray[np.uint8], size: int) -> Masks:
    """A mask of 0 and 1 as bool, after the majority filter."""
    result: NDArray[np.uint8] = mask if size <= 1 else _cpu.background_majority(mask, size)
    return result.view(np.bool_)


def _picture(levels: NDArray[np.floating[Any]], dtype: np.dtype[Any]) -> Picture:
    """A background in levels of 255 as a frame, rounded half up to uint8."""
    if dtype == np.uint8:
        return np.floor(levels + 0.5).astype(np.uint8)
    return (levels / 255.0).astype(dtype)


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
    shape = _frame_shape(name, picture.shape)
    source, single = _frames(name, frames, shape, _frame_dtype(name, picture.dtype))
    threshold = _number(name, "threshold", threshold, 0.0, math.inf)
    size = _window(name, clean)
    masks = _difference(source, np.ascontiguousarray(picture), threshold, size)
    return from_numpy_like(frames)(masks[0] if single else masks)


def _difference(frames: NDArray[Any], background: Picture, threshold: float, clean: int) -> Masks:
    if frames.dtype == np.float32:
        threshold /= 255.0
    return _cleaned(_cpu.background_difference(frames, background, threshold, 1), clean)


def _static_median(sample: NDArray[Any]) -> Picture:
    """The median of frames (T, ...), rounded half up for uint8."""
    from marey import temporal

    median = np.asarray(temporal.median(sample, axis=0))
    if sample.dtype == np.uint8:
        return np.floor(median + 0.5).astype(np.uint8)
    return median.astype(sample.dtype, copy=False)


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
        self.shape = _frame_shape(name, shape)
        self.dtype = _frame_dtype(name, dtype)
        self.window = _count(name, "window", window, 1)
        self.every = _count(name, "every", every, 1)
        self.threshold = _number(name, "threshold", threshold, 0.0, math.inf)
        self.clean = _window(name, clean)
        self._sorted = _cpu.SortedWindow(math.prod(self.shape), self.window, self.dtype.name)
        self._ring = np.empty((self.window, *self.shape), self.dtype)
        self._background = np.empty(self.shape, self.dtype)
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
        source, single = _frames(self._name, frames, self.shape, self.dtype)
        if source.dtype == np.float32 and np.isnan(source).any():
            raise ValueError(f"[{self._name}] frames: expected no NaN; found NaN")
        masks = np.empty(source.shape[:3], np.bool_)
        done = 0
        try:
            while done < len(source):
                if self._frames % self.every == 0:
                    self._enter(source[done])
                    self._sorted.median(self._background)
                run = min(len(source) - done, self.every - self._frames % self.every)
                part = slice(done, done + run)
                masks[part] = _difference(
                    source[part], self._background, self.threshold, self.clean
                )
                self._frames += run
                done += run
        except BaseException:
            self.reset()
            raise
        return from_numpy_like(frames)(masks[0] if single else masks)

    @property
    def background(self) -> Picture | None:
        """The background as a frame (a copy); None before the first frame."""
        return self._background.copy() if self._frames else None

    @property
    def state(self) -> dict[str, Any]:
        """What to save: ``window`` (frames, oldest first) and ``frames``, how many were seen.

        Assign it to continue.
        """
        entered = -(-self._frames // self.every)
        held = [self._ring[k % self.window] for k in range(max(0, entered - self.window), entered)]
        window = np.stack(held) if held else np.empty((0, *self.shape), self.dtype)
        return {"window": window, "frames": self._frames}

    @state.setter
    def state(self, value: dict[str, Any]) -> None:
        window, frames = np.asarray(value["window"]), int(value["frames"])
        entered = -(-frames // self.every)
        expected = (min(entered, self.window), *self.shape)
        if window.shape != expected or window.dtype != self.dtype:
            raise ValueError(
                f"[{self._name}] state: expected a window of shape {expected} and {self.dtype} for "
                f"{frames} frames; found {window.shape} and {window.dtype}"
            )
        self.reset()
        for index, frame in zip(range(entered - len(window), entered), window, strict=True):
            slot = self._ring[index % self.window]
            slot[...] = frame
            self._sorted.replace(slot, None)
        if len(window):
            self._sorted.median(self._background)
        self._frames = frames

    def reset(self) -> None:
        """Forget all frames. An interrupted `feed` (Ctrl-C) does this too."""
        self._sorted.clear()
        self._frames = 0


class MixtureBackground:
    """Subtract an adaptive Gaussian mixture, in a stream.

    Each pixel has up to `modes` Gaussians, whose number adapts [1]_: a background that flickers,
    waves or changes slowly is learnt, and what is new is in front of it until it has stayed for a
    while. Any chunking gives the same result, and every instruction set the same model to the last
    bit. Not for several threads at once.

    Parameters
    ----------
    shape : (H, W) or (H, W, 3)
        The shape of one frame.
    history : int
        How many frames the model looks back: the learning rate is ``1 / min(2 n, history)`` at
        frame n.
    threshold : float
        The squared distance from a mode, in units of its variance, below which a pixel belongs to
        the background.
    match_threshold : float
        The same, below which a value belongs to a mode that exists, so that no new one is made.
    background_ratio : float
        The heaviest modes are background, until their weights sum to this.
    initial_variance, minimum_variance, maximum_variance : float
        In levels of 255, squared. The minimum is the noise that is taken for granted: with less,
        the grain of compression is taken for motion.
    complexity : float
        How much evidence a mode must have to stay, in units of the learning rate.
    modes : int
        The largest number of modes, 1 to 8.
    shadows : bool
        Take what is only a darker version of the background [2]_ for background too. `labels`
        tells the two apart.
    darkest : float
        The share of the background's brightness down to which a shadow can be dark.
    clean : int
        The width of the majority filter for masks; see `difference`.
    dtype : uint8 or float32
        The type of the frames; float32 frames are in [0, 1].

    Raises
    ------
    TypeError, ValueError
        If an argument is of another type or out of range.

    Notes
    -----
    Variances and thresholds are those of OpenCV's ``BackgroundSubtractorMOG2``, whose arithmetic
    this is, but for three defaults: `initial_variance` 36 (there 15), `minimum_variance` 16 (4)
    and `maximum_variance` 80 (75); and `shadows` are not looked for unless asked for. A learning
    rate of 0 changes nothing at all in the model. A NaN is in front of the background, and spoils
    no mode but the one it makes. Memory is ``4 * modes * (2 + channels)`` bytes a pixel; feeding
    several frames at once reads and writes it once for all of them.

    References
    ----------
    .. [1] Z. Zivkovic, "Improved adaptive Gaussian mixture model for background subtraction",
       ICPR 2004.
    .. [2] A. Prati, I. Mikic, M. Trivedi and R. Cucchiara, "Detecting moving shadows: algorithms
       and evaluation", IEEE Transactions on Pattern Analysis and Machine Intelligence 25(7), 2003.

    Examples
    --------
    >>> import marey, numpy as np
    >>> frames = np.full((30, 40, 60), 90, np.uint8)
    >>> frames[29, 10:20, 10:20] = 200
    >>> mixture = marey.background.MixtureBackground((40, 60), clean=0)
    >>> mixture.feed(frames).sum(axis=(1, 2))[-2:].tolist()
    [0, 100]
    """

    def __init__(
        self,
        shape: tuple[int, ...],
        *,
        history: int = 500,
        threshold: float = 16.0,
        match_threshold: float = 9.0,
        background_ratio: float = 0.9,
        initial_variance: float = 36.0,
        minimum_variance: float = 16.0,
        maximum_variance: float = 80.0,
        complexity: float = 0.05,
        modes: int = 5,
        shadows: bool = False,
        darkest: float = 0.5,
        clean: int = CLEAN,
        dtype: Any = np.uint8,
    ) -> None:
        name = "marey.MixtureBackground"
        self._name = name
        self.shape = _frame_shape(name, shape)
        self.dtype = _frame_dtype(name, dtype)
        self.history = _count(name, "history", history, 1)
        self.clean = _window(name, clean)
        for argument, value in (
            ("initial_variance", initial_variance),
            ("minimum_variance", minimum_variance),
        ):
            if not 0 < value <= maximum_variance < math.inf:
                raise ValueError(
                    f"[{name}] {argument}: expected more than 0 and at most maximum_variance, "
                    f"{maximum_variance:g}; found {value}"
                )
        self._mixture = _cpu.Mixture(
            height=self.shape[0],
            width=self.shape[1],
            channels=1 if len(self.shape) == 2 else 3,
            dtype=self.dtype.name,
            modes=_count(name, "modes", modes, 1, 8),
            threshold=_number(name, "threshold", threshold, 0.0, math.inf),
            match_threshold=_number(name, "match_threshold", match_threshold, 0.0, math.inf),
            background_ratio=_number(name, "background_ratio", background_ratio, 0.0, 1.0),
            initial_variance=float(initial_variance),
            minimum_variance=float(minimum_variance),
            maximum_variance=float(maximum_variance),
            complexity=_number(name, "complexity", complexity, 0.0, 0.49),
            darkest=_number(name, "darkest", darkest, 0.0, 1.0),
            shadows=bool(shadows),
        )
        self._frames = 0

    def _rates(self, count: int, learning_rate: float | None) -> list[float]:
        if learning_rate is not None:
            return [_number(self._name, "learning_rate", learning_rate, 0.0, 1.0)] * count
        first = self._frames + 1
        return [1.0 / min(2 * n, self.history) for n in range(first, first + count)]

    def _feed(
        self, frames: Any, learning_rate: float | None, shadow: int, foreground: int
    ) -> tuple[NDArray[np.uint8], bool]:
        source, single = _frames(self._name, frames, self.shape, self.dtype)
        rates = self._rates(len(source), learning_rate)
        try:
            result = self._mixture.feed(source, rates, shadow, foreground)
        except KeyboardInterrupt:
            # Some pixels have seen more frames than others.
            self.reset()
            raise
        if learning_rate is None or learning_rate > 0:
            self._frames += len(source)
        return result, single

    def feed(self, frames: Any, learning_rate: float | None = None) -> Any:
        """Take the next frames and mark what is in front of the background.

        Parameters
        ----------
        frames : array, (T, H, W), (T, H, W, 3), or one frame
            The next frames of the stream, of this object's `dtype`; any strides.
        learning_rate : float, optional
            In [0, 1], instead of the automatic one; 0 compares only, and changes nothing.

        Returns
        -------
        array of bool, (T, H, W) or (H, W)

        Raises
        ------
        TypeError, ValueError
            If `frames` is of another type or shape. The state is then what it was before.
        """
        labels, single = self._feed(frames, learning_rate, 0, 1)
        masks = _cleaned(labels, self.clean)
        return from_numpy_like(frames)(masks[0] if single else masks)

    def labels(self, frames: Any, learning_rate: float | None = None) -> Any:
        """As `feed`, but tell shadows apart, and without the majority filter.

        Parameters
        ----------
        frames, learning_rate
            As for `feed`.

        Returns
        -------
        array of uint8, (T, H, W) or (H, W)
            0 for background, 127 for shadow (only with ``shadows=True``), 255 for what is in front.
        """
        labels, single = self._feed(frames, learning_rate, 127, 255)
        return from_numpy_like(frames)(labels[0] if single else labels)

    @property
    def background(self) -> Picture | None:
        """The mean of the background modes by weight, as a frame; None before the first frame."""
        return _picture(self._mixture.background(), self.dtype) if self._frames else None

    @property
    def state(self) -> dict[str, Any]:
        """What to save; assign it to continue.

        ``weights`` (modes, H, W), heaviest first and 0 where there is no mode; ``variances``
        (modes, H, W); ``means`` (modes, H, W, channels), in levels of 255: all float32.
        ``frames``, how many were learnt from.
        """
        model = self._mixture.state
        modes, height, blocks, fields, lanes = model.shape
        planes = model.transpose(0, 1, 2, 4, 3).reshape(modes, height, blocks * lanes, fields)
        planes = planes[:, :, : self.shape[1]]
        return {
            "weights": planes[..., 0].copy(),
            "variances": planes[..., 1].copy(),
            "means": planes[..., 2:].copy(),
            "frames": self._frames,
        }

    @state.setter
    def state(self, value: dict[str, Any]) -> None:
        model = np.zeros_like(self._mixture.state)
        modes, height, blocks, fields, lanes = model.shape
        width = self.shape[1]
        parts = []
        for key, shape in (
            ("weights", (modes, height, width)),
            ("variances", (modes, height, width)),
            ("means", (modes, height, width, fields - 2)),
        ):
            part = np.asarray(value[key])
            if part.shape != shape or part.dtype != np.float32:
                raise ValueError(
                    f"[{self._name}] state: expected {key} of shape {shape} and float32; "
                    f"found {part.shape} and {part.dtype}"
                )
            parts.append(part.reshape(modes, height, width, -1))
        padded = np.zeros((modes, height, blocks * lanes, fields), np.float32)
        padded[:, :, :width] = np.concatenate(parts, axis=-1)
        model[...] = padded.reshape(modes, height, blocks, lanes, fields).transpose(0, 1, 2, 4, 3)
        self._mixture.state = model
        self._frames = int(value["frames"])

    def reset(self) -> None:
        """Forget all frames. An interrupted `feed` (Ctrl-C) does this too."""
        self._mixture.state = np.zeros_like(self._mixture.state)
        self._frames = 0


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
    source = to_numpy(name, "video", video)
    if source.ndim not in (3, 4) or 0 in source.shape:
        raise ValueError(
            f"[{name}] video: expected (T, H, W) or (T, H, W, 3) with at least one frame; "
            f"found shape {source.shape}"
        )
    shape = _frame_shape(name, source.shape[1:])
    dtype = _frame_dtype(name, source.dtype)
    if method not in ("median", "mixture"):
        raise ValueError(f"[{name}] method: expected 'median' or 'mixture'; found {method!r}")
    unused = [*options, *(["shadows"] if shadows else [])] if method == "median" else []
    if method == "mixture":
        unused = [k for k, v in (("window", window), ("every", every)) if v is not None]
    if unused:
        raise ValueError(f"[{name}] {unused[0]}: expected only with the other method; found it")

    stream: MedianBackground | MixtureBackground | None = None
    background: Picture | None = None
    level = THRESHOLD if threshold is None else threshold
    if method == "mixture":
        limit = {} if threshold is None else {"threshold": threshold}
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
        background = _static_median(source[:: _count(name, "every", step, 1)])

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
    return convert(masks), convert(background if stream is None else stream.background)


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
