#pragma once
// Gradients of patch embeddings: kernels as large as the stride, without padding, dilation or
// groups. Every input is in one patch, so that with the patches as rows of a matrix (positions,
// C kT kH kW), each a copy of what it covers, both gradients are matrix products:
//
//   grad_weight (K, C kT kH kW) = sum over clips of grad^T patches
//   grad of patches             = grad weight
//
// The general kernels take a tap at a time: here that is a product of C columns.
#include "ops/conv/conv3d.h"

namespace marey {

// Whether these apply: to arrays whose positions one stride steps through.
bool weight_is_of_patches(const View& grad, const Shape& weight, const Conv3dOptions& options);
// Weights are C-ordered, and the patches cover all of grad_x.
bool input_is_of_patches(const View& grad, const View& weight, const Conv3dOptions& options,
                         const View& grad_x);

// Of checked arrays, as conv3d_backward.h has them. Patches are copied for so many rows of
// positions at once that they take 16 MiB, or of one row if that needs more.
void patches_backward_weight(const View& grad, const View& x, const Shape& weight,
                             const View& grad_weight);
void patches_backward_input(const View& grad, const View& weight, const View& grad_x);

}  // namespace marey
