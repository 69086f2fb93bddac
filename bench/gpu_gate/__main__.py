"""Everything that can be learned of the CUDA kernels in one call on a machine with a GPU.

``python -m bench.gpu_gate`` builds, checks, sanitizes and times; under ten minutes, from a bare
checkout, with nvcc, CMake, pybind11, torch and CuPy installed and nothing to download. The JSON
file (``--out``) is written anew after each stage, so that a call that was cut off leaves what it
had. A stage that fails says why, and the next one runs all the same; stages that the time does not
reach say so. ``--dry-run`` runs the same code on small arrays on the CPU (MAREY_CUDA_ON_CPU is the
path of the module _cuda_on_cpu); it times nothing worth knowing.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
import traceback
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.gpu_gate.libraries import ROOT, open_libraries
from bench.gpu_gate.stages import (
    REPEATS,
    START,
    benchmarks,
    build,
    ceilings,
    checks,
    environment,
    importable,
    left,
    profiles,
    run_one,
    sanitizers,
    sources,
    tests,
    tiny,
)
from bench.gpu_gate.workloads import large_works, small_works

if TYPE_CHECKING:
    from collections.abc import Callable


def main() -> int:
    """Run all stages, or the part that another program watches."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, help="the JSON file")
    parser.add_argument("--dry-run", action="store_true", help="on the CPU, small")
    parser.add_argument("--no-build", action="store_true", help="take the modules as they are")
    parser.add_argument("--architectures", default="90", help="for CMake")
    parser.add_argument("--tiny", action="store_true", help="run small workloads once")
    parser.add_argument("--one", help="run one large workload twice")
    arguments = parser.parse_args()
    dry = arguments.dry_run
    if dry or arguments.no_build:
        sys.path[:0] = sources()
    else:
        sys.path.insert(0, str(ROOT / "python"))  # where the modules will be
    if arguments.tiny or arguments.one:
        library = open_libraries(dry)[0]
        tiny(library) if arguments.tiny else run_one(library, arguments.one, dry)
        return 0

    out = arguments.out or ROOT / "bench" / "results" / "gpu_gate.json"
    out.parent.mkdir(parents=True, exist_ok=True)
    results: dict[str, Any] = {"dry_run": dry}

    def save(stage: str, result: Any) -> None:
        results[stage] = result
        results["seconds"] = time.monotonic() - START
        part = out.with_suffix(".part")
        part.write_text(json.dumps(results, indent=1, default=str) + "\n")
        part.replace(out)

    failed: list[str] = []

    def stage(name: str, run: Callable[[], Any]) -> Any:
        begin = time.monotonic()
        print(f"=== {name} ({left():.0f} s left)", flush=True)
        try:
            result = run()
        except Exception:
            result = {"failed": traceback.format_exc()}
            failed.append(name)
        save(name, result)
        print(f"    {time.monotonic() - begin:.1f} s", flush=True)
        return result

    if not (dry or arguments.no_build):
        stage("build", lambda: build(arguments.architectures))
    libraries = open_libraries(dry)
    stage("environment", lambda: environment(libraries))
    stage("module", importable)
    first = libraries[0]
    stage("ceilings", lambda: ceilings(first))
    works = small_works(dry)
    for library in libraries:
        checked = stage(f"checks_{library.name}", partial(checks, library, works))
        if checked.get("wrong"):
            failed.append(f"checks_{library.name}: {len(checked['wrong'])} wrong")
            print("    wrong:", *checked["wrong"][:20], sep="\n      ", flush=True)
    large = large_works(dry)
    timed = stage("benchmarks", lambda: benchmarks(first, large, 3 if dry else REPEATS, save))
    if not dry:
        ended = stage("tests", tests)
        if ended.get("status") != 0:
            failed.append("tests")
        for tool, ended in stage("sanitizers", sanitizers).items():
            if isinstance(ended, dict) and ended.get("status") not in (0, None):
                failed.append(f"sanitizer {tool}")
        stage("profiles", lambda: profiles(timed))
    save("failed_stages", failed)
    print(json.dumps({"failed": failed, "out": str(out)}, indent=1), flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
