#pragma once
// What the generic kernels of attention's gradients have in common: scores computed anew, pair by
// pair, from rows in shared memory. See attention_backward_cuda.cu.
#include <limits>

#include "cuda/bfloat16.h"
#include "cuda/math.h"
#include "ops/attention/attention_cuda.h"

namespace marey::cuda::backward {

inline constexpr int kWarps = 4;
inline constexpr int kThreads = 32 * kWarps;
inline constexpr int kLanes = 32;
inline constexpr double kLog2E = 1.4426950408889634074;

MAREY_HOST_DEVICE int odd(int items) { return items + 1 - items % 2; }

// One problem's arrays: a batch entry and a query head, or a key head.
struct Places {
  const BackwardArguments& a;
  int64_t of_forward[kAttentionArrays], of_gradient[kGradientArrays];
  int64_t head, key_head, query_base, key_base;

  MAREY_DEVICE Places(const BackwardArguments& arguments, int64_t batch)
      : a(arguments), head(0), key_head(0), query_base(0), key_base(0) {
    a.forward.batch.offsets(batch, of_forward);
    a.gradients.batch.offsets(batch, of_gradient);
  }
  MAREY_DEVICE char* forward(int array, int64_t row, int64_t item) const {
    const bool of_keys = array == kK || array == kV;
    return a.forward.at(of_forward, array, of_keys ? key_head : head,
                        row + (of_keys ? key_base : query_base), item);
  }
  MAREY_DEVICE char* gradient(int array, int64_t row, int64_t item) const {
    const bool of_keys = array == kGradK || array == kGradV;
    return a.gradients.at(of_gradient, array, of_keys ? key_head : head,
                          row + (of_keys ? key_base : query_base), item);
  }
};

// What a query has beside its row: P is exp2(score - top), and with no key it is nothing.
template <class T>
struct Query {
  T top, delta;
  bool any;
};

template <class T>
MAREY_DEVICE Query<T> query_of(const Places& p, int64_t problem, int64_t row, bool inside) {
  if (!inside) return {T{0}, T{0}, false};
  const T lse = *reinterpret_cast<const T*>(p.forward(kLse, row, 0));
  const T delta =
      reinterpret_cast<const T*>(p.a.delta)[problem * p.a.forward.queries + p.query_base + row];
  return {lse * static_cast<T>(kLog2E), delta, lse != -std::numeric_limits<T>::infinity()};
}

// What becomes of a score: `probability` is P, `gradient` dx, `of_score` the same before the
// softcap. All zero where the query does not see the key. Where it does, the arithmetic takes its
// course whatever P is: an infinite item of a key that is seen makes NaN beside a P of 0, as on the
// CPU, and that of a hidden one never does.
template <class T>
struct Pair {
  T probability, gradient, of_score;
  bool seen;
};

template <class T>
MAREY_DEVICE Pair<T> pair_of(const Places& p, const AttentionRange& range, const Query<T>& query,
                             int64_t row, int64_t key, bool inside, T product, T of_value) {
  const AttentionArguments& a = p.a.forward;
  bool seen = inside && query.any && range.sees(row, key);
  if (seen && a.data[kMask] != nullptr) seen = *p.forward(kMask, row, key) != 0;
  T bias{0};
  if (seen && a.data[kBias] != nullptr) {
    bias = *reinterpret_cast<const T*>(p.forward(kBias, row, key));
    seen = bias != -std::numeric_limits<T>::infinity();
  }
  if (!seen) return {T{0}, T{0}, T{0}, false};
  T x = product * static_cast<T>(a.softcap > 0 ? a.scale / a.softcap : a.scale * kLog2E);
  T slope{1};
  if (a.softcap > 0) {
    const T t = tanh_of(x);
    slope = T{1} - t * t;
    x = static_cast<T>(a.softcap * kLog2E) * t;
  }
  if (a.data[kBias] != nullptr) x += bias * static_cast<T>(kLog2E);
  const T probability = exp2_of(x - query.top);
  const T gradient = probability * (of_value - query.delta);
  return {probability, gradient, gradient * slope, true};
}

// Rows [first, first + count) of an array to shared memory, zeros from `end` on. The items of a row
// are spread over the lanes.
template <class S, class T, class At>
MAREY_DEVICE void load_rows(T* to_shared, int count, int pitch, int items, int64_t first,
                            int64_t end, const At& at) {
  for (int i = static_cast<int>(threadIdx.x); i < count * items; i += kThreads) {
    const int row = i / items;
    const int item = i - row * items;
    to_shared[row * pitch + item] =
        first + row < end ? to<T>(*reinterpret_cast<const S*>(at(first + row, item))) : T{0};
  }
}

// product[r] = this lane's row times row r of this warp.
template <int kRowsPerWarp, class T>
MAREY_DEVICE void multiply_rows(const T* own, const T* other, int items,
                                T (&product)[kRowsPerWarp]) {
#pragma unroll
  for (int r = 0; r < kRowsPerWarp; ++r) product[r] = T{0};
  for (int d = 0; d < items; ++d) {
    const T x = other[d];
#pragma unroll
    for (int r = 0; r < kRowsPerWarp; ++r) product[r] += own[r * items + d] * x;
  }
}

// Of every query its row of q and of the gradient; of every key its rows of k and v.
enum class Side { queries, keys };

// Shared memory: own rows of both depths, the others', and two weights for each pair.
template <class T, int kRowsPerWarp>
struct Shared {
  static constexpr int kRows = kWarps * kRowsPerWarp;
  int depth, value_depth;
  T *own, *own_value, *other, *other_value, *weights, *more_weights;

  MAREY_DEVICE explicit Shared(const AttentionArguments& f)
      : depth(f.depth), value_depth(f.value_depth) {
    own = shared_memory<T>();
    own_value = own + kRows * depth;
    other = own_value + kRows * value_depth;
    other_value = other + kLanes * odd(depth);
    weights = other_value + kLanes * odd(value_depth);
    more_weights = weights + kRows * kLanes;
  }
  static std::size_t bytes(int depth, int value_depth) {
    return sizeof(T) * static_cast<std::size_t>(kRows * (depth + value_depth + 2 * kLanes) +
                                                kLanes * (odd(depth) + odd(value_depth)));
  }

  // The two halves of what a block reads, from row `first`; zeros from `end` on.
  template <class S>
  MAREY_DEVICE void load_own(const Places& p, Side side, int64_t first, int64_t end) const {
    load<S>(p, side, own, depth, own_value, value_depth, kRows, first, end);
  }
  // When every thread is done with the rows before, and until they are there.
  template <class S>
  MAREY_DEVICE void load_other(const Places& p, Side side, int64_t first, int64_t end) const {
    sync_block();  // the last ones have been read, and the own rows are written
    load<S>(p, side, other, odd(depth), other_value, odd(value_depth), kLanes, first, end);
    sync_block();
  }
  // This lane's other row times the own rows of this warp, in both depths.
  MAREY_DEVICE void multiply(T (&product)[kRowsPerWarp], T (&of_value)[kRowsPerWarp]) const {
    const int first = static_cast<int>(threadIdx.x) / kLanes * kRowsPerWarp;
    const int lane = static_cast<int>(threadIdx.x) % kLanes;
    multiply_rows<kRowsPerWarp>(own + first * depth, other + lane * odd(depth), depth, product);
    multiply_rows<kRowsPerWarp>(own_value + first * value_depth,
                                other_value + lane * odd(value_depth), value_depth, of_value);
  }

 private:
  template <class S>
  MAREY_DEVICE void load(const Places& p, Side side, T* rows, int pitch, T* value_rows,
                         int value_pitch, int count, int64_t first, int64_t end) const {
    const bool keys = side == Side::keys;
    load_rows<S>(rows, count, pitch, depth, first, end, [&](int64_t row, int item) {
      return keys ? p.forward(kK, row, item) : p.forward(kQ, row, item);
    });
    load_rows<S>(value_rows, count, value_pitch, value_depth, first, end,
                 [&](int64_t row, int item) {
                   return keys ? p.forward(kV, row, item) : p.gradient(kGrad, row, item);
                 });
  }
};

}  // namespace marey::cuda::backward
