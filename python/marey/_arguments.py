"""The one place that checks the arguments that compiled code does not check.

Each function returns the argument as a plain type that compiled code takes, or raises an error that
names the function, the argument, what was expected and what was found.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from marey._arrays import to_numpy

if TYPE_CHECKING:
    from collections.abc import Collection

    from numpy.typing import NDArray

_LEAST, _MOST = -(2**63), 2**63 - 1  # what int64_t holds
_MOST_ITEMS = 2**40  # of an image: no count of bytes is then more than an int64_t holds


def integer(
    function: str,
    argument: str,
    value: Any,
    minimum: int | None = None,
    maximum: int | None = None,
    *,
    expected: str | None = None,
) -> int:
    """Return `value` (an int, or NumPy's) as an int in ``[minimum, maximum]``, or of 64 bits.

    `expected` replaces the words for the range.
    """
    try:
        if isinstance(value, bool):
            raise TypeError
        result = operator.index(value)
    except TypeError:
        raise _wrong_type(function, argument, "an integer", value) from None
    least = _LEAST if minimum is None else minimum
    most = _MOST if maximum is None else maximum
    if not least <= result <= most:
        if expected is None:
            short = maximum is None and result < least
            expected = f"{least} or more" if short else f"{least} to {most}"
        raise ValueError(f"[{function}] {argument}: expected {expected}; found {result}")
    return result


def axis(function: str, argument: str, value: Any, shape: tuple[int, ...]) -> int:
    """Return `value` as an axis of `shape`, which may be negative."""
    # The usual case first, without the words for an error: a microsecond of every call.
    if type(value) is int and -len(shape) <= value < len(shape):
        return value
    expected = f"an axis of shape {shape}"
    return integer(function, argument, value, -len(shape), len(shape) - 1, expected=expected)


def number(
    function: str,
    argument: str,
    value: Any,
    minimum: float = -math.inf,
    maximum: float = math.inf,
    *,
    finite: bool = True,
    expected: str | None = None,
) -> float:
    """Return `value` as a float in ``[minimum, maximum]``; NaN and infinity only if not `finite`.

    `expected` replaces the words for the range.
    """
    if type(value) is float and minimum <= value <= maximum and math.isfinite(value):
        return value
    try:
        if isinstance(value, (str, bytes, bool, np.bool_, np.complexfloating)) or np.ndim(value):
            raise TypeError
        result = float(value)
    except (TypeError, ValueError):
        raise _wrong_type(function, argument, "a number", value) from None
    except OverflowError:
        result = math.inf if value > 0 else -math.inf
    if not finite:
        return result
    if not (math.isfinite(result) and minimum <= result <= maximum):
        if expected is None:
            expected = _limits(minimum, maximum)
        raise ValueError(f"[{function}] {argument}: expected {expected}; found {result}")
    return result


def _limits(minimum: float, maximum: float) -> str:
    if minimum == -math.inf:
        return "a finite number" if maximum == math.inf else f"{maximum:g} or less"
    return f"{minimum:g} or more" if maximum == math.inf else f"{minimum:g} to {maximum:g}"


def positive(function: str, argument: str, value: Any, what: str = "number") -> float:
    """Return `value` as a finite float greater than 0."""
    return number(function, argument, value, math.ulp(0.0), expected=f"a positive {what}")


def one_of(function: str, argument: str, value: Any, choices: Collection[str | None]) -> Any:
    """Return `value` if it is one of the choices."""
    if not (value is None or isinstance(value, str)) or value not in choices:
        *others, last = map(repr, choices)
        raise ValueError(
            f"[{function}] {argument}: expected {', '.join(others)} or {last}; found {value!r}"
        )
    return value


def looked_up(function: str, argument: str, value: Any, choices: Mapping[Any, Any]) -> Any:
    """Return what one of the choices stands for."""
    try:
        return choices[value]
    except (KeyError, TypeError):
        return choices[one_of(function, argument, value, choices)]


def string(function: str, argument: str, value: Any) -> str:
    """Return `value` if it is a string."""
    if not isinstance(value, str):
        raise _wrong_type(function, argument, "a string", value)
    return value


def items(function: str, argument: str, value: Any, expected: str) -> tuple[Any, ...]:
    """Return what a sequence holds; a string is none."""
    try:
        if isinstance(value, (str, bytes)):
            raise TypeError
        return tuple(value)
    except TypeError:
        raise TypeError(f"[{function}] {argument}: expected {expected}; found {value!r}") from None


def integers(function: str, argument: str, value: Any, expected: str) -> tuple[int, ...]:
    """Return a sequence of integers as a tuple."""
    return tuple(integer(function, argument, n) for n in items(function, argument, value, expected))


def image_shape(
    function: str,
    argument: str,
    shape: Any,
    expected: str,
    endings: Collection[tuple[int, ...]] = ((),),
) -> tuple[int, ...]:
    """Return the shape of an image: height, width and one of `endings`."""
    sizes = integers(function, argument, shape, expected)
    other = len(sizes) < 2 or sizes[2:] not in endings
    if other or min(sizes) < 1 or math.prod(sizes) > _MOST_ITEMS:
        raise ValueError(
            f"[{function}] {argument}: expected {expected} of 1 to 2**40 values; found {shape}"
        )
    return sizes


def frame_shape(function: str, argument: str, shape: Any) -> tuple[int, ...]:
    """Return the shape of a grey or RGB frame."""
    return image_shape(function, argument, shape, "(H, W) or (H, W, 3)", ((), (3,)))


def frame_dtype(function: str, argument: str, dtype: Any) -> np.dtype[Any]:
    """Return the type of frames."""
    try:
        result: np.dtype[Any] = np.dtype(dtype)
    except TypeError:
        raise TypeError(
            f"[{function}] {argument}: expected uint8 or float32; found {dtype!r}"
        ) from None
    if result not in (np.dtype(np.uint8), np.dtype(np.float32)):
        raise TypeError(f"[{function}] {argument}: expected uint8 or float32; found {result}")
    return result


def whole_video(function: str, video: Any) -> NDArray[Any]:
    """Return grey or RGB frames, one or more, as a NumPy array."""
    array = to_numpy(function, "video", video)
    if array.ndim < 3 or array.shape[3:] not in ((), (3,)) or 0 in array.shape:
        raise ValueError(
            f"[{function}] video: expected (T, H, W) or (T, H, W, 3) with at least one frame; "
            f"found shape {array.shape}"
        )
    frame_dtype(function, "video", array.dtype)
    return array


def entries(function: str, argument: str, value: Any, keys: tuple[str, ...]) -> tuple[Any, ...]:
    """Return what a mapping, such as a saved state, holds under `keys`."""
    if not isinstance(value, Mapping):
        raise _wrong_type(function, argument, f"a mapping with {', '.join(keys)}", value)
    if missing := [key for key in keys if key not in value]:
        raise ValueError(
            f"[{function}] {argument}: expected {', '.join(keys)}; found no {', '.join(missing)}"
        )
    return tuple(value[key] for key in keys)


def reals(function: str, argument: str, value: Any) -> NDArray[np.float64]:
    """Return real numbers, which are few, as an aligned float64 array (a copy unless they are)."""
    if type(value) is np.ndarray and value.dtype == np.float64 and value.flags.aligned:
        return value
    try:
        array = np.asarray(value)
    except ValueError:  # lists of several lengths
        raise TypeError(
            f"[{function}] {argument}: expected an array of real numbers; found {value!r}"
        ) from None
    if array.dtype.kind not in "fiu":
        raise TypeError(f"[{function}] {argument}: expected real numbers; found {array.dtype}")
    return np.require(array, np.float64, "A")


def _wrong_type(function: str, argument: str, expected: str, value: Any) -> TypeError:
    return TypeError(f"[{function}] {argument}: expected {expected}; found {type(value).__name__}")
