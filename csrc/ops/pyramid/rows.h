#pragma once
// Row operations of the Burt-Adelson pyramid, shared by the kernels in this folder and by motion
// magnification. A row is width * channels items, channels interleaved.
//
// Halving applies the taps (1 4 6 4 1) / 16 first down the columns, which vectorises over any
// number of channels, and then along the row. Doubling applies them first along the row, once for
// every source row, and then down the columns, on the way to memory. Along the row, pixels are
// split into even and odd ones, whose taps are plain loads at distances of one pixel; where no
// instruction picks lanes from two vectors, a pixel of three or four floating-point channels is a
// vector of its own instead. A is the type of the sums: float, double, or uint16_t for uint8
// images, whose largest sum, 255 * 256 + 128, fits it exactly.
#include <algorithm>
#include <bit>
#include <cstring>
#include <utility>

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

// Column sums of two neighbouring coarse rows, so that the rows that they share are read once:
// dst[d] = p[2 d] + 4 p[2 d + 1] + 6 p[2 d + 2] + 4 p[2 d + 3] + p[2 d + 4]. Reads exactly n items.
template <class S, class A>
inline void column_taps(const S* const (&p)[7], A* dst0, A* dst1, int64_t n) {
  using V = Vec<A>;
  const A six = 6;
  const A four = 4;
  const auto taps = [&](int64_t k, auto&& get) {
    const V p2 = get(p[2] + k);
    const V p3 = get(p[3] + k);
    const V p4 = get(p[4] + k);
    store(dst0 + k, (get(p[0] + k) + p4) + four * (get(p[1] + k) + p3) + six * p2);
    store(dst1 + k, (p2 + get(p[6] + k)) + four * (p3 + get(p[5] + k)) + six * p4);
  };
  if (n < static_cast<int64_t>(V::size())) {
    taps(0, [n](const S* row) { return load_partial<V>(row, n); });
    return;
  }
  for_each_vector<V>(n, [&](int64_t k) { taps(k, [](const S* row) { return load<V>(row); }); });
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

// Where an instruction picks lanes from two vectors: as many whole pixels as one holds at a time.
#if defined(__AVX512BW__)
inline constexpr bool kPicks = true;
#else
inline constexpr bool kPicks = false;
#endif

// Lane j is item index(j) of a and b, one after the other.
template <class A, class Index>
inline Vec<A> pick(const Vec<A>& a, const Vec<A>& b, Index) {
  using Native [[gnu::vector_size(sizeof(Vec<A>))]] = A;
  return [&]<int... J>(std::integer_sequence<int, J...>) {
    return std::bit_cast<Vec<A>>(
        __builtin_shufflevector(std::bit_cast<Native>(a), std::bit_cast<Native>(b), Index{}(J)...));
  }(std::make_integer_sequence<int, static_cast<int>(Vec<A>::size())>{});
}

template <int kChannels, class A>
struct Picks {
  static constexpr int kLanes = static_cast<int>(Vec<A>::size());
  static constexpr int kPixels = kLanes / kChannels;
  static constexpr int kItems = kPixels * kChannels;  // the lanes beyond are overwritten

  // Of two vectors of pixels, those that come first in their pairs, or second.
  template <int kWhich>
  struct FromPairs {
    constexpr int operator()(int j) const {
      return j < kItems ? (2 * (j / kChannels) + kWhich) * kChannels + j % kChannels : 0;
    }
  };
  // The reverse: of one vector of the first ones and one of the second, what stands from item kFrom
  // on.
  template <int kFrom>
  struct ToPairs {
    constexpr int operator()(int j) const {
      const int item = kFrom + j;
      if (item >= 2 * kItems) return 0;
      const int pixel = item / kChannels;
      return pixel % 2 * kLanes + pixel / 2 * kChannels + item % kChannels;
    }
  };
};

// Return how many pairs they did; the rest is less than a vector.
template <int kChannels, class A>
inline int64_t split_vectors(const A* src, A* even, A* odd, int64_t pairs) {
  using P = Picks<kChannels, A>;
  using V = Vec<A>;
  int64_t k = 0;
  for (; k + P::kPixels <= pairs; k += P::kPixels) {
    const V a = load<V>(src + 2 * k * kChannels);
    const V b = load<V>(src + 2 * k * kChannels + P::kLanes);
    store(even + k * kChannels, pick(a, b, typename P::template FromPairs<0>{}));
    store(odd + k * kChannels, pick(a, b, typename P::template FromPairs<1>{}));
  }
  return k;
}

template <int kChannels, class A>
inline int64_t merge_vectors(const A* even, const A* odd, A* dst, int64_t pairs) {
  using P = Picks<kChannels, A>;
  using V = Vec<A>;
  int64_t k = 0;
  for (; k + P::kPixels <= pairs; k += P::kPixels) {
    const V a = load<V>(even + k * kChannels);
    const V b = load<V>(odd + k * kChannels);
    A* place = dst + 2 * k * kChannels;
    store(place, pick(a, b, typename P::template ToPairs<0>{}));
    store(place + P::kLanes, pick(a, b, typename P::template ToPairs<P::kLanes>{}));
  }
  return k;
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

// Pixels 0, 2, 4, ... to even and 1, 3, 5, ... to odd. Reads and writes up to 64 bytes beyond.
template <class A>
inline void split(const A* src, A* even, A* odd, int64_t pairs, int64_t channels) {
  if (channels == 1) return split_items(src, even, odd, pairs);
  if constexpr (kPicks) {
    int64_t done = 0;
    if (channels == 3) done = split_vectors<3>(src, even, odd, pairs);
    if (channels == 4) done = split_vectors<4>(src, even, odd, pairs);
    src += 2 * done * channels;
    even += done * channels;
    odd += done * channels;
    pairs -= done;
  }
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

// The reverse of split.
template <class A>
inline void merge(const A* even, const A* odd, A* dst, int64_t pairs, int64_t channels) {
  if (channels == 1) return merge_items(even, odd, dst, pairs);
  if constexpr (kPicks) {
    int64_t done = 0;
    if (channels == 3) done = merge_vectors<3>(even, odd, dst, pairs);
    if (channels == 4) done = merge_vectors<4>(even, odd, dst, pairs);
    even += done * channels;
    odd += done * channels;
    dst += 2 * done * channels;
    pairs -= done;
  }
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

// A pixel of three or four channels, and in the first case an item of the next pixel.
constexpr int kPixelLanes = 4;
template <class A>
using Pixel = stdx::simd<A, stdx::simd_abi::deduce_t<A, kPixelLanes>>;

template <class A>
inline bool by_pixel(int64_t channels) {
  return !kPicks && std::is_floating_point_v<A> && (channels == 3 || channels == kPixelLanes);
}

// dst[k] = v[2 k] + 4 v[2 k + 1] + 6 v[2 k + 2] + 4 v[2 k + 3] + v[2 k + 4], over 256, in pixels.
template <int kChannels, class A>
inline void down_pixels(const A* v, A* dst, int64_t count) {
  using P = Pixel<A>;
  const auto at = [&](int64_t k) { return load<P>(v + k * kChannels); };
  const auto taps = [](const P& a, const P& b, const P& c, const P& d, const P& e) {
    return ((a + e) + A(4) * (b + d) + A(6) * c) * A(1.0 / 256.0);
  };
  P a = at(0);
  P b = at(1);
  P c = at(2);
  int64_t k = 0;
  // The excess of a store is overwritten by the next one; the last pixel has none.
  for (; k + 2 < count; k += 2) {
    const P d = at(2 * k + 3);
    const P e = at(2 * k + 4);
    const P f = at(2 * k + 5);
    const P g = at(2 * k + 6);
    store(dst + k * kChannels, taps(a, b, c, d, e));
    store(dst + (k + 1) * kChannels, taps(c, d, e, f, g));
    a = e;
    b = f;
    c = g;
  }
  for (; k < count; ++k) {
    const P sum = taps(at(2 * k), at(2 * k + 1), at(2 * k + 2), at(2 * k + 3), at(2 * k + 4));
    store_partial(dst + k * kChannels, sum, kChannels);
  }
}

// A row of `count` pixels doubled: dst[2 k] = (v[k - 1] + 6 v[k] + v[k + 1]) / 8 and
// dst[2 k + 1] = (v[k] + v[k + 1]) / 2, in pixels. Writes an item beyond the last if there are
// three channels.
template <int kChannels, class A>
inline void up_pixels(const A* v, A* dst, int64_t count) {
  using P = Pixel<A>;
  const auto at = [&](int64_t k) { return load<P>(v + k * kChannels); };
  const auto put = [&](int64_t k, const P& left, const P& centre, const P& right) {
    store(dst + 2 * k * kChannels, (left + right + A(6) * centre) * A(1.0 / 8.0));
    store(dst + (2 * k + 1) * kChannels, (centre + right) * A(1.0 / 2.0));
  };
  const int64_t last = count - 1;
  const P end = load_partial<P>(v + last * kChannels, kChannels);
  if (last == 0) return put(0, end, end, end);
  P left = before(0, count) == last ? end : at(before(0, count));
  P centre = at(0);
  int64_t k = 0;
  for (; k + 2 < last; k += 2) {
    const P next = at(k + 1);
    const P after_next = at(k + 2);
    put(k, left, centre, next);
    put(k + 1, centre, next, after_next);
    left = next;
    centre = after_next;
  }
  for (; k < last; ++k) {
    const P right = k + 1 < last ? at(k + 1) : end;
    put(k, left, centre, right);
    left = centre;
    centre = right;
  }
  put(last, left, end, end);
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

// Produces single rows of down(plane); cheapest in ascending order.
template <class S, class A, class D>
class DownRows {
 public:
  DownRows(const Plane& plane, RowReader<S>& read, Arena& arena)
      : plane_(plane),
        read_(read),
        columns_{arena.take<A>(buffer_items<A>(plane.width, plane.channels)),
                 arena.take<A>(buffer_items<A>(plane.width, plane.channels))},
        even_(arena.take<A>(buffer_items<A>(half(plane.width), plane.channels))),
        odd_(arena.take<A>(buffer_items<A>(half(plane.width), plane.channels))),
        row_(arena.take<D>(buffer_items<D>(half(plane.width), plane.channels))) {}

  static int64_t scratch_bytes(const Plane& plane) {
    return 2 * Arena::bytes<A>(buffer_items<A>(plane.width, plane.channels)) +
           2 * Arena::bytes<A>(buffer_items<A>(half(plane.width), plane.channels)) +
           Arena::bytes<D>(buffer_items<D>(half(plane.width), plane.channels));
  }

  void operator()(int64_t i, D* dst) {
    const int64_t c = plane_.channels;
    const int64_t out_width = half(plane_.width);
    const A* columns = column_sums(i);
    if constexpr (std::is_same_v<A, D>) {
      if (by_pixel<A>(c)) {
        return c == 3 ? down_pixels<3>(columns, dst, out_width)
                      : down_pixels<kPixelLanes>(columns, dst, out_width);
      }
    }
    // even_ holds pixels -2, 0, 2, ... and odd_ holds -1, 1, 3, ...
    split(columns, even_, odd_, out_width + 2, c);

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
  // The taps down the columns for row i of the result, from pixel -2 of the source to two beyond.
  const A* column_sums(int64_t i) {
    if (i == next_) return columns_[1];
    next_ = i + 1;
    const S* rows[7];
    for (int64_t k = 0; k < 7; ++k) rows[k] = read_(reflect101(2 * i - 2 + k, plane_.height));
    const int64_t c = plane_.channels;
    const int64_t w = plane_.width;
    column_taps(rows, columns_[0] + 2 * c, columns_[1] + 2 * c, w * c);
    for (A* columns : columns_) {
      A* v = columns + 2 * c;
      for (const int64_t x : {int64_t{-2}, int64_t{-1}, w, w + 1}) {
        std::copy_n(v + reflect101(x, w) * c, c, v + x * c);
      }
    }
    return columns_[0];
  }

  const Plane& plane_;
  RowReader<S>& read_;
  A* columns_[2];
  A* even_;
  A* odd_;
  D* row_;
  int64_t next_ = -1;  // the row whose sums columns_[1] holds
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
        stride_(buffer_items<A>(2 * source_width, channels)),
        padded_(arena.take<A>(buffer_items<A>(source_width, channels))),
        even_(arena.take<A>(buffer_items<A>(source_width, channels))),
        odd_(arena.take<A>(buffer_items<A>(source_width, channels))),
        widened_(arena.take<A>(kKept * stride_)) {
    std::fill(rows_, rows_ + kKept, int64_t{-1});
  }

  static int64_t scratch_bytes(int64_t source_width, int64_t channels) {
    return 3 * Arena::bytes<A>(buffer_items<A>(source_width, channels)) +
           Arena::bytes<A>(kKept * buffer_items<A>(2 * source_width, channels));
  }

  // Row y of the result, for rows in ascending order: calls f(u), where u(k) is the vector of items
  // from k on, for any k inside the row. `source(i)` gives row i of the source, and is called once
  // for each.
  template <class Source, class F>
  void operator()(int64_t y, Source&& source, F&& f) {
    if (y == 2 * h_) y -= 2;
    const int64_t i = y / 2;
    // In the order of rows, but for the reflected one at the upper border.
    const A* above = y % 2 == 0 ? widened(before(i, h_), source) : nullptr;
    const A* here = widened(i, source);
    const A* below = widened(after(i, h_), source);
    using V = Vec<A>;
    const A six = 6;
    const A four = 4;
    if (y % 2 == 0) {
      f([=](int64_t k) {
        const V sum = load<V>(above + k) + load<V>(below + k) + six * load<V>(here + k);
        if constexpr (std::is_same_v<A, uint16_t>) return V((sum + A{32}) >> 6);
        return V(sum * A(1.0 / 8.0));
      });
    } else {
      f([=](int64_t k) {
        const V sum = load<V>(here + k) + load<V>(below + k);
        if constexpr (std::is_same_v<A, uint16_t>) return V((four * sum + A{32}) >> 6);
        return V(sum * A(1.0 / 2.0));
      });
    }
  }

 private:
  static constexpr int64_t kKept = 4;  // three are in use; a power of two

  // Row i of the source doubled along the row: times 8 if uint16_t.
  template <class Source>
  const A* widened(int64_t i, Source&& source) {
    A* row = widened_ + i % kKept * stride_;
    if (rows_[i % kKept] != i) {
      rows_[i % kKept] = i;
      widen(source(i), row);
    }
    return row;
  }

  void widen(const S* source, A* row) {
    if constexpr (std::is_same_v<S, A>) {
      if (by_pixel<A>(c_)) {
        c_ == 3 ? up_pixels<3>(source, row, w_) : up_pixels<kPixelLanes>(source, row, w_);
        return repeat_last_column(row);
      }
    }
    using V = Vec<A>;
    constexpr int64_t kLanes = static_cast<int64_t>(V::size());
    const int64_t n = w_ * c_;
    A* v = padded_ + c_;
    if (n < kLanes) {
      store(v, load_partial<V>(source, n));
    } else {
      for_each_vector<V>(n, [&](int64_t k) { store(v + k, load<V>(source + k)); });
    }
    std::copy_n(v + before(0, w_) * c_, c_, v - c_);
    std::copy_n(v + after(w_ - 1, w_) * c_, c_, v + n);
    const A six = 6;
    const A four = 4;
    for (int64_t k = 0; k < n; k += kLanes) {
      const V left = load<V>(v + k - c_);
      const V centre = load<V>(v + k);
      const V right = load<V>(v + k + c_);
      if constexpr (std::is_same_v<A, uint16_t>) {
        store(even_ + k, left + right + six * centre);
        store(odd_ + k, four * (centre + right));
      } else {
        store(even_ + k, (left + right + six * centre) * A(1.0 / 8.0));
        store(odd_ + k, (centre + right) * A(1.0 / 2.0));
      }
    }
    merge(even_, odd_, row, w_, c_);
    repeat_last_column(row);
  }

  // One column more than twice: OpenCV repeats the last column, but the last even row.
  void repeat_last_column(A* row) const {
    if (width_ == 2 * w_ + 1) std::copy_n(row + (2 * w_ - 1) * c_, c_, row + 2 * w_ * c_);
  }

  const int64_t h_;
  const int64_t w_;
  const int64_t width_;
  const int64_t c_;
  const int64_t stride_;
  A* padded_;
  A* even_;
  A* odd_;
  A* widened_;
  int64_t rows_[kKept];
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
