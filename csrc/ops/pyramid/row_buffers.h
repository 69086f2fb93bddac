#pragma once
// Rows of images, width * channels items with channels interleaved: where they lie, how they are
// read and how they are written.
#include <algorithm>
#include <cstddef>
#include <cstdint>

#include "core/simd.h"
#include "ops/pyramid/plane.h"

namespace marey::MAREY_ISA_NS {

// Every buffer of a row has room for two pixels of border on each side and for vectors and pixel
// copies that reach beyond the end.
template <class A>
constexpr int64_t buffer_items(int64_t width, int64_t channels) {
  constexpr int64_t kSlackBytes = 256;
  return (width + 6) * channels + kSlackBytes / static_cast<int64_t>(sizeof(A));
}

// Carves typed buffers out of a thread's scratch memory.
class Arena {
 public:
  explicit Arena(std::byte* memory) : next_(memory) {}
  template <class T>
  T* take(int64_t items) {
    T* taken = reinterpret_cast<T*>(next_);
    next_ += bytes<T>(items);
    return taken;
  }
  template <class T>
  static constexpr int64_t bytes(int64_t items) {
    return (items * static_cast<int64_t>(sizeof(T)) + 63) / 64 * 64;
  }

 private:
  std::byte* next_;
};

// The source's rows as contiguous runs: where they lie so in memory they are read in place,
// elsewhere a row is gathered once and kept while its neighbours need it.
template <class S>
class RowReader {
 public:
  static constexpr int64_t kKept = 8;  // the seven rows under two coarse rows; a power of two

  RowReader(const Plane& plane, Arena& arena)
      : plane_(plane),
        in_place_((plane.channels == 1 || plane.channel_stride == sizeof(S)) &&
                  (plane.width == 1 ||
                   plane.pixel_stride == plane.channels * static_cast<int64_t>(sizeof(S)))) {
    kept_ = arena.take<S>(kKept * plane.row_items());
    std::fill(rows_, rows_ + kKept, int64_t{-1});
  }
  static int64_t scratch_bytes(const Plane& plane) {
    return Arena::bytes<S>(kKept * plane.row_items());
  }

  const S* operator()(int64_t y) {
    const std::byte* row = plane_.data + y * plane_.row_stride;
    if (in_place_) return reinterpret_cast<const S*>(row);
    S* kept = kept_ + (y % kKept) * plane_.row_items();
    if (rows_[y % kKept] != y) {
      rows_[y % kKept] = y;
      S* next = kept;
      for (int64_t x = 0; x < plane_.width; ++x) {
        for (int64_t c = 0; c < plane_.channels; ++c) {
          *next++ = *reinterpret_cast<const S*>(row + x * plane_.pixel_stride +
                                                c * plane_.channel_stride);
        }
      }
    }
    return kept;
  }

 private:
  const Plane& plane_;
  const bool in_place_;
  S* kept_;
  int64_t rows_[kKept];
};

// f(k, load, store) for every vector of a row of n items; the last vector overlaps the one before
// it, so nothing is read or written beyond n. Source and destination must not be the same row.
template <class V, class F>
inline void for_each_vector(int64_t n, F&& f) {
  constexpr int64_t kLanes = static_cast<int64_t>(V::size());
  for (int64_t k = 0; k + kLanes <= n; k += kLanes) f(k);
  if (n % kLanes != 0) f(n - kLanes);
}

// Writes f(k), a vector of D for every k, to dst[0, n). With `streaming` the lines that are written
// whole bypass the caches.
template <class D, class F>
inline void write_row(D* dst, int64_t n, bool streaming, F&& f) {
  using V = Vec<D>;
  constexpr int64_t kLanes = static_cast<int64_t>(V::size());
  if (n < kLanes) return store_partial(dst, f(0), n);
  if (!streaming) {
    for_each_vector<V>(n, [&](int64_t k) { store(dst + k, f(k)); });
    return;
  }
  const auto misaligned = static_cast<int64_t>(reinterpret_cast<uintptr_t>(dst) % sizeof(V));
  int64_t k = 0;
  if (misaligned != 0) {
    store(dst, f(0));
    k = kLanes - misaligned / static_cast<int64_t>(sizeof(D));
  }
  for (; k + kLanes <= n; k += kLanes) stream(dst + k, f(k));
  if (k < n) store(dst + n - kLanes, f(n - kLanes));
}

}  // namespace marey::MAREY_ISA_NS
