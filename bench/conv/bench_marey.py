"""marey against itself: a batch against clip by clip, a stream against the whole clip."""

from collections.abc import Callable

import marey
import pytest

from bench.conv.workloads import LAYOUTS, WORKLOADS, causal, forward
from bench.harness import OWN, Peer, Workload

ONE_BY_ONE = Peer(
    name=f"{OWN}, clip by clip",
    version=marey.__version__,
    programs={f"batch {layout} float32": forward(layout, at_once=1) for layout in LAYOUTS},
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
