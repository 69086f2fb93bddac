"""The stand-in for a device finds faults; index arithmetic of the CUDA kernels."""

from collections.abc import Iterator
from typing import Any

import host_cupy
import numpy as np
import pytest
from marey.reference import temporal as reference


@pytest.fixture
def module() -> Iterator[Any]:
    loaded = host_cupy.load_module()
    if loaded is None:
        pytest.skip("MAREY_CUDA_ON_CPU is not set to the path of the module _cuda_on_cpu")
    yield loaded
    loaded.set_order("forward")
    loaded.set_multiprocessors()


class TestFaultsAreFound:
    def test_a_race_depends_on_the_order_of_threads(self, module: Any) -> None:
        results = []
        for order in ("forward", "backward", "shuffled"):
            module.set_order(order)
            results.append(module.run_fault("race"))
        assert not np.array_equal(results[0], results[1], equal_nan=True)
        assert not np.array_equal(results[0], results[2], equal_nan=True)

    def test_a_read_of_what_nobody_wrote_is_nan(self, module: Any) -> None:
        assert np.isnan(module.run_fault("race")[0])

    def test_a_barrier_that_some_threads_never_reach(self, module: Any) -> None:
        with pytest.raises(RuntimeError, match="deadlock: 64 threads wait"):
            module.run_fault("deadlock")

    def test_a_grid_of_which_some_blocks_never_wait(self, module: Any) -> None:
        with pytest.raises(RuntimeError, match="deadlock: 256 threads wait"):
            module.run_fault("grid deadlock")

    def test_blocks_that_wait_for_each_other(self, module: Any) -> None:
        for order in ("forward", "backward", "shuffled"):
            module.set_order(order)
            assert module.run_fault("grid barrier")[:4] == [1, 2, 3, 0]

    def test_a_copy_that_is_read_before_its_block_has_waited_for_it(self, module: Any) -> None:
        assert np.isnan(module.run_fault("early read")[:4]).all()

    def test_a_grid_that_is_too_large_to_run_at_once(self, module: Any) -> None:
        module.set_multiprocessors(3)
        refused = module.refused_grids()
        with pytest.raises(RuntimeError, match="the grid is too large to run at once"):
            module.run_fault("grid barrier")
        assert module.refused_grids() == refused + 1

    def test_a_write_behind_shared_memory(self, module: Any) -> None:
        with pytest.raises(RuntimeError, match="a write behind shared memory"):
            module.run_fault("write behind")

    def test_a_misaligned_access(self, module: Any) -> None:
        with pytest.raises(RuntimeError, match="a misaligned access"):
            module.run_fault("misaligned")

    def test_a_barrier_waited_for_with_the_wrong_parity(self, module: Any) -> None:
        assert np.isnan(module.run_fault("wrong parity")).all()

    def test_a_buffer_handed_back_before_its_product_is_done(self, module: Any) -> None:
        # The product of rows of ones is 16; the overwritten item shows in the first sum.
        assert module.run_fault("early release")[0] > 1000


class TestDivisor:
    @pytest.mark.parametrize("divisor", [1, 2, 3, 7, 64, 641, 2**31 - 1, 2**31, 2**40 + 1, 2**62])
    def test_any_dividend(self, module: Any, divisor: int) -> None:
        rng = np.random.default_rng(0)
        numbers = [0, 1, divisor - 1, divisor, divisor + 1, 2**63 - 1, 2**63 - 2]
        numbers += [int(n) for n in rng.integers(0, 2**63 - 1, 1000)]
        numbers += [k * divisor + d for k in (1, 2, 1000) for d in (-1, 0, 1)]
        for n in numbers:
            if 0 <= n < 2**63:
                assert module.quotient(n, divisor) == n // divisor


class TestWindowStep:
    @pytest.mark.parametrize("mode", ["reflect", "nearest", "mirror", "wrap", "constant"])
    @pytest.mark.parametrize("n", [1, 2, 3, 7])
    def test_it_is_the_reference(self, module: Any, n: int, mode: str) -> None:
        for i in range(-5 * n, 6 * n):
            assert module.window_step(i, n, mode) == reference._source_step(i, n, mode)
