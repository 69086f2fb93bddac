"""What pytest gives to every benchmark, and what it saves beside the rows."""

import os
import platform
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from typing import Any

import cpuinfo  # type: ignore[import-untyped]
import marey
import numpy as np
import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from bench import harness, limits, memory
from bench.limits import Limits
from bench.memory import Peak

LIMITS = pytest.StashKey[Limits]()
MEMORY = pytest.StashKey[list[dict[str, Any]]]()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--threads",
        type=int,
        default=len(os.sched_getaffinity(0)),
        help="threads of marey and of the peers (default: every core)",
    )


def pytest_configure(config: pytest.Config) -> None:
    config.stash[MEMORY] = []


@pytest.fixture(scope="session")
def _limits(pytestconfig: pytest.Config) -> None:
    """Measures the machine's limits before the first race; they are measured again at the end."""
    if not pytestconfig.getoption("benchmark_disable"):
        pytestconfig.stash[LIMITS] = limits.measure(pytestconfig.getoption("--threads"))


@pytest.fixture
def race(
    benchmark: BenchmarkFixture,
    request: pytest.FixtureRequest,
    _limits: None,
) -> Callable[..., None]:
    """``race(workload, peer)`` compares and times the two."""
    threads = request.config.getoption("--threads")
    races = request.session.testscollected
    return partial(harness.race, benchmark, threads=threads, races=races)


@pytest.fixture
def record_memory(pytestconfig: pytest.Config) -> Callable[[str, int, Peak], None]:
    """``record_memory(program, frames, peak)`` saves a row of the memory table."""

    def record(program: str, frames: int, peak: Peak) -> None:
        row = {"program": program, "frames": frames, **asdict(peak)}
        pytestconfig.stash[MEMORY].append(row)

    return record


@pytest.fixture
def record_peer_memory(
    record_memory: Callable[[str, int, Peak], None], pytestconfig: pytest.Config
) -> Callable[[str, str, int], None]:
    """``record_peer_memory(peer, "module:function", frames)`` measures, and saves the same row."""
    if pytestconfig.getoption("benchmark_disable"):
        pytest.skip("what a peer takes is a figure to report, and has no result to compare")
    return lambda peer, function, frames: record_memory(
        peer, frames, memory.measure(function, frames)
    )


def pytest_benchmark_generate_machine_info(config: pytest.Config) -> dict[str, Any]:
    return {
        "processor": cpuinfo.get_cpu_info()["brand_raw"],
        "cores": os.cpu_count(),
        "threads": config.getoption("--threads"),
        "system": platform.system(),
        "python": platform.python_version(),
        "numpy": np.__version__,
        "marey": marey.__version__,
        "build": marey.config.build_config(),
    }


def pytest_benchmark_update_commit_info(commit_info: dict[str, Any]) -> None:
    for key in commit_info.keys() - {"id", "time", "dirty"}:
        del commit_info[key]


def pytest_benchmark_update_json(config: pytest.Config, output_json: dict[str, Any]) -> None:
    after = limits.measure(config.getoption("--threads"))
    output_json["limits"] = asdict(config.stash.get(LIMITS, after).or_more(after))
    output_json["memory"] = config.stash[MEMORY]
