"""marey's own memory: bounded, and the same however long the video is."""

from collections.abc import Callable

from bench import memory
from bench.magnification.workloads import FRAMES

BOUND = 250  # MB above the interpreter's
NOISE = 10  # MB from run to run


def bench_memory_is_constant(record_memory: Callable[[str, int, memory.Peak], None]) -> None:
    program = "bench.magnification.workloads:consume_synthetic"
    short, long = (memory.measure(program, frames) for frames in (FRAMES, 10 * FRAMES))
    record_memory("marey", FRAMES, short)
    record_memory("marey", 10 * FRAMES, long)
    assert long.megabytes < BOUND
    # Not their distance: a long run may well keep less of what the allocator holds back.
    assert long.megabytes - short.megabytes < NOISE
