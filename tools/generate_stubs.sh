#!/usr/bin/env bash
# Writes the type stub of the compiled module from the installed one, or with --check compares it.
# Needs marey, pybind11-stubgen and ruff in the active environment.
set -euo pipefail
cd "$(dirname "$0")/.."
target=python/marey/_cpu.pyi
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
(cd "$scratch" && pybind11-stubgen marey._cpu --output-dir . --numpy-array-use-type-var > log 2>&1) ||
  { cat "$scratch/log" >&2; exit 1; }
# What pybind11 writes in signatures for "any object", and for a tuple.
sed -E 's/-> tuple:/-> tuple[typing.Any, ...]:/; s/: tuple\)/: tuple[typing.Any, ...])/; s/: tuple,/: tuple[typing.Any, ...],/; s/typing\.SupportsInt \| typing\.SupportsIndex/int/g; s/typing\.SupportsFloat \| typing\.SupportsIndex/float/g' \
  "$scratch/marey/_cpu.pyi" > "$scratch/_cpu.pyi"
ruff format --quiet --no-cache --config 'exclude = []' "$scratch/_cpu.pyi"
if [ "${1:-}" = --check ]; then
  diff -u "$target" "$scratch/_cpu.pyi" ||
    { echo "python/marey/_cpu.pyi is not what tools/generate_stubs.sh writes" >&2; exit 1; }
else
  cp "$scratch/_cpu.pyi" "$target"
fi
