"""Check that no function of one instruction set can stand in for another's.

The linker keeps one copy of an inline function or template that several object files define. If a
kernel file compiled for AVX-512 defined one that other files define too, a lesser processor might
be given the AVX-512 copy. So kernel objects may define weak symbols only in their own namespace.

Usage: ``python tools/check_kernel_symbols.py BUILD_FOLDER``
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

# Data that names no code: the address of the exception handler.
HARMLESS = re.compile(r"DW\.ref\.")


def shared_symbols(objects: Path, isa: str) -> list[str]:
    """Return the weak symbols of an object file that do not belong to its instruction set."""
    listing = subprocess.run(
        ["nm", "--demangle", "--defined-only", str(objects)],
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    found = re.findall(r"^\S+ [WVu] (.*)$", listing, flags=re.MULTILINE)
    # Some names binutils leaves mangled: array bounds that depend on a template's parameter.
    namespace = f"isa_{isa}"
    own = re.compile(rf".*{namespace}::|_ZN5marey{len(namespace)}{namespace}")
    return [name for name in found if not own.match(name) and not HARMLESS.match(name)]


def main() -> int:
    """Check all kernel objects of a build folder."""
    folders = sorted(Path(sys.argv[1]).glob("**/marey_cpu_kernels_*.dir"))
    checked = 0
    failures = 0
    for folder in folders:
        isa = folder.name.removeprefix("marey_cpu_kernels_").removesuffix(".dir")
        for objects in sorted(folder.rglob("*.o")):
            checked += 1
            for name in shared_symbols(objects, isa):
                failures += 1
                print(f"{isa}/{objects.name}: {name}")
    print(f"{checked} kernel objects, {failures} symbols that the linker could merge")
    return 1 if failures or not checked else 0


if __name__ == "__main__":
    sys.exit(main())
