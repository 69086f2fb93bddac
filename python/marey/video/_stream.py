"""What a video stream is: its colours, its orientation, its frames and their times."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Frames = NDArray[np.uint8]

CHUNK_BYTES = 12 << 20

LIMITED, FULL = 1, 2
UNSPECIFIED = 2  # the code point of matrix, primaries and transfer
# From the code points of H.273 to the names that swscale has for a matrix (its SWS_CS_ constants).
MATRICES = {1: 1, 4: 4, 5: 5, 6: 5, 7: 7, 9: 9, 10: 9}
_MATRIX_NAMES = {
    0: "RGB",
    1: "BT.709",
    4: "FCC",
    5: "BT.601 (625)",
    6: "BT.601 (525)",
    7: "SMPTE 240M",
    9: "BT.2020",
    10: "BT.2020 (constant luminance)",
}
_PRIMARIES_NAMES = {
    1: "BT.709",
    4: "BT.470 M",
    5: "BT.601 (625)",
    6: "BT.601 (525)",
    7: "SMPTE 240M",
    9: "BT.2020",
    11: "DCI-P3",
    12: "Display P3",
}
_TRANSFER_NAMES = {
    1: "BT.709",
    4: "gamma 2.2",
    5: "gamma 2.8",
    6: "BT.601",
    7: "SMPTE 240M",
    8: "linear",
    13: "sRGB",
    14: "BT.2020 (10 bit)",
    15: "BT.2020 (12 bit)",
    16: "PQ",
    18: "HLG",
}


def chunk_length(height: int, width: int) -> int:
    """How many frames a chunk holds: what fits in `CHUNK_BYTES`, from 1 to 16."""
    return max(1, min(16, CHUNK_BYTES // max(1, 3 * height * width)))


class ColorTags(NamedTuple):
    """What a stream says of its colours, in the code points of ITU-T H.273 (2: unspecified).

    Attributes
    ----------
    range : int
        0 unspecified (taken as limited), 1 limited (luma 16 to 235), 2 full (0 to 255).
    matrix, primaries, transfer : int
    """

    range: int = LIMITED
    matrix: int = 1
    primaries: int = 1
    transfer: int = 1

    def describe(self) -> str:
        """The tags in words."""
        return ", ".join(
            f"{name} {table.get(value, 'unspecified' if value == UNSPECIFIED else value)}"
            for name, value, table in (
                ("range", self.range, {0: "unspecified", LIMITED: "limited", FULL: "full"}),
                ("matrix", self.matrix, _MATRIX_NAMES),
                ("primaries", self.primaries, _PRIMARIES_NAMES),
                ("transfer", self.transfer, _TRANSFER_NAMES),
            )
        )

    def resolved(self, height: int) -> ColorTags:
        """The same with the matrix that is assumed, where none (or an unknown one) is stated."""
        if self.matrix in MATRICES:
            return self
        return self._replace(matrix=1 if height >= 720 else 6)


@dataclass(frozen=True)
class VideoInfo:
    """What a `Reader` knows of its stream. Sizes are those of the frames that it yields.

    Attributes
    ----------
    path : str
    width, height : int
        In pixels.
    frame_rate : Fraction
        Mean, frames a second.
    time_base : Fraction
        The unit of `Chunk.pts`, in seconds.
    frames : int or None
        How many frames to expect, from the container; None where it does not say.
    duration : float or None
        In seconds.
    container, codec, pixel_format : str
    color : ColorTags
    rotation : int
        Degrees (counter-clockwise) by which the file asks players to turn the stored frames.
    display_matrix : tuple of 9 int or None
        The orientation that is still to be applied to the frames (FFmpeg's layout).
    sample_aspect_ratio : Fraction
        Width of a pixel over its height.
    audio : tuple of str
        Codecs of the audio streams.
    metadata : dict
        The container's own: title, creation time.
    """

    path: str
    width: int
    height: int
    frame_rate: Fraction
    time_base: Fraction
    frames: int | None
    duration: float | None
    container: str
    codec: str
    pixel_format: str
    color: ColorTags
    rotation: int
    display_matrix: tuple[int, ...] | None
    sample_aspect_ratio: Fraction
    audio: tuple[str, ...]
    metadata: dict[str, str]


class Chunk(NamedTuple):
    """Consecutive frames.

    Attributes
    ----------
    frames : ndarray of uint8, (T, H, W, 3)
        RGB; the receiver's to keep.
    pts : ndarray of int64, (T,)
        Presentation times, in `VideoInfo.time_base`.
    """

    frames: Frames
    pts: NDArray[np.int64]


class AudioTrack(NamedTuple):
    """The audio of a file between two times, in seconds of that file; `start` becomes time 0."""

    path: str
    start: Fraction = Fraction(0)
    stop: Fraction | None = None
    cut: bool = False


class Orientation(NamedTuple):
    """One of the eight ways to lay an image: transpose first, then mirror the axes."""

    transpose: bool = False
    flip_rows: bool = False
    flip_columns: bool = False

    @classmethod
    def from_matrix(cls, matrix: tuple[int, ...] | None) -> Orientation:
        """From a display matrix: x' = a x + c y and y' = b x + d y."""
        if matrix is None:
            return cls()
        a, b, _, c, d = matrix[:5]
        transpose = abs(b) > abs(a)
        along, across = ((b, c), (a, d)) if transpose else ((a, d), (b, c))
        if not all(along) or max(map(abs, across)) > 0.01 * min(map(abs, along)):
            warnings.warn(
                "the file asks for a rotation by other than a multiple of 90 degrees: not applied",
                stacklevel=2,
            )
            return cls()
        return cls(True, b < 0, c < 0) if transpose else cls(False, d < 0, a < 0)

    def apply(self, image: NDArray[Any]) -> NDArray[Any]:
        """A view of (H, W, ...) as players show it."""
        if self.transpose:
            image = image.swapaxes(0, 1)
        return image[:: -1 if self.flip_rows else 1, :: -1 if self.flip_columns else 1]
