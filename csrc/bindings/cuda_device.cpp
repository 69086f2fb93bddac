#include "bindings/cuda_device.h"

#include <cuda_runtime.h>

#include <string>

#include "cuda/error.h"

namespace marey::python {
namespace {

namespace py = pybind11;

// 0 where there is no driver, or one that is too old.
int device_count() {
  int count = 0;
  if (cudaGetDeviceCount(&count) == cudaSuccess) return count;
  static_cast<void>(cudaGetLastError());
  return 0;
}

// Why there is no device; "" if there is one.
std::string why_no_device() {
  int count = 0;
  const cudaError_t status = cudaGetDeviceCount(&count);
  if (status == cudaSuccess) return count > 0 ? "" : "no CUDA device was found";
  static_cast<void>(cudaGetLastError());
  return cudaGetErrorString(status);
}

py::dict device_info(int device) {
  cudaDeviceProp properties{};
  cuda::check(cudaGetDeviceProperties(&properties, device));
  py::dict info;
  info["name"] = properties.name;
  info["compute_capability"] = py::make_tuple(properties.major, properties.minor);
  info["multiprocessors"] = properties.multiProcessorCount;
  info["memory_bytes"] = properties.totalGlobalMem;
  info["l2_bytes"] = properties.l2CacheSize;
  return info;
}

py::dict build_info() {
  int driver = 0;
  if (cudaDriverGetVersion(&driver) != cudaSuccess) static_cast<void>(cudaGetLastError());
  py::dict info;
  info["nvcc"] = MAREY_CUDA_VERSION;
  info["driver"] = driver;
#ifdef MAREY_HAVE_HOPPER
  info["hopper"] = true;
#else
  info["hopper"] = false;
#endif
  return info;
}

}  // namespace

int set_current_device(int device) {
  int previous = 0;
  cuda::check(cudaGetDevice(&previous));
  if (previous != device) cuda::check(cudaSetDevice(device));
  return previous;
}

void restore_device(int previous, int device) noexcept {
  if (previous != device) static_cast<void>(cudaSetDevice(previous));
}

void register_cuda_device(py::module_& module) {
  module.def("device_count", &device_count);
  module.def("why_no_device", &why_no_device);
  module.def("device_info", &device_info, py::arg("device"));
  module.def("build_info", &build_info);
}

}  // namespace marey::python
