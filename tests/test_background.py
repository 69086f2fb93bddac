"""Background subtraction."""

import io
import threading
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from marey import config
from marey.background import MedianBackground, MixtureBackground, difference, subtract
from marey.reference import background as reference
from numpy.typing import NDArray
from test_parallel import alarm

pytestmark = pytest.mark.no_bf16

SIZES = [(1, 1), (1, 7), (7, 1), (5, 17), (3, 97), (113, 31)]
DTYPES = [np.uint8, np.float32]


def scene(rng: np.random.Generator, shape: tuple[int, ...], dtype: type = np.uint8) -> NDArray[Any]:
    """Return a noisy picture over which squares move, darker bands pass and some pixels flicker."""
    frames, height, width = shape[:3]
    still = rng.uniform(60, 200, shape[1:])
    video = np.empty(shape)
    flicker = rng.random((height, width)) < 0.2
    for t in range(frames):
        frame = still + rng.normal(0, 3, shape[1:])
        frame[flicker] += 40 * (t % 3 == 0)
        x = 2 * t % (width + 5)
        frame[: height // 2, max(0, x - 5) : x] = 230
        frame[height // 2 :, max(0, x - 5) : x] *= 0.7
        video[t] = frame
    levels = np.clip(np.rint(video), 0, 255).astype(np.uint8)
    return levels if dtype == np.uint8 else (levels / np.float32(255)).astype(np.float32)


def automatic(count: int, history: int = 500) -> list[float]:
    return [1 / min(2 * n, history) for n in range(1, count + 1)]


def levels(video: NDArray[Any]) -> NDArray[Any]:
    """Return frames in levels of 255, in the type that the kernel computes in."""
    return video if video.dtype == np.uint8 else np.float32(255) * video


@pytest.mark.usefixtures("isa")
class TestMixtureIsTheReference:
    @pytest.mark.parametrize("size", SIZES)
    @pytest.mark.parametrize("channels", [1, 3])
    @pytest.mark.parametrize("dtype", DTYPES)
    def test_to_the_last_bit(
        self, size: tuple[int, int], channels: int, dtype: type, rng: np.random.Generator
    ) -> None:
        """The kernel does the plain float32 arithmetic, in its order, without contraction."""
        shape = (40, *size) if channels == 1 else (40, *size, 3)
        video = scene(rng, shape, dtype)
        labels, model = reference.mixture(levels(video), automatic(40), dtype=np.float32)
        ours = MixtureBackground(shape[1:], shadows=True, dtype=dtype)
        np.testing.assert_array_equal(ours.labels(video), labels)
        state = ours.state
        present = model["weights"] > 0
        np.testing.assert_array_equal(state["weights"], model["weights"])
        np.testing.assert_array_equal(state["variances"][present], model["variances"][present])
        np.testing.assert_array_equal(state["means"][present], model["means"][present])

    @pytest.mark.parametrize("modes", [1, 2, 3, 8])
    @pytest.mark.parametrize("rate", [0.02, 0.3, 1.0])
    def test_any_number_of_modes_and_any_rate(
        self, modes: int, rate: float, rng: np.random.Generator
    ) -> None:
        video = scene(rng, (30, 7, 17, 3))
        options = {"threshold": 9.0, "match_threshold": 4.0, "background_ratio": 0.7}
        expected, model = reference.mixture(
            video, [rate] * 30, modes=modes, complexity=0.1, dtype=np.float32, **options
        )
        ours = MixtureBackground((7, 17, 3), modes=modes, complexity=0.1, shadows=True, **options)
        np.testing.assert_array_equal(ours.labels(video, learning_rate=rate), expected)
        np.testing.assert_array_equal(ours.state["weights"], model["weights"])

    def test_float64_gives_the_same_picture(self, rng: np.random.Generator) -> None:
        """Rounding moves few pixels over a threshold, and the model hardly."""
        video = scene(rng, (60, 31, 53, 3))
        labels, model = reference.mixture(video, automatic(60))
        ours = MixtureBackground((31, 53, 3), shadows=True)
        assert np.mean(ours.labels(video) != labels) < 1e-3
        close = np.isclose(ours.state["means"][0], model["means"][0], atol=1e-3)
        assert np.mean(close) > 0.99


class TestMixture:
    def test_opencv_finds_the_same(self, rng: np.random.Generator) -> None:
        video = scene(rng, (80, 60, 80, 3))
        theirs = cv2.createBackgroundSubtractorMOG2(500, 16, False)
        theirs.setVarInit(36)
        theirs.setVarMin(16)
        theirs.setVarMax(80)
        labels = np.stack(
            [theirs.apply(f, learningRate=r) for f, r in zip(video, automatic(80), strict=True)]
        )
        ours = MixtureBackground((60, 80, 3)).labels(video)
        assert 0.02 < np.mean(ours > 0) < 0.6
        assert np.mean(ours != labels) < 1e-3

    @pytest.mark.parametrize("dtype", DTYPES)
    @pytest.mark.usefixtures("isa")
    def test_a_learning_rate_of_zero_changes_nothing(
        self, dtype: type, rng: np.random.Generator
    ) -> None:
        video = scene(rng, (30, 9, 37, 3), dtype)
        ours = MixtureBackground((9, 37, 3), shadows=True, dtype=dtype)
        ours.feed(video[:20])
        before = ours.state
        labels = ours.labels(video[20:], learning_rate=0)
        after = ours.state
        for key in ("weights", "variances", "means"):
            np.testing.assert_array_equal(after[key], before[key])
        assert after["frames"] == before["frames"] == 20
        assert len(np.unique(labels)) > 1
        # and so every frame can be compared by itself
        np.testing.assert_array_equal(ours.labels(video[25], learning_rate=0), labels[5])

    @pytest.mark.usefixtures("isa")
    def test_rate_zero_follows_the_reference(self, rng: np.random.Generator) -> None:
        video = scene(rng, (30, 9, 37, 3))
        rates = [*automatic(20), *[0.0] * 10]
        labels, _ = reference.mixture(video, rates, dtype=np.float32)
        ours = MixtureBackground((9, 37, 3), shadows=True)
        ours.labels(video[:20])
        np.testing.assert_array_equal(ours.labels(video[20:], learning_rate=0), labels[20:])

    @given(cuts=st.lists(st.integers(0, 25), max_size=6))
    def test_any_chunking_gives_the_result_of_one_call(self, cuts: list[int]) -> None:
        video = scene(np.random.default_rng(3), (25, 11, 37, 3))
        whole = MixtureBackground((11, 37, 3))
        masks = whole.feed(video)
        parts = MixtureBackground((11, 37, 3))
        pieces = [parts.feed(piece) for piece in np.split(video, sorted(cuts))]
        np.testing.assert_array_equal(np.concatenate(pieces), masks)
        for key, value in whole.state.items():
            np.testing.assert_array_equal(parts.state[key], value)

    def test_threads_do_not_change_the_result(self, rng: np.random.Generator) -> None:
        video = scene(rng, (10, 70, 1100, 3))
        masks = []
        for count in (1, 3):
            with config.threads(count):
                masks.append(MixtureBackground((70, 1100, 3)).feed(video))
        np.testing.assert_array_equal(*masks)

    @pytest.mark.parametrize("view", [np.s_[:, ::-1], np.s_[:, ::2, ::3], np.s_[..., ::-1]])
    @pytest.mark.usefixtures("isa")
    def test_a_view_gives_what_its_copy_gives(self, view: Any, rng: np.random.Generator) -> None:
        video = scene(rng, (12, 20, 50, 3))[view]
        ours, copied = (MixtureBackground(video.shape[1:], clean=0) for _ in range(2))
        np.testing.assert_array_equal(ours.feed(video), copied.feed(video.copy()))

    def test_a_saved_state_goes_on_where_it_was(self, rng: np.random.Generator) -> None:
        video = scene(rng, (40, 13, 37, 3))
        ours = MixtureBackground((13, 37, 3))
        ours.feed(video[:25])
        file = io.BytesIO()
        np.savez(file, **ours.state)
        rest = ours.feed(video[25:])
        file.seek(0)
        other = MixtureBackground((13, 37, 3))
        other.state = dict(np.load(file))
        np.testing.assert_array_equal(other.feed(video[25:]), rest)
        for key, value in ours.state.items():
            np.testing.assert_array_equal(other.state[key], value)

    def test_a_state_that_does_not_fit_is_refused(self) -> None:
        state = MixtureBackground((13, 37)).state
        with pytest.raises(
            ValueError, match=r"\[marey\.MixtureBackground\] state: expected weights"
        ):
            MixtureBackground((13, 38)).state = state

    @pytest.mark.parametrize("kind", [MixtureBackground, MedianBackground])
    def test_what_is_no_state_is_refused(self, kind: Any) -> None:
        name = rf"\[marey\.{kind.__name__}\] state: expected"
        ours = kind((13, 37))
        ours.feed(np.full((3, 13, 37), 90, np.uint8))
        before = ours.state
        with pytest.raises(TypeError, match=f"{name} a mapping with .*; found ndarray"):
            ours.state = np.zeros(3)
        with pytest.raises(ValueError, match=f"{name} .*; found no frames"):
            ours.state = {key: value for key, value in before.items() if key != "frames"}
        with pytest.raises(TypeError, match=f"{name} an integer; found str"):
            ours.state = {**before, "frames": "three"}
        assert ours.state["frames"] == 3

    @pytest.mark.parametrize("learning_rate", [None, 0.0])
    def test_an_interruption_keeps_a_model_that_does_not_learn(
        self, learning_rate: float | None
    ) -> None:
        """One that does learn is forgotten: some pixels would have seen more frames than others."""
        ours = MixtureBackground((270, 480, 3))
        ours.feed(np.full((3, 270, 480, 3), 90, np.uint8))
        before = ours.state
        still = np.broadcast_to(np.full((270, 480, 3), 90, np.uint8), (3000, 270, 480, 3))
        with alarm(0.1), pytest.raises(TimeoutError):
            ours.feed(still, learning_rate)
        after = ours.state
        if learning_rate is None:
            assert after["frames"] == 0
            assert not after["weights"].any()
        else:
            for key, value in before.items():
                np.testing.assert_array_equal(after[key], value)

    def test_reset_forgets(self, rng: np.random.Generator) -> None:
        video = scene(rng, (20, 13, 37))
        ours = MixtureBackground((13, 37))
        first = ours.feed(video)
        ours.reset()
        assert ours.background is None
        np.testing.assert_array_equal(ours.feed(video), first)

    def test_a_shadow_is_told_from_an_object(self) -> None:
        frames = np.full((60, 40, 60, 3), (150, 120, 90), np.uint8)
        frames[59, 5:15, 5:15] = (90, 72, 54)  # the same colour, darker
        frames[59, 25:35, 5:15] = (54, 72, 90)
        ours = MixtureBackground((40, 60, 3), shadows=True, clean=0)
        labels = ours.labels(frames)[59]
        assert (labels[5:15, 5:15] == 127).all()
        assert (labels[25:35, 5:15] == 255).all()
        assert (labels == 0).sum() == 40 * 60 - 200

    def test_what_stays_becomes_background(self) -> None:
        frames = np.full((400, 8, 8), 100, np.uint8)
        frames[50:, 2:5, 2:5] = 180
        ours = MixtureBackground((8, 8), history=100, clean=0)
        masks = ours.feed(frames)
        assert masks[50:55, 2:5, 2:5].all()
        assert not masks[200:].any()
        np.testing.assert_array_equal(ours.background, frames[-1])

    @pytest.mark.usefixtures("isa")
    def test_nan_spoils_nothing_for_ever(self, rng: np.random.Generator) -> None:
        video = scene(rng, (80, 5, 33), np.float32)
        video[20, 2, 3:20] = np.nan
        ours = MixtureBackground((5, 33), dtype=np.float32, clean=0, history=20)
        masks = ours.feed(video)
        assert masks[20, 2, 3:20].all()
        assert np.isfinite(ours.background).all()
        assert not masks[60:, 2, 3:20].all(axis=0).any()

    def test_no_frames(self) -> None:
        ours = MixtureBackground((5, 7, 3))
        assert ours.feed(np.empty((0, 5, 7, 3), np.uint8)).shape == (0, 5, 7)
        assert ours.background is None

    @pytest.mark.parametrize(
        ("argument", "value"),
        [
            ("history", 0),
            ("modes", 0),
            ("modes", 9),
            ("threshold", -1),
            ("threshold", np.nan),
            ("background_ratio", 1.5),
            ("minimum_variance", 0),
            ("initial_variance", 100),
            ("clean", 4),
            ("clean", 17),
            ("darkest", 2),
        ],
    )
    def test_an_argument_out_of_range(self, argument: str, value: float) -> None:
        with pytest.raises(ValueError, match=rf"\[marey\.MixtureBackground\] {argument}"):
            MixtureBackground((8, 8), **{argument: value})

    @pytest.mark.parametrize("rate", [-0.1, 1.1, np.nan])
    def test_a_learning_rate_out_of_range(self, rate: float) -> None:
        with pytest.raises(ValueError, match="learning_rate"):
            MixtureBackground((8, 8)).feed(np.zeros((8, 8), np.uint8), rate)

    def test_frames_of_another_kind(self) -> None:
        ours = MixtureBackground((8, 9, 3))
        with pytest.raises(ValueError, match=r"frames: expected shape \(T, 8, 9, 3\)"):
            ours.feed(np.zeros((4, 8, 9), np.uint8))
        with pytest.raises(TypeError, match="frames: expected uint8; found float32"):
            ours.feed(np.zeros((4, 8, 9, 3), np.float32))
        with pytest.raises(TypeError, match="dtype"):
            MixtureBackground((8, 9), dtype=np.float64)
        with pytest.raises(ValueError, match="shape"):
            MixtureBackground((8, 9, 4))


@pytest.mark.usefixtures("isa")
class TestDifference:
    @pytest.mark.parametrize("size", SIZES)
    @pytest.mark.parametrize("channels", [1, 3])
    @pytest.mark.parametrize("dtype", DTYPES)
    @pytest.mark.parametrize("threshold", [0, 1, 29.5, 30, 254, 255, 300])
    def test_it_is_the_reference(
        self,
        size: tuple[int, int],
        channels: int,
        dtype: type,
        threshold: float,
        rng: np.random.Generator,
    ) -> None:
        shape = (3, *size) if channels == 1 else (3, *size, 3)
        video = rng.integers(0, 256, shape).astype(np.uint8)
        video[0] = 0
        still = rng.integers(0, 256, shape[1:]).astype(np.uint8)
        if dtype == np.uint8:
            expected = reference.difference(video, still, threshold)
        else:
            video, still = video.astype(np.float32) / 256, still.astype(np.float32) / 256
            expected = reference.difference(video, still, np.float32(threshold / 255))
        np.testing.assert_array_equal(difference(video, still, threshold, clean=0), expected)

    def test_views_and_single_frames(self, rng: np.random.Generator) -> None:
        video = rng.integers(0, 256, (4, 20, 40, 3)).astype(np.uint8)[:, ::2, ::-1]
        still = video[0].copy()
        expected = reference.difference(video, still, 30)
        np.testing.assert_array_equal(difference(video, still, clean=0), expected)
        np.testing.assert_array_equal(difference(video[2], still, clean=0), expected[2])

    def test_nan_differs(self) -> None:
        video = np.zeros((1, 4, 5), np.float32)
        video[0, 1, 2] = np.nan
        mask = difference(video, np.zeros((4, 5), np.float32), clean=0)
        assert mask.sum() == 1
        assert mask[0, 1, 2]

    def test_what_does_not_fit_is_refused(self) -> None:
        still = np.zeros((4, 5, 3), np.uint8)
        with pytest.raises(ValueError, match=r"\[marey\.background\.difference\] frames"):
            difference(np.zeros((2, 4, 6, 3), np.uint8), still)
        with pytest.raises(TypeError, match="frames: expected uint8"):
            difference(np.zeros((2, 4, 5, 3), np.float32), still)
        with pytest.raises(ValueError, match="threshold"):
            difference(still, still, -1)


@pytest.mark.usefixtures("isa")
class TestMajority:
    @pytest.mark.parametrize("size", [*SIZES, (70, 40), (130, 33)])
    @pytest.mark.parametrize("window", [1, 3, 5, 15])
    def test_it_is_the_reference(
        self, size: tuple[int, int], window: int, rng: np.random.Generator
    ) -> None:
        still = np.zeros(size, np.uint8)
        video = (rng.random((3, *size)) < 0.5).astype(np.uint8) * np.uint8(200)
        np.testing.assert_array_equal(
            difference(video, still, clean=window), reference.majority(video > 0, window)
        )

    def test_specks_go_and_objects_stay(self) -> None:
        frame = np.zeros((40, 40), np.uint8)
        frame[5, 5] = frame[30, 8] = 255
        frame[15:25, 15:25] = 255
        mask = difference(frame, np.zeros_like(frame))
        assert not mask[:14].any()
        assert mask[17:23, 17:23].all()


class TestSlidingMedian:
    @pytest.mark.parametrize("dtype", DTYPES)
    @pytest.mark.parametrize(("window", "every"), [(1, 1), (2, 1), (5, 1), (6, 3), (50, 2)])
    @pytest.mark.parametrize("shape", [(3, 5), (5, 17, 3), (1, 1, 3), (9, 97)])
    @pytest.mark.usefixtures("isa")
    def test_it_is_the_reference(
        self,
        dtype: type,
        window: int,
        every: int,
        shape: tuple[int, ...],
        rng: np.random.Generator,
    ) -> None:
        # few values, so that there are many ties
        video = rng.choice(np.array([0, 1, 2, 3, 128, 254, 255]), (40, *shape)).astype(np.uint8)
        if dtype == np.float32:
            video = video.astype(np.float32) / 255
        ours = MedianBackground(shape, window=window, every=every, dtype=dtype)
        expected = reference.sliding_median(video, window, every)
        for frame, median in zip(video, expected, strict=True):
            ours.feed(frame)
            np.testing.assert_array_equal(ours.background, median.astype(dtype))

    def test_masks_are_differences_from_it(self, rng: np.random.Generator) -> None:
        video = scene(rng, (30, 13, 37, 3))
        ours = MedianBackground((13, 37, 3), window=7, every=2, clean=3)
        medians = reference.sliding_median(video, 7, 2).astype(np.uint8)
        expected = [difference(f, m, clean=3) for f, m in zip(video, medians, strict=True)]
        np.testing.assert_array_equal(ours.feed(video), expected)

    @given(cuts=st.lists(st.integers(0, 30), max_size=6), stop=st.integers(0, 30))
    def test_chunks_and_saved_states_change_nothing(self, cuts: list[int], stop: int) -> None:
        video = scene(np.random.default_rng(5), (30, 7, 21))
        options = {"window": 4, "every": 3}
        masks = MedianBackground((7, 21), **options).feed(video)
        parts = MedianBackground((7, 21), **options)
        pieces = [parts.feed(piece) for piece in np.split(video, sorted(cuts))]
        np.testing.assert_array_equal(np.concatenate(pieces), masks)

        first = MedianBackground((7, 21), **options)
        first.feed(video[:stop])
        second = MedianBackground((7, 21), **options)
        second.state = first.state
        np.testing.assert_array_equal(second.feed(video[stop:]), masks[stop:])

    def test_nan_is_refused(self) -> None:
        frames = np.zeros((2, 4, 5), np.float32)
        frames[1, 2, 3] = np.nan
        with pytest.raises(ValueError, match="NaN"):
            MedianBackground((4, 5), dtype=np.float32).feed(frames)

    def test_an_argument_out_of_range(self) -> None:
        for argument in ("window", "every"):
            with pytest.raises(ValueError, match=rf"\[marey\.MedianBackground\] {argument}"):
                MedianBackground((4, 5), **{argument: 0})


class TestOneCaller:
    @pytest.mark.parametrize("kind", [MixtureBackground, MedianBackground])
    def test_a_second_caller_is_refused_and_harms_nothing(self, kind: Any) -> None:
        ours = kind((8, 9))
        frames = np.full((3, 8, 9), 90, np.uint8)
        ours.feed(frames)
        with ours._alone, pytest.raises(RuntimeError, match="one caller at a time"):
            ours.feed(frames)
        assert ours.state["frames"] == 3
        assert not ours.feed(frames).any()


class TestSubtract:
    def test_the_static_median_is_that_of_numpy(self, rng: np.random.Generator) -> None:
        video = scene(rng, (31, 13, 37, 3))
        masks, background = subtract(video, every=3)
        median = np.floor(np.median(video[::3], axis=0) + 0.5).astype(np.uint8)
        np.testing.assert_array_equal(background, median)
        np.testing.assert_array_equal(masks, difference(video, median))

    @pytest.mark.parametrize("dtype", DTYPES)
    @pytest.mark.parametrize("options", [{}, {"window": 9, "every": 1}, {"method": "mixture"}])
    def test_every_method_finds_a_moving_square(self, options: Any, dtype: type) -> None:
        rng = np.random.default_rng(2)
        clean = np.full((60, 48, 256, 3), (140, 110, 80))
        truth = np.zeros((60, 48, 256), bool)
        for t in range(60):
            x = 4 * t  # three frames at any pixel
            truth[t, 20:32, x : x + 12] = True
        clean[truth] = (40, 90, 200)
        video = np.clip(clean + rng.normal(0, 3, clean.shape) + 0.5, 0, 255).astype(np.uint8)
        if dtype == np.float32:
            video = video / np.float32(255)
        masks, background = subtract(video, **options)
        assert masks.dtype == np.bool_
        assert background.dtype == dtype
        hits = (masks & truth)[30:].sum()
        assert 2 * hits / (masks[30:].sum() + truth[30:].sum()) > 0.95
        scale = 1 if dtype == np.uint8 else 255
        error = np.abs(background * scale - (140, 110, 80))
        assert np.median(error) < 3
        assert np.mean(error > 12) < 0.05

    def test_what_belongs_to_the_other_method_is_refused(self) -> None:
        video = np.zeros((5, 8, 8), np.uint8)
        for options in (
            {"method": "mixture", "window": 3},
            {"method": "mixture", "every": 3},
            {"shadows": True},
            {"history": 5},
        ):
            with pytest.raises(ValueError, match="expected only with the other method"):
                subtract(video, **options)
        with pytest.raises(ValueError, match="method"):
            subtract(video, "mean")
        with pytest.raises(ValueError, match="video"):
            subtract(video[:0])

    def test_calls_from_several_threads(self, rng: np.random.Generator) -> None:
        video = scene(rng, (20, 40, 60, 3))
        expected = subtract(video, "mixture")[0]
        results: list[Any] = [None] * 4

        def work(k: int) -> None:
            results[k] = subtract(video, "mixture")[0]

        threads = [threading.Thread(target=work, args=(k,)) for k in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        for result in results:
            np.testing.assert_array_equal(result, expected)


@pytest.fixture(scope="module")
def highway(data: Any) -> tuple[NDArray[Any], NDArray[Any]]:
    folder = data / "highway"
    if not folder.is_dir():
        pytest.skip(f"no CDnet highway in {data}")
    frames = [cv2.imread(str(p))[..., ::-1] for p in sorted((folder / "input").glob("*.jpg"))]
    truth = [cv2.imread(str(folder / "groundtruth" / f"gt{n:06d}.png"), 0) for n in range(470, 901)]
    return np.stack(frames), np.stack(truth)


class TestHighway:
    """CDnet 2014, frames 470 to 900: 255 is moving, 170 and 85 are not scored."""

    @pytest.mark.slow
    @pytest.mark.parametrize(
        ("options", "least"),
        [
            ({}, 0.93),
            ({"window": 51}, 0.93),
            ({"method": "mixture"}, 0.9),
            ({"clean": 0}, 0.85),
            ({"method": "mixture", "clean": 0}, 0.82),
        ],
    )
    def test_f_measure(self, highway: Any, options: Any, least: float) -> None:
        frames, truth = highway
        masks = subtract(frames, **options)[0][469:900]
        scored = (truth == 0) | (truth == 50) | (truth == 255)
        moving = truth == 255
        hits = (masks & moving & scored).sum()
        f = 2 * hits / ((masks & scored).sum() + (moving & scored).sum())
        assert f >= least
