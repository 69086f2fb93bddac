"""The complex steerable pyramid and the Riesz pyramid."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from marey import config, pyramid
from marey.pyramid import RieszPyramid, SteerableCoefficients, SteerablePyramid
from marey.reference.pyramid import RieszPyramid as RieszReference
from marey.reference.pyramid import SteerablePyramid as Reference
from numpy.typing import NDArray

pytestmark = pytest.mark.no_bf16

SIZES = [(1, 1), (1, 17), (17, 1), (7, 17), (8, 8), (97, 113), (96, 128), (60, 45)]
FLOATS = [np.float32, np.float64]
# Relative to the largest coefficient of a band, whose sums have H W products.
TOLERANCE = {np.dtype(np.float32): 2e-6, np.dtype(np.float64): 4e-15}

Image = NDArray[Any]


def check(actual: Image, expected: Image, tolerance: float) -> None:
    assert actual.shape == expected.shape
    scale = float(np.abs(expected).max(initial=0)) or 1.0
    assert float(np.abs(actual - expected).max(initial=0)) <= tolerance * scale


def check_coefficients(ours: SteerableCoefficients, theirs: Any, image: Image) -> None:
    tolerance = TOLERANCE[ours.highpass.dtype]
    scale = float(np.abs(image).max())
    assert np.abs(ours.highpass - theirs.highpass).max() <= 4 * tolerance * scale
    check(ours.lowpass, theirs.lowpass, tolerance)
    assert len(ours.bands) == len(theirs.bands)
    for band, expected in zip(ours.bands, theirs.bands, strict=True):
        check(band, expected, tolerance)


@pytest.mark.usefixtures("isa")
class TestSteerable:
    @pytest.mark.parametrize("dtype", FLOATS)
    @pytest.mark.parametrize("size", SIZES)
    def test_coefficients_are_the_filters_by_definition(
        self, size: tuple[int, int], dtype: type, rng: np.random.Generator
    ) -> None:
        image = rng.standard_normal(size).astype(dtype)
        for orientations, fraction in ((1, 1), (2, 1), (8, 1), (4, 1 / 2), (3, 1 / 4)):
            options = {"orientations": orientations, "octave_fraction": fraction}
            ours = SteerablePyramid(size, **options).build(image)
            check_coefficients(ours, Reference(size, **options).build(image), image)

    @pytest.mark.parametrize("dtype", FLOATS)
    @pytest.mark.parametrize("size", SIZES)
    def test_collapse_inverts_build(
        self, size: tuple[int, int], dtype: type, rng: np.random.Generator
    ) -> None:
        image = rng.standard_normal(size).astype(dtype)
        for orientations in (1, 2, 5, 8):
            for fraction in (1, 1 / 2, 1 / 4):
                p = SteerablePyramid(size, orientations, octave_fraction=fraction)
                rebuilt = p.collapse(p.build(image))
                assert rebuilt.dtype == dtype
                check(rebuilt, image, 1e-5 if dtype == np.float32 else 1e-13)

    def test_collapse_of_changed_coefficients_is_the_references(
        self, rng: np.random.Generator
    ) -> None:
        size = (45, 52)
        p = SteerablePyramid(size, 6)
        coefficients = p.build(rng.standard_normal(size))
        for band in coefficients.bands:
            band *= np.exp(1j * rng.standard_normal(band.shape))
        expected = Reference(size, 6).collapse(coefficients)  # type: ignore[arg-type]
        check(p.collapse(coefficients), expected, 1e-13)

    @pytest.mark.parametrize("size", [(64, 64), (96, 128), (100, 60), (540, 960)])
    @pytest.mark.parametrize("orientations", [2, 4, 5, 8])
    def test_coefficients_are_those_of_pyrtools(
        self, size: tuple[int, int], orientations: int, rng: np.random.Generator
    ) -> None:
        """To the error of pyrtools' masks, which it interpolates in tables."""
        peer = pytest.importorskip("pyrtools").pyramids.SteerablePyramidFreq
        image = rng.standard_normal(size)
        levels = 3
        theirs = peer(image, levels, orientations - 1, is_complex=True).pyr_coeffs
        ours = SteerablePyramid(size, orientations, levels).build(image)
        for level, band in enumerate(ours.bands):
            for k in range(orientations):
                check(band[k], theirs[level, k], 2e-5)
        check(ours.highpass, theirs["residual_highpass"], 2e-5)
        check(ours.lowpass, theirs["residual_lowpass"], 2e-5)

    def test_lengths_of_any_factors(self, rng: np.random.Generator) -> None:
        """Each radix, and Bluestein's algorithm for the others."""
        for n in (2, 3, 4, 5, 7, 8, 11, 13, 16, 22, 26, 32, 64, 121, 17, 19, 34, 127, 251, 509):
            image = rng.standard_normal((n, 3))
            for turned in (image, image.T):
                p = SteerablePyramid(turned.shape)
                check(p.build(turned).lowpass, Reference(turned.shape).build(turned).lowpass, 1e-12)

    def test_an_oriented_wave_stands_in_its_orientation(self) -> None:
        """In the middle of a scale it has constant amplitude, and its own phase."""
        x = np.arange(64)[np.newaxis, :]
        phase = np.broadcast_to(2 * np.pi * (16 * x) / 64, (64, 64))
        coefficients = SteerablePyramid((64, 64), 4).build(np.cos(phase))
        band = coefficients.bands[0]
        amplitude = np.abs(band).mean(axis=(1, 2))
        assert amplitude.argmax() == 0
        assert amplitude[0] > 100 * amplitude[2]
        np.testing.assert_allclose(np.abs(band[0]), amplitude[0], rtol=1e-9)
        turn = band[0] * np.exp(-1j * phase)
        np.testing.assert_allclose(turn / turn[0, 0], 1, atol=1e-9)

    def test_leading_axes_are_batch(self, rng: np.random.Generator) -> None:
        images = rng.random((2, 3, 24, 20), np.float32)
        p = SteerablePyramid((24, 20), 3)
        together = p.build(images)
        assert together.bands[0].shape == (2, 3, 3, 24, 20)
        for i, j in np.ndindex(2, 3):
            one = p.build(images[i, j])
            np.testing.assert_array_equal(together.highpass[i, j], one.highpass)
            np.testing.assert_array_equal(together.bands[0][i, j], one.bands[0])
        check(p.collapse(together), images, 1e-5)
        empty = p.build(images[:0])
        assert empty.lowpass.shape[:2] == (0, 3)
        assert p.collapse(empty).shape == (0, 3, 24, 20)

    def test_uint8_is_float32(self, rng: np.random.Generator) -> None:
        image = rng.integers(0, 256, (33, 40), np.uint8)
        p = SteerablePyramid(image.shape)
        ours, same = p.build(image), p.build(image.astype(np.float32))
        assert ours.highpass.dtype == np.float32
        np.testing.assert_array_equal(ours.bands[0], same.bands[0])

    def test_strides_do_not_matter(self, rng: np.random.Generator) -> None:
        base = rng.random((80, 70))
        for view in (base[::2, ::2], base.T[:40, :40], base[::-1, ::-1][:33, :34]):
            p = SteerablePyramid(view.shape)
            got, expected = p.build(view), p.build(view.copy())
            np.testing.assert_array_equal(got.bands[0], expected.bands[0])

    def test_threads_do_not_matter(self, rng: np.random.Generator) -> None:
        image = rng.random((97, 113), np.float32)
        p = SteerablePyramid(image.shape)
        with config.threads(1):
            one = p.build(image)
        with config.threads(3):
            three = p.build(image)
            np.testing.assert_array_equal(one.bands[1], three.bands[1])
            rebuilt = p.collapse(three)
        with config.threads(1):
            np.testing.assert_array_equal(p.collapse(one), rebuilt)

    def test_out_is_written(self, rng: np.random.Generator) -> None:
        image = rng.random((32, 48), np.float32)
        p = SteerablePyramid(image.shape)
        expected = p.build(image)
        out = p.build(np.zeros_like(image))
        assert p.build(image, out=out) is out
        np.testing.assert_array_equal(out.bands[1], expected.bands[1])
        rebuilt = np.empty_like(image)
        assert p.collapse(out, out=rebuilt) is rebuilt
        check(rebuilt, image, 1e-5)

    @pytest.mark.parametrize(
        ("make", "message"),
        [
            (lambda: SteerablePyramid((0, 5)), "shape: expected"),
            (lambda: SteerablePyramid((5, 5, 3)), "shape: expected"),  # type: ignore[arg-type]
            (lambda: SteerablePyramid((64, 64), 0), "orientations: expected 1 to 1024"),
            (lambda: SteerablePyramid((64, 64), levels=5), "levels: expected 0 to 4"),
            (lambda: SteerablePyramid((64, 64), octave_fraction=0.3), "octave_fraction: expected"),
            (lambda: SteerablePyramid((8, 8)).build(np.zeros((8, 9))), "image: expected shape"),
            (lambda: RieszPyramid((8, 8), 9), "levels: expected 1 to 1"),
            (lambda: RieszPyramid((8, 8)).build(np.zeros((9, 8))), "image: expected shape"),
        ],
    )
    def test_bad_values_are_named(self, make: Callable[[], Any], message: str) -> None:
        with pytest.raises(ValueError, match=message):
            make()

    def test_bad_types_and_coefficients_are_named(self) -> None:
        p = SteerablePyramid((16, 16))
        with pytest.raises(TypeError, match="image: expected dtype"):
            p.build(np.zeros((16, 16), np.int32))
        coefficients = p.build(np.zeros((16, 16)))
        coefficients.bands[0] = coefficients.bands[0][..., :-1]
        with pytest.raises(ValueError, match=r"bands\[0\]: expected shape"):
            p.collapse(coefficients)
        coefficients = p.build(np.zeros((16, 16)))
        coefficients.bands[1] = coefficients.bands[1].astype(np.complex64)
        with pytest.raises(TypeError, match=r"bands\[1\]: expected dtype complex128"):
            p.collapse(coefficients)
        out = p.build(np.zeros((16, 16)))
        with pytest.raises(ValueError, match="out: expected memory that does not overlap"):
            p.build(out.highpass, out=out)


@pytest.mark.usefixtures("isa")
class TestRiesz:
    @pytest.mark.parametrize("dtype", FLOATS)
    @pytest.mark.parametrize("size", SIZES)
    def test_components_are_the_references(
        self, size: tuple[int, int], dtype: type, rng: np.random.Generator
    ) -> None:
        image = rng.standard_normal(size).astype(dtype)
        p = RieszPyramid(size)
        ours = p.build(image)
        theirs = RieszReference(size).build(image)
        assert len(theirs.bands) == p.levels
        tolerance = 4e-7 if dtype == np.float32 else 1e-15
        scale = float(np.abs(image).max())
        for k in range(p.levels):
            for actual, expected in ((ours.x[k], theirs.x[k]), (ours.y[k], theirs.y[k])):
                assert actual.dtype == dtype
                assert np.abs(actual - expected).max() <= 4 * tolerance * scale
            if dtype == np.float64:
                amplitude = theirs.amplitude(k)
                strong = amplitude > 1e-3 * scale
                np.testing.assert_allclose(ours.amplitude(k), amplitude, atol=1e-13 * scale)
                np.testing.assert_allclose(
                    np.cos(ours.phase(k) - theirs.phase(k))[strong], 1, atol=1e-9
                )
                across = np.hypot(theirs.x[k], theirs.y[k]) > 1e-3 * scale
                turned = ours.orientation(k) - theirs.orientation(k)
                np.testing.assert_allclose(np.cos(turned)[across], 1, atol=1e-9)
        check(p.collapse(ours), image, 1e-6 if dtype == np.float32 else 1e-14)

    def test_a_wave_has_its_phase_and_orientation(self) -> None:
        """Where the three taps are exact; a Laplacian band holds some of the wave's alias, too."""
        y, x = np.mgrid[:128, :128]
        for angle in (0.0, np.pi / 2):
            phase = np.pi / 4 * (x * np.cos(angle) + y * np.sin(angle)) + 0.3
            c = RieszPyramid((128, 128), 1).build(np.cos(phase))
            inner = np.s_[16:-16, 16:-16]
            amplitude = c.amplitude(0)[inner]
            np.testing.assert_allclose(amplitude, amplitude.mean(), rtol=0.04)
            wrapped = np.arccos(np.cos(phase))[inner]
            np.testing.assert_allclose(c.phase(0)[inner], wrapped, atol=0.06)
            turned = np.abs(np.sin(c.orientation(0)[inner] - angle))
            np.testing.assert_allclose(turned[np.sin(wrapped) > 0.2], 0, atol=1e-6)

    def test_leading_axes_are_batch(self, rng: np.random.Generator) -> None:
        images = rng.random((3, 24, 20), np.float32)
        p = RieszPyramid((24, 20))
        together = p.build(images)
        for i in range(3):
            np.testing.assert_array_equal(together.x[0][i], p.build(images[i]).x[0])
        check(p.collapse(together), images, 1e-6)


def test_names_are_public() -> None:
    for name in ("SteerablePyramid", "RieszPyramid", "SteerableCoefficients", "RieszCoefficients"):
        assert name in pyramid.__all__
