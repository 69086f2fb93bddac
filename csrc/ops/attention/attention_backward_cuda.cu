// Gradients of attention for every type, stride, mask, bias and head size, which those of
// attention_backward_sm90.cu are compared with. With the names of backward.h:
//
//   delta     a warp for each query;
//   grad_q    a block takes some queries of one head through the keys that they see;
//   grad_k,   a block takes some keys of one key head through the queries that see them, of all
//   grad_v    heads that share it;
//   grad_bias in attention_grad_bias_cuda.cu.
//
// Scores are computed anew each time. Every number is summed by one thread in one order, so that
// results do not change from call to call.
//
// A block's own rows, kRows of them, are in shared memory, and so are the rows that it goes
// through, 32 at a time: lane j has row j, for the products (rows are an odd number of items apart,
// so that lanes meet no bank twice). Then a lane has the items j, j + 32, ... of the sums.
#include <string>
#include <utility>

#include "core/error.h"
#include "ops/attention/attention_backward_cuda.h"

namespace marey::cuda {
namespace {

using namespace backward;

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
void run(const Queue& queue, BackwardArguments& a) {
  const int most =
      a.forward.depth > a.forward.value_depth ? a.forward.depth : a.forward.value_depth;
  if constexpr (sizeof(T) == 8) {
    run_rows<S, T, 4, 2>(queue, a);
  } else if (most <= 128) {
    run_rows<S, T, 4, 4>(queue, a);
  } else {
    run_rows<S, T, 8, 2>(queue, a);
  }
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
  if (call.q.dtype == DType::f64) {
    run_delta<double, double>(queue, a);
    run<double, double>(queue, a);
  } else if (call.q.dtype == DType::bf16) {
    run_delta<bfloat16, float>(queue, a);
#if defined(MAREY_HAVE_HOPPER) || !defined(__CUDACC__)
    if (fits_backward_sm90(queue, call, options, a)) {
      attention_backward_sm90(queue, call, a);
      return "sm90";
    }
#endif
    run<bfloat16, float>(queue, a);
  } else {
    run_delta<float, float>(queue, a);
    run<float, float>(queue, a);
  }
  // Without queries or keys there is nothing to go through, nor to divide by.
  if (call.grad_bias != nullptr && call.grad_bias->shape.count() > 0) {
    attention_grad_bias(queue, call, a);
  }
  return "generic";
}

}  // namespace marey::cuda
