"""Threads, forks and Ctrl-C."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from marey import Magnifier, _cpu, config, magnify, pyramid, temporal
from numpy.lib.stride_tricks import as_strided
from numpy.typing import NDArray

SOS = temporal.butter_bandpass(0.5, 3, 30)


class TestFork:
    """libgomp's threads do not survive a fork: a child that waited for them would hang."""

    SCRIPT = """
import os, sys, warnings
import numpy as np
import marey
from marey import config, pyramid, temporal

warnings.simplefilter("ignore", DeprecationWarning)  # Python's own, of forking with threads
config.set_num_threads(2)
video = np.random.default_rng(0).random((40, 200, 300, 3), dtype=np.float32)
sos = temporal.butter_bandpass(0.5, 3, 30)

def work():
    return (
        pyramid.down(video),
        temporal.sosfilt(sos, video),
        marey.magnify(video, 30, 0.5, 3, 5),
    )

expected = work()
child = os.fork()
if child == 0:
    same = all(np.array_equal(a, b) for a, b in zip(work(), expected))
    if "again" in sys.argv:
        grandchild = os.fork()
        if grandchild == 0:
            os._exit(0 if np.array_equal(work()[0], expected[0]) else 1)
        same = same and os.waitpid(grandchild, 0)[1] == 0
    os._exit(0 if same else 1)
status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
after = all(np.array_equal(a, b) for a, b in zip(work(), expected))
print(status, after)
"""

    @pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
    @pytest.mark.parametrize("again", [[], ["again"]], ids=["child", "grandchild"])
    def test_kernels_run_in_a_forked_child_and_on_in_its_parent(self, again: list[str]) -> None:
        command = [sys.executable, "-c", self.SCRIPT, *again]
        run = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        assert run.stdout.split() == ["0", "True"], run.stderr


class TestPythonThreads:
    def test_calls_from_several_threads_at_once_are_right(self, rng: np.random.Generator) -> None:
        videos = [rng.random((12, 97, 113, 3), dtype=np.float32) for _ in range(8)]

        def work(video: NDArray[Any]) -> list[NDArray[Any]]:
            return [
                pyramid.down(video),
                *pyramid.laplacian(video, 3),
                temporal.sosfilt(SOS, video),
                magnify(video, 30, 0.5, 3, 5),
            ]

        expected = [work(video) for video in videos]
        with ThreadPoolExecutor(len(videos)) as pool:
            for _ in range(5):
                for results, alone in zip(pool.map(work, videos), expected, strict=True):
                    for result, right in zip(results, alone, strict=True):
                        np.testing.assert_array_equal(result, right)

    def test_threads_may_each_ask_for_their_own_number_of_threads(
        self, rng: np.random.Generator
    ) -> None:
        image = rng.random((301, 402, 3), dtype=np.float32)
        expected = pyramid.down(image)

        def work(count: int) -> bool:
            with config.threads(count):
                return np.array_equal(pyramid.down(image), expected) and (
                    config.get_num_threads() == count
                )

        with ThreadPoolExecutor(4) as pool:
            assert all(pool.map(work, [1, 2, 3, 4] * 5))

    def test_other_threads_run_during_a_call(self) -> None:
        """A counter in Python advances while a kernel runs: the GIL is released."""
        x, out = endless((3000, 1_000_000), np.float32), endless((3000, 1_000_000), np.float32)
        with ThreadPoolExecutor(1) as pool:
            call = pool.submit(temporal.sosfilt, SOS, x, 0, None, out)
            steps = 0
            while not call.done():
                steps += 1
                time.sleep(0.001)
            call.result()
        assert steps > 20


class TestTeams:
    """Threads that go through many short steps together, with a barrier after each."""

    @pytest.mark.parametrize("threads", [1, 2, 3, 7])
    def test_see_at_every_pass_what_all_wrote_before_it(self, threads: int) -> None:
        passes = 20_000 // threads**2
        with config.threads(threads):
            assert _cpu.probe_team(threads, passes) == (threads, passes, 0)

    @pytest.mark.parametrize("threads", [2, 5])
    def test_wait_asleep_for_one_that_is_late(self, threads: int) -> None:
        with config.threads(threads):
            began = time.process_time()
            assert _cpu.probe_team(threads, 200, 2) == (threads, 200, 0)
            awake = time.process_time() - began
        # Each waits for a hundred milliseconds or so, and spins for 40 us of each of them.
        assert awake < 0.05 * (threads - 1)

    def test_are_no_larger_than_threads_are_allowed(self) -> None:
        with config.threads(2):
            assert _cpu.probe_team(64, 10)[0] <= 2
            assert _cpu.probe_team(0, 10) == (1, 10, 0)

    @pytest.mark.parametrize("threads", [1, 3])
    def test_stop_together_when_interrupted_and_can_be_called_again(self, threads: int) -> None:
        with config.threads(threads):
            with alarm(0.2), pytest.raises(TimeoutError):
                _cpu.probe_team(threads, 1 << 60)
            assert _cpu.probe_team(threads, 10) == (threads, 10, 0)


@contextmanager
def alarm(seconds: float) -> Iterator[None]:
    """Raise TimeoutError from a signal handler after some seconds of the block."""

    def ring(*_: object) -> None:
        raise TimeoutError

    previous = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous)


def endless(shape: tuple[int, ...], dtype: type) -> NDArray[Any]:
    """Return an array whose first axis is one and the same memory again and again.

    As an input it is a long still; as an `out` it is written over and over, always with the same
    zeros: minutes of work in little memory.
    """
    once = np.zeros(shape[1:], dtype)
    return as_strided(once, shape, (0, *once.strides))


def long_down() -> None:
    pyramid.down(
        endless((200_000, 540, 960, 3), np.uint8),
        out=endless((200_000, 270, 480, 3), np.uint8),
    )


def long_laplacian() -> None:
    pyramid.laplacian(
        endless((100_000, 540, 960, 3), np.float32),
        1,
        out=[
            endless((100_000, 540, 960, 3), np.float32),
            endless((100_000, 270, 480, 3), np.float32),
        ],
    )


def long_sosfilt() -> None:
    shape = (20_000, 5_000_000)
    temporal.sosfilt(SOS, endless(shape, np.float32), out=endless(shape, np.float32))


def long_magnify() -> None:
    shape = (40_000, 270, 480, 3)
    Magnifier(shape[1:], 30, 0.5, 3, 5).feed(endless(shape, np.uint8), out=endless(shape, np.uint8))


LONG: list[Callable[[], None]] = [long_down, long_laplacian, long_sosfilt, long_magnify]


class TestInterruption:
    @pytest.mark.parametrize("work", LONG, ids=lambda work: work.__name__)
    def test_ctrl_c_ends_a_long_call(self, work: Callable[[], None]) -> None:
        # A process that was started in the background ignores SIGINT: hence the handler.
        script = f"""
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)
sys.path.insert(0, {str(Path(__file__).parent)!r})
from test_parallel import {work.__name__}
print("started", flush=True)
{work.__name__}()
print("finished", flush=True)
"""
        with subprocess.Popen(
            [sys.executable, "-c", script],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        ) as process:
            try:
                assert process.stdout is not None
                assert process.stdout.readline() == "started\n"
                time.sleep(0.5)
                assert process.poll() is None, "the call was meant to be long"
                process.send_signal(signal.SIGINT)
                pressed = time.monotonic()
                out, err = process.communicate(timeout=30)
                waited = time.monotonic() - pressed
            finally:
                process.kill()
        assert "finished" not in out
        assert err.strip().endswith("KeyboardInterrupt")
        assert process.returncode == -signal.SIGINT
        assert waited < 2

    @pytest.mark.parametrize("work", LONG, ids=lambda work: work.__name__)
    def test_the_exception_of_a_signal_handler_ends_a_long_call(
        self, work: Callable[[], None]
    ) -> None:
        with alarm(0.2), pytest.raises(TimeoutError):
            work()

    def test_an_interrupted_magnifier_goes_on_where_it_was(self, rng: np.random.Generator) -> None:
        video = rng.integers(0, 256, (20, 270, 480, 3), dtype=np.uint8)
        whole = magnify(video, 30, 0.5, 3, 5)
        magnifier = Magnifier(video.shape[1:], 30, 0.5, 3, 5)
        magnifier.feed(video[:10])
        long = (40_000, *video.shape[1:])
        with alarm(0.2), pytest.raises(TimeoutError):
            magnifier.feed(endless(long, np.uint8), out=endless(long, np.uint8))
        np.testing.assert_array_equal(magnifier.feed(video[10:]), whole[10:])

    def test_calls_from_other_threads_are_not_interrupted(self) -> None:
        """Python runs signal handlers in the main thread only."""
        x, out = endless((3000, 1_000_000), np.float32), endless((3000, 1_000_000), np.float32)
        with ThreadPoolExecutor(1) as pool:
            call = pool.submit(temporal.sosfilt, SOS, x, 0, None, out)
            with alarm(0.1), pytest.raises(TimeoutError):
                call.result()
            assert call.result() is out
