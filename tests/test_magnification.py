"""Motion and colour magnification, streaming."""

import io
import pickle
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.signal
from hypothesis import given
from hypothesis import strategies as st
from marey import Magnifier, config, magnify, pyramid
from marey import reference as published
from marey.reference.magnification import RGB_TO_YIQ, YIQ_TO_RGB
from marey.temporal import butter_bandpass
from numpy.typing import NDArray
from tolerances import assert_close, assert_rounds

pytestmark = pytest.mark.no_bf16

BAND = {"fs": 30.0, "low": 0.5, "high": 3.0}
BAD_BANDS = [
    (0, 3, 30),
    (-1, 3, 30),
    (3, 3, 30),
    (4, 3, 30),
    (1, 15, 30),
    (1, 16, 30),
    (np.nan, 3, 30),
    (1, np.nan, 30),
    (1, 3, np.nan),
    (1, 3, 0),
    (1, 3, -30),
]
SIZES = [(1, 1), (1, 17), (7, 5), (17, 33), (48, 64), (97, 113)]


def clip_of(
    rng: np.random.Generator, shape: tuple[int, ...], dtype: type, frames: int = 12
) -> NDArray[Any]:
    """Return a still of full contrast that flickers a little: amplified, it stays within range."""
    still = 0.35 + 0.3 * rng.random(shape)
    video = still + 0.01 * rng.standard_normal((frames, *shape))
    return np.rint(255 * video).astype(np.uint8) if dtype == np.uint8 else video.astype(dtype)


def check(video: NDArray[Any], **options: Any) -> NDArray[Any]:
    """Compare with the published pipeline, which filters every band of every level."""
    actual = magnify(video, **BAND, **options)
    is_uint8 = video.dtype == np.uint8
    unit = video / 255 if is_uint8 else video
    compute = cache(lambda dtype: published.magnify(unit, **BAND, **options, dtype=dtype))
    assert actual.dtype == video.dtype
    assert actual.shape == video.shape
    if is_uint8:
        exact = 255 * compute(np.float64)
        tolerance = 2 * float(np.abs(255 * compute(np.float32) - exact).max()) + 1e-4
        assert tolerance < 0.05, "nearly all values have one right rounding"
        assert_rounds(actual, exact, tolerance=tolerance)
    else:
        assert_close(actual, compute, "magnification", scale=1.0)
    return actual  # type: ignore[no-any-return]


class TestReference:
    def test_the_colour_transform_is_ntsc(self) -> None:
        white, grey = np.ones(3), np.full(3, 0.25)
        np.testing.assert_allclose(RGB_TO_YIQ @ white, [1, 0, 0], atol=1e-15)
        np.testing.assert_allclose(RGB_TO_YIQ @ grey, [0.25, 0, 0], atol=1e-15)
        np.testing.assert_allclose(
            YIQ_TO_RGB, [[1, 0.956, 0.621], [1, -0.272, -0.647], [1, -1.106, 1.703]], atol=5e-3
        )

    def test_the_reference_rounds_and_clips_uint8(self, rng: np.random.Generator) -> None:
        video = rng.integers(0, 256, (9, 16, 16, 3), dtype=np.uint8)
        exact = published.magnify(video / 255, **BAND, alpha=5)
        rounded = published.magnify(video, **BAND, alpha=5)
        np.testing.assert_allclose(rounded, 255 * exact, atol=0.5 + 1e-9)
        assert {0, 255} <= set(rounded.flat)


@pytest.mark.usefixtures("isa")
class TestKernelIsThePublishedPipeline:
    @pytest.mark.parametrize("dtype", [np.uint8, np.float32])
    @pytest.mark.parametrize("size", SIZES)
    @pytest.mark.parametrize("channels", [(), (3,)], ids=["grey", "color"])
    @pytest.mark.parametrize("mode", ["motion", "color"])
    def test_any_size(
        self,
        dtype: type,
        size: tuple[int, int],
        channels: tuple[int, ...],
        mode: str,
        rng: np.random.Generator,
    ) -> None:
        video = clip_of(rng, (*size, *channels), dtype)
        magnified = check(video, alpha=8, mode=mode)
        if min(size) > 1 and mode == "motion":
            assert (magnified != video).any()

    @pytest.mark.parametrize("dtype", [np.uint8, np.float32])
    @pytest.mark.parametrize(
        "options",
        [
            {"alpha": 0},
            {"alpha": 0.5},
            {"alpha": 20, "cutoff": 16},
            {"alpha": 20, "cutoff": 1000},
            {"alpha": 5, "cutoff": 5.5},
            {"alpha": 8, "chroma": 0},
            {"alpha": 8, "chroma": 1},
            {"alpha": 8, "chroma": 1.7},
            {"alpha": 8, "levels": 2},
            {"alpha": 8, "levels": 3, "order": 2},
            {"alpha": 8, "levels": 9},
            {"alpha": 20, "cutoff": 1e6},
            {"alpha": 8, "mode": "color", "levels": 1},
            {"alpha": 8, "mode": "color", "levels": 2, "order": 3},
            {"alpha": 8, "mode": "color", "chroma": 1},
        ],
        ids=str,
    )
    def test_every_option(
        self, dtype: type, options: dict[str, Any], rng: np.random.Generator
    ) -> None:
        check(clip_of(rng, (33, 46, 3), dtype), **options)

    @pytest.mark.parametrize("dtype", [np.uint8, np.float32])
    def test_results_are_clipped_to_the_range(self, dtype: type, rng: np.random.Generator) -> None:
        video = rng.random((12, 33, 46, 3)).astype(np.float32)
        if dtype == np.uint8:
            video = np.rint(255 * video).astype(np.uint8)
        magnified = check(video, alpha=5)
        peak = 255 if dtype == np.uint8 else 1
        assert np.mean((magnified == 0) | (magnified == peak)) > 0.01
        assert magnified.min() == 0
        assert magnified.max() == peak

    def test_a_clip_longer_than_any_buffer(self, rng: np.random.Generator) -> None:
        check(clip_of(rng, (20, 31, 3), np.uint8, frames=150), alpha=8)

    @pytest.mark.parametrize("view", [np.s_[:, ::-1], np.s_[:, :, ::2], np.s_[::-1, 1:, 3:, ::-1]])
    def test_a_view_gives_what_its_copy_gives(self, view: Any, rng: np.random.Generator) -> None:
        for dtype in (np.uint8, np.float32):
            video = clip_of(rng, (33, 46, 3), dtype)[view]
            np.testing.assert_array_equal(
                magnify(video, **BAND, alpha=8), magnify(video.copy(), **BAND, alpha=8)
            )


@pytest.mark.usefixtures("isa")
@pytest.mark.slow
class TestPublishedFormula:
    """alpha_l = lambda_l / (8 delta) - 1, with delta = lambda_c / (8 (1 + alpha)), 0 to alpha."""

    wavelengths = (16, 24, 32, 64)

    @staticmethod
    def gain(wavelength: int, **options: Any) -> float:
        """Measure how much a flickering grating is amplified, at the centre of the band in time."""
        sos = butter_bandpass(BAND["low"], BAND["high"], BAND["fs"])
        grid = np.linspace(0.5, 3, 5001)
        centre = grid[np.abs(scipy.signal.sosfreqz(sos, grid, fs=30)[1]).argmax()]
        time = np.arange(240)[:, None, None] / 30
        grating = np.cos(2 * np.pi * np.arange(256) / wavelength)
        flicker = 0.001 * np.sin(2 * np.pi * centre * time) * grating
        video = np.broadcast_to(0.5 + flicker, (240, 32, 256)).astype(np.float32)
        change = magnify(video, **BAND, **options).astype(float) - video
        settled = np.s_[120:, 16, 64:192]
        return float(np.linalg.norm(change[settled]) / np.linalg.norm(video[settled] - 0.5))

    @staticmethod
    def shares(wavelength: int) -> NDArray[np.float64]:
        """Return how much of a wave each band holds, finest first, if nothing aliases.

        `down` passes cos(w / 2)**4 of an angular frequency w, `up` again as much; what they do not
        pass stays in the band.
        """
        passed = np.cos(np.pi / wavelength * 2 ** np.arange(9)) ** 8
        passed[np.argmax(2.0 ** np.arange(9) > wavelength / 2) :] = 0
        left = np.cumprod([1, *passed])
        return left[:-1] - left[1:]

    @pytest.mark.parametrize("wavelength", wavelengths)
    def test_without_a_cutoff_all_but_the_finest_band_gets_alpha(self, wavelength: int) -> None:
        expected = 20 * (1 - self.shares(wavelength)[0])
        assert self.gain(wavelength, alpha=20, levels=8) == pytest.approx(expected, rel=0.02)

    @pytest.mark.parametrize("wavelength", wavelengths)
    @pytest.mark.parametrize("cutoff", [10, 45, 100])
    def test_each_band_gets_what_its_wavelength_allows(
        self, cutoff: float, wavelength: int
    ) -> None:
        alpha = 20
        representative = 2 * np.sqrt(2) * 2.0 ** np.arange(9)
        alphas = np.clip(representative * (1 + alpha) / cutoff - 1, 0, alpha)
        expected = float(alphas[1:] @ self.shares(wavelength)[1:])
        gain = self.gain(wavelength, alpha=alpha, levels=8, cutoff=cutoff)
        assert gain == pytest.approx(expected, rel=0.1), "but for what aliases"

    def test_lambda_c_is_the_shortest_wavelength_with_all_of_alpha(
        self, rng: np.random.Generator
    ) -> None:
        """The finest amplified band is band 1, for which lambda is 5.66 pixels."""
        video = clip_of(rng, (33, 46, 3), np.float32)
        free = magnify(video, **BAND, alpha=20)
        np.testing.assert_array_equal(magnify(video, **BAND, alpha=20, cutoff=5.65), free)
        assert (magnify(video, **BAND, alpha=20, cutoff=5.67) != free).any()

    def test_a_cutoff_beyond_every_band_amplifies_nothing(self, rng: np.random.Generator) -> None:
        video = clip_of(rng, (33, 46, 3), np.float32)
        np.testing.assert_array_equal(magnify(video, **BAND, alpha=20, cutoff=1e6), video)

    def test_the_residual_is_not_amplified(self, rng: np.random.Generator) -> None:
        """A flat image has nothing else."""
        video = clip_of(rng, (33, 46, 3), np.float32)
        flat = np.broadcast_to(video[:, :1, :1], video.shape).copy()
        np.testing.assert_allclose(magnify(flat, **BAND, alpha=50), flat, atol=50 * 1e-6)


@pytest.mark.usefixtures("isa")
@pytest.mark.slow
class TestKnownMotion:
    """Where (1 + alpha) delta < lambda / 8, motion becomes 1 + alpha times as large."""

    wavelength, rate, amplitude = 32, 1.0, 0.2

    def displacement(self, video: NDArray[Any]) -> float:
        """Return the amplitude in pixels at `rate`, from the phase of the grating, once settled."""
        x = np.arange(64, 192)
        phase = np.angle(
            video[..., 64:192].mean(axis=1) @ np.exp(-2j * np.pi * x / self.wavelength)
        )
        shift = -np.unwrap(phase)[120:] * self.wavelength / (2 * np.pi)
        wave = np.exp(-2j * np.pi * self.rate * np.arange(120) / 30)
        return float(2 * np.abs((shift - shift.mean()) @ wave) / 120)

    @pytest.mark.parametrize("dtype", [np.uint8, np.float32])
    @pytest.mark.parametrize("alpha", [1, 4, 10])
    def test_sub_pixel_motion_is_multiplied_by_one_plus_alpha(
        self, dtype: type, alpha: float
    ) -> None:
        assert (1 + alpha) * self.amplitude < self.wavelength / 8
        shift = self.amplitude * np.sin(2 * np.pi * self.rate * np.arange(240) / 30)
        x = np.arange(256) - shift[:, None, None]
        video = np.broadcast_to(
            0.5 + 0.2 * np.cos(2 * np.pi * x / self.wavelength), (240, 128, 256)
        )
        video = np.rint(255 * video).astype(np.uint8) if dtype == np.uint8 else video.astype(dtype)

        before = self.displacement(video)
        after = self.displacement(magnify(video, 30, 0.5, 2, alpha))
        assert before == pytest.approx(self.amplitude, rel=0.02)
        assert after / before == pytest.approx(1 + alpha, rel=0.1)


@pytest.mark.usefixtures("isa")
class TestKnownPulse:
    def test_a_colour_pulse_is_multiplied_by_one_plus_alpha(self) -> None:
        """Also at the borders: the frames are flat, so every pixel is measured."""
        alpha, rate = 50, 0.95
        time = np.arange(600) / 30
        pulse = 0.002 * np.sin(2 * np.pi * rate * time)
        video = np.full((600, 33, 46, 3), 0.5, np.float32)
        video[..., 1] += pulse[:, None, None].astype(np.float32)
        magnified = magnify(video, 30, 0.8, 1.125, alpha, mode="color", chroma=1)

        wave = np.exp(-2j * np.pi * rate * time[-300:])  # 9.5 periods, after the filter has settled
        window = np.hanning(300)
        amplitudes = [
            np.abs(np.tensordot(wave * window, v[-300:] - 0.5, 1)) for v in (video, magnified)
        ]
        np.testing.assert_allclose(
            amplitudes[1][..., 1] / amplitudes[0][..., 1], 1 + alpha, rtol=0.05
        )
        np.testing.assert_allclose(magnified[..., [0, 2]], 0.5, atol=1e-4)


@pytest.mark.slow
class TestRealClip:
    def test_the_breathing_of_the_baby_is_amplified(self, data: Path) -> None:
        """By |1 + alpha H(f)| at each frequency f of the band, for waves of 20 to 60 pixels."""
        av = pytest.importorskip("av")
        file = data / "baby.mp4"
        if not file.exists():
            pytest.skip(f"{file} does not exist")
        with av.open(str(file)) as container:
            frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
        video = np.stack([frame[144:400, 300:556] for frame in frames])
        fs, low, high, alpha = 30, 0.4, 3, 5

        magnified = magnify(video, fs, low, high, alpha)

        frequency = np.fft.fftfreq(240, 1 / fs)
        in_time = (frequency > 0.6) & (frequency < 2)
        wave_number = np.fft.fftfreq(64, 4)
        in_space = np.hypot(wave_number[:, None], wave_number)
        in_space = (in_space > 1 / 60) & (in_space < 1 / 20)

        def power(rgb: NDArray[np.uint8]) -> NDArray[Any]:
            luma = rgb[60:300] @ RGB_TO_YIQ[0].astype(np.float32)
            for _ in range(2):
                luma = pyramid.down(luma, channel_axis=None)
            for axis, n in enumerate(luma.shape):
                window = scipy.signal.windows.hann(n)
                luma = luma * np.expand_dims(window, [k for k in range(3) if k != axis])
            return np.abs(np.fft.fftn(luma)[in_time][:, in_space]) ** 2

        before, after = power(video), power(magnified)
        sos = butter_bandpass(low, high, fs)
        gain = np.abs(1 + alpha * scipy.signal.sosfreqz(sos, frequency[in_time], fs=fs)[1])
        predicted = np.sqrt(np.sum(before * gain[:, None] ** 2) / np.sum(before))
        assert predicted > 5.5
        assert np.sqrt(np.sum(after) / np.sum(before)) == pytest.approx(predicted, rel=0.1)


@pytest.mark.usefixtures("isa")
class TestStreaming:
    @given(data=st.data())
    def test_any_chunking_gives_the_result_of_one_call(self, data: st.DataObject) -> None:
        dtype = data.draw(st.sampled_from([np.uint8, np.float32]))
        channels = data.draw(st.sampled_from([(), (3,)]))
        size = (data.draw(st.integers(1, 40)), data.draw(st.integers(1, 40)))
        count = data.draw(st.integers(1, 40))
        cuts = sorted(data.draw(st.lists(st.integers(0, count), max_size=6)))
        options = {
            "alpha": data.draw(st.sampled_from([1, 20])),
            "mode": data.draw(st.sampled_from(["motion", "color"])),
            "cutoff": data.draw(st.sampled_from([None, 16])),
            "order": data.draw(st.integers(1, 3)),
        }
        rng = np.random.default_rng(data.draw(st.integers(0, 2**16)))
        video = clip_of(rng, (*size, *channels), dtype, count)

        whole = magnify(video, **BAND, **options)
        magnifier = Magnifier(video.shape[1:], **BAND, **options, dtype=dtype)
        chunks = [magnifier.feed(chunk) for chunk in np.split(video, cuts)]
        np.testing.assert_array_equal(np.concatenate(chunks), whole)
        assert all(chunk.dtype == dtype for chunk in chunks)

    @pytest.mark.parametrize("dtype", [np.uint8, np.float32])
    @pytest.mark.parametrize("mode", ["motion", "color"])
    def test_chunks_of_every_length(self, mode: str, dtype: type, rng: np.random.Generator) -> None:
        """Kernels see a chunk's pixels as one run: where in it a pixel stands must not matter."""
        video = clip_of(rng, (33, 46, 3), dtype, 40)
        whole = magnify(video, **BAND, alpha=8, mode=mode)
        for length in range(1, 40):
            magnifier = Magnifier((33, 46, 3), **BAND, alpha=8, mode=mode, dtype=dtype)
            chunks = [magnifier.feed(video[k : k + length]) for k in range(0, 40, length)]
            np.testing.assert_array_equal(np.concatenate(chunks), whole)

    @pytest.mark.parametrize("shape", [(33, 46), (33, 46, 3)])
    def test_frames_can_be_fed_one_at_a_time(
        self, shape: tuple[int, ...], rng: np.random.Generator
    ) -> None:
        video = clip_of(rng, shape, np.uint8)
        magnifier = Magnifier(shape, **BAND, alpha=8)
        for frame, expected in zip(video, magnify(video, **BAND, alpha=8), strict=True):
            result = magnifier.feed(frame)
            assert result.shape == shape
            np.testing.assert_array_equal(result, expected)

    def test_threads_do_not_change_the_result(self, rng: np.random.Generator) -> None:
        video = clip_of(rng, (301, 402, 3), np.uint8, 5)
        with config.threads(1):
            alone = magnify(video, **BAND, alpha=8)
        with config.threads(3):
            np.testing.assert_array_equal(magnify(video, **BAND, alpha=8), alone)

    def test_no_frames_give_no_frames_and_change_nothing(self, rng: np.random.Generator) -> None:
        video = clip_of(rng, (17, 12, 3), np.uint8)
        magnifier = Magnifier((17, 12, 3), **BAND, alpha=8)
        assert magnifier.feed(video[:0]).shape == (0, 17, 12, 3)
        first = magnifier.feed(video[:5])
        magnifier.feed(video[:0])
        rest = magnifier.feed(video[5:])
        np.testing.assert_array_equal(
            np.concatenate([first, rest]), magnify(video, **BAND, alpha=8)
        )

    @pytest.mark.parametrize("mode", ["motion", "color"])
    def test_what_does_not_move_comes_out_as_it_was(
        self, mode: str, rng: np.random.Generator
    ) -> None:
        still = rng.integers(0, 256, (61, 46, 3), dtype=np.uint8)
        video = np.repeat(still[None], 50, axis=0)
        np.testing.assert_array_equal(magnify(video, **BAND, alpha=50, mode=mode), video)
        unit = (video / 255).astype(np.float32)
        magnified = magnify(unit, **BAND, alpha=50, mode=mode)
        np.testing.assert_allclose(magnified, unit, atol=50 * 1e-6)

    def test_the_first_frame_comes_out_as_it_was(self, rng: np.random.Generator) -> None:
        frame = rng.integers(0, 256, (61, 46, 3), dtype=np.uint8)
        np.testing.assert_array_equal(magnify(frame[None], **BAND, alpha=50)[0], frame)


class TestState:
    @pytest.mark.parametrize("mode", ["motion", "color"])
    @pytest.mark.parametrize("dtype", [np.uint8, np.float32])
    def test_a_saved_state_goes_on_where_it_was(
        self, mode: str, dtype: type, rng: np.random.Generator
    ) -> None:
        video = clip_of(rng, (33, 46, 3), dtype)
        options = {**BAND, "alpha": 8, "mode": mode, "dtype": dtype}
        magnifier = Magnifier((33, 46, 3), **options)
        magnifier.feed(video[:5])
        file = io.BytesIO()
        np.savez(file, state=magnifier.state)
        pickled = pickle.dumps(magnifier.state)
        rest = magnifier.feed(video[5:])

        file.seek(0)
        for state in (np.load(file)["state"], pickle.loads(pickled)):
            other = Magnifier((33, 46, 3), **options)
            other.feed(video[7:])  # something else, which the state replaces
            other.state = state
            np.testing.assert_array_equal(other.feed(video[5:]), rest)

    def test_the_state_before_the_first_frame_restores_that(self, rng: np.random.Generator) -> None:
        video = clip_of(rng, (17, 12), np.uint8)
        magnifier = Magnifier((17, 12), **BAND, alpha=8)
        fresh = magnifier.state
        assert fresh is None
        first = magnifier.feed(video)
        magnifier.state = fresh
        np.testing.assert_array_equal(magnifier.feed(video), first)

    def test_reset_forgets(self, rng: np.random.Generator) -> None:
        video = clip_of(rng, (17, 12), np.uint8)
        magnifier = Magnifier((17, 12), **BAND, alpha=8)
        first = magnifier.feed(video)
        magnifier.reset()
        np.testing.assert_array_equal(magnifier.feed(video), first)

    def test_a_state_that_was_read_does_not_change_later(self, rng: np.random.Generator) -> None:
        video = clip_of(rng, (17, 12), np.uint8)
        magnifier = Magnifier((17, 12), **BAND, alpha=8)
        magnifier.feed(video[:5])
        state = magnifier.state
        rest = magnifier.feed(video[5:])
        magnifier.state = state
        np.testing.assert_array_equal(magnifier.feed(video[5:]), rest)

    def test_the_state_of_another_size_is_refused(self, rng: np.random.Generator) -> None:
        magnifier = Magnifier((33, 46, 3), **BAND, alpha=8)
        magnifier.feed(clip_of(rng, (33, 46, 3), np.uint8))
        other = Magnifier((33, 40, 3), **BAND, alpha=8)
        with pytest.raises(ValueError, match=r"\[marey\.Magnifier\] state"):
            other.state = magnifier.state

    @pytest.mark.parametrize("state", [{}, 5, [1, 2], np.zeros(3, np.float32)])
    def test_what_is_not_a_state_is_refused(self, state: Any) -> None:
        magnifier = Magnifier((33, 46, 3), **BAND, alpha=8)
        with pytest.raises((TypeError, ValueError), match="state"):
            magnifier.state = state


@pytest.mark.usefixtures("isa")
class TestErrors:
    @pytest.mark.parametrize(
        ("low", "high", "fs"),
        BAD_BANDS,
    )
    def test_a_band_outside_zero_to_half_the_rate(self, low: float, high: float, fs: float) -> None:
        with pytest.raises(ValueError, match=r"\[marey\.\w+\] (low|high|fs)"):
            Magnifier((32, 32), fs, low, high, 10)

    @pytest.mark.parametrize(
        ("name", "value"),
        [
            *(("alpha", value) for value in (-1, np.nan, np.inf)),
            *(("chroma", value) for value in (-0.1, np.nan, np.inf)),
            *(("cutoff", value) for value in (-16, np.nan)),
            *(("levels", value) for value in (-1, 0, 1, 31)),
            *(("order", value) for value in (0, -1)),
            ("mode", "sideways"),
            ("method", "magic"),
            *(("dtype", value) for value in (np.float64, np.int16, np.complex64)),
        ],
    )
    def test_an_option_outside_its_range(self, name: str, value: Any) -> None:
        options = {"alpha": 10, **BAND, name: value}
        with pytest.raises((ValueError, TypeError), match=rf"\[marey\.\w+\] {name}"):
            Magnifier((32, 32, 3), **options)

    @pytest.mark.parametrize(
        "shape",
        [(), (32,), (32, 32, 4), (32, 32, 1), (2, 32, 32, 3), (0, 32), (32, 0, 3), (-1, 32)],
    )
    def test_a_shape_that_is_not_a_frame(self, shape: tuple[int, ...]) -> None:
        with pytest.raises(ValueError, match=r"\[marey\.Magnifier\] shape"):
            Magnifier(shape, **BAND, alpha=10)

    @pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
    @pytest.mark.parametrize("mode", ["motion", "color"])
    def test_a_value_that_is_not_finite_is_an_error_and_leaves_the_state(
        self, value: float, mode: str, rng: np.random.Generator
    ) -> None:
        video = clip_of(rng, (33, 46, 3), np.float32, frames=60)
        options = {**BAND, "alpha": 8, "mode": mode, "dtype": np.float32}
        for where in [(0, 0, 0, 0), (3, 32, 45, 2), (49, 16, 17, 1)]:
            magnifier = Magnifier((33, 46, 3), **options)
            magnifier.feed(video[:10])
            spoilt = video[10:].copy()
            spoilt[where] = value
            with pytest.raises(ValueError, match=r"\[marey\.Magnifier\] frames: .*(finite|NaN)"):
                magnifier.feed(spoilt)
            np.testing.assert_array_equal(
                magnifier.feed(video[10:]), magnify(video, **BAND, alpha=8, mode=mode)[10:]
            )

    @pytest.mark.parametrize(
        "shape",
        [(5, 33, 46), (5, 33, 45, 3), (5, 33, 46, 4), (1, 5, 33, 46, 3), (33, 46, 1), (46,)],
    )
    def test_frames_of_another_shape(self, shape: tuple[int, ...]) -> None:
        magnifier = Magnifier((33, 46, 3), **BAND, alpha=8)
        with pytest.raises(ValueError, match=r"\[marey\.Magnifier\] frames.*33, 46, 3"):
            magnifier.feed(np.zeros(shape, np.uint8))

    @pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int16, np.complex64])
    def test_frames_of_another_dtype(self, dtype: type) -> None:
        magnifier = Magnifier((33, 46, 3), **BAND, alpha=8)
        with pytest.raises(TypeError, match=r"\[marey\.Magnifier\] frames.*uint8"):
            magnifier.feed(np.zeros((5, 33, 46, 3), dtype))

    @pytest.mark.parametrize("dtype", [np.float64, np.int16, np.complex64, bool])
    def test_a_video_of_a_dtype_that_is_not_taken(self, dtype: type) -> None:
        with pytest.raises(TypeError, match=r"\[marey\.\w+\] (video|frames|dtype).*uint8"):
            magnify(np.zeros((5, 33, 46, 3), dtype), **BAND, alpha=8)

    @pytest.mark.parametrize(
        "shape", [(33, 46), (5, 33, 46, 4), (1, 5, 33, 46, 3), (5,), (0, 33, 46, 3), (5, 0, 46, 3)]
    )
    def test_a_video_of_another_shape(self, shape: tuple[int, ...]) -> None:
        with pytest.raises(ValueError, match=r"\[marey\.\w+\] (video|shape|frames)"):
            magnify(np.zeros(shape, np.uint8), **BAND, alpha=8)


@pytest.mark.parametrize("method", ["linear", "phase", "riesz"])
@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_out_with_gaps_in_its_rows_is_refused(
    method: Any, dtype: Any, rng: np.random.Generator
) -> None:
    frames = rng.random((3, 16, 18, 3), np.float32)
    frames = np.rint(255 * frames).astype(np.uint8) if dtype == np.uint8 else frames
    magnifier = Magnifier((16, 18, 3), 30, 0.5, 3, 5, method=method, dtype=dtype)
    memory = np.zeros((3, 16, 18, 4), dtype)
    for out in (memory[..., :3], memory[:, :, ::-1, :3]):
        with pytest.raises(ValueError, match=r"\[marey.Magnifier\] out: .* rows are contiguous"):
            magnifier.feed(frames, out=out)
    assert not memory.any()
    rows = np.zeros((3, 32, 18, 3), dtype)
    magnifier.feed(frames, out=rows[:, ::-2])
    np.testing.assert_array_equal(
        rows[:, ::-2],
        Magnifier((16, 18, 3), 30, 0.5, 3, 5, method=method, dtype=dtype).feed(frames),
    )
    assert not rows[:, ::2].any()
