"""marey against itself: a batch against clip by clip, a stream against the whole clip."""

from collections.abc import Callable
from typing import Any

import marey
import numpy as np
import pytest

from bench.conv.workloads import LAYOUTS, WORKLOADS, Layer, causal, forward
from bench.harness import OWN, Peer, Program, Workload


def clip_by_clip(layout: str) -> Callable[..., Program]:
    def program(layer: Layer, x: Any, weight: Any) -> Program:
        clips = [forward(layout)(layer, x[i : i + 1], weight) for i in range(len(x))]

        def call() -> None:
            for clip in clips:
                clip.call()

        return Program(call, result=lambda: np.concatenate([clip.compared() for clip in clips]))

    return program


ONE_BY_ONE = Peer(
    name=f"{OWN}, clip by clip",
    version=marey.__version__,
    programs={f"batch {layout} float32": clip_by_clip(layout) for layout in LAYOUTS},
)
WHOLE = Peer(
    name=f"{OWN}, whole clip",
    version=marey.__version__,
    programs={
        f"causal frame by frame {layout}": causal(layout, frame_by_frame=False)
        for layout in LAYOUTS
    },
)


@pytest.mark.parametrize("workload", ONE_BY_ONE.among(WORKLOADS), ids=str)
def bench_clip_by_clip(race: Callable[..., None], workload: Workload) -> None:
    race(workload, ONE_BY_ONE)


@pytest.mark.parametrize("workload", WHOLE.among(WORKLOADS), ids=str)
def bench_whole_clip(race: Callable[..., None], workload: Workload) -> None:
    race(workload, WHOLE)
