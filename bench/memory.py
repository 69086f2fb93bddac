"""The peak memory of a program, run in a fresh interpreter."""

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

# VmHWM is the peak of this very process; ru_maxrss would start at what the parent had at the fork.
CHILD = """
import importlib, sys
def peak():
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("VmHWM"))
bare = peak()
module, function = sys.argv[1].split(":")
program = getattr(importlib.import_module(module), function)
imported = peak()
program(*map(int, sys.argv[2:]))
print(bare, imported, peak())
"""


@dataclass(frozen=True)
class Peak:
    """Megabytes above those of an interpreter that has imported nothing."""

    megabytes: float  # of the whole run
    imports: float  # of the imports alone


def measure(function: str, *arguments: int) -> Peak:
    """Call "module:function" with these arguments and see what it took."""
    if sys.platform != "linux":
        pytest.skip("the peak of a process is read from Linux's /proc")
    command = [sys.executable, "-c", CHILD, function, *map(str, arguments)]
    root = Path(__file__).parents[1]
    run = subprocess.run(command, cwd=root, stdout=subprocess.PIPE, text=True, check=True)
    bare, imported, peak = (int(kib) * 1024 / 1e6 for kib in run.stdout.split())
    return Peak(megabytes=peak - bare, imports=imported - bare)
