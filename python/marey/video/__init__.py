"""Video files in and out, chunk by chunk, in constant memory (needs the extra ``video``: PyAV).

`Reader` decodes in a background thread and yields chunks of RGB frames with their presentation
times; `Writer` converts and encodes in another thread, so both overlap what the caller computes.
Range, matrix, primaries, transfer, frame times, orientation, pixel aspect ratio and audio of a
source survive: ``Writer(target, ..., like=reader.info, audio=reader.audio)``.
A target appears under its name only when it is complete.

Frames are 8-bit RGB. Conversion uses the file's own matrix and range; an untagged stream is taken
as BT.709 from 720 lines up and as BT.601 below, which is what players do.
"""

from __future__ import annotations

import numpy as np

try:
    import av  # noqa: F401
except ImportError as error:
    raise ImportError("marey.video needs PyAV: pip install 'marey[video]'") from error

from typing import TYPE_CHECKING

from marey.video._reader import Reader
from marey.video._stream import AudioTrack, Chunk, ColorTags, Frames, VideoInfo, chunk_length
from marey.video._writer import Writer

if TYPE_CHECKING:
    import os
    from fractions import Fraction

    from numpy.typing import NDArray

__all__ = ["AudioTrack", "Chunk", "ColorTags", "Reader", "VideoInfo", "Writer", "read", "write"]


def read(
    path: str | os.PathLike[str], *, start: float = 0.0, duration: float | None = None
) -> tuple[Frames, float]:
    """Read a whole video, or a part of it, into memory.

    Parameters
    ----------
    path : str or path-like
    start, duration : float, optional
        The part to read, in seconds.

    Returns
    -------
    frames : ndarray of uint8, (T, H, W, 3)
        RGB, turned as players show them. While reading, twice this memory is used.
    fps : float
        Mean frames a second.

    Raises
    ------
    FileNotFoundError, IsADirectoryError, PermissionError, ValueError
        As `Reader`, which streams instead.

    Examples
    --------
    >>> frames, fps = marey.video.read("baby.mp4")                    # doctest: +SKIP
    >>> out = marey.magnify(frames, fps, 0.4, 3.0, 10, cutoff=16)     # doctest: +SKIP
    >>> marey.video.write("magnified.mp4", out, fps)                  # doctest: +SKIP
    """
    with Reader(path, start=start, duration=duration) as reader:
        chunks = [chunk.frames for chunk in reader]
        return np.concatenate(chunks), float(reader.info.frame_rate)


def write(
    path: str | os.PathLike[str],
    frames: NDArray[np.uint8],
    fps: float | Fraction,
    *,
    like: VideoInfo | None = None,
    audio: AudioTrack | None = None,
    crf: int | None = None,
    preset: str = "veryfast",
) -> None:
    """Write frames as a video file; see `Writer` for the formats and the parameters.

    Parameters
    ----------
    path : str or path-like
    frames : ndarray of uint8, (T, H, W, 3), or (T, H, W) for grey
    fps : float or Fraction
        Frames a second.
    like, audio, crf, preset
        As in `Writer`.
    """
    pixels = np.asarray(frames)
    if pixels.ndim not in (3, 4):
        raise ValueError(
            f"[marey.video.write] frames: expected (T, H, W, 3) or (T, H, W); found {pixels.shape}"
        )
    height, width = pixels.shape[1:3]
    with Writer(
        path, (height, width), fps, like=like, audio=audio, crf=crf, preset=preset
    ) as writer:
        length = chunk_length(height, width)
        for begin in range(0, len(pixels), length):
            writer.write(pixels[begin : begin + length])
