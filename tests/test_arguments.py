"""Bad scalars, shapes and states are refused in the words ``[function] argument: expected ...``."""

import re
from collections.abc import Callable, Iterator
from fractions import Fraction
from typing import Any

import marey
import numpy as np
import pytest
from marey import Magnifier, _arguments, config, pyramid, temporal
from marey.background import MedianBackground, MixtureBackground, difference, subtract
from marey.pulse import PulseMonitor, patch_means
from marey.temporal import FirFilter, MedianFilter, SosFilter

X = np.zeros((4, 5, 3), np.float32)
VIDEO = np.zeros((4, 8, 9, 3), np.uint8)
SOS = temporal.butter_bandpass(1, 3, 30)
BAND: dict[str, Any] = {"fs": 30, "low": 1, "high": 3, "alpha": 5}

NOT_INTEGERS = (1.5, "a", True, [1], np.float32(1))
NOT_NUMBERS = ("a", 1j, None, [1.0], np.complex64(1), True)
HUGE = (2**40, 2**80, -(2**80))


@pytest.fixture(autouse=True)
def _threads_as_before() -> Iterator[None]:
    yield
    config.set_num_threads(None)


def refused(kind: type[Exception], call: Callable[[], Any], function: str, argument: str) -> None:
    with pytest.raises(kind, match=rf"^\[marey\.{re.escape(function)}\] {argument}: expected .+"):
        call()


# What is called, with the argument under test in place of `v`; its function, and its name.
INTEGERS: list[tuple[Callable[[Any], Any], str, str]] = [
    (lambda v: pyramid.down(X, channel_axis=v), "down", "channel_axis"),
    (lambda v: pyramid.up(X, channel_axis=v), "up", "channel_axis"),
    (lambda v: pyramid.gaussian(X, 1, channel_axis=v), "gaussian", "channel_axis"),
    (lambda v: pyramid.laplacian(X, 1, channel_axis=v), "laplacian", "channel_axis"),
    (lambda v: pyramid.collapse([X], channel_axis=v), "collapse", "channel_axis"),
    (lambda v: pyramid.gaussian(X, v), "gaussian", "levels"),
    (lambda v: pyramid.laplacian(X, v), "laplacian", "levels"),
    (lambda v: pyramid.SteerablePyramid((64, 64), v), "SteerablePyramid", "orientations"),
    (lambda v: pyramid.SteerablePyramid((64, 64), levels=v), "SteerablePyramid", "levels"),
    (lambda v: pyramid.RieszPyramid((64, 64), v), "RieszPyramid", "levels"),
    (lambda v: temporal.sosfilt(SOS, X, v), "sosfilt", "axis"),
    (lambda v: temporal.sosfiltfilt(SOS, X, v), "sosfiltfilt", "axis"),
    (lambda v: temporal.sosfiltfilt(SOS, X, padlen=v), "sosfiltfilt", "padlen|x"),
    (lambda v: temporal.median_filter(X, 3, axis=v), "median_filter", "axis"),
    (lambda v: temporal.median_filter(X, 3, origin=v), "median_filter", "origin"),
    (lambda v: temporal.median(X, v), "median", "axis"),
    (lambda v: temporal.convolve(X, [1, 2], v), "convolve", "axis"),
    (lambda v: temporal.convolve(X, [1, 2], origin=v), "convolve", "origin"),
    (lambda v: temporal.gaussian(X, 1, v), "gaussian", "axis"),
    (lambda v: temporal.gaussian(X, 1, v, velocity=(1, 1)), "gaussian", "axis|x, axis"),
    (lambda v: temporal.derivative(X, 30, v), "derivative", "axis"),
    (lambda v: temporal.ideal_bandpass(X, 1, 3, 30, v), "ideal_bandpass", "axis"),
    (lambda v: SosFilter(SOS, v)(X), "SosFilter", "axis"),
    (lambda v: MedianFilter(3, v)(X), "MedianFilter", "axis"),
    (lambda v: FirFilter([1, 2], v)(X), "FirFilter", "axis"),
    (lambda v: Magnifier((64, 64), **BAND, levels=v), "Magnifier", "levels"),
    (
        lambda v: Magnifier((64, 64), **BAND, levels=v, method="riesz"),
        "Magnifier",
        "levels",
    ),
    (
        lambda v: Magnifier((64, 64), **BAND, orientations=v, method="phase"),
        "Magnifier",
        "orientations",
    ),
    (lambda v: difference(VIDEO, VIDEO[0], clean=v), "background.difference", "clean"),
    (lambda v: MixtureBackground((8, 9), modes=v), "MixtureBackground", "modes"),
    (lambda v: config.set_num_threads(v), "config.set_num_threads", "count"),
    (lambda v: config.threads(v).__enter__(), "config.threads", "count"),
]


@pytest.mark.parametrize(("call", "function", "argument"), INTEGERS)
class TestIntegers:
    @pytest.mark.parametrize("value", NOT_INTEGERS, ids=repr)
    def test_what_is_not_an_integer_is_a_type_error(
        self, call: Callable[[Any], Any], function: str, argument: str, value: Any
    ) -> None:
        refused(TypeError, lambda: call(value), function, argument)

    @pytest.mark.parametrize("value", HUGE, ids=repr)
    def test_what_fits_no_machine_integer_is_a_value_error(
        self, call: Callable[[Any], Any], function: str, argument: str, value: int
    ) -> None:
        refused(ValueError, lambda: call(value), function, argument)


# Counts without an upper limit but memory's; None is none of their values.
COUNTS: list[tuple[Callable[[Any], Any], str, str]] = [
    (lambda v: temporal.butter_bandpass(1, 3, 30, v), "butter_bandpass", "order"),
    (lambda v: temporal.median_filter(X, v), "median_filter", "size"),
    (lambda v: MedianFilter(v), "MedianFilter", "size"),
    (lambda v: Magnifier((64, 64), **BAND, order=v), "Magnifier", "order"),
    (lambda v: MixtureBackground((8, 9), history=v), "MixtureBackground", "history"),
    (lambda v: MedianBackground((8, 9), window=v), "MedianBackground", "window"),
    (lambda v: MedianBackground((8, 9), every=v), "MedianBackground", "every"),
    (lambda v: config.set_cache_limit(v), "config.set_cache_limit", "limit"),
]


@pytest.mark.parametrize(("call", "function", "argument"), COUNTS)
class TestCounts:
    @pytest.mark.parametrize("value", [*NOT_INTEGERS, None], ids=repr)
    def test_what_is_not_an_integer_is_a_type_error(
        self, call: Callable[[Any], Any], function: str, argument: str, value: Any
    ) -> None:
        refused(TypeError, lambda: call(value), function, argument)

    @pytest.mark.parametrize("value", [-1, 2**80])
    def test_what_is_out_of_range_is_a_value_error(
        self, call: Callable[[Any], Any], function: str, argument: str, value: int
    ) -> None:
        refused(ValueError, lambda: call(value), function, argument)


NUMBERS: list[tuple[Callable[[Any], Any], str, str]] = [
    (lambda v: temporal.butter_bandpass(v, 3, 30), "butter_bandpass", "low|low, high"),
    (lambda v: temporal.butter_bandpass(1, v, 30), "butter_bandpass", "high|low, high"),
    (lambda v: temporal.butter_bandpass(1, 3, v), "butter_bandpass", "fs"),
    (lambda v: temporal.ideal_bandpass(X, v, 3, 30), "ideal_bandpass", "low|low, high"),
    (lambda v: temporal.ideal_bandpass(X, 1, v, 30), "ideal_bandpass", "high|low, high"),
    (lambda v: temporal.ideal_bandpass(X, 1, 3, v), "ideal_bandpass", "fs"),
    (lambda v: temporal.gaussian(X, v), "gaussian", "sigma"),
    (lambda v: temporal.gaussian(X, 1, truncate=v), "gaussian", "truncate"),
    (lambda v: temporal.gaussian(X, 1, velocity=(1, v)), "gaussian", "velocity"),
    (lambda v: temporal.derivative(X, v), "derivative", "fs"),
    (lambda v: Magnifier((64, 64), **{**BAND, "low": v}), "Magnifier", "low|low, high"),
    (lambda v: Magnifier((64, 64), **{**BAND, "fs": v}), "Magnifier", "fs"),
    (lambda v: Magnifier((64, 64), **{**BAND, "alpha": v}), "Magnifier", "alpha"),
    (lambda v: Magnifier((64, 64), **BAND, chroma=v), "Magnifier", "chroma"),
    (lambda v: Magnifier((64, 64), **BAND, sigma=v, method="riesz"), "Magnifier", "sigma"),
    (
        lambda v: Magnifier((64, 64), **BAND, octave_fraction=v, method="phase"),
        "Magnifier",
        "octave_fraction",
    ),
    (lambda v: pyramid.SteerablePyramid((64, 64), 4, 2, v), "SteerablePyramid", "octave_fraction"),
    (lambda v: difference(VIDEO, VIDEO[0], v), "background.difference", "threshold"),
    (lambda v: MixtureBackground((8, 9), darkest=v), "MixtureBackground", "darkest"),
    (
        lambda v: MixtureBackground((8, 9), initial_variance=v),
        "MixtureBackground",
        "initial_variance",
    ),
    (lambda v: PulseMonitor((8, 9, 3), 30, low_bpm=v), "PulseMonitor", "low_bpm|low_bpm, .*"),
]


@pytest.mark.parametrize(("call", "function", "argument"), NUMBERS)
class TestNumbers:
    @pytest.mark.parametrize("value", NOT_NUMBERS, ids=repr)
    def test_what_is_not_a_real_number_is_a_type_error(
        self, call: Callable[[Any], Any], function: str, argument: str, value: Any
    ) -> None:
        refused(TypeError, lambda: call(value), function, argument)

    @pytest.mark.parametrize("value", [np.nan, np.inf, 10**400], ids=["nan", "inf", "10**400"])
    def test_what_is_not_finite_is_a_value_error(
        self, call: Callable[[Any], Any], function: str, argument: str, value: float
    ) -> None:
        refused(ValueError, lambda: call(value), function, argument)


@pytest.mark.parametrize(
    ("kind", "call", "function", "argument"),
    [
        (TypeError, lambda: Magnifier(5, **BAND), "Magnifier", "shape"),  # type: ignore[arg-type]
        (TypeError, lambda: Magnifier("ab", **BAND), "Magnifier", "shape"),  # type: ignore[arg-type]
        (TypeError, lambda: Magnifier((4.5, 3), **BAND), "Magnifier", "shape"),  # type: ignore[arg-type]
        (ValueError, lambda: Magnifier((2**62, 3), **BAND), "Magnifier", "shape"),
        (ValueError, lambda: Magnifier((2**80, 3), **BAND), "Magnifier", "shape"),
        (ValueError, lambda: MixtureBackground((2**31, 2**31)), "MixtureBackground", "shape"),
        (TypeError, lambda: MedianBackground(5), "MedianBackground", "shape"),  # type: ignore[arg-type]
        (TypeError, lambda: PulseMonitor(5), "PulseMonitor", "shape"),  # type: ignore[arg-type]
        (TypeError, lambda: pyramid.RieszPyramid(5), "RieszPyramid", "shape"),  # type: ignore[arg-type]
        (TypeError, lambda: pyramid.up(X, (8.0, 10)), "up", "shape"),  # type: ignore[arg-type]
        (ValueError, lambda: pyramid.up(X, (2**80, 10)), "up", "shape"),
        (TypeError, lambda: PulseMonitor((8, 9, 3), roi=5), "PulseMonitor", "roi"),
        (TypeError, lambda: PulseMonitor((8, 9, 3), roi=(0, 0, 2.5, 2)), "PulseMonitor", "roi"),
        (TypeError, lambda: patch_means(VIDEO, 5, [0, 9]), "pulse.patch_means", "row_edges"),
        (TypeError, lambda: patch_means(VIDEO, [0, 8], "09"), "pulse.patch_means", "column_edges"),
        (TypeError, lambda: subtract(VIDEO, every=1.5), "background.subtract", "every"),  # type: ignore[arg-type]
        (TypeError, lambda: temporal.gaussian(X, 1, velocity=5), "gaussian", "velocity"),  # type: ignore[arg-type]
        (ValueError, lambda: temporal.gaussian(X, 1, velocity=(1,)), "gaussian", "velocity"),  # type: ignore[arg-type]
        (TypeError, lambda: temporal.convolve(X, [[1], [2, 3]]), "convolve", "taps"),
        (TypeError, lambda: temporal.sosfilt([[1], [2, 3]], X), "sosfilt", "sos"),
        (TypeError, lambda: temporal.convolve(X, [1], mode=5), "convolve", "mode"),  # type: ignore[arg-type]
        (TypeError, lambda: temporal.median_filter(X, 3, mode=None), "median_filter", "mode"),  # type: ignore[arg-type]
        (TypeError, lambda: temporal.convolve(X, [1], cval="a"), "convolve", "cval"),  # type: ignore[arg-type]
        (ValueError, lambda: MedianFilter(3, start=X), "MedianFilter", "start"),  # type: ignore[arg-type]
        (ValueError, lambda: Magnifier((64, 64), **BAND, mode=5), "Magnifier", "mode"),  # type: ignore[arg-type]
        (TypeError, lambda: Magnifier((64, 64), **BAND, dtype="f33"), "Magnifier", "dtype"),
        (ValueError, lambda: config.set_num_threads(10**6), "config.set_num_threads", "count"),
        (ValueError, lambda: PulseMonitor((8, 9, 3), method=X), "PulseMonitor", "method"),  # type: ignore[arg-type]
        (
            TypeError,
            lambda: PulseMonitor((8, 9, 3)).feed(VIDEO, times="now"),
            "PulseMonitor",
            "times",
        ),
    ],
)
def test_what_is_refused(
    kind: type[Exception], call: Callable[[], Any], function: str, argument: str
) -> None:
    refused(kind, call, function, argument)


class TestTheVideoIsBlamed:
    @pytest.mark.parametrize("function", [lambda v: marey.magnify(v, **BAND), subtract])
    def test_for_its_type(self, function: Callable[[Any], Any]) -> None:
        with pytest.raises(TypeError, match=r"^\[marey\.\S+\] video: expected uint8 or float32"):
            function(VIDEO.astype(np.float64))

    @pytest.mark.parametrize("function", [lambda v: marey.magnify(v, **BAND), subtract])
    def test_for_its_shape(self, function: Callable[[Any], Any]) -> None:
        with pytest.raises(ValueError, match=r"^\[marey\.\S+\] video: expected .*\(4, 8, 9, 2\)"):
            function(VIDEO[..., :2])

    def test_under_the_name_of_what_was_called(self) -> None:
        refused(TypeError, lambda: marey.magnify(VIDEO * 1.0, **BAND), "magnify", "video")


STREAMS: list[Callable[[], Any]] = [
    lambda: SosFilter(SOS),
    lambda: MedianFilter(3),
    lambda: FirFilter([1, 2, 3]),
]


@pytest.mark.parametrize("make", STREAMS)
class TestStreams:
    @pytest.mark.parametrize("shape", [(4, 5, 2), (4, 5), (4, 5, 3, 1), (4,), ()], ids=str)
    def test_a_chunk_of_another_shape_is_blamed(
        self, make: Callable[[], Any], shape: tuple[int, ...]
    ) -> None:
        stream = make()
        stream(X)
        before = stream.state
        name = type(stream).__name__
        with pytest.raises(ValueError, match=rf"^\[marey\.{name}\] x: expected shape \(T, 5, 3\)"):
            stream(np.zeros(shape, np.float32))
        np.testing.assert_array_equal(stream.state, before)

    def test_a_chunk_of_another_type_is_blamed(self, make: Callable[[], Any]) -> None:
        stream = make()
        stream(X)
        name = type(stream).__name__
        with pytest.raises(TypeError, match=rf"^\[marey\.{name}\] x: expected .*float32"):
            stream(X.astype(np.float64))

    @pytest.mark.parametrize("axis", [-1, 1])
    def test_along_another_axis(self, make: Callable[[], Any], axis: int) -> None:
        stream = make()
        stream.axis = axis
        stream(np.moveaxis(X, 0, axis))
        refused(ValueError, lambda: stream(X[0]), type(stream).__name__, "x")

    @pytest.mark.parametrize(
        ("kind", "state"),
        [
            (TypeError, "abc"),
            (TypeError, [[0.0]]),
            (TypeError, np.zeros((1, 2, 5, 3), np.int64)),
            (TypeError, np.zeros((1, 2, 5, 3), complex)),
            (TypeError, np.zeros((1, 2, 5, 3), object)),
            (ValueError, np.zeros((), np.float32)),
            (ValueError, np.zeros((7, 7), np.float32)),
        ],
        ids=str,
    )
    def test_what_is_not_a_state_is_refused(
        self, make: Callable[[], Any], kind: type[Exception], state: Any
    ) -> None:
        stream = make()

        def assign() -> None:
            stream.state = state

        refused(kind, assign, type(stream).__name__, "state")
        assert stream.state is None


class TestWhatIsAccepted:
    def test_numpy_integers(self) -> None:
        config.set_num_threads(np.int64(2))  # type: ignore[arg-type]
        assert config.get_num_threads() == 2
        with config.threads(np.uint8(3)):  # type: ignore[arg-type]
            assert config.get_num_threads() == 3
        two = np.int16(2)
        assert len(pyramid.laplacian(X, two, channel_axis=two)) == 3  # type: ignore[arg-type]
        assert Magnifier(np.array([64, 48]), **BAND).shape == (64, 48)  # type: ignore[arg-type]

    @pytest.mark.parametrize(
        "value", [2, 2.0, np.float32(2), np.int8(2), np.array(2.0), Fraction(2)], ids=repr
    )
    def test_numbers_of_any_kind(self, value: Any) -> None:
        assert _arguments.number("marey.f", "x", value) == 2.0
        assert isinstance(_arguments.number("marey.f", "x", value), float)

    def test_frame_rates_that_are_fractions(self) -> None:
        rate = Fraction(30000, 1001)
        expected = temporal.butter_bandpass(1, 3, float(rate))
        np.testing.assert_array_equal(temporal.butter_bandpass(1, 3, rate), expected)  # type: ignore[arg-type]

    def test_sosfilt_takes_fifteen_axes(self) -> None:
        x = np.ones((3,) + 14 * (1,), np.float32)
        zi = np.zeros((1, 2) + 14 * (1,), np.float32)
        assert temporal.sosfilt(SOS, x, zi=zi)[0].shape == x.shape
        for call, name in (
            (lambda: temporal.sosfilt(SOS, x[None]), "sosfilt"),
            (lambda: temporal.sosfilt(SOS, x[None], zi=zi[None]), "sosfilt"),
            (lambda: SosFilter(SOS)(x[None]), "SosFilter"),
        ):
            with pytest.raises(ValueError, match=rf"\[marey\.{name}\] x: expected at most 15 axes"):
                call()
