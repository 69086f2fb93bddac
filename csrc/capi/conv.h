#pragma once
// What the functions of the C interface for convolution have in common.
#include "include/marey/marey.h"
#include "ops/conv/conv3d.h"

namespace marey::capi {

// The options as the kernels take them; null for the defaults.
Conv3dOptions plan_of(const char* name, const marey_conv3d_options* options);

}  // namespace marey::capi
