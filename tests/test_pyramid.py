"""Image pyramids: the reference against OpenCV, and the kernels against the reference."""

import itertools
from functools import cache, partial
from typing import Any, ClassVar

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from marey import config, pyramid
from marey.reference import pyramid as reference
from numpy.typing import DTypeLike, NDArray
from tolerances import assert_close, assert_equal

pytestmark = pytest.mark.no_bf16

SMALL = range(1, 10)
AWKWARD = [1, 2, 7, 17, 97, 113]
DTYPES = [np.uint8, np.float32, np.float64]


def image_of(rng: np.random.Generator, shape: tuple[int, ...], dtype: DTypeLike) -> NDArray[Any]:
    """Grey levels of the whole range, with noise below them where the dtype can hold it."""
    if np.dtype(dtype) == np.uint8:
        return rng.integers(0, 256, shape, dtype=np.uint8)
    return (255 * rng.random(shape)).astype(dtype)


def up_sizes(n: int) -> tuple[int, int, int]:
    return 2 * n - 1, 2 * n, 2 * n + 1


def check(function: str, image: NDArray[Any], *args: Any, **kwargs: Any) -> None:
    """Run marey's and the reference's `down` or `up` and compare the results."""
    actual = getattr(pyramid, function)(image, *args, **kwargs)
    compute = partial(getattr(reference, function), image, *args, **kwargs)
    assert actual.dtype == image.dtype
    if image.dtype == np.uint8:
        assert_equal(actual, compute())
    else:
        assert_close(actual, lambda dtype: compute(dtype=dtype), function)


def check_bands(image: NDArray[Any], levels: int, **kwargs: Any) -> list[NDArray[Any]]:
    bands = pyramid.laplacian(image, levels, **kwargs)
    assert len(bands) == levels + 1
    scale = float(np.abs(image.astype(np.float64)).max(initial=0))
    compute = cache(lambda dtype: reference.laplacian(image, levels, **kwargs, dtype=dtype))
    for level, band in enumerate(bands):
        assert band.dtype == (np.float64 if image.dtype == np.float64 else np.float32)
        assert_close(band, lambda dtype, k=level: compute(dtype)[k], "laplacian", scale=scale)
    return bands


class TestReferenceIsOpenCV:
    """OpenCV drops a channel axis of length 1 and takes sizes as (width, height)."""

    sizes: ClassVar = [
        *itertools.product(SMALL, SMALL),
        (17, 97),
        (97, 17),
        (113, 113),
        (1, 113),
        (113, 1),
    ]
    tolerance: ClassVar = {np.uint8: 0, np.float32: 255 * 6e-7, np.float64: 255 * 1e-15}

    @pytest.mark.parametrize("dtype", DTYPES)
    @pytest.mark.parametrize("channels", [1, 2, 3, 4, 5])
    def test_down_is_that_of_opencv(
        self, dtype: type, channels: int, rng: np.random.Generator
    ) -> None:
        cv2 = pytest.importorskip("cv2")
        for size in self.sizes:
            image = image_of(rng, (*size, channels), dtype)
            ours = reference.down(image)
            theirs = cv2.pyrDown(image).reshape(ours.shape)
            np.testing.assert_allclose(theirs, ours, rtol=0, atol=self.tolerance[dtype])

    @pytest.mark.parametrize("dtype", DTYPES)
    @pytest.mark.parametrize("channels", [1, 2, 3, 4, 5])
    def test_up_is_that_of_opencv_at_every_legal_size(
        self, dtype: type, channels: int, rng: np.random.Generator
    ) -> None:
        cv2 = pytest.importorskip("cv2")
        for h, w in self.sizes:
            image = image_of(rng, (h, w, channels), dtype)
            for height, width in itertools.product(up_sizes(h), up_sizes(w)):
                if (w, width) == (1, 3):
                    continue  # OpenCV leaves the third column unwritten
                ours = reference.up(image, (height, width))
                theirs = cv2.pyrUp(image, dstsize=(width, height)).reshape(ours.shape)
                np.testing.assert_allclose(theirs, ours, rtol=0, atol=self.tolerance[dtype])

    def test_up_refuses_the_sizes_that_opencv_refuses(self) -> None:
        cv2 = pytest.importorskip("cv2")
        image = np.zeros((4, 4))
        for size in (6, 10):
            with pytest.raises(cv2.error):
                cv2.pyrUp(image, dstsize=(8, size))
            with pytest.raises(ValueError, match="shape"):
                reference.up(image, (size, 8), channel_axis=None)


@pytest.mark.usefixtures("isa")
class TestKernelsAreTheReference:
    @pytest.mark.parametrize("dtype", DTYPES)
    def test_down_at_every_small_size(self, dtype: type, rng: np.random.Generator) -> None:
        for h, w, c in itertools.product(SMALL, SMALL, [1, 2, 3, 4, 5]):
            check("down", image_of(rng, (h, w, c), dtype))

    @pytest.mark.parametrize("dtype", DTYPES)
    def test_up_at_every_small_size(self, dtype: type, rng: np.random.Generator) -> None:
        for h, w, c in itertools.product(SMALL, SMALL, [1, 3]):
            image = image_of(rng, (h, w, c), dtype)
            check("up", image)
            for shape in itertools.product(up_sizes(h), up_sizes(w)):
                check("up", image, shape)

    @pytest.mark.parametrize("dtype", DTYPES)
    @pytest.mark.parametrize("channels", [None, 1, 2, 3, 4, 5, 17])
    def test_down_and_up_at_awkward_sizes(
        self, dtype: type, channels: int | None, rng: np.random.Generator
    ) -> None:
        axis = None if channels is None else -1
        for size in itertools.product(AWKWARD, AWKWARD):
            shape = size if channels is None else (*size, channels)
            image = image_of(rng, shape, dtype)
            check("down", image, channel_axis=axis)
            check("up", image, channel_axis=axis)
            odd = (2 * size[0] - 1, 2 * size[1] - 1)
            check("up", image, odd, channel_axis=axis)

    @pytest.mark.parametrize("dtype", DTYPES)
    @pytest.mark.parametrize("channels", [None, 1, 3, 4])
    def test_gaussian_and_laplacian_at_awkward_sizes(
        self, dtype: type, channels: int | None, rng: np.random.Generator
    ) -> None:
        axis = None if channels is None else -1
        for size in [*itertools.product(SMALL, [1, 2, 5, 6]), (17, 97), (97, 113), (113, 7)]:
            shape = size if channels is None else (*size, channels)
            image = image_of(rng, shape, dtype)
            check_bands(image, 4, channel_axis=axis)
            actual = pyramid.gaussian(image, 4, channel_axis=axis)
            compute = cache(partial(reference.gaussian, image, 4, channel_axis=axis))
            assert len(actual) == 5
            for level, g in enumerate(actual):
                assert g.dtype == image.dtype
                if dtype == np.uint8:
                    assert_equal(g, compute()[level])
                else:
                    assert_close(g, lambda dt, f=compute, k=level: f(dtype=dt)[k], "down")

    @pytest.mark.parametrize("dtype", [np.float32, np.float64])
    @pytest.mark.parametrize("channels", [None, 1, 3, 4])
    def test_collapse_of_any_bands(
        self, dtype: type, channels: int | None, rng: np.random.Generator
    ) -> None:
        axis = None if channels is None else -1
        for size in [*itertools.product(SMALL, [1, 2, 5, 6]), (17, 97), (97, 113), (113, 7)]:
            shape = size if channels is None else (*size, channels)
            like = reference.gaussian(np.zeros(shape), 3, channel_axis=axis)
            bands = [rng.standard_normal(band.shape).astype(dtype) for band in like]
            actual = pyramid.collapse(bands, channel_axis=axis)
            assert actual.dtype == dtype
            compute = partial(reference.collapse, bands, channel_axis=axis)
            assert_close(actual, lambda dt, f=compute: f(dtype=dt), "collapse")

    @pytest.mark.parametrize("dtype", DTYPES)
    def test_an_image_that_threads_share(self, dtype: type, rng: np.random.Generator) -> None:
        image = image_of(rng, (1025, 389, 3), dtype)
        with config.threads(2):
            check("down", image)
            check("up", image)
            check("up", image, (2051, 777))
            bands = check_bands(image, 5)
            rebuilt = pyramid.collapse(bands)
        np.testing.assert_allclose(rebuilt, image, rtol=0, atol=1e-3)

    @pytest.mark.parametrize("dtype", DTYPES)
    def test_results_do_not_depend_on_the_number_of_threads(
        self, dtype: type, rng: np.random.Generator
    ) -> None:
        image = image_of(rng, (301, 402, 3), dtype)
        with config.threads(1):
            alone = [pyramid.down(image), pyramid.up(image), *pyramid.laplacian(image, 4)]
        with config.threads(3):
            shared = [pyramid.down(image), pyramid.up(image), *pyramid.laplacian(image, 4)]
        for a, b in zip(alone, shared, strict=True):
            np.testing.assert_array_equal(a, b)

    @given(data=st.data())
    def test_any_shape_any_strides(self, data: st.DataObject) -> None:
        """Bases that are larger than the image, cut by any slices, transposed in any way."""
        dtype = data.draw(st.sampled_from(DTYPES))
        axis = data.draw(st.sampled_from([None, -1, 0, 1]))
        ndim = data.draw(st.integers(2 if axis is None else 3, 4))
        order = data.draw(st.permutations(range(ndim)))
        steps = data.draw(
            st.lists(st.sampled_from([1, 1, 2, 3, -1, -2]), min_size=ndim, max_size=ndim)
        )
        base = image_of(
            np.random.default_rng(data.draw(st.integers(0, 2**16))),
            tuple(data.draw(st.integers(1, 19)) for _ in range(ndim)),
            dtype,
        )
        image = base[tuple(slice(None, None, step) for step in steps)].transpose(order)
        check("down", image, channel_axis=axis)
        check("up", image, channel_axis=axis)
        check_bands(image, 2, channel_axis=axis)


class TestAxes:
    @pytest.mark.parametrize("channel_axis", [-1, -2, -3, -4, 0, 1, 2, 3])
    def test_any_axis_can_be_the_channels(
        self, channel_axis: int, rng: np.random.Generator
    ) -> None:
        last = image_of(rng, (3, 17, 10, 2), np.float32)
        moved = np.moveaxis(last, -1, channel_axis)
        for function in (pyramid.down, pyramid.up):
            np.testing.assert_array_equal(
                function(moved, channel_axis=channel_axis),
                np.moveaxis(function(last), -1, channel_axis),
            )

    def test_without_channels_rows_and_columns_are_last(self, rng: np.random.Generator) -> None:
        image = image_of(rng, (17, 10), np.float32)
        np.testing.assert_array_equal(
            pyramid.down(image, channel_axis=None), pyramid.down(image[..., None])[..., 0]
        )

    def test_leading_axes_are_a_batch(self, rng: np.random.Generator) -> None:
        batch = image_of(rng, (2, 3, 17, 10, 3), np.float32)
        bands = pyramid.laplacian(batch, 3)
        for index in np.ndindex(2, 3):
            for of_batch, alone in zip(bands, pyramid.laplacian(batch[index], 3), strict=True):
                np.testing.assert_array_equal(of_batch[index], alone)

    def test_a_plain_2d_image_is_an_error_that_names_the_remedy(self) -> None:
        image = np.zeros((8, 8), np.float32)
        for call in (
            lambda: pyramid.down(image),
            lambda: pyramid.up(image),
            lambda: pyramid.gaussian(image, 1),
            lambda: pyramid.laplacian(image, 1),
        ):
            with pytest.raises(ValueError, match="channel_axis=None"):
                call()

    @pytest.mark.parametrize("channel_axis", [3, -4])
    def test_a_channel_axis_out_of_range_is_an_error(self, channel_axis: int) -> None:
        with pytest.raises(ValueError, match="channel_axis"):
            pyramid.down(np.zeros((8, 8, 3), np.float32), channel_axis=channel_axis)

    def test_too_few_axes_are_an_error(self) -> None:
        with pytest.raises(ValueError, match=r"\[marey\.down\] image"):
            pyramid.down(np.zeros(8, np.float32), channel_axis=None)


@pytest.mark.usefixtures("isa")
class TestStrides:
    """Strided images are the image they look like, in every layout."""

    @pytest.mark.parametrize("dtype", DTYPES)
    @pytest.mark.parametrize(
        "view",
        [
            np.s_[::-1],
            np.s_[:, ::-1],
            np.s_[:, :, ::-1],
            np.s_[::2, ::3],
            np.s_[5:40, 3:30, 1:3],
            np.s_[:, :, 1:2],
            np.s_[::-2, ::-3, ::-1],
        ],
    )
    def test_a_view_gives_what_its_copy_gives(
        self, dtype: type, view: Any, rng: np.random.Generator
    ) -> None:
        image = image_of(rng, (51, 62, 3), dtype)[view]
        copy = np.ascontiguousarray(image)
        np.testing.assert_array_equal(pyramid.down(image), pyramid.down(copy))
        np.testing.assert_array_equal(pyramid.up(image), pyramid.up(copy))
        bands = pyramid.laplacian(image, 3)
        for of_view, of_copy in zip(bands, pyramid.laplacian(copy, 3), strict=True):
            np.testing.assert_array_equal(of_view, of_copy)

    def test_fortran_order(self, rng: np.random.Generator) -> None:
        image = np.asfortranarray(image_of(rng, (33, 18, 3), np.float32))
        np.testing.assert_array_equal(pyramid.down(image), pyramid.down(image.copy("C")))

    def test_a_broadcast_image(self, rng: np.random.Generator) -> None:
        """Strides of zero."""
        image = np.broadcast_to(image_of(rng, (33, 1, 3), np.float32), (33, 18, 3))
        np.testing.assert_array_equal(pyramid.up(image), pyramid.up(image.copy()))

    def test_collapse_reads_strided_bands(self, rng: np.random.Generator) -> None:
        bands = pyramid.laplacian(image_of(rng, (33, 18, 3), np.float32), 3)
        strided = [np.repeat(band, 2, axis=1)[:, ::2] for band in bands]
        np.testing.assert_array_equal(pyramid.collapse(strided), pyramid.collapse(bands))


@pytest.mark.usefixtures("isa")
class TestRebuilding:
    """collapse(laplacian(image)) is the image, at odd sizes too."""

    @pytest.mark.parametrize("levels", [1, 2, 5])
    def test_float_images_rebuild_to_rounding(self, levels: int, rng: np.random.Generator) -> None:
        for size in [*itertools.product(SMALL, SMALL), (97, 113), (113, 97)]:
            for dtype in (np.float32, np.float64):
                image = image_of(rng, (*size, 3), dtype)
                rebuilt = pyramid.collapse(pyramid.laplacian(image, levels))
                assert rebuilt.dtype == image.dtype
                # The difference and the sum are each rounded, by at most half an ulp of 512.
                np.testing.assert_allclose(rebuilt, image, rtol=0, atol=512 * np.finfo(dtype).eps)

    def test_uint8_images_rebuild_exactly(self, rng: np.random.Generator) -> None:
        for size in [*itertools.product(SMALL, SMALL), (97, 113), (113, 97)]:
            image = image_of(rng, (*size, 3), np.uint8)
            one = pyramid.collapse(pyramid.laplacian(image, 1))
            np.testing.assert_array_equal(one, image)  # 8 + 6 fractional bits: float32 is exact
            many = pyramid.collapse(pyramid.laplacian(image, 5))
            np.testing.assert_array_equal(np.rint(many), image)

    def test_a_constant_image_has_empty_bands(self) -> None:
        """The taps sum to one at every border."""
        for size in itertools.product(SMALL, SMALL):
            *bands, residual = pyramid.laplacian(np.full((*size, 3), 7, np.uint8), 4)
            assert all((band == 0).all() for band in bands)
            assert (residual == 7).all()


@pytest.mark.usefixtures("isa")
class TestLevels:
    def test_zero_levels_are_the_image_alone(self) -> None:
        image = np.arange(12, dtype=np.uint8).reshape(2, 2, 3)
        (g,) = pyramid.gaussian(image, 0)
        (residual,) = pyramid.laplacian(image, 0)
        np.testing.assert_array_equal(g, image)
        np.testing.assert_array_equal(residual, image)
        assert g.dtype == np.uint8
        assert residual.dtype == np.float32
        np.testing.assert_array_equal(pyramid.collapse([residual]), image)

    def test_one_pixel_stays_one_pixel(self) -> None:
        image = np.array([[[3.0, 5.0]]], np.float32)
        *bands, residual = pyramid.laplacian(image, 40)
        assert len(bands) == 40
        assert all(band.shape == (1, 1, 2) and (band == 0).all() for band in bands)
        np.testing.assert_array_equal(residual, image)
        np.testing.assert_array_equal(pyramid.collapse([*bands, residual]), image)

    def test_the_levels_of_an_odd_image_round_up(self) -> None:
        shapes = [g.shape for g in pyramid.gaussian(np.zeros((97, 6, 1), np.uint8), 4)]
        assert shapes == [(97, 6, 1), (49, 3, 1), (25, 2, 1), (13, 1, 1), (7, 1, 1)]

    def test_negative_levels_are_an_error(self) -> None:
        for function in (pyramid.gaussian, pyramid.laplacian):
            with pytest.raises(ValueError, match="levels"):
                function(np.zeros((4, 4, 1), np.float32), -1)

    @pytest.mark.parametrize("levels", [1.5, "2", None])
    def test_levels_that_are_not_a_whole_number_are_an_error(self, levels: Any) -> None:
        with pytest.raises(TypeError):
            pyramid.laplacian(np.zeros((4, 4, 1), np.float32), levels)

    def test_results_are_not_the_input(self) -> None:
        """What comes back can be changed without changing the image."""
        image = np.ones((4, 4, 1), np.float32)
        for level in (*pyramid.gaussian(image, 1), *pyramid.laplacian(image, 0)):
            assert not np.shares_memory(level, image)


class TestUpShape:
    @pytest.mark.parametrize("shape", [(6, 8), (10, 8), (8, 10), (8, 0), (-8, 8), (4, 4)])
    def test_a_shape_that_is_not_about_twice_is_an_error(self, shape: tuple[int, int]) -> None:
        with pytest.raises(ValueError, match="shape"):
            pyramid.up(np.zeros((4, 4, 3), np.float32), shape)

    @pytest.mark.parametrize("shape", [(8,), (8, 8, 3), 8, "88"])
    def test_a_shape_that_is_not_two_numbers_is_an_error(self, shape: Any) -> None:
        with pytest.raises((TypeError, ValueError), match=r"\[marey\.up\] shape"):
            pyramid.up(np.zeros((4, 4, 3), np.float32), shape)


@pytest.mark.usefixtures("isa")
class TestOut:
    def test_out_is_filled_and_returned(self, rng: np.random.Generator) -> None:
        image = image_of(rng, (17, 10, 3), np.float32)
        out = np.full((9, 5, 3), np.nan, np.float32)
        assert pyramid.down(image, out=out) is out
        np.testing.assert_array_equal(out, pyramid.down(image))

        out = np.full((33, 20, 3), np.nan, np.float32)
        assert pyramid.up(image, (33, 20), out=out) is out
        np.testing.assert_array_equal(out, pyramid.up(image, (33, 20)))

        bands = pyramid.laplacian(image, 2)
        outs = [np.full_like(band, np.nan) for band in bands]
        returned = pyramid.laplacian(image, 2, out=outs)
        for band, given_, back in zip(bands, outs, returned, strict=True):
            assert back is given_
            np.testing.assert_array_equal(given_, band)

        levels = pyramid.gaussian(image, 2)
        outs = [np.full_like(level, np.nan) for level in levels]
        returned = pyramid.gaussian(image, 2, out=outs)
        for level, given_, back in zip(levels, outs, returned, strict=True):
            assert back is given_
            np.testing.assert_array_equal(given_, level)

        out = np.full_like(image, np.nan)
        assert pyramid.collapse(bands, out=out) is out
        np.testing.assert_array_equal(out, pyramid.collapse(bands))

    def test_out_may_be_a_part_of_a_larger_array(self, rng: np.random.Generator) -> None:
        image = image_of(rng, (17, 10, 3), np.float32)
        canvas = np.full((20, 20, 3), -1, np.float32)
        pyramid.down(image, out=canvas[4:13, 8:13])
        np.testing.assert_array_equal(canvas[4:13, 8:13], pyramid.down(image))
        canvas[4:13, 8:13] = -1
        assert (canvas == -1).all(), "nothing outside of `out` is touched"

    @pytest.mark.parametrize("dtype", DTYPES)
    def test_nothing_beyond_a_row_of_out_is_written(
        self, dtype: type, rng: np.random.Generator
    ) -> None:
        """Kernels write whole vectors; the last of a row must end where the row ends."""
        for width, channels in itertools.product(range(1, 40), [1, 2, 3, 4, 5]):
            image = image_of(rng, (3, width, channels), dtype)
            bands = pyramid.laplacian(image, 1)
            for result, call in (
                (pyramid.down(image), partial(pyramid.down, image)),
                (pyramid.up(image), partial(pyramid.up, image)),
                (bands[0], partial(pyramid.collapse, bands)),
            ):
                h, w, c = result.shape
                canvas = np.full((h + 2, w + 2, c), 77, result.dtype)
                call(out=canvas[1:-1, 1:-1])
                canvas[1:-1, 1:-1] = 77
                assert (canvas == 77).all()
            canvases = [
                np.full((h + 2, w + 2, c), 77, b.dtype) for b in bands for h, w, c in [b.shape]
            ]
            pyramid.laplacian(image, 1, out=[canvas[1:-1, 1:-1] for canvas in canvases])
            for canvas in canvases:
                canvas[1:-1, 1:-1] = 77
                assert (canvas == 77).all()

    @pytest.mark.parametrize(
        "out",
        [
            np.empty((9, 6, 3), np.float32),
            np.empty((9, 5), np.float32),
            np.empty((1, 9, 5, 3), np.float32),
        ],
    )
    def test_out_of_the_wrong_shape_is_refused(self, out: NDArray[Any]) -> None:
        with pytest.raises(ValueError, match=r"\[marey\.down\] out: expected .*\(9, 5, 3\)"):
            pyramid.down(np.zeros((17, 10, 3), np.float32), out=out)

    @pytest.mark.parametrize("dtype", [np.uint8, np.float64, np.int32])
    def test_out_of_the_wrong_dtype_is_refused(self, dtype: type) -> None:
        with pytest.raises((TypeError, ValueError), match=r"\[marey\.down\] out: .*float32"):
            pyramid.down(np.zeros((17, 10, 3), np.float32), out=np.empty((9, 5, 3), dtype))

    def test_out_that_overlaps_the_image_is_refused(self) -> None:
        memory = np.zeros((34, 20, 3), np.float32)
        with pytest.raises(ValueError, match=r"\[marey\.down\] out: .*overlap"):
            pyramid.down(memory[:17, :10], out=memory[8:17, :5])
        with pytest.raises(ValueError, match=r"\[marey\.up\] out: .*overlap"):
            pyramid.up(memory[:17, :10], out=memory)
        image = memory[:17, :10]
        with pytest.raises(ValueError, match=r"\[marey\.laplacian\] out.*overlap"):
            pyramid.laplacian(image, 1, out=[image, np.empty((9, 5, 3), np.float32)])

    def test_outs_that_overlap_each_other_are_refused(self) -> None:
        image = np.zeros((17, 10, 3), np.float32)
        band = np.empty((17, 10, 3), np.float32)
        with pytest.raises(ValueError, match=r"\[marey\.laplacian\] out.*overlap"):
            pyramid.laplacian(image, 1, out=[band, band[:9, :5]])

    def test_out_that_is_read_only_is_refused(self) -> None:
        out = np.zeros((9, 5, 3), np.float32)
        out.flags.writeable = False
        with pytest.raises(ValueError, match=r"\[marey\.down\] out: .*(read-only|writ)"):
            pyramid.down(np.zeros((17, 10, 3), np.float32), out=out)

    def test_too_few_or_too_many_outs_are_refused(self) -> None:
        image = np.zeros((16, 8, 3), np.float32)
        for function in (pyramid.gaussian, pyramid.laplacian):
            outs = function(image, 2)
            for wrong in (outs[:2], [*outs, outs[-1].copy()]):
                with pytest.raises(ValueError, match="out"):
                    function(image, 2, out=wrong)


@pytest.mark.usefixtures("isa")
class TestEmpty:
    @pytest.mark.parametrize("dtype", DTYPES)
    @pytest.mark.parametrize(
        "shape", [(0, 4, 3), (4, 0, 3), (0, 0, 3), (4, 5, 0), (0, 4, 5, 3), (2, 0, 5, 3)]
    )
    def test_empty_in_empty_out(self, dtype: type, shape: tuple[int, ...]) -> None:
        image = np.zeros(shape, dtype)
        check("down", image)
        check("up", image)
        bands = check_bands(image, 3)
        assert pyramid.collapse(bands).shape == shape

    def test_an_empty_image_has_no_rows_to_make_one_from(self) -> None:
        with pytest.raises(ValueError, match="shape"):
            pyramid.up(np.zeros((0, 4, 3), np.float32), (1, 8))


class TestCollapseErrors:
    def test_no_bands_are_an_error(self) -> None:
        with pytest.raises(ValueError, match="bands"):
            pyramid.collapse([])

    def test_bands_that_do_not_halve_are_an_error(self) -> None:
        bands = [np.zeros((8, 8, 1), np.float32), np.zeros((5, 4, 1), np.float32)]
        with pytest.raises(ValueError, match=r"bands\[1\]: expected .*\(4, 4, 1\)"):
            pyramid.collapse(bands)

    def test_bands_of_different_dtypes_are_an_error(self) -> None:
        bands = [np.zeros((8, 8, 1), np.float32), np.zeros((4, 4, 1), np.float64)]
        with pytest.raises(TypeError, match="bands"):
            pyramid.collapse(bands)

    def test_uint8_bands_are_an_error(self) -> None:
        """They cannot be negative."""
        bands = [np.zeros((8, 8, 1), np.uint8), np.zeros((4, 4, 1), np.uint8)]
        with pytest.raises(TypeError, match="bands"):
            pyramid.collapse(bands)
