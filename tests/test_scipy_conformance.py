"""SciPy's own tests of sosfilt, run with marey's in its place.

Their class is imported from the installed SciPy and subclassed here: what runs is their code. The
name `sosfilt` in their module is replaced by a wrapper that adds only what SciPy's function has and
marey's has not: filtering along the last axis by default, array_likes, and the common dtype of all
arguments for the result (marey keeps that of `x`).
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from marey import temporal
from numpy.typing import ArrayLike, NDArray

pytestmark = pytest.mark.no_bf16

theirs = pytest.importorskip(
    "scipy.signal.tests.test_signaltools", reason="this SciPy is installed without its tests"
)

NOT_TAKEN = {
    "c": "marey has no complex filters",
    "O": "marey has no arrays of Python objects",
    "g": "marey has no long double",
}


def their_class() -> type:
    """Find their class by its name, whatever its capitals: renamed, it must not go unnoticed."""
    found = [
        value
        for name, value in vars(theirs).items()
        if isinstance(value, type) and name.lower() == "testsosfilt"
    ]
    if len(found) != 1:
        raise LookupError(f"SciPy's tests of sosfilt are no class TestSOSFilt any more: {found}")
    return found[0]


def as_scipy(
    sos: ArrayLike, x: ArrayLike, axis: int = -1, zi: ArrayLike | None = None
) -> NDArray[Any] | tuple[NDArray[Any], NDArray[Any]]:
    """Call marey's sosfilt as SciPy's is called."""
    sos, x = np.asarray(sos), np.asarray(x)
    zi = None if zi is None else np.asarray(zi)
    dtype = np.result_type(*(array for array in (sos, x, zi) if array is not None))
    with np.errstate(invalid="ignore"):  # some of their arguments are np.empty
        x = x.astype(dtype)
        zi = None if zi is None else zi.astype(dtype)
    try:
        result: Any = temporal.sosfilt(sos, x, axis, zi)
    except ValueError as error:
        # Their test looks for their words; the error must be the same, about the same argument.
        words = {
            "[marey.sosfilt] zi: expected shape": "Invalid zi shape",
            "[marey.sosfilt] sos: expected a0": "sos[:, 3] should be all ones",
        }
        for ours, scipys in words.items():
            if str(error).startswith(ours):
                raise ValueError(scipys) from error
        raise
    return result


@pytest.mark.usefixtures("isa")
class TestSOSFilt(their_class()):  # type: ignore[misc]
    @pytest.fixture
    def xp(self) -> Any:
        """Return the array namespace that their tests are written for: NumPy."""
        return np

    @pytest.fixture(autouse=True)
    def _ours(
        self, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
    ) -> Iterator[None]:
        dtype = request.node.callspec.params.get("dt", "float64")
        reason = NOT_TAKEN.get(np.dtype(dtype).kind) or NOT_TAKEN.get(np.dtype(dtype).char)
        if reason:
            pytest.skip(reason)
        calls = []

        def counted(*args: Any, **kwargs: Any) -> Any:
            calls.append(args)
            return as_scipy(*args, **kwargs)

        monkeypatch.setattr(theirs, "sosfilt", counted)
        yield
        assert calls, "their test ran without calling marey's sosfilt"


def test_their_tests_are_collected(request: pytest.FixtureRequest) -> None:
    """They are nine in SciPy 1.17."""
    names = [name for name in dir(TestSOSFilt) if name.startswith("test_")]
    assert len(names) >= 6
    assert any("initial_conditions" in name for name in names)
