#pragma once
// sosfilt: a cascade of second-order sections along one axis, as scipy.signal.sosfilt, in direct
// form II transposed (Oppenheim and Schafer, Discrete-Time Signal Processing, section 6.3):
//
//   y[t]  = b0 x[t] + z1
//   z1    = b1 x[t] - a1 y[t] + z2
//   z2    = b2 x[t] - a2 y[t]
//
// with a section's output the next one's input. All sections run in one pass over memory. The state
// (z1, z2) has the type of the output.
#include <string_view>
#include <vector>

#include "core/dispatch.h"
#include "core/view.h"

namespace marey {

// The shape of zi and zf: (sections, ..., 2, ...), x's shape with the filtered axis of length 2.
Shape sosfilt_state_shape(const Shape& x, int axis, int64_t sections);

// The rows of a (sections, 6) float64 array, checked: a0 = 1, all finite.
std::vector<double> checked_sections(std::string_view function, const View& sos);

// The arguments of sosfilt, checked: the coefficients.
std::vector<double> checked_sosfilt(const View& sos, const View& x, int axis, const View& y,
                                    const View* zi, const View* zf);

// sos: (sections, 6) float64, rows b0 b1 b2 a0 a1 a2 with a0 = 1, finite. x: uint8, float32 or
// float64. y: x's shape, float32 for uint8 and else x's type; the same memory as x or none of it.
// zi: null for a start from rest. zf: null if not wanted; may be zi. 0 <= axis < x's axes.
// Denormal numbers count as zero. Each thread's scratch is 16 KiB and, for every section, the state
// of at most 1024 series; if the axes are not in C order, 64 steps of 256 series more.
void sosfilt(const View& sos, const View& x, int axis, const View& y, const View* zi,
             const View* zf);

// A tile: `steps` rows of `width` neighbouring series. `z` holds 2 * sections rows of z_stride
// items.
struct SosfiltTile {
  const void* x;
  void* y;
  int64_t x_stride;  // in bytes, from one step to the next
  int64_t y_stride;
  int64_t steps;
  int64_t width;
  const double* sos;
  int64_t sections;
  void* z;
  int64_t z_stride;
  bool streaming;
};

using SosfiltFn = void(const SosfiltTile&);
using SelectSosfilt = SosfiltFn*(DType x, DType y);
MAREY_DECLARE_KERNEL(select_sosfilt, SelectSosfilt)

// The kernel in use, for operations that are made of it.
SosfiltFn* sosfilt_kernel(DType x, DType y);

}  // namespace marey
