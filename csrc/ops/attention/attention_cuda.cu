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
#include <algorithm>
#include <limits>
#include <string>
#include <utility>

#include "core/error.h"
#include "cuda/bfloat16.h"
#include "cuda/math.h"
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

template <class T>
MAREY_DEVICE T warp_max(T x) {
#pragma unroll
  for (int lanes = 16; lanes > 0; lanes /= 2) {
    const T other = shuffle_xor(x, lanes);
    x = other > x ? other : x;
  }
  return x;
}

// Items of shared memory: rows of q, of k, of v, and the probabilities of every warp.
MAREY_HOST_DEVICE int key_pitch(int depth) { return depth + 1 - depth % 2; }
inline std::size_t shared_items(int depth, int value_depth) {
  return static_cast<std::size_t>(kRows * depth + kKeys * key_pitch(depth) + kKeys * value_depth +
                                  kRows * kKeys);
}

struct ForwardArguments : AttentionArguments {
  // With more than one part: results of each and the logarithms to base 2 of their sums, of the
  // type of the computation, (parts, problems, queries, Dv) and (parts, problems, queries).
  Divisor parts;
  int64_t problems;
  char* part_out;
  char* part_lse;
};

// S: items in memory, T: of the computation; kItems: value items of a lane.
template <class S, class T, int kItems>
MAREY_KERNEL(kThreads)
attention_kernel(MAREY_GRID_CONSTANT ForwardArguments a) {
  const int warp = static_cast<int>(threadIdx.x) / 32;
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const int pitch = key_pitch(a.depth);
  T* q = shared_memory<T>();
  T* k = q + kRows * a.depth;
  T* v = k + kKeys * pitch;
  T* p = v + kKeys * a.value_depth + warp * kRowsPerWarp * kKeys;

  const int64_t shared_keys = a.parts.quotient(blockIdx.x);
  const int64_t part = blockIdx.x - shared_keys * a.parts.value();
  AttentionTile tile;
  if (!attention_tile(a, shared_keys, a.row_blocks, kRows, false, tile)) return;
  const AttentionRange& range = tile.range;
  const int64_t first = tile.first;
  const int64_t batch = a.heads.quotient(tile.problem);
  const int64_t head = tile.problem - batch * a.heads.value();
  const int64_t key_head = a.group.quotient(head);
  int64_t offset[kAttentionArrays];
  a.batch.offsets(batch, offset);
#pragma unroll
  for (int o = 0; o < kAttentionArrays; ++o) {
    const bool of_keys = o == kK || o == kV;
    offset[o] += (of_keys ? key_head : head) * a.head[o] +
                 (of_keys ? tile.key_base : tile.query_base) * a.row[o];
  }
  const auto at = [&](int array, int64_t row, int64_t item) {
    return a.data[array] + offset[array] + row * a.row[array] + item * a.item[array];
  };

  for (int i = static_cast<int>(threadIdx.x); i < kRows * a.depth; i += kThreads) {
    const int64_t row = first + i / a.depth;
    q[i] =
        row < range.queries ? to<T>(*reinterpret_cast<const S*>(at(kQ, row, i % a.depth))) : T{0};
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

  const int64_t last = first + kRows < range.queries ? first + kRows - 1 : range.queries - 1;
  int64_t start = range.first_key(first) / kKeys * kKeys;
  int64_t end = range.end_key(last);
  if (a.parts.value() > 1 && end > start) {
    const int64_t share = a.parts.quotient((end - start + kKeys - 1) / kKeys + a.parts.value() - 1);
    start += part * share * kKeys;
    end = start + share * kKeys < end ? start + share * kKeys : end;
  }
  for (int64_t begin = start; begin < end; begin += kKeys) {
    sync_block();  // the last block of keys has been read, and q is written
    for (int i = static_cast<int>(threadIdx.x); i < kKeys * a.depth; i += kThreads) {
      const int64_t key = begin + i / a.depth;
      k[i / a.depth * pitch + i % a.depth] =
          key < range.keys ? to<T>(*reinterpret_cast<const S*>(at(kK, key, i % a.depth))) : T{0};
    }
    for (int i = static_cast<int>(threadIdx.x); i < kKeys * a.value_depth; i += kThreads) {
      const int64_t key = begin + i / a.value_depth;
      v[i] = key < range.keys ? to<T>(*reinterpret_cast<const S*>(at(kV, key, i % a.value_depth)))
                              : T{0};
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
    uint32_t sees[kRowsPerWarp];  // bit j: row r sees key j
    uint32_t seen_by_any = 0;
#pragma unroll
    for (int r = 0; r < kRowsPerWarp; ++r) {
      const int64_t row = mine + r;
      T x = score[r] * scale;
      if (a.softcap > 0) x = cap * tanh_of(x);
      bool seen = row < range.queries && range.sees(row, key);
      if (seen && a.data[kMask] != nullptr) seen = *at(kMask, row, key) != 0;
      if (seen && a.data[kBias] != nullptr) {
        const T bias = *reinterpret_cast<const T*>(at(kBias, row, key));
        seen = bias != kNever;
        x += bias * static_cast<T>(kLog2E);
      }
      if (!seen) x = kNever;
      sees[r] = ballot(seen);
      seen_by_any |= sees[r];
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
      // A row is not spoilt by an infinite value of a key that it does not see, but by one that it
      // sees, however small its weight: 0 times infinity is NaN, as it is on the CPU.
      if ((seen_by_any >> j & 1U) == 0) continue;
      T weight[kRowsPerWarp];
#pragma unroll
      for (int r = 0; r < kRowsPerWarp; ++r) weight[r] = p[r * kKeys + j];
#pragma unroll
      for (int i = 0; i < kItems; ++i) {
        const int item = lane + 32 * i;
        if (item >= a.value_depth) continue;
        const T value = v[j * a.value_depth + item];
#pragma unroll
        for (int r = 0; r < kRowsPerWarp; ++r) {
          if ((sees[r] >> j & 1U) != 0) out[r][i] += weight[r] * value;
        }
      }
    }
    sync_warp();  // p is written again
  }

#pragma unroll
  for (int r = 0; r < kRowsPerWarp; ++r) {
    const int64_t row = mine + r;
    if (row >= range.queries) continue;
    const T inverse = sum[r] > T{0} ? T{1} / sum[r] : (sum[r] == T{0} ? T{0} : sum[r]);
    if (a.parts.value() > 1) {
      const int64_t place = (part * a.problems + tile.problem) * range.queries + row;
      T* to = reinterpret_cast<T*>(a.part_out) + place * a.value_depth;
#pragma unroll
      for (int i = 0; i < kItems; ++i) {
        if (lane + 32 * i < a.value_depth) to[lane + 32 * i] = out[r][i] * inverse;
      }
      if (lane == 0) {
        reinterpret_cast<T*>(a.part_lse)[place] =
            sum[r] == T{0} ? kNever : top[r] + log2_of(sum[r]);
      }
      continue;
    }
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

// The parts of one query together: a warp each.
template <class S, class T>
MAREY_KERNEL(kThreads)
attention_parts_kernel(MAREY_GRID_CONSTANT ForwardArguments a) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const int64_t place = int64_t{blockIdx.x} * kWarps + threadIdx.x / 32;
  const int64_t count = a.problems * a.queries;
  if (place >= count) return;
  const int64_t problem = place / a.queries;
  const int64_t row = place - problem * a.queries;
  const int64_t batch = a.heads.quotient(problem);
  const int64_t head = problem - batch * a.heads.value();
  int64_t offset[kAttentionArrays];
  a.batch.offsets(batch, offset);
  const int parts = static_cast<int>(a.parts.value());
  const T* lse = reinterpret_cast<const T*>(a.part_lse) + place;
  const T kNever = -std::numeric_limits<T>::infinity();
  T top = kNever;
  for (int part = 0; part < parts; ++part) {
    const T x = lse[part * count];
    top = x > top || x != x ? x : top;
  }
  const T base = top == kNever ? T{0} : top;
  T total{0};
  for (int part = 0; part < parts; ++part) total += exp2_of(lse[part * count] - base);
  const T inverse = total == T{0} ? T{0} : T{1} / total;
  for (int item = lane; item < a.value_depth; item += 32) {
    T sum{0};
    for (int part = 0; part < parts; ++part) {
      const T weight = exp2_of(lse[part * count] - base);
      // A part with nothing to see holds zeros.
      sum += weight *
             reinterpret_cast<const T*>(a.part_out)[(part * count + place) * a.value_depth + item];
    }
    *reinterpret_cast<S*>(a.at(offset, kOut, head, row, item)) = from<S>(sum * inverse);
  }
  if (lane == 0 && a.data[kLse] != nullptr) {
    *reinterpret_cast<T*>(a.at(offset, kLse, head, row, 0)) =
        total == T{0} ? kNever : (base + log2_of(total)) * static_cast<T>(kLn2);
  }
}

template <class S, class T>
void run(const Queue& queue, const ForwardArguments& a) {
  const std::size_t shared = shared_items(a.depth, a.value_depth) * sizeof(T);
  const Grid grid{a.problems * a.row_blocks.value() * a.parts.value(), kThreads, shared};
  if (a.value_depth <= 64) {
    launch(queue, grid, &attention_kernel<S, T, 2>, a);
  } else if (a.value_depth <= 128) {
    launch(queue, grid, &attention_kernel<S, T, 4>, a);
  } else if constexpr (sizeof(T) == 4) {
    launch(queue, grid, &attention_kernel<S, T, 8>, a);
  }
  if (a.parts.value() == 1) return;
  launch(queue, {blocks_for(a.problems * a.queries, kWarps), kThreads, 0},
         &attention_parts_kernel<S, T>, a);
}

void run(const Queue& queue, const AttentionArguments& shape, DType dtype, int64_t parts,
         void* workspace) {
  ForwardArguments a{};
  static_cast<AttentionArguments&>(a) = shape;
  a.parts = Divisor(parts);
  a.problems = a.batch.count * a.heads.value();
  a.part_out = static_cast<char*>(workspace);
  a.part_lse =
      a.part_out + parts * a.problems * a.queries * a.value_depth * (dtype == DType::f64 ? 8 : 4);
  if (dtype == DType::f64) return run<double, double>(queue, a);
  if (dtype == DType::bf16) return run<bfloat16, float>(queue, a);
  run<float, float>(queue, a);
}

// Blocks that share the keys of a query: where there are fewer than fill a device, and keys enough.
// Shapes alone decide, so that a result is the same on every device.
constexpr int64_t kFullBlocks = 512;
constexpr int64_t kFewestKeys = 256;  // of a part

int64_t parts_of(const View& q, const View& k) {
  const int axis = q.ndim() - 3;
  int64_t blocks = blocks_for(q.shape[axis + 1], kRows);
  for (int a = 0; a <= axis; ++a) blocks *= q.shape[a];
  if (blocks == 0) return 1;
  const int64_t parts = std::min(blocks_for(kFullBlocks, blocks), k.shape[axis + 1] / kFewestKeys);
  return parts > 1 ? parts : 1;
}

void check_depths(std::string_view function, const View& q, const View& v) {
  const int64_t most = q.dtype == DType::f64 ? 128 : 256;
  for (const auto& [argument, view] : {std::pair{"q", &q}, {"v", &v}}) {
    if (view->shape[view->ndim() - 1] > most) {
      throw ValueError(function, argument,
                       "a head size of at most " + std::to_string(most) + " on a CUDA device",
                       to_string(view->shape));
    }
  }
}

}  // namespace

int64_t attention_workspace(const View& q, const View& k, const View& v) {
  const int64_t parts = parts_of(q, k);
  if (parts == 1) return 0;
  int64_t rows = 1;
  for (int a = 0; a < q.ndim() - 1; ++a) rows *= q.shape[a];
  return parts * rows * (v.shape[v.ndim() - 1] + 1) * (q.dtype == DType::f64 ? 8 : 4);
}

const char* attention(const Queue& queue, const View& q, const View& k, const View& v,
                      const View* mask, const View* bias, const AttentionOptions& options,
                      const View& out, const View* lse, void* workspace) {
  constexpr std::string_view kName = "marey.attention";
  check_attention(kName, q, k, v, mask, bias, options, out, lse);
  check_depths(kName, q, v);
  if (out.shape.count() == 0 && (lse == nullptr || lse->shape.count() == 0)) return "";
#if defined(MAREY_HAVE_HOPPER) || !defined(__CUDACC__)
  if (fits_sm90(queue, q, k, v, mask, bias, options, out, lse)) {
    attention_sm90(queue, q, k, v, options, out, lse);
    return "sm90";
  }
#endif
  run(queue, attention_arguments(q, k, v, mask, bias, options, out, lse, kRows), q.dtype,
      parts_of(q, k), workspace);
  return "generic";
}

void attention_varlen(const Queue& queue, const View& q, const View& k, const View& v,
                      const int64_t* cu_seqlens_q, const int64_t* cu_seqlens_k, int64_t sequences,
                      const AttentionOptions& options, const View& out, const View* lse) {
  check_depths("marey.attention_varlen", q, v);
  if (out.shape.count() == 0 && (lse == nullptr || lse->shape.count() == 0)) return;
  if (sequences == 0) return;
  AttentionArguments a = attention_arguments(q, k, v, nullptr, nullptr, options, out, lse, kRows);
  a.sequences = {cu_seqlens_q, cu_seqlens_k, sequences,
                 options.alignment == Alignment::bottom_right};
  a.row_blocks = Divisor(attention_blocks(a.queries, kRows, sequences));
  run(queue, a, q.dtype, 1, nullptr);
}

}  // namespace marey::cuda
