"""Types of command-line values, each with an error that says what was expected."""

from __future__ import annotations

import argparse
import math
from fractions import Fraction
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable


def number(
    expected: str, *, above: float | None = None, least: float | None = None
) -> Callable[[str], float]:
    """A parser of finite numbers, greater than `above` or at least `least`; 30000/1001 is one."""

    def parse(text: str) -> float:
        try:
            value = float(Fraction(text)) if "/" in text else float(text)
        except (ValueError, ZeroDivisionError):
            value = math.nan
        low_enough = above is not None and not value > above
        if not math.isfinite(value) or low_enough or (least is not None and value < least):
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
