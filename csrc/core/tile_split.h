#pragma once
// Products of float32 by the tiles of Intel's AMX, for kernel files.
//
// A float32 is the sum of three bfloat16, of 8 bits each: x = x0 + x1 + x2, where x0 is x cut off,
// x1 the rest rounded and x2 what is left, exactly. Of the nine products of parts six are taken,
//
//   a b = a0 b0 + a0 b1 + a1 b0 + a1 b1 + a0 b2 + a2 b0
//
// and what is dropped is below 2^-22 |a b|, of either sign. A tile instruction is sixteen times as
// fast as multiply-adds of vectors, six of them 2.7 times. It sums 32 products before it adds them
// to a float32: a result is closer to the exact one than that of a chain of fused multiply-adds
// (tests/test_split.py).
//
// The instruction takes denormals as zeros and makes none. So numbers lose what of them is below
// 2^-126; products of less than 2^-102 lose their last parts, and results below 2^-126 are zero.
//
// Infinite and NaN operands make the rest of a number NaN, and the largest sums may overflow in
// parts: sums that are not finite are taken again, by multiply-adds of the numbers that the parts
// make. So no result depends on the rows beside it. (A signalling NaN whose upper half is that of
// an infinity passes for one; arithmetic makes none.)
//
// A step is 32 items of the depth, which zeros fill up:
//   rows of A    [step][part][32 items]
//   panels of B  [step][part][16 pairs][lanes]
#include <algorithm>

#include "core/tile.h"

namespace marey::MAREY_ISA_NS {

inline constexpr int64_t kSplitDepth = 2 * kTileItems;
inline constexpr int64_t kSplitStep = kSplitParts * kSplitDepth;  // items of a row in a step

constexpr int64_t split_steps(int64_t depth) { return (depth + kSplitDepth - 1) / kSplitDepth; }

// Rows up to a multiple of sixteen are read, whatever they hold. `stride` counts items of bfloat16.
struct SplitRows {
  const bfloat16* data;
  int64_t stride;
  SplitRows below(int64_t rows) const { return {data + rows * stride, stride}; }
};

// The parts of 16 numbers, each in the upper half of its lane.
struct Parts {
  __m512i of[kSplitParts];
};

// What splits numbers.
struct Halves {
  __m512i upper = _mm512_set1_epi32(static_cast<int>(0xFFFF0000U));
  __m512i rounding = _mm512_set1_epi32(0x8000);
  __mmask32 high = 0xAAAAAAAAU;
};

[[gnu::always_inline]] inline Parts parts_of(__m512 x, const Halves& halves = {}) {
  const __m512i upper = halves.upper;
  const __m512i first = _mm512_and_si512(_mm512_castps_si512(x), upper);
  const __m512 rest = _mm512_sub_ps(x, _mm512_castsi512_ps(first));
  const __m512i rounded = _mm512_add_epi32(_mm512_castps_si512(rest), halves.rounding);
  const __m512i second = _mm512_and_si512(rounded, upper);
  const __m512 left = _mm512_sub_ps(rest, _mm512_castsi512_ps(second));
  return {{first, second, _mm512_castps_si512(left)}};
}

// One part of 32 numbers.
[[gnu::always_inline]] inline __m512i step_of(const Parts& low, const Parts& high, int part) {
  alignas(64) static constexpr uint16_t kUpperHalves[32] = {
      1,  3,  5,  7,  9,  11, 13, 15, 17, 19, 21, 23, 25, 27, 29, 31,
      33, 35, 37, 39, 41, 43, 45, 47, 49, 51, 53, 55, 57, 59, 61, 63};
  return _mm512_permutex2var_epi16(low.of[part], _mm512_load_si512(kUpperHalves), high.of[part]);
}

// 32 numbers of a row: a step of it.
[[gnu::always_inline]] inline void store_split(__m512 low, __m512 high, bfloat16* to) {
  const Parts a = parts_of(low);
  const Parts b = parts_of(high);
#pragma GCC unroll 3
  for (int part = 0; part < kSplitParts; ++part) {
    _mm512_storeu_si512(to + part * kSplitDepth, step_of(a, b, part));
  }
}

// The first `count` of 16 numbers `step` apart, beside zeros.
[[gnu::always_inline]] inline __m512 load_some(const float* from, int64_t step, int64_t count) {
  if (count <= 0) return _mm512_setzero_ps();
  if (step == 1) {
    if (count >= kTileItems) return _mm512_loadu_ps(from);
    return _mm512_maskz_loadu_ps(static_cast<__mmask16>((1U << count) - 1U), from);
  }
  alignas(64) float items[kTileItems] = {};
  for (int64_t i = 0; i < std::min<int64_t>(count, kTileItems); ++i) items[i] = from[i * step];
  return _mm512_load_ps(items);
}

// to[i * pitch + j] = item i of vector(j): a square of sixteen.
template <class Vector>
[[gnu::always_inline]] inline void turn_square(const Vector& vector, float* to, int64_t pitch) {
  Vec<float> square[kTileItems];
#pragma GCC unroll 16
  for (int j = 0; j < kTileItems; ++j) square[j] = Vec<float>(vector(j));
  transpose<float>(square);
#pragma GCC unroll 16
  for (int i = 0; i < kTileItems; ++i) store(to + i * pitch, square[i]);
}

// Rows of A: item (i, k) is from[i * row_stride + k * item_stride].
[[gnu::noinline, gnu::flatten]] inline void split_rows(const float* from, int64_t row_stride,
                                                       int64_t item_stride, int64_t rows,
                                                       int64_t depth, bfloat16* to, int64_t pitch) {
  if (item_stride != 1 && row_stride == 1) {  // a transposed matrix: sixteen rows at a time
    alignas(64) float turned[kTileItems * kSplitDepth];
    for (int64_t i = 0; i < rows; i += kTileItems) {
      const int64_t count = std::min<int64_t>(kTileItems, rows - i);
      for (int64_t k = 0; k < depth; k += kSplitDepth) {
        for (int64_t half = 0; half < kSplitDepth; half += kTileItems) {
          const auto rows_of_item = [&](int j) {
            const int64_t item = k + half + j;
            return load_some(from + item * item_stride + i, 1, item < depth ? count : 0);
          };
          turn_square(rows_of_item, turned + half, kSplitDepth);
        }
        for (int64_t j = 0; j < count; ++j) {
          const float* row = turned + j * kSplitDepth;
          store_split(_mm512_load_ps(row), _mm512_load_ps(row + kTileItems),
                      to + (i + j) * pitch + k * kSplitParts);
        }
      }
    }
    return;
  }
  for (int64_t i = 0; i < rows; ++i, from += row_stride, to += pitch) {
    int64_t k = 0;
    if (item_stride == 1) {
      for (; k + kSplitDepth <= depth; k += kSplitDepth) {
        store_split(_mm512_loadu_ps(from + k), _mm512_loadu_ps(from + k + kTileItems),
                    to + k * kSplitParts);
      }
    }
    for (; k < depth; k += kSplitDepth) {
      const float* at = from + k * item_stride;
      store_split(load_some(at, item_stride, depth - k),
                  load_some(at + kTileItems * item_stride, item_stride, depth - k - kTileItems),
                  to + k * kSplitParts);
    }
  }
}

// The pairs of sixteen lanes, `stride` items of bfloat16 from one part to the next.
[[gnu::always_inline]] inline void store_split_pairs(__m512 low, __m512 high, void* to,
                                                     int64_t stride, const Halves& halves = {}) {
  const Parts lower = parts_of(low, halves);
  const Parts upper = parts_of(high, halves);
#pragma GCC unroll 3
  for (int part = 0; part < kSplitParts; ++part) {
    const __m512i pairs =
        _mm512_mask_blend_epi16(halves.high, _mm512_srli_epi32(lower.of[part], 16), upper.of[part]);
    _mm512_storeu_si512(static_cast<bfloat16*>(to) + part * stride, pairs);
  }
}

// A panel of B: item (k, lane) is from[k * depth_stride + lane * lane_stride]; lanes from `lanes`
// on are zeros.
template <int NV>
[[gnu::noinline, gnu::flatten]] void pack_split(const float* from, int64_t depth_stride,
                                                int64_t lane_stride, int64_t depth, int64_t lanes,
                                                Split* to) {
  constexpr int64_t kLanes = NV * kTileItems;
  alignas(64) float rows[kSplitDepth * kTileItems];
  for (int64_t k = 0; k < depth; k += kSplitDepth, to += kTileItems * kLanes) {
    for (int group = 0; group < NV; ++group) {
      const int64_t count = lanes - group * kTileItems;
      const float* at = from + k * depth_stride + group * kTileItems * lane_stride;
      Pair* pairs = reinterpret_cast<Pair*>(to) + group * kTileItems;
      if (lane_stride == 1 && count >= kTileItems && k + kSplitDepth <= depth) {
        for (int64_t i = 0; i < kTileItems; ++i, at += 2 * depth_stride, pairs += kLanes) {
          store_split_pairs(_mm512_loadu_ps(at), _mm512_loadu_ps(at + depth_stride), pairs,
                            2 * kTileItems * kLanes);
        }
        continue;
      }
      if (lane_stride == 1) {
        for (int64_t i = 0; i < kSplitDepth; ++i) {
          _mm512_store_ps(rows + i * kTileItems,
                          load_some(at + i * depth_stride, 1, k + i < depth ? count : 0));
        }
      } else {
        for (int64_t half = 0; half < kSplitDepth; half += kTileItems) {
          const auto items_of_lane = [&](int j) {
            return load_some(at + j * lane_stride + half * depth_stride, depth_stride,
                             j < count ? depth - k - half : 0);
          };
          turn_square(items_of_lane, rows + half * kTileItems, kTileItems);
        }
      }
      for (int64_t i = 0; i < kTileItems; ++i, pairs += kLanes) {
        store_split_pairs(_mm512_load_ps(rows + 2 * i * kTileItems),
                          _mm512_load_ps(rows + (2 * i + 1) * kTileItems), pairs,
                          2 * kTileItems * kLanes);
      }
    }
  }
}

// What a product of split operands reads next, fetched to the first-level cache: some lines behind
// every tile instruction, which had better not follow each other at once (core/tile_amx.h).
struct Nearer {
  const char* a = nullptr;
  const char* b = nullptr;
  int64_t pitch = 0;  // bytes of a row of A
  int64_t part = 0;   // bytes from one part of A to the next
  void operator()() {
#pragma GCC unroll 3
    for (int i = 0; i < kSplitParts; ++i) {
      _mm_prefetch(a + i * part, _MM_HINT_T0);
      _mm_prefetch(b + i * 64, _MM_HINT_T0);
    }
    a += pitch;
    b += kSplitParts * 64;
    static_assert(kSplitDepth * sizeof(bfloat16) == 64);
  }
  void rows() {  // of A alone
#pragma GCC unroll 3
    for (int i = 0; i < kSplitParts; ++i) _mm_prefetch(a + i * part, _MM_HINT_T0);
    a += pitch;
  }
};

// Adds `steps` of the depth to the sums (core/tile_amx.h). Each tile is loaded behind the last
// product of the one that it replaces, and two products before its first. `pitch` of A in bytes,
// that of B is NV vectors. Where A is no SplitRows: `part_of_a` items from one part to the next,
// `step_of_a` from one step to the next. What is multiplied next begins at `next_a` and `next_b`:
// its lines are fetched at the end. `kTurned`: A and B have changed places, and the sums are those
// of the other way round in every bit. `beside` is called six times a step: the products leave
// most instructions of their cycles to others; what has work for more has it called behind every
// tile instruction.
template <int kBlocks, int NV, bool kTurned, class Beside>
[[gnu::always_inline]] inline void add_split(const bfloat16* a, int64_t pitch, const Split* b,
                                             int64_t steps, int64_t part_of_a, int64_t step_of_a,
                                             const bfloat16* next_a, const Split* next_b,
                                             Beside& beside) {
  constexpr int64_t kPitch = NV * kTilePitch;
  constexpr int64_t kPart = kTileItems * NV * kTileItems;  // pairs
  const auto* of_b = reinterpret_cast<const Pair*>(b);
  const auto* below =
      reinterpret_cast<const bfloat16*>(reinterpret_cast<const std::byte*>(a) + kTileItems * pitch);
  Nearer nearer{nullptr, nullptr, pitch, part_of_a * static_cast<int64_t>(sizeof(bfloat16))};
  // Inlined early, so that what they count stays in registers.
  const auto between = [&]() __attribute__((always_inline)) {
    if constexpr (requires { beside.work(); }) {
      nearer.rows();
      beside.work();
    } else {
      nearer();
    }
  };
  // NOLINTBEGIN(bugprone-macro-parentheses): the intrinsics take the numbers of tiles literally.
  const auto a_upper = [&](int part) __attribute__((always_inline)) {
    _tile_loadd(4, a + part * part_of_a, pitch);
    between();
  };
  const auto a_lower = [&](int part) __attribute__((always_inline)) {
    if constexpr (kBlocks > 1) {
      _tile_loadd(5, below + part * part_of_a, pitch);
      between();
    }
  };
  const auto b_left = [&](int part) __attribute__((always_inline)) {
    _tile_loadd(6, of_b + part * kPart, kPitch);
    between();
  };
  const auto b_right = [&](int part) __attribute__((always_inline)) {
    if constexpr (NV > 1) {
      _tile_loadd(7, of_b + part * kPart + kTileItems, kPitch);
      between();
    }
  };
  const auto upper_left = [&]() __attribute__((always_inline)) {
    _tile_dpbf16ps(0, 4, 6);
    between();
  };
  const auto upper_right = [&]() __attribute__((always_inline)) {
    if constexpr (NV > 1) {
      _tile_dpbf16ps(1, 4, 7);
      between();
    }
  };
  const auto lower_left = [&]() __attribute__((always_inline)) {
    if constexpr (kBlocks > 1) {
      _tile_dpbf16ps(2, 5, 6);
      between();
    }
  };
  const auto lower_right = [&]() __attribute__((always_inline)) {
    if constexpr (kBlocks > 1 && NV > 1) {
      _tile_dpbf16ps(3, 5, 7);
      between();
    }
  };
  // NOLINTEND
  const auto sometimes = [&]() __attribute__((always_inline)) {
    if constexpr (requires { beside(); }) beside();
  };
  const auto then_a = [&](int part) __attribute__((always_inline)) {
    upper_left();
    upper_right();
    a_upper(part);
    lower_left();
    lower_right();
    a_lower(part);
  };
  const auto then_b = [&](int part) __attribute__((always_inline)) {
    upper_left();
    lower_left();
    b_left(part);
    upper_right();
    lower_right();
    b_right(part);
  };
  if (steps == 0) return;
  // GCC's intrinsics for loads do not say that they read memory.
  asm volatile("" ::: "memory");
  // The next step's lines.
  const auto fetch_from = [&](bool last) __attribute__((always_inline)) {
    nearer.a = reinterpret_cast<const char*>(last ? next_a : a + step_of_a);
    nearer.b = reinterpret_cast<const char*>(last ? reinterpret_cast<const Pair*>(next_b)
                                                  : of_b + kSplitParts * kPart);
  };
  fetch_from(steps == 1);
  constexpr int kFirstA = kTurned ? 2 : 0;
  constexpr int kFirstB = kTurned ? 0 : 2;
  a_upper(kFirstA);
  b_left(kFirstB);
  a_lower(kFirstA);
  b_right(kFirstB);
  for (int64_t step = 1;; ++step) {
    fetch_from(step == steps);
    if constexpr (kTurned) {
      then_a(1);  // a2 b0
      sometimes();
      then_b(1);  // a1 b0
      sometimes();
      then_a(0);  // a1 b1
      sometimes();
      then_b(2);  // a0 b1
      sometimes();
      then_b(0);  // a0 b2
    } else {
      then_b(1);  // a0 b2
      sometimes();
      then_a(1);  // a0 b1
      sometimes();
      then_b(0);  // a1 b1
      sometimes();
      then_a(2);  // a1 b0
      sometimes();
      then_a(0);  // a2 b0
    }
    sometimes();  // and a0 b0
    upper_left();
    upper_right();
    sometimes();
    if (step == steps) {
      lower_left();
      lower_right();
      return;
    }
    a += step_of_a;
    below += step_of_a;
    of_b += kSplitParts * kPart;
    a_upper(kFirstA);
    lower_left();
    b_left(kFirstB);
    lower_right();
    a_lower(kFirstA);
    b_right(kFirstB);
  }
}

// Sixteen rows, or 32; the next ones meet the same panel.
template <int kBlocks, int NV, class Beside>
[[gnu::always_inline]] inline void add_split(const SplitRows& a, const Split* b, int64_t steps,
                                             Beside& beside) {
  add_split<kBlocks, NV, false>(a.data, a.stride * static_cast<int64_t>(sizeof(bfloat16)), b, steps,
                                kSplitDepth, kSplitStep, a.below(kBlocks * kTileItems).data, b,
                                beside);
}
template <int kBlocks, int NV, bool kTurned>
[[gnu::always_inline]] inline void add_split(const bfloat16* a, int64_t pitch, const Split* b,
                                             int64_t steps, int64_t part_of_a, int64_t step_of_a) {
  auto nothing = [] {};
  add_split<kBlocks, NV, kTurned>(a, pitch, b, steps, part_of_a, step_of_a, a, b, nothing);
}

// The numbers that three parts make. An infinite or NaN one is its first part.
template <class X>
[[gnu::always_inline]] inline X joined(const X& first, const X& second, const X& third) {
  const X rest = second + third;
  if constexpr (std::is_same_v<X, float>) {
    return first - first == 0.0F ? first + rest : first;
  } else {
    X whole = first + rest;
    stdx::where(!(first - first == X(0.0F)), whole) = first;
    return whole;
  }
}
inline float joined(bfloat16 first, bfloat16 second, bfloat16 third) {
  return joined(widen(first), widen(second), widen(third));
}

// Sixteen lanes of a panel of NV vectors at pair row `b`, of the items that stand low in their
// pairs or high.
template <int NV>
[[gnu::always_inline]] inline Vec<float> joined_lanes(const Pair* b, bool high) {
  using Bits = stdx::rebind_simd_t<uint32_t, Vec<float>>;
  constexpr int64_t kPart = kTileItems * NV * kTileItems;
  const auto part = [&](int i) {
    const Bits pairs = load<Bits>(reinterpret_cast<const uint32_t*>(b + i * kPart));
    return std::bit_cast<Vec<float>>(high ? pairs & Bits(0xFFFF0000U) : pairs << 16);
  };
  return joined(part(0), part(1), part(2));
}

// The sums of a row of A and sixteen lanes of a panel, by multiply-adds.
template <int NV>
[[gnu::noinline, gnu::cold]] Vec<float> split_sums(const bfloat16* a, const Pair* b,
                                                   int64_t steps) {
  Vec<float> sums(0.0F);
  for (int64_t step = 0; step < steps; ++step, a += kSplitStep) {
    for (int64_t k = 0; k < kSplitDepth; ++k) {
      const float item = joined(a[k], a[kSplitDepth + k], a[2 * kSplitDepth + k]);
      sums = fma(Vec<float>(item), joined_lanes<NV>(b + k / 2 * NV * kTileItems, k % 2 != 0), sums);
    }
    b += kSplitParts * kTileItems * NV * kTileItems;
  }
  return sums;
}

// Which of 16 sums are not finite.
inline __mmask16 not_finite(__m512 sums) { return _mm512_fpclass_ps_mask(sums, 0x99); }

// The first `rows` of sums to C, or added to it; what is not finite is summed again. `sums` may be
// C.
template <int NV>
[[gnu::always_inline]] inline void finish_split(int64_t rows, const SplitRows& a, const Split* b,
                                                int64_t steps, float* sums, float* c,
                                                bool accumulate) {
  constexpr int64_t kLanes = NV * kTileItems;
  for (int64_t i = 0; i < rows; ++i) {
#pragma GCC unroll 2
    for (int j = 0; j < NV; ++j) {
      float* from = sums + i * kLanes + j * kTileItems;
      const __mmask16 odd = not_finite(_mm512_loadu_ps(from));
      if (__builtin_expect(odd != 0, 0)) {
        const auto* lanes = reinterpret_cast<const Pair*>(b) + j * kTileItems;
        const Vec<float> again = split_sums<NV>(a.data + i * a.stride, lanes, steps);
        _mm512_mask_storeu_ps(from, odd, static_cast<__m512>(again));
      }
      if (sums == c) continue;
      __m512 sum = _mm512_loadu_ps(from);
      float* at = c + i * kLanes + j * kTileItems;
      if (accumulate) sum = _mm512_add_ps(_mm512_loadu_ps(at), sum);
      _mm512_storeu_ps(at, sum);
    }
  }
}

// Sixteen rows, or 32, of which the first `rows` are wanted.
template <int kBlocks, int NV, class Beside>
[[gnu::always_inline]] inline void split_rows_product(int64_t rows, const SplitRows& a,
                                                      const Split* b, int64_t steps, float* c,
                                                      bool accumulate, Beside& beside) {
  constexpr int64_t kLanes = NV * kTileItems;
  alignas(64) float sums[kBlocks * kTileItems * kLanes];
  float* to = accumulate || rows < kBlocks * kTileItems ? sums : c;
  zero_sums<kBlocks, NV>();
  add_split<kBlocks, NV>(a, b, steps, beside);
  store_sums<kBlocks, NV>(to, NV * kTilePitch);
  finish_split<NV>(rows, a, b, steps, to, c, accumulate);
}

// Fetches what a product reads later from the third-level cache: `bytes` a call.
struct Ahead {
  const char* next = nullptr;
  int64_t bytes = 0;
  void operator()() {
    for (int64_t i = 0; i < bytes; i += 64, next += 64) _mm_prefetch(next, _MM_HINT_T1);
  }
};

// As panel_product of core/tile.h; `steps` of the depth. With many rows, the panel that the thread
// multiplies next, if it says so, comes into the second-level cache meanwhile (a tenth faster where
// panels come from the third; with few rows the fetches are in the way).
template <int NV>
[[gnu::noinline, gnu::flatten]] void split_product(int64_t rows, SplitRows a, const Split* b,
                                                   int64_t steps, float* c, bool accumulate,
                                                   const Split* next = nullptr) {
  const TileRegion region;
  prepare_tiles();
  constexpr int64_t kBlock = 2 * kTileItems;
  constexpr int64_t kStepLines = kSplitParts * NV * kTileItems;
  Ahead ahead;
  if (const int64_t calls = 6 * ((rows + kBlock - 1) / kBlock); next != nullptr && calls >= 24) {
    ahead = {reinterpret_cast<const char*>(next), (kStepLines + calls - 1) / calls * 64};
  }
  for (; rows > kTileItems; rows -= kBlock, a = a.below(kBlock), c += kBlock * NV * kTileItems) {
    split_rows_product<2, NV>(std::min(rows, kBlock), a, b, steps, c, accumulate, ahead);
  }
  if (rows > 0) split_rows_product<1, NV>(rows, a, b, steps, c, accumulate, ahead);
}

}  // namespace marey::MAREY_ISA_NS
