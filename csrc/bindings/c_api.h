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
  F(attention) \
  F(attention_backward) \
  F(linear) \
  F(linear_backward) \
  F(conv3d_defaults) \
  F(conv3d_create) \
  F(conv3d_run) \
  F(conv3d_destroy) \
  F(conv3d_backward) \
  F(recurrent_create) \
  F(recurrent_run) \
  F(recurrent_destroy) \
  F(recurrent_backward)
// clang-format on

struct CApi {
#define MAREY_MEMBER(name) decltype(&marey_##name) name;
  MAREY_C_API(MAREY_MEMBER)
#undef MAREY_MEMBER
};

inline constexpr const char* kCApiName = "marey._cpu.c_api";

}  // namespace marey::python
