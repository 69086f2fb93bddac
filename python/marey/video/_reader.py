"""Reading: demux and decode in a thread, convert, and notice what is broken."""

from __future__ import annotations

import contextlib
import os
import queue
import threading
import warnings
from fractions import Fraction
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import av
import numpy as np

from marey.video._color import ToRgb
from marey.video._stream import (
    FULL,
    AudioTrack,
    Chunk,
    ColorTags,
    Orientation,
    VideoInfo,
    chunk_length,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

T = TypeVar("T")


class Prefetch(Generic[T]):
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


def open_input(path: str | os.PathLike[str], function: str) -> Any:
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
    Memory: two chunks beside the decoder's own.

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
        self._container = open_input(path, "marey.video.Reader")
        self._prefetch: Prefetch[Chunk] | None = None
        self._notes: list[str] = []
        self._count = self._last_pts = 0
        try:
            self._stream = self._video_stream()
            self._stream.thread_type = "AUTO"
            self._begin(start, duration)
            self._describe(upright, start, duration)
        except BaseException:
            self._container.close()
            raise
        height, width = self.info.height, self.info.width
        self._chunk = chunk or chunk_length(height, width)
        if self._chunk < 1:
            raise ValueError(f"[marey.video.Reader] chunk: expected an integer >= 1; found {chunk}")

    def _video_stream(self) -> Any:
        for stream in self._container.streams.video:
            cover = av.stream.Disposition.attached_pic in stream.disposition
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
            with contextlib.suppress(av.FFmpegError):  # else decode up to there
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
        self._audio_origin = self._origin * base
        if self._container.format.name == "avi":
            # AVI states no presentation times, and those that are guessed begin a frame late.
            self._origin = self._first[0]
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
            part = max(1, round(length * rate))
            frames = part if frames is None else min(frames, part)

        matrix = None
        for data in frame.side_data:
            if data.type.name == "DISPLAYMATRIX":
                matrix = tuple(int(v) for v in np.frombuffer(data, np.int32))
        orientation = Orientation.from_matrix(matrix) if upright else Orientation()
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
            color = color._replace(range=FULL)
        self._to_rgb = ToRgb(color, frame.height, orientation)
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
            codec=stream.codec.canonical_name,
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
            self.audio = AudioTrack(self._name, self._audio_origin, self._stop, start > 0)

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
                raise self._broken(str(error.strerror)) from error
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
                raise self._broken(str(error.strerror)) from error
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
        self._prefetch = Prefetch(self._chunks())
        yield from self._prefetch
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
