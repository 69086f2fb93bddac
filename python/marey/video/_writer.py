"""Writing: convert, encode and mux in a thread, into a file that appears when it is complete."""

from __future__ import annotations

import contextlib
import math
import os
import queue
import secrets
import threading
import warnings
import weakref
from fractions import Fraction
from typing import TYPE_CHECKING, Any

import av
import numpy as np

from marey.video._color import FromRgb
from marey.video._reader import open_input
from marey.video._stream import AudioTrack, Chunk, ColorTags, Frames, Orientation, VideoInfo

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

    from numpy.typing import NDArray


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
        stem = stem[:100]  # a long name must not become too long
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
        self._input = open_input(track.path, "marey.video.Writer")
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
        self._last_dts: dict[int, int] = {}
        self.broken = False

    def _next(self) -> Any:
        """The next packet, or None; what the source has lost is the reader's to complain of."""
        if self.broken:
            return None
        try:
            return next(self._packets, None)
        except av.FFmpegError:
            self.broken = True
            return None

    def copy(self, output: Any, until: Fraction | None) -> None:
        """Write the packets that begin before `until` (seconds of the target; None: all)."""
        while True:
            packet, self._held = self._held or self._next(), None
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
            index = packet.stream.index
            if packet.dts <= self._last_dts.get(index, packet.dts - 1):
                continue  # no container takes packets that go back in time
            self._last_dts[index] = packet.dts
            packet.stream = self._streams[index]
            packet.dts -= shift
            if packet.pts is not None:
                packet.pts -= shift
            output.mux(packet)

    def close(self) -> None:
        self._input.close()


CAN_TAG_ORIENTATION = hasattr(av.video.stream.VideoStream, "set_display_matrix")  # from PyAV 17.1

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
    before 17.1) the frames themselves are turned.

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
        self._time_base = self._choose_time_base()
        self.frames = 0
        """Frames accepted so far."""
        self._last_pts: int | None = None
        self._uneven = False
        self._notes: list[str] = []
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

    def _choose_time_base(self) -> Fraction:
        """In which the source's times and, if it may be, evenly spaced ones are whole numbers."""
        if self._format == "avi":  # counts frames
            return 1 / self._rate
        source = self._like.time_base.denominator if self._like is not None else 1
        common = math.lcm(source, self._rate.numerator)
        return Fraction(1, common if common <= 10_000_000 else source)

    def _encoder_options(self, crf: int | None, preset: str) -> dict[str, str]:
        if self._codec == _VP9:
            quality = str(20 if crf is None else crf)
            return {"crf": quality, "deadline": "good", "cpu-used": "4", "row-mt": "1"}
        options = {"crf": str(16 if crf is None else crf), "preset": preset}
        # AVI has no composition times, which B-frames need.
        return options | {"bf": "0"} if self._format == "avi" else options

    def _open(self) -> None:
        """Open the container and write its header; a second time without audio if it refuses."""
        for track in (self._track, None):
            try:
                self._open_container(track)
            except (ValueError, av.FFmpegError) as error:
                self._close_container()
                if track is not None:
                    continue
                reason = getattr(error, "strerror", None) or str(error)
                raise ValueError(
                    f"[marey.video.Writer] path: expected a video that {self._codec} can encode; "
                    f"found {self._target.name!r}, {self._shape[1]}x{self._shape[0]} ({reason})"
                ) from error
            refused = ["all of it"] if self._audio is None else self._audio.refused
            if self._track is not None and refused:
                self._notes.append(
                    f"audio left out ({', '.join(refused)}): "
                    f"the {self._format} container cannot hold it"
                )
            return

    def _open_container(self, track: AudioTrack | None) -> None:
        options = {"movflags": "+faststart"} if self._format in {"mp4", "mov"} else {}
        self._container = av.open(self._target.partial, "w", format=self._format, options=options)
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
        self._orientation = Orientation()
        if matrix is not None:
            if self._format != "avi" and CAN_TAG_ORIENTATION:
                stream.set_display_matrix(matrix)
            else:
                self._orientation = Orientation.from_matrix(matrix)
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
        self._from_rgb = FromRgb(color, height)
        if track is not None:
            self._audio = _AudioCopy(track, self._container)
        self._container.start_encoding()

    def write(self, frames: NDArray[np.uint8], pts: NDArray[np.int64] | None = None) -> None:
        """Append frames; returns when they are queued.

        Parameters
        ----------
        frames : ndarray of uint8, (T, H, W, 3), or (T, H, W) for grey
            Not to be changed afterwards: they are read in another thread.
        pts : ndarray of int, (T,), optional
            Presentation times in ``like.time_base``; by default evenly spaced.
        """
        if self._done:
            raise ValueError("[marey.video.Writer.write] the file is closed: open another Writer")
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
            if self._audio.broken:
                self._notes.append("the audio breaks off before its end")
        self._target.commit()
        self._target.discard()
        if self._uneven:
            need = "evenly spaced" if self._format == "avi" else "increasing"
            self._notes.append(f"frame times were moved: {self._format} needs them {need}")
        for note in self._notes:
            warnings.warn(f"{self._target.name}: {note}", stacklevel=3)

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


def _same_file(a: str, b: str) -> bool:
    return os.path.exists(a) and os.path.exists(b) and os.path.samefile(a, b)
