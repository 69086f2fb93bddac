"""The `marey` command: what it writes, says and returns."""

import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import asdict
from fractions import Fraction

import numpy as np
import pytest

av = pytest.importorskip("av")

import marey  # noqa: E402
from marey import synthetic, video  # noqa: E402
from marey.cli import _demo, _magnify, main  # noqa: E402
from marey.video import _writer  # noqa: E402

SCENE = synthetic.Scene(height=96, width=144)


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    """Two seconds of a scene with known motion and colour, coded well."""
    path = tmp_path_factory.mktemp("clip") / "clip.mp4"
    video.write(path, SCENE.frames(0, 60), 30, crf=6)
    return path


def run(*arguments):
    return main([str(argument) for argument in arguments])


def start(*arguments, **options):
    return subprocess.Popen(
        [sys.executable, "-m", "marey", *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **options,
    )


def settings(*options):
    return _magnify.settings(parse("a.mp4", "b.mp4", *options))


def parse(*arguments):
    from marey.cli import _parser

    return _parser().parse_args(["magnify", *map(str, arguments)])


# --- magnify --------------------------------------------------------------------------------------


def test_magnify_writes_what_the_library_computes(clip, tmp_path, capsys):
    target = tmp_path / "out.mp4"
    options = {"cutoff": 12, "chroma": 0.2, "levels": 4, "order": 2}
    arguments = [word for name, value in options.items() for word in (f"--{name}", value)]
    code = run("magnify", clip, target, "--low", 0.6, "--high", 2.4, "--alpha", 15, *arguments)
    assert code == 0
    frames, fps = video.read(clip)
    expected = marey.magnify(frames, fps, 0.6, 2.4, 15, **options)
    written, fps_written = video.read(target)
    assert fps_written == fps
    assert written.shape == expected.shape
    assert np.sqrt(np.mean((written - expected.astype(float)) ** 2)) < 3
    assert np.abs(expected.astype(float) - frames).mean() > 1  # or the test would say nothing

    out, err = capsys.readouterr()
    assert re.fullmatch(
        rf"60 frames, 144x96, \d+\.\d\d s, \d+\.\d frames/s: {re.escape(str(target))}\n", out
    )
    assert err == ""


def test_color_mode_and_quiet(clip, tmp_path, capsys):
    target = tmp_path / "out.mkv"
    assert run(
        "magnify", clip, target, "--mode", "color", "--low", 0.8, "--high", 1.5, "--levels", 3,
        "--quiet",
    ) == 0  # fmt: skip
    assert capsys.readouterr() == ("", "")
    frames, fps = video.read(clip)
    expected = marey.magnify(frames, fps, 0.8, 1.5, 50, mode="color", chroma=1, levels=3)
    written, _ = video.read(target)
    assert np.sqrt(np.mean((written - expected.astype(float)) ** 2)) < 3


def test_compare_shows_the_original_at_the_left(clip, tmp_path):
    target = tmp_path / "out.mp4"
    assert run("magnify", clip, target, "--preset", "baby", "--compare", "--quiet") == 0
    frames, fps = video.read(clip)
    both, _ = video.read(target)
    assert both.shape == (60, 96, 288, 3)
    assert np.sqrt(np.mean((both[:, :, :144] - frames.astype(float)) ** 2)) < 4
    expected = marey.magnify(frames, fps, 0.4, 3, 10, cutoff=16, chroma=0.1)
    assert np.sqrt(np.mean((both[:, :, 144:] - expected.astype(float)) ** 2)) < 4


def test_compare_of_a_turned_clip_is_upright(tmp_path):
    if not _writer.CAN_TAG_ORIENTATION:
        pytest.skip("this PyAV cannot write an orientation, so there is no rotated source")
    one = 1 << 16
    info_frames = SCENE.frames(0, 20)
    source, target = tmp_path / "in.mp4", tmp_path / "out.mp4"
    video.write(tmp_path / "flat.mp4", info_frames, 30)
    with video.Reader(tmp_path / "flat.mp4") as reader:
        info = reader.info
    turned = type(info)(**(vars(info) | {"display_matrix": (0, -one, 0, one, 0, 0, 0, 0, 1 << 30)}))
    video.write(source, info_frames, 30, like=turned)
    assert run("magnify", source, target, "--preset", "baby", "--compare", "--quiet") == 0
    both, _ = video.read(target)
    assert both.shape == (20, 144, 192, 3)  # each side 144 rows, 96 columns
    upright, _ = video.read(source)
    assert np.sqrt(np.mean((both[:, :, :96] - upright.astype(float)) ** 2)) < 5


def test_fs_overrides_the_frame_rate_of_the_file(clip, tmp_path):
    # As in the guitar clip: filmed at 600 Hz, stored at 30.
    assert run("magnify", clip, tmp_path / "a.mp4", "--preset", "guitar", "--quiet") == 0
    frames, _ = video.read(clip)
    expected = marey.magnify(frames, 600, 72, 92, 50, cutoff=10, chroma=0)
    written, fps = video.read(tmp_path / "a.mp4")
    assert fps == 30
    assert np.sqrt(np.mean((written - expected.astype(float)) ** 2)) < 5


def test_a_part_can_be_magnified(clip, tmp_path):
    assert run(
        "magnify", clip, tmp_path / "a.mp4", "--preset", "baby", "--start", 0.5, "--duration", 1
    ) == 0  # fmt: skip
    assert len(video.read(tmp_path / "a.mp4")[0]) == 30


def test_threads_are_set_for_this_run_only(clip, tmp_path, monkeypatch):
    seen = []
    feed = marey.Magnifier.feed
    monkeypatch.setattr(
        marey.Magnifier,
        "feed",
        lambda *a: seen.append(marey.config.get_num_threads()) or feed(*a),
    )
    before = marey.config.get_num_threads()
    assert run("magnify", clip, tmp_path / "a.mp4", "--preset", "baby", "--threads", 1) == 0
    assert set(seen) == {1}
    assert marey.config.get_num_threads() == before


def test_an_existing_target_is_replaced(clip, tmp_path):
    (tmp_path / "a.mp4").write_bytes(b"old")
    assert run("magnify", clip, tmp_path / "a.mp4", "--preset", "baby", "--quiet") == 0
    assert len(video.read(tmp_path / "a.mp4")[0]) == 60


# --- presets --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("baby", (0.4, 3, 10, "motion", 16, 0.1, None, None, "linear", 2)),
        ("face", (5 / 6, 1, 50, "color", None, 1, 4, None, "linear", 2)),
        ("guitar", (72, 92, 50, "motion", 10, 0, None, 600, "linear", 2)),
        ("subway", (3.6, 6.2, 60, "motion", 90, 0.3, None, None, "linear", 2)),
        ("baby-phase", (0.4, 3, 20, "motion", None, 0.1, None, None, "phase", 5)),
        ("crane", (0.2, 0.25, 75, "motion", None, 0.1, None, 24, "phase", 5)),
        ("guitar-phase", (72, 92, 25, "motion", None, 0.1, None, 600, "phase", 2)),
    ],
)
def test_presets_hold_the_published_parameters(name, expected):
    every = (*expected, 8, 1, False)  # orientations, octave_fraction, attenuate
    assert tuple(asdict(settings("--preset", name)).values()) == pytest.approx(every)


@pytest.mark.parametrize("name", _magnify.PRESETS)
def test_every_preset_is_accepted_by_the_magnifier(name):
    s = settings("--preset", name)
    fs = s.fs or 30
    marey.Magnifier(
        (32, 32, 3), fs, s.low, s.high, s.alpha,
        mode=s.mode, cutoff=s.cutoff, chroma=s.chroma, levels=s.levels,
        method=s.method, sigma=s.sigma, attenuate=s.attenuate,
        orientations=s.orientations, octave_fraction=s.octave_fraction,
    )  # fmt: skip


def test_explicit_options_override_the_preset():
    s = settings("--preset", "baby", "--alpha", 25, "--cutoff", 0, "--high", 2)
    assert (s.low, s.high, s.alpha, s.cutoff, s.chroma) == (0.4, 2, 25, 0, 0.1)
    # What means another thing in the other mode, or nothing to the method, is not taken over.
    s = settings("--preset", "baby", "--method", "riesz", "--sigma", 3)
    assert (s.low, s.alpha, s.method, s.sigma, s.cutoff) == (0.4, 10, "riesz", 3, None)
    s = settings(
        "--preset", "crane", "--attenuate", "--orientations", 4, "--octave-fraction", "1/2"
    )
    assert (s.attenuate, s.orientations, s.octave_fraction, s.sigma) == (True, 4, 0.5, 5)
    s = settings("--preset", "face", "--mode", "motion")
    assert (s.low, s.alpha, s.mode, s.levels) == (5 / 6, 50, "motion", None)


def test_without_a_preset_the_band_is_asked_for(capsys):
    s = settings("--low", 1, "--high", 2)
    assert (s.alpha, s.mode, s.chroma) == (10, "motion", 0.1)
    s = settings("--low", 1, "--high", 2, "--mode", "color")
    assert (s.alpha, s.chroma) == (50, 1)
    assert run("magnify", "a.mp4", "b.mp4", "--high", 2) == 2
    assert capsys.readouterr().err == (
        "marey: error: expected --low and --high, or --preset; found no --low\n"
    )


# --- bad input ------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path, clip):
    (tmp_path / "clip.mp4").write_bytes(clip.read_bytes())
    (tmp_path / "empty.mp4").write_bytes(b"")
    (tmp_path / "text.mp4").write_text("no video\n" * 30)
    (tmp_path / "cut.mp4").write_bytes(clip.read_bytes()[: clip.stat().st_size * 3 // 4])
    video.write(tmp_path / "two.mp4", SCENE.frames(0, 2), 30)
    (tmp_path / "out.mp4").write_bytes(b"old")
    return tmp_path


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["no.mp4", "out.mp4"], "expected a video file; found no file 'no.mp4'"),
        (["empty.mp4", "out.mp4"], "expected a video file; found 'empty.mp4', which is empty"),
        (["text.mp4", "out.mp4"], "found 'text.mp4', which is none that FFmpeg can open"),
        ([".", "out.mp4"], "expected a video file; found the directory '.'"),
        (["cut.mp4", "out.mp4"], r"found 'cut.mp4', which breaks off after \d+ frames"),
        (["two.mp4", "out.mp4"], r"expected at least 3 frames .* found 2 in 'two.mp4'"),
        (["clip.mp4", "clip.mp4"], "expected another file than the input; found 'clip.mp4'"),
        (["clip.mp4", "out.xyz"], r"expected a name that ends in \.mp4, .* found 'out.xyz'"),
        (
            ["clip.mp4", "no/out.mp4"],
            "expected a file that can be written; found no directory 'no'",
        ),
        (["clip.mp4", "."], r"expected a name that ends in \.mp4"),
        (["clip.mp4", "out.mp4", "--high", "15"], "15"),
        (["clip.mp4", "out.mp4", "--low", "4"], "4"),
        (["clip.mp4", "out.mp4", "--low", "0"], "--low: expected a frequency in Hz > 0; found '0'"),
        (["clip.mp4", "out.mp4", "--low", "nan"], "--low: expected .*; found 'nan'"),
        (["clip.mp4", "out.mp4", "--alpha", "nan"], "--alpha: expected .*; found 'nan'"),
        (["clip.mp4", "out.mp4", "--alpha", "inf"], "--alpha: expected .*; found 'inf'"),
        (["clip.mp4", "out.mp4", "--cutoff=-1"], "--cutoff: expected .*; found '-1'"),
        (["clip.mp4", "out.mp4", "--fs", "1/0"], "--fs: expected .*; found '1/0'"),
        (["clip.mp4", "out.mp4", "--levels", "0"], "--levels: expected an integer from 1 to 30"),
        (["clip.mp4", "out.mp4", "--threads", "x"], "--threads: expected an integer"),
        (["clip.mp4", "out.mp4", "--mode", "sound"], "--mode: invalid choice: 'sound'"),
        (["clip.mp4", "out.mp4", "--start", "99"], "start: expected less than the length of"),
        (["clip.mp4"], "the following arguments are required: OUT"),
        (["clip.mp4", "out.mp4", "--colour"], "unrecognized arguments: --colour"),
    ],
)
def test_bad_input_is_one_line_exit_code_2_and_no_output(
    folder, monkeypatch, capsys, arguments, message
):
    monkeypatch.chdir(folder)
    before = sorted(os.listdir())
    assert run("magnify", *arguments[:2], "--preset", "baby", *arguments[2:]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert re.fullmatch(rf"marey: error: .*{message}.*\n", err), err
    assert "[marey" not in err
    assert sorted(os.listdir()) == before
    assert (folder / "out.mp4").read_bytes() == b"old"


@pytest.mark.skipif(hasattr(os, "geteuid") and os.geteuid() == 0, reason="root may write anywhere")
def test_a_forbidden_folder(folder, capsys):
    folder.chmod(0o500)
    assert run("magnify", folder / "clip.mp4", folder / "new.mp4", "--preset", "baby") == 2
    assert "Permission denied" in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [[], ["magnify"], ["sing"], ["--fast"]])
def test_bad_commands(arguments, capsys):
    assert run(*arguments) == 2
    err = capsys.readouterr().err
    assert err.startswith("marey: error: ")
    assert err.count("\n") == 1


@pytest.mark.parametrize("missing", ["av", "matplotlib"])
def test_a_missing_extra_is_named(missing, tmp_path):
    command = ["demo", "--out", str(tmp_path / "d")]
    code = (
        f"import sys; sys.modules[{missing!r}] = None\n"
        f"from marey.cli import main\nsys.exit(main({command}))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 2
    assert re.fullmatch(r"marey: error: .*pip install 'marey\[video\]'\n", result.stderr)


def test_a_missing_tqdm_is_not_fatal(clip, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tqdm", None)
    assert run("magnify", clip, tmp_path / "a.mp4", "--preset", "baby") == 0


# --- warnings -------------------------------------------------------------------------------------


def test_a_clip_shorter_than_a_period_gives_a_warning(clip, tmp_path, capsys):
    assert run("magnify", clip, tmp_path / "a.mp4", "--low", 0.1, "--high", 3) == 0
    err = capsys.readouterr().err
    assert err.startswith("marey: warning: 2 s of video are less than one period of 0.1 Hz")


def test_uneven_frame_times_give_a_warning_and_are_kept(tmp_path, capsys):
    times = np.cumsum(np.r_[0, np.tile([1, 5, 1], 13)])
    base = Fraction(1, 90)
    with av.open(str(tmp_path / "a.mp4"), "w") as output:
        stream = output.add_stream("libx264", rate=30, time_base=base)
        stream.height, stream.width, stream.pix_fmt = 96, 144, "yuv420p"
        for pts, frame in zip(times, SCENE.frames(0, 40), strict=True):
            picture = av.VideoFrame.from_ndarray(frame, "rgb24")
            picture.pts, picture.time_base = int(pts), base
            output.mux(stream.encode(picture))
        output.mux(stream.encode(None))
    assert run("magnify", tmp_path / "a.mp4", tmp_path / "b.mp4", "--low", 2, "--high", 4) == 0
    assert "the frames are not evenly spaced in time" in capsys.readouterr().err
    with video.Reader(tmp_path / "b.mp4") as reader:
        pts = np.concatenate([chunk.pts for chunk in reader])
        assert np.array_equal(pts * reader.info.time_base * 90, times)


# --- interruptions --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def long_clip(tmp_path_factory):
    """Far more frames than can be magnified while a test waits."""
    path = tmp_path_factory.mktemp("long") / "long.mp4"
    frames = np.repeat(np.repeat(SCENE.frames(0, 16), 4, 1), 4, 2)
    with video.Writer(path, frames.shape[1:3], 30, preset="ultrafast", crf=30) as writer:
        for _ in range(60):
            writer.write(frames)
    return path


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_interrupted_runs_leave_nothing(long_clip, tmp_path, number, code):
    (tmp_path / "out.mp4").write_bytes(b"old")
    process = start("magnify", long_clip, tmp_path / "out.mp4", "--preset", "baby")
    deadline = time.monotonic() + 30
    # Once its partial file holds data, it is in the middle of the work.
    while not any(p.stat().st_size for p in tmp_path.glob(".*partial*")):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(number)
    out, err = process.communicate(timeout=30)
    assert process.returncode == code, err
    assert out == ""
    assert "Traceback" not in err
    if number == signal.SIGINT:
        assert err == "marey: stopped: nothing was written\n"
    assert os.listdir(tmp_path) == ["out.mp4"]
    assert (tmp_path / "out.mp4").read_bytes() == b"old"


def test_a_closed_pipe_is_no_error():
    read, write = os.pipe()
    os.close(read)
    try:
        result = subprocess.run(
            [sys.executable, "-m", "marey", "info"], stdout=write, stderr=subprocess.PIPE, text=True
        )
    finally:
        os.close(write)
    assert result.stderr == ""
    assert result.returncode == 141


def test_the_progress_bar_shows_frames_a_second_and_the_time_left(clip, tmp_path):
    pty = pytest.importorskip("pty")
    pytest.importorskip("tqdm")
    import fcntl
    import struct
    import termios

    leader, follower = pty.openpty()
    fcntl.ioctl(follower, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 100, 0, 0))
    process = subprocess.Popen(
        [sys.executable, "-m", "marey", "magnify", clip, tmp_path / "a.mp4", "--preset", "baby"],
        stdout=subprocess.DEVNULL,
        stderr=follower,
    )
    os.close(follower)
    shown = b""
    while True:
        try:
            data = os.read(leader, 4096)
        except OSError:  # Linux: the other end is closed
            break
        if not data:
            break
        shown += data
    os.close(leader)
    assert process.wait() == 0
    text = shown.decode()
    assert "60/60" in text
    assert re.search(r"\d\d:\d\d<\d\d:\d\d", text)
    assert "frames/s" in text


# --- memory ---------------------------------------------------------------------------------------


@pytest.mark.skipif(
    not os.path.exists("/proc/self/status"), reason="peak memory is read from /proc"
)
def test_memory_does_not_grow_with_the_length(tmp_path):
    height, width = 240, 320
    frame = np.repeat(np.repeat(SCENE.frames(0, 1)[0, :80, :80], 3, 0), 4, 1)
    # Not ru_maxrss: on Linux a child inherits that from whoever started it.
    code = (
        "import re, sys\nfrom marey.cli import main\n"
        "assert main(sys.argv[1:]) == 0\n"
        "print(re.search(r'VmHWM:\\s*(\\d+) kB', open('/proc/self/status').read())[1])"
    )
    command = ["magnify", tmp_path / "in.mp4", tmp_path / "out.mp4", "--preset", "baby", "--quiet"]
    peaks = []
    for count in (120, 600):
        with video.Writer(tmp_path / "in.mp4", (height, width), 30, preset="ultrafast") as writer:
            for _ in range(count // 10):
                writer.write(np.broadcast_to(frame, (10, *frame.shape)))
        result = subprocess.run(
            [sys.executable, "-c", code, *map(str, command)], capture_output=True, check=True
        )
        peaks.append(int(result.stdout) / 1024)
    # 480 more frames are 105 MiB.
    assert 30 < peaks[0] < 400
    assert peaks[1] - peaks[0] < 20


# --- info and demo --------------------------------------------------------------------------------


def test_info_describes_a_file(clip, capsys):
    assert run("info", clip) == 0
    lines = dict(
        re.split(r"  +", line, maxsplit=1) for line in capsys.readouterr().out.splitlines()
    )
    assert lines["size"] == "144x96 pixels"
    assert lines["frame rate"] == "30 frames/s (30)"
    assert lines["frames"] == "60"
    assert lines["duration"] == "2.000 s"
    assert lines["codec"].startswith("h264, yuv420p")
    assert lines["colours"].startswith("range limited, matrix BT.709")
    assert lines["audio"] == "none"


def test_info_describes_the_build(capsys):
    assert run("info") == 0
    out = capsys.readouterr().out
    assert marey.__version__ in out
    assert all(isa in out for isa in marey.config.available_isas())


def test_info_on_a_bad_file(tmp_path, capsys):
    assert run("info", tmp_path / "no.mp4") == 2
    assert "found no file" in capsys.readouterr().err


@pytest.mark.parametrize("command", [[], ["magnify"], ["info"], ["demo"]])
def test_help_and_version(command, capsys):
    with pytest.raises(SystemExit) as done:
        run(*command, "--help")
    assert done.value.code == 0
    assert capsys.readouterr().out.startswith("usage: marey")
    with pytest.raises(SystemExit):
        run("--version")
    assert capsys.readouterr().out == f"marey {marey.__version__}\n"


def test_the_demo_finds_what_is_true(tmp_path, capsys, monkeypatch):
    pytest.importorskip("matplotlib")
    monkeypatch.setattr(_demo, "SECONDS", 6)
    assert run("demo", "--out", tmp_path / "demo") == 0
    assert sorted(os.listdir(tmp_path / "demo")) == [
        "clip.mp4",
        "color.mp4",
        "demo.png",
        "motion.mp4",
    ]
    table = [line.split() for line in capsys.readouterr().out.splitlines()[2:4]]
    assert [row[0] for row in table] == ["motion", "color"]
    for _, _, *numbers in table:
        true, before, after, ratio, expected, true_hz, found_hz = map(float, numbers)
        assert before == pytest.approx(true, rel=0.1)
        assert ratio == pytest.approx(expected, rel=0.1)
        assert after == pytest.approx(true * expected, rel=0.1)
        assert found_hz == pytest.approx(true_hz, abs=0.02)
    from matplotlib.image import imread

    picture = imread(tmp_path / "demo" / "demo.png")
    assert picture.shape[1] > 1000
    assert picture[..., :3].std() > 0.1


def test_the_demo_would_notice_a_wrong_amplification(tmp_path, monkeypatch):
    pytest.importorskip("matplotlib")
    magnify = marey.magnify

    def halved(frames, fps, *, alpha, **options):
        return magnify(frames, fps, alpha=alpha / 2, **options)

    monkeypatch.setattr(marey, "magnify", halved)
    monkeypatch.setattr(_demo, "SECONDS", 5)
    for row in _demo.demo(str(tmp_path), synthetic.Scene(96, 144)):
        assert row.ratio < 0.7 * row.gain
