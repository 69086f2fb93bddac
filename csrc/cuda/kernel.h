#pragma once
// What every device kernel is written against: the few words of CUDA that it needs, and the launch.
//
// A kernel file is compiled twice. nvcc compiles it for the device. The host compiler compiles the
// very same text against on_cpu.h, which runs a grid on the CPU, block by block, with all of a
// block's threads as coroutines: so that results, index arithmetic, barriers and the order of
// asynchronous copies are tested where there is no device. That proves nothing of speed, and of
// races only what another order of threads would show.
//
// Rules that make this possible: all shared memory is dynamic (shared_memory<T>()); no builtin
// vector types, but Pack; every instruction that C++ has no word for is a function of mma.h or
// sm90.h, which has both versions.
#include <cmath>
#include <cstddef>
#include <cstdint>

#ifdef __CUDACC__
#include <cuda_runtime.h>

#include "cuda/error.h"
#define MAREY_KERNEL(threads) __global__ void __launch_bounds__(threads, 1)
#define MAREY_DEVICE __device__ __forceinline__
#define MAREY_HOST_DEVICE __host__ __device__ __forceinline__
#define MAREY_GRID_CONSTANT const __grid_constant__
#else
#include "cuda/on_cpu.h"
#define MAREY_KERNEL(threads) void
#define MAREY_DEVICE inline
#define MAREY_HOST_DEVICE inline
#define MAREY_GRID_CONSTANT const
#endif

namespace marey::cuda {

// Neighbouring items that are read or written by one instruction.
template <class T, int N>
struct alignas(sizeof(T) * N) Pack {
  T v[N];
};

// Where a launch goes: the caller's device and its current stream.
struct Queue {
  int device = 0;
  void* stream = nullptr;
};

struct Grid {
  int64_t blocks = 0;  // at most 2^31 - 1
  int threads = 0;
  std::size_t shared_bytes = 0;
};

// What drivers before 530 take of a kernel's arguments.
inline constexpr std::size_t kMostArgumentBytes = 4096;

// Of a kernel's parameters, which lie one after the other, each aligned.
template <class... P>
constexpr std::size_t argument_bytes() {
  std::size_t end = 0;
  ((end = (end + alignof(P) - 1) / alignof(P) * alignof(P) + sizeof(P)), ...);
  return end;
}

inline int64_t blocks_for(int64_t items, int64_t per_block) {
  return (items + per_block - 1) / per_block;
}

#ifdef __CUDACC__

template <class T>
__device__ __forceinline__ T* shared_memory() {
  extern __shared__ __align__(1024) unsigned char marey_shared[];
  return reinterpret_cast<T*>(marey_shared);
}

__device__ __forceinline__ void sync_block() { __syncthreads(); }
__device__ __forceinline__ void sync_warp() { __syncwarp(); }
__device__ __forceinline__ float shuffle_xor(float x, int lanes) {
  return __shfl_xor_sync(0xFFFFFFFFU, x, lanes);
}
__device__ __forceinline__ double shuffle_xor(double x, int lanes) {
  return __shfl_xor_sync(0xFFFFFFFFU, x, lanes);
}
// Bit l: what lane l of the warp says.
__device__ __forceinline__ uint32_t ballot(bool x) { return __ballot_sync(0xFFFFFFFFU, x); }

// Every block of a cooperative grid waits for the others; what any of them wrote is seen by all.
// `counter` is zero before the launch; the k-th barrier of a grid waits for k times its blocks.
__device__ __forceinline__ void sync_grid(unsigned* counter, unsigned arrivals) {
  __syncthreads();
  if (threadIdx.x == 0) {
    unsigned count;
    asm volatile("fence.acq_rel.gpu;" ::: "memory");
    asm volatile("red.release.gpu.global.add.u32 [%0], 1;" ::"l"(counter) : "memory");
    do {
      asm volatile("ld.acquire.gpu.global.u32 %0, [%1];" : "=r"(count) : "l"(counter) : "memory");
    } while (count < arrivals);
    asm volatile("fence.acq_rel.gpu;" ::: "memory");
  }
  __syncthreads();
}
// A read past the first cache, which knows nothing of other multiprocessors' writes.
template <class T>
__device__ __forceinline__ T load_of_grid(const T* p) {
  union {
    T item;
    unsigned short s;
    unsigned int u;
    unsigned long long l;
  } value;
  if constexpr (sizeof(T) == 8) {
    value.l = __ldcg(reinterpret_cast<const unsigned long long*>(p));
  } else if constexpr (sizeof(T) == 4) {
    value.u = __ldcg(reinterpret_cast<const unsigned int*>(p));
  } else {
    static_assert(sizeof(T) == 2);
    value.s = __ldcg(reinterpret_cast<const unsigned short*>(p));
  }
  return value.item;
}

// Reads and writes that are not needed again.
template <class T, int N>
__device__ __forceinline__ Pack<T, N> load_once(const Pack<T, N>* p) {
  constexpr int kBytes = sizeof(T) * N;
  union {
    Pack<T, N> pack;
    unsigned char c;
    unsigned short s;
    unsigned int u;
    uint2 u2;
    uint4 u4;
  } value;
  if constexpr (kBytes == 16) {
    value.u4 = __ldcs(reinterpret_cast<const uint4*>(p));
  } else if constexpr (kBytes == 8) {
    value.u2 = __ldcs(reinterpret_cast<const uint2*>(p));
  } else if constexpr (kBytes == 4) {
    value.u = __ldcs(reinterpret_cast<const unsigned int*>(p));
  } else if constexpr (kBytes == 2) {
    value.s = __ldcs(reinterpret_cast<const unsigned short*>(p));
  } else {
    static_assert(kBytes == 1);
    value.c = __ldcs(reinterpret_cast<const unsigned char*>(p));
  }
  return value.pack;
}

template <class T, int N>
__device__ __forceinline__ void store_once(Pack<T, N>* p, const Pack<T, N>& x) {
  constexpr int kBytes = sizeof(T) * N;
  union {
    Pack<T, N> pack;
    unsigned char c;
    unsigned short s;
    unsigned int u;
    uint2 u2;
    uint4 u4;
  } value;
  value.pack = x;
  if constexpr (kBytes == 16) {
    __stcs(reinterpret_cast<uint4*>(p), value.u4);
  } else if constexpr (kBytes == 8) {
    __stcs(reinterpret_cast<uint2*>(p), value.u2);
  } else if constexpr (kBytes == 4) {
    __stcs(reinterpret_cast<unsigned int*>(p), value.u);
  } else if constexpr (kBytes == 2) {
    __stcs(reinterpret_cast<unsigned short*>(p), value.s);
  } else {
    static_assert(kBytes == 1);
    __stcs(reinterpret_cast<unsigned char*>(p), value.c);
  }
}

// On the caller's stream; never synchronises. The current device is set by the binding
// (DeviceGuard).
template <class... P, class... A>
cudaError_t submit(const Queue& queue, const Grid& grid, bool together, void (*kernel)(P...),
                   const A&... arguments) {
  static_assert(argument_bytes<P...>() <= kMostArgumentBytes);
  if (grid.blocks == 0) return cudaSuccess;
  if (grid.shared_bytes > 48 * 1024) {
    // Always the most that there is: the limit is the kernel's, and another thread's smaller launch
    // must not lower it between this call and the launch.
    int most = 0;
    check(cudaDeviceGetAttribute(&most, cudaDevAttrMaxSharedMemoryPerBlockOptin, queue.device));
    check(cudaFuncSetAttribute(reinterpret_cast<const void*>(kernel),
                               cudaFuncAttributeMaxDynamicSharedMemorySize, most));
  }
  cudaLaunchConfig_t config{};
  config.gridDim = dim3(checked_blocks(grid.blocks));
  config.blockDim = dim3(static_cast<unsigned>(grid.threads));
  config.dynamicSmemBytes = grid.shared_bytes;
  config.stream = static_cast<cudaStream_t>(queue.stream);
  cudaLaunchAttribute attribute{};
  if (together) {
    attribute.id = cudaLaunchAttributeCooperative;
    attribute.val.cooperative = 1;
    config.attrs = &attribute;
    config.numAttrs = 1;
  }
  return cudaLaunchKernelEx(&config, kernel, P(arguments)...);
}

template <class... P, class... A>
void launch(const Queue& queue, const Grid& grid, void (*kernel)(P...), const A&... arguments) {
  check(submit(queue, grid, false, kernel, arguments...));
}

// All blocks run at once, and may wait for each other. False, and nothing is launched, if the
// device cannot hold them: the part of it that this process has may be smaller than its attributes
// say.
template <class... P, class... A>
[[nodiscard]] bool launch_together(const Queue& queue, const Grid& grid, void (*kernel)(P...),
                                   const A&... arguments) {
  const cudaError_t status = submit(queue, grid, true, kernel, arguments...);
  if (status == cudaErrorCooperativeLaunchTooLarge) {
    static_cast<void>(cudaGetLastError());
    return false;
  }
  check(status);
  return true;
}

#else

template <class T>
inline T load_of_grid(const T* p) {
  return *p;
}
template <class T, int N>
inline Pack<T, N> load_once(const Pack<T, N>* p) {
  on_cpu::check_aligned(p, sizeof(Pack<T, N>));
  return *p;
}
template <class T, int N>
inline void store_once(Pack<T, N>* p, const Pack<T, N>& x) {
  on_cpu::check_aligned(p, sizeof(Pack<T, N>));
  *p = x;
}

template <class... P, class... A>
void launch(const Queue&, const Grid& grid, void (*kernel)(P...), const A&... arguments) {
  static_assert(argument_bytes<P...>() <= kMostArgumentBytes);
  on_cpu::run_grid(grid.blocks, grid.threads, grid.shared_bytes, [&] { kernel(P(arguments)...); });
}
template <class... P, class... A>
[[nodiscard]] bool launch_together(const Queue&, const Grid& grid, void (*kernel)(P...),
                                   const A&... arguments) {
  static_assert(argument_bytes<P...>() <= kMostArgumentBytes);
  return on_cpu::run_grid_together(grid.blocks, grid.threads, grid.shared_bytes,
                                   [&] { kernel(P(arguments)...); });
}

#endif

}  // namespace marey::cuda
