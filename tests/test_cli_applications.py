"""``marey pulse`` and ``marey background``."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

av = pytest.importorskip("av")

from marey import background, synthetic, video  # noqa: E402
from marey.cli import main  # noqa: E402

SCENE = synthetic.Scene(height=96, width=192, flush=1.5, flush_hz=1.25, sway=0.0)


def run(*arguments: Any) -> int:
    return main([str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def beating(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("pulse") / "beating.mp4"
    video.write(path, SCENE.frames(0, 300), 30, crf=6)
    return path


@pytest.fixture(scope="module")
def moving(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A square that crosses a grey picture of 96 x 64."""
    frames = np.full((48, 64, 96, 3), (150, 120, 100), np.uint8)
    for t in range(48):
        frames[t, 20:40, 2 * t : 2 * t + 16] = (30, 40, 200)
    path = tmp_path_factory.mktemp("background") / "moving.mp4"
    video.write(path, frames, 24, crf=6)
    return path


class TestPulse:
    def test_it_prints_the_rate_and_draws(
        self, beating: Path, tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        pytest.importorskip("matplotlib")
        monkeypatch.chdir(tmp_path)
        assert run("pulse", beating) == 0
        out, err = capsys.readouterr()
        match = re.match(r"(\d+\.\d) beats/min, signal-to-noise ratio (-?\d+\.\d) dB\n", out)
        assert match
        assert float(match[1]) == pytest.approx(75, abs=1)
        assert err == ""
        picture = tmp_path / "beating-pulse.png"
        assert picture.read_bytes()[:4] == b"\x89PNG"
        assert [path.name for path in tmp_path.iterdir()] == ["beating-pulse.png"]

    def test_a_box_beside_the_patch_has_no_pulse(self, beating: Path, capsys: Any) -> None:
        assert run("pulse", beating, "--box", "8,8,60,60", "--no-plot") == 0
        out, err = capsys.readouterr()
        assert "(not reliable)" in out
        assert err.startswith("marey: warning: no pulse to rely on: signal-to-noise ratio")
        assert run("pulse", beating, "--box", "110,20,60,60", "--no-plot") == 0
        out, err = capsys.readouterr()
        assert "reliable" not in out
        assert err == ""

    @pytest.mark.parametrize(
        "arguments",
        [
            ("--box", "1,2,3"),
            ("--box", "0,0,500,10"),
            ("--plot", "a.jpg"),
            ("--plot", "no/such/folder/a.png"),
            ("--low", "100", "--high", "60"),
            ("--duration", "2"),
            ("--method", "ica"),
        ],
    )
    def test_bad_input_is_one_line(self, beating: Path, arguments: Any, capsys: Any) -> None:
        extra = () if "--plot" in arguments else ("--no-plot",)
        assert run("pulse", beating, *arguments, *extra) == 2
        out, err = capsys.readouterr()
        assert out == ""
        assert re.fullmatch(r"marey: error: [^\n]+\n", err)


class TestBackground:
    @pytest.mark.parametrize("method", ["median", "sliding", "mixture"])
    def test_it_writes_masks_and_the_background(
        self, moving: Path, tmp_path: Path, method: str, capsys: Any
    ) -> None:
        target = tmp_path / "masks.mp4"
        assert run("background", moving, target, "--method", method) == 0
        out, err = capsys.readouterr()
        assert re.fullmatch(rf"48 frames, 96x64, \d+\.\d % in front: {target}, .*\.png\n", out)
        assert err == ""

        frames, fps = video.read(moving)
        masks, written_fps = video.read(target)
        assert written_fps == fps
        options: Any = {"median": {}, "sliding": {"window": 51}, "mixture": {"method": "mixture"}}
        expected, still = background.subtract(frames, **options[method])
        # the codec blurs the edges of the masks
        assert np.mean((masks[..., 0] > 127) == expected) > 0.99
        assert 0.03 < expected[30:].mean() < 0.1
        assert expected[30:].any(axis=(1, 2)).all()

        picture = tmp_path / "masks-background.png"
        with av.open(str(picture)) as container:
            shown = next(container.decode(video=0)).to_ndarray(format="rgb24")
        np.testing.assert_array_equal(shown, still)
        assert sorted(path.name for path in tmp_path.iterdir()) == [
            "masks-background.png",
            "masks.mp4",
        ]

    def test_a_cutout_shows_what_moves(self, moving: Path, tmp_path: Path) -> None:
        target, picture = tmp_path / "cut.mp4", tmp_path / "still.png"
        options = ("--view", "cutout", "--background", picture, "--quiet")
        assert run("background", moving, target, *options) == 0
        assert picture.exists()
        shown, _ = video.read(target)
        assert shown[24, 24:36, 52:60, 2].mean() > 120  # inside the blue square
        assert shown[24, 50:, :].max() < 40

    def test_a_long_video_is_thinned_out(self, tmp_path: Path) -> None:
        """More frames than are kept: each second one is dropped, and again."""
        source, target = tmp_path / "long.mp4", tmp_path / "masks.mp4"
        frames = np.full((450, 16, 16, 3), 90, np.uint8)
        frames[100:180, 4:8, 4:8] = 220
        video.write(source, frames, 30, crf=6)
        assert run("background", source, target, "--quiet") == 0
        masks, _ = video.read(target)
        assert (masks[110:170, 5:7, 5:7] > 127).all()
        assert (masks[200:] < 127).all()

    @pytest.mark.parametrize(
        "arguments",
        [
            ("--clean", "4"),
            ("--clean", "17"),
            ("--shadows",),
            ("--background", "a.jpg"),
            ("--background", "no/such/folder/a.png"),
            ("--threshold", "-1"),
        ],
    )
    def test_bad_input_is_one_line(
        self, moving: Path, tmp_path: Path, arguments: Any, capsys: Any
    ) -> None:
        assert run("background", moving, tmp_path / "out.mp4", *arguments) == 2
        out, err = capsys.readouterr()
        assert out == ""
        assert re.fullmatch(r"marey: error: [^\n]+\n", err)
        assert list(tmp_path.iterdir()) == []
