"""How far from the reference a kernel may be: the one table, with a reason for each row.

The rule is relative to the arithmetic and not to a number: a kernel may be at most twice as far
from the exact result as the plain computation, which is the reference run in the kernel's own type.
What counts as exact is the reference in the next wider type: float64 for float32, long double for
float64. Each row adds a floor, because on few values the plain computation is often exact by luck.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

WIDER = {np.dtype(np.float32): np.float64, np.dtype(np.float64): np.longdouble}


@dataclass(frozen=True)
class Bound:
    """|actual - exact| <= factor * max|plain - exact| + ulps * eps * scale."""

    ulps: float
    reason: str
    factor: float = 2.0


FLOAT = {
    "down": Bound(2, "25 products of one sign, summed in another order than the reference's"),
    "up": Bound(2, "at most 9 products of one sign, summed in another order"),
    "laplacian": Bound(3, "a down, an up and a difference; the scale is the image's"),
    "collapse": Bound(
        3, "an up and a sum for each level; errors of coarse levels are not amplified"
    ),
    "sosfilt": Bound(
        16,
        "the recursion is the reference's but for fused multiply-adds, whose other roundings the "
        "poles prolong: with one pixel and a few frames that is luck on either side",
    ),
    "sosfiltfilt": Bound(
        16, "as sosfilt, twice; the steady state that it starts from is large for a narrow low band"
    ),
    "ideal_bandpass": Bound(
        4,
        "sums of as many products as there are frames, folded, which the reference's are not; the "
        "scale is the input's",
    ),
    "convolve": Bound(
        2, "the reference's sum with fused multiply-adds; the scale is the input's times the taps'"
    ),
    "trajectory": Bound(
        4, "rows, then columns, then time, where the reference takes whole frames in that order"
    ),
    "attention": Bound(
        8,
        "scores are summed in another order and carried in units of log2, whose rounding the "
        "exponential turns into a relative error of its size times eps",
    ),
    "conv": Bound(
        4,
        "as many products as the plain sum, in another order and fused; Winograd's transforms of "
        "3x3 taps round sums of a few inputs and weights once more",
    ),
    "conv_backward": Bound(
        4, "the plain sums in another order; the weights' run over all positions, in blocks"
    ),
    "pool": Bound(2, "a sum along time, height and width in turn; the scale is the input's"),
    "attention_backward": Bound(
        32,
        "as attention, whose weights here carry the rounding of the lse too; the scale is the "
        "largest gradient's, because those that cancel are sums of such",
    ),
    "magnification": Bound(
        8,
        "the whole chain, whose linear steps are taken in another order; it amplifies its own "
        "rounding by alpha, as the plain computation does",
    ),
}


def assert_close(
    actual: NDArray[np.floating[Any]],
    compute: Callable[[type], NDArray[Any]],
    kind: str,
    *,
    scale: float | None = None,
) -> None:
    """Check a float result of a kernel.

    Parameters
    ----------
    actual
        The kernel's result, float32 or float64.
    compute
        Runs the reference in the dtype that it is given.
    kind
        A row of `FLOAT`.
    scale
        The magnitude that the floor is relative to. Default: the largest of the exact result.
    """
    assert isinstance(actual, np.ndarray)
    assert actual.dtype in WIDER
    exact = compute(WIDER[actual.dtype])
    assert actual.shape == exact.shape
    if exact.size == 0:
        return
    plain = compute(actual.dtype.type)
    assert plain.dtype == actual.dtype
    bound = FLOAT[kind]
    if scale is None:
        scale = float(np.abs(exact).max())
    eps = float(np.finfo(actual.dtype).eps)
    limit = bound.factor * float(np.abs(plain - exact).max()) + bound.ulps * eps * scale
    error = np.abs(actual - exact)
    worst = np.unravel_index(error.argmax(), error.shape)
    assert error[worst] <= limit, (
        f"{kind}: off by {error[worst]:.3g} at {tuple(map(int, worst))}, allowed {limit:.3g} "
        f"({actual[worst]} for {exact[worst]})"
    )


def assert_rounded_once(
    actual: NDArray[Any],
    compute: Callable[[type], NDArray[Any]],
    kind: str,
    *,
    scale: float | None = None,
) -> None:
    """Check a bfloat16 result that is computed in float32 and rounded at the end.

    It is within half a unit in the last place of a float32 result that `assert_close` would take.
    """
    exact, plain = compute(np.float64), compute(np.float32)
    assert actual.shape == exact.shape
    if exact.size == 0:
        return
    bound = FLOAT[kind]
    if scale is None:
        scale = float(np.abs(exact).max())
    eps = float(np.finfo(np.float32).eps)
    limit = bound.factor * float(np.abs(plain - exact).max()) + bound.ulps * eps * scale
    half_ulp = np.spacing((np.abs(exact) + limit).astype(actual.dtype)).astype(np.float64) / 2
    excess = np.abs(actual.astype(np.float64) - exact) - half_ulp
    worst = np.unravel_index(excess.argmax(), excess.shape)
    assert excess[worst] <= limit, (
        f"{kind}: off by half a unit in the last place and {excess[worst]:.3g} at "
        f"{tuple(map(int, worst))}, allowed {limit:.3g} ({actual[worst]} for {exact[worst]})"
    )


def assert_equal(actual: NDArray[np.uint8], reference: NDArray[np.uint8]) -> None:
    """Check a uint8 result of integer arithmetic: the correctly rounded value, everywhere."""
    assert isinstance(actual, np.ndarray)
    assert actual.dtype == reference.dtype == np.uint8
    np.testing.assert_array_equal(actual, reference, strict=True)


def assert_rounds(
    actual: NDArray[np.uint8], exact: NDArray[np.float64], *, tolerance: float
) -> None:
    """Check a uint8 result of float32 arithmetic against the value before rounding.

    A value within `tolerance` of halfway between two grey levels may go to either; all others must
    be rounded to the nearest.
    """
    assert isinstance(actual, np.ndarray)
    assert actual.dtype == np.uint8
    assert actual.shape == exact.shape
    error = np.abs(actual - exact)
    worst = np.unravel_index(error.argmax(), error.shape)
    assert error[worst] <= 0.5 + tolerance, (
        f"{actual[worst]} for {exact[worst]:.6f} at {tuple(map(int, worst))}"
    )
