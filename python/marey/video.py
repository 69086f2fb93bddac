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

import contextlib
import os
import queue
import secrets
import threading
import warnings
import weakref
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from types import TracebackType
from typing import Any, Generic, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

try:
    import av
    from av.video.reformatter import ColorRange, Colorspace, Interpolation, VideoReformatter
except ImportError as error:
    raise ImportError("marey.video needs PyAV: pip install 'marey[video]'") from error

__all__ = ["AudioTrack", "Chunk", "ColorTags", "Reader", "VideoInfo", "Writer", "read", "write"]

Frames = NDArray[np.uint8]
T = TypeVar("T")

CHUNK_BYTES = 12 << 20
"""A chunk holds as many frames as fit here, at least 1 and at most 16."""

# swscale's default (fast) paths are 1 to 1.5 levels too dark; these flags make it unbiased.
_SCALER = int(
    Interpolation.BICUBIC
    | Interpolation.ACCURATE_RND
    | Interpolation.FULL_CHR_H_INT
    | Interpolation.FULL_CHR_H_INP
)

_LIMITED, _FULL = 1, 2
_UNSPECIFIED = 2  # the code point of matrix, primaries and transfer
_MATRICES = {
    1: Colorspace.ITU709,
    4: Colorspace.FCC,
    5: Colorspace.ITU601,
    6: Colorspace.ITU601,
    7: Colorspace.SMPTE240M,
    9: Colorspace.BT2020,
    10: Colorspace.BT2020,
}
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


class ColorTags(NamedTuple):
    """What a stream says of its colours, in the code points of ITU-T H.273 (2: unspecified).

    Attributes
    ----------
    range : int
        0 unspecified (taken as limited), 1 limited (luma 16 to 235), 2 full (0 to 255).
    matrix, primaries, transfer : int
    """

    range: int = _LIMITED
    matrix: int = 1
    primaries: int = 1
    transfer: int = 1

    def describe(self) -> str:
        """The tags in words."""
        return ", ".join(
            f"{name} {table.get(value, 'unspecified' if value == _UNSPECIFIED else value)}"
            for name, value, table in (
                ("range", self.range, {0: "unspecified", _LIMITED: "limited", _FULL: "full"}),
                ("matrix", self.matrix, _MATRIX_NAMES),
                ("primaries", self.primaries, _PRIMARIES_NAMES),
                ("transfer", self.transfer, _TRANSFER_NAMES),
            )
        )

    def resolved(self, height: int) -> ColorTags:
        """The same with the matrix that is assumed, where none (or an unknown one) is stated."""
        if self.matrix in _MATRICES:
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


class _Orientation(NamedTuple):
    """One of the eight ways to lay an image: transpose first, then mirror the axes."""

    transpose: bool = False
    flip_rows: bool = False
    flip_columns: bool = False

    @classmethod
    def from_matrix(cls, matrix: tuple[int, ...] | None) -> _Orientation:
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


def _plane(plane: Any, dtype: type[np.generic] = np.uint8) -> NDArray[Any]:
    """A plane's pixels, (H, W), without the padding of its rows."""
    flat: NDArray[Any] = np.frombuffer(plane, dtype)
    return flat.reshape(plane.height, -1)[:, : plane.width]


class _ToRgb:
    """Any decoded frame to 8-bit RGB."""

    def __init__(self, color: ColorTags, height: int, orientation: _Orientation) -> None:
        self._matrix = _MATRICES[color.resolved(height).matrix]
        self._range = ColorRange.JPEG if color.range == _FULL else ColorRange.MPEG
        self._orientation = orientation
        self._scaler = VideoReformatter()

    def __call__(self, frame: av.VideoFrame, out: Frames) -> None:
        # Planar RGB has a vectorised path in swscale that packed RGB lacks.
        planar = self._scaler.reformat(
            frame,
            format="gbrp",
            src_colorspace=self._matrix,
            src_color_range=self._range,
            dst_color_range=ColorRange.JPEG,
            interpolation=_SCALER,
            threads=1,
        )
        for plane, channel in zip(planar.planes, (1, 2, 0), strict=True):
            out[..., channel] = self._orientation.apply(_plane(plane))


class _FromRgb:
    """8-bit RGB to a yuv420p frame."""

    def __init__(self, color: ColorTags, height: int) -> None:
        self._matrix = _MATRICES[color.resolved(height).matrix]
        self._full = color.range == _FULL
        self._scaler = VideoReformatter()

    def __call__(self, rgb: Frames) -> av.VideoFrame:
        # swscale's own RGB to full-range chroma is half a level too low (up to FFmpeg 8.1):
        # so it converts to limited range in 16 bits, and the range is expanded here.
        source = av.VideoFrame.from_numpy_buffer(rgb, "rgb24")
        converted = self._scaler.reformat(
            source,
            format="yuv420p16le" if self._full else "yuv420p",
            src_color_range=ColorRange.JPEG,
            dst_colorspace=self._matrix,
            dst_color_range=ColorRange.MPEG,
            interpolation=_SCALER,
            threads=1,
        )
        if not self._full:
            return converted
        frame = av.VideoFrame(converted.width, converted.height, "yuv420p")
        for index, (narrow, wide) in enumerate(zip(frame.planes, converted.planes, strict=True)):
            span, black, level = (219.0, 16.0, 0.0) if index == 0 else (224.0, 128.0, 128.0)
            codes = _plane(wide, np.uint16).astype(np.float32)
            codes *= 255.0 / span / 256.0
            codes += level - black * 255.0 / span + 0.5
            _plane(narrow)[...] = np.clip(codes, 0.0, 255.0, out=codes)
        return frame


class _Prefetch(Generic[T]):
    """Runs an iterator in a thread, one item ahead of its consumer."""

    def __init__(self, items: Iterator[T]) -> None:
        self._items = items
        self._queue: queue.Queue[tuple[T | None, BaseException | None]] = queue.Queue(1)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="marey-reader", daemon=True)
        self._thread.start()

    def _put(self, item: T | None, error: BaseException | None) -> bool:
        while not self._stop.is_set():
            with contextlib.suppress(queue.Full):
                self._queue.put((item, error), timeout=0.1)
                return True
        return False

    def _run(self) -> None:
        try:
            for item in self._items:
                if not self._put(item, None):
                    return
        except BaseException as error:
            self._put(None, error)
        else:
            self._put(None, None)

    def __iter__(self) -> Iterator[T]:
        while True:
            item, error = self._queue.get()
            if error is not None:
                raise error
            if item is None:
                return
            yield item

    def close(self) -> None:
        self._stop.set()
        self._thread.join()


def _rational(value: float | Fraction, name: str, function: str) -> Fraction:
    """A rate as a fraction; 29.97 and its like become n/1001."""
    if not np.isfinite(float(value)) or value <= 0:
        raise ValueError(f"[{function}] {name}: expected frames a second > 0; found {value}")
    if isinstance(value, Fraction):
        return value
    ntsc = Fraction(round(value * 1001 / 1000), 1) * Fraction(1000, 1001)
    if ntsc and abs(float(ntsc) - value) < 1e-5 * value:
        return ntsc
    return Fraction(value).limit_denominator(100_000)


def _open_input(path: str | os.PathLike[str], function: str) -> Any:
    name = os.fspath(path)
    wanted = f"[{function}] path: expected a video file; found"
    if not os.path.exists(name):
        raise FileNotFoundError(f"{wanted} no file {name!r}")
    if os.path.isdir(name):
        raise IsADirectoryError(f"{wanted} the directory {name!r}")
    if os.path.isfile(name) and os.path.getsize(name) == 0:
        raise ValueError(f"{wanted} {name!r}, which is empty")
    try:
        return av.open(os.path.abspath(name), metadata_errors="replace")
    except PermissionError as error:
        raise PermissionError(f"{wanted} {name!r}, which may not be read") from error
    except av.FFmpegError as error:
        raise ValueError(
            f"{wanted} {name!r}, which is none that FFmpeg can open, or is cut short "
            f"({error.strerror})"
        ) from error


class Reader:
    """A video file as chunks of RGB frames.

    Iterate over it once; it is also a context manager. A thread decodes one chunk ahead.
    Memory: two chunks (see `CHUNK_BYTES`) beside the decoder's own.

    Parameters
    ----------
    path : str or path-like
    start, duration : float, optional
        The part to read, in seconds from the file's beginning.
    upright : bool
        Turn the frames as players do. False leaves them as stored;
        ``info.display_matrix`` then says what is to be done.
    chunk : int, optional
        Frames in a chunk; by default as many as fit in 12 MiB, from 1 to 16.

    Attributes
    ----------
    info : VideoInfo
    audio : AudioTrack or None
        To hand to a `Writer`.

    Raises
    ------
    FileNotFoundError, IsADirectoryError, PermissionError, ValueError
        Where there is no video to read, and, while iterating, where the stream breaks off.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        start: float = 0.0,
        duration: float | None = None,
        upright: bool = True,
        chunk: int | None = None,
    ) -> None:
        if not (np.isfinite(start) and start >= 0):
            raise ValueError(f"[marey.video.Reader] start: expected seconds >= 0; found {start}")
        if duration is not None and not (np.isfinite(duration) and duration > 0):
            raise ValueError(
                f"[marey.video.Reader] duration: expected seconds > 0; found {duration}"
            )
        self._name = os.fspath(path)
        self._container = _open_input(path, "marey.video.Reader")
        self._prefetch: _Prefetch[Chunk] | None = None
        self._notes: list[str] = []
        self._count = 0
        try:
            self._stream = self._video_stream()
            self._stream.thread_type = "AUTO"
            self._begin(start, duration)
            self._describe(upright, start, duration)
        except BaseException:
            self._container.close()
            raise
        height, width = self.info.height, self.info.width
        self._chunk = chunk or max(1, min(16, CHUNK_BYTES // (3 * height * width)))
        if self._chunk < 1:
            raise ValueError(f"[marey.video.Reader] chunk: expected an integer >= 1; found {chunk}")

    def _video_stream(self) -> Any:
        for stream in self._container.streams.video:
            cover = int(stream.disposition) & int(av.stream.Disposition.attached_pic)
            text = stream.codec_context.name in {"ansi", "bintext", "idf", "xbin"}
            if not cover and not text and stream.codec_context.width > 0:
                return stream
        raise ValueError(
            f"[marey.video.Reader] path: expected a video file; found {self._name!r}, "
            "which holds no video stream"
        )

    def _begin(self, start: float, duration: float | None) -> None:
        """Find the first frame: its side data carry the orientation."""
        base = self._stream.time_base
        begin = Fraction(self._container.start_time or 0, 1_000_000)
        self._stop: Fraction | None = None
        if start > 0:
            wanted = begin + Fraction(start).limit_denominator(1_000_000)
            self._container.seek(int(wanted / base), stream=self._stream)
        else:
            wanted = None
        self._end = Fraction(0)
        self._next_pts = 0
        self._frames = self._decode()
        for pts, frame in self._frames:
            if wanted is None or pts * base >= wanted - base / 2:
                self._first = (pts, frame)
                break
        else:
            if start > 0 and self._count:
                raise ValueError(
                    f"[marey.video.Reader] start: expected less than the length of "
                    f"{self._name!r}; found {start:g} s"
                )
            raise ValueError(
                f"[marey.video.Reader] path: expected a video file; found {self._name!r}, "
                "of which no frame can be decoded"
            )
        # Whole units of the time base, so that audio and video are shifted alike.
        self._origin = self._first[0] if wanted is not None else round(begin / base)
        if duration is not None:
            self._stop = self._origin * base + Fraction(duration).limit_denominator(1_000_000)

    def _describe(self, upright: bool, start: float, duration: float | None) -> None:
        stream, context, frame = self._stream, self._stream.codec_context, self._first[1]
        rate = stream.average_rate or stream.guessed_rate or stream.base_rate
        if not rate:
            rate = Fraction(25)
            self._notes.append("the file states no frame rate: 25 frames/s assumed")
        length: Fraction | None = None
        if stream.duration:
            length = stream.duration * stream.time_base
        elif self._container.duration:
            length = Fraction(self._container.duration, 1_000_000)
        frames = stream.frames or (None if length is None else max(1, round(length * rate)))
        self._expected_end: Fraction | None = None
        alone = len(self._container.streams) == 1
        if length is not None and (stream.duration or alone):
            first = stream.start_time * stream.time_base if stream.start_time else Fraction(0)
            if self._container.format.name == "avi" and stream.frames:
                length = stream.frames / rate
            self._expected_end = first + length
        if length is not None and (start or duration is not None):
            length = max(Fraction(0), length - Fraction(start))
            if duration is not None:
                length = min(length, Fraction(duration))
            frames = min(frames or 0, max(1, round(length * rate)))

        matrix = None
        for data in frame.side_data:
            if data.type.name == "DISPLAYMATRIX":
                matrix = tuple(int(v) for v in np.frombuffer(data, np.int32))
        orientation = _Orientation.from_matrix(matrix) if upright else _Orientation()
        width, height = frame.width, frame.height
        aspect = context.sample_aspect_ratio or Fraction(1)
        if orientation.transpose:
            width, height, aspect = height, width, 1 / aspect

        name = frame.format.name
        color = ColorTags(
            int(context.color_range),
            int(context.colorspace),
            int(context.color_primaries),
            int(context.color_trc),
        )
        if name.startswith("yuvj"):
            color = color._replace(range=_FULL)
        self._to_rgb = _ToRgb(color, frame.height, orientation)
        if not name.startswith(("yuv", "nv", "p0", "p2", "p4")):
            # RGB and grey hold no matrix to keep; their YUV is free to be the usual one.
            color = ColorTags(primaries=color.primaries, transfer=color.transfer)
        self._size = (frame.width, frame.height)
        self.info = VideoInfo(
            path=self._name,
            width=width,
            height=height,
            frame_rate=Fraction(rate),
            time_base=Fraction(stream.time_base),
            frames=frames,
            duration=None if length is None else float(length),
            container=self._container.format.name,
            codec=context.name,
            pixel_format=name,
            color=color,
            rotation=int(frame.rotation) % 360,
            display_matrix=None if upright else matrix,
            sample_aspect_ratio=Fraction(aspect),
            audio=tuple(s.codec.canonical_name for s in self._container.streams.audio),
            metadata=dict(self._container.metadata),
        )
        self.audio: AudioTrack | None = None
        if self.info.audio:
            begin = self._origin * stream.time_base
            self.audio = AudioTrack(self._name, begin, self._stop, start > 0)

    def _broken(self, reason: str) -> ValueError:
        return ValueError(
            f"[marey.video.Reader] path: expected a whole video; found {self._name!r}, "
            f"which breaks off after {self._count} frames ({reason})"
        )

    def _decode(self) -> Iterator[tuple[int, Any]]:
        """Frames with their presentation times, strictly increasing."""
        stream, base = self._stream, self._stream.time_base
        damaged = 0
        packets = self._container.demux(stream)
        while True:
            try:
                packet = next(packets, None)
            except av.FFmpegError as error:
                raise self._broken(error.strerror) from error
            if packet is None:
                break
            if packet.is_corrupt and self._count:
                raise self._broken("its last packet is cut short")
            if packet.pts is not None:
                self._end = max(self._end, (packet.pts + (packet.duration or 0)) * base)
            try:
                frames = packet.decode()
            except av.FFmpegError as error:
                if self._count == 0:  # a stream that was cut before its first key frame
                    continue
                raise self._broken(error.strerror) from error
            for frame in frames:
                self._count += 1
                damaged += bool(frame.is_corrupt)
                pts = self._next_pts if frame.pts is None else frame.pts
                if self._count > 1 and pts <= self._last_pts:
                    pts = self._last_pts + 1
                self._last_pts = pts
                step = frame.duration or (
                    round(1 / (stream.average_rate * base)) if stream.average_rate else 1
                )
                self._next_pts = pts + step
                yield pts, frame
        if damaged:
            self._notes.append(f"{damaged} damaged frames: the decoder filled them in")

    def _check_end(self) -> None:
        """Most containers do not notice that their last part is missing."""
        if self._expected_end is None:
            return
        missing = float((self._expected_end - self._end) * self.info.frame_rate)
        whole = float(self._expected_end * self.info.frame_rate)
        if missing > 2.5 and ("mp4" in self.info.container or missing > 0.1 * whole):
            raise self._broken(f"about {missing:.0f} frames are missing")
        if missing > 2.5:
            self._notes.append(f"the file is about {missing:.0f} frames shorter than it says")

    def _chunks(self) -> Iterator[Chunk]:
        base = self.info.time_base
        shape = (self._chunk, self.info.height, self.info.width, 3)
        length = 0

        def frames() -> Iterator[tuple[int, Any]]:
            yield self._first
            yield from self._frames

        for pts, frame in frames():
            if self._stop is not None and pts * base >= self._stop - base / 2:
                break
            if (frame.width, frame.height) != self._size:
                raise self._broken(
                    f"its size changes from {self._size[0]}x{self._size[1]} "
                    f"to {frame.width}x{frame.height}"
                )
            if length == 0:
                pixels, times = np.empty(shape, np.uint8), np.empty(self._chunk, np.int64)
            self._to_rgb(frame, pixels[length])
            times[length] = pts - self._origin
            length += 1
            if length == self._chunk:
                yield Chunk(pixels, times)
                length = 0
        else:
            self._check_end()
        if length:
            yield Chunk(pixels[:length], times[:length])

    def __iter__(self) -> Iterator[Chunk]:
        if self._prefetch is not None:
            raise ValueError("[marey.video.Reader] a Reader yields its frames once; open another")
        self._prefetch = _Prefetch(self._chunks())
        for chunk in self._prefetch:
            yield chunk
        for note in self._notes:
            warnings.warn(f"{self._name}: {note}", stacklevel=2)

    def close(self) -> None:
        """Stop decoding and close the file."""
        if self._prefetch is not None:
            self._prefetch.close()
        self._container.close()

    def __enter__(self) -> Reader:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()


class _Target:
    """A file that appears under its name when it is complete, and not at all otherwise."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.name = os.fspath(path)
        final = os.path.realpath(self.name)
        folder, base = os.path.split(final)
        wanted = "[marey.video.Writer] path: expected a file that can be written; found"
        if os.path.isdir(final):
            raise IsADirectoryError(f"{wanted} the directory {self.name!r}")
        if not os.path.isdir(folder):
            raise FileNotFoundError(f"{wanted} no directory {os.path.dirname(self.name)!r}")
        stem, extension = os.path.splitext(base)
        self._final = final
        self.partial = os.path.join(folder, f".{stem}.{secrets.token_hex(4)}.partial{extension}")
        try:
            # Through open(), so that the file gets the permissions that the user's umask gives.
            with open(self.partial, "xb"):
                pass
        except OSError as error:
            raise type(error)(f"{wanted} {self.name!r} ({error.strerror})") from error
        self.discard: Callable[[], object] = weakref.finalize(self, _unlink, self.partial)

    def commit(self) -> None:
        os.replace(self.partial, self._final)


def _unlink(path: str) -> None:
    with contextlib.suppress(OSError):
        os.unlink(path)


class _AudioCopy:
    """Copies the packets of every audio stream that the target can hold."""

    def __init__(self, track: AudioTrack, output: Any) -> None:
        self.refused: list[str] = []
        self._track = track
        self._input = _open_input(track.path, "marey.video.Writer")
        self._streams: dict[int, Any] = {}
        for stream in self._input.streams.audio:
            try:
                copy = output.add_stream_from_template(stream)
            except (ValueError, av.FFmpegError):
                self.refused.append(stream.codec.canonical_name)
                continue
            if "language" in stream.metadata:
                copy.metadata["language"] = stream.metadata["language"]
            self._streams[stream.index] = copy
        wanted = [s for s in self._input.streams.audio if s.index in self._streams]
        if track.cut and wanted:
            self._input.seek(int(track.start * 1_000_000))
        self._packets = self._input.demux(wanted) if wanted else iter(())
        self._held: Any = None

    def copy(self, output: Any, until: Fraction | None) -> None:
        """Write the packets that begin before `until` (seconds of the target; None: all)."""
        while True:
            packet, self._held = self._held or next(self._packets, None), None
            if packet is None:
                return
            if packet.dts is None:  # the demuxer's sign that a stream has ended
                continue
            base = packet.time_base
            shift = round(self._track.start / base)
            if self._track.stop is not None and packet.dts * base >= self._track.stop:
                continue
            if self._track.cut and packet.dts < shift:
                continue
            if until is not None and (packet.dts - shift) * base >= until:
                self._held = packet
                return
            packet.stream = self._streams[packet.stream.index]
            packet.dts -= shift
            if packet.pts is not None:
                packet.pts -= shift
            output.mux(packet)

    def close(self) -> None:
        self._input.close()


_CAN_TAG_ORIENTATION = hasattr(av.video.stream.VideoStream, "set_display_matrix")  # PyAV 18

_H264 = "libx264"
_VP9 = "libvpx-vp9"
_FORMATS = {
    ".mp4": ("mp4", _H264),
    ".m4v": ("mp4", _H264),
    ".mov": ("mov", _H264),
    ".mkv": ("matroska", _H264),
    ".webm": ("webm", _VP9),
    ".avi": ("avi", _H264),
}


class Writer:
    """Writes RGB frames as H.264 (.mp4, .m4v, .mov, .mkv, .avi) or VP9 (.webm), 8-bit 4:2:0.

    A thread converts and encodes one chunk behind the caller. The file takes its name, replacing
    what was there, when `close` succeeds; after an error inside ``with``, or `abort`, nothing
    is left and what was there is untouched.
    Memory: two chunks beside the encoder's own.

    H.264 in 4:2:0 needs even sizes: an odd last row or column is doubled. AVI holds only evenly
    spaced frames and no orientation; where a target cannot hold the orientation (AVI, or PyAV
    before 18) the frames themselves are turned.

    Parameters
    ----------
    path : str or path-like
        Its extension chooses the container.
    shape : (int, int)
        Rows and columns of the frames.
    frame_rate : float or Fraction
        Frames a second. With `pts` in `write` only the nominal rate.
    like : VideoInfo, optional
        Take colour tags, time base, orientation, pixel aspect ratio and metadata from there.
        By default the stream is tagged BT.709, limited range.
    audio : AudioTrack, optional
        Copied as it is, without encoding; a warning says what the container cannot hold.
    crf : int, optional
        Constant quality: smaller is better and larger in bytes. By default 16 (H.264: hard to
        tell from the source), 20 (VP9).
    preset : str
        x264's speed: "ultrafast" to "veryslow".
    threads : int
        For the encoder; 0 lets it choose.

    Raises
    ------
    ValueError
        Unknown extension; frames of another shape; `like` or `audio` is the target itself.
    OSError
        The target cannot be written.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        shape: tuple[int, int],
        frame_rate: float | Fraction,
        *,
        like: VideoInfo | None = None,
        audio: AudioTrack | None = None,
        crf: int | None = None,
        preset: str = "veryfast",
        threads: int = 0,
    ) -> None:
        name = os.fspath(path)
        extension = os.path.splitext(name)[1].lower()
        if extension not in _FORMATS:
            raise ValueError(
                f"[marey.video.Writer] path: expected a name that ends in "
                f"{', '.join(_FORMATS)}; found {name!r}"
            )
        for source in (like.path if like else None, audio.path if audio else None):
            if source is not None and _same_file(source, name):
                raise ValueError(
                    f"[marey.video.Writer] path: expected another file than the input; "
                    f"found {name!r}"
                )
        self._shape = (int(shape[0]), int(shape[1]))
        if min(self._shape) < 1:
            raise ValueError(f"[marey.video.Writer] shape: expected (H, W) >= 1; found {shape}")
        self._rate = _rational(frame_rate, "frame_rate", "marey.video.Writer")
        self._format, self._codec = _FORMATS[extension]
        self._like, self._track = like, audio
        self._options = self._encoder_options(crf, preset)
        self._threads = threads
        self._time_base = Fraction(1, (like.time_base if like else 1 / self._rate).denominator)
        if self._format == "avi":
            self._time_base = 1 / self._rate
        self.frames = 0
        """Frames accepted so far."""
        self._last_pts: int | None = None
        self._uneven = False
        self._error: BaseException | None = None
        self._done = False
        self._target = _Target(name)
        try:
            self._open()
        except BaseException:
            self._target.discard()
            raise
        self._queue: queue.Queue[Chunk | None] = queue.Queue(1)
        self._abort = threading.Event()
        self._thread = threading.Thread(target=self._run, name="marey-writer", daemon=True)
        self._thread.start()

    def _encoder_options(self, crf: int | None, preset: str) -> dict[str, str]:
        if self._codec == _VP9:
            quality = str(20 if crf is None else crf)
            return {"crf": quality, "deadline": "good", "cpu-used": "4", "row-mt": "1"}
        options = {"crf": str(16 if crf is None else crf), "preset": preset}
        # AVI has no composition times, which B-frames need.
        return options | {"bf": "0"} if self._format == "avi" else options

    def _open(self) -> None:
        """Open the container and write its header; a second time without audio if it refuses."""
        try:
            self._open_container(self._track)
        except (ValueError, av.FFmpegError) as error:
            self._close_container()
            if self._track is None:
                reason = getattr(error, "strerror", None) or str(error)
                raise ValueError(
                    f"[marey.video.Writer] path: expected a video that {self._codec} can encode; "
                    f"found {self._target.name!r}, {self._shape[1]}x{self._shape[0]} ({reason})"
                ) from error
            self._open_container(None)
            self._warn_audio(["all streams"])

    def _open_container(self, track: AudioTrack | None) -> None:
        options = {"movflags": "+faststart"} if self._format in {"mp4", "mov"} else {}
        self._container = av.open(
            self._target.partial, "w", format=self._format, options=options
        )
        self._audio: _AudioCopy | None = None
        stream: Any = self._container.add_stream(
            self._codec, rate=self._rate, options=self._options, time_base=self._time_base
        )
        self._stream = stream
        height, width = self._shape
        color, aspect, matrix = ColorTags(), Fraction(1), None
        if self._like is not None:
            aspect, matrix = self._like.sample_aspect_ratio, self._like.display_matrix
            color = self._like.color
            if (self._like.height, self._like.width) != self._shape:
                color = color.resolved(self._like.height)
            for key in ("title", "creation_time", "comment"):
                if key in self._like.metadata:
                    self._container.metadata[key] = self._like.metadata[key]
        self._orientation = _Orientation()
        if matrix is not None:
            if self._format != "avi" and _CAN_TAG_ORIENTATION:
                stream.set_display_matrix(matrix)
            else:
                self._orientation = _Orientation.from_matrix(matrix)
        if self._orientation.transpose:
            height, width, aspect = width, height, 1 / aspect
        self._pad = (height % 2, width % 2) if self._codec == _H264 else (0, 0)
        stream.height, stream.width = height + self._pad[0], width + self._pad[1]
        stream.pix_fmt = "yuv420p"
        context = stream.codec_context
        context.sample_aspect_ratio = aspect
        context.color_range = color.range
        context.colorspace = color.matrix
        context.color_primaries = color.primaries
        context.color_trc = color.transfer
        context.thread_count = self._threads
        self._from_rgb = _FromRgb(color, height)
        if track is not None:
            self._audio = _AudioCopy(track, self._container)
        self._container.start_encoding()
        if self._audio is not None and self._audio.refused:
            self._warn_audio(self._audio.refused)

    def _warn_audio(self, refused: list[str]) -> None:
        warnings.warn(
            f"{self._target.name}: audio left out ({', '.join(refused)}): "
            f"the {self._format} container cannot hold it",
            stacklevel=5,
        )

    def write(
        self, frames: NDArray[np.uint8], pts: NDArray[np.int64] | None = None
    ) -> None:
        """Append frames; returns when they are queued.

        Parameters
        ----------
        frames : ndarray of uint8, (T, H, W, 3), or (T, H, W) for grey
            Not to be changed afterwards: they are read in another thread.
        pts : ndarray of int, (T,), optional
            Presentation times in ``like.time_base``; by default evenly spaced.
        """
        pixels = np.asarray(frames)
        if pixels.dtype != np.uint8:
            raise TypeError(
                f"[marey.video.Writer.write] frames: expected uint8; found {pixels.dtype}"
            )
        if pixels.ndim == 3:
            pixels = np.broadcast_to(pixels[..., None], (*pixels.shape, 3))
        if pixels.ndim != 4 or pixels.shape[1:] != (*self._shape, 3):
            raise ValueError(
                f"[marey.video.Writer.write] frames: expected (T, {self._shape[0]}, "
                f"{self._shape[1]}, 3); found {np.shape(frames)}"
            )
        index = np.arange(self.frames, self.frames + len(pixels))
        if pts is None:
            step = 1 / (self._rate * self._time_base)
            times = np.array([round(int(i) * step) for i in index], np.int64)
        else:
            times = np.asarray(pts, np.int64)
            if times.shape != index.shape:
                raise ValueError(
                    f"[marey.video.Writer.write] pts: expected {index.shape}; found {times.shape}"
                )
            unit = self._like.time_base if self._like is not None else self._time_base
            scale = unit / self._time_base
            if scale != 1:
                exact = [int(p) * scale for p in times]
                times = np.array([round(p) for p in exact], np.int64)
                # What the container cannot say to a third of a frame is worth a word.
                self._uneven |= self._format == "avi" and any(
                    abs(p - int(t)) > Fraction(1, 3) for p, t in zip(exact, times, strict=True)
                )
        self.frames += len(pixels)
        self._put(Chunk(pixels, times))

    def _put(self, item: Chunk | None) -> None:
        while True:
            if self._error is not None:
                self.abort()
                raise self._error
            with contextlib.suppress(queue.Full):
                self._queue.put(item, timeout=0.1)
                return

    def _run(self) -> None:
        try:
            while not self._abort.is_set():
                try:
                    chunk = self._queue.get(timeout=0.1)
                except queue.Empty:
                    continue
                if chunk is None:
                    self._mux(self._stream.encode(None))
                    if self._audio is not None:
                        self._audio.copy(self._container, None)
                    self._container.close()
                    return
                for pixels, pts in zip(chunk.frames, chunk.pts, strict=True):
                    if self._abort.is_set():
                        return
                    self._encode(pixels, int(pts))
        except av.FFmpegError as error:
            self._error = OSError(
                error.errno,
                f"[marey.video.Writer] path: expected a file that can be written; "
                f"found {self._target.name!r} ({error.strerror})",
            )
        except BaseException as error:
            self._error = error

    def _encode(self, pixels: Frames, pts: int) -> None:
        pixels = self._orientation.apply(pixels)
        if any(self._pad):
            pixels = np.pad(pixels, [(0, self._pad[0]), (0, self._pad[1]), (0, 0)], mode="edge")
        if pixels.strides != (3 * pixels.shape[1], 3, 1):
            pixels = pixels.copy()
        frame = self._from_rgb(pixels)
        if self._last_pts is not None and pts <= self._last_pts:
            pts, self._uneven = self._last_pts + 1, True
        self._last_pts = pts
        frame.pts, frame.time_base = pts, self._time_base
        self._mux(self._stream.encode(frame))

    def _mux(self, packets: list[Any]) -> None:
        nominal = round(1 / (self._rate * self._time_base))
        for packet in packets:
            # Containers take it for the last frame; the others end where the next begins.
            packet.duration = packet.duration or nominal
            if self._audio is not None:
                self._audio.copy(self._container, packet.dts * packet.time_base)
            self._container.mux(packet)

    def _close_container(self) -> None:
        container = getattr(self, "_container", None)
        if container is not None:
            with contextlib.suppress(av.FFmpegError, OSError, ValueError):
                container.close()
        if getattr(self, "_audio", None) is not None:
            self._audio.close()  # type: ignore[union-attr]

    def close(self) -> None:
        """Finish the file and give it its name."""
        if self._done:
            return
        if self.frames == 0:
            self.abort()
            raise ValueError("[marey.video.Writer] frames: expected at least one; found none")
        try:
            self._put(None)
            self._thread.join()
        except BaseException:
            self.abort()
            raise
        if self._error is not None:
            self.abort()
            raise self._error
        self._done = True
        if self._audio is not None:
            self._audio.close()
        self._target.commit()
        self._target.discard()
        if self._uneven:
            warnings.warn(
                f"{self._target.name}: frame times were moved, as {self._format} needs "
                "them evenly spaced" if self._format == "avi" else
                f"{self._target.name}: frame times were moved to make them increase",
                stacklevel=2,
            )

    def abort(self) -> None:
        """Stop, and leave no trace."""
        if self._done:
            return
        self._done = True
        self._abort.set()
        self._thread.join()
        self._close_container()
        self._target.discard()

    def __enter__(self) -> Writer:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if kind is None:
            self.close()
        else:
            self.abort()


def _same_file(a: str, b: str) -> bool:
    return os.path.exists(a) and os.path.exists(b) and os.path.samefile(a, b)


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
        length = max(1, min(16, CHUNK_BYTES // max(1, 3 * height * width)))
        for begin in range(0, len(pixels), length):
            writer.write(pixels[begin : begin + length])
