"""Windows that slide along time: finite impulse responses and medians, whole and in streams."""

import io
import pickle
import subprocess
import sys
from functools import partial
from typing import Any

import numpy as np
import pytest
import scipy.ndimage
from hypothesis import given
from hypothesis import strategies as st
from marey import config
from marey.reference import temporal as reference
from marey.temporal import (
    FirFilter,
    MedianFilter,
    convolve,
    derivative,
    gaussian,
    median_filter,
)
from numpy.typing import NDArray
from temporal_cases import DTYPES, MODES, computed_in, layouts, signal
from tolerances import assert_close

pytestmark = pytest.mark.no_bf16

SIZES = [1, 2, 3, 4, 5, 6, 7, 9, 12, 17]


def check_convolve(x: NDArray[Any], taps: Any, axis: int = 0, **options: Any) -> None:
    y = convolve(x, taps, axis, **options)
    assert y.dtype == computed_in(x.dtype)
    compute = partial(reference.convolve, x, taps, axis, **options)
    assert_close(
        y,
        lambda dtype: compute(dtype=dtype),
        "convolve",
        scale=float(np.abs(x.astype(np.float64)).max(initial=1) * np.abs(taps).sum()),
    )


def check_median_filter(x: NDArray[Any], size: int, axis: int = 0, **options: Any) -> None:
    y = median_filter(x, size, axis, **options)
    assert y.dtype == x.dtype
    np.testing.assert_array_equal(y, reference.median_filter(x, size, axis, **options))


class TestReferenceIsSciPy:
    @pytest.mark.parametrize("mode", MODES)
    @pytest.mark.parametrize("size", [1, 2, 3, 4, 9, 30])
    def test_windows(self, mode: Any, size: int, rng: np.random.Generator) -> None:
        x, taps = rng.standard_normal((7, 8, 9)), rng.standard_normal(size)
        for axis in range(3):
            for origin in range(-((size - 1) // 2), (size - 1) // 2 + 1):
                np.testing.assert_allclose(
                    reference.convolve(x, taps, axis, mode, origin, cval=2),
                    scipy.ndimage.convolve1d(x, taps, axis, mode=mode, cval=2, origin=origin),
                    atol=1e-12,
                )
                # There SciPy 1.17 reads what lies before the array, and finds what memory held.
                if mode == "reflect" and size // 2 + origin >= 4 * x.shape[axis]:
                    continue
                np.testing.assert_array_equal(
                    reference.median_filter(x, size, axis, mode, origin, cval=2),
                    scipy.ndimage.median_filter(
                        x, size, mode=mode, cval=2, origin=origin, axes=(axis,)
                    ),
                )

    @pytest.mark.parametrize("mode", MODES)
    @pytest.mark.parametrize("sigma", [0, 0.1, 0.7, 2, 5.5])
    def test_gaussian(self, mode: Any, sigma: float, rng: np.random.Generator) -> None:
        x = rng.standard_normal((20, 7))
        np.testing.assert_allclose(
            reference.gaussian(x, sigma, mode=mode, truncate=3),
            scipy.ndimage.gaussian_filter1d(x, sigma, 0, mode=mode, truncate=3) if sigma else x,
            atol=1e-12,
        )

    def test_derivative_is_numpys_gradient(self, rng: np.random.Generator) -> None:
        x = rng.standard_normal((9, 8))
        for axis in (0, 1):
            np.testing.assert_allclose(
                reference.derivative(x, 30, axis), np.gradient(x, 1 / 30, axis=axis), rtol=1e-12
            )


@pytest.mark.usefixtures("isa")
class TestConvolve:
    @pytest.mark.parametrize("dtype", DTYPES)
    @pytest.mark.parametrize("size", [3, 8])
    def test_every_layout(self, dtype: type, size: int, rng: np.random.Generator) -> None:
        taps = rng.standard_normal(size)
        for x, axis in layouts(rng, dtype):
            check_convolve(x, taps, axis)

    @pytest.mark.parametrize("dtype", DTYPES)
    @pytest.mark.parametrize("mode", MODES)
    @pytest.mark.parametrize("size", SIZES)
    def test_every_edge(self, dtype: type, mode: str, size: int, rng: np.random.Generator) -> None:
        taps = rng.standard_normal(size)
        for steps in (1, 2, 5, 13):
            x = signal(rng, (steps, 75), dtype)
            for origin in {-(size // 2), 0, (size - 1) // 2}:
                check_convolve(x, taps, mode=mode, origin=origin, cval=3)

    @pytest.mark.parametrize("mode", ["grid-mirror", "grid-wrap", "grid-constant"])
    def test_scipys_other_names_of_modes(self, mode: Any, rng: np.random.Generator) -> None:
        x = rng.standard_normal((9, 7))
        taps = [1, 2, 3, 4]
        np.testing.assert_allclose(
            convolve(x, taps, 0, mode), scipy.ndimage.convolve1d(x, taps, 0, mode=mode), atol=1e-12
        )

    def test_no_frames(self) -> None:
        assert convolve(np.zeros((0, 4), np.uint8), [1, 2]).shape == (0, 4)

    def test_infinity_stays_in_its_window(self) -> None:
        x = np.zeros((40, 70), np.float32)
        x[20] = np.inf
        y = convolve(x, np.ones(9))
        assert np.isfinite(y[:16]).all()
        assert np.isinf(y[16:25]).all()
        assert np.isfinite(y[25:]).all()

    def test_threads_and_large_results(self, rng: np.random.Generator) -> None:
        x = signal(rng, (12, 123, 457, 3), np.uint8)
        with config.threads(1):
            alone = convolve(x, np.arange(7))
        with config.threads(3):
            np.testing.assert_array_equal(convolve(x, np.arange(7)), alone)
        check_convolve(x, np.arange(7))

    def test_out(self, rng: np.random.Generator) -> None:
        x = signal(rng, (12, 20, 30), np.float32)
        out = np.empty((12, 20, 60), np.float32)[:, :, ::2]
        assert convolve(x, [1, 2, 3], out=out) is out
        np.testing.assert_array_equal(out, convolve(x, [1, 2, 3]))
        with pytest.raises(ValueError, match=r"\[marey\.convolve\] out: .*overlap"):
            convolve(x, [1, 2, 3], out=x)

    def test_errors(self) -> None:
        x = np.zeros((9, 7), np.float32)
        for taps in ([], [[1, 2]], 1.0):
            with pytest.raises(ValueError, match=r"\[marey\.convolve\] taps"):
                convolve(x, taps)
        with pytest.raises(ValueError, match=r"\[marey\.convolve\] taps: expected finite"):
            convolve(x, [1, np.nan])
        with pytest.raises(TypeError, match=r"\[marey\.convolve\] taps"):
            convolve(x, [1j])
        with pytest.raises(ValueError, match=r"\[marey\.convolve\] mode"):
            convolve(x, [1], mode="zero")
        for origin in (-2, 2):
            with pytest.raises(ValueError, match=r"\[marey\.convolve\] origin"):
                convolve(x, [1, 2, 3], origin=origin)
        with pytest.raises(ValueError, match=r"\[marey\.convolve\] cval: .*uint8"):
            convolve(x.astype(np.uint8), [1], mode="constant", cval=0.5)
        with pytest.raises(ValueError, match=r"\[marey\.convolve\] axis"):
            convolve(x, [1], 2)
        with pytest.raises(TypeError, match=r"\[marey\.convolve\] x"):
            convolve(x.astype(np.complex64), [1])


@pytest.mark.usefixtures("isa")
class TestGaussian:
    @pytest.mark.parametrize("dtype", [np.float32, np.float64])
    @pytest.mark.parametrize("sigma", [0, 0.3, 1, 2.5])
    def test_at_rest_it_is_scipys(
        self, dtype: type, sigma: float, rng: np.random.Generator
    ) -> None:
        x = signal(rng, (30, 9, 8), dtype)
        for axis in range(3):
            y = gaussian(x, sigma, axis)
            assert y.dtype == dtype
            peer = scipy.ndimage.gaussian_filter1d(x, sigma, axis) if sigma else x
            np.testing.assert_allclose(y, peer, atol=1e-5 if dtype == np.float32 else 1e-12)

    @pytest.mark.parametrize("dtype", DTYPES)
    @pytest.mark.parametrize("shape", [(9, 17, 13), (9, 6, 31, 3), (1, 1, 1), (5, 2, 3, 1)])
    @pytest.mark.parametrize(
        "velocity", [(0, 0), (1, -2), (0.5, 0), (0, 0.25), (-1.3, 2.7), (100, -100.5)]
    )
    def test_along_a_motion_it_is_the_reference(
        self,
        dtype: type,
        shape: tuple[int, ...],
        velocity: tuple[float, float],
        rng: np.random.Generator,
    ) -> None:
        x = signal(rng, shape, dtype)
        for mode in ("reflect", "nearest", "mirror", "constant"):
            options: dict[str, Any] = {"velocity": velocity, "mode": mode, "cval": 2}
            y = gaussian(x, 1.2, **options)
            assert y.dtype == computed_in(dtype)
            assert_close(
                y,
                lambda kind, o=options: reference.gaussian(x, 1.2, dtype=kind, **o),
                "trajectory",
            )

    def test_no_motion_is_the_filter_at_rest(self, rng: np.random.Generator) -> None:
        x = signal(rng, (20, 9, 8, 3), np.float64)
        np.testing.assert_allclose(gaussian(x, 1.5, velocity=(0, 0)), gaussian(x, 1.5), atol=1e-13)

    @pytest.mark.parametrize("velocity", [(0, 2), (1, -1), (0.5, 1.5)])
    def test_what_moves_so_stays_sharp_and_the_rest_blurs(
        self, velocity: tuple[float, float]
    ) -> None:
        t, r, c = np.ogrid[-10:11, -30:31, -30:31]

        def spot(vy: float, vx: float) -> NDArray[np.float64]:
            return np.exp(-((r - vy * t) ** 2 + (c - vx * t) ** 2) / (2 * 1.5**2))

        moving = spot(*velocity)
        still = spot(0, 0)
        middle = np.s_[10, 10:-10, 10:-10]
        kept = gaussian(moving, 2, velocity=velocity)
        np.testing.assert_allclose(kept[middle], moving[middle], atol=0.02)
        assert gaussian(still, 2, velocity=velocity)[middle].max() < 0.6
        assert gaussian(moving, 2)[middle].max() < 0.6
        np.testing.assert_allclose(gaussian(still, 2)[middle], still[middle], atol=1e-12)

    def test_rows_that_are_not_contiguous(self, rng: np.random.Generator) -> None:
        x = signal(rng, (9, 10, 12, 3), np.float32)
        y = gaussian(x.copy(), 1, velocity=(1, 0.5))
        for view in (np.asfortranarray(x), np.repeat(x, 2, 3)[..., ::2]):
            np.testing.assert_array_equal(gaussian(view, 1, velocity=(1, 0.5)), y)
        out = np.empty_like(x)
        assert gaussian(x, 1, velocity=(1, 0.5), out=out) is out
        np.testing.assert_array_equal(out, y)

    def test_errors(self) -> None:
        x = np.zeros((5, 6, 7), np.float32)
        for sigma in (-1, np.nan, np.inf):
            with pytest.raises(ValueError, match=r"\[marey\.gaussian\] sigma"):
                gaussian(x, sigma)
        with pytest.raises(ValueError, match=r"\[marey\.gaussian\] truncate"):
            gaussian(x, 1, truncate=0)
        with pytest.raises(ValueError, match=r"\[marey\.gaussian\] mode"):
            gaussian(x, 1, velocity=(1, 1), mode="wrap")
        with pytest.raises(ValueError, match=r"\[marey\.gaussian\] x, axis"):
            gaussian(x, 1, 1, velocity=(1, 1))
        with pytest.raises(ValueError, match=r"\[marey\.gaussian\] x, axis"):
            gaussian(x[0], 1, velocity=(1, 1))
        with pytest.raises(ValueError, match=r"\[marey\.gaussian\] velocity"):
            gaussian(x, 1, velocity=(1, np.nan))


@pytest.mark.usefixtures("isa")
class TestDerivative:
    @pytest.mark.parametrize("dtype", DTYPES)
    def test_every_layout(self, dtype: type, rng: np.random.Generator) -> None:
        for x, axis in layouts(rng, dtype):
            assert_close(
                derivative(x, 30, axis),
                lambda kind, x=x, axis=axis: reference.derivative(x, 30, axis, dtype=kind),
                "convolve",
                scale=30 * float(np.abs(x.astype(np.float64)).max(initial=1)),
            )

    @pytest.mark.parametrize("steps", [2, 3, 4, 5, 8, 17])
    def test_nan_and_infinity_spread_as_in_numpy(
        self, steps: int, rng: np.random.Generator
    ) -> None:
        for value in (np.nan, np.inf):
            x = rng.standard_normal((steps, 83))
            x[rng.integers(steps, size=40), rng.integers(83, size=40)] = value
            with np.errstate(invalid="ignore"):
                np.testing.assert_allclose(derivative(x, 3), np.gradient(x, 1 / 3, axis=0))

    def test_a_ramp_has_one_slope_to_its_ends(self) -> None:
        x = 3 * np.arange(8, dtype=np.uint8)[:, None]
        np.testing.assert_array_equal(derivative(x, 2), 6)
        np.testing.assert_array_equal(derivative(x[:2]), 3)

    def test_one_frame_is_an_error(self) -> None:
        with pytest.raises(ValueError, match=r"\[marey\.derivative\] x: expected at least two"):
            derivative(np.zeros((1, 3), np.float32))
        with pytest.raises(ValueError, match=r"\[marey\.derivative\] fs"):
            derivative(np.zeros((2, 3), np.float32), 0)


@pytest.mark.usefixtures("isa")
class TestMedianFilter:
    @pytest.mark.parametrize("dtype", DTYPES)
    @pytest.mark.parametrize("size", [5, 8, 18])
    def test_every_layout(self, dtype: type, size: int, rng: np.random.Generator) -> None:
        for x, axis in layouts(rng, dtype):
            check_median_filter(x, size, axis)

    @pytest.mark.parametrize("dtype", DTYPES)
    @pytest.mark.parametrize("size", [*range(1, 22), 40, 41])
    def test_every_size(self, dtype: type, size: int, rng: np.random.Generator) -> None:
        for steps in (1, 2, 7, 60):
            check_median_filter(signal(rng, (steps, 165), dtype), size)

    @pytest.mark.parametrize("dtype", DTYPES)
    @pytest.mark.parametrize("mode", MODES)
    @pytest.mark.parametrize("size", [2, 5, 16, 19])
    def test_every_edge(self, dtype: type, mode: str, size: int, rng: np.random.Generator) -> None:
        x = signal(rng, (13, 75), dtype)
        for origin in {-(size // 2), 0, (size - 1) // 2}:
            check_median_filter(x, size, mode=mode, origin=origin, cval=3)

    @pytest.mark.parametrize("size", [5, 17])
    def test_uint8_with_many_ties(self, size: int, rng: np.random.Generator) -> None:
        for low in (0, 127, 253):
            check_median_filter(rng.integers(low, low + 3, (50, 200), np.uint8), size)

    @pytest.mark.parametrize("dtype", [np.float32, np.float64])
    @pytest.mark.parametrize("size", [1, 2, 4, 5, 15, 16, 21])
    def test_nan_and_infinity(self, dtype: type, size: int, rng: np.random.Generator) -> None:
        x = rng.choice(np.array([0, 1, 2, np.inf, -np.inf], dtype), (60, 97))
        check_median_filter(x, size)
        x[rng.integers(60, size=60), rng.integers(97, size=60)] = np.nan
        check_median_filter(x, size)

    @pytest.mark.parametrize("size", [5, 17])
    def test_threads_do_not_change_the_result(self, size: int, rng: np.random.Generator) -> None:
        x = signal(rng, (30, 123, 457, 3), np.uint8)
        with config.threads(1):
            alone = median_filter(x, size)
        with config.threads(3):
            np.testing.assert_array_equal(median_filter(x, size), alone)
        check_median_filter(x[:, :5], size)

    def test_errors(self) -> None:
        x = np.zeros((9, 7), np.uint8)
        with pytest.raises(ValueError, match=r"\[marey\.median_filter\] size"):
            median_filter(x, 0)
        with pytest.raises(ValueError, match=r"\[marey\.median_filter\] origin"):
            median_filter(x, 3, origin=2)
        with pytest.raises(ValueError, match=r"\[marey\.median_filter\] mode"):
            median_filter(x, 3, mode="zero")
        with pytest.raises(ValueError, match=r"\[marey\.median_filter\] cval"):
            median_filter(x, 3, mode="constant", cval=-1)
        with pytest.raises(ValueError, match=r"\[marey\.median_filter\] out: .*overlap"):
            median_filter(x, 3, out=x)
        with pytest.raises(TypeError, match=r"\[marey\.median_filter\] x"):
            median_filter(x.astype(np.int16), 3)


def streams(draw: Any) -> Any:
    """Draw a way to make a stream."""
    axis = draw(st.integers(0, 2))
    start = draw(st.sampled_from(["rest", "first"]))
    if draw(st.booleans()):
        return axis, partial(MedianFilter, draw(st.integers(1, 20)), axis, start)
    taps = np.random.default_rng(0).standard_normal(draw(st.integers(1, 12)))
    return axis, partial(FirFilter, taps, axis, start)


@pytest.mark.usefixtures("isa")
class TestStreams:
    @given(data=st.data())
    def test_any_chunking_gives_the_result_of_one_call(self, data: st.DataObject) -> None:
        axis, make = streams(data.draw)
        dtype = data.draw(st.sampled_from(DTYPES))
        shape = tuple(data.draw(st.integers(1, 20)) for _ in range(3))
        cuts = sorted(data.draw(st.lists(st.integers(0, shape[axis]), max_size=5)))
        x = signal(np.random.default_rng(data.draw(st.integers(0, 2**16))), shape, dtype)

        one = make()
        whole = one(x)
        stream = make()
        chunks = np.split(x, cuts, axis=axis)
        np.testing.assert_array_equal(
            np.concatenate([stream(chunk) for chunk in chunks], axis=axis), whole
        )
        np.testing.assert_array_equal(stream.state, one.state)

    @pytest.mark.parametrize("dtype", DTYPES)
    @pytest.mark.parametrize("size", [1, 4, 5, 16, 17])
    def test_a_stream_is_the_filter_of_what_has_come(
        self, dtype: type, size: int, rng: np.random.Generator
    ) -> None:
        x = signal(rng, (40, 70), dtype)
        taps = rng.standard_normal(size)
        early = -((size - 1) // 2)  # the window that ends at its own step
        for start, mode in (("rest", "constant"), ("first", "nearest")):
            np.testing.assert_array_equal(
                FirFilter(taps, start=start)(x),  # type: ignore[arg-type]
                convolve(x, taps, mode=mode, origin=-(size // 2)),
            )
            np.testing.assert_array_equal(
                MedianFilter(size, start=start)(x),  # type: ignore[arg-type]
                median_filter(x, size, mode=mode, origin=-early),
            )

    @pytest.mark.parametrize("make", [partial(FirFilter, [1, 2, 3]), partial(MedianFilter, 5)])
    def test_a_saved_state_goes_on_where_it_was(self, make: Any, rng: np.random.Generator) -> None:
        x = signal(rng, (20, 5, 7), np.uint8)
        stream = make()
        assert stream.state is None
        stream(x[:9])
        file = io.BytesIO()
        np.savez(file, state=stream.state)
        pickled = pickle.dumps(stream)
        saved = stream.state
        rest = stream(x[9:])

        other = make()
        file.seek(0)
        other.state = np.load(file)["state"]
        np.testing.assert_array_equal(other(x[9:]), rest)
        np.testing.assert_array_equal(pickle.loads(pickled)(x[9:]), rest)
        assert not np.array_equal(saved, stream.state)
        stream.reset()
        assert stream.state is None
        np.testing.assert_array_equal(stream(x), make()(x))

    def test_chunks_must_fit_together(self) -> None:
        stream = MedianFilter(5)
        stream(np.zeros((3, 4, 5), np.uint8))
        with pytest.raises(ValueError, match=r"\[marey\.MedianFilter\] x: .*\(T, 4, 5\)"):
            stream(np.zeros((3, 4, 6), np.uint8))
        with pytest.raises(TypeError, match=r"\[marey\.MedianFilter\] x: .*uint8, .*found float32"):
            stream(np.zeros((3, 4, 5), np.float32))
        np.testing.assert_array_equal(stream(np.zeros((1, 4, 5), np.uint8)), 0)

    def test_out_and_its_overlaps(self, rng: np.random.Generator) -> None:
        x = signal(rng, (20, 70), np.float32)
        stream = FirFilter([1, 2, 3])
        out = np.empty_like(x)
        assert stream(x, out=out) is out
        np.testing.assert_array_equal(out, FirFilter([1, 2, 3])(x))
        with pytest.raises(ValueError, match=r"\[marey\.FirFilter\] out: .*overlap"):
            stream(x, out=x)

    def test_errors(self) -> None:
        with pytest.raises(ValueError, match=r"\[marey\.MedianFilter\] size"):
            MedianFilter(0)
        with pytest.raises(ValueError, match=r"\[marey\.FirFilter\] taps"):
            FirFilter([])
        with pytest.raises(ValueError, match=r"\[marey\.FirFilter\] start"):
            FirFilter([1], start="zero")  # type: ignore[arg-type]
        with pytest.raises(ValueError, match=r"\[marey\.FirFilter\] axis"):
            FirFilter([1], axis=2)(np.zeros((3, 4), np.float32))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("call", "most"),
    [
        ("convolve(x, [0.25, 0.5, 0.25])", 45),
        ("median_filter(x, 5)", 45),
        ("sosfiltfilt(butter_bandpass(1, 3, 30), x)", 60),
    ],
)
def test_a_long_recording_of_one_sensor_takes_bounded_memory(call: str, most: float) -> None:
    """Tiles are as wide as a vector, where there are not 64 series."""
    program = f"""
import resource
import numpy as np
from marey.temporal import *
x = np.zeros(1 << 21, np.float32)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
y = {call}
print(1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / x.nbytes)
"""
    done = subprocess.run(
        [sys.executable, "-c", program], check=True, capture_output=True, text=True
    )
    assert float(done.stdout) < most
