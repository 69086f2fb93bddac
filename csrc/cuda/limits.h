#pragma once
// What a grid whose blocks run at once may take. The part of the device that a process has may be
// smaller (MPS, green contexts): only the launch itself knows. That it also says so while a stream
// is captured, and leaves the capture valid, no device has shown.
#include <cstddef>

#include "cuda/kernel.h"

namespace marey::cuda {

struct DeviceLimits {
  int multiprocessors = 0;
  std::size_t shared_bytes = 0;  // of a block
  bool cooperative = false;
};

inline DeviceLimits device_limits(const Queue& queue) {
#ifdef __CUDACC__
  const auto attribute = [&](cudaDeviceAttr which) {
    int value = 0;
    check(cudaDeviceGetAttribute(&value, which, queue.device));
    return value;
  };
  return {attribute(cudaDevAttrMultiProcessorCount),
          static_cast<std::size_t>(attribute(cudaDevAttrMaxSharedMemoryPerBlockOptin)),
          attribute(cudaDevAttrCooperativeLaunch) != 0};
#else
  static_cast<void>(queue);
  return {on_cpu::kMultiprocessors, std::size_t{227} << 10, true};
#endif
}

}  // namespace marey::cuda
