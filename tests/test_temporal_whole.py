"""Filters that need the whole recording: zero-phase, ideal, median over all of time."""

from functools import partial
from typing import Any

import numpy as np
import pytest
import scipy.signal
from marey import _cpu, config
from marey.reference import temporal as reference
from marey.temporal import butter_bandpass, ideal_bandpass, median, sosfiltfilt
from numpy.typing import NDArray
from temporal_cases import DTYPES, computed_in, layouts, signal
from tolerances import assert_close

pytestmark = pytest.mark.no_bf16


def check_filtfilt(
    sos: NDArray[np.float64], x: NDArray[Any], axis: int = 0, **options: Any
) -> None:
    y = sosfiltfilt(sos, x, axis, **options)
    assert y.dtype == computed_in(x.dtype)
    compute = partial(reference.sosfiltfilt, sos, x, axis, **options)
    assert_close(y, lambda dtype: compute(dtype=dtype), "sosfiltfilt")


def check_ideal(x: NDArray[Any], low: float, high: float, fs: float, axis: int = 0) -> None:
    y = ideal_bandpass(x, low, high, fs, axis)
    assert y.dtype == computed_in(x.dtype)
    assert_close(
        y,
        lambda dtype: reference.ideal_bandpass(x, low, high, fs, axis, dtype=dtype),
        "ideal_bandpass",
        scale=float(np.abs(x.astype(np.float64)).max(initial=0)),
    )


def test_steady_state_is_scipys() -> None:
    for order in (1, 3, 8):
        sos = scipy.signal.butter(order, [1, 9], "bandstop", fs=30, output="sos")
        zi = scipy.signal.sosfilt_zi(sos)
        np.testing.assert_allclose(_cpu.sosfilt_zi("f", sos), zi, atol=1e-10 * np.abs(zi).max())


class TestReferenceIsThePeer:
    @pytest.mark.parametrize("padtype", ["odd", "even", "constant", None])
    @pytest.mark.parametrize("axis", [0, 1, -1])
    def test_sosfiltfilt_is_scipys(
        self, padtype: str | None, axis: int, rng: np.random.Generator
    ) -> None:
        x = rng.standard_normal((40, 41, 42))
        for sos in (butter_bandpass(1, 4, 30, 2), scipy.signal.butter(3, 0.2, output="sos")):
            np.testing.assert_allclose(
                reference.sosfiltfilt(sos, x, axis, padtype),
                scipy.signal.sosfiltfilt(sos, x, axis, padtype),
                atol=1e-9,
            )

    @pytest.mark.parametrize("steps", [1, 2, 7, 60])
    def test_ideal_bandpass_is_a_transform_with_zeros(
        self, steps: int, rng: np.random.Generator
    ) -> None:
        x = rng.standard_normal((steps, 5))
        spectrum = np.fft.rfft(x, axis=0)
        frequency = np.arange(len(spectrum)) * 30 / steps
        spectrum[(frequency < 0) | (frequency > 3)] = 0
        np.testing.assert_allclose(
            reference.ideal_bandpass(x, 0, 3, 30), np.fft.irfft(spectrum, steps, 0), atol=1e-12
        )


@pytest.mark.usefixtures("isa")
class TestSosfiltfilt:
    @pytest.mark.parametrize("dtype", DTYPES)
    def test_every_layout(self, dtype: type, rng: np.random.Generator) -> None:
        for x, axis in layouts(rng, dtype):
            if x.shape[axis] > 9:
                check_filtfilt(butter_bandpass(1, 4, 30), x, axis)

    @pytest.mark.parametrize("dtype", DTYPES)
    @pytest.mark.parametrize("padtype", ["odd", "even", "constant", None])
    @pytest.mark.parametrize("padlen", [None, 0, 1, 6])
    def test_every_extension(
        self, dtype: type, padtype: str | None, padlen: int | None, rng: np.random.Generator
    ) -> None:
        x = signal(rng, (33, 70), dtype)
        check_filtfilt(butter_bandpass(1, 4, 30, 2), x, padtype=padtype, padlen=padlen)

    @pytest.mark.parametrize("n", [1, 2, 3, 4, 5, 9])
    def test_any_number_of_sections(self, n: int, rng: np.random.Generator) -> None:
        check_filtfilt(butter_bandpass(2, 8, 30, n), signal(rng, (100, 97), np.float32))

    def test_sections_of_first_order(self, rng: np.random.Generator) -> None:
        sos = scipy.signal.butter(3, 0.3, output="sos")
        x = signal(rng, (19, 80), np.float64)  # 18 is SciPy's default padding
        np.testing.assert_allclose(
            sosfiltfilt(sos, x), scipy.signal.sosfiltfilt(sos, x, 0), atol=1e-12
        )

    def test_a_series_longer_than_any_cache_tile(self, rng: np.random.Generator) -> None:
        check_filtfilt(butter_bandpass(1, 4, 30), signal(rng, (5000, 70), np.float32))

    def test_large_results_and_threads(self, rng: np.random.Generator) -> None:
        x = signal(rng, (24, 123, 457, 3), np.float32)
        with config.threads(1):
            alone = sosfiltfilt(butter_bandpass(1, 4, 30), x)
        with config.threads(3):
            np.testing.assert_array_equal(sosfiltfilt(butter_bandpass(1, 4, 30), x), alone)
        check_filtfilt(butter_bandpass(1, 4, 30), x)

    @pytest.mark.parametrize("dtype", [np.float32, np.float64])
    @pytest.mark.parametrize("axis", [0, 1])
    def test_in_place(self, dtype: type, axis: int, rng: np.random.Generator) -> None:
        x = signal(rng, (40, 130), dtype)
        y = sosfiltfilt(butter_bandpass(1, 4, 30), x, axis)
        assert sosfiltfilt(butter_bandpass(1, 4, 30), x, axis, out=x) is x
        np.testing.assert_array_equal(x, y)

    def test_nothing_is_delayed(self) -> None:
        t = np.arange(300) / 30
        x = np.sin(2 * np.pi * 2 * t)
        y = sosfiltfilt(butter_bandpass(1, 4, 30), x)
        assert np.dot(x[60:-60], y[60:-60]) > 0.99 * np.linalg.norm(x[60:-60]) * np.linalg.norm(
            y[60:-60]
        )

    def test_a_short_recording_is_an_error(self) -> None:
        with pytest.raises(
            ValueError, match=r"\[marey\.sosfiltfilt\] x: expected more than padlen"
        ):
            sosfiltfilt(butter_bandpass(1, 4, 30), np.zeros((9, 7), np.float32))

    def test_bad_arguments_are_named(self) -> None:
        sos, x = butter_bandpass(1, 4, 30), np.zeros((20, 7), np.float32)
        with pytest.raises(ValueError, match=r"\[marey\.sosfiltfilt\] padtype"):
            sosfiltfilt(sos, x, padtype="wrap")  # type: ignore[arg-type]
        with pytest.raises(ValueError, match=r"\[marey\.sosfiltfilt\] padlen"):
            sosfiltfilt(sos, x, padlen=-1)
        with pytest.raises(ValueError, match=r"\[marey\.sosfiltfilt\] sos"):
            sosfiltfilt(sos[0], x)
        with pytest.raises(ValueError, match=r"\[marey\.sosfiltfilt\] sos"):
            sosfiltfilt(2 * sos, x)
        with pytest.raises(ValueError, match=r"sos: expected sections without a pole at freq"):
            sosfiltfilt(np.array([[1.0, 0, 0, 1, -2, 1]]), x)
        with pytest.raises(ValueError, match=r"\[marey\.sosfiltfilt\] axis"):
            sosfiltfilt(sos, x, 2)
        with pytest.raises(ValueError, match=r"\[marey\.sosfiltfilt\] out"):
            sosfiltfilt(sos, x, out=x[::-1])
        with pytest.raises(TypeError, match=r"\[marey\.sosfiltfilt\] x"):
            sosfiltfilt(sos, x.astype(np.int32))


@pytest.mark.usefixtures("isa")
@pytest.mark.usefixtures("isa")
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_what_fades_out_does_not_become_denormal(dtype: type) -> None:
    x = np.zeros((12_000, 67), dtype)
    x[0] = 1
    y = sosfiltfilt(butter_bandpass(0.5, 3, 30), x)
    tiny = np.finfo(dtype).tiny
    assert np.abs(y[-1]).max() < 100 * tiny
    assert not np.any((y != 0) & (np.abs(y) < tiny))


class TestIdealBandpass:
    @pytest.mark.parametrize("dtype", DTYPES)
    def test_every_layout(self, dtype: type, rng: np.random.Generator) -> None:
        for x, axis in layouts(rng, dtype):
            check_ideal(x, 4, 9, 30, axis)

    @pytest.mark.filterwarnings("ignore:.*no frequency of")
    @pytest.mark.parametrize("dtype", DTYPES)
    @pytest.mark.parametrize("steps", [1, 2, 3, 4, 5, 6, 7, 17, 60, 97])
    def test_every_band(self, dtype: type, steps: int, rng: np.random.Generator) -> None:
        x = signal(rng, (steps, 77), dtype)
        for low in (0, 1, 7, 15):
            for high in (1, 7.5, 14, 15):
                if low <= high:
                    check_ideal(x, low, high, 30)

    @pytest.mark.parametrize("dtype", DTYPES)
    @pytest.mark.parametrize(("low", "high"), [(0, 7), (3, 11), (1, 8)])
    def test_wide_bands_of_long_recordings(
        self, dtype: type, low: float, high: float, rng: np.random.Generator
    ) -> None:
        """From some number of bins on a transform takes over."""
        x = signal(rng, (400, 6, 5), dtype)
        check_ideal(x, low, high, 30)
        check_ideal(x.transpose(1, 0, 2), low, high, 30, 1)
        if dtype != np.uint8:
            y = ideal_bandpass(x, low, high, 30)
            assert ideal_bandpass(x, low, high, 30, out=x) is x
            np.testing.assert_array_equal(x, y)
        check_ideal(signal(rng, (400,), dtype), low, high, 30)

    @pytest.mark.parametrize("band", [(4, 9), (0, 13)])
    def test_in_place(self, band: tuple[float, float], rng: np.random.Generator) -> None:
        x = signal(rng, (40, 130), np.float32)
        y = ideal_bandpass(x, *band, 30)
        assert ideal_bandpass(x, *band, 30, out=x) is x
        np.testing.assert_array_equal(x, y)

    def test_threads_do_not_change_the_result(self, rng: np.random.Generator) -> None:
        x = signal(rng, (24, 123, 457, 3), np.uint8)
        with config.threads(1):
            alone = ideal_bandpass(x, 1, 4, 30)
        with config.threads(3):
            np.testing.assert_array_equal(ideal_bandpass(x, 1, 4, 30), alone)
        check_ideal(x, 1, 4, 30)

    @pytest.mark.parametrize("phase", [0, 1, 2, 3, 4, 5])
    def test_a_wave_in_the_band_comes_back_as_it_was(self, phase: float) -> None:
        """With its sign: a peer takes the inverse transform's absolute value, which rectifies."""
        t = np.arange(60) / 30
        wave = np.cos(2 * np.pi * 2 * t + phase)
        x = 5 + wave + np.cos(2 * np.pi * 9 * t)
        np.testing.assert_allclose(ideal_bandpass(x, 1, 3, 30), wave, atol=1e-13)
        assert ideal_bandpass(x, 1, 3, 30).min() < -0.9

    def test_both_ends_of_the_band_are_in_it(self) -> None:
        t = np.arange(75) / 30
        wave = np.cos(2 * np.pi * 0.4 * t)
        for low, high in [(0.4, 1), (0.1, 0.4), (0.4, 0.4)]:
            np.testing.assert_allclose(ideal_bandpass(wave, low, high, 30), wave, atol=1e-13)

    def test_all_frequencies_are_the_input(self, rng: np.random.Generator) -> None:
        x = signal(rng, (31, 40), np.float32)
        np.testing.assert_allclose(ideal_bandpass(x, 0, 15, 30), x, atol=1e-6)

    def test_a_still_bright_pixel_gives_zero_exactly(self) -> None:
        x = np.full((50, 70), 200.125, np.float32)
        np.testing.assert_array_equal(ideal_bandpass(x, 1, 4, 30), 0)

    def test_a_band_between_two_bins_warns(self) -> None:
        with pytest.warns(UserWarning, match="no frequency of 10 frames"):
            y = ideal_bandpass(np.ones((10, 3), np.float32), 3.1, 5.9, 30)
        np.testing.assert_array_equal(y, 0)

    def test_no_frames(self) -> None:
        assert ideal_bandpass(np.zeros((0, 3), np.float32), 1, 3, 30).shape == (0, 3)

    @pytest.mark.parametrize(
        ("low", "high", "fs"),
        [(-1, 3, 30), (4, 3, 30), (1, 16, 30), (np.nan, 3, 30), (1, 3, 0), (1, 3, np.inf)],
    )
    def test_a_band_outside_is_an_error(self, low: float, high: float, fs: float) -> None:
        with pytest.raises(ValueError, match=r"\[marey\.ideal_bandpass\] (low|fs)"):
            ideal_bandpass(np.zeros((20, 3), np.float32), low, high, fs)


def check_median(x: NDArray[Any], axis: int = 0) -> None:
    y = median(x, axis)
    assert y.dtype == computed_in(x.dtype)
    with np.errstate(all="ignore"):
        np.testing.assert_array_equal(y, reference.median(x, axis))


@pytest.mark.usefixtures("isa")
class TestMedian:
    @pytest.mark.parametrize("dtype", DTYPES)
    def test_every_layout(self, dtype: type, rng: np.random.Generator) -> None:
        for x, axis in layouts(rng, dtype):
            check_median(x, axis)

    @pytest.mark.parametrize("dtype", DTYPES)
    @pytest.mark.parametrize(
        "steps", [*range(1, 20), 60, 61, 160, 161, 254, 255, 256, 257, 640, 641]
    )
    def test_any_number_of_steps(self, dtype: type, steps: int, rng: np.random.Generator) -> None:
        check_median(signal(rng, (steps, 97), dtype))
        check_median(signal(rng, (7, steps), dtype), 1)

    def test_more_steps_than_16_bits_count(self, rng: np.random.Generator) -> None:
        for steps in (65535, 65536, 65537):
            check_median(signal(rng, (steps, 3), np.uint8))

    @pytest.mark.parametrize("low", [0, 100, 254])
    def test_uint8_with_many_ties(self, low: int, rng: np.random.Generator) -> None:
        for steps in (2, 4, 9, 10, 255, 300):
            check_median(rng.integers(low, low + 2, (steps, 130), np.uint8))

    @pytest.mark.parametrize("dtype", [np.float32, np.float64])
    @pytest.mark.parametrize("steps", [1, 4, 5, 300, 301, 700])
    def test_nan_infinity_and_zeros_of_both_signs(
        self, dtype: type, steps: int, rng: np.random.Generator
    ) -> None:
        # Not 3e38, of which the sum of two is infinite in NumPy.
        values = np.array([0.0, -0.0, 1, -1, np.inf, -np.inf, 1e-40, 1e38], dtype)
        check_median(rng.choice(values, (steps, 130)))
        x = signal(rng, (steps, 130), dtype)
        x[rng.integers(steps, size=40), rng.integers(130, size=40)] = np.nan
        x[rng.integers(steps, size=40), rng.integers(130, size=40)] = -np.nan
        check_median(x)

    def test_threads_do_not_change_the_result(self, rng: np.random.Generator) -> None:
        x = signal(rng, (12, 123, 457, 3), np.uint8)
        with config.threads(1):
            alone = median(x)
        with config.threads(3):
            np.testing.assert_array_equal(median(x), alone)

    def test_out(self, rng: np.random.Generator) -> None:
        x = signal(rng, (12, 20, 30), np.uint8)
        canvas = np.full((20, 60), -1, np.float32)
        assert median(x, out=canvas[:, ::2]) is not None
        np.testing.assert_array_equal(canvas[:, ::2], median(x))
        assert (canvas[:, 1::2] == -1).all()

    def test_errors(self) -> None:
        with pytest.raises(ValueError, match=r"\[marey\.median\] x: expected at least one step"):
            median(np.zeros((0, 3), np.float32))
        with pytest.raises(ValueError, match=r"\[marey\.median\] axis"):
            median(np.zeros((2, 3), np.float32), 2)
        with pytest.raises(TypeError, match=r"\[marey\.median\] out"):
            median(np.zeros((2, 3), np.uint8), out=np.zeros(3, np.uint8))
