"""Phase-based and Riesz magnification, streaming."""

import pickle
from pathlib import Path
from typing import Any

import marey
import numpy as np
import pytest
import scipy.ndimage
import scipy.signal
from hypothesis import given
from hypothesis import strategies as st
from marey import Magnifier, _phase, config, magnify
from marey.reference import phase as published
from marey.synthetic import Scene, amplitude
from marey.temporal import butter_bandpass
from numpy.typing import NDArray

pytestmark = pytest.mark.no_bf16

BAND = {"fs": 30.0, "low": 0.6, "high": 2.4}  # centred on the clips' 1.2 Hz
METHODS = ["phase", "riesz"]
SIZES = [(1, 1), (1, 17), (7, 5), (17, 33), (48, 64), (97, 113)]
# The reference is float64; angles of weak coefficients and their filter are float32.
TOLERANCE = 2e-5

Video = NDArray[Any]


def clip_of(rng: np.random.Generator, shape: tuple[int, ...], frames: int = 14) -> Video:
    """Return a smooth still that sways by a fraction of a pixel, in [0, 1]."""
    size = shape[:2]
    still = scipy.ndimage.gaussian_filter(rng.standard_normal(shape), [1.5, 1.5, 0][: len(shape)])
    still = 0.5 + 0.12 * still / (still.std() or 1)
    spectrum = np.fft.fft2(still, axes=(0, 1))
    fx = np.fft.fftfreq(size[1])[np.newaxis, :].reshape(1, -1, *[1] * (len(shape) - 2))
    moved = [
        np.fft.ifft2(
            spectrum * np.exp(-2j * np.pi * fx * 0.4 * np.sin(2 * np.pi * 1.2 * t / 30)),
            axes=(0, 1),
        ).real
        for t in range(frames)
    ]
    return np.clip(np.stack(moved), 0, 1)


@pytest.mark.usefixtures("isa")
@pytest.mark.parametrize("method", METHODS)
class TestAgainstTheReference:
    @pytest.mark.parametrize("size", SIZES)
    def test_sizes(self, method: Any, size: tuple[int, int], rng: np.random.Generator) -> None:
        video = clip_of(rng, size).astype(np.float32)
        ours = magnify(video, **BAND, alpha=3, method=method)
        exact = np.clip(published.magnify(video, **BAND, alpha=3, method=method), 0, 1)
        assert ours.dtype == np.float32
        np.testing.assert_allclose(ours, exact, rtol=0, atol=TOLERANCE)

    @pytest.mark.parametrize(
        "options",
        [
            {"sigma": 0},
            {"sigma": 5.0},
            {"order": 2},
            {"order": 3},
            {"attenuate": True},
            {"attenuate": True, "order": 2, "sigma": 0},
            {"levels": 1},
            {"orientations": 3, "octave_fraction": 0.5},
            {"orientations": 4, "octave_fraction": 0.25},
        ],
        ids=str,
    )
    def test_options(self, method: Any, options: dict[str, Any], rng: np.random.Generator) -> None:
        video = clip_of(rng, (40, 44)).astype(np.float32)
        ours = magnify(video, **BAND, alpha=4, method=method, **options)
        exact = np.clip(published.magnify(video, **BAND, alpha=4, method=method, **options), 0, 1)
        assert np.abs(exact - video).max() > 0.02, "something moved"
        np.testing.assert_allclose(ours, exact, rtol=0, atol=TOLERANCE)

    def test_colour_keeps_its_chroma_and_uint8_is_rounded(
        self, method: Any, rng: np.random.Generator
    ) -> None:
        video = np.rint(255 * clip_of(rng, (33, 40, 3))).astype(np.uint8)
        ours = magnify(video, **BAND, alpha=3, method=method)
        exact = np.clip(published.magnify(video, **BAND, alpha=3, method=method), 0, 255)
        assert ours.dtype == np.uint8
        assert np.abs(ours - exact).max() <= 0.5 + 255 * TOLERANCE


@pytest.mark.parametrize("method", METHODS)
class TestStream:
    @given(cuts=st.lists(st.integers(0, 12), max_size=4).map(sorted))
    def test_any_chunking_gives_the_result_of_one_call(self, method: Any, cuts: list[int]) -> None:
        video = np.random.default_rng(1).random((12, 20, 23), np.float32)
        whole = Magnifier((20, 23), **BAND, alpha=5, method=method, dtype=np.float32)
        expected = whole.feed(video)
        parts = Magnifier((20, 23), **BAND, alpha=5, method=method, dtype=np.float32)
        got = [parts.feed(part) for part in np.split(video, cuts)]
        np.testing.assert_array_equal(np.concatenate(got), expected)
        np.testing.assert_array_equal(parts.state, whole.state)

    def test_the_state_continues_a_stream(self, method: Any, rng: np.random.Generator) -> None:
        video = rng.integers(0, 256, (9, 24, 31, 3), np.uint8)
        make = lambda: Magnifier(video.shape[1:], **BAND, alpha=5, method=method)  # noqa: E731
        one = make()
        expected = one.feed(video)
        first, second = make(), make()
        assert first.state is None
        first.feed(video[:4])
        second.state = pickle.loads(pickle.dumps(first.state))
        np.testing.assert_array_equal(second.feed(video[4:]), expected[4:])
        second.reset()
        np.testing.assert_array_equal(second.feed(video), expected)
        with pytest.raises(ValueError, match="state: expected shape"):
            second.state = np.zeros(3, np.float32)

    def test_threads_do_not_matter(self, method: Any, rng: np.random.Generator) -> None:
        video = rng.integers(0, 256, (4, 65, 70), np.uint8)
        results = []
        for threads in (1, 2, 3):
            with config.threads(threads):
                results.append(magnify(video, **BAND, alpha=5, method=method))
        np.testing.assert_array_equal(results[0], results[1])
        np.testing.assert_array_equal(results[0], results[2])

    def test_a_bad_frame_leaves_the_state_as_it_was(
        self, method: Any, rng: np.random.Generator
    ) -> None:
        video = rng.random((6, 32, 32), np.float32)
        magnifier = Magnifier((32, 32), **BAND, alpha=5, method=method, dtype=np.float32)
        magnifier.feed(video[:3])
        before = magnifier.state
        bad = video[3:].copy()
        for value in (np.nan, np.inf, 1e20):
            bad[1, 3, 3] = value
            with pytest.raises(ValueError, match="frames: expected finite values"):
                magnifier.feed(bad)
            np.testing.assert_array_equal(magnifier.state, before)
        bad[1, 3, 3] = 1e6  # of [0, 1], and yet no harm
        magnifier.feed(bad)
        magnifier.feed(video)
        assert np.isfinite(magnifier.state).all()

    def test_one_frame_no_frames_and_out(self, method: Any, rng: np.random.Generator) -> None:
        video = rng.integers(0, 256, (3, 18, 20, 3), np.uint8)
        magnifier = Magnifier(video.shape[1:], **BAND, alpha=5, method=method)
        np.testing.assert_array_equal(magnifier.feed(video[0]), video[0])
        assert magnifier.feed(video[:0]).shape == (0, 18, 20, 3)
        out = np.empty_like(video[1:])
        assert magnifier.feed(video[1:], out=out) is out
        np.testing.assert_array_equal(out, magnify(video, **BAND, alpha=5, method=method)[1:])

    @pytest.mark.slow
    def test_what_fades_out_does_not_become_denormal(
        self, method: Any, rng: np.random.Generator
    ) -> None:
        magnifier = Magnifier((16, 16), 30, 2, 14, 5, method=method)
        magnifier.feed(rng.integers(0, 256, (4, 16, 16), np.uint8))
        magnifier.feed(np.zeros((600, 16, 16), np.uint8))
        # After the phases (or the bands) comes the filter's state.
        fading = magnifier.state[1 if method == "phase" else 3 :]
        tiny = np.finfo(np.float32).tiny
        assert np.abs(fading).max() < 100 * tiny
        assert not np.any((fading != 0) & (np.abs(fading) < tiny))

    def test_a_still_stays(self, method: Any, rng: np.random.Generator) -> None:
        still = rng.integers(0, 256, (40, 50, 3), np.uint8)
        video = np.broadcast_to(still, (5, *still.shape))
        np.testing.assert_array_equal(magnify(video, **BAND, alpha=50, method=method), video)

    @pytest.mark.slow
    def test_memory_does_not_grow_with_the_stream(self, method: Any) -> None:
        magnifier = Magnifier((64, 64), **BAND, alpha=5, method=method)
        before = magnifier.workspace_bytes
        for _ in range(20):
            magnifier.feed(np.zeros((3, 64, 64), np.uint8))
        assert magnifier.workspace_bytes == before

    @pytest.mark.slow
    def test_phases_do_not_lose_precision_in_a_long_pan(self, method: Any) -> None:
        """A wave that moves on and on looks after 2000 frames as it did after 350."""
        x = np.arange(64)
        frames = np.stack(
            [
                np.tile(0.5 + 0.3 * np.cos(2 * np.pi * (8 * x / 64 - t / 7)), (64, 1))
                for t in range(7)
            ]
        ).astype(np.float32)
        options = {"orientations": 2} if method == "phase" else {}
        magnifier = Magnifier(
            (64, 64), **BAND, alpha=20, method=method, dtype=np.float32, **options
        )
        results = [magnifier.feed(frames) for _ in range(290)]
        np.testing.assert_allclose(results[-1], results[50], atol=1e-4)


@pytest.fixture(scope="module")
def scene() -> Scene:
    return Scene(height=160, width=320, sway=0.1, sway_hz=1.2, noise=0.0, wavelengths=(12, 40))


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("alpha", [4, 10])
def test_motion_becomes_one_plus_alpha_times_as_large(
    scene: Scene, method: Any, alpha: float
) -> None:
    frames = scene.frames(0, 100)
    magnified = magnify(frames, **BAND, alpha=alpha, method=method)
    before, after = (
        amplitude(scene.displacement(f)[25:], scene.fps, scene.sway_hz) for f in (frames, magnified)
    )
    assert after / before == pytest.approx(1 + alpha, rel=0.1)


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_attenuation_takes_fast_motion_away(method: Any) -> None:
    fast = Scene(height=160, width=320, sway=0.3, sway_hz=9.0, noise=0.0, wavelengths=(12, 40))
    frames = fast.frames(0, 90)
    kept, attenuated = (
        magnify(frames, 30, 0.3, 0.9, 0, method=method, attenuate=attenuate)
        for attenuate in (False, True)
    )
    np.testing.assert_array_equal(kept, frames)
    before, after = (
        amplitude(fast.displacement(f)[25:], fast.fps, fast.sway_hz) for f in (frames, attenuated)
    )
    assert after < 0.3 * before


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_less_noise_than_linear_at_the_same_alpha(method: Any) -> None:
    """In a still that is nothing but sensor noise on a texture, within the band."""
    still = Scene(height=160, width=320, sway=0.0, flush=0.0, noise=2.0, wavelengths=(12, 40))
    frames = still.frames(0, 90)
    rows, columns = still.texture_region
    linear, ours = (
        magnify(frames, **BAND, alpha=20, method=m)[30:, rows, columns]
        .astype(np.float32)
        .std(axis=0)
        .mean()
        for m in ("linear", method)
    )
    assert ours < 0.9 * linear


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_crane_has_less_noise_than_linear(method: Any, data: Path) -> None:
    from marey import video

    frames, _ = video.read(data / "crane_crop.mp4")
    frames = frames[:120]
    options = {"fs": 24, "low": 0.2, "high": 0.25, "alpha": 75}
    # Sky: nothing moves there.
    still = frames.astype(np.float32).mean(axis=-1)
    sky = np.s_[: frames.shape[1] // 8, : frames.shape[2] // 8]
    assert still[(slice(None), *sky)].std(axis=0).mean() < 4
    linear, ours = (
        magnify(frames, **options, method=m, **extra).astype(np.float32).mean(axis=-1)
        for m, extra in (("linear", {}), (method, {"sigma": 5}))
    )
    difference = [float((v - still)[40:].std(axis=0)[sky].mean()) for v in (ours, linear)]
    assert difference[0] < difference[1]


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mode": "color"}, "mode: expected"),
        ({"cutoff": 16.0}, "cutoff: expected None"),
        ({"sigma": -1}, "sigma: expected"),
        ({"sigma": np.nan}, "sigma: expected"),
        ({"orientations": 0}, "orientations: expected"),
        ({"octave_fraction": 0.3}, "octave_fraction: expected"),
        ({"levels": 0}, "levels: expected"),
        ({"levels": 12}, "levels: expected"),
        ({"alpha": -1}, "alpha: expected"),
    ],
    ids=str,
)
def test_bad_options_are_named(method: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Magnifier((64, 64), **BAND, **{"alpha": 5, "method": method, **options})


@pytest.mark.parametrize("method", ["linear", *METHODS])
class TestAnyBandPass:
    def test_the_butterworth_one_is_the_default(
        self, method: Any, rng: np.random.Generator
    ) -> None:
        video = rng.integers(0, 256, (7, 32, 40), np.uint8)
        sos = butter_bandpass(BAND["low"], BAND["high"], BAND["fs"], 2)
        np.testing.assert_array_equal(
            magnify(video, None, None, None, 5, sos=sos, method=method),
            magnify(video, **BAND, order=2, alpha=5, method=method),
        )

    @pytest.mark.slow
    @pytest.mark.parametrize(
        "sos",
        [
            scipy.signal.cheby1(3, 1, (0.6, 2.4), "bandpass", fs=30, output="sos"),
            scipy.signal.bessel(2, (0.6, 2.4), "bandpass", fs=30, output="sos"),
            scipy.signal.tf2sos(scipy.signal.firwin(61, (0.6, 2.4), pass_zero=False, fs=30), 1.0),
        ],
        ids=["chebyshev", "bessel", "fir"],
    )
    def test_motion_in_its_band_is_magnified(self, scene: Scene, method: Any, sos: Any) -> None:
        if abs(scipy.signal.sosfreqz(sos, [0.0], fs=30)[1][0]) > 1e-6:
            sos = sos.copy()  # a windowed filter has a little left at 0 Hz
            sos[0, :3] -= sos[0, :3].sum() / 3
        gain = scipy.signal.sosfreqz(sos, [scene.sway_hz], fs=30)[1][0]
        frames = scene.frames(0, 160)
        magnified = magnify(frames, None, None, None, 4, sos=sos, method=method)
        before, after = (
            amplitude(scene.displacement(f)[75:], scene.fps, scene.sway_hz)
            for f in (frames, magnified)
        )
        assert abs(gain) > 0.5
        # Linear magnification spares the finest band.
        assert after / before == pytest.approx(
            abs(1 + 4 * gain), rel=0.3 if method == "linear" else 0.1
        )

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"low": 0.6}, "low: expected None beside sos; found 0.6"),
            ({"sos": np.ones((2, 5))}, r"sos: expected shape \(sections, 6\)"),
            ({"sos": [[1, -1, 0, 2, 0, 0]]}, "sos: expected finite rows"),
            ({"sos": [[1, -1, 0, 1, np.nan, 0]]}, "sos: expected finite rows"),
            ({"sos": [[1, -1, 0, 1, -1.1, 0]]}, "sos: expected a stable filter"),
            ({"sos": [[1, 1, 0, 1, -0.5, 0]]}, "sos: expected a band-pass"),
        ],
        ids=str,
    )
    def test_another_is_refused(self, method: Any, options: dict[str, Any], message: str) -> None:
        arguments = {"low": None, "high": None, "sos": butter_bandpass(1, 3, 30), **options}
        with pytest.raises(ValueError, match=message):
            Magnifier((32, 32), 30, **arguments, alpha=5, method=method)


@pytest.mark.parametrize("method", METHODS)
def test_attenuation_beside_a_band_pass_of_ones_own_asks_for_its_limit(method: Any) -> None:
    sos = butter_bandpass(1, 3, 30)
    Magnifier((32, 32), 30, None, 3, 5, sos=sos, method=method, attenuate=True)
    with pytest.raises(TypeError, match="high: expected a number"):
        Magnifier((32, 32), 30, None, None, 5, sos=sos, method=method, attenuate=True)
    with pytest.raises(ValueError, match="high: expected 0 < high < 15 Hz"):
        Magnifier((32, 32), 30, None, 20, 5, sos=sos, method=method, attenuate=True)


@pytest.mark.parametrize("order", [1, 2, 3, 4])
def test_filtering_increments_is_filtering_the_phase(order: int, rng: np.random.Generator) -> None:
    phase = np.concatenate([[0.0], np.cumsum(rng.standard_normal(200))])
    increments = np.diff(phase, prepend=0.0)
    sos = butter_bandpass(0.5, 3, 30, order)
    np.testing.assert_allclose(
        scipy.signal.sosfilt(_phase.increment_sections(sos), increments),
        scipy.signal.sosfilt(sos, phase),
        atol=1e-9,
    )
    low = scipy.signal.butter(order, 3, fs=30, output="sos")
    np.testing.assert_allclose(
        scipy.signal.sosfilt(_phase.fast_sections(3, 30, order), increments),
        scipy.signal.sosfilt(low, phase) - phase,
        atol=1e-9,
    )


def test_the_choices_are_documented() -> None:
    assert marey.Magnifier.__doc__ is not None
    for name in ("phase", "riesz", "sigma", "orientations", "octave_fraction", "attenuate"):
        assert name in marey.Magnifier.__doc__
