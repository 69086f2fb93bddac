#pragma once
// Row operations of the Burt-Adelson pyramid, shared by the kernels in this folder and by motion
// magnification. A row is width * channels items, channels interleaved.
//
// The taps (1 4 6 4 1) / 16 are applied first down the columns, which vectorises over any number of
// channels; the sum is split into even and odd pixels, after which the taps along the row are plain
// loads at distances of one pixel. Doubling does the same in reverse. A is the type of the sums:
// float, double, or uint16_t for uint8 images, whose largest sum, 255 * 256 + 128, fits it exactly.
#include <algorithm>
#include <cstring>

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
  static constexpr int64_t kKept = 8;  // a band and the five rows of the next coarse row

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

// dst = p0 + 4 p1 + 6 p2 + 4 p3 + p4, exactly n items read.
template <class S, class A>
inline void column_taps(const S* p0, const S* p1, const S* p2, const S* p3, const S* p4, A* dst,
                        int64_t n) {
  using V = Vec<A>;
  constexpr int64_t kLanes = static_cast<int64_t>(V::size());
  const A six = 6;
  const A four = 4;
  const auto taps = [&](const V& a, const V& b, const V& c, const V& d, const V& e) {
    return (a + e) + four * (b + d) + six * c;
  };
  if (n < kLanes) {
    store(dst, taps(load_partial<V>(p0, n), load_partial<V>(p1, n), load_partial<V>(p2, n),
                    load_partial<V>(p3, n), load_partial<V>(p4, n)));
    return;
  }
  for_each_vector<V>(n, [&](int64_t k) {
    store(dst + k, taps(load<V>(p0 + k), load<V>(p1 + k), load<V>(p2 + k), load<V>(p3 + k),
                        load<V>(p4 + k)));
  });
}

// Copies one pixel of kBytes bytes, and whatever follows up to the next power of two: the copies
// run in order, so that the next one overwrites the excess.
template <int kBytes>
inline void copy_pixel(std::byte* dst, const std::byte* src) {
  constexpr std::size_t kCopied = std::bit_ceil(static_cast<unsigned>(kBytes));
  std::memcpy(dst, src, kCopied);
}

template <int kBytes>
inline void split_pixels(const std::byte* src, std::byte* even, std::byte* odd, int64_t pairs) {
  for (int64_t k = 0; k < pairs; ++k) {
    copy_pixel<kBytes>(even + k * kBytes, src + 2 * k * kBytes);
    copy_pixel<kBytes>(odd + k * kBytes, src + (2 * k + 1) * kBytes);
  }
}

template <int kBytes>
inline void merge_pixels(const std::byte* even, const std::byte* odd, std::byte* dst,
                         int64_t pairs) {
  for (int64_t k = 0; k < pairs; ++k) {
    copy_pixel<kBytes>(dst + 2 * k * kBytes, even + k * kBytes);
    copy_pixel<kBytes>(dst + (2 * k + 1) * kBytes, odd + k * kBytes);
  }
}

// Two streams of whole items, which the compiler turns into shuffles.
template <class Item>
inline void split_items(const Item* src, Item* even, Item* odd, int64_t pairs) {
  for (int64_t k = 0; k < pairs; ++k) {
    even[k] = src[2 * k];
    odd[k] = src[2 * k + 1];
  }
}

template <class Item>
inline void merge_items(const Item* even, const Item* odd, Item* dst, int64_t pairs) {
  for (int64_t k = 0; k < pairs; ++k) {
    dst[2 * k] = even[k];
    dst[2 * k + 1] = odd[k];
  }
}

// Pixels 0, 2, 4, ... to even and 1, 3, 5, ... to odd.
template <class A>
inline void split(const A* src, A* even, A* odd, int64_t pairs, int64_t channels) {
  if (channels == 1) return split_items(src, even, odd, pairs);
  const auto* s = reinterpret_cast<const std::byte*>(src);
  auto* e = reinterpret_cast<std::byte*>(even);
  auto* o = reinterpret_cast<std::byte*>(odd);
  constexpr int kItem = sizeof(A);
  switch (channels) {
    case 2:
      return split_pixels<2 * kItem>(s, e, o, pairs);
    case 3:
      return split_pixels<3 * kItem>(s, e, o, pairs);
    case 4:
      return split_pixels<4 * kItem>(s, e, o, pairs);
    default:
      for (int64_t k = 0; k < pairs; ++k) {
        std::copy_n(src + 2 * k * channels, channels, even + k * channels);
        std::copy_n(src + (2 * k + 1) * channels, channels, odd + k * channels);
      }
  }
}

// The reverse of split. Writes up to 3 items beyond the last pixel.
template <class A>
inline void merge(const A* even, const A* odd, A* dst, int64_t pairs, int64_t channels) {
  if (channels == 1) return merge_items(even, odd, dst, pairs);
  const auto* e = reinterpret_cast<const std::byte*>(even);
  const auto* o = reinterpret_cast<const std::byte*>(odd);
  auto* d = reinterpret_cast<std::byte*>(dst);
  constexpr int kItem = sizeof(A);
  switch (channels) {
    case 2:
      return merge_pixels<2 * kItem>(e, o, d, pairs);
    case 3:
      return merge_pixels<3 * kItem>(e, o, d, pairs);
    case 4:
      return merge_pixels<4 * kItem>(e, o, d, pairs);
    default:
      for (int64_t k = 0; k < pairs; ++k) {
        std::copy_n(even + k * channels, channels, dst + 2 * k * channels);
        std::copy_n(odd + k * channels, channels, dst + (2 * k + 1) * channels);
      }
  }
}

// A vector of sums times 256, as stored: rounded for uint8, as OpenCV does.
template <class D, class A>
inline void store_down(D* p, const Vec<A>& sum) {
  if constexpr (std::is_same_v<D, uint8_t>) {
    store_narrow(p, (sum + A{128}) >> 8);
  } else if constexpr (std::is_same_v<A, uint16_t>) {
    // Widened through memory: lanes of uint16_t fill two vectors of D.
    alignas(64) A sums[Vec<A>::size()];
    store(sums, sum);
    for (std::size_t k = 0; k < Vec<A>::size(); k += Vec<D>::size()) {
      store(p + k, load<Vec<D>>(sums + k) * D(1.0 / 256.0));
    }
  } else {
    store(p, sum * A(1.0 / 256.0));
  }
}

// Produces single rows of down(plane).
template <class S, class A, class D>
class DownRows {
 public:
  DownRows(const Plane& plane, RowReader<S>& read, Arena& arena)
      : plane_(plane),
        read_(read),
        columns_(arena.take<A>(buffer_items<A>(plane.width, plane.channels))),
        even_(arena.take<A>(buffer_items<A>(half(plane.width), plane.channels))),
        odd_(arena.take<A>(buffer_items<A>(half(plane.width), plane.channels))),
        row_(arena.take<D>(buffer_items<D>(half(plane.width), plane.channels))) {}

  static int64_t scratch_bytes(const Plane& plane) {
    return Arena::bytes<A>(buffer_items<A>(plane.width, plane.channels)) +
           2 * Arena::bytes<A>(buffer_items<A>(half(plane.width), plane.channels)) +
           Arena::bytes<D>(buffer_items<D>(half(plane.width), plane.channels));
  }

  void operator()(int64_t i, D* dst) {
    const int64_t c = plane_.channels;
    const int64_t w = plane_.width;
    const int64_t h = plane_.height;
    const auto row = [&](int64_t y) { return read_(reflect101(y, h)); };
    A* v = columns_ + 2 * c;
    column_taps(row(2 * i - 2), row(2 * i - 1), row(2 * i), row(2 * i + 1), row(2 * i + 2), v,
                w * c);
    for (const int64_t x : {int64_t{-2}, int64_t{-1}, w, w + 1}) {
      std::copy_n(v + reflect101(x, w) * c, c, v + x * c);
    }
    // From pixel -2 on: even_ holds -2, 0, 2, ... and odd_ holds -1, 1, 3, ...
    const int64_t out_width = half(w);
    split(columns_, even_, odd_, out_width + 2, c);

    using V = Vec<A>;
    constexpr int64_t kLanes = static_cast<int64_t>(V::size());
    const int64_t n = out_width * c;
    const A six = 6;
    const A four = 4;
    const auto sum = [&](int64_t k) {
      const V outer = load<V>(even_ + k) + load<V>(even_ + k + 2 * c);
      const V inner = load<V>(odd_ + k) + load<V>(odd_ + k + c);
      return outer + four * inner + six * load<V>(even_ + k + c);
    };
    if (n < kLanes) {
      store_down<D, A>(row_, sum(0));
      std::copy_n(row_, n, dst);
      return;
    }
    for_each_vector<V>(n, [&](int64_t k) { store_down<D, A>(dst + k, sum(k)); });
  }

 private:
  const Plane& plane_;
  RowReader<S>& read_;
  A* columns_;
  A* even_;
  A* odd_;
  D* row_;
};

// Produces single rows of up(source), in A, from rows of the source.
template <class S, class A>
class UpRows {
 public:
  // width: of the result; channels: of both.
  UpRows(int64_t source_height, int64_t source_width, int64_t width, int64_t channels, Arena& arena)
      : h_(source_height),
        w_(source_width),
        width_(width),
        c_(channels),
        columns_(arena.take<A>(buffer_items<A>(source_width, channels))),
        even_(arena.take<A>(buffer_items<A>(source_width, channels))),
        odd_(arena.take<A>(buffer_items<A>(source_width, channels))),
        row_(arena.take<A>(buffer_items<A>(2 * source_width, channels))) {}

  static int64_t scratch_bytes(int64_t source_width, int64_t channels) {
    return 3 * Arena::bytes<A>(buffer_items<A>(source_width, channels)) +
           Arena::bytes<A>(buffer_items<A>(2 * source_width, channels));
  }

  // Row y of the result; `source(i)` gives row i of the source. Valid until the next call, and
  // readable for one vector beyond its end.
  template <class Source>
  const A* operator()(int64_t y, Source&& source) {
    if (y == 2 * h_) y -= 2;
    const int64_t i = y / 2;
    const int64_t n = w_ * c_;
    A* v = columns_ + c_;
    if (y % 2 == 0) {
      combine<6>(source(before(i, h_)), source(i), source(after(i, h_)), v, n);
    } else {
      average(source(i), source(after(i, h_)), v, n);
    }
    std::copy_n(v + before(0, w_) * c_, c_, v - c_);
    std::copy_n(v + after(w_ - 1, w_) * c_, c_, v + n);

    using V = Vec<A>;
    const A six = 6;
    const A four = 4;
    for (int64_t k = 0; k < n; k += static_cast<int64_t>(V::size())) {
      const V left = load<V>(v + k - c_);
      const V centre = load<V>(v + k);
      const V right = load<V>(v + k + c_);
      store(even_ + k, scale(left + right + six * centre));
      store(odd_ + k, scale(four * (centre + right)));
    }
    merge(even_, odd_, row_, w_, c_);
    // One column more than twice: OpenCV repeats the last column, but the last even row (above).
    if (width_ == 2 * w_ + 1) std::copy_n(row_ + (2 * w_ - 1) * c_, c_, row_ + 2 * w_ * c_);
    return row_;
  }

 private:
  static Vec<A> scale(const Vec<A>& sum) {
    if constexpr (std::is_same_v<A, uint16_t>) {
      return (sum + A{32}) >> 6;
    } else {
      return sum * A(1.0 / 64.0);
    }
  }

  template <int kCentre>
  static void combine(const S* a, const S* b, const S* c, A* dst, int64_t n) {
    using V = Vec<A>;
    const A centre = kCentre;
    const auto taps = [&](const V& p, const V& q, const V& r) { return (p + r) + centre * q; };
    if (n < static_cast<int64_t>(V::size())) {
      store(dst, taps(load_partial<V>(a, n), load_partial<V>(b, n), load_partial<V>(c, n)));
      return;
    }
    for_each_vector<V>(n, [&](int64_t k) {
      store(dst + k, taps(load<V>(a + k), load<V>(b + k), load<V>(c + k)));
    });
  }

  static void average(const S* a, const S* b, A* dst, int64_t n) {
    using V = Vec<A>;
    const A four = 4;
    if (n < static_cast<int64_t>(V::size())) {
      store(dst, four * (load_partial<V>(a, n) + load_partial<V>(b, n)));
      return;
    }
    for_each_vector<V>(
        n, [&](int64_t k) { store(dst + k, four * (load<V>(a + k) + load<V>(b + k))); });
  }

  const int64_t h_;
  const int64_t w_;
  const int64_t width_;
  const int64_t c_;
  A* columns_;
  A* even_;
  A* odd_;
  A* row_;
};

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
