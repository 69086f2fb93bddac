#!/usr/bin/env bash
# What can be checked of the CUDA kernels without a device: they run on the CPU against the reference,
# compile without spills for every target, keep to their budget, and import without a driver.
# Usage: tools/check_cuda.sh PYTHON, which has marey, pytest, cmake, ninja and pybind11 installed.
set -euo pipefail
cd "$(dirname "$0")/.."
python=$1
folder=build/cuda

tools/build_cuda.sh "$python"
MAREY_CUDA_ON_CPU=$(echo "$folder"/_cuda_on_cpu*.so)
export MAREY_CUDA_ON_CPU
# The gate's dry run is of one process: the tests go on beside it.
"$python" -m bench.gpu_gate --dry-run --out "$folder/gpu_gate.json" > "$folder/gpu_gate.log" 2>&1 &
gate=$!
trap 'kill $gate 2> "$folder/kill.log" || true' EXIT
"$python" -m pytest -q -rf tests/test_cuda_*.py
wait $gate || { tail -50 "$folder/gpu_gate.log"; exit 1; }
trap - EXIT

if [ ! -e "$folder/nvcc.log" ]; then
  echo "no nvcc: nothing is compiled for devices"
  exit 0
fi
if objdump -p "$folder"/_cuda.*.so | grep -E 'NEEDED.*(cuda|cudart|cupti)'; then
  echo "the module needs a CUDA library"
  exit 1
fi
"$python" tools/check_cuda_build.py "$folder" --log "$folder/nvcc.log"
"$python" - "$folder"/_cuda.*.so << 'PYTHON'
import importlib.util
import sys

spec = importlib.util.spec_from_file_location("_cuda", sys.argv[1])
module = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
print("devices:", module.device_count(), module.why_no_device() or "ready")
assert module.device_count() > 0 or module.why_no_device()
PYTHON
