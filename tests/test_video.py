"""Reading and writing video files: colours, sizes, times, orientation, audio, and bad input."""

import os
import subprocess
import sys
import threading
import warnings
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

av = pytest.importorskip("av")

from marey import video  # noqa: E402
from marey.video import _color, _writer  # noqa: E402

EXTENSIONS = (".mp4", ".mov", ".m4v", ".mkv", ".webm", ".avi")
KR_KB = {1: (0.2126, 0.0722), 6: (0.299, 0.114), 5: (0.299, 0.114), 9: (0.2627, 0.0593)}


def moving(count=20, height=64, width=96):
    """Smooth, colourful frames, each unlike the others."""
    t, y, x = np.ogrid[:count, :height, :width]
    red = 128 + 80 * np.sin(2 * np.pi * (x / 150 + t / 40))
    green = 128 + 80 * np.sin(2 * np.pi * (y / 120 - t / 60))
    blue = 90 + 2 * t + 0 * x + 0 * y
    return np.stack(np.broadcast_arrays(red, green, blue), axis=-1).astype(np.uint8)


def encode(
    path,
    planes,
    *,
    rate=30,
    pts=None,
    time_base=None,
    color=(0, 2, 2, 2),
    matrix=None,
    tone=None,
    options=None,
    audio_codec="aac",
):
    """A lossless H.264 file of yuv420p planes, written by PyAV alone."""
    height, width = planes[0][0].shape
    base = time_base or Fraction(1, rate)
    with av.open(str(path), "w", options=options or {}) as output:
        stream = output.add_stream("libx264", rate=rate, options={"qp": "0"}, time_base=base)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        context = stream.codec_context
        context.color_range, context.colorspace, context.color_primaries, context.color_trc = color
        if matrix is not None:
            stream.set_display_matrix(matrix)
        sound = None
        if tone is not None:
            sound = output.add_stream(audio_codec, rate=48000)
            sound.layout = "mono"
        for index, parts in enumerate(planes):
            frame = av.VideoFrame(width, height, "yuv420p")
            for plane, values in zip(frame.planes, parts, strict=True):
                rows = np.frombuffer(plane, np.uint8).reshape(plane.height, -1)
                rows[:, : plane.width] = values
            frame.pts, frame.time_base = index if pts is None else pts[index], base
            output.mux(stream.encode(frame))
        output.mux(stream.encode(None))
        if sound is not None:
            samples = tone.astype(np.float32)[None]
            frame = av.AudioFrame.from_ndarray(samples, format="fltp", layout="mono")
            frame.sample_rate, frame.pts, frame.time_base = 48000, 0, Fraction(1, 48000)
            resampler = av.AudioResampler(sound.format, "mono", 48000, frame_size=1024)
            for part in (*resampler.resample(frame), *resampler.resample(None)):
                output.mux(sound.encode(part))
            output.mux(sound.encode(None))


def grey_planes(frames):
    """yuv420p planes of grey frames (T, H, W) of even size."""
    chroma = np.full((frames.shape[1] // 2, frames.shape[2] // 2), 128, np.uint8)
    return [(frame, chroma, chroma) for frame in frames]


def counting(count=30, height=48, width=64):
    """Grey frames that show their own number, twice as bright at the top left."""
    frames = np.zeros((count, height, width), np.uint8)
    frames[:] = 40 + 4 * np.arange(count)[:, None, None]
    frames[:, : height // 2, : width // 4] += 60
    return frames


def number_of(frame):
    """The number that a frame of `counting` shows, from its lower right corner."""
    luma = 16 + 219 * float(frame[-8:, -8:].mean()) / 255
    return round((luma - 40) / 4)


def pts_of(path):
    with video.Reader(path) as reader:
        pts = np.concatenate([chunk.pts for chunk in reader])
        return [int(p) * reader.info.time_base for p in pts]


def sound_of(path):
    with av.open(str(path)) as container:
        return np.concatenate([f.to_ndarray()[0] for f in container.decode(audio=0)])


def packets_of(path):
    with av.open(str(path)) as container:
        packets = [p for p in container.demux(audio=0) if p.dts is not None]
        return [(p.pts * p.time_base, bytes(p)) for p in packets]


def rms(a, b):
    return float(np.sqrt(np.mean((a.astype(np.float64) - b) ** 2)))


def leftovers(folder):
    return [name for name in os.listdir(folder) if "partial" in name]


# --- frames and colours ---------------------------------------------------------------------------


@pytest.mark.parametrize("extension", EXTENSIONS)
def test_written_frames_are_read_back(tmp_path, extension):
    frames = moving()
    video.write(tmp_path / f"a{extension}", frames, 25)
    back, fps = video.read(tmp_path / f"a{extension}")
    assert fps == 25
    assert back.shape == frames.shape
    assert back.dtype == np.uint8
    assert rms(back, frames) < 2
    assert np.abs(back.mean((0, 1, 2)) - frames.mean((0, 1, 2))).max() < 0.4


def test_grey_frames_become_grey_video(tmp_path):
    frames = moving()[..., 0]
    video.write(tmp_path / "a.mp4", frames, 30)
    back, _ = video.read(tmp_path / "a.mp4")
    assert rms(back, frames[..., None]) < 2
    assert np.ptp(back.mean((0, 1, 2))) < 0.5


def bars(height=64, width=128):
    """One frame of 16 colours in blocks, so that halved chroma loses nothing."""
    rng = np.random.default_rng(3)
    colors = rng.integers(40, 216, (16, 3)).astype(np.float64)
    rgb = np.empty((height, width, 3))
    for index, color in enumerate(colors):
        rgb[:, index * 8 : index * 8 + 8] = color
    return rgb


def to_yuv(rgb, matrix, full):
    """ITU-T H.273, equations 41 to 43 and 47 to 52, in float64."""
    kr, kb = KR_KB[matrix]
    y = kr * rgb[..., 0] + (1 - kr - kb) * rgb[..., 1] + kb * rgb[..., 2]
    cb = (rgb[..., 2] - y) / (2 * (1 - kb))
    cr = (rgb[..., 0] - y) / (2 * (1 - kr))
    if not full:
        y, cb, cr = 16 + y * 219 / 255, cb * 224 / 255, cr * 224 / 255
    planes = (y, 128 + cb[::2, ::2], 128 + cr[::2, ::2])
    return tuple(np.rint(plane).astype(np.uint8) for plane in planes)


# The middle of each bar: interpolated chroma blurs their borders.
MIDDLE = np.arange(128) % 8 // 2 == 1


@pytest.mark.parametrize("extension", [".mp4", ".mkv", ".webm"])
@pytest.mark.parametrize("full", [False, True], ids=["limited", "full"])
@pytest.mark.parametrize("matrix", [1, 5, 6, 9])
def test_range_and_matrix_are_respected_and_kept(tmp_path, matrix, full, extension):
    rgb = bars()
    tags = (2 if full else 1, matrix, 1, 1)
    encode(tmp_path / "a.mp4", [to_yuv(rgb, matrix, full)] * 3, color=tags)
    target = tmp_path / f"b{extension}"
    with video.Reader(tmp_path / "a.mp4") as reader:
        assert reader.info.color == tags
        (chunk,) = reader
        with video.Writer(target, (64, 128), 30, like=reader.info, crf=4) as writer:
            writer.write(chunk.frames, chunk.pts)
    decoded = chunk.frames[:, :, MIDDLE]
    # Codes are whole numbers: half a code of each of Y, Cb, Cr.
    assert np.abs(decoded - rgb[:, MIDDLE]).max() <= 2.0
    assert np.abs((decoded - rgb[:, MIDDLE]).mean((0, 1, 2))).max() < 0.4
    with video.Reader(target) as reader:
        # VP9 itself knows no primaries; the container's tags hold.
        assert reader.info.color == tags
        (again,) = reader
    assert np.abs((again.frames - chunk.frames.astype(float)).mean((0, 1, 2))).max() < 0.5


@pytest.mark.parametrize("full", [False, True], ids=["limited", "full"])
def test_conversion_to_yuv_is_unbiased(full):
    rng = np.random.default_rng(0)
    blocks = rng.integers(30, 226, (16, 16, 3)).astype(np.uint8)
    rgb = np.repeat(np.repeat(blocks, 16, 0), 16, 1)
    tags = video.ColorTags(2 if full else 1, 6, 6, 6)
    frame = _color.FromRgb(tags, 256)(rgb)
    kr, kb = KR_KB[6]
    y = rgb @ np.array([kr, 1 - kr - kb, kb])
    cb, cr = (rgb[..., 2] - y) / (2 * (1 - kb)), (rgb[..., 0] - y) / (2 * (1 - kr))
    scale = (1.0, 1.0, 0.0) if full else (219 / 255, 224 / 255, 16.0)
    expected = (scale[2] + y * scale[0], 128 + cb * scale[1], 128 + cr * scale[1])
    for plane, values in zip(frame.planes, expected, strict=True):
        got = _color.pixels_of(plane).astype(float)
        step = 256 // plane.width
        centre = slice(8 // step, None, 16 // step)  # away from the borders of the blocks
        wanted = values[8::16, 8::16]
        assert abs((got[centre, centre] - wanted).mean()) < 0.1
        assert np.abs(got[centre, centre] - wanted).max() < 1.1


def test_untagged_video_stays_untagged_and_keeps_its_colours(tmp_path):
    encode(tmp_path / "a.mp4", [to_yuv(bars(), 6, False)] * 3)
    with video.Reader(tmp_path / "a.mp4") as reader:
        (chunk,) = reader
        assert reader.info.color.matrix == 2
        # Below 720 lines BT.601 is assumed.
        assert np.abs(chunk.frames[:, :, MIDDLE] - bars()[:, MIDDLE]).max() <= 2.0
        video.write(tmp_path / "b.mp4", chunk.frames, 30, like=reader.info)
    with video.Reader(tmp_path / "b.mp4") as reader:
        assert reader.info.color.matrix == 2
    # Of another size the guess could change: the assumed matrix is stated.
    wide = np.concatenate((chunk.frames, chunk.frames), axis=2)
    with video.Reader(tmp_path / "a.mp4") as reader:
        video.write(tmp_path / "c.mp4", wide, 30, like=reader.info)
    with video.Reader(tmp_path / "c.mp4") as reader:
        assert reader.info.color.matrix == 6


def test_new_files_are_tagged_bt709(tmp_path):
    video.write(tmp_path / "a.mp4", moving(4), 30)
    with video.Reader(tmp_path / "a.mp4") as reader:
        assert reader.info.color == (1, 1, 1, 1)
        assert "BT.709" in reader.info.color.describe()


def test_rgb_video_is_read_exactly(tmp_path):
    frames = moving(5)
    with av.open(str(tmp_path / "a.mkv"), "w") as output:
        stream = output.add_stream("ffv1", rate=30)
        stream.height, stream.width, stream.pix_fmt = 64, 96, "bgr0"
        for frame in frames:
            picture = av.VideoFrame.from_ndarray(frame, "rgb24").reformat(format="bgr0")
            output.mux(stream.encode(picture))
        output.mux(stream.encode(None))
    back, _ = video.read(tmp_path / "a.mkv")
    assert np.array_equal(back, frames)


# --- sizes, chunks, parts -------------------------------------------------------------------------


def test_grey_video_is_read_exactly(tmp_path):
    grey = moving(5)[..., 0]
    with av.open(str(tmp_path / "a.mkv"), "w") as output:
        stream = output.add_stream("ffv1", rate=30)
        stream.height, stream.width, stream.pix_fmt = 64, 96, "gray"
        for frame in grey:
            output.mux(stream.encode(av.VideoFrame.from_ndarray(frame, "gray")))
        output.mux(stream.encode(None))
    back, _ = video.read(tmp_path / "a.mkv")
    assert np.array_equal(back, np.repeat(grey[..., None], 3, -1))


@pytest.mark.parametrize("extension", EXTENSIONS)
@pytest.mark.parametrize("shape", [(97, 113), (64, 33), (1, 1), (3, 50)])
def test_any_size_can_be_written(tmp_path, shape, extension):
    frames = moving(3, *shape)
    video.write(tmp_path / f"a{extension}", frames, 30)
    back, _ = video.read(tmp_path / f"a{extension}")
    if extension == ".webm":
        assert back.shape == frames.shape
    else:  # H.264 in 4:2:0 is even; the last row and column are doubled
        assert back.shape[1:3] == tuple(n + n % 2 for n in shape)
    assert np.abs(back[:, : shape[0], : shape[1]].mean((1, 2)) - frames.mean((1, 2))).max() < 4


@pytest.mark.parametrize("chunk", [1, 7, 30, 100])
def test_chunking_changes_nothing(tmp_path, chunk):
    encode(tmp_path / "a.mp4", grey_planes(counting(30)))
    whole, _ = video.read(tmp_path / "a.mp4")
    with video.Reader(tmp_path / "a.mp4", chunk=chunk) as reader:
        parts = list(reader)
    assert [len(p.frames) for p in parts[:-1]] == [chunk] * (len(parts) - 1)
    assert np.array_equal(np.concatenate([p.frames for p in parts]), whole)
    assert [number_of(f) for f in whole] == list(range(30))


@pytest.mark.parametrize(
    ("start", "duration", "expected"),
    [
        (0, 0.5, range(15)),
        (0.2, None, range(6, 30)),
        (0.31, 0.1, range(10, 13)),
        (0.9, 9, (27, 28, 29)),
    ],
)
def test_a_part_is_read_to_the_frame(tmp_path, start, duration, expected):
    encode(tmp_path / "a.mp4", grey_planes(counting(30)))
    frames, _ = video.read(tmp_path / "a.mp4", start=start, duration=duration)
    assert [number_of(f) for f in frames] == list(expected)


def test_a_part_beyond_the_end_is_an_error(tmp_path):
    encode(tmp_path / "a.mp4", grey_planes(counting(30)))
    with pytest.raises(ValueError, match=r"start: expected less than the length .* found 5 s"):
        video.Reader(tmp_path / "a.mp4", start=5)


def test_info_describes_the_file(tmp_path):
    encode(tmp_path / "a.mp4", grey_planes(counting(30)), rate=Fraction(30000, 1001))
    with video.Reader(tmp_path / "a.mp4") as reader:
        info = reader.info
    assert (info.width, info.height, info.frames) == (64, 48, 30)
    assert info.frame_rate == Fraction(30000, 1001)
    assert info.duration == pytest.approx(30 * 1001 / 30000, abs=1e-4)
    assert (info.codec, info.pixel_format) == ("h264", "yuv420p")
    assert info.audio == ()


def test_a_reader_yields_its_frames_once(tmp_path):
    encode(tmp_path / "a.mp4", grey_planes(counting(4)))
    with video.Reader(tmp_path / "a.mp4") as reader:
        list(reader)
        with pytest.raises(ValueError, match="yields its frames once"):
            list(reader)


def test_leaving_a_reader_early_stops_its_thread(tmp_path):
    encode(tmp_path / "a.mp4", grey_planes(counting(50)))
    with video.Reader(tmp_path / "a.mp4", chunk=1) as reader:
        for _ in reader:
            break
    assert not [t for t in threading.enumerate() if t.name.startswith("marey-")]


# --- times ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("rate", [24, 29.97, 30000 / 1001, Fraction(60000, 1001), 600])
@pytest.mark.parametrize("extension", [".mp4", ".mkv", ".avi"])
def test_frame_rate_survives(tmp_path, rate, extension):
    video.write(tmp_path / f"a{extension}", moving(30), rate)
    with video.Reader(tmp_path / f"a{extension}") as reader:
        assert float(reader.info.frame_rate) == pytest.approx(float(rate), rel=2e-3)


def test_evenly_spaced_frames_need_not_fit_the_time_base_of_the_source(tmp_path):
    encode(tmp_path / "a.mp4", grey_planes(counting(4)), rate=24, time_base=Fraction(1, 24))
    with video.Reader(tmp_path / "a.mp4") as reader:
        info = reader.info
    video.write(tmp_path / "b.mp4", moving(9, 48, 64), 100, like=info)
    assert pts_of(tmp_path / "b.mp4") == [Fraction(i, 100) for i in range(9)]


def test_ntsc_rates_become_exact_fractions(tmp_path):
    video.write(tmp_path / "a.mp4", moving(30), 29.97003)
    assert pts_of(tmp_path / "a.mp4") == [Fraction(1001 * i, 30000) for i in range(30)]


UNEVEN = [0, 3, 4, 9, 15, 16, 30, 31, 47, 60]


@pytest.mark.parametrize(("extension", "tolerance"), [(".mp4", 0), (".mov", 0), (".mkv", 0.0006)])
def test_uneven_frame_times_are_kept(tmp_path, extension, tolerance):
    base = Fraction(1, 90)
    encode(tmp_path / "a.mp4", grey_planes(counting(10)), pts=UNEVEN, time_base=base)
    target = tmp_path / f"b{extension}"
    with video.Reader(tmp_path / "a.mp4") as reader:
        rate = reader.info.frame_rate
        with video.Writer(target, (48, 64), rate, like=reader.info) as writer:
            for chunk in reader:
                writer.write(chunk.frames, chunk.pts)
    times = np.array(pts_of(target), float)
    assert np.abs(times - np.array(UNEVEN) / 90).max() <= tolerance
    assert [number_of(f) for f in video.read(target)[0]] == list(range(10))


def test_avi_says_that_it_moves_uneven_frames(tmp_path):
    encode(tmp_path / "a.mp4", grey_planes(counting(10)), pts=UNEVEN, time_base=Fraction(1, 90))
    with video.Reader(tmp_path / "a.mp4") as reader:
        (chunk,) = reader
        with (
            pytest.warns(UserWarning, match="frame times were moved"),
            video.Writer(tmp_path / "b.avi", (48, 64), 10, like=reader.info) as writer,
        ):
            writer.write(chunk.frames, chunk.pts)
    assert len(video.read(tmp_path / "b.avi")[0]) == 10


def test_evenly_spaced_frames_go_to_avi_without_a_word(tmp_path):
    encode(tmp_path / "a.mp4", grey_planes(counting(10)))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with video.Reader(tmp_path / "a.mp4") as reader:
            (chunk,) = reader
            with video.Writer(tmp_path / "b.avi", (48, 64), 30, like=reader.info) as writer:
                writer.write(chunk.frames, chunk.pts)
    assert pts_of(tmp_path / "b.avi") == [Fraction(i, 30) for i in range(10)]


# --- orientation ----------------------------------------------------------------------------------

ONE = 1 << 16
# FFmpeg's layout (a b u / c d v / x y w), and what a player makes of an image.
MATRICES = {
    "90 ccw": ((0, -ONE, 0, ONE, 0, 0, 0, 0, 1 << 30), lambda a: np.rot90(a, 1)),
    "180": ((-ONE, 0, 0, 0, -ONE, 0, 0, 0, 1 << 30), lambda a: np.rot90(a, 2)),
    "270 ccw": ((0, ONE, 0, -ONE, 0, 0, 0, 0, 1 << 30), lambda a: np.rot90(a, 3)),
    "mirrored": ((-ONE, 0, 0, 0, ONE, 0, 0, 0, 1 << 30), lambda a: a[:, ::-1]),
    "transposed": ((0, ONE, 0, ONE, 0, 0, 0, 0, 1 << 30), lambda a: a.swapaxes(0, 1)),
}
can_tag_rotation = pytest.mark.skipif(
    not hasattr(av.video.stream.VideoStream, "set_display_matrix"),
    reason="this PyAV cannot write an orientation, so there is no rotated source to test with",
)


@can_tag_rotation
@pytest.mark.parametrize("name", MATRICES)
@pytest.mark.parametrize("extension", [".mp4", ".mov", ".mkv", ".avi"])
def test_orientation_is_kept(tmp_path, name, extension):
    matrix, turn = MATRICES[name]
    frames = counting(4)
    encode(tmp_path / "plain.mp4", grey_planes(frames))
    encode(tmp_path / "a.mp4", grey_planes(frames), matrix=matrix)
    plain, _ = video.read(tmp_path / "plain.mp4")
    upright, _ = video.read(tmp_path / "a.mp4")
    assert np.array_equal(upright[0], turn(plain[0]))

    target = tmp_path / f"b{extension}"
    with video.Reader(tmp_path / "a.mp4", upright=False) as reader:
        info = reader.info
        assert (info.height, info.width) == (48, 64)
        with video.Writer(target, (48, 64), 30, like=info, crf=4) as writer:
            for chunk in reader:
                writer.write(chunk.frames, chunk.pts)
    shown, _ = video.read(target)
    assert shown.shape == upright.shape
    assert rms(shown, upright) < 3
    with video.Reader(target) as reader:
        tagged = reader.info.rotation == info.rotation
    if extension in {".mp4", ".mov"}:
        assert tagged  # handed on as a tag, not by turning pixels


@can_tag_rotation
@pytest.mark.parametrize(("name", "degrees"), [("90 ccw", 90), ("180", 180), ("270 ccw", 270)])
def test_another_player_agrees_about_the_rotation(tmp_path, name, degrees):
    cv2 = pytest.importorskip("cv2")
    encode(tmp_path / "a.mp4", grey_planes(counting(4)), matrix=MATRICES[name][0])
    capture = cv2.VideoCapture(str(tmp_path / "a.mp4"))
    frame = capture.read()[1]
    capture.release()
    ours, _ = video.read(tmp_path / "a.mp4")
    assert frame.shape == ours[0].shape
    assert rms(frame, ours[0]) < 4
    with video.Reader(tmp_path / "a.mp4") as reader:
        assert reader.info.rotation == degrees


@can_tag_rotation
def test_where_the_orientation_cannot_be_tagged_the_frames_are_turned(tmp_path, monkeypatch):
    encode(tmp_path / "a.mp4", grey_planes(counting(4)), matrix=MATRICES["90 ccw"][0])
    upright, _ = video.read(tmp_path / "a.mp4")
    monkeypatch.setattr(_writer, "CAN_TAG_ORIENTATION", False)
    with video.Reader(tmp_path / "a.mp4", upright=False) as reader:
        (chunk,) = reader
        video.write(tmp_path / "b.mp4", chunk.frames, 30, like=reader.info, crf=4)
    with video.Reader(tmp_path / "b.mp4", upright=False) as reader:
        (chunk,) = reader
        assert reader.info.rotation == 0
    assert rms(chunk.frames, upright) < 3


def test_pixel_aspect_ratio_is_kept(tmp_path):
    with av.open(str(tmp_path / "a.mp4"), "w") as output:
        stream = output.add_stream("libx264", rate=30)
        stream.height, stream.width, stream.pix_fmt = 64, 96, "yuv420p"
        stream.codec_context.sample_aspect_ratio = Fraction(4, 3)
        for frame in moving(5):
            output.mux(stream.encode(av.VideoFrame.from_ndarray(frame, "rgb24")))
        output.mux(stream.encode(None))
    with video.Reader(tmp_path / "a.mp4") as reader:
        (chunk,) = reader
        video.write(tmp_path / "b.mp4", chunk.frames, 30, like=reader.info)
    with video.Reader(tmp_path / "b.mp4") as reader:
        assert reader.info.sample_aspect_ratio == Fraction(4, 3)


# --- audio ----------------------------------------------------------------------------------------


@pytest.fixture
def talkie(tmp_path):
    """One second of counting frames with a tone that starts at 0.5 s."""
    time = np.arange(48000) / 48000
    tone = np.where(time >= 0.5, 0.5 * np.sin(2 * np.pi * 440 * time), 0.0)
    encode(tmp_path / "talkie.mp4", grey_planes(counting(30)), tone=tone)
    return tmp_path / "talkie.mp4"


def rewrite(source, target, **part):
    with video.Reader(source, **part) as reader:
        shape = (reader.info.height, reader.info.width)
        rate = reader.info.frame_rate
        with video.Writer(target, shape, rate, like=reader.info, audio=reader.audio) as writer:
            for chunk in reader:
                writer.write(chunk.frames, chunk.pts)


@pytest.mark.parametrize("extension", [".mp4", ".mov", ".mkv"])
def test_audio_is_copied_untouched(talkie, tmp_path, extension):
    rewrite(talkie, tmp_path / f"b{extension}")
    before, after = packets_of(talkie), packets_of(tmp_path / f"b{extension}")
    assert [data for _, data in after] == [data for _, data in before]
    # Matroska counts in milliseconds, and lets the priming samples begin at 0 instead of below it.
    first = pts_of(tmp_path / f"b{extension}")[0]
    shift = [float(b - first - a) for (a, _), (b, _) in zip(before, after, strict=True)]
    assert np.abs(shift).max() < 0.002
    with video.Reader(tmp_path / f"b{extension}") as reader:
        assert reader.info.audio == ("aac",)


def test_audio_stays_in_step_when_a_part_is_taken(talkie, tmp_path):
    rewrite(talkie, tmp_path / "b.mp4", start=0.3, duration=0.5)
    sound = sound_of(tmp_path / "b.mp4")
    onset = np.argmax(np.abs(sound) > 0.1) / 48000
    # A packet is 21 ms long and is not cut.
    assert onset == pytest.approx(0.2, abs=0.025)
    assert len(sound) / 48000 == pytest.approx(0.5, abs=0.05)
    assert len(video.read(tmp_path / "b.mp4")[0]) == 15


def test_a_container_that_cannot_hold_the_audio_says_so(talkie, tmp_path):
    with pytest.warns(UserWarning, match=r"audio left out \(aac\): the webm container"):
        rewrite(talkie, tmp_path / "b.webm")
    with video.Reader(tmp_path / "b.webm") as reader:
        assert reader.info.audio == ()
        assert sum(len(chunk.frames) for chunk in reader) == 30


# --- the file as a whole --------------------------------------------------------------------------


def test_mp4_begins_with_its_index(tmp_path):
    video.write(tmp_path / "a.mp4", moving(), 30)
    data = (tmp_path / "a.mp4").read_bytes()
    assert 0 < data.find(b"moov") < data.find(b"mdat")


def test_an_error_leaves_no_file_and_keeps_the_old_one(tmp_path):
    target = tmp_path / "a.mp4"
    target.write_bytes(b"old")

    def fail():
        with video.Writer(target, (64, 96), 30) as writer:
            writer.write(moving())
            raise RuntimeError("mine")

    with pytest.raises(RuntimeError, match="mine"):
        fail()
    assert target.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["a.mp4"]


def test_an_error_in_the_encoder_reaches_the_caller(tmp_path, monkeypatch):
    def fail(*_):
        raise OSError("disk full")

    monkeypatch.setattr(video.Writer, "_mux", fail)
    frames = np.concatenate([moving(10)] * 20)
    with pytest.raises(OSError, match="disk full"):
        video.write(tmp_path / "a.mp4", frames, 30)
    assert os.listdir(tmp_path) == []


def test_the_target_appears_when_it_is_complete(tmp_path):
    target = tmp_path / "a.mp4"
    target.write_bytes(b"old")
    with video.Writer(target, (64, 96), 30) as writer:
        writer.write(moving())
        assert target.read_bytes() == b"old"
        assert len(leftovers(tmp_path)) == 1
    assert os.listdir(tmp_path) == ["a.mp4"]
    assert len(video.read(target)[0]) == 20


def test_permissions_follow_the_umask(tmp_path):
    before = os.umask(0o027)
    try:
        video.write(tmp_path / "a.mp4", moving(3), 30)
    finally:
        os.umask(before)
    assert (tmp_path / "a.mp4").stat().st_mode & 0o777 == 0o640


def test_a_link_is_written_through(tmp_path):
    (tmp_path / "there").mkdir()
    os.symlink(tmp_path / "there" / "real.mp4", tmp_path / "link.mp4")
    video.write(tmp_path / "link.mp4", moving(3), 30)
    assert (tmp_path / "link.mp4").is_symlink()
    assert len(video.read(tmp_path / "there" / "real.mp4")[0]) == 3


def test_the_input_is_never_the_output(tmp_path):
    video.write(tmp_path / "a.mp4", moving(3), 30)
    os.symlink(tmp_path / "a.mp4", tmp_path / "b.mp4")
    data = (tmp_path / "a.mp4").read_bytes()
    for name in ("a.mp4", "b.mp4"):
        with (
            video.Reader(tmp_path / "a.mp4") as reader,
            pytest.raises(ValueError, match="expected another file than the input"),
        ):
            video.Writer(tmp_path / name, (64, 96), 30, like=reader.info)
    assert (tmp_path / "a.mp4").read_bytes() == data


# --- bad input ------------------------------------------------------------------------------------


def broken(tmp_path):
    """Files that are no video, each with the error it must give."""
    (tmp_path / "empty.mp4").write_bytes(b"")
    (tmp_path / "text.mp4").write_text("not a video\n" * 50)
    (tmp_path / "notes.txt").write_text("not a video\n" * 50)
    with av.open(str(tmp_path / "sound.wav"), "w") as output:
        stream = output.add_stream("pcm_s16le", rate=8000)
        stream.layout = "mono"
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 800), np.int16), "s16", "mono")
        frame.sample_rate = 8000
        output.mux(stream.encode(frame))
        output.mux(stream.encode(None))
    video.write(tmp_path / "whole.mp4", moving(), 30)
    data = (tmp_path / "whole.mp4").read_bytes()
    (tmp_path / "headless.mp4").write_bytes(data[len(data) // 3 :])
    (tmp_path / "stub.mp4").write_bytes(data[: len(data) // 5])
    return {
        "missing.mp4": (FileNotFoundError, "found no file"),
        ".": (IsADirectoryError, "found the directory"),
        "empty.mp4": (ValueError, "which is empty"),
        "text.mp4": (ValueError, "none that FFmpeg can open"),
        "notes.txt": (ValueError, "holds no video stream"),
        "sound.wav": (ValueError, "holds no video stream"),
        "headless.mp4": (ValueError, "none that FFmpeg can open"),
        "stub.mp4": (ValueError, "no frame can be decoded|none that FFmpeg can open|breaks off"),
    }


def test_what_is_no_video_is_an_error_that_says_why(tmp_path):
    for name, (kind, message) in broken(tmp_path).items():
        with pytest.raises(kind, match=message):
            video.read(tmp_path / name)


@pytest.mark.parametrize("extension", [".mp4", ".mov", ".mkv", ".webm"])
@pytest.mark.parametrize("share", [0.5, 0.8])
def test_a_truncated_file_is_an_error_that_says_after_how_many_frames(tmp_path, share, extension):
    noise = np.random.default_rng(0).integers(0, 256, (90, 64, 96, 3), np.uint8)
    video.write(tmp_path / f"a{extension}", noise, 30)
    data = (tmp_path / f"a{extension}").read_bytes()
    (tmp_path / f"b{extension}").write_bytes(data[: int(share * len(data))])
    with pytest.raises(ValueError, match=r"breaks off after \d+ frames"):
        video.read(tmp_path / f"b{extension}")


def test_damage_in_the_middle_is_an_error_that_says_after_how_many_frames(tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (90, 64, 96, 3), np.uint8)
    video.write(tmp_path / "a.mp4", noise, 30)
    data = bytearray((tmp_path / "a.mp4").read_bytes())
    middle = len(data) // 2
    data[middle : middle + 100_000] = bytes(100_000)
    (tmp_path / "b.mp4").write_bytes(data)
    with pytest.raises(ValueError, match=r"breaks off after \d+ frames"):
        video.read(tmp_path / "b.mp4")


@pytest.mark.skipif(hasattr(os, "geteuid") and os.geteuid() == 0, reason="root may do everything")
def test_forbidden_files_and_folders(tmp_path):
    video.write(tmp_path / "a.mp4", moving(3), 30)
    (tmp_path / "a.mp4").chmod(0)
    with pytest.raises(PermissionError, match="may not be read"):
        video.read(tmp_path / "a.mp4")
    tmp_path.chmod(0o500)
    with pytest.raises(PermissionError, match="can be written"):
        video.write(tmp_path / "b.mp4", moving(3), 30)


@pytest.mark.parametrize(
    ("arguments", "kind", "message"),
    [
        (("a.xyz", (4, 4), 30), ValueError, r"name that ends in \.mp4"),
        (("a", (4, 4), 30), ValueError, r"name that ends in \.mp4"),
        (("a.mp4", (0, 4), 30), ValueError, "shape: expected"),
        (("a.mp4", (4, 4), 0), ValueError, "frame_rate: expected"),
        (("a.mp4", (4, 4), float("nan")), ValueError, "frame_rate: expected"),
        (("no/such/a.mp4", (4, 4), 30), FileNotFoundError, "found no directory"),
        (("folder.mp4", (4, 4), 30), IsADirectoryError, "found the directory"),
        (("a.mp4", (40000, 40000), 30), ValueError, "that libx264 can encode"),
    ],
)
def test_bad_targets(tmp_path, monkeypatch, arguments, kind, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder.mp4").mkdir()
    with pytest.raises(kind, match=message):
        video.Writer(*arguments)
    assert os.listdir(tmp_path) == ["folder.mp4"]


def test_bad_frames(tmp_path):
    with video.Writer(tmp_path / "a.mp4", (64, 96), 30) as writer:
        with pytest.raises(TypeError, match=r"frames: expected uint8; found float64"):
            writer.write(moving() / 255)
        with pytest.raises(ValueError, match=r"frames: expected \(T, 64, 96, 3\)"):
            writer.write(moving(3, 64, 64))
        with pytest.raises(ValueError, match=r"pts: expected \(3,\); found \(2,\)"):
            writer.write(moving(3), np.arange(2))
        writer.write(moving(3))
    with pytest.raises(ValueError, match="the file is closed"):
        writer.write(moving(3))
    with pytest.raises(ValueError, match="at least one"):
        video.write(tmp_path / "b.mp4", moving(3)[:0], 30)
    assert os.listdir(tmp_path) == ["a.mp4"]


def test_without_pyav_the_error_says_what_to_install():
    code = "import sys; sys.modules['av'] = None\nimport marey.video"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 1
    assert "ImportError: marey.video needs PyAV: pip install 'marey[video]'" in result.stderr


# --- real clips -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["baby.mp4", "crane_crop.mp4", "bikes.mp4"])
def test_real_clips_keep_colours_tags_times_and_audio(data: Path, tmp_path, name):
    part = {"duration": 1.0}
    rewrite(data / name, tmp_path / "b.mp4", **part)
    before, fps = video.read(data / name, **part)
    after, fps_after = video.read(tmp_path / "b.mp4")
    assert after.shape == before.shape
    assert fps_after == pytest.approx(fps, rel=1e-3)
    assert np.abs(after.mean((0, 1, 2)) - before.mean((0, 1, 2))).max() < 0.5
    with video.Reader(data / name) as a, video.Reader(tmp_path / "b.mp4") as b:
        assert a.info.color == b.info.color
        assert a.info.audio == b.info.audio
    assert pts_of(tmp_path / "b.mp4") == pytest.approx(
        [float(t) for t in pts_of(data / name)[: len(after)]], abs=1e-4
    )
