"""marey against itself: a ragged batch against the full one, whose real steps are its share."""

from collections.abc import Callable

import marey
import pytest

from bench.harness import OWN, Peer, Workload
from bench.recurrent.workloads import WORKLOADS, ragged_as_whole

WHOLE = Peer(
    name=f"{OWN}, all steps",
    version=marey.__version__,
    programs={"ragged": ragged_as_whole},
)


@pytest.mark.parametrize("workload", WHOLE.among(WORKLOADS), ids=str)
def bench_all_steps(race: Callable[..., None], workload: Workload) -> None:
    race(workload, WHOLE)
