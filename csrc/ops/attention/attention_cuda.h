#pragma once
// Attention on a CUDA device: the contract of attention.h. Views hold device pointers, and work is
// put on `queue` and not waited for. Head sizes up to 256 (float64: 128).
#include "core/view.h"
#include "cuda/divisor.h"
#include "cuda/kernel.h"
#include "cuda/series_map.h"
#include "ops/attention/attention.h"

namespace marey::cuda {

// Returns the name of the kernel: "sm90" or "generic".
const char* attention(const Queue& queue, const View& q, const View& k, const View& v,
                      const View* mask, const View* bias, const AttentionOptions& options,
                      const View& out, const View* lse, void* workspace);
// Bytes of `workspace`: where there are few queries and many keys, as in decoding, blocks share the
// keys, and what each has is put together afterwards.
int64_t attention_workspace(const View& q, const View& k, const View& v);

// Sequences packed one after the other: offsets on the device; null: there is one.
struct AttentionSequences {
  const int64_t* queries = nullptr;  // (count + 1,)
  const int64_t* keys = nullptr;
  int64_t count = 0;
  bool bottom_right = false;
};

// Packed sequences: q (h, total_q, D), k (h_kv, total_k, D), v (h_kv, total_k, Dv), out (h,
// total_q, Dv), lse null or (h, total_q); offsets on the device, which nothing checks.
void attention_varlen(const Queue& queue, const View& q, const View& k, const View& v,
                      const int64_t* cu_seqlens_q, const int64_t* cu_seqlens_k, int64_t sequences,
                      const AttentionOptions& options, const View& out, const View* lse);

// The contract of backward.h. The gradient of the bias is null, or has no zero strides but those of
// axes that the bias is broadcast along; all of it is written. Packed sequences, if there are any,
// as above; then without mask and bias.
struct AttentionBackward {
  const View& grad;
  const View& q;
  const View& k;
  const View& v;
  const View& out;
  const View& lse;
  const View* mask = nullptr;
  const View* bias = nullptr;
  const View& grad_q;
  const View& grad_k;
  const View& grad_v;
  const View* grad_bias = nullptr;  // zeros, if the batch may be empty
  void* workspace = nullptr;
};
int64_t attention_backward_workspace(const View& q);  // bytes: a number for each query
// Returns the name of the kernel: "sm90" or "generic".
const char* attention_backward(const Queue& queue, const AttentionBackward& call,
                               const AttentionOptions& options,
                               const AttentionSequences& sequences);

// Where arrays (..., head, row, item) lie: strides in bytes. An array that is not there is null.
template <int N>
struct AttentionArrays {
  SeriesMap<N> batch;
  char* data[N];
  int64_t head[N], row[N], item[N];

  // `offset`: of a batch entry.
  MAREY_HOST_DEVICE char* at(const int64_t (&offset)[N], int array, int64_t of_head, int64_t of_row,
                             int64_t of_item) const {
    return data[array] + offset[array] + of_head * head[array] + of_row * row[array] +
           of_item * item[array];
  }
};

// `views`: with the leading axes of q, and the last one missing where the item is one number.
template <int N>
AttentionArrays<N> attention_arrays(const View& q, const View* const (&views)[N]);

// Keys that a query sees, as in AttentionRows.
struct AttentionRange {
  int64_t queries, keys;
  int64_t left, right, offset;

  // The keys that rows [first, last] may see: [begin, end).
  MAREY_HOST_DEVICE int64_t first_key(int64_t first) const {
    const int64_t key = first + offset - left;
    return key > 0 ? key : 0;
  }
  MAREY_HOST_DEVICE int64_t end_key(int64_t last) const {
    const int64_t key = last + offset + right + 1;
    return key < keys ? key : keys;
  }
  // The queries that may see keys [first, last].
  MAREY_HOST_DEVICE int64_t first_query(int64_t first) const {
    const int64_t query = first - offset - right;
    return query > 0 ? query : 0;
  }
  MAREY_HOST_DEVICE int64_t end_query(int64_t last) const {
    const int64_t query = last - offset + left + 1;
    return query < queries ? query : queries;
  }
  MAREY_HOST_DEVICE bool sees(int64_t query, int64_t key) const {
    const int64_t place = query + offset;
    return key >= place - left && key <= place + right && key < keys;
  }
};

// What all kernels take.
enum AttentionArray { kQ, kK, kV, kMask, kBias, kOut, kLse, kAttentionArrays };

struct AttentionArguments : AttentionRange, AttentionArrays<kAttentionArrays> {
  Divisor heads, row_blocks;
  Divisor group;  // query heads that share a key head
  AttentionSequences sequences;
  int depth, value_depth;
  double scale, softcap;
};

// What a block works at: rows from `first` of one head. Packed, `range` is that of the sequence,
// and its rows begin at `query_base` and `key_base` of the arrays.
struct AttentionTile {
  AttentionRange range;
  int64_t problem, first;
  int64_t query_base = 0, key_base = 0;
};

// Blocks of `rows` that `length` rows take in all. Of packed sequences it is known only on the
// device which they are: sequence i begins at block cu[i] / rows + i, so that there are enough for
// each, whatever the lengths, and some that have nothing to do.
inline int64_t attention_blocks(int64_t length, int64_t rows, int64_t sequences) {
  return sequences > 0 ? length / rows + sequences : blocks_for(length, rows);
}

// Of block `block`, with `row_blocks` for each problem. `rows` and `length` are those of queries,
// or of keys with `of_keys`. False: it has nothing to do.
MAREY_HOST_DEVICE bool attention_tile(const AttentionArguments& a, int64_t block,
                                      const Divisor& row_blocks, int rows, bool of_keys,
                                      AttentionTile& tile) {
  tile.range = a;
  tile.problem = row_blocks.quotient(block);
  int64_t at = block - tile.problem * row_blocks.value();
  const AttentionSequences& s = a.sequences;
  if (s.queries == nullptr) {
    tile.first = at * rows;
    return tile.first < (of_keys ? a.keys : a.queries);
  }
  // The last sequence that begins at or before this block.
  const int64_t* offsets = of_keys ? s.keys : s.queries;
  int64_t low = 0;
  int64_t high = s.count - 1;
  while (low < high) {
    const int64_t middle = (low + high + 1) / 2;
    if (offsets[middle] / rows + middle <= at) {
      low = middle;
    } else {
      high = middle - 1;
    }
  }
  tile.first = (at - offsets[low] / rows - low) * rows;
  tile.query_base = s.queries[low];
  tile.key_base = s.keys[low];
  tile.range.queries = s.queries[low + 1] - tile.query_base;
  tile.range.keys = s.keys[low + 1] - tile.key_base;
  tile.range.offset = s.bottom_right ? tile.range.keys - tile.range.queries : 0;
  return tile.first < (of_keys ? tile.range.keys : tile.range.queries);
}

AttentionArguments attention_arguments(const View& q, const View& k, const View& v,
                                       const View* mask, const View* bias,
                                       const AttentionOptions& options, const View& out,
                                       const View* lse, int rows_per_block);

// What all kernels of the way back take.
enum GradientArray { kGrad, kGradQ, kGradK, kGradV, kGradientArrays };

struct BackwardArguments {
  AttentionArguments forward;
  AttentionArrays<kGradientArrays> gradients;
  char* delta;  // (problems, queries), of the type of the computation
  int64_t problems;
  Divisor key_blocks;  // of a key head
};

// attention_sm90.cu: bfloat16, head sizes 64, 128 and 256, no mask, bias or softcap, rows that the
// bulk copy engine can read; on a device of compute capability 9.0. The first says whether it
// applies.
bool fits_sm90(const Queue& queue, const View& q, const View& k, const View& v, const View* mask,
               const View* bias, const AttentionOptions& options, const View& out, const View* lse);
void attention_sm90(const Queue& queue, const View& q, const View& k, const View& v,
                    const AttentionOptions& options, const View& out, const View* lse);

// attention_backward_sm90.cu: the same on the way back. `a` has `delta` computed.
bool fits_backward_sm90(const Queue& queue, const AttentionBackward& call,
                        const AttentionOptions& options, const BackwardArguments& a);
void attention_backward_sm90(const Queue& queue, const AttentionBackward& call,
                             const BackwardArguments& a);

// attention_grad_bias_cuda.cu. `a` has `delta` computed; the gradient of the bias has items.
void attention_grad_bias(const Queue& queue, const AttentionBackward& call,
                         const BackwardArguments& a);

}  // namespace marey::cuda
