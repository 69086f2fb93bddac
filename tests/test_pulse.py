"""The heart rate from video."""

import pickle
import warnings
from typing import Any

import numpy as np
import pytest
from marey import config
from marey.pulse import PulseMonitor, PulseWarning, _rates, estimate, patch_means
from marey.pulse._regions import skin_coloured
from marey.reference import pulse as reference
from numpy.typing import NDArray

pytestmark = pytest.mark.no_bf16

SKIN = np.array([190.0, 140.0, 115.0])
# Of the pulse in R, G, B, relative to the colour (de Haan and van Leest 2014).
BLOOD = np.array([0.33, 0.77, 0.53])


def clip(
    bpm: float,
    *,
    seconds: float = 20.0,
    fs: float = 30.0,
    size: tuple[int, int] = (96, 128),
    strength: float = 0.004,
    noise: float = 2.5,
    dropped: float = 0.0,
    seed: int = 0,
) -> tuple[NDArray[np.uint8], NDArray[np.float64]]:
    """Return frames and their times: a face-like disc before a grey wall, filmed by a plain camera.

    Over the pulse (which has a harmonic and varies by 1 % in rate) lie sensor noise, a slow change
    of the light, its flicker, and a swaying head whose shading moves with it.
    """
    rng = np.random.default_rng(seed)
    times = np.arange(round(seconds * fs)) / fs
    times = times[rng.random(len(times)) >= dropped]
    height, width = size
    y, x = np.mgrid[:height, :width]
    frames = np.empty((len(times), height, width, 3), np.uint8)
    phase = 2 * np.pi * (bpm / 60 * times + 0.01 * np.sin(2 * np.pi * 0.1 * times))
    wave = -strength * (np.sin(phase) + 0.3 * np.sin(2 * phase + 0.8))
    light = (
        1 + 0.02 * np.sin(2 * np.pi * 0.07 * times + 1) + 0.002 * rng.standard_normal(len(times))
    )
    sway = np.cumsum(rng.standard_normal(len(times))) * 0.1
    sway -= np.linspace(sway[0], sway[-1], len(times))
    for t in range(len(times)):
        r2 = ((x - width / 2 - sway[t]) / (0.3 * width)) ** 2 + (
            (y - height / 2) / (0.42 * height)
        ) ** 2
        skin = SKIN * (1 + wave[t] * BLOOD)
        picture = np.where((r2 < 1)[..., None], skin * (1 - 0.25 * r2[..., None]), 95.0) * light[t]
        picture += noise * rng.standard_normal(picture.shape)
        frames[t] = np.clip(np.rint(picture), 0, 255)
    return frames, times


def no_pulse(kind: str, seed: int) -> NDArray[np.uint8]:
    """Return 12 s of skin colour without a pulse."""
    rng = np.random.default_rng(seed)
    frames = np.clip(np.rint(SKIN + 3 * rng.standard_normal((360, 48, 64, 3))), 0, 255)
    if kind == "drift":
        walk = np.cumsum(rng.standard_normal((360, 1, 1, 3)), axis=0)
        frames += 0.3 * walk
    if kind == "cuts":
        frames *= np.repeat(rng.uniform(0.6, 1.1, (6, 1, 1, 3)), 60, axis=0)
    return np.clip(np.rint(frames), 0, 255).astype(np.uint8)


@pytest.mark.usefixtures("isa")
class TestPatchMeans:
    @pytest.mark.parametrize(
        "size", [(1, 1), (7, 17), (17, 7), (97, 113), (300, 5), (1030, 3), (5, 1921)]
    )
    @pytest.mark.parametrize("dtype", [np.uint8, np.float32])
    @pytest.mark.parametrize("masked", [False, True])
    def test_they_are_the_reference(
        self, size: tuple[int, int], dtype: type, masked: bool, rng: np.random.Generator
    ) -> None:
        frames = rng.integers(0, 256, (2, *size, 3)).astype(dtype)
        frames[1] = 255  # 1030 rows of it are more than 16 bits hold
        mask = rng.random(size) < 0.4 if masked else None
        rows = sorted({0, size[0] // 3, size[0]})
        columns = sorted({0, size[1] // 4, size[1] // 2, size[1]})
        means = patch_means(frames, rows, columns, mask)
        expected = reference.patch_means(frames, rows, columns, mask)
        np.testing.assert_allclose(means, expected, rtol=1e-14)
        assert means.dtype == np.float64

    def test_patches_need_not_cover_the_frame(self, rng: np.random.Generator) -> None:
        frames = rng.integers(0, 256, (3, 40, 50, 3)).astype(np.uint8)
        means = patch_means(frames, [5, 9, 30], [7, 8, 44])
        np.testing.assert_allclose(
            means, reference.patch_means(frames, [5, 9, 30], [7, 8, 44]), rtol=1e-14
        )

    @pytest.mark.parametrize("view", [np.s_[::-1, ::2], np.s_[:, :, ::-1], np.s_[..., ::-1]])
    def test_a_view_gives_what_its_copy_gives(self, view: Any, rng: np.random.Generator) -> None:
        frames = rng.integers(0, 256, (3, 40, 50, 3)).astype(np.uint8)[view]
        edges = ([0, 10, 20], [0, 25, 50])
        np.testing.assert_array_equal(
            patch_means(frames, *edges), patch_means(frames.copy(), *edges)
        )

    def test_threads_do_not_change_the_result(self, rng: np.random.Generator) -> None:
        frames = rng.random((4, 300, 200, 3), np.float32)
        means = []
        for count in (1, 3):
            with config.threads(count):
                means.append(patch_means(frames, [0, 100, 300], [0, 50, 200]))
        np.testing.assert_array_equal(*means)

    def test_nan_outside_the_mask_does_no_harm(self) -> None:
        frames = np.full((1, 8, 40, 3), 0.5, np.float32)
        frames[:, :, 20:] = np.nan
        mask = np.zeros((8, 40), bool)
        mask[:, :20] = True
        np.testing.assert_array_equal(patch_means(frames, [0, 8], [0, 40], mask), 0.5)

    def test_no_frames(self) -> None:
        assert patch_means(np.empty((0, 8, 9, 3), np.uint8), [0, 8], [0, 9]).shape == (0, 1, 1, 3)

    def test_what_does_not_fit_is_refused(self) -> None:
        frames = np.zeros((2, 8, 9, 3), np.uint8)
        for rows in ([0, 9], [-1, 8], [0, 4, 4], [8, 0]):
            with pytest.raises(ValueError, match=r"\[marey\.pulse\.patch_means\] row_edges"):
                patch_means(frames, rows, [0, 9])
        with pytest.raises(ValueError, match="frames"):
            patch_means(frames[..., 0], [0, 8], [0, 9])
        with pytest.raises(TypeError, match="frames"):
            patch_means(frames.astype(np.float64), [0, 8], [0, 9])
        with pytest.raises(ValueError, match="mask"):
            patch_means(frames, [0, 8], [0, 9], np.ones((8, 8), bool))


class TestSignals:
    @pytest.mark.parametrize("samples", [20, 48, 49, 300])
    def test_pos_is_the_published_algorithm(self, samples: int, rng: np.random.Generator) -> None:
        """Running sums give what windows give, to the last window."""
        drift = np.cumsum(rng.standard_normal((samples, 1)), axis=0)
        traces = SKIN + drift + 0.5 * rng.standard_normal((samples, 3))
        np.testing.assert_allclose(
            _rates.pos(traces, 30.0), reference.pos(traces, 30.0), rtol=1e-7, atol=1e-9
        )

    def test_chrom_and_green_are_the_references(self, rng: np.random.Generator) -> None:
        traces = SKIN + np.cumsum(rng.standard_normal((300, 3)), axis=0)
        np.testing.assert_allclose(
            _rates.chrom(traces, 30.0, 0.6, 4.0),
            reference.chrom(traces, 30.0, 0.6, 4.0),
            atol=1e-12,
        )
        np.testing.assert_allclose(_rates.green(traces, 30.0), reference.green(traces, 30.0))

    @pytest.mark.parametrize("bpm", [48.3, 61.7, 133.2])
    def test_the_peak_is_the_references(self, bpm: float, rng: np.random.Generator) -> None:
        """Interpolated between bins, within a tenth of a beat a minute of the exact spectrum's."""
        wave = np.sin(2 * np.pi * bpm / 60 * np.arange(360) / 30) + rng.normal(0, 0.3, 360)
        found = 60 * _rates.peak(_rates.spectrum(wave, 30.0), 0.7, 4.0)
        assert found == pytest.approx(reference.bpm(wave, 30.0, 0.7, 4.0), abs=0.1)

    def test_pos_of_many_patches_is_pos_of_each(self, rng: np.random.Generator) -> None:
        traces = SKIN + rng.standard_normal((100, 5, 3))
        together = _rates.pos(traces, 25.0)
        for k in range(5):
            np.testing.assert_allclose(together[:, k], _rates.pos(traces[:, k], 25.0), rtol=1e-9)

    @pytest.mark.parametrize("method", ["pos", "chrom", "green"])
    def test_the_wave_reaches_the_last_sample(self, method: str) -> None:
        """A signal of even amplitude has it at the end of the result, too."""
        t = np.arange(301) / 30
        traces = SKIN * (1 + 0.005 * np.sin(2 * np.pi * 1.3 * t)[:, None] * BLOOD)
        wave = _rates.signals(traces, 30.0, method, 0.5, 5.0)
        middle = np.std(wave[100:200])
        assert np.std(wave[-24:]) > 0.6 * middle

    @pytest.mark.parametrize("method", ["pos", "chrom"])
    def test_changes_of_the_light_drop_out(self, method: str) -> None:
        t = np.arange(450) / 30
        pulse_part = 0.003 * np.sin(2 * np.pi * 1.2 * t)[:, None] * BLOOD
        light = 1 + 0.02 * np.sin(2 * np.pi * 2.1 * t)[:, None]
        wave = _rates.signals(SKIN * (1 + pulse_part) * light, 30.0, method, 0.5, 5.0)
        spectrum = _rates.spectrum(wave, 30.0)
        assert 60 * _rates.peak(spectrum, 0.7, 4.0) == pytest.approx(72, abs=0.5)

    def test_black_and_constant_patches_are_finite(self) -> None:
        for level in (0.0, 120.0):
            for method in _rates.METHODS:
                wave = _rates.signals(np.full((200, 2, 3), level), 30.0, method, 0.6, 5.0)
                np.testing.assert_allclose(wave, 0, atol=1e-9)

    def test_good_patches_count_more(self, rng: np.random.Generator) -> None:
        t = np.arange(600) / 30
        beat = np.sin(2 * np.pi * 1.1 * t)
        patches = np.stack([beat * s for s in (1, 1, 1, 0, 0)], axis=1)
        patches += rng.standard_normal(patches.shape) * [0.5, 0.5, 2.0, 1.0, 20.0]
        _, weights = _rates.combine(patches)
        assert weights.sum() == pytest.approx(1)
        assert min(weights[:2]) > 3 * weights[2] > 0
        assert max(weights[3:]) < 0.1 * weights[0]

    @pytest.mark.parametrize("rate", [0.75, 1.03, 1.717, 2.9])
    def test_the_peak_lies_between_bins(self, rate: float) -> None:
        """Ten seconds have bins of 6 beats a minute."""
        t = np.arange(300) / 30
        found = _rates.peak(_rates.spectrum(np.sin(2 * np.pi * rate * t + 0.4), 30.0), 0.6, 4.0)
        assert 60 * found == pytest.approx(60 * rate, abs=0.3)

    def test_a_pure_sine_has_a_high_ratio_and_noise_a_low_one(
        self, rng: np.random.Generator
    ) -> None:
        t = np.arange(600) / 30
        for signal, low, high in ((np.sin(7 * t), 20, np.inf), (rng.standard_normal(600), -20, 1)):
            spectrum = _rates.spectrum(signal, 30.0)
            rate = _rates.peak(spectrum, 0.7, 4.0)
            assert low < _rates.snr_db(spectrum, rate, 20.0, 0.7, 4.0) < high


class TestEstimate:
    @pytest.mark.slow
    @pytest.mark.parametrize("bpm", [45, 61.3, 78, 97.5, 120, 150, 180])
    @pytest.mark.parametrize("dropped", [0.0, 0.15])
    def test_the_rate_of_a_known_pulse(self, bpm: float, dropped: float) -> None:
        frames, times = clip(bpm, dropped=dropped, seed=round(bpm))
        result = estimate(frames, times=times)
        assert result.bpm == pytest.approx(bpm, abs=1.0)
        assert result.reliable
        assert result.reason == ""
        np.testing.assert_allclose(np.median(result.bpm_over_time), bpm, atol=1.5)

    @pytest.mark.slow
    @pytest.mark.parametrize("method", ["pos", "chrom"])
    @pytest.mark.parametrize("roi", ["frame", (45, 25, 38, 46), "mask"])
    def test_every_method_and_region(self, method: Any, roi: Any) -> None:
        frames, times = clip(82, seed=5)
        if isinstance(roi, str) and roi == "mask":
            roi = np.zeros(frames.shape[1:3], bool)
            roi[20:70, 45:80] = True
        result = estimate(frames, times=times, method=method, roi=roi)
        assert result.bpm == pytest.approx(82, abs=1.0)
        assert result.reliable
        assert result.method == method

    def test_green_where_the_light_is_steady(self) -> None:
        t = np.arange(450) / 30
        wave = 0.006 * np.sin(2 * np.pi * 1.4 * t)
        frames = SKIN * (1 + wave[:, None] * BLOOD)
        frames = frames[:, None, None] + np.random.default_rng(0).normal(0, 2, (450, 32, 40, 3))
        video = np.clip(np.rint(frames), 0, 255).astype(np.uint8)
        assert estimate(video, 30, method="green").bpm == pytest.approx(84, abs=1)

    def test_floats_give_what_bytes_give(self) -> None:
        frames, times = clip(75, seconds=10)
        a = estimate(frames, times=times)
        b = estimate(frames / np.float32(255), times=times)
        assert a.bpm == pytest.approx(b.bpm, abs=0.01)

    @pytest.mark.slow
    @pytest.mark.parametrize("kind", ["noise", "drift", "cuts"])
    @pytest.mark.parametrize("seed", range(4))
    @pytest.mark.parametrize("roi", [None, "frame"])
    def test_without_a_pulse_it_says_so(self, kind: str, seed: int, roi: Any) -> None:
        with pytest.warns(PulseWarning, match="no pulse to rely on"):
            result = estimate(no_pulse(kind, seed), 30, roi=roi)
        assert not result.reliable
        assert "dB" in result.reason

    def test_without_skin_it_says_so(self) -> None:
        """A blue lamp that blinks once a second has a rate, but is no face."""
        t = np.arange(300) / 30
        frames = np.empty((300, 32, 32, 3), np.uint8)
        frames[:] = (40, 60, 150)
        frames[np.sin(2 * np.pi * t) > 0] = (44, 80, 170)
        with pytest.warns(PulseWarning, match="no skin-coloured patches"):
            result = estimate(frames, 30)
        assert not result.reliable

    def test_a_constant_video(self) -> None:
        frames = np.full((200, 16, 16, 3), 120, np.uint8)
        with pytest.warns(PulseWarning):
            result = estimate(frames, 30)
        assert np.isnan(result.bpm) or not result.reliable
        assert np.isfinite(result.waveform).all()

    def test_the_result_is_of_a_piece(self) -> None:
        frames, times = clip(66, seconds=15)
        result = estimate(frames, times=times)
        assert result.times[0] == times[0]
        assert result.times[-1] == pytest.approx(times[-1], abs=1 / 30)
        assert len(result.waveform) == len(result.times)
        assert result.waveform.std() == pytest.approx(1)
        assert len(result.bpm_over_time) == len(result.rate_times) == len(result.rate_snr_db) == 6
        assert result.weights.sum() == pytest.approx(1)
        # the disc reaches from row 0.96 to 11.04 and from column 3.2 to 12.8 of the grid
        assert result.weights.shape == (12, 16)
        assert result.weights[1:11, 3:13].sum() > 0.95
        assert not result.weights[:, [0, 1, 14, 15]].any()
        assert 60 * result.frequencies[np.argmax(result.power)] == pytest.approx(result.bpm, abs=1)

    def test_slow_frames_narrow_the_band(self) -> None:
        frames, times = clip(70, fs=5.0, seconds=30)
        assert estimate(frames, times=times).bpm == pytest.approx(70, abs=1)

    def test_what_does_not_fit_is_refused(self) -> None:
        frames = np.full((100, 16, 16, 3), 120, np.uint8)
        with pytest.raises(ValueError, match="times: expected them, or fs"):
            estimate(frames)
        with pytest.raises(ValueError, match="at least 3 s"):
            estimate(frames[:50], 30)
        with pytest.raises(ValueError, match="times"):
            estimate(frames, times=np.zeros(100))
        with pytest.raises(ValueError, match="method"):
            estimate(frames, 30, method="ica")  # type: ignore[arg-type]
        with pytest.raises(ValueError, match="shape"):
            estimate(frames[..., 0], 30)
        with pytest.raises(ValueError, match="low_bpm"):
            estimate(frames, 30, low_bpm=100, high_bpm=50)
        with pytest.raises(TypeError, match="video: expected uint8 or float32; found int64"):
            estimate(frames.astype(np.int64), 30)
        with pytest.raises(ValueError, match="fs: expected enough frames"):
            estimate(frames, 1)
        for roi in ((0, 0, 17, 5), (3, 3, 0, 5), (1, 2, 3), "face", np.zeros((16, 16), bool)):
            with pytest.raises(ValueError, match="roi"):
                estimate(frames, 30, roi=roi)
        bad = frames / np.float32(255)
        bad[3, 4, 5] = np.nan
        with pytest.raises(ValueError, match="NaN"):
            estimate(bad, 30)

    @pytest.mark.filterwarnings("ignore::marey.pulse.PulseWarning")
    @pytest.mark.parametrize("method", ["pos", "chrom", "green"])
    @pytest.mark.parametrize("roi", [None, "frame"])
    def test_it_is_the_reference(self, method: Any, roi: str | None) -> None:
        frames, times = clip(72, seconds=8, fs=20, size=(48, 64), dropped=0.1)
        found = estimate(frames, times=times, method=method, roi=roi)
        bpm, snr_db = reference.estimate(frames, times=times, method=method, roi=roi)
        assert found.bpm == pytest.approx(bpm, abs=0.1)
        assert found.snr_db == pytest.approx(snr_db, abs=0.1)

    def test_errors_name_the_function_that_was_called(self) -> None:
        frames = np.full((100, 16, 16, 3), 120, np.uint8)
        for arguments in (
            {},
            {"fs": 30, "roi": "face"},
            {"fs": 30, "roi": (0, 0, 99, 99)},
            {"fs": 30, "method": "ica"},
            {"times": np.zeros(100)},
            {"times": np.zeros(7)},
            {"fs": 30, "low_bpm": -1},
        ):
            with pytest.raises(ValueError, match=r"\[marey\.pulse\.estimate\]"):
                estimate(frames, **arguments)  # type: ignore[arg-type]
        with pytest.raises(TypeError, match=r"\[marey\.PulseMonitor\] frames"):
            PulseMonitor((16, 16, 3), 30).feed(frames.astype(np.float64))

    @pytest.mark.filterwarnings("ignore::marey.pulse.PulseWarning")
    def test_a_progress_bar_changes_nothing(self, capsys: pytest.CaptureFixture[str]) -> None:
        frames, times = clip(75, seconds=6, size=(32, 40))
        plain = estimate(frames, times=times)
        shown = estimate(frames, times=times, progress=True)
        assert shown.bpm == plain.bpm
        assert f"{len(frames)}/{len(frames)}" in capsys.readouterr().err


class TestMonitor:
    def test_memory_is_bounded_by_the_window(self) -> None:
        frames, _ = clip(72, seconds=12, size=(32, 40))
        monitor = PulseMonitor(frames.shape[1:], fs=30, window=4)
        for start in range(0, 360, 7):
            monitor.feed(frames[start : start + 7])
        assert monitor.times[-1] == pytest.approx(359 / 30)
        np.testing.assert_allclose(monitor.times, np.arange(239, 360) / 30)
        assert len(monitor.traces) == 121
        assert sum(len(times) for times, _ in monitor._chunks) < 121 + 7
        whole = PulseMonitor(frames.shape[1:], fs=30, window=np.inf)
        whole.feed(frames)
        np.testing.assert_array_equal(whole.traces[-121:], monitor.traces)
        assert whole.estimate().bpm == estimate(frames, 30).bpm

    @pytest.mark.filterwarnings("ignore::marey.pulse.PulseWarning")
    def test_a_saved_state_goes_on_where_it_was(self) -> None:
        frames, _ = clip(72, seconds=8, size=(32, 40))
        one = PulseMonitor(frames.shape[1:], fs=30, window=6)
        one.feed(frames[:100])
        other = PulseMonitor(frames.shape[1:], fs=30, window=6)
        other.state = pickle.loads(pickle.dumps(one.state))
        for monitor in (one, other):
            monitor.feed(frames[100:])
        np.testing.assert_array_equal(one.times, other.times)
        assert one.estimate().bpm == other.estimate().bpm
        with pytest.raises(ValueError, match=r"times: expected .* after 7\.9"):
            other.feed(frames[:1], 1.0)

    def test_a_state_that_does_not_fit_is_refused(self) -> None:
        monitor = PulseMonitor((32, 40, 3), fs=30)
        monitor.feed(np.zeros((4, 32, 40, 3), np.uint8))
        state = monitor.state
        name = r"\[marey\.PulseMonitor\] state: expected"
        with pytest.raises(TypeError, match=f"{name} a mapping"):
            monitor.state = state["traces"]
        for change in (
            {"times": state["times"][:2]},
            {"times": state["times"][::-1]},
            {"traces": state["traces"] * np.nan},
            {"frames": 3},
        ):
            with pytest.raises(ValueError, match=name):
                monitor.state = {**state, **change}
        assert len(monitor.times) == 4

    def test_any_chunking_gives_the_result_of_one_call(self) -> None:
        frames, times = clip(88, seconds=10, dropped=0.1)
        whole = estimate(frames, times=times)
        monitor = PulseMonitor(frames.shape[1:])
        monitor.feed(frames[0], times[0])
        for part in (slice(1, 50), slice(50, 50), slice(50, 51), slice(51, None)):
            monitor.feed(frames[part], times[part])
        parts = monitor.estimate()
        assert parts.bpm == whole.bpm
        np.testing.assert_array_equal(parts.waveform, whole.waveform)

    def test_it_keeps_no_frames(self) -> None:
        frames, times = clip(88, seconds=5)
        monitor = PulseMonitor(frames.shape[1:])
        monitor.feed(frames, times)
        traces = monitor.traces
        assert traces.shape == (len(frames), 12, 16, 3)
        np.testing.assert_array_equal(monitor.times, times)
        frames[:] = 0
        np.testing.assert_array_equal(monitor.traces, traces)

    def test_the_last_seconds(self) -> None:
        slow, _ = clip(60, seconds=12)
        fast, _ = clip(100, seconds=12)
        monitor = PulseMonitor(slow.shape[1:], fs=30)
        monitor.feed(slow)
        monitor.feed(fast)
        assert monitor.estimate(seconds=10).bpm == pytest.approx(100, abs=1.5)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", PulseWarning)
            result = monitor.estimate()
        assert result.bpm_over_time[0] == pytest.approx(60, abs=2)
        assert result.bpm_over_time[-1] == pytest.approx(100, abs=2)

    def test_times_must_rise_over_chunks(self) -> None:
        monitor = PulseMonitor((8, 8, 3))
        frames = np.zeros((2, 8, 8, 3), np.uint8)
        monitor.feed(frames, [0.0, 0.1])
        with pytest.raises(ValueError, match="rising"):
            monitor.feed(frames, [0.1, 0.2])

    def test_reset_forgets(self) -> None:
        monitor = PulseMonitor((8, 8, 3), fs=30)
        monitor.feed(np.zeros((200, 8, 8, 3), np.uint8))
        monitor.reset()
        assert monitor.traces.shape == (0, 1, 1, 3)
        with pytest.raises(ValueError, match="at least 3 s"):
            monitor.estimate()


def test_skin_is_told_from_other_colours() -> None:
    skin = [(224, 172, 140), (198, 134, 106), (141, 85, 60), (90, 56, 40)]
    other = [(40, 60, 150), (60, 120, 50), (128, 128, 128), (5, 3, 2), (255, 255, 255)]
    assert skin_coloured(skin).all()
    assert not skin_coloured(other).any()


@pytest.mark.slow
class TestRealClips:
    @pytest.mark.parametrize("method", ["pos", "chrom", "green"])
    @pytest.mark.parametrize("roi", [None, "frame"])
    def test_the_face_has_53_beats_a_minute(self, data: Any, method: Any, roi: Any) -> None:
        video = pytest.importorskip("marey.video")
        frames, fps = video.read(data / "face.mp4")
        result = estimate(frames, fps, method=method, roi=roi)
        assert result.bpm == pytest.approx(52.9, abs=1.5)
        assert result.reliable

    @pytest.mark.parametrize("name", ["bikes.mp4", "crane_crop.mp4", "guitar.mp4"])
    def test_clips_without_a_face_have_no_pulse(self, data: Any, name: str) -> None:
        video = pytest.importorskip("marey.video")
        frames, fps = video.read(data / name)
        with pytest.warns(PulseWarning):
            assert not estimate(frames, fps).reliable
