// The kernel for every type, stride, mask, bias and head size, which the others are compared with.
//
// A warp takes kRowsPerWarp queries, a block of four warps 16 of one head, through blocks of 32
// keys:
//
//   scores   lane j has key j: it steps through the depth of its own row of K in shared memory
//   (rows
//            are an odd number of items apart, so that lanes meet no bank twice), with the queries'
//            items broadcast from shared memory;
//   softmax  running maximum and sum in units of log2, by shuffles;
//   result   lane i has the value items i, i + 32, ...: rows of V are read side by side, the
//            probabilities broadcast; the result stays in registers.
//
// The arithmetic is that of ordinary cores, in float32 (float64 for float64).
#include <limits>
#include <string>
#include <utility>

#include "core/error.h"
#include "cuda/bfloat16.h"
#include "ops/attention/attention_cuda.h"
#include "ops/attention/operands.h"

namespace marey::cuda {
namespace {

constexpr int kWarps = 4;
constexpr int kThreads = 32 * kWarps;
constexpr int kRowsPerWarp = 4;
constexpr int kRows = kWarps * kRowsPerWarp;
constexpr int kKeys = 32;
constexpr double kLog2E = 1.4426950408889634074;
constexpr double kLn2 = 0.6931471805599453094;

MAREY_DEVICE float exp2_of(float x) { return exp2f(x); }
MAREY_DEVICE double exp2_of(double x) { return exp2(x); }
MAREY_DEVICE float log2_of(float x) { return log2f(x); }
MAREY_DEVICE double log2_of(double x) { return log2(x); }
MAREY_DEVICE float tanh_of(float x) { return tanhf(x); }
MAREY_DEVICE double tanh_of(double x) { return tanh(x); }

template <class T>
MAREY_DEVICE T warp_max(T x) {
#pragma unroll
  for (int lanes = 16; lanes > 0; lanes /= 2) {
    const T other = shuffle_xor(x, lanes);
    x = other > x ? other : x;
  }
  return x;
}

template <class T>
MAREY_DEVICE T warp_sum(T x) {
#pragma unroll
  for (int lanes = 16; lanes > 0; lanes /= 2) x += shuffle_xor(x, lanes);
  return x;
}

// Items of shared memory: rows of q, of k, of v, and the probabilities of every warp.
MAREY_HOST_DEVICE int key_pitch(int depth) { return depth + 1 - depth % 2; }
inline std::size_t shared_items(int depth, int value_depth) {
  return static_cast<std::size_t>(kRows * depth + kKeys * key_pitch(depth) + kKeys * value_depth +
                                  kRows * kKeys);
}

// S: items in memory, T: of the computation; kItems: value items of a lane.
template <class S, class T, int kItems>
MAREY_KERNEL(kThreads)
attention_kernel(MAREY_GRID_CONSTANT AttentionArguments a) {
  const int warp = static_cast<int>(threadIdx.x) / 32;
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const int pitch = key_pitch(a.depth);
  T* q = shared_memory<T>();
  T* k = q + kRows * a.depth;
  T* v = k + kKeys * pitch;
  T* p = v + kKeys * a.value_depth + warp * kRowsPerWarp * kKeys;

  const int64_t problem = a.row_blocks.quotient(blockIdx.x);
  const int64_t first = (blockIdx.x - problem * a.row_blocks.value()) * kRows;
  const int64_t batch = a.heads.quotient(problem);
  const int64_t head = problem - batch * a.heads.value();
  const int64_t key_head = a.group.quotient(head);
  int64_t offset[kAttentionArrays];
  a.batch.offsets(batch, offset);
#pragma unroll
  for (int o = 0; o < kAttentionArrays; ++o) {
    offset[o] += (o == kK || o == kV ? key_head : head) * a.head[o];
  }
  const auto at = [&](int array, int64_t row, int64_t item) {
    return a.data[array] + offset[array] + row * a.row[array] + item * a.item[array];
  };

  for (int i = static_cast<int>(threadIdx.x); i < kRows * a.depth; i += kThreads) {
    const int64_t row = first + i / a.depth;
    q[i] = row < a.queries ? to<T>(*reinterpret_cast<const S*>(at(kQ, row, i % a.depth))) : T{0};
  }

  const T kNever = -std::numeric_limits<T>::infinity();
  T top[kRowsPerWarp], sum[kRowsPerWarp], out[kRowsPerWarp][kItems];
#pragma unroll
  for (int r = 0; r < kRowsPerWarp; ++r) {
    top[r] = kNever;
    sum[r] = T{0};
#pragma unroll
    for (int i = 0; i < kItems; ++i) out[r][i] = T{0};
  }
  const T scale = static_cast<T>(a.softcap > 0 ? a.scale / a.softcap : a.scale * kLog2E);
  const T cap = static_cast<T>(a.softcap * kLog2E);
  const int64_t mine = first + warp * kRowsPerWarp;

  const int64_t last = first + kRows < a.queries ? first + kRows - 1 : a.queries - 1;
  const int64_t end = a.end_key(last);
  for (int64_t begin = a.first_key(first) / kKeys * kKeys; begin < end; begin += kKeys) {
    sync_block();  // the last block of keys has been read, and q is written
    for (int i = static_cast<int>(threadIdx.x); i < kKeys * a.depth; i += kThreads) {
      const int64_t key = begin + i / a.depth;
      k[i / a.depth * pitch + i % a.depth] =
          key < a.keys ? to<T>(*reinterpret_cast<const S*>(at(kK, key, i % a.depth))) : T{0};
    }
    for (int i = static_cast<int>(threadIdx.x); i < kKeys * a.value_depth; i += kThreads) {
      const int64_t key = begin + i / a.value_depth;
      v[i] =
          key < a.keys ? to<T>(*reinterpret_cast<const S*>(at(kV, key, i % a.value_depth))) : T{0};
    }
    sync_block();

    T score[kRowsPerWarp];
#pragma unroll
    for (int r = 0; r < kRowsPerWarp; ++r) score[r] = T{0};
    for (int d = 0; d < a.depth; ++d) {
      const T x = k[lane * pitch + d];
#pragma unroll
      for (int r = 0; r < kRowsPerWarp; ++r) {
        score[r] += q[(warp * kRowsPerWarp + r) * a.depth + d] * x;
      }
    }
    const int64_t key = begin + lane;
#pragma unroll
    for (int r = 0; r < kRowsPerWarp; ++r) {
      const int64_t row = mine + r;
      T x = score[r] * scale;
      if (a.softcap > 0) x = cap * tanh_of(x);
      bool seen = row < a.queries && a.sees(row, key);
      if (seen && a.data[kMask] != nullptr) seen = *at(kMask, row, key) != 0;
      if (seen && a.data[kBias] != nullptr) {
        x += *reinterpret_cast<const T*>(at(kBias, row, key)) * static_cast<T>(kLog2E);
      }
      if (!seen) x = kNever;
      const T highest = warp_max(x);
      const T new_top = highest > top[r] ? highest : top[r];
      // Nothing seen yet: all differences to the top would be infinity less infinity.
      const T base = new_top == kNever ? T{0} : new_top;
      const T probability = exp2_of(x - base);
      const T factor = exp2_of(top[r] - base);
      top[r] = new_top;
      sum[r] = sum[r] * factor + warp_sum(probability);
#pragma unroll
      for (int i = 0; i < kItems; ++i) out[r][i] *= factor;
      p[r * kKeys + lane] = probability;
    }
    sync_warp();
    for (int j = 0; j < kKeys; ++j) {
      // A key beyond the last one has a probability of 0 and a value of 0. One that no row may see
      // has its own value, which may be infinite: it must not be multiplied with 0.
      T weight[kRowsPerWarp];
      bool any = false;
#pragma unroll
      for (int r = 0; r < kRowsPerWarp; ++r) {
        weight[r] = p[r * kKeys + j];
        any = any || weight[r] != T{0};
      }
      if (!any) continue;
#pragma unroll
      for (int i = 0; i < kItems; ++i) {
        const int item = lane + 32 * i;
        if (item >= a.value_depth) continue;
        const T value = v[j * a.value_depth + item];
#pragma unroll
        for (int r = 0; r < kRowsPerWarp; ++r) {
          if (weight[r] != T{0}) out[r][i] += weight[r] * value;
        }
      }
    }
    sync_warp();  // p is written again
  }

#pragma unroll
  for (int r = 0; r < kRowsPerWarp; ++r) {
    const int64_t row = mine + r;
    if (row >= a.queries) continue;
    const T inverse = sum[r] > T{0} ? T{1} / sum[r] : (sum[r] == T{0} ? T{0} : sum[r]);
#pragma unroll
    for (int i = 0; i < kItems; ++i) {
      const int item = lane + 32 * i;
      if (item < a.value_depth) {
        *reinterpret_cast<S*>(at(kOut, row, item)) = from<S>(out[r][i] * inverse);
      }
    }
    if (lane == 0 && a.data[kLse] != nullptr) {
      *reinterpret_cast<T*>(at(kLse, row, 0)) =
          sum[r] == T{0} ? kNever : (top[r] + log2_of(sum[r])) * static_cast<T>(kLn2);
    }
  }
}

template <class S, class T>
void run(const Queue& queue, const AttentionArguments& a) {
  const std::size_t shared = shared_items(a.depth, a.value_depth) * sizeof(T);
  const Grid grid{a.batch.count * a.heads.value() * a.row_blocks.value(), kThreads, shared};
  if (a.value_depth <= 64) return launch(queue, grid, &attention_kernel<S, T, 2>, a);
  if (a.value_depth <= 128) return launch(queue, grid, &attention_kernel<S, T, 4>, a);
  if constexpr (sizeof(T) == 4) launch(queue, grid, &attention_kernel<S, T, 8>, a);
}

constexpr std::string_view kName = "marey.attention";

}  // namespace

AttentionArguments attention_arguments(const View& q, const View& k, const View& v,
                                       const View* mask, const View* bias,
                                       const AttentionOptions& options, const View& out,
                                       const View* lse, int rows_per_block) {
  AttentionArguments a{};
  const View* const views[kAttentionArrays] = {&q, &k, &v, mask, bias, &out, lse};
  const int axis = q.ndim() - 3;
  for (int b = 0; b < axis; ++b) {
    const int64_t extent = q.shape[b];
    a.batch.count *= extent;
    if (extent == 1) continue;
    int64_t stride[kAttentionArrays];
    bool merges = a.batch.axes > 0;
    for (int o = 0; o < kAttentionArrays; ++o) {
      stride[o] = views[o] == nullptr ? 0 : views[o]->stride(b);
      merges = merges && a.batch.stride[o][a.batch.axes - 1] == extent * stride[o];
    }
    const int at = merges ? a.batch.axes - 1 : a.batch.axes++;
    a.batch.extent[at] = merges ? a.batch.extent[at] * extent : extent;
    a.batch.divisor[at] = Divisor(a.batch.extent[at] > 0 ? a.batch.extent[at] : 1);
    for (int o = 0; o < kAttentionArrays; ++o) a.batch.stride[o][at] = stride[o];
  }
  if (a.batch.axes == 0) {
    a.batch.axes = 1;
    a.batch.extent[0] = 1;
    for (auto& stride : a.batch.stride) stride[0] = 0;
  }
  for (int o = 0; o < kAttentionArrays; ++o) {
    if (views[o] == nullptr) continue;
    a.data[o] = views[o]->as<char>();
    a.head[o] = views[o]->stride(axis);
    a.row[o] = views[o]->stride(axis + 1);
    a.item[o] = o == kLse ? 0 : views[o]->stride(axis + 2);
  }
  a.queries = q.shape[axis + 1];
  a.keys = k.shape[axis + 1];
  a.heads = Divisor(q.shape[axis] > 0 ? q.shape[axis] : 1);
  const int64_t key_heads = k.shape[axis] > 0 ? k.shape[axis] : 1;
  a.group = Divisor(q.shape[axis] > key_heads ? q.shape[axis] / key_heads : 1);
  const int64_t blocks = blocks_for(a.queries, rows_per_block);
  a.row_blocks = Divisor(blocks > 0 ? blocks : 1);
  a.depth = static_cast<int>(q.shape[axis + 2]);
  a.value_depth = static_cast<int>(v.shape[axis + 2]);
  a.left = options.left;
  a.right = options.right;
  a.offset = options.alignment == Alignment::bottom_right ? a.keys - a.queries : 0;
  a.scale = options.scale;
  a.softcap = options.softcap;
  return a;
}

const char* attention(const Queue& queue, const View& q, const View& k, const View& v,
                      const View* mask, const View* bias, const AttentionOptions& options,
                      const View& out, const View* lse) {
  check_attention(kName, q, k, v, mask, bias, options, out, lse);
  const int axis = q.ndim() - 3;
  const int64_t most = q.dtype == DType::f64 ? 128 : 256;
  for (const auto& [argument, view] : {std::pair{"q", &q}, {"v", &v}}) {
    if (view->shape[axis + 2] > most) {
      throw ValueError(kName, argument,
                       "a head size of at most " + std::to_string(most) + " on a CUDA device",
                       to_string(view->shape));
    }
  }
  if (out.shape.count() == 0 && (lse == nullptr || lse->shape.count() == 0)) return "";
#if defined(MAREY_HAVE_HOPPER) || !defined(__CUDACC__)
  if (fits_sm90(queue, q, k, v, mask, bias, options, out, lse)) {
    attention_sm90(queue, q, k, v, options, out, lse);
    return "sm90";
  }
#endif
  const AttentionArguments a = attention_arguments(q, k, v, mask, bias, options, out, lse, kRows);
  if (q.dtype == DType::f64) {
    run<double, double>(queue, a);
  } else if (q.dtype == DType::bf16) {
    run<bfloat16, float>(queue, a);
  } else {
    run<float, float>(queue, a);
  }
  return "generic";
}

}  // namespace marey::cuda
