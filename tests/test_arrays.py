"""Which arrays go in, and which come out."""

import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
from marey import Magnifier, magnify, pyramid, temporal
from numpy.typing import NDArray

SOS = temporal.butter_bandpass(0.5, 3, 30)
BAND = {"fs": 30, "low": 0.5, "high": 3, "alpha": 5}

# Every public function of one array, called with an image or video of shape (8, 6, 3).
FUNCTIONS: dict[str, Callable[[Any], Any]] = {
    "down": pyramid.down,
    "up": pyramid.up,
    "gaussian": lambda x: pyramid.gaussian(x, 1)[1],
    "laplacian": lambda x: pyramid.laplacian(x, 1)[0],
    "collapse": lambda x: pyramid.collapse([x]),
    "sosfilt": lambda x: temporal.sosfilt(SOS, x),
    "SosFilter": lambda x: temporal.SosFilter(SOS)(x),
    "magnify": lambda x: magnify(x, **BAND),
    "Magnifier.feed": lambda x: Magnifier((8, 6, 3), **BAND, dtype=np.float32).feed(x),
}
every_function = pytest.mark.parametrize("function", FUNCTIONS.values(), ids=FUNCTIONS)


@pytest.fixture
def x(rng: np.random.Generator) -> NDArray[np.float32]:
    return rng.random((8, 6, 3), dtype=np.float32)


class Tensor:
    """An array that has only DLPack, as those of other libraries may."""

    def __init__(self, array: NDArray[Any], device: tuple[int, int] = (1, 0)) -> None:
        self.array = array
        self.device = device

    def __dlpack__(self, **options: Any) -> Any:
        return self.array.__dlpack__(**options)

    def __dlpack_device__(self) -> tuple[int, int]:
        return self.device


class StandardTensor(Tensor):
    """One that follows the array API standard: it names its namespace."""

    def __array_namespace__(self, api_version: str | None = None) -> Any:
        return SimpleNamespace(from_dlpack=lambda x: StandardTensor(np.from_dlpack(x)))


class TestDLPack:
    @every_function
    def test_an_array_of_the_standard_comes_back_as_its_own_kind(
        self, function: Callable[[Any], Any], x: NDArray[np.float32]
    ) -> None:
        result = function(StandardTensor(x))
        assert type(result) is StandardTensor
        np.testing.assert_array_equal(result.array, function(x))

    @every_function
    def test_an_array_whose_library_has_from_dlpack_comes_back_as_its_own_kind(
        self,
        function: Callable[[Any], Any],
        x: NDArray[np.float32],
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        """As torch has it: torch.Tensor, torch.from_dlpack."""
        library = ModuleType("library")
        kind = type("Tensor", (Tensor,), {"__module__": "library.inner"})
        library.from_dlpack = lambda array: kind(np.from_dlpack(array))  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, "library", library)
        result = function(kind(x))
        assert type(result) is kind
        np.testing.assert_array_equal(result.array, function(x))

    @every_function
    def test_an_array_with_nothing_else_comes_back_as_numpy(
        self, function: Callable[[Any], Any], x: NDArray[np.float32]
    ) -> None:
        result = function(Tensor(x))
        assert type(result) is np.ndarray
        np.testing.assert_array_equal(result, function(x))

    @every_function
    def test_memory_that_is_not_the_cpus_is_an_error(
        self, function: Callable[[Any], Any], x: NDArray[np.float32]
    ) -> None:
        with pytest.raises(TypeError, match=r"\[marey\.\w+\] .*: expected an array in CPU memory"):
            function(Tensor(x, device=(2, 0)))

    def test_out_is_filled_where_it_lies_and_returned(self, x: NDArray[np.float32]) -> None:
        memory = np.zeros((4, 3, 3), np.float32)
        out = StandardTensor(memory)
        assert pyramid.down(StandardTensor(x), out=out) is out
        np.testing.assert_array_equal(memory, pyramid.down(x))

    def test_strided_tensors_are_read_where_they_lie(self, x: NDArray[np.float32]) -> None:
        result = pyramid.down(StandardTensor(x[::-1, ::2]))
        np.testing.assert_array_equal(result.array, pyramid.down(x[::-1, ::2]))

    @every_function
    def test_torch(self, function: Callable[[Any], Any], x: NDArray[np.float32]) -> None:
        torch = pytest.importorskip("torch")
        result = function(torch.from_numpy(x))
        assert isinstance(result, torch.Tensor)
        np.testing.assert_array_equal(result.numpy(), function(x))

    def test_a_tensor_with_a_gradient_is_an_error(self, x: NDArray[np.float32]) -> None:
        torch = pytest.importorskip("torch")
        with pytest.raises(TypeError, match=r"\[marey\.down\] image"):
            pyramid.down(torch.from_numpy(x).requires_grad_())


class TestWhatIsTaken:
    @every_function
    def test_arrays_that_cannot_be_written(
        self, function: Callable[[Any], Any], x: NDArray[np.float32]
    ) -> None:
        expected = function(x)
        x.flags.writeable = False
        np.testing.assert_array_equal(function(x), expected)

    @every_function
    def test_the_input_is_not_changed(
        self, function: Callable[[Any], Any], x: NDArray[np.float32]
    ) -> None:
        before = x.copy()
        result = function(x)
        np.testing.assert_array_equal(x, before)
        assert not np.shares_memory(result, x)

    @every_function
    def test_files_mapped_into_memory(
        self, function: Callable[[Any], Any], x: NDArray[np.float32], tmp_path: Path
    ) -> None:
        np.save(tmp_path / "x.npy", x)
        mapped = np.load(tmp_path / "x.npy", mmap_mode="r")
        result = function(mapped)
        np.testing.assert_array_equal(result, function(x))
        assert type(result) is np.ndarray

    def test_a_matrix_is_an_array_of_two_axes(self, x: NDArray[np.float32]) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", PendingDeprecationWarning)
            matrix = np.matrix(x[..., 0])
        result = pyramid.down(matrix, channel_axis=None)
        np.testing.assert_array_equal(result, pyramid.down(x[..., 0], channel_axis=None))

    def test_more_than_enough_axes(self, x: NDArray[np.float32]) -> None:
        deep = x.reshape((1,) * 9 + x.shape)
        np.testing.assert_array_equal(pyramid.down(deep).reshape(4, 3, 3), pyramid.down(x))

    def test_more_axes_than_there_is_room_for_are_an_error(self, x: NDArray[np.float32]) -> None:
        deep = x.reshape((1,) * 20 + x.shape)
        with pytest.raises(ValueError, match=r"\[marey\.down\] image: expected at most \d+ axes"):
            pyramid.down(deep)


class TestWhatIsRefused:
    @every_function
    @pytest.mark.parametrize(
        "dtype",
        [
            *[np.int8, np.int16, np.int32, np.int64, np.uint16, np.float16, np.longdouble],
            *[np.complex64, np.complex128, bool, object, "U1", "M8[s]"],
        ],
    )
    def test_other_dtypes(self, function: Callable[[Any], Any], dtype: Any) -> None:
        with pytest.raises(TypeError, match=r"\[marey\.\w+\] .*float32"):
            function(np.zeros((8, 6, 3), dtype))

    @every_function
    def test_bfloat16(self, function: Callable[[Any], Any]) -> None:
        ml_dtypes = pytest.importorskip("ml_dtypes")
        with pytest.raises(TypeError, match=r"\[marey\.\w+\] .*float32.*bfloat16"):
            function(np.zeros((8, 6, 3), ml_dtypes.bfloat16))

    @every_function
    def test_records(self, function: Callable[[Any], Any]) -> None:
        with pytest.raises(TypeError, match=r"\[marey\.\w+\] .*float32"):
            function(np.zeros((8, 6, 3), [("r", np.float32)]))

    @every_function
    @pytest.mark.parametrize("dtype", [np.float32, np.float64])
    def test_the_other_byte_order(self, function: Callable[[Any], Any], dtype: type) -> None:
        swapped = np.dtype(dtype).newbyteorder("S")
        with pytest.raises(TypeError, match=r"\[marey\.\w+\] .*float32"):
            function(np.zeros((8, 6, 3), swapped))

    @every_function
    def test_misaligned_items(self, function: Callable[[Any], Any]) -> None:
        misaligned = np.zeros(8 * 6 * 3 * 4 + 1, np.uint8)[1:].view(np.float32).reshape(8, 6, 3)
        assert not misaligned.flags.aligned
        with pytest.raises(ValueError, match=r"\[marey\.\w+\] .*: expected .*aligned"):
            function(misaligned)

    @every_function
    def test_masked_arrays(self, function: Callable[[Any], Any], x: NDArray[np.float32]) -> None:
        """The mask would be lost without a word."""
        with pytest.raises(TypeError, match=r"\[marey\.\w+\] .*mask"):
            function(np.ma.masked_array(x, x > 0.5))

    @every_function
    @pytest.mark.parametrize(
        "value", [[[[1.0]]], ((1,),), 1.0, 1, "image", None, {}, b"\0" * 8], ids=repr
    )
    def test_what_is_not_an_array_is_an_error_that_says_what_to_do(
        self, function: Callable[[Any], Any], value: Any
    ) -> None:
        with pytest.raises(TypeError, match=r"\[marey\.\w+\] .*np\.asarray"):
            function(value)

    def test_an_out_that_is_not_an_array(self, x: NDArray[np.float32]) -> None:
        with pytest.raises(TypeError, match=r"\[marey\.down\] out"):
            pyramid.down(x, out=[1, 2])
        with pytest.raises(TypeError, match=r"\[marey\.sosfilt\] out"):
            temporal.sosfilt(SOS, x, out="x")

    def test_a_state_that_is_not_an_array(self, x: NDArray[np.float32]) -> None:
        with pytest.raises(TypeError, match=r"\[marey\.sosfilt\] zi"):
            temporal.sosfilt(SOS, x, zi=0)


class TestOverlap:
    def test_channels_of_one_array_are_apart(self, rng: np.random.Generator) -> None:
        both = rng.random((8, 6, 7, 2), dtype=np.float32)
        expected = temporal.sosfilt(SOS, both[..., 0].copy())
        temporal.sosfilt(SOS, both[..., 0], out=both[..., 1])
        np.testing.assert_array_equal(both[..., 1], expected)

    def test_neighbours_that_meet_are_refused(self) -> None:
        memory = np.zeros(100, np.float32)
        with pytest.raises(ValueError, match=r"\[marey.sosfilt\] out: .*overlap"):
            temporal.sosfilt(SOS, memory[:80], out=memory[20:])
