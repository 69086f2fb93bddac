// One query, or a few that share a key head: nothing to multiply by tiles, all time is in reading
// keys and values once. Vectors run along the head size. A call takes one part of the keys, so that
// threads split S; merge_kernel adds the parts up. Scores are in units of log2.
#include <cmath>
#include <limits>

#include "core/math.h"
#include "core/tile.h"
#include "core/transpose.h"
#include "ops/attention/attention.h"
#include "ops/attention/decode.h"

namespace marey::MAREY_ISA_NS {
namespace {

constexpr double kLog2E = 1.4426950408889634074;
// Keys whose scores are computed together: as many chains of sums as hide the latency of one.
constexpr int kTogether = 4;
// Rows are fetched so many before they are used: the processor's own fetching waits for the loads,
// which come late where bfloat16 is widened between them, and stops at the end of a page.
constexpr int64_t kAhead = 32;
// Values that all rows read one after the other: 32 KiB of float32 of size 128.
constexpr int64_t kValuesTogether = 64;

// As many items of S as a register has, as vectors of T: bfloat16 gives the even ones and the odd
// ones, which takes one instruction for each, where neighbours in order take two and a load.
template <class S, class T>
struct Chunk {
  using V = Vec<T>;
  static constexpr int W = kLanesOf<T>;
  static constexpr int kParts = static_cast<int>(sizeof(T) / sizeof(S));
  static constexpr int64_t kItems = kParts * W;

  V part[kParts];

  static Chunk whole(const S* p) {
    Chunk chunk;
    if constexpr (kParts == 2) {
      using Bits = stdx::rebind_simd_t<uint32_t, V>;
      using Raw [[gnu::vector_size(sizeof(V))]] = uint32_t;
      Raw pairs;  // as aligned as a bfloat16
      std::memcpy(&pairs, p, sizeof pairs);
      const Bits bits = std::bit_cast<Bits>(pairs);
      chunk.part[0] = std::bit_cast<V>(bits << 16);
      chunk.part[1] = std::bit_cast<V>(bits & 0xFFFF0000U);
    } else {
      chunk.part[0] = marey::MAREY_ISA_NS::load<V>(p);
    }
    return chunk;
  }
  // The first `count` items, then zeros.
  static Chunk padded(const S* p, int64_t count) {
    alignas(64) S items[kItems] = {};
    std::memcpy(items, p, static_cast<std::size_t>(count) * sizeof(S));
    return whole(items);
  }
  // Where item d of a row stands among its parts.
  static int64_t place(int64_t d) {
    const int64_t item = d % kItems;
    return d - item + item % kParts * W + item / kParts;
  }
};

// scores[s] = q . k[s] for as many keys as a vector has lanes, of which the first `count` exist:
// the last one stands in for the others. `q` is in the places of chunks, padded with zeros. The
// sums of a key are added up across keys, with a third of the instructions that one by one takes.
template <class S, class T>
[[gnu::noinline, gnu::flatten]] void dot(const T* q, const S* k, int64_t stride, int64_t count,
                                         int64_t depth, T* scores) {
  using V = Vec<T>;
  using C = Chunk<S, T>;
  constexpr int W = C::W;
  constexpr int kCount = W < kTogether ? W : kTogether;
  V all[W];
  const int64_t ahead = kAhead * stride;
#pragma GCC unroll 4
  for (int first = 0; first < W; first += kCount) {
    const S* row[kCount];
    for (int i = 0; i < kCount; ++i) {
      row[i] = k + (first + i < count ? first + i : count - 1) * stride;
    }
    V sum[kCount];
#pragma GCC unroll 4
    for (int i = 0; i < kCount; ++i) sum[i] = V(T(0));
    const auto step = [&](int64_t d, const auto& chunk) {
      V x[C::kParts];
#pragma GCC unroll 2
      for (int j = 0; j < C::kParts; ++j) x[j] = load<V>(q + d + j * W);
#pragma GCC unroll 4
      for (int i = 0; i < kCount; ++i) {
        __builtin_prefetch(row[i] + ahead + d);
        const C y = chunk(row[i]);
#pragma GCC unroll 2
        for (int j = 0; j < C::kParts; ++j) sum[i] += x[j] * y.part[j];
      }
    };
    int64_t d = 0;
    for (; d + C::kItems <= depth; d += C::kItems) {
      step(d, [d](const S* at) { return C::whole(at + d); });
    }
    if (d < depth) step(d, [d, depth](const S* at) { return C::padded(at + d, depth - d); });
#pragma GCC unroll 4
    for (int i = 0; i < kCount; ++i) all[first + i] = sum[i];
  }
  store(scores, sum_of_lanes<T>(all));
}

// out += sum over keys of p[s] v[s], for kChunks chunks of the head size, whose sums stay in
// registers while the keys pass, in the order in which they lie. Where a row is short, several keys
// at once have sums of their own, as many chains as hide the latency of one.
template <int kChunks, class S, class T, class Load>
[[gnu::noinline, gnu::flatten]] void add_values(const T* p, const S* v, int64_t stride,
                                                int64_t count, T* out, const Load& chunk) {
  using V = Vec<T>;
  using C = Chunk<S, T>;
  constexpr int kSets = kChunks * C::kParts < 8 ? 8 / (kChunks * C::kParts) : 1;
  V sum[kSets][kChunks][C::kParts];
#pragma GCC unroll 8
  for (int set = 0; set < kSets; ++set) {
#pragma GCC unroll 8
    for (int c = 0; c < kChunks; ++c) {
#pragma GCC unroll 2
      for (int j = 0; j < C::kParts; ++j) sum[set][c][j] = V(T(0));
    }
  }
  const auto step = [&](int64_t s, int set) {
    const V weight(p[s]);
#pragma GCC unroll 8
    for (int c = 0; c < kChunks; ++c) {
      __builtin_prefetch(v + (s + kAhead) * stride + c * C::kItems);
      const C x = chunk(v + s * stride + c * C::kItems);
#pragma GCC unroll 2
      for (int j = 0; j < C::kParts; ++j) sum[set][c][j] += weight * x.part[j];
    }
  };
  int64_t s = 0;
  for (; s + kSets <= count; s += kSets) {
#pragma GCC unroll 8
    for (int set = 0; set < kSets; ++set) step(s + set, set);
  }
  for (; s < count; ++s) step(s, 0);
#pragma GCC unroll 8
  for (int c = 0; c < kChunks; ++c) {
#pragma GCC unroll 2
    for (int j = 0; j < C::kParts; ++j) {
#pragma GCC unroll 8
      for (int set = 1; set < kSets; ++set) sum[0][c][j] += sum[set][c][j];
      T* at = out + (c * C::kParts + j) * C::W;
      store(at, load<V>(at) + sum[0][c][j]);
    }
  }
}

// The same for rows of any size.
template <class S, class T>
void add_rows(const T* p, const S* v, int64_t stride, int64_t count, int64_t depth, T* out) {
  using C = Chunk<S, T>;
  const auto whole = [](const S* at) { return C::whole(at); };
  int64_t d = 0;
  const auto panels = [&]<int kChunks>() {
    for (; d + kChunks * C::kItems <= depth; d += kChunks * C::kItems) {
      add_values<kChunks, S, T>(p, v + d, stride, count, out + d, whole);
    }
  };
  panels.template operator()<8 / C::kParts>();
  panels.template operator()<4 / C::kParts>();
  panels.template operator()<1>();
  if (d == depth) return;
  const int64_t left = depth - d;
  add_values<1, S, T>(p, v + d, stride, count, out + d,
                      [left](const S* at) { return C::padded(at, left); });
}

template <class S, class T>
[[gnu::flatten]] void run(const AttentionRows& p, int64_t first, int64_t last, T* partial) {
  using V = Vec<T>;
  constexpr int W = kLanesOf<T>;
  const int64_t rows = p.end - p.begin;
  using C = Chunk<S, T>;
  const int64_t padded = (p.depth + C::kItems - 1) / C::kItems * C::kItems;
  const int64_t pitch = decode_pitch(p.value_depth);
  T* const q = reinterpret_cast<T*>(p.scratch);
  T* const scores = q + rows * padded;
  const auto* keys = static_cast<const S*>(p.k.data);
  const auto* values = static_cast<const S*>(p.v.data);
  const double factor = p.softcap > 0 ? p.scale / p.softcap : p.scale * kLog2E;
  const T lowest = -std::numeric_limits<T>::infinity();

  struct Range {
    int64_t first, last;
  } reach[kDecodeRows];
  for (int64_t r = 0; r < rows; ++r) {
    const int64_t head = (p.begin + r) / p.queries;
    const int64_t l = (p.begin + r) % p.queries;
    const S* from = static_cast<const S*>(p.q.data) + head * p.q.head + l * p.q.row;
    for (int64_t d = 0; d < padded; ++d) {
      q[r * padded + C::place(d)] =
          d < p.depth ? convert<T>(from[d * p.q.item]) * static_cast<T>(factor) : T(0);
    }
    const int64_t place = l + p.offset;
    const int64_t low = place - p.left > first ? place - p.left : first;
    const int64_t high = place + p.right + 1 < last ? place + p.right + 1 : last;
    reach[r] = {low < last ? low : last, high > first ? high : first};
  }

  // Keys are read once for all rows: a vector's lanes of them stay in the first-level cache.
  for (int64_t s = first; s < last; s += W) {
    for (int64_t r = 0; r < rows; ++r) {
      dot<S, T>(q + r * padded, keys + s * p.k.row, p.k.row, last - s, p.depth,
                scores + r * kDecodeKeys + (s - first));
    }
  }

  const int64_t count = last - first;
  for (int64_t r = 0; r < rows; ++r) {
    T* x = scores + r * kDecodeKeys;
    const int64_t head = (p.begin + r) / p.queries;
    const int64_t l = (p.begin + r) % p.queries;
    for (int64_t i = count; i % W != 0; ++i) x[i] = lowest;
    if (p.softcap > 0) {
      const V cap(static_cast<T>(p.softcap * kLog2E));
      for (int64_t i = 0; i < count; i += W) store(x + i, math::tanh<T>(load<V>(x + i)) * cap);
      for (int64_t i = count; i % W != 0; ++i) x[i] = lowest;
    }
    if (p.bias.data != nullptr) {
      const T* bias = static_cast<const T*>(p.bias.data) + head * p.bias.head + l * p.bias.row;
      for (int64_t i = 0; i < count; ++i) {
        x[i] += bias[(first + i) * p.bias.item] * static_cast<T>(kLog2E);
      }
    }
    if (p.mask.data != nullptr) {
      const auto* mask =
          static_cast<const uint8_t*>(p.mask.data) + head * p.mask.head + l * p.mask.row;
      for (int64_t i = 0; i < count; ++i) {
        if (mask[(first + i) * p.mask.item] == 0) x[i] = lowest;
      }
    }
    for (int64_t i = first; i < reach[r].first; ++i) x[i - first] = lowest;
    for (int64_t i = reach[r].last > first ? reach[r].last : first; i < last; ++i) {
      x[i - first] = lowest;
    }

    V highest(lowest);
    for (int64_t i = 0; i < count; i += W) highest = stdx::max(highest, load<V>(x + i));
    const T top = stdx::hmax(highest);
    const V subtract(top == lowest ? T(0) : top);
    V total(T(0));
    for (int64_t i = 0; i < count; i += W) {
      const V e = math::exp2_nonpositive<T>(load<V>(x + i) - subtract);
      store(x + i, e);
      total += e;
    }
    T* to = partial + r * pitch;
    to[0] = top;
    to[1] = stdx::reduce(total);
    for (int64_t d = kDecodeHeader; d < pitch; ++d) to[d] = T(0);
  }

  for (int64_t s = 0; s < count; s += kValuesTogether) {
    const int64_t these = count - s < kValuesTogether ? count - s : kValuesTogether;
    for (int64_t r = 0; r < rows; ++r) {
      add_rows<S, T>(scores + r * kDecodeKeys + s, values + (first + s) * p.v.row, p.v.row, these,
                     p.value_depth, partial + r * pitch + kDecodeHeader);
    }
  }
}

template <class S, class T>
void decode(const AttentionRows& rows, int64_t first, int64_t last, void* partial) {
  run<S, T>(rows, first, last, static_cast<T*>(partial));
}

// The parts of one row, which lie `stride` apart, in the order of their keys.
template <class S, class T>
[[gnu::flatten]] void merge(const AttentionRows& p, const void* parts, int64_t count,
                            int64_t stride) {
  constexpr double kLn2 = 0.6931471805599453094;
  const T lowest = -std::numeric_limits<T>::infinity();
  const int64_t pitch = decode_pitch(p.value_depth);
  for (int64_t r = 0; r < p.end - p.begin; ++r) {
    const T* part = static_cast<const T*>(parts) + r * pitch;
    T top = lowest;
    for (int64_t c = 0; c < count; ++c) {
      const T here = part[c * stride];
      top = here > top || here != here ? here : top;
    }
    const T subtract = top == lowest ? T(0) : top;
    T* sum = reinterpret_cast<T*>(p.scratch);
    const int64_t padded = pitch - kDecodeHeader;
    for (int64_t d = 0; d < padded; ++d) sum[d] = T(0);
    T total = T(0);
    for (int64_t c = 0; c < count; ++c) {
      const T* one = part + c * stride;
      const Vec<T> decay = math::exp2_nonpositive<T>(Vec<T>(one[0] - subtract));
      const T weight = decay[0];
      total += one[1] * weight;
      for (int64_t d = 0; d < padded; ++d) sum[d] += one[kDecodeHeader + d] * weight;
    }
    const int64_t head = (p.begin + r) / p.queries;
    const int64_t l = (p.begin + r) % p.queries;
    const T inverse = total == T(0) ? T(0) : T(1) / total;
    S* out = static_cast<S*>(p.out.data) + head * p.out.head + l * p.out.row;
    for (int64_t d = 0; d < p.value_depth; ++d) {
      assign(out[d * p.out.item], sum[Chunk<S, T>::place(d)] * inverse);
    }
    if (p.lse.data != nullptr) {
      static_cast<T*>(p.lse.data)[head * p.lse.head + l * p.lse.row] =
          total == T(0)
              ? lowest
              : static_cast<T>(static_cast<double>(top) * kLn2 + ::log(static_cast<double>(total)));
    }
  }
}

}  // namespace

DecodeKernel select_decode(DType dtype) {
  switch (dtype) {
    case DType::f32:
      return {decode<float, float>, merge<float, float>};
    case DType::f64:
      return {decode<double, double>, merge<double, double>};
    case DType::bf16:
      return {decode<bfloat16, float>, merge<bfloat16, float>};
    default:
      return {};
  }
}

}  // namespace marey::MAREY_ISA_NS
