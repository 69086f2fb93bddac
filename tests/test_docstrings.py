"""The examples in docstrings."""

import doctest
import importlib
import pkgutil

import marey
import pytest

MODULES = [
    module.name
    for module in pkgutil.walk_packages(marey.__path__, "marey.")
    if not module.name.endswith(("__main__", "._cpu"))
]


@pytest.mark.parametrize("name", MODULES)
def test_examples_show_what_they_do(name: str) -> None:
    assert doctest.testmod(importlib.import_module(name)).failed == 0


def test_there_are_examples() -> None:
    modules = [importlib.import_module(name) for name in MODULES]
    assert sum(doctest.testmod(module).attempted for module in modules) > 50
