"""The example on the page about CUDA devices runs as it stands."""

import re
import sys
from pathlib import Path
from types import ModuleType

import host_cupy
import pytest
from cuda_devices import Device

PAGE = Path(__file__).parents[1] / "docs" / "cuda.md"


def test_the_example_runs(cuda: Device, monkeypatch: pytest.MonkeyPatch) -> None:
    """With CuPy on a device; else with the arrays that stand in for its own."""
    if cuda.name == "torch":
        pytest.skip("the example is CuPy's")
    if cuda.name != "cupy":
        stand_in = ModuleType("cupy")
        stand_in.__dict__.update(asarray=cuda.put, asnumpy=cuda.get, ndarray=host_cupy.HostArray)
        monkeypatch.setitem(sys.modules, "cupy", stand_in)
    (example,) = re.findall(
        r"^```python\n(.*?)^```$", PAGE.read_text(), flags=re.MULTILINE | re.DOTALL
    )
    exec(compile(example, str(PAGE), "exec"), {"__name__": "cuda"})
