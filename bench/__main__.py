"""Run benchmarks and save their results: ``python -m bench [family ...]``."""

import argparse
import os
import re
import subprocess
import sys
from pathlib import Path

import cpuinfo  # type: ignore[import-untyped]

from bench.data import COMPARED_ONLY

HERE = Path(__file__).parent
FAMILIES = sorted(path.parent.name for path in HERE.glob("*/workloads.py"))
NO_PEER = 5  # pytest: no test was collected, because no peer is installed
COLUMNS = "--benchmark-columns=median,iqr,rounds,iterations"


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m bench",
        description="Race marey against its peers, print the times and save them in bench/results.",
        epilog="What follows -- goes to pytest (-- -k float32), and nothing is saved: part of a run"
        " must not replace a whole one.",
    )
    parser.add_argument("family", nargs="*", help=f"of {', '.join(FAMILIES)} (default: all)")
    parser.add_argument(
        "--threads", type=int, help="of marey and of the peers (default: every core)"
    )
    parser.add_argument(
        "--compare",
        action="store_true",
        help="compare results only, of smaller frames where peers are slow: nothing is timed",
    )
    parser.add_argument("--machine", help="folder in bench/results (default: the processor's name)")
    ours, _, for_pytest = _split(sys.argv[1:], "--")
    arguments = parser.parse_args(ours)
    if unknown := set(arguments.family) - set(FAMILIES):
        parser.error(f"no family {', '.join(sorted(unknown))}; there are {', '.join(FAMILIES)}")

    options = [COLUMNS, *for_pytest]
    if arguments.threads:
        options.append(f"--threads={arguments.threads}")
    environment = {name: value for name, value in os.environ.items() if name != COMPARED_ONLY}
    if arguments.compare:
        options.append("--benchmark-disable")
        environment[COMPARED_ONLY] = "1"
    folder = HERE / "results" / (arguments.machine or _machine(arguments.threads))

    # A process for each family: none meets the threads and memory that another's peers left. Where
    # nothing is timed, one for all.
    families = arguments.family or FAMILIES
    failed = False
    for together in [families] if arguments.compare else [[family] for family in families]:
        save = []
        if not for_pytest and not arguments.compare:
            folder.mkdir(parents=True, exist_ok=True)
            save = [f"--benchmark-json={folder / together[0]}.json"]
        folders = [str(HERE / family) for family in together]
        command = [sys.executable, "-m", "pytest", *folders, *options, *save]
        failed |= subprocess.call(command, cwd=HERE.parent, env=environment) not in (0, NO_PEER)
    return int(failed)


def _split(arguments: list[str], separator: str) -> tuple[list[str], list[str], list[str]]:
    """As str.partition, for a list."""
    at = arguments.index(separator) if separator in arguments else len(arguments)
    return arguments[:at], arguments[at : at + 1], arguments[at + 1 :]


def _machine(threads: int | None) -> str:
    """The processor as a file name, with the family and model that virtual machines hide."""
    info = cpuinfo.get_cpu_info()
    parts = [
        info["brand_raw"],
        *(f"{key}-{info[key]}" for key in ("family", "model") if key in info),
    ]
    if threads:
        parts.append(f"{threads}-threads")
    return re.sub(r"[^a-z0-9]+", "-", " ".join(parts).lower()).strip("-")


if __name__ == "__main__":
    sys.exit(main())
