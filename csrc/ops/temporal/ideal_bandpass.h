#pragma once
// ideal_bandpass: keeps the frequencies of a band and no others, along one axis, by projecting each
// series onto the cosines and sines of the band:
//
//   y[t] = sum over kept k of g_k / T * sum over s of x[s] cos(2 pi k (t - s) / T)
//
// with g_k = 1 for k = 0 and k = T / 2 and else 2: what setting the other bins of a Fourier
// transform to zero gives. With few bins this takes fewer operations than a transform; if more than
// half of the bins are kept, the others are projected out.
#include "core/dispatch.h"
#include "core/view.h"

namespace marey {

// Keeps bins first .. last of 0 .. T / 2, none if last < first; bin k is the frequency of k cycles
// in the T steps. x: uint8, float32 or float64. y: x's shape, float32 for uint8 and else x's type;
// the same memory as x or none of it. `axis` is not negative. Each thread's scratch is the steps of
// 64 to 1024 series, at most 160 KiB unless 64 series need more; all threads share two tables of T
// * bins items.
void ideal_bandpass(const View& x, int axis, int64_t first, int64_t last, const View& y);

// How many bins a call would project onto, its cost for each item.
int64_t ideal_bandpass_cost(int64_t steps, int64_t first, int64_t last);

// A tile's series x, less their first value, d[t] = x[t] - x[0], are folded about step 0 into even
// and odd parts, of which the cosines see the one and the sines the other:
//
//   even[p] = d[p] + d[T - p],  odd[p] = d[p] - d[T - p]   for the pairs p = 0 .. T / 2 (where p =
//   T - p or
//                                                          p = 0, even = 2 d and odd = 0)
//
// Tables hold items of y's type, in groups of kIdealGroup with zeros where a group is not full:
//   forward:  for each group of bins, for each pair 1 .. T / 2: the cosines of the bins, then the
//   sines,
//             times g_k / T, and halved where p = T - p
//   backward: for each group of pairs 0 .. T / 2, for each bin: the cosines of the pairs, then the
//   sines
inline constexpr int64_t kIdealGroup = 3;

struct IdealBandpassTile {
  const void* x;
  int64_t x_stride;  // in bytes
  void* y;
  int64_t y_stride;
  int64_t steps;
  int64_t width;
  int64_t bins;  // in the tables
  const void* forward;
  const void* backward;
  bool complement;  // the tables hold the bins that are not kept
  bool keep_first;  // bin 0 is kept: x[0] is added again
  // 64-byte aligned. For each pair, their number rounded up to whole groups, 2 * width items, width
  // rounded up to two vectors of 64 bytes; then for each bin, rounded up likewise, 4 vectors of up
  // to 64 bytes.
  void* scratch;
  bool streaming;
};

using IdealBandpassFn = void(const IdealBandpassTile&);
using SelectIdealBandpass = IdealBandpassFn*(DType x, DType y);
MAREY_DECLARE_KERNEL(select_ideal_bandpass, SelectIdealBandpass)

}  // namespace marey
