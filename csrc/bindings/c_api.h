#pragma once
// The functions of include/marey/marey.h that modules built for other frameworks call. They get
// pointers from this module and link no kernels: there is one copy, with one choice of threads and
// instruction set.
#include "include/marey/marey.h"

namespace marey::python {

// One a line: clang-format packs them anew at every run.
// clang-format off
#define MAREY_C_API(F) \
  F(last_error) \
  F(down) \
  F(up) \
  F(down_adjoint) \
  F(up_adjoint) \
  F(laplacian) \
  F(collapse) \
  F(sosfilt) \
  F(sosfiltfilt) \
  F(convolve) \
  F(median_filter) \
  F(median) \
  F(ideal_bandpass) \
  F(attention_defaults) \
  F(attention)
// clang-format on

struct CApi {
#define MAREY_MEMBER(name) decltype(&marey_##name) name;
  MAREY_C_API(MAREY_MEMBER)
#undef MAREY_MEMBER
};

inline constexpr const char* kCApiName = "marey._cpu.c_api";

}  // namespace marey::python
