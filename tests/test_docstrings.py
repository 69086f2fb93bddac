"""The examples in docstrings."""

import doctest
import importlib
import importlib.util
import pkgutil

import marey
import pytest

ADAPTERS = ("torch", "jax", "dask")
COMPILED = ("marey._cpu", "marey._jax", "marey._cuda", "marey._cuda_on_cpu")
EVERYTHING = [
    module.name
    for module in pkgutil.walk_packages(marey.__path__, "marey.")
    if not module.name.endswith("__main__") and module.name not in COMPILED
]
MODULES = [name for name in EVERYTHING if name.split(".")[1] not in ADAPTERS]


@pytest.mark.parametrize("name", EVERYTHING)
def test_examples_show_what_they_do(name: str) -> None:
    framework = name.split(".")[1]
    if framework in ADAPTERS:
        pytest.importorskip(framework, reason=f"the extra '{framework}' is not installed")
    if framework == "jax" and importlib.util.find_spec("marey._jax") is None:
        pytest.skip("marey was built without JAX's headers")
    assert doctest.testmod(importlib.import_module(name)).failed == 0


def test_there_are_examples() -> None:
    modules = [importlib.import_module(name) for name in MODULES]
    assert sum(doctest.testmod(module).attempted for module in modules) > 50
