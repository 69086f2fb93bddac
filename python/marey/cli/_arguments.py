"""Types of command-line values, each with an error that says what was expected."""

from __future__ import annotations

import argparse
import math
from fractions import Fraction
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Collection


def number(
    expected: str,
    *,
    above: float = -math.inf,
    least: float = -math.inf,
    among: Collection[float] | None = None,
) -> Callable[[str], float]:
    """A parser of finite numbers; 30000/1001 is one.

    They are greater than `above`, at least `least`, and some of `among` if that is given.
    """

    def parse(text: str) -> float:
        try:
            value = float(Fraction(text)) if "/" in text else float(text)
        except (ValueError, ZeroDivisionError):
            value = math.nan
        if not (math.isfinite(value) and value > above and value >= least) or (
            among is not None and value not in among
        ):
            raise argparse.ArgumentTypeError(f"expected {expected}; found {text!r}")
        return value

    return parse


def integer(expected: str, *, least: int, most: int) -> Callable[[str], int]:
    """A parser of integers from `least` to `most`."""

    def parse(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            value = least - 1
        if not least <= value <= most:
            raise argparse.ArgumentTypeError(f"expected {expected}; found {text!r}")
        return value

    return parse
