"""Fixtures that every test module shares."""

import os
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cuda_devices
import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from marey import _cpu, config
from remembered import remember_references

# Examples are the same in every run, so that a failure seen once is seen again. The fixtures used
# beside @given (`isa`) hold for all examples of a test, so sharing them between examples is meant.
settings.register_profile(
    "marey",
    deadline=None,
    derandomize=True,
    max_examples=25,
    # Test classes hold nothing, so that it does not matter which of their instances runs.
    suppress_health_check=[
        HealthCheck.differing_executors,
        HealthCheck.function_scoped_fixture,
        HealthCheck.too_slow,
    ],
)
settings.load_profile("marey")
# pytest --hypothesis-profile=lean: for runs that look for what breaks, not for what is inexact.
settings.register_profile("lean", settings.get_profile("marey"), max_examples=5)

# Before test modules take functions from there.
remember_references()

FORCED_ISA = os.environ.get("MAREY_ISA")
AVX512 = [isa for isa in config.available_isas() if isa.startswith("avx512")]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run what uses the fixture `isa` under each instruction set, or under MAREY_ISA only."""
    if "isa" not in metafunc.fixturenames:
        return
    isas = [FORCED_ISA] if FORCED_ISA else config.available_isas()
    if metafunc.definition.get_closest_marker("no_bf16"):
        # The copy that runs is that of the first of these there is.
        isas = [isa for isa in isas if isa not in AVX512[1:] or isa == FORCED_ISA]
    metafunc.parametrize("isa", isas, indirect=True)


@pytest.fixture
def tiles() -> Iterator[None]:
    """Run with the tiles of AMX, and leave what was active before."""
    if "avx512_amx" not in config.available_isas():
        pytest.skip("this processor has no AMX")
    previous = _cpu.active_isa()
    _cpu.set_isa("avx512_amx")
    yield
    _cpu.set_isa(previous)


@pytest.fixture
def isa(request: pytest.FixtureRequest) -> Iterator[str]:
    """The instruction set that the test runs under."""
    previous = _cpu.active_isa()
    _cpu.set_isa(request.param)
    yield request.param
    _cpu.set_isa(previous)


@pytest.fixture
def rng(request: pytest.FixtureRequest) -> np.random.Generator:
    """Random numbers that depend on the test's name only.

    Not on which tests ran before it, nor on the instruction set.
    """
    return np.random.default_rng(zlib.crc32(_without_isa(request.node).encode()))


@pytest.fixture(
    params=[
        name if name.startswith("on_cpu") else pytest.param(name, marks=pytest.mark.cuda)
        for name in cuda_devices.DEVICES
    ]
)
def cuda(request: pytest.FixtureRequest) -> Iterator[cuda_devices.Device]:
    """The devices of the CUDA kernels: the CPU in their place, and a real one by each library."""
    with cuda_devices.opened(request.param) as device:
        yield device


@pytest.fixture(scope="session")
def data() -> Path:
    """The folder of real clips: MAREY_DATA, or shared/data beside the repository."""
    named = os.environ.get("MAREY_DATA")
    folder = Path(named) if named else Path(__file__).parents[2] / "shared" / "data"
    if not folder.is_dir():
        pytest.skip(f"no real clips: {folder} does not exist (set MAREY_DATA to their folder)")
    return folder


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Mark the tests that run under every instruction set by themselves; none runs twice.

    They stand side by side for all sets, whose reference is the same (`remembered`).
    """
    kept: list[pytest.Item] = []
    twice: list[pytest.Item] = []
    for item in items:
        if "isa" in getattr(item, "fixturenames", ()):
            item.add_marker("every_isa")
        (twice if _is_that_of_a_lesser_set(item) else kept).append(item)
    if not FORCED_ISA:
        config.hook.pytest_deselected(items=twice)
        places: dict[str, int] = {}
        items[:] = sorted(kept, key=lambda item: places.setdefault(_without_isa(item), len(places)))


def _parameters(item: pytest.Item) -> dict[str, Any]:
    return item.callspec.params if hasattr(item, "callspec") else {}


def _without_isa(item: pytest.Item) -> str:
    """The name of the test that it is under any instruction set."""
    return item.nodeid.replace(_parameters(item).get("isa", "\0"), "")


def _is_that_of_a_lesser_set(item: pytest.Item) -> bool:
    """Whether its kernels are those of the first AVX-512 set: others differ in bfloat16 only."""
    parameters = _parameters(item)
    others = parameters.get("isa") in AVX512[1:]
    return others and parameters.get("dtype") in (np.float32, np.float64)


def pytest_configure(config: pytest.Config) -> None:
    """Declare the marks of SciPy's test module, which test_scipy_conformance imports."""
    for mark in (
        "array_api_backends",
        "fail_slow",
        "iterations_limit",
        "parallel_threads_limit",
        "skip_xp_backends",
        "slow",
        "thread_unsafe",
        "uses_xp_capabilities",
        "xfail_on_32bit",
        "xfail_xp_backends",
        "xslow",
    ):
        config.addinivalue_line("markers", f"{mark}: SciPy's")
