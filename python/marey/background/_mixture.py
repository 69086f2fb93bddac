"""An adaptive Gaussian mixture for each pixel, in a stream."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from marey import _arguments, _cpu
from marey._arrays import from_numpy_like, to_numpy
from marey.background._masks import (
    CLEAN,
    OneCaller,
    Picture,
    checked_frames,
    checked_window,
    cleaned,
    picture_of,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray


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
        self.shape = _arguments.frame_shape(name, "shape", shape)
        self.dtype = _arguments.frame_dtype(name, "dtype", dtype)
        self.history = _arguments.integer(name, "history", history, 1)
        self.clean = checked_window(name, clean)
        initial_variance = _arguments.number(name, "initial_variance", initial_variance)
        minimum_variance = _arguments.number(name, "minimum_variance", minimum_variance)
        maximum_variance = _arguments.number(name, "maximum_variance", maximum_variance)
        for argument, value in (
            ("initial_variance", initial_variance),
            ("minimum_variance", minimum_variance),
        ):
            if not 0 < value <= maximum_variance:
                raise ValueError(
                    f"[{name}] {argument}: expected more than 0 and at most maximum_variance, "
                    f"{maximum_variance:g}; found {value}"
                )
        self._mixture = _cpu.Mixture(
            height=self.shape[0],
            width=self.shape[1],
            channels=1 if len(self.shape) == 2 else 3,
            dtype=self.dtype.name,
            modes=_arguments.integer(name, "modes", modes, 1, 8),
            threshold=_arguments.number(name, "threshold", threshold, 0),
            match_threshold=_arguments.number(name, "match_threshold", match_threshold, 0),
            background_ratio=_arguments.number(
                name, "background_ratio", background_ratio, 0.0, 1.0
            ),
            initial_variance=initial_variance,
            minimum_variance=minimum_variance,
            maximum_variance=maximum_variance,
            complexity=_arguments.number(name, "complexity", complexity, 0.0, 0.49),
            darkest=_arguments.number(name, "darkest", darkest, 0.0, 1.0),
            shadows=bool(shadows),
        )
        self._alone = OneCaller(name)
        self._frames = 0

    def _rates(self, count: int, learning_rate: float | None) -> list[float]:
        if learning_rate is not None:
            return [_arguments.number(self._name, "learning_rate", learning_rate, 0.0, 1.0)] * count
        first = self._frames + 1
        return [1.0 / min(2 * n, self.history) for n in range(first, first + count)]

    def _feed(
        self, frames: Any, learning_rate: float | None, shadow: int, foreground: int
    ) -> tuple[NDArray[np.uint8], bool]:
        source, single = checked_frames(self._name, frames, self.shape, self.dtype)
        with self._alone:
            rates = self._rates(len(source), learning_rate)
            try:
                result = self._mixture.feed(source, rates, shadow, foreground)
            except BaseException:  # a KeyboardInterrupt, or what another signal's handler raises
                # Some pixels have seen more frames than others.
                if any(rates):
                    self._forget()
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
        masks = cleaned(labels, self.clean)
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
        with self._alone:
            return picture_of(self._mixture.background(), self.dtype) if self._frames else None

    @property
    def state(self) -> dict[str, Any]:
        """What to save; assign it to continue.

        ``weights`` (modes, H, W), heaviest first and 0 where there is no mode; ``variances``
        (modes, H, W); ``means`` (modes, H, W, channels), in levels of 255: all float32.
        ``frames``, how many were learnt from.
        """
        with self._alone:
            model, count = self._mixture.state, self._frames
        modes, height, blocks, fields, lanes = model.shape
        planes = model.transpose(0, 1, 2, 4, 3).reshape(modes, height, blocks * lanes, fields)
        planes = planes[:, :, : self.shape[1]]
        return {
            "weights": planes[..., 0].copy(),
            "variances": planes[..., 1].copy(),
            "means": planes[..., 2:].copy(),
            "frames": count,
        }

    @state.setter
    def state(self, value: dict[str, Any]) -> None:
        keys = ("weights", "variances", "means", "frames")
        *given, frames = _arguments.entries(self._name, "state", value, keys)
        with self._alone:
            model = np.zeros_like(self._mixture.state)
        modes, height, blocks, fields, lanes = model.shape
        width = self.shape[1]
        parts = []
        plane = (modes, height, width)
        for key, array, shape in zip(
            keys[:3], given, (plane, plane, (*plane, fields - 2)), strict=True
        ):
            part = to_numpy(self._name, "state", array)
            if part.shape != shape or part.dtype != np.float32:
                raise ValueError(
                    f"[{self._name}] state: expected {key} of shape {shape} and float32; "
                    f"found {part.shape} and {part.dtype}"
                )
            parts.append(part.reshape(modes, height, width, -1))
        padded = np.zeros((modes, height, blocks * lanes, fields), np.float32)
        padded[:, :, :width] = np.concatenate(parts, axis=-1)
        model[...] = padded.reshape(modes, height, blocks, lanes, fields).transpose(0, 1, 2, 4, 3)
        count = _arguments.integer(self._name, "state", frames, 0)
        with self._alone:
            self._mixture.state = model
            self._frames = count

    def reset(self) -> None:
        """Forget all frames. An interrupted `feed` (Ctrl-C) does this too."""
        with self._alone:
            self._forget()

    def _forget(self) -> None:
        self._mixture.state = np.zeros_like(self._mixture.state)
        self._frames = 0
