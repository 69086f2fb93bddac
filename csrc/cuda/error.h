#pragma once
// CUDA's errors as exceptions. Only launches and queries are checked here: a kernel's own failure
// shows at the caller's next synchronisation, as with every library that does not synchronise.
#include <cuda_runtime.h>

#include <cstdint>
#include <stdexcept>
#include <string>

namespace marey::cuda {

inline void check(cudaError_t status) {
  if (status == cudaSuccess) return;
  static_cast<void>(cudaGetLastError());  // so that it is not found by an innocent next call
  throw std::runtime_error(std::string("[marey] CUDA: ") + cudaGetErrorString(status));
}

inline unsigned checked_blocks(int64_t blocks) {
  if (blocks > 0x7FFFFFFF) {
    throw std::runtime_error("[marey] CUDA: more than 2^31 - 1 blocks are needed");
  }
  return static_cast<unsigned>(blocks);
}

}  // namespace marey::cuda
