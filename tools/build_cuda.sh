#!/usr/bin/env bash
# Builds the CUDA kernels for every target, where nvcc is found, and for the CPU in its place, into
# build/cuda. Usage: tools/build_cuda.sh PYTHON, which has marey, cmake, ninja and pybind11 installed.
set -euo pipefail
cd "$(dirname "$0")/.."
python=$1
folder=build/cuda
version=$("$python" -c 'import marey; print(marey.__version__)')
PATH=$("$python" -c 'import sysconfig; print(sysconfig.get_path("scripts"))'):$PATH

mkdir -p "$folder"
cmake -S . -B "$folder" -G Ninja -DCMAKE_BUILD_TYPE=Release -DMAREY_WERROR=ON \
  -DSKBUILD_PROJECT_VERSION="$version" -DSKBUILD_PROJECT_VERSION_FULL="$version" -DMAREY_ISAS=baseline \
  -DMAREY_CUDA=AUTO -DMAREY_CUDA_ON_CPU=ON -DPython_EXECUTABLE="$(command -v "$python")" \
  -Dpybind11_DIR="$("$python" -m pybind11 --cmakedir)" > "$folder/configure.log" ||
  { tail -50 "$folder/configure.log"; exit 1; }
cmake --build "$folder" --target _cuda_on_cpu > "$folder/on_cpu.log" ||
  { tail -50 "$folder/on_cpu.log"; exit 1; }
if grep -q '^CMAKE_CUDA_COMPILER:.*nvcc' "$folder/CMakeCache.txt"; then
  # What ptxas said is kept for tools/check_cuda_build.py, also when nothing is left to build.
  cmake --build "$folder" --target _cuda >> "$folder/nvcc.log" ||
    { grep -i error "$folder/nvcc.log"; exit 1; }
fi
