// Tensor maps are made by the driver, whose function is asked for once: nothing links to it.
#include <cudaTypedefs.h>

#include "cuda/sm90.h"

namespace marey::cuda {
namespace {

PFN_cuTensorMapEncodeTiled_v12000 encode_function() {
  static const auto function = [] {
    void* entry = nullptr;
    cudaDriverEntryPointQueryResult found{};
    check(cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &entry, 12000,
                                           cudaEnableDefault, &found));
    if (found != cudaDriverEntryPointSuccess) {
      throw std::runtime_error("[marey] CUDA: the driver cannot make tensor maps");
    }
    return reinterpret_cast<PFN_cuTensorMapEncodeTiled_v12000>(entry);
  }();
  return function;
}

}  // namespace

TensorMap make_tensor_map(const TensorShape& shape) {
  TensorMap map{};
  const uint32_t steps[5] = {1, 1, 1, 1, 1};
  const CUresult status = encode_function()(
      &map, CU_TENSOR_MAP_DATA_TYPE_BFLOAT16, 5, shape.data, shape.extent, shape.stride, shape.box,
      steps, CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B,
      CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  if (status != CUDA_SUCCESS) {
    throw std::runtime_error("[marey] CUDA: a tensor map was refused, error " +
                             std::to_string(static_cast<int>(status)));
  }
  return map;
}

}  // namespace marey::cuda
