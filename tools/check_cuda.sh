#!/usr/bin/env bash
# What can be checked of the CUDA kernels without a device: they run on the CPU against the reference,
# compile without spills, keep to their budget, and import without a driver. Compiled for sm_80, sm_90 and
# sm_90a, for which the budget is; MAREY_CUDA_ARCHITECTURES names others (a build without it takes all).
# Usage: tools/check_cuda.sh PYTHON, which has marey, pytest, cmake, ninja and pybind11 installed.
set -euo pipefail
cd "$(dirname "$0")/.."
python=$1
folder=build/cuda
version=$("$python" -c 'import marey; print(marey.__version__)')
PATH=$("$python" -c 'import sysconfig; print(sysconfig.get_path("scripts"))'):$PATH

mkdir -p "$folder"
cmake -S . -B "$folder" -G Ninja -DCMAKE_BUILD_TYPE=Release -DMAREY_WERROR=ON \
  -DSKBUILD_PROJECT_VERSION="$version" -DSKBUILD_PROJECT_VERSION_FULL="$version" -DMAREY_ISAS=baseline \
  -DMAREY_CUDA_ARCHITECTURES="${MAREY_CUDA_ARCHITECTURES:-80-real;90-real}" \
  -DMAREY_CUDA=AUTO -DMAREY_CUDA_ON_CPU=ON -DPython_EXECUTABLE="$(command -v "$python")" \
  -Dpybind11_DIR="$("$python" -m pybind11 --cmakedir)" > "$folder/configure.log" ||
  { tail -50 "$folder/configure.log"; exit 1; }

cmake --build "$folder" --target _cuda_on_cpu > "$folder/on_cpu.log" ||
  { tail -50 "$folder/on_cpu.log"; exit 1; }
MAREY_CUDA_ON_CPU=$(echo "$folder"/_cuda_on_cpu*.so)
export MAREY_CUDA_ON_CPU
"$python" -m pytest -q -rf tests/test_cuda_*.py
"$python" -m bench.gpu_gate --dry-run --out "$folder/gpu_gate.json" > "$folder/gpu_gate.log" ||
  { tail -50 "$folder/gpu_gate.log"; exit 1; }

if ! grep -q '^CMAKE_CUDA_COMPILER:.*nvcc' "$folder/CMakeCache.txt"; then
  echo "no nvcc: nothing is compiled for devices"
  exit 0
fi
cmake --build "$folder" --target _cuda > "$folder/nvcc.log" || { grep -i error "$folder/nvcc.log"; exit 1; }
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
