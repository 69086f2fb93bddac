#pragma once
// For the functions at the end of kernel files that choose by type.
#include "core/bfloat16.h"
#include "core/view.h"

namespace marey::MAREY_ISA_NS {

// f.operator()<S>() for the floating type S that `dtype` names, and what is empty for others. The
// copies for avx512_bf16 are of bfloat16 alone (MAREY_STUB_BF16); split operands of float32 are
// chosen before this is asked (MAREY_STUB_SPLIT).
template <class F>
auto of_type(DType dtype, const F& f) -> decltype(f.template operator()<bfloat16>()) {
  switch (dtype) {
#if !defined(MAREY_ONLY_BF16)
    case DType::f32:
      return f.template operator()<float>();
    case DType::f64:
      return f.template operator()<double>();
#endif
    case DType::bf16:
      return f.template operator()<bfloat16>();
    default:
      return {};
  }
}

}  // namespace marey::MAREY_ISA_NS
