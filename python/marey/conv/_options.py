"""The options that all convolutions have, as compiled code takes them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from marey import _arguments

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    from numpy.typing import NDArray

Numbers = int | tuple[int, int, int]
Padding = Literal["same", "valid"] | int | tuple[int | tuple[int, int], ...]
Layout = Literal["NCTHW", "NTHWC"]
Activation = Literal["relu", "gelu", "silu"] | None
Algorithm = Literal["auto", "direct", "winograd"]

Triple = tuple[int, int, int]
Six = tuple[int, int, int, int, int, int]

ACTIVATIONS: dict[str | None, int] = {None: 0, "relu": 1, "gelu": 2, "silu": 3}
ALGORITHMS = {"auto": 0, "direct": 1, "winograd": 2}
LAYOUTS = {"NCTHW": False, "NTHWC": True}  # whether channels are last

MOST = 2**31 - 1


def _plain(values: Any, minimum: int) -> bool:
    """Return whether these are integers in range: the usual case, told without any words."""
    return all(type(value) is int and minimum <= value <= MOST for value in values)


def triple(function: str, argument: str, value: Any, minimum: int) -> Triple:
    """Return one integer for T, H and W, or three, as three."""
    if type(value) is int and minimum <= value <= MOST:
        return value, value, value
    if type(value) is tuple and len(value) == 3 and _plain(value, minimum):
        return value
    expected = "an integer, or three for T, H and W"
    if hasattr(value, "__len__") or hasattr(value, "__iter__"):
        numbers = _arguments.items(function, argument, value, expected)
    else:
        numbers = (value,) * 3
    if len(numbers) != 3:
        raise ValueError(f"[{function}] {argument}: expected {expected}; found {value!r}")
    t, h, w = (_arguments.integer(function, argument, n, minimum, MOST) for n in numbers)
    return t, h, w


def pairs(
    function: str, padding: Any, kernel: Sequence[int], dilation: Triple, stride: Triple
) -> Six:
    """Return the padding before and after each axis."""
    if type(padding) is int and 0 <= padding <= MOST:
        return (padding,) * 6
    if isinstance(padding, str):
        _arguments.one_of(function, "padding", padding, ("same", "valid"))
        if padding == "valid":
            return (0, 0, 0, 0, 0, 0)
        if stride != (1, 1, 1):
            raise ValueError(
                f"[{function}] padding: expected numbers where stride is not 1 (with 'same' the "
                f"result is as large as x); found 'same' with stride={stride}"
            )
        total = [d * (k - 1) for k, d in zip(kernel, dilation, strict=True)]
        before = [n // 2 for n in total]
        after = [n - n // 2 for n in total]
    else:
        each: tuple[Any, ...] = (padding,) * 3
        if hasattr(padding, "__len__") or hasattr(padding, "__iter__"):
            expected = "an integer, or three, or three pairs, for T, H and W; 'same' or 'valid'"
            each = _arguments.items(function, "padding", padding, expected)
            if len(each) != 3:
                raise ValueError(f"[{function}] padding: expected {expected}; found {padding!r}")
        before, after = [], []
        for one in each:
            two = (one, one)
            if hasattr(one, "__len__") or hasattr(one, "__iter__"):
                two = _arguments.items(function, "padding", one, "a pair of integers")
                if len(two) != 2:
                    raise ValueError(
                        f"[{function}] padding: expected pairs of integers; found {padding!r}"
                    )
            first, last = (_arguments.integer(function, "padding", n, 0, MOST) for n in two)
            before.append(first)
            after.append(last)
    return (before[0], after[0], before[1], after[1], before[2], after[2])


class Options(NamedTuple):
    """What compiled code takes, in its order."""

    stride: Triple
    padding: Six
    dilation: Triple
    groups: int
    channels_last: bool
    activation: int
    algorithm: int


def of_numbers(
    function: str,
    stride: Any,
    padding: Any,
    dilation: Any,
    groups: int,
    layout: Any,
    activation: Any = None,
    algorithm: Any = "auto",
) -> Options:
    """Look up the names; compiled code checks the numbers, which are three, six, three and one."""
    return Options(
        stride,
        padding,
        dilation,
        groups,
        _arguments.looked_up(function, "layout", layout, LAYOUTS),
        _arguments.looked_up(function, "activation", activation, ACTIVATIONS),
        _arguments.looked_up(function, "algorithm", algorithm, ALGORITHMS),
    )


def options(
    function: str,
    weight: NDArray[np.generic],
    *,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: Any = 1,
    layout: Any = "NCTHW",
    activation: Any = None,
    algorithm: Any = "auto",
) -> Options:
    """Check the options of a convolution with these weights."""
    if weight.ndim != 5:
        raise ValueError(
            f"[{function}] weight: expected shape (K, C / groups, kT, kH, kW); found {weight.shape}"
        )
    steps = triple(function, "stride", stride, 1)
    apart = triple(function, "dilation", dilation, 1)
    kernel = (weight.shape[2], weight.shape[3], weight.shape[4])
    around = pairs(function, padding, kernel, apart, steps)
    count = _arguments.integer(function, "groups", groups, 1, MOST)
    return of_numbers(function, steps, around, apart, count, layout, activation, algorithm)
