"""The instruction set that was chosen is the one that runs."""

import os
import platform
import subprocess
import sys

import numpy as np
import pytest
from marey import _cpu, attention, config, conv, recurrent, reference

REPORT = """
from marey import _cpu, config
probe = _cpu.probe()
print(_cpu.active_isa(), probe["isa"], probe["float_lanes"], config.build_config()["isa"],
      ",".join(sorted(set(_cpu.kernels().values()))))
"""


def python(code: str, forced: str | None) -> subprocess.CompletedProcess[str]:
    """Run a new interpreter with MAREY_ISA set, or without it."""
    environment = {key: value for key, value in os.environ.items() if key != "MAREY_ISA"}
    if forced is not None:
        environment["MAREY_ISA"] = forced
    return subprocess.run(
        [sys.executable, "-c", code],
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def versions(isa: str) -> set[str]:
    """Whose versions of the kernels run under an instruction set."""
    if isa == "avx512_amx":
        # Products of bfloat16 take tiles then; those of float32 are chosen for it alone.
        return versions("avx512_bf16") | {isa}
    if isa == "avx512_bf16" and "avx512" in _cpu.compiled_isas():
        return {isa, "avx512"}  # those without products of its pairs serve both
    return {isa}


class TestForcing:
    @pytest.mark.parametrize("forced", config.available_isas())
    def test_the_forced_one_runs_in_every_kernel(self, forced: str) -> None:
        """`probe` is a kernel that tells what its own translation unit was compiled for."""
        run = python(REPORT, forced)
        assert run.returncode == 0, run.stderr
        active, probed, _, reported, kernels = run.stdout.split()
        assert {active, probed, reported} == {forced}
        assert kernels.split(",") == sorted(versions(forced))

    @pytest.mark.parametrize("forced", [None, ""])
    def test_the_best_one_is_the_default(self, forced: str | None) -> None:
        run = python(REPORT, forced)
        assert run.returncode == 0, run.stderr
        assert run.stdout.split()[1] == config.available_isas()[-1]

    @pytest.mark.parametrize("forced", ["sse9", "AVX2", "avx2 ", "best"])
    def test_an_unknown_one_is_an_error_that_lists_the_choices(self, forced: str) -> None:
        run = python(REPORT, forced)
        assert run.returncode != 0
        assert run.stdout == ""
        last = run.stderr.strip().splitlines()[-1]
        assert "MAREY_ISA" in last
        assert f"'{forced}'" in last
        assert all(isa in last for isa in config.available_isas())

    def test_one_that_this_processor_lacks_is_an_error_and_not_a_crash(self) -> None:
        lacking = sorted(set(_cpu.compiled_isas()) - set(config.available_isas()))
        if not lacking:
            pytest.skip("this processor has every instruction set that is compiled in")
        for forced in lacking:
            run = python(REPORT, forced)
            assert run.returncode == 1, "an exception, not an illegal instruction"
            last = run.stderr.strip().splitlines()[-1]
            assert "MAREY_ISA" in last
            assert f"'{forced}'" in last
            assert all(isa in last for isa in config.available_isas())


class TestSwitching:
    """What the fixture `isa` does, on which the other tests rely."""

    def test_the_fixture_chooses_what_runs(self, isa: str) -> None:
        assert _cpu.active_isa() == isa
        assert _cpu.probe()["isa"] == isa
        kernels = _cpu.kernels()
        assert len(kernels) > 5
        assert set(kernels.values()) == versions(isa)
        # What multiplies pairs of bfloat16 is compiled for each.
        copy = "avx512_bf16" if isa == "avx512_amx" else isa
        assert {kernels["probe"], kernels["select_linear"]} == {copy}
        assert kernels["select_attention_rows"] == isa

    def test_the_vectors_are_as_wide_as_the_instruction_set(self, isa: str) -> None:
        bits = {"baseline": 128, "avx2": 256}.get(isa, 512)
        assert _cpu.probe()["float_lanes"] == bits // 32

    def test_the_multiply_add_is_fused_where_the_instruction_set_has_one(self, isa: str) -> None:
        """Measured by its rounding, so no compiler macro can claim it."""
        has_one = isa != "baseline" or platform.machine() in ("aarch64", "arm64")
        assert _cpu.probe()["fused_multiply_add"] == has_one

    def test_an_unknown_name_changes_nothing(self) -> None:
        before = _cpu.active_isa()
        with pytest.raises(ValueError, match=r"sse9"):
            _cpu.set_isa("sse9")
        assert _cpu.active_isa() == before


@pytest.mark.usefixtures("isa")
@pytest.mark.parametrize("real", [np.float32, np.float64])
def test_the_kernels_that_choose_by_type_have_all(real: type, rng: np.random.Generator) -> None:
    """Named otherwise than `dtype`: where a set adds bfloat16 alone, this runs too."""

    def normal(*shape: int) -> np.ndarray:
        return rng.standard_normal(shape).astype(real)

    q, clip, rows = normal(1, 2, 70, 24), normal(1, 5, 3, 9, 11), normal(33, 17)
    filters, weight, gates, states = (
        normal(7, 5, 3, 3, 3),
        normal(9, 17),
        normal(44, 17),
        normal(44, 11),
    )
    for ours, theirs, arguments in [
        (attention.attention, reference.attention.attention, (q, q, q)),
        (attention.linear, reference.attention.linear, (rows, weight)),
        (conv.conv3d, reference.conv.conv3d, (clip, filters)),
        (recurrent.lstm, reference.recurrent.lstm, (rows[None], gates, states)),
    ]:
        found, expected = ours(*arguments), theirs(*arguments)
        found, expected = (y[0] if isinstance(y, tuple) else y for y in (found, expected))
        assert found.dtype == real
        np.testing.assert_allclose(found, expected, atol=100 * np.finfo(real).eps)
