// Gradients of attention for every type, stride, mask, bias and head size, which those of
// attention_backward_sm90.cu are compared with. With the names of backward.h:
//
//   delta     a warp for each query;
//   grad_q    a block takes some queries of one head through the keys that they see;
//   grad_k,   a block takes some keys of one key head through the queries that see them, of all
//   grad_v    heads that share it;
//   grad_bias a block takes a tile of the bias through all that it is broadcast along.
//
// Scores are computed anew each time. Every number is summed by one thread in one order, so that
// results do not change from call to call.
//
// A block's own rows, kRows of them, are in shared memory, and so are the rows that it goes
// through, 32 at a time: lane j has row j, for the products (rows are an odd number of items apart,
// so that lanes meet no bank twice). Then a lane has the items j, j + 32, ... of the sums.
#include <limits>
#include <string>

#include "core/error.h"
#include "cuda/bfloat16.h"
#include "cuda/math.h"
#include "ops/attention/attention_cuda.h"
#include "ops/attention/operands.h"

namespace marey::cuda {
namespace {

constexpr int kWarps = 4;
constexpr int kThreads = 32 * kWarps;
constexpr int kLanes = 32;
constexpr double kLog2E = 1.4426950408889634074;

template <class T>
MAREY_DEVICE T warp_sum(T x) {
#pragma unroll
  for (int lanes = 16; lanes > 0; lanes /= 2) x += shuffle_xor(x, lanes);
  return x;
}

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

// sums[r][i] += weights of row r times item lane + 32 i of the rows, of those that row r sees: bit
// j of sees[r].
template <int kItems, int kRowsPerWarp, class T>
MAREY_DEVICE void add_rows(const uint32_t (&sees)[kRowsPerWarp], const T* weights, const T* rows,
                           int pitch, int items, T (&sums)[kRowsPerWarp][kItems]) {
  const int lane = static_cast<int>(threadIdx.x) % kLanes;
  uint32_t any = 0;
#pragma unroll
  for (int r = 0; r < kRowsPerWarp; ++r) any |= sees[r];
  for (int j = 0; j < kLanes; ++j) {
    if ((any >> j & 1U) == 0) continue;
    T weight[kRowsPerWarp];
#pragma unroll
    for (int r = 0; r < kRowsPerWarp; ++r) weight[r] = weights[r * kLanes + j];
#pragma unroll
    for (int i = 0; i < kItems; ++i) {
      const int item = lane + kLanes * i;
      if (item >= items) continue;
      const T x = rows[j * pitch + item];
#pragma unroll
      for (int r = 0; r < kRowsPerWarp; ++r) {
        if ((sees[r] >> j & 1U) != 0) sums[r][i] += weight[r] * x;
      }
    }
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

template <class S, class T>
MAREY_KERNEL(kThreads)
attention_delta_kernel(MAREY_GRID_CONSTANT BackwardArguments a) {
  const int lane = static_cast<int>(threadIdx.x) % kLanes;
  const int64_t place = int64_t{blockIdx.x} * kWarps + threadIdx.x / kLanes;
  if (place >= a.problems * a.forward.queries) return;
  const int64_t problem = place / a.forward.queries;
  const int64_t row = place - problem * a.forward.queries;
  const int64_t batch = a.forward.heads.quotient(problem);
  Places p(a, batch);
  p.head = problem - batch * a.forward.heads.value();
  T sum{0};
  for (int item = lane; item < a.forward.value_depth; item += kLanes) {
    sum += to<T>(*reinterpret_cast<const S*>(p.gradient(kGrad, row, item))) *
           to<T>(*reinterpret_cast<const S*>(p.forward(kOut, row, item)));
  }
  sum = warp_sum(sum);
  if (lane == 0) reinterpret_cast<T*>(a.delta)[place] = sum;
}

// kItems: 32 of them cover both depths.
template <class S, class T, int kItems, int kRowsPerWarp>
MAREY_KERNEL(kThreads)
attention_grad_q_kernel(MAREY_GRID_CONSTANT BackwardArguments a) {
  constexpr int kRows = kWarps * kRowsPerWarp;
  const AttentionArguments& f = a.forward;
  AttentionTile tile;
  if (!attention_tile(f, blockIdx.x, f.row_blocks, kRows, false, tile)) return;
  const AttentionRange& range = tile.range;
  const int64_t batch = f.heads.quotient(tile.problem);
  Places p(a, batch);
  p.head = tile.problem - batch * f.heads.value();
  p.key_head = f.group.quotient(p.head);
  p.query_base = tile.query_base;
  p.key_base = tile.key_base;
  const Shared<T, kRowsPerWarp> shared(f);
  const int warp = static_cast<int>(threadIdx.x) / kLanes;
  const int lane = static_cast<int>(threadIdx.x) % kLanes;
  const int64_t mine = tile.first + warp * kRowsPerWarp;
  T* weights = shared.weights + warp * kRowsPerWarp * kLanes;

  shared.template load_own<S>(p, Side::queries, tile.first, range.queries);
  Query<T> query[kRowsPerWarp];
  T sums[kRowsPerWarp][kItems];
#pragma unroll
  for (int r = 0; r < kRowsPerWarp; ++r) {
    query[r] = query_of<T>(p, tile.problem, mine + r, mine + r < range.queries);
#pragma unroll
    for (int i = 0; i < kItems; ++i) sums[r][i] = T{0};
  }

  const int64_t last =
      tile.first + kRows < range.queries ? tile.first + kRows - 1 : range.queries - 1;
  const int64_t end = range.end_key(last);
  for (int64_t begin = range.first_key(tile.first); begin < end; begin += kLanes) {
    shared.template load_other<S>(p, Side::keys, begin, range.keys);
    T product[kRowsPerWarp], of_value[kRowsPerWarp];
    shared.multiply(product, of_value);
    uint32_t sees[kRowsPerWarp];
#pragma unroll
    for (int r = 0; r < kRowsPerWarp; ++r) {
      const Pair<T> pair = pair_of<T>(p, range, query[r], mine + r, begin + lane,
                                      mine + r < range.queries, product[r], of_value[r]);
      weights[r * kLanes + lane] = pair.of_score;
      sees[r] = ballot(pair.seen);
    }
    sync_warp();
    add_rows<kItems>(sees, weights, shared.other, odd(f.depth), f.depth, sums);
  }
#pragma unroll
  for (int r = 0; r < kRowsPerWarp; ++r) {
    if (mine + r >= range.queries) continue;
#pragma unroll
    for (int i = 0; i < kItems; ++i) {
      const int item = lane + kLanes * i;
      if (item < f.depth) {
        *reinterpret_cast<S*>(p.gradient(kGradQ, mine + r, item)) =
            from<S>(sums[r][i] * static_cast<T>(f.scale));
      }
    }
  }
}

template <class S, class T, int kItems, int kRowsPerWarp>
MAREY_KERNEL(kThreads)
attention_grad_kv_kernel(MAREY_GRID_CONSTANT BackwardArguments a) {
  constexpr int kRows = kWarps * kRowsPerWarp;
  const AttentionArguments& f = a.forward;
  AttentionTile tile;
  if (!attention_tile(f, blockIdx.x, a.key_blocks, kRows, true, tile)) return;
  const AttentionRange& range = tile.range;
  const int64_t group = f.group.value();
  const int64_t key_heads = f.heads.value() / group;
  const int64_t batch = tile.problem / key_heads;
  Places p(a, batch);
  p.key_head = tile.problem - batch * key_heads;
  p.query_base = tile.query_base;
  p.key_base = tile.key_base;
  const Shared<T, kRowsPerWarp> shared(f);
  const int warp = static_cast<int>(threadIdx.x) / kLanes;
  const int lane = static_cast<int>(threadIdx.x) % kLanes;
  const int64_t mine = tile.first + warp * kRowsPerWarp;
  T* scores = shared.weights + warp * kRowsPerWarp * kLanes;
  T* probabilities = shared.more_weights + warp * kRowsPerWarp * kLanes;

  shared.template load_own<S>(p, Side::keys, tile.first, range.keys);
  T of_key[kRowsPerWarp][kItems], of_value[kRowsPerWarp][kItems];
#pragma unroll
  for (int r = 0; r < kRowsPerWarp; ++r) {
#pragma unroll
    for (int i = 0; i < kItems; ++i) of_key[r][i] = of_value[r][i] = T{0};
  }

  const int64_t last = tile.first + kRows < range.keys ? tile.first + kRows - 1 : range.keys - 1;
  const int64_t end = range.end_query(last);
  for (int64_t of_group = 0; of_group < group; ++of_group) {
    p.head = p.key_head * group + of_group;
    const int64_t problem = batch * f.heads.value() + p.head;
    for (int64_t begin = range.first_query(tile.first); begin < end; begin += kLanes) {
      shared.template load_other<S>(p, Side::queries, begin, range.queries);
      const int64_t row = begin + lane;
      const bool inside = row < range.queries;
      const Query<T> query = query_of<T>(p, problem, row, inside);
      T product[kRowsPerWarp], with_value[kRowsPerWarp];
      shared.multiply(product, with_value);
      uint32_t sees[kRowsPerWarp];
#pragma unroll
      for (int r = 0; r < kRowsPerWarp; ++r) {
        const Pair<T> pair =
            pair_of<T>(p, range, query, row, mine + r, inside, product[r], with_value[r]);
        scores[r * kLanes + lane] = pair.of_score;
        probabilities[r * kLanes + lane] = pair.probability;
        sees[r] = ballot(pair.seen);
      }
      sync_warp();
      add_rows<kItems>(sees, scores, shared.other, odd(f.depth), f.depth, of_key);
      add_rows<kItems>(sees, probabilities, shared.other_value, odd(f.value_depth), f.value_depth,
                       of_value);
    }
  }
#pragma unroll
  for (int r = 0; r < kRowsPerWarp; ++r) {
    if (mine + r >= range.keys) continue;
#pragma unroll
    for (int i = 0; i < kItems; ++i) {
      const int item = lane + kLanes * i;
      if (item < f.depth) {
        *reinterpret_cast<S*>(p.gradient(kGradK, mine + r, item)) =
            from<S>(of_key[r][i] * static_cast<T>(f.scale));
      }
      if (item < f.value_depth) {
        *reinterpret_cast<S*>(p.gradient(kGradV, mine + r, item)) = from<S>(of_value[r][i]);
      }
    }
  }
}

struct BiasArguments {
  BackwardArguments backward;
  // Problems (batch entry times heads, and head), and where their bias lies: those that have a bias
  // of their own, and those that share one.
  SeriesMap<2> own;
  SeriesMap<1> shared;
  char* grad_bias;
  int64_t row, item;            // of grad_bias, in bytes
  bool share_rows, share_keys;  // the bias is broadcast along queries, along keys
  Divisor row_tiles, key_tiles;
};

constexpr int kBiasRowsPerWarp = 2;
constexpr int kBiasRows = kWarps * kBiasRowsPerWarp;

template <class S, class T>
MAREY_KERNEL(kThreads)
attention_grad_bias_kernel(MAREY_GRID_CONSTANT BiasArguments b) {
  const BackwardArguments& a = b.backward;
  const AttentionArguments& f = a.forward;
  const Shared<T, kBiasRowsPerWarp> shared(f);
  const int warp = static_cast<int>(threadIdx.x) / kLanes;
  const int lane = static_cast<int>(threadIdx.x) % kLanes;
  const int64_t line = b.key_tiles.quotient(blockIdx.x);
  const int64_t key_tile = blockIdx.x - line * b.key_tiles.value();
  const int64_t own = b.row_tiles.quotient(line);
  const int64_t row_tile = line - own * b.row_tiles.value();
  int64_t of_own[2];
  b.own.offsets(own, of_own);

  const int64_t first_row = b.share_rows ? 0 : row_tile * kBiasRows;
  const int64_t end_row =
      b.share_rows || first_row + kBiasRows > f.queries ? f.queries : first_row + kBiasRows;
  const int64_t first_key = b.share_keys ? 0 : key_tile * kLanes;
  const int64_t end_key = b.share_keys || first_key + kLanes > f.keys ? f.keys : first_key + kLanes;
  T sums[kBiasRowsPerWarp];
#pragma unroll
  for (int r = 0; r < kBiasRowsPerWarp; ++r) sums[r] = T{0};
  for (int64_t k = 0; k < b.shared.count; ++k) {
    int64_t of_shared[1];
    b.shared.offsets(k, of_shared);
    const int64_t problem = of_own[0] + of_shared[0];
    const int64_t batch = f.heads.quotient(problem);
    Places p(a, batch);
    p.head = problem - batch * f.heads.value();
    p.key_head = f.group.quotient(p.head);
    for (int64_t rows = first_row; rows < end_row; rows += kBiasRows) {
      sync_block();  // what was there has been read
      shared.template load_own<S>(p, Side::queries, rows, f.queries);
      const int64_t mine = rows + warp * kBiasRowsPerWarp;
      for (int64_t keys = first_key; keys < end_key; keys += kLanes) {
        shared.template load_other<S>(p, Side::keys, keys, f.keys);
        T product[kBiasRowsPerWarp], of_value[kBiasRowsPerWarp];
        shared.multiply(product, of_value);
#pragma unroll
        for (int r = 0; r < kBiasRowsPerWarp; ++r) {
          const int64_t row = mine + r;
          const bool inside = row < f.queries;
          const Query<T> query = query_of<T>(p, problem, row, inside);
          sums[r] +=
              pair_of<T>(p, f, query, row, keys + lane, inside, product[r], of_value[r]).gradient;
        }
      }
    }
  }

  // Sums over what the tile's rows or keys share; the first row, the first key have them.
  if (b.share_keys) {
#pragma unroll
    for (int r = 0; r < kBiasRowsPerWarp; ++r) sums[r] = warp_sum(sums[r]);
  }
  if (b.share_rows) {
    sync_block();
    T sum{0};
#pragma unroll
    for (int r = 0; r < kBiasRowsPerWarp; ++r) sum += sums[r];
    shared.weights[warp * kLanes + lane] = sum;
    sync_block();
    sums[0] = T{0};
    for (int w = 0; w < kWarps; ++w) sums[0] += shared.weights[w * kLanes + lane];
  }
#pragma unroll
  for (int r = 0; r < kBiasRowsPerWarp; ++r) {
    const int64_t row = b.share_rows ? 0 : first_row + warp * kBiasRowsPerWarp + r;
    const int64_t key = b.share_keys ? 0 : first_key + lane;
    const bool one_row = !b.share_rows || (warp == 0 && r == 0);
    const bool one_key = !b.share_keys || lane == 0;
    if (one_row && one_key && row < f.queries && key < f.keys) {
      *reinterpret_cast<T*>(b.grad_bias + of_own[1] + row * b.row + key * b.item) = sums[r];
    }
  }
}

template <class S, class T>
void run_delta(const Queue& queue, const BackwardArguments& a) {
  launch(queue, {blocks_for(a.problems * a.forward.queries, kWarps), kThreads, 0},
         &attention_delta_kernel<S, T>, a);
}

template <class S, class T, int kItems, int kRowsPerWarp>
void run_rows(const Queue& queue, BackwardArguments& a) {
  using Memory = Shared<T, kRowsPerWarp>;
  AttentionArguments& f = a.forward;
  const std::size_t bytes = Memory::bytes(f.depth, f.value_depth);
  const int64_t query_blocks = attention_blocks(f.queries, Memory::kRows, f.sequences.count);
  const int64_t key_blocks = attention_blocks(f.keys, Memory::kRows, f.sequences.count);
  f.row_blocks = Divisor(query_blocks > 0 ? query_blocks : 1);
  a.key_blocks = Divisor(key_blocks > 0 ? key_blocks : 1);
  launch(queue, {a.problems * query_blocks, kThreads, bytes},
         &attention_grad_q_kernel<S, T, kItems, kRowsPerWarp>, a);
  launch(queue, {a.problems / f.group.value() * key_blocks, kThreads, bytes},
         &attention_grad_kv_kernel<S, T, kItems, kRowsPerWarp>, a);
}

template <class S, class T>
void run(const Queue& queue, BackwardArguments& a, BiasArguments* bias) {
  const int most =
      a.forward.depth > a.forward.value_depth ? a.forward.depth : a.forward.value_depth;
  if constexpr (sizeof(T) == 8) {
    run_rows<S, T, 4, 2>(queue, a);
  } else if (most <= 128) {
    run_rows<S, T, 4, 4>(queue, a);
  } else {
    run_rows<S, T, 8, 2>(queue, a);
  }
  if (bias == nullptr) return;
  bias->backward = a;
  launch(queue,
         {bias->own.count * bias->row_tiles.value() * bias->key_tiles.value(), kThreads,
          Shared<T, kBiasRowsPerWarp>::bytes(a.forward.depth, a.forward.value_depth)},
         &attention_grad_bias_kernel<S, T>, *bias);
}

template <int N>
void add_axis(SeriesMap<N>& map, int64_t extent, const int64_t (&stride)[N]) {
  if (extent == 1) return;
  map.extent[map.axes] = Divisor(extent > 0 ? extent : 1);
  for (int o = 0; o < N; ++o) map.stride[o][map.axes] = stride[o];
  map.count *= extent;
  ++map.axes;
}

template <int N>
SeriesMap<N> empty_map() {
  SeriesMap<N> map{};
  map.count = 1;
  for (auto& stride : map.stride) stride[0] = 0;
  return map;
}

// Axes of stride zero are those that the bias is broadcast along.
BiasArguments bias_arguments(const View& grad_bias) {
  BiasArguments b{};
  const int axis = grad_bias.ndim() - 3;
  b.own = empty_map<2>();
  b.shared = empty_map<1>();
  int64_t step = 1;
  int64_t steps[kMaxDims];
  for (int k = axis; k >= 0; --k) {
    steps[k] = step;
    step *= grad_bias.shape[k];
  }
  for (int k = 0; k <= axis; ++k) {
    const int64_t stride = grad_bias.stride(k);
    if (stride == 0) {
      add_axis<1>(b.shared, grad_bias.shape[k], {steps[k]});
    } else {
      add_axis<2>(b.own, grad_bias.shape[k], {steps[k], stride});
    }
  }
  b.grad_bias = grad_bias.as<char>();
  b.row = grad_bias.stride(axis + 1);
  b.item = grad_bias.stride(axis + 2);
  b.share_rows = b.row == 0;
  b.share_keys = b.item == 0;
  b.row_tiles = Divisor(b.share_rows ? 1 : blocks_for(grad_bias.shape[axis + 1], kBiasRows));
  b.key_tiles = Divisor(b.share_keys ? 1 : blocks_for(grad_bias.shape[axis + 2], kLanes));
  return b;
}

}  // namespace

int64_t attention_backward_workspace(const View& q) {
  int64_t rows = 1;
  for (int axis = 0; axis < q.ndim() - 1; ++axis) rows *= q.shape[axis];
  return rows * (q.dtype == DType::f64 ? 8 : 4);
}

const char* attention_backward(const Queue& queue, const AttentionBackward& call,
                               const AttentionOptions& options,
                               const AttentionSequences& sequences) {
  const int64_t most = call.q.dtype == DType::f64 ? 128 : 256;
  for (const auto& [argument, view] : {std::pair{"q", &call.q}, {"v", &call.v}}) {
    if (view->shape[view->ndim() - 1] > most) {
      throw ValueError("marey.attention_backward", argument,
                       "a head size of at most " + std::to_string(most) + " on a CUDA device",
                       to_string(view->shape));
    }
  }
  BackwardArguments a{};
  a.forward = attention_arguments(call.q, call.k, call.v, call.mask, call.bias, options, call.out,
                                  &call.lse, 1);
  a.forward.sequences = sequences;
  const View* const views[kGradientArrays] = {&call.grad, &call.grad_q, &call.grad_k, &call.grad_v};
  a.gradients = attention_arrays(call.q, views);
  a.delta = static_cast<char*>(call.workspace);
  const int axis = call.q.ndim() - 3;
  a.problems = a.forward.batch.count * call.q.shape[axis];
  if (a.problems == 0) return "";
  // Without queries or keys there is nothing to go through, nor to divide by.
  const bool wanted = call.grad_bias != nullptr && call.grad_bias->shape.count() > 0;
  BiasArguments bias{};
  if (wanted) bias = bias_arguments(*call.grad_bias);
  BiasArguments* of_bias = wanted ? &bias : nullptr;
  if (call.q.dtype == DType::f64) {
    run_delta<double, double>(queue, a);
    run<double, double>(queue, a, of_bias);
  } else if (call.q.dtype == DType::bf16) {
    run_delta<bfloat16, float>(queue, a);
#if defined(MAREY_HAVE_HOPPER) || !defined(__CUDACC__)
    if (fits_backward_sm90(queue, call, options, a)) {
      attention_backward_sm90(queue, call, a);
      return "sm90";
    }
#endif
    run<bfloat16, float>(queue, a, of_bias);
  } else {
    run_delta<float, float>(queue, a);
    run<float, float>(queue, a, of_bias);
  }
  return "generic";
}

}  // namespace marey::cuda
