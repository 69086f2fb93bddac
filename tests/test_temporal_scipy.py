"""SciPy's own tests of sosfiltfilt, convolve1d and median_filter, with ours in their place."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("scipy.signal.tests.test_signaltools", reason="SciPy without its tests")

SIGNAL = "scipy.signal.tests.test_signaltools"
NDIMAGE = "scipy.ndimage.tests.test_filters"


@pytest.mark.parametrize(
    ("name", "module", "which"),
    [
        ("sosfiltfilt", SIGNAL, "FiltFilt"),
        ("convolve1d", NDIMAGE, "correlate or convolve or origin"),
        ("median_filter", NDIMAGE, "median or rank or origin"),
    ],
)
def test_scipys_own_tests_pass(name: str, module: str, which: str, tmp_path: Path) -> None:
    """Some of them compare with the loose tolerance of SciPy's authors; none is left out."""
    options = ["-p", "scipy_in_our_place", "-p", "no:cacheprovider", "-q", "--tb=short"]
    run = subprocess.run(
        [sys.executable, "-m", "pytest", "--pyargs", module, "-k", which, *options],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": _path(), "PYTEST_ADDOPTS": ""},
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stdout[-4000:] + run.stderr[-2000:]
    calls = re.search(rf"calls of our {name}: (\d+)", run.stdout)
    assert calls is not None
    assert int(calls[1]) > 0


def _path() -> str:
    return os.pathsep.join(filter(None, [str(Path(__file__).parent), os.environ.get("PYTHONPATH")]))
