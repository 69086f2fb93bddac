"""Check what nvcc made of the CUDA kernels against bench/ptx_budget.json.

For each kernel: its registers and shared memory may not grow, instructions that it exists for (the
tensor cores', the copy engine's, 16-byte accesses) may not become fewer, and there may be no access
to local memory, which would be a spilled register. With a build's log, ptxas' messages C75xx (a
register budget ignored, matrix products put one after the other, for one reason or another) are
failures too. All this says nothing of races or speed.

Usage: ``python tools/check_cuda_build.py BUILD_FOLDER [--log FILE] [--write]``; needs cuobjdump and
nvdisasm (PyPI: nvidia-cuda-cuobjdump, nvidia-cuda-nvdisasm), and c++filt.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from itertools import product
from pathlib import Path

BUDGET = Path(__file__).parents[1] / "bench" / "ptx_budget.json"
ARCHITECTURES = ("sm_90", "sm_90a")
COUNTED = {
    "HGMMA": r"\bHGMMA",
    "HMMA": r"\bHMMA",
    "UTMALDG": r"\bUTMALDG",
    "LDG.128": r"\bLDG\.E[.A-Z0-9]*\.128",
    "STG.128": r"\bSTG\.E[.A-Z0-9]*\.128",
    "LDL": r"\bLDL\b",
    "STL": r"\bSTL\b",
}
FORBIDDEN = ("LDL", "STL")


def tool(name: str) -> str:
    """Return the path of one of CUDA's tools."""
    if found := shutil.which(name):
        return found
    for folder in map(Path, sys.path):
        for path in folder.glob(f"nvidia/*/bin/{name}"):
            path.chmod(0o755)
            os.environ["PATH"] += os.pathsep + str(path.parent)
            return str(path)
    raise SystemExit(
        f"{name} was not found: pip install nvidia-cuda-cuobjdump nvidia-cuda-nvdisasm"
    )


def run(*command: str, text: str | None = None) -> str:
    """Return what a program prints."""
    return subprocess.run(command, check=True, capture_output=True, text=True, input=text).stdout


def readable(names: list[str]) -> dict[str, str]:
    """Return kernels' names without namespaces and arguments."""
    lines = run("c++filt", text="\n".join(names)).splitlines()
    short = {}
    for name, line in zip(names, lines, strict=True):
        line = re.sub(r"\(anonymous namespace\)::|marey::cuda::|marey::", "", line)
        depth = 0
        for at, character in enumerate(line):
            depth += (character == "<") - (character == ">")
            if character == "(" and depth == 0 and at > 0:
                line = line[:at]
                break
        short[name] = line.removeprefix("void ").strip()
    return short


def measured(folder: Path) -> dict[str, dict[str, int]]:
    """Return registers, shared memory and instruction counts of every kernel."""
    tool("cuobjdump")
    tool("nvdisasm")
    objects = sorted(folder.rglob("*.cu.o"))
    kernels: dict[str, dict[str, int]] = {}
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for found in pool.map(kernels_of, *zip(*product(objects, ARCHITECTURES), strict=True)):
            kernels.update(found)
    return dict(sorted(kernels.items()))


def kernels_of(objects: Path, architecture: str) -> dict[str, dict[str, int]]:
    """Return the same of one file for one architecture."""
    usage = run("cuobjdump", "-res-usage", "-arch", architecture, str(objects))
    found = re.findall(r"Function (\S+):\s+REG:(\d+) STACK:(\d+) SHARED:(\d+)", usage)
    # Asked for sm_90 it lists sm_90a, and the other way round.
    if f"arch = {architecture}\n" not in usage or not found:
        return {}
    kernels = {}
    names = readable([name for name, *_ in found])
    sass = run("cuobjdump", "-sass", "-arch", architecture, str(objects))
    parts = re.split(r"Function : (\S+)", sass)
    bodies = dict(zip(parts[1::2], parts[2::2], strict=True))
    for name, registers, stack, shared in found:
        counts = {kind: len(re.findall(p, bodies[name])) for kind, p in COUNTED.items()}
        kernels[f"{names[name]} {architecture}"] = {
            "registers": int(registers),
            "stack": int(stack),
            "shared": int(shared),
            **{kind: count for kind, count in counts.items() if count},
        }
    return kernels


def complaints(kernels: dict[str, dict[str, int]], budget: dict[str, dict[str, int]]) -> list[str]:
    """Return what is worse than the budget."""
    found = []
    for name in sorted(kernels.keys() | budget.keys()):
        if name not in budget or name not in kernels:
            where = "the budget (--write)" if name not in budget else "the build"
            found.append(f"{name}: not in {where}")
            continue
        now, then = kernels[name], budget[name]
        for kind in ("registers", "stack", "shared"):
            if now[kind] > then[kind]:
                found.append(f"{name}: {kind} {now[kind]}, at most {then[kind]}")
        for kind in COUNTED:
            count = now.get(kind, 0)
            if kind in FORBIDDEN and count:
                found.append(f"{name}: {count} {kind}, none allowed")
            elif kind not in FORBIDDEN and count < then.get(kind, 0):
                found.append(f"{name}: {count} {kind}, at least {then[kind]}")
    return found


def main() -> int:
    """Check, or write the budget anew."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--log", type=Path)
    parser.add_argument("--write", action="store_true")
    arguments = parser.parse_args()
    kernels = measured(arguments.folder)
    if not kernels:
        raise SystemExit(f"no CUDA objects below {arguments.folder}")
    if arguments.write:
        BUDGET.write_text(json.dumps(kernels, indent=1) + "\n")
    found = complaints(kernels, json.loads(BUDGET.read_text()))
    if arguments.log:
        found += re.findall(r".*\bC75\d\d\b.*", arguments.log.read_text())
    print(*found, sep="\n")
    print(f"{len(kernels)} kernels, {len(found)} complaints")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
