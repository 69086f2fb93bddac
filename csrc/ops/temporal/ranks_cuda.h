#pragma once
// What the two medians share on the device: numbers as unsigned keys of the same order, selection
// by bits, and sorting networks in registers.
#include <array>
#include <cstdint>
#include <limits>
#include <utility>

#include "cuda/kernel.h"

namespace marey::cuda {

template <class S>
struct Keys;

template <>
struct Keys<uint8_t> {
  using Key = uint32_t;
  static constexpr int kBits = 8;
  static MAREY_HOST_DEVICE Key key(uint8_t x) { return x; }
  static MAREY_HOST_DEVICE uint8_t value(Key key) { return static_cast<uint8_t>(key); }
  static MAREY_HOST_DEVICE bool is_nan(uint8_t) { return false; }
};

// The bits of a float rise with its value if the sign is turned round, and of negative ones all
// bits.
template <class S, class Bits>
struct FloatKeys {
  using Key = Bits;
  static constexpr int kBits = 8 * sizeof(Bits);
  static constexpr Bits kSign = Bits{1} << (kBits - 1);
  static MAREY_HOST_DEVICE Key key(S x) {
    const union {
      S value;
      Bits bits;
    } pun{x};
    return (pun.bits & kSign) != 0 ? ~pun.bits : pun.bits | kSign;
  }
  static MAREY_HOST_DEVICE S value(Key key) {
    union {
      Bits bits;
      S value;
    } pun{(key & kSign) != 0 ? key & ~kSign : ~key};
    return pun.value;
  }
  static MAREY_HOST_DEVICE bool is_nan(S x) { return x != x; }
};

template <>
struct Keys<float> : FloatKeys<float, uint32_t> {};
template <>
struct Keys<double> : FloatKeys<double, uint64_t> {};

// The key of this rank (0: the least) among `count` values read(0) .. read(count - 1): its bits
// from the highest on, each by counting the values below.
template <class S, class Read>
MAREY_DEVICE typename Keys<S>::Key select_rank(int64_t count, int64_t rank, const Read& read) {
  using Key = typename Keys<S>::Key;
  Key found = 0;
#pragma unroll 1
  for (int bit = Keys<S>::kBits - 1; bit >= 0; --bit) {
    const Key candidate = found | (Key{1} << bit);
    int64_t below = 0;
    for (int64_t i = 0; i < count; ++i) below += Keys<S>::key(read(i)) < candidate ? 1 : 0;
    if (below <= rank) found = candidate;
  }
  return found;
}

struct Comparator {
  int i, j;
};

// Batcher's odd-even merge sort (Knuth, The Art of Computer Programming 3, 5.2.2, algorithm M).
template <int N>
constexpr int comparator_count() {
  int count = 0;
  for (int p = 1; p < N; p *= 2) {
    for (int k = p; k >= 1; k /= 2) {
      for (int j = k % p; j + k < N; j += 2 * k) {
        for (int i = 0; i < k && i + j + k < N; ++i) {
          if ((i + j) / (2 * p) == (i + j + k) / (2 * p)) ++count;
        }
      }
    }
  }
  return count;
}

template <int N>
constexpr std::array<Comparator, comparator_count<N>()> network() {
  std::array<Comparator, comparator_count<N>()> result{};
  std::size_t count = 0;
  for (int p = 1; p < N; p *= 2) {
    for (int k = p; k >= 1; k /= 2) {
      for (int j = k % p; j + k < N; j += 2 * k) {
        for (int i = 0; i < k && i + j + k < N; ++i) {
          if ((i + j) / (2 * p) == (i + j + k) / (2 * p)) result[count++] = {i + j, i + j + k};
        }
      }
    }
  }
  return result;
}

template <int N, std::size_t I, class T>
MAREY_DEVICE void compare(T (&values)[N]) {
  constexpr Comparator c = network<N>()[I];
  const T a = values[c.i];
  const T b = values[c.j];
  values[c.i] = b < a ? b : a;
  values[c.j] = b < a ? a : b;
}

template <int N, class T, std::size_t... I>
MAREY_DEVICE void sort_by(T (&values)[N], std::index_sequence<I...>) {
  (compare<N, I>(values), ...);
}

// Sorts N values, which stay in registers; of what is not read afterwards nothing is computed.
template <int N, class T>
MAREY_DEVICE void sort_values(T (&values)[N]) {
  sort_by<N>(values, std::make_index_sequence<comparator_count<N>()>());
}

}  // namespace marey::cuda
