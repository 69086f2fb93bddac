"""What the build is, and how many threads it uses."""

import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import marey
import pytest
from marey import _cpu, config


@pytest.fixture(autouse=True)
def _threads_as_before() -> Iterator[None]:
    yield
    config.set_num_threads(None)


class TestBuildConfig:
    def test_it_says_what_a_bug_report_needs(self) -> None:
        build = config.build_config()
        assert build["version"] == marey.__version__
        for key in ("compiler", "build_type"):
            assert isinstance(build[key], str)
            assert build[key]

    def test_available_instruction_sets_start_with_the_baseline(self) -> None:
        available = config.available_isas()
        assert available[0] == "baseline"
        assert len(set(available)) == len(available)
        assert set(available) <= set(_cpu.compiled_isas())

    def test_what_it_returns_is_a_copy(self) -> None:
        config.build_config().clear()
        config.available_isas().clear()
        assert config.build_config()
        assert config.available_isas()


class TestThreads:
    @pytest.mark.parametrize("count", [1, 2, 3, 64])
    def test_set_and_get(self, count: int) -> None:
        config.set_num_threads(count)
        assert config.get_num_threads() == count

    def test_none_is_the_default_again(self) -> None:
        default = config.get_num_threads()
        assert default >= 1
        config.set_num_threads(default + 1)
        config.set_num_threads(None)
        assert config.get_num_threads() == default

    @pytest.mark.parametrize("count", [0, -1, -100])
    def test_counts_below_one_are_an_error(self, count: int) -> None:
        with pytest.raises(ValueError, match="count: expected 1 to 1024"):
            config.set_num_threads(count)

    @pytest.mark.parametrize("count", [1.5, "2", True])
    def test_counts_that_are_not_whole_are_an_error(self, count: object) -> None:
        with pytest.raises(TypeError, match="count"):
            config.set_num_threads(count)  # type: ignore[arg-type]

    def test_a_context_holds_inside_only(self) -> None:
        before = config.get_num_threads()
        with config.threads(before + 3):
            assert config.get_num_threads() == before + 3
            with config.threads(1):
                assert config.get_num_threads() == 1
            assert config.get_num_threads() == before + 3
        assert config.get_num_threads() == before

    def test_a_context_ends_with_an_error_too(self) -> None:
        before = config.get_num_threads()
        with pytest.raises(KeyError), config.threads(before + 3):
            raise KeyError
        assert config.get_num_threads() == before

    @pytest.mark.parametrize("count", [0, -1])
    def test_a_context_of_no_threads_is_an_error(self, count: int) -> None:
        with pytest.raises(ValueError, match="count: expected 1 to 1024"), config.threads(count):
            pass

    def test_a_context_does_not_reach_other_python_threads(self) -> None:
        before = config.get_num_threads()
        seen = []
        with config.threads(before + 3):
            other = threading.Thread(target=lambda: seen.append(config.get_num_threads()))
            other.start()
            other.join()
        assert seen == [before]

    def test_set_reaches_other_python_threads(self) -> None:
        config.set_num_threads(5)
        seen = []
        other = threading.Thread(target=lambda: seen.append(config.get_num_threads()))
        other.start()
        other.join()
        assert seen == [5]

    @pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="counts threads in /proc")
    @pytest.mark.parametrize("count", [1, 2, 4])
    def test_a_call_starts_as_many_threads_as_said(self, count: int) -> None:
        code = """
import os, sys
import numpy as np
from marey import config, pyramid

def running():
    return len(os.listdir("/proc/self/task"))

image = np.zeros((2000, 2000, 3), np.float32)
config.set_num_threads(int(sys.argv[1]))
before = running()
pyramid.down(image)
print(running() - before)
"""
        command = [sys.executable, "-c", code, str(count)]
        run = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
        assert int(run.stdout) == count - 1
