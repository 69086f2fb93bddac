#pragma once
// Rows split into even and odd pixels, and merged again.
#include <algorithm>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <utility>

#include "core/simd.h"

namespace marey::MAREY_ISA_NS {

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

  // Of one vector of the first pixels of pairs and one of the second, what stands from item kFrom
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

// Returns how many pairs it did; the rest is less than a vector.
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

// Lanes of every_second: where in a row the even pixels stand (kWhich = 0), or the odd ones (1).
template <int kChannels, int kWhich, int kPart, int kLanes>
struct EverySecond {
  static constexpr int item(int lane) {
    const int k = kPart * kLanes + lane;
    return (2 * (k / kChannels) + kWhich) * kChannels + k % kChannels;
  }
  // They come from two vectors or three.
  static constexpr int first() { return item(0) / kLanes; }
  static constexpr int last() { return item(kLanes - 1) / kLanes; }
  static constexpr int in_third(int lane) { return item(lane) - (first() + 2) * kLanes; }

  struct FromTwo {
    constexpr int operator()(int lane) const {
      return in_third(lane) < 0 ? item(lane) - first() * kLanes : 0;
    }
  };
  struct WithThird {
    constexpr int operator()(int lane) const {
      return in_third(lane) < 0 ? lane : kLanes + in_third(lane);
    }
  };
};

// Of a piece of a row, 2 kChannels vectors, vector kPart of its even or its odd pixels.
template <int kChannels, int kWhich, int kPart, class A>
inline Vec<A> every_second(const Vec<A> (&piece)[2 * kChannels]) {
  using E = EverySecond<kChannels, kWhich, kPart, static_cast<int>(Vec<A>::size())>;
  const Vec<A> two = pick(piece[E::first()], piece[E::first() + 1], typename E::FromTwo{});
  if constexpr (E::last() == E::first() + 1) {
    return two;
  } else {
    static_assert(E::last() == E::first() + 2);
    return pick(two, piece[E::last()], typename E::WithThird{});
  }
}

// The piece's even and odd pixels, kChannels vectors of each.
template <int kChannels, class A>
inline void split_piece(const Vec<A> (&piece)[2 * kChannels], A* even, A* odd) {
  constexpr auto kLanes = Vec<A>::size();
  [&]<std::size_t... kPart>(std::index_sequence<kPart...>) {
    (store(even + kPart * kLanes, every_second<kChannels, 0, kPart, A>(piece)), ...);
    (store(odd + kPart * kLanes, every_second<kChannels, 1, kPart, A>(piece)), ...);
  }(std::make_index_sequence<kChannels>{});
}

// Returns how many pairs it did: whole pieces.
template <int kChannels, class A>
inline int64_t split_vectors(const A* src, A* even, A* odd, int64_t pairs) {
  using V = Vec<A>;
  constexpr int64_t kLanes = static_cast<int64_t>(V::size());
  int64_t k = 0;
  for (; k + kLanes <= pairs; k += kLanes) {
    V piece[2 * kChannels];
    for (int v = 0; v < 2 * kChannels; ++v) {
      piece[v] = load<V>(src + 2 * k * kChannels + v * kLanes);
    }
    split_piece<kChannels, A>(piece, even + k * kChannels, odd + k * kChannels);
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

}  // namespace marey::MAREY_ISA_NS
