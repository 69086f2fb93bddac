"""Recursive filters along time."""

import io
import itertools
import pickle
from functools import cache
from typing import Any

import numpy as np
import pytest
import scipy.signal
from hypothesis import given
from hypothesis import strategies as st
from marey import config
from marey.reference import temporal as reference
from marey.temporal import SosFilter, butter_bandpass, sosfilt
from numpy.typing import NDArray
from tolerances import assert_close

pytestmark = pytest.mark.no_bf16

DTYPES = [np.uint8, np.float32, np.float64]
PIXELS = [1, 7, 17, 97, 113, 4097]


def sections(n: int) -> NDArray[np.float64]:
    """Return a band-pass of n second-order sections."""
    return butter_bandpass(0.4, 3, 30, order=n)


def signal(rng: np.random.Generator, shape: tuple[int, ...], dtype: type) -> NDArray[Any]:
    if dtype == np.uint8:
        return rng.integers(0, 256, shape, dtype=np.uint8)
    return rng.standard_normal(shape).astype(dtype)


def computed_in(dtype: type) -> type:
    """Return the dtype of the result."""
    return np.float64 if dtype == np.float64 else np.float32


def zi_shape(sos: NDArray[Any], shape: tuple[int, ...], axis: int) -> tuple[int, ...]:
    """Return SciPy's shape of the state."""
    return (
        len(sos),
        *np.delete(shape, axis)[: axis % len(shape)],
        2,
        *shape[axis % len(shape) + 1 :],
    )


def check(sos: NDArray[np.float64], x: NDArray[Any], axis: int = 0) -> None:
    """Compare with the reference: from rest, and from a state, whose end is compared too."""
    y = sosfilt(sos, x, axis=axis)
    assert y.dtype == computed_in(x.dtype.type)
    assert_close(y, lambda dtype: reference.sosfilt(sos, x, axis, dtype=dtype), "sosfilt")

    zi = np.random.default_rng(0).standard_normal(zi_shape(sos, x.shape, axis)).astype(y.dtype)
    y, zf = sosfilt(sos, x, axis=axis, zi=zi)
    assert zf.dtype == y.dtype
    assert zf.shape == zi.shape
    compute = cache(lambda dtype: reference.sosfilt(sos, x, axis, zi, dtype=dtype))
    assert_close(y, lambda dtype: compute(dtype)[0], "sosfilt")
    assert_close(zf, lambda dtype: compute(dtype)[1], "sosfilt")


class TestReferenceIsSciPy:
    @pytest.mark.parametrize("axis", [0, 1, 2, -1])
    @pytest.mark.parametrize("n", [1, 2, 4])
    def test_sosfilt(self, axis: int, n: int, rng: np.random.Generator) -> None:
        x = rng.standard_normal((9, 8, 7))
        sos = sections(n)
        zi = rng.standard_normal(zi_shape(sos, x.shape, axis))
        y, zf = scipy.signal.sosfilt(sos, x, axis, zi)
        ours, ours_zf = reference.sosfilt(sos, x, axis, zi)
        np.testing.assert_allclose(ours, y, rtol=1e-12, atol=1e-12)
        np.testing.assert_allclose(ours_zf, zf, rtol=1e-12, atol=1e-12)
        np.testing.assert_allclose(
            reference.sosfilt(sos, x, axis), scipy.signal.sosfilt(sos, x, axis), atol=1e-12
        )


class TestButterBandpass:
    @pytest.mark.parametrize("order", [1, 2, 5])
    def test_it_is_scipys_design(self, order: int) -> None:
        np.testing.assert_array_equal(
            butter_bandpass(0.4, 3, 30, order), reference.butter_bandpass(0.4, 3, 30, order)
        )

    @pytest.mark.parametrize(("low", "high", "fs"), [(0.4, 3, 30), (72, 92, 600), (0.83, 1, 30)])
    def test_cut_offs_are_in_hertz(self, low: float, high: float, fs: float) -> None:
        """Half the power passes at both, all of it between, and nothing at rest."""
        sos = butter_bandpass(low, high, fs)
        centre = (
            fs / np.pi * np.arctan(np.sqrt(np.tan(np.pi * low / fs) * np.tan(np.pi * high / fs)))
        )
        _, response = scipy.signal.sosfreqz(sos, [0, low, centre, high], fs=fs)
        np.testing.assert_allclose(np.abs(response) ** 2, [0, 0.5, 1, 0.5], atol=1e-9)

    @pytest.mark.parametrize(
        ("low", "high", "fs"),
        [
            *[(0, 3, 30), (-1, 3, 30), (3, 3, 30), (4, 3, 30), (1, 15, 30), (1, 16, 30)],
            *[(np.nan, 3, 30), (1, np.nan, 30), (1, 3, np.nan)],
            *[(1, 3, 0), (1, 3, -30), (1, 3, np.inf)],
        ],
    )
    def test_a_band_outside_zero_to_half_the_rate_is_an_error(
        self, low: float, high: float, fs: float
    ) -> None:
        with pytest.raises(ValueError, match=r"\[marey\.butter_bandpass\] (low|high|fs)"):
            butter_bandpass(low, high, fs)

    @pytest.mark.parametrize("order", [0, -1])
    def test_an_order_below_one_is_an_error(self, order: int) -> None:
        with pytest.raises(ValueError, match="order"):
            butter_bandpass(0.4, 3, 30, order)


@pytest.mark.usefixtures("isa")
class TestKernelIsTheReference:
    @pytest.mark.parametrize("dtype", DTYPES)
    @pytest.mark.parametrize("n", [1, 2, 3, 4])
    @pytest.mark.parametrize("axis", [0, 1, 2, -1, -2, -3])
    def test_every_axis(self, dtype: type, n: int, axis: int, rng: np.random.Generator) -> None:
        check(sections(n), signal(rng, (17, 7, 13), dtype), axis)

    @pytest.mark.parametrize("dtype", DTYPES)
    @pytest.mark.parametrize("pixels", PIXELS)
    def test_any_number_of_pixels(self, dtype: type, pixels: int, rng: np.random.Generator) -> None:
        for n in (1, 2):
            check(sections(n), signal(rng, (21, pixels), dtype))
            check(sections(n), signal(rng, (pixels, 21), dtype), -1)

    @pytest.mark.parametrize("dtype", DTYPES)
    @pytest.mark.parametrize("frames", [0, 1, 2, 3])
    def test_few_frames(self, dtype: type, frames: int, rng: np.random.Generator) -> None:
        check(sections(2), signal(rng, (frames, 5, 7), dtype))
        check(sections(2), signal(rng, (5, frames, 7), dtype), 1)
        check(sections(2), signal(rng, (5, 7, frames), dtype), 2)

    @pytest.mark.parametrize("dtype", DTYPES)
    def test_no_pixels(self, dtype: type, rng: np.random.Generator) -> None:
        check(sections(2), signal(rng, (5, 0, 7), dtype))
        check(sections(2), signal(rng, (5, 0, 7), dtype), 2)

    @pytest.mark.parametrize("dtype", DTYPES)
    def test_one_signal(self, dtype: type, rng: np.random.Generator) -> None:
        check(sections(3), signal(rng, (1000,), dtype))

    @pytest.mark.parametrize("n", [5, 8, 13])
    def test_many_sections(self, n: int, rng: np.random.Generator) -> None:
        for dtype in (np.float32, np.float64):
            sos = scipy.signal.butter(2 * n, 0.3, output="sos")
            check(sos, signal(rng, (50, 33), dtype))
            check(sos, signal(rng, (33, 50), dtype), 1)

    def test_no_sections_would_be_no_filter(self) -> None:
        with pytest.raises(ValueError, match="sos"):
            sosfilt(np.zeros((0, 6)), np.zeros((5, 4), np.float32))

    @pytest.mark.parametrize("dtype", DTYPES)
    def test_frames_that_threads_share(self, dtype: type, rng: np.random.Generator) -> None:
        with config.threads(2):
            check(sections(2), signal(rng, (12, 123, 457, 3), dtype))

    @pytest.mark.parametrize("dtype", DTYPES)
    @pytest.mark.parametrize(
        "view",
        [np.s_[::-1], np.s_[:, ::-1], np.s_[::2, ::3, ::2], np.s_[1:-1, 2:, 3:], np.s_[:, :, ::-2]],
    )
    def test_a_view_gives_what_its_copy_gives(
        self, dtype: type, view: Any, rng: np.random.Generator
    ) -> None:
        x = signal(rng, (40, 21, 34), dtype)[view]
        for axis in range(3):
            y = sosfilt(sections(2), x, axis=axis)
            np.testing.assert_array_equal(y, sosfilt(sections(2), x.copy(), axis=axis))
            check(sections(2), x, axis)

    def test_transposed_input(self, rng: np.random.Generator) -> None:
        x = signal(rng, (6, 17, 9, 3), np.float32)
        for order in itertools.permutations(range(4)):
            check(sections(2), x.transpose(order))

    def test_a_long_recording_stays_as_accurate(self, rng: np.random.Generator) -> None:
        """The poles of a narrow low band lie near the unit circle, where float32 states drift."""
        x = signal(rng, (20_000, 3), np.float32)
        check(butter_bandpass(0.2, 0.25, 24, order=2), x)

    def test_a_constant_signal_is_filtered_to_nothing(self) -> None:
        sos = sections(2)
        x = np.full((50, 7), 200, np.uint8)
        zi = (scipy.signal.sosfilt_zi(sos)[..., None] * x[0]).astype(np.float32)
        y, zf = sosfilt(sos, x, zi=zi)
        np.testing.assert_allclose(y, 0, atol=200 * 1e-6)
        np.testing.assert_allclose(zf, zi, atol=200 * 1e-6)


@pytest.mark.usefixtures("isa")
class TestChunks:
    @given(data=st.data())
    def test_any_chunking_gives_the_result_of_one_call(self, data: st.DataObject) -> None:
        dtype = data.draw(st.sampled_from(DTYPES))
        axis = data.draw(st.integers(0, 2))
        shape = tuple(data.draw(st.integers(1, 20)) for _ in range(3))
        cuts = sorted(data.draw(st.lists(st.integers(0, shape[axis]), max_size=5)))
        sos = sections(data.draw(st.integers(1, 4)))
        seed = data.draw(st.integers(0, 2**16))
        x = signal(np.random.default_rng(seed), shape, dtype)
        zi = np.zeros(zi_shape(sos, shape, axis), computed_in(dtype))

        whole, zf = sosfilt(sos, x, axis=axis, zi=zi)
        np.testing.assert_array_equal(sosfilt(sos, x, axis=axis), whole)

        stream = SosFilter(sos, axis=axis)
        chunks = np.split(x, cuts, axis=axis)
        np.testing.assert_array_equal(
            np.concatenate([stream(chunk) for chunk in chunks], axis=axis), whole
        )
        np.testing.assert_array_equal(stream.state, zf)

        state, parts = zi, []
        for chunk in chunks:
            part, state = sosfilt(sos, chunk, axis=axis, zi=state)
            parts.append(part)
        np.testing.assert_array_equal(np.concatenate(parts, axis=axis), whole)
        np.testing.assert_array_equal(state, zf)

    def test_threads_do_not_change_the_result(self, rng: np.random.Generator) -> None:
        x = signal(rng, (9, 200, 300), np.float32)
        with config.threads(1):
            alone = sosfilt(sections(2), x)
        with config.threads(3):
            np.testing.assert_array_equal(sosfilt(sections(2), x), alone)


@pytest.mark.usefixtures("isa")
class TestState:
    def test_zi_is_read_and_not_written(self, rng: np.random.Generator) -> None:
        sos, x = sections(2), signal(rng, (9, 7), np.float32)
        zi = rng.standard_normal((2, 2, 7)).astype(np.float32)
        before = zi.copy()
        _, zf = sosfilt(sos, x, zi=zi)
        np.testing.assert_array_equal(zi, before)
        assert not np.shares_memory(zi, zf)

    def test_zi_may_be_strided(self, rng: np.random.Generator) -> None:
        sos, x = sections(2), signal(rng, (9, 7), np.float32)
        zi = rng.standard_normal((2, 2, 7)).astype(np.float32)
        y, zf = sosfilt(sos, x, zi=zi)
        strided = np.repeat(zi, 3, axis=2)[:, :, ::3]
        y2, zf2 = sosfilt(sos, x, zi=strided)
        np.testing.assert_array_equal(y2, y)
        np.testing.assert_array_equal(zf2, zf)

    def test_without_frames_the_state_stays(self) -> None:
        zi = np.arange(28, dtype=np.float32).reshape(2, 2, 7)
        y, zf = sosfilt(sections(2), np.zeros((0, 7), np.float32), zi=zi)
        assert y.shape == (0, 7)
        np.testing.assert_array_equal(zf, zi)

    def test_a_new_filter_has_no_state(self) -> None:
        assert SosFilter(sections(2)).state is None

    def test_a_saved_state_goes_on_where_it_was(self, rng: np.random.Generator) -> None:
        sos, x = sections(2), signal(rng, (20, 5, 7), np.float32)
        stream = SosFilter(sos)
        stream(x[:9])
        file = io.BytesIO()
        np.savez(file, state=stream.state)
        rest = stream(x[9:])

        file.seek(0)
        other = SosFilter(sos)
        other.state = np.load(file)["state"]
        np.testing.assert_array_equal(other(x[9:]), rest)

    def test_a_filter_can_be_pickled_mid_stream(self, rng: np.random.Generator) -> None:
        x = signal(rng, (20, 5, 7), np.float32)
        stream = SosFilter(sections(2))
        stream(x[:9])
        other = pickle.loads(pickle.dumps(stream))
        np.testing.assert_array_equal(other(x[9:]), stream(x[9:]))

    def test_a_state_that_was_read_does_not_change_later(self, rng: np.random.Generator) -> None:
        x = signal(rng, (20, 7), np.float32)
        stream = SosFilter(sections(2))
        stream(x[:9])
        state = stream.state
        before = np.array(state)
        stream(x[9:])
        np.testing.assert_array_equal(state, before)

    def test_reset_forgets(self, rng: np.random.Generator) -> None:
        x = signal(rng, (20, 7), np.float32)
        stream = SosFilter(sections(2))
        first = stream(x)
        stream.reset()
        assert stream.state is None
        np.testing.assert_array_equal(stream(x), first)

    def test_chunks_must_fit_together(self) -> None:
        stream = SosFilter(sections(2))
        stream(np.zeros((4, 5, 7), np.float32))
        with pytest.raises(ValueError, match=r"\[marey\.SosFilter\] x: .*\(T, 5, 7\).*\(4, 5, 8\)"):
            stream(np.zeros((4, 5, 8), np.float32))
        with pytest.raises(TypeError, match=r"\[marey\.SosFilter\] x: .*float32, .*found float64"):
            stream(np.zeros((4, 5, 7)))
        np.testing.assert_array_equal(stream(np.zeros((1, 5, 7), np.float32)), 0)


@pytest.mark.usefixtures("isa")
class TestOut:
    @pytest.mark.parametrize("dtype", [np.float32, np.float64])
    @pytest.mark.parametrize("axis", [0, 1, 2])
    def test_in_place(self, dtype: type, axis: int, rng: np.random.Generator) -> None:
        x = signal(rng, (23, 17, 9), dtype)
        y = sosfilt(sections(2), x, axis=axis)
        assert sosfilt(sections(2), x, axis=axis, out=x) is x
        np.testing.assert_array_equal(x, y)

    @pytest.mark.parametrize("dtype", DTYPES)
    @pytest.mark.parametrize("axis", [0, 1, 2])
    def test_out_is_filled_and_returned(
        self, dtype: type, axis: int, rng: np.random.Generator
    ) -> None:
        x = signal(rng, (23, 17, 9), dtype)
        zi = np.zeros(zi_shape(sections(2), x.shape, axis), computed_in(dtype))
        out = np.full(x.shape, np.nan, computed_in(dtype))
        y, _ = sosfilt(sections(2), x, axis=axis, zi=zi, out=out)
        assert y is out
        np.testing.assert_array_equal(out, sosfilt(sections(2), x, axis=axis))

    def test_out_may_be_strided(self, rng: np.random.Generator) -> None:
        x = signal(rng, (23, 17), np.float32)
        canvas = np.full((46, 34), -1, np.float32)
        out = canvas[::2, ::2]
        sosfilt(sections(2), x, out=out)
        np.testing.assert_array_equal(out, sosfilt(sections(2), x))
        assert (canvas[1::2] == -1).all()
        assert (canvas[:, 1::2] == -1).all()

    def test_out_that_overlaps_partly_is_refused(self) -> None:
        memory = np.zeros((30, 7), np.float32)
        with pytest.raises(ValueError, match=r"\[marey\.sosfilt\] out: .*overlap"):
            sosfilt(sections(1), memory[:20], out=memory[1:21])
        with pytest.raises(ValueError, match=r"\[marey\.sosfilt\] out: .*overlap"):
            sosfilt(sections(1), memory[:20], out=memory[:20][::-1])

    def test_out_in_the_memory_of_uint8_frames_is_refused(self) -> None:
        memory = np.zeros((4, 8, 8), np.float32)
        frames = memory.view(np.uint8)[:, :, :8]
        with pytest.raises(ValueError, match=r"\[marey\.sosfilt\] out: .*overlap"):
            sosfilt(sections(1), frames, out=memory)

    @pytest.mark.parametrize("shape", [(19, 7), (20, 7, 1), (140,)])
    def test_out_of_the_wrong_shape_is_refused(self, shape: tuple[int, ...]) -> None:
        with pytest.raises(ValueError, match=r"\[marey\.sosfilt\] out: expected .*\(20, 7\)"):
            sosfilt(sections(1), np.zeros((20, 7), np.float32), out=np.empty(shape, np.float32))

    @pytest.mark.parametrize("dtype", [np.float64, np.uint8])
    def test_out_of_the_wrong_dtype_is_refused(self, dtype: type) -> None:
        with pytest.raises((TypeError, ValueError), match=r"\[marey\.sosfilt\] out: .*float32"):
            sosfilt(sections(1), np.zeros((20, 7), np.float32), out=np.empty((20, 7), dtype))

    def test_out_that_is_read_only_is_refused(self) -> None:
        out = np.empty((20, 7), np.float32)
        out.flags.writeable = False
        with pytest.raises(ValueError, match=r"\[marey\.sosfilt\] out: .*(read-only|writ)"):
            sosfilt(sections(1), np.zeros((20, 7), np.float32), out=out)


@pytest.mark.usefixtures("isa")
class TestErrors:
    x = np.zeros((20, 7), np.float32)

    @pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
    @pytest.mark.parametrize("column", range(6))
    def test_coefficients_that_are_not_finite(self, value: float, column: int) -> None:
        sos = sections(2)
        sos[1, column] = value
        with pytest.raises(ValueError, match=r"\[marey\.sosfilt\] sos"):
            sosfilt(sos, self.x)
        with pytest.raises(ValueError, match="sos"):
            SosFilter(sos)(self.x)

    @pytest.mark.parametrize("shape", [(6,), (2, 5), (1, 2, 6), (6, 2), ()])
    def test_sections_of_the_wrong_shape(self, shape: tuple[int, ...]) -> None:
        with pytest.raises(ValueError, match=r"\[marey\.sosfilt\] sos: expected .*\(sections, 6\)"):
            sosfilt(np.ones(shape), self.x)

    def test_a_leading_denominator_that_is_not_one(self) -> None:
        sos = sections(2)
        sos[1] *= 2
        with pytest.raises(ValueError, match=r"\[marey\.sosfilt\] sos"):
            sosfilt(sos, self.x)

    @pytest.mark.parametrize(
        "shape", [(2, 7), (1, 2, 7), (2, 7, 2), (2, 2, 8), (2, 2, 7, 1), (2, 2)]
    )
    def test_a_state_of_the_wrong_shape(self, shape: tuple[int, ...]) -> None:
        with pytest.raises(ValueError, match=r"\[marey\.sosfilt\] zi.*\(2, 2, 7\)"):
            sosfilt(sections(2), self.x, zi=np.zeros(shape, np.float32))

    @pytest.mark.parametrize("dtype", [np.float64, np.complex64, np.int32])
    def test_a_state_of_the_wrong_dtype(self, dtype: type) -> None:
        """A state is never silently cast: it would be rounded in the middle of a stream."""
        with pytest.raises((TypeError, ValueError), match=r"\[marey\.sosfilt\] zi: .*float32"):
            sosfilt(sections(2), self.x, zi=np.zeros((2, 2, 7), dtype))

    @pytest.mark.parametrize("axis", [2, -3, 100])
    def test_an_axis_out_of_range(self, axis: int) -> None:
        with pytest.raises(ValueError, match=r"\[marey\.sosfilt\] axis"):
            sosfilt(sections(2), self.x, axis=axis)

    def test_a_scalar_has_no_time(self) -> None:
        with pytest.raises((TypeError, ValueError), match=r"\[marey\.sosfilt\]"):
            sosfilt(sections(2), np.array(1.0, np.float32))

    @pytest.mark.parametrize("dtype", [np.complex64, np.complex128, np.int16, np.float16, object])
    def test_a_dtype_that_is_not_taken(self, dtype: type) -> None:
        with pytest.raises(TypeError, match=r"\[marey\.sosfilt\] x: expected .*float32"):
            sosfilt(sections(2), np.zeros((20, 7), dtype))

    def test_complex_coefficients(self) -> None:
        with pytest.raises(TypeError, match=r"\[marey\.sosfilt\] sos"):
            sosfilt(sections(2).astype(complex), self.x)

    def test_bad_values_in_the_signal_stay_where_they_are(self) -> None:
        """A NaN spoils its own pixel, from then on, and no other."""
        x = np.random.default_rng(0).standard_normal((20, 97)).astype(np.float32)
        clean = sosfilt(sections(2), x)
        x[11, 50] = np.nan
        y = sosfilt(sections(2), x)
        assert np.isnan(y[11:, 50]).all()
        y[11:, 50] = clean[11:, 50]
        np.testing.assert_array_equal(y, clean)


@pytest.mark.slow
class TestLongSeries:
    def test_the_parts_that_one_long_series_comes_in_do_not_show(
        self, rng: np.random.Generator
    ) -> None:
        x = rng.standard_normal(9_000_000, np.float32)
        sos = butter_bandpass(0.5, 3, 30, order=2)
        stream = SosFilter(sos)
        whole, (zi, cut) = sosfilt(sos, x), (np.zeros((2, 2), np.float32), 5_000_001)
        np.testing.assert_array_equal(np.concatenate([stream(x[:cut]), stream(x[cut:])]), whole)
        y, zf = sosfilt(sos, x, zi=zi)
        np.testing.assert_array_equal(y, whole)
        np.testing.assert_array_equal(zf, stream.state)

    @pytest.mark.usefixtures("isa")
    @pytest.mark.parametrize("dtype", [np.float32, np.float64])
    def test_what_fades_out_does_not_become_denormal(self, dtype: type) -> None:
        x = np.zeros((20_000, 67), dtype)
        x[0] = 1
        y = sosfilt(butter_bandpass(0.5, 3, 30), x)
        tiny = np.finfo(dtype).tiny
        assert np.abs(y[-1]).max() < 100 * tiny
        assert not np.any((y != 0) & (np.abs(y) < tiny))

    @pytest.mark.usefixtures("isa")
    def test_more_sections_than_are_unrolled(self, rng: np.random.Generator) -> None:
        x = rng.standard_normal((101, 70), np.float32)
        sos = butter_bandpass(1, 6, 30, order=11)
        assert_close(
            sosfilt(sos, x), lambda dtype: reference.sosfilt(sos, x, dtype=dtype), "sosfilt"
        )
