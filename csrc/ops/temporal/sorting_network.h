#pragma once
// Batcher's odd-even merge sort for any number of items (K. Batcher, Sorting Networks and their
// Applications, 1968; Knuth, The Art of Computer Programming, volume 3, section 5.2.2, algorithm
// M).
#include <cstdint>

namespace marey {

// Calls compare(i, j), i < j, for each comparator in order: afterwards item i is to be the smaller.
template <class Compare>
constexpr void for_each_comparator(int64_t items, const Compare& compare) {
  for (int64_t p = 1; p < items; p *= 2) {
    for (int64_t k = p; k >= 1; k /= 2) {
      for (int64_t j = k % p; j + k < items; j += 2 * k) {
        for (int64_t i = 0; i < k && i + j + k < items; ++i) {
          if ((i + j) / (2 * p) == (i + j + k) / (2 * p)) compare(i + j, i + j + k);
        }
      }
    }
  }
}

}  // namespace marey
