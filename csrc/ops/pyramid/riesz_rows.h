#pragma once
// The Riesz transform of parts of rows, for the pyramid and for magnification.
#include "core/simd.h"
#include "ops/pyramid/riesz.h"

namespace marey::MAREY_ISA_NS {

// Items [0, n) of two rows from column `from` on; all pointers stand at that column.
template <class T>
inline void riesz_vector(const T* above, const T* here, const T* below, int64_t from, int64_t width,
                         int64_t n, T* x, T* y) {
  constexpr T kTap = T(kRieszTap);
  for (int64_t k = 0; k < n; ++k) y[k] = kTap * (above[k] - below[k]);
  const int64_t first = from == 0 ? 1 : 0;
  const int64_t last = from + n == width ? n - 1 : n;
  for (int64_t k = first; k < last; ++k) x[k] = kTap * (here[k - 1] - here[k + 1]);
  if (first == 1) x[0] = T(0);
  if (last == n - 1) x[n - 1] = T(0);
}

}  // namespace marey::MAREY_ISA_NS
