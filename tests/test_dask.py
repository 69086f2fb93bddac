"""marey.dask: chunks in any order and on any worker give the result of one call."""

from collections.abc import Iterator
from typing import Any

import marey
import numpy as np
import pytest
from numpy.typing import NDArray

dask = pytest.importorskip("dask", reason="the extra 'dask' is not installed")
da = pytest.importorskip("dask.array")
distributed = pytest.importorskip("distributed", reason="the extra 'dask' is not installed")

from marey import dask as mdask  # noqa: E402

# What a worker may hold at most, and how much passes through it.
WORKER_MIB = 120
VIDEO_MIB = 600


@pytest.fixture(autouse=True)
def single_threaded() -> Iterator[None]:
    with dask.config.set(scheduler="synchronous"):
        yield


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    with (
        dask.config.set({"distributed.worker.memory.terminate": False}),
        distributed.LocalCluster(
            n_workers=2,
            threads_per_worker=1,
            processes=True,
            dashboard_address=":0",
            memory_limit=0,
        ) as running,
        distributed.Client(running) as client,
    ):
        yield client


SOS = marey.temporal.butter_bandpass(0.4, 3, fs=30, order=2)
CHUNKS = [(9, 6, 13), (1, 11, 13), (30, 3, 13)]


@pytest.fixture(params=CHUNKS, ids=str)
def x(request: pytest.FixtureRequest, rng: np.random.Generator) -> tuple[NDArray[Any], Any]:
    array = rng.random((30, 11, 13))
    return array, da.from_array(array, request.param)


def test_sosfilt_hands_its_state_on(x: tuple[NDArray[Any], Any]) -> None:
    array, lazy = x
    y = mdask.sosfilt(SOS, lazy)
    assert isinstance(y, da.Array)
    assert y.chunks == lazy.chunks
    np.testing.assert_array_equal(y.compute(), marey.temporal.sosfilt(SOS, array))


def test_sosfilt_takes_and_gives_state(
    x: tuple[NDArray[Any], Any], rng: np.random.Generator
) -> None:
    array, lazy = x
    zi = rng.random((2, 30, 2, 13))
    y, zf = mdask.sosfilt(SOS, lazy, 1, zi)
    expected, final = marey.temporal.sosfilt(SOS, array, 1, zi)
    np.testing.assert_array_equal(y.compute(), expected)
    np.testing.assert_array_equal(zf.compute(), final)


@pytest.mark.parametrize("padtype", ["odd", "even", "constant", None])
@pytest.mark.parametrize("axis", [0, -1])
def test_sosfiltfilt_goes_there_and_back(
    x: tuple[NDArray[Any], Any], padtype: Any, axis: int
) -> None:
    array, lazy = x
    y = mdask.sosfiltfilt(SOS, lazy, axis, padtype, 9)
    expected = marey.temporal.sosfiltfilt(SOS, array, axis, padtype, 9)
    np.testing.assert_allclose(y.compute(), expected, rtol=0, atol=1e-13)


@pytest.mark.parametrize("mode", ["reflect", "nearest", "mirror", "wrap", "constant"])
@pytest.mark.parametrize(("size", "origin"), [(3, 0), (8, 3), (9, -4), (61, 7)])
def test_windows_see_their_neighbours(
    x: tuple[NDArray[Any], Any], mode: str, size: int, origin: int, rng: np.random.Generator
) -> None:
    array, lazy = x
    taps = rng.standard_normal(size)
    y = mdask.convolve(lazy, taps, 0, mode, origin, cval=2.0)
    expected = marey.temporal.convolve(array, taps, 0, mode, origin, cval=2.0)
    np.testing.assert_array_equal(y.compute(), expected)
    if size < 20:
        y = mdask.median_filter(lazy, size, 1, mode, origin)
        expected = marey.temporal.median_filter(array, size, 1, mode, origin)
        np.testing.assert_array_equal(y.compute(), expected)


def test_derivative_and_gaussian_in_time(x: tuple[NDArray[Any], Any]) -> None:
    array, lazy = x
    np.testing.assert_array_equal(
        mdask.derivative(lazy, 30).compute(), marey.temporal.derivative(array, 30)
    )
    np.testing.assert_array_equal(
        mdask.temporal_gaussian(lazy, 2.5).compute(), marey.temporal.gaussian(array, 2.5)
    )


def test_all_of_time_at_once(x: tuple[NDArray[Any], Any]) -> None:
    array, lazy = x
    y = mdask.ideal_bandpass(lazy, 2, 5, 30)
    np.testing.assert_array_equal(y.compute(), marey.temporal.ideal_bandpass(array, 2, 5, 30))
    np.testing.assert_array_equal(mdask.median(lazy).compute(), marey.temporal.median(array))


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
@pytest.mark.parametrize("channel_axis", [None, -1, 1])
def test_pyramids(rng: np.random.Generator, dtype: Any, channel_axis: int | None) -> None:
    images = (rng.random((6, 17, 23, 3)) * 255).astype(dtype)
    lazy = da.from_array(images, (2, 5, 23, 2))
    for function in (marey.pyramid.gaussian, marey.pyramid.laplacian):
        levels = getattr(mdask, function.__name__)(lazy, 2, channel_axis=channel_axis)
        expected = function(images, 2, channel_axis=channel_axis)
        for level, wanted in zip(levels, expected, strict=True):
            assert level.shape == wanted.shape
            np.testing.assert_array_equal(level.compute(), wanted, strict=True)
    rebuilt = mdask.collapse(levels, channel_axis=channel_axis)
    np.testing.assert_array_equal(
        rebuilt.compute(), marey.pyramid.collapse(expected, channel_axis=channel_axis)
    )
    np.testing.assert_array_equal(
        mdask.down(lazy, channel_axis=channel_axis).compute(),
        marey.pyramid.down(images, channel_axis=channel_axis),
    )
    np.testing.assert_array_equal(
        mdask.up(lazy, channel_axis=channel_axis).compute(),
        marey.pyramid.up(images, channel_axis=channel_axis),
    )


@pytest.fixture
def video(rng: np.random.Generator) -> NDArray[np.uint8]:
    return rng.integers(0, 256, (40, 32, 48, 3), np.uint8)


@pytest.mark.parametrize("method", ["linear", "riesz"])
def test_magnify_hands_its_state_on(video: NDArray[np.uint8], method: str) -> None:
    lazy = da.from_array(video, (7, 16, 48, 3))
    found = mdask.magnify(lazy, 30, 0.4, 3, 10, method=method).compute()
    expected = marey.magnify(video, 30, 0.4, 3, 10, method=method)
    np.testing.assert_array_equal(found, expected, strict=True)


@pytest.mark.parametrize(
    "options", [{}, {"window": 7, "every": 2}, {"method": "mixture", "threshold": 9.0}], ids=str
)
def test_background(video: NDArray[np.uint8], options: dict[str, Any]) -> None:
    masks, picture = mdask.subtract(da.from_array(video, (9, 8, 48, 3)), **options)
    expected_masks, expected = marey.background.subtract(video, **options)
    np.testing.assert_array_equal(masks.compute(), expected_masks, strict=True)
    np.testing.assert_array_equal(picture.compute(), expected, strict=True)


def test_nothing_is_computed_before_it_is_asked_for() -> None:
    def refuse(block: NDArray[Any]) -> NDArray[Any]:
        raise AssertionError("computed")

    lazy = da.zeros((20, 8, 9), chunks=(5, 4, 9)).map_blocks(
        refuse, dtype=np.float64, meta=np.empty((0, 0, 0))
    )
    y = mdask.sosfilt(SOS, lazy)
    mdask.sosfiltfilt(SOS, lazy, padlen=3)
    mdask.convolve(lazy, [1, 2, 1])
    mdask.laplacian(lazy, 2, channel_axis=None)
    mdask.median(lazy)
    frames = da.zeros((20, 8, 9), chunks=(5, 4, 9), dtype=np.float32).map_blocks(
        refuse, dtype=np.float32, meta=np.empty((0, 0, 0), np.float32)
    )
    mdask.magnify(frames, 30, 0.4, 3, 10)
    for options in ({}, {"window": 5}, {"method": "mixture"}):
        mdask.subtract(frames, **options)
    with pytest.raises(AssertionError, match="computed"):
        y.compute()


def test_wrong_arguments_are_named() -> None:
    lazy = da.zeros((20, 8, 9), chunks=5)
    with pytest.raises(TypeError, match=r"\[marey.dask.sosfilt\] x: expected a dask array"):
        mdask.sosfilt(SOS, np.zeros(5))
    with pytest.raises(ValueError, match=r"\[marey.dask.sosfiltfilt\] sos: expected .*sections, 6"):
        mdask.sosfiltfilt(SOS[:, :5], lazy)
    with pytest.raises(ValueError, match=r"axis: expected an axis of shape \(20, 8, 9\)"):
        mdask.sosfilt(SOS, lazy, 3)
    with pytest.raises(ValueError, match="alpha: expected 0 or more"):
        mdask.magnify(lazy.astype(np.float32), 30, 0.4, 3, -1)
    with pytest.raises(ValueError, match=r"video: expected \(T, H, W\)"):
        mdask.subtract(da.zeros((3, 4)))


def test_two_worker_processes_give_the_result_of_one(cluster: Any, video: NDArray[Any]) -> None:
    lazy = da.from_array(video, (7, 16, 24, 3))
    filtered = mdask.sosfilt(SOS, lazy)
    magnified = mdask.magnify(lazy, 30, 0.4, 3, 10)
    masks, picture = mdask.subtract(lazy, window=7)
    there_and_back = mdask.sosfiltfilt(SOS, lazy)
    bands = mdask.laplacian(lazy, 2)
    results = [filtered, magnified, masks, picture, there_and_back]
    found = [future.result() for future in cluster.compute(results)]
    expected_masks, expected_picture = marey.background.subtract(video, window=7)
    np.testing.assert_array_equal(found[0], marey.temporal.sosfilt(SOS, video))
    np.testing.assert_array_equal(found[1], marey.magnify(video, 30, 0.4, 3, 10))
    np.testing.assert_array_equal(found[2], expected_masks)
    np.testing.assert_array_equal(found[3], expected_picture)
    np.testing.assert_array_equal(found[4], marey.temporal.sosfiltfilt(SOS, video))
    rebuilt = cluster.compute(mdask.collapse(bands)).result()
    np.testing.assert_allclose(rebuilt, video.astype(np.float32), atol=1e-3)
    used = cluster.run(lambda: __import__("resource").getrusage(0).ru_utime)
    assert len(used) == 2


def peak_mib() -> float:
    """The most memory that this process has held."""
    with open("/proc/self/status") as status:
        line = next(line for line in status if line.startswith("VmHWM"))
    return int(line.split()[1]) / 1024


def test_memory_of_a_worker_is_bounded(cluster: Any) -> None:
    frames = 16
    frame = (256, 512)
    count = VIDEO_MIB * 2**20 // (4 * frame[0] * frame[1])
    lazy = da.random.random((count, *frame), chunks=(frames, 128, 512)).astype(np.float32)
    before = max(cluster.run(peak_mib).values())
    power = (mdask.sosfilt(SOS, lazy) ** 2).mean(axis=(1, 2))
    assert cluster.compute(power).result().shape == (count,)
    after = max(cluster.run(peak_mib).values())
    print(f"{VIDEO_MIB} MiB of video: a worker's peak rose from {before:.0f} to {after:.0f} MiB")
    assert after - before < WORKER_MIB
