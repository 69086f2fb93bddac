"""A race: marey and a peer do one piece of work by turns, in one process, on the same threads.

Their results are compared first. Then rounds follow, until a budget of seconds is spent; in each,
first the peer and then marey
1. rests, because idle threads of OpenMP, onnxruntime and OpenVINO spin for a while after a call and
   would steal the cores from whoever runs next;
2. warms up, unless a call is so long that it has warmed up before it has well begun;
3. is timed over a block of calls.
A round gives one ratio of two times taken within a fraction of a second, so that what drifts on
the machine moves both; the median of the ratios is the result and their quartiles are its spread.
Rounds in which other programs took the processor are left out, if enough others remain.
"""

import gc
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import marey
import numpy as np

from bench.disturbance import DISTURBED, Disturbance, wait_until_quiet

PAUSE = 0.05  # seconds of rest before a block
WARM_UP = 0.02  # seconds of calls before a block
BLOCK = 0.05  # seconds of calls that are timed together
CALIBRATION = 0.2  # seconds of calls, to find out how many make a block
LONG = 0.2  # seconds of a call that needs no warm-up
BUDGET = 2.0  # seconds the rounds of a race should take
FAMILY_BUDGET = 110.0  # and those of a family's races together
ROUNDS = (3, 25)  # at least, at most
# A peer's call that takes so many times marey's, and so many seconds, is timed once.
FAR_BEHIND, FAR_BEHIND_SECONDS = 10.0, 1.0
OWN = "marey"  # begins the name of a peer that is another program of ours
COMPARED_AT_ONCE = 1 << 24  # elements, so that comparing long videos needs little memory

Unit = Literal["GB/s", "GFLOP/s", "GFLOP/s bfloat16", "frames/s"]


@dataclass(frozen=True)
class Program:
    """One way to do the work.

    Attributes
    ----------
    call : callable
        Does the work once and returns what it made.
    reset : callable
        Puts right what calls have changed; run before each block, untimed.
    result : callable, optional
        Does the work once and keeps what a stream's `call` lets go of, to be compared.
    """

    call: Callable[[], Any]
    reset: Callable[[], None] = lambda: None
    result: Callable[[], Any] | None = None

    def compared(self) -> Any:
        """What the work makes, for comparing."""
        return (self.result or self.call)()


@dataclass(frozen=True)
class Workload:
    """A piece of work, given alike to marey and to every peer.

    Attributes
    ----------
    name : str
        Its row in the report.
    operation : str
        Which of a peer's programs does it.
    inputs : callable
        Makes the arguments of `ours` and of the peer's program, anew for each race.
    ours : callable
        marey's program for these inputs.
    amount : float
        What one call does: bytes that must be read or written for GB/s, floating-point operations
        for GFLOP/s, frames for frames/s.
    unit : str
        Of the rate that is reported.
    tolerance : float
        The largest absolute difference at which results agree.
    """

    name: str
    operation: str
    inputs: Callable[[], tuple[Any, ...]]
    ours: Callable[..., Program]
    amount: float
    unit: Unit
    tolerance: float

    def __str__(self) -> str:
        return self.name.replace(" ", "-")

    def rate(self, seconds: float) -> float:
        """Per second, in `unit`."""
        return self.amount / seconds / (1e9 if self.unit.startswith("G") else 1)


def _single_threaded(threads: int) -> None:
    """A peer that has no threads has none to set."""


@dataclass(frozen=True)
class Peer:
    """A library to be measured against: its programs by the name of the operation."""

    name: str
    version: str
    programs: Mapping[str, Callable[..., Program]]
    set_threads: Callable[[int], object] = _single_threaded

    def among(self, workloads: Sequence[Workload]) -> list[Workload]:
        """The workloads that this peer can do."""
        return [workload for workload in workloads if workload.operation in self.programs]


class Block:
    """So many calls of a program that they take about BLOCK seconds."""

    def __init__(self, program: Program) -> None:
        self.program = program
        self.call_seconds = seconds = _fastest(program)
        self.calls = max(1, round(BLOCK / seconds))
        self.warm_up_calls = 0 if seconds > LONG else max(1, round(WARM_UP / seconds))
        self.seconds = PAUSE + (self.warm_up_calls + self.calls) * seconds
        # A long call is a turn already: where a peer takes many seconds none must be wasted.
        self._first_turn = seconds if seconds > LONG else None

    def turn(self) -> float:
        """Seconds a call, timed after rest and warm-up."""
        if self._first_turn is not None:
            seconds, self._first_turn = self._first_turn, None
            return seconds
        self.settle()
        return _seconds(self.run) / self.calls

    def settle(self) -> None:
        """Rest and warm up."""
        time.sleep(PAUSE)
        for _ in range(self.warm_up_calls):
            self.program.call()
        self.program.reset()

    def run(self) -> None:
        for _ in range(self.calls):
            self.program.call()


def race(benchmark: Any, workload: Workload, peer: Peer, threads: int, races: int = 1) -> None:
    """Compare the results, then time both programs; `races` is how many share the budget.

    `benchmark` is pytest-benchmark's fixture: marey's times are its own, and the row of the report
    goes to its ``extra_info``. With ``--compare`` nothing is timed.
    """
    marey.config.set_num_threads(threads)
    peer.set_threads(threads)
    inputs = workload.inputs()
    ours, theirs = workload.ours(*inputs), peer.programs[workload.operation](*inputs)

    difference = largest_difference(ours.compared(), theirs.compared())
    if not difference <= workload.tolerance:  # so that NaN fails too
        raise AssertionError(
            f"{workload.name}: marey and {peer.name} differ by {difference:.3g}, "
            f"more than {workload.tolerance:.3g}"
        )
    ours.reset()
    theirs.reset()
    if benchmark.disabled:
        benchmark.pedantic(ours.call)
        return

    rounds = _by_turns(benchmark, ours, theirs, min(BUDGET, FAMILY_BUDGET / races))
    undisturbed = [each for each in rounds if each.disturbance < DISTURBED]
    counted = undisturbed if len(undisturbed) >= ROUNDS[0] else rounds
    seconds = [each.ours for each in counted]
    benchmark.extra_info.update(
        work=workload.name,
        peer=peer.name,
        peer_version=peer.version,
        threads=threads,
        difference=difference,
        rounds=len(rounds),
        rounds_counted=len(counted),
        disturbance=float(np.mean([each.disturbance for each in counted])),
        seconds=_summary(seconds),
        peer_seconds=_summary([each.theirs for each in counted]),
        ratio=_summary([each.theirs / each.ours for each in counted]),
        rate=workload.rate(float(np.median(seconds))),
        unit=workload.unit,
    )


@dataclass(frozen=True)
class Round:
    """Seconds a call, and what other programs took of the processor meanwhile."""

    ours: float
    theirs: float
    disturbance: float


def _by_turns(benchmark: Any, ours: Program, theirs: Program, budget: float) -> list[Round]:
    their_seconds: list[float] = []
    disturbances: list[float] = []

    def before_our_block() -> None:
        nonlocal disturbance
        if their_seconds:
            disturbances.append(disturbance.share())
            disturbance = Disturbance()
        their_seconds.append(their_block.turn())
        our_block.settle()
        # pytest-benchmark divides by it; its own argument for it excludes a setup.
        benchmark.stats.iterations = our_block.calls

    wait_until_quiet()
    with _no_garbage_collection():
        our_block = Block(ours)
        disturbance = Disturbance()
        their_block = Block(theirs)
        rounds = int(np.clip(budget / (our_block.seconds + their_block.seconds), *ROUNDS))
        if their_block.call_seconds > max(FAR_BEHIND_SECONDS, FAR_BEHIND * our_block.call_seconds):
            rounds = 1
        benchmark.pedantic(our_block.run, setup=before_our_block, rounds=rounds)
    disturbances.append(disturbance.share())
    our_seconds = benchmark.stats.stats.data
    return list(map(Round, our_seconds, their_seconds, disturbances))


def largest_difference(a: Any, b: Any) -> float:
    """The largest absolute difference of two arrays, or of two sequences of arrays."""
    if isinstance(a, (list, tuple)):
        return max(largest_difference(x, y) for x, y in zip(a, b, strict=True))
    if a.shape != b.shape or a.dtype != b.dtype:
        raise AssertionError(f"{a.shape} of {a.dtype} beside {b.shape} of {b.dtype}")
    a, b = a.reshape(-1), b.reshape(-1)
    parts = range(0, a.size, COMPARED_AT_ONCE)
    return max(_difference(a[i : i + COMPARED_AT_ONCE], b[i : i + COMPARED_AT_ONCE]) for i in parts)


def _difference(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.max(np.abs(a.astype(np.float64) - b)))


def _seconds(call: Callable[[], Any]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def _fastest(program: Program) -> float:
    """Seconds of a call that little has disturbed."""
    spent = best = _seconds(program.call)
    while spent < CALIBRATION:
        program.reset()
        seconds = _seconds(program.call)
        spent += seconds
        best = min(best, seconds)
    return best


def _summary(values: Any) -> dict[str, float]:
    q1, median, q3 = np.quantile(values, [0.25, 0.5, 0.75])
    return {"median": float(median), "q1": float(q1), "q3": float(q3)}


@contextmanager
def _no_garbage_collection() -> Iterator[None]:
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
