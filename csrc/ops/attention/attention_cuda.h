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
                      const View& out, const View* lse);

// What all kernels take: strides in bytes, keys that a query sees as in AttentionRows.
enum AttentionArray { kQ, kK, kV, kMask, kBias, kOut, kLse, kAttentionArrays };

struct AttentionArguments {
  SeriesMap<kAttentionArrays> batch;
  char* data[kAttentionArrays];
  int64_t head[kAttentionArrays], row[kAttentionArrays], item[kAttentionArrays];
  Divisor heads, row_blocks;
  Divisor group;  // query heads that share a key head
  int64_t queries, keys;
  int depth, value_depth;
  int64_t left, right, offset;
  double scale, softcap;

  // The keys that rows [first, last] may see: [begin, end).
  MAREY_HOST_DEVICE int64_t first_key(int64_t first) const {
    const int64_t key = first + offset - left;
    return key > 0 ? key : 0;
  }
  MAREY_HOST_DEVICE int64_t end_key(int64_t last) const {
    const int64_t key = last + offset + right + 1;
    return key < keys ? key : keys;
  }
  MAREY_HOST_DEVICE bool sees(int64_t query, int64_t key) const {
    const int64_t place = query + offset;
    return key >= place - left && key <= place + right && key < keys;
  }
};

AttentionArguments attention_arguments(const View& q, const View& k, const View& v,
                                       const View* mask, const View* bias,
                                       const AttentionOptions& options, const View& out,
                                       const View* lse, int rows_per_block);

// attention_sm90.cu: bfloat16, head sizes 64 and 128, no mask, bias or softcap, rows that the bulk
// copy engine can read; on a device of compute capability 9.0. The first says whether it applies.
bool fits_sm90(const Queue& queue, const View& q, const View& k, const View& v, const View* mask,
               const View* bias, const AttentionOptions& options, const View& out, const View* lse);
void attention_sm90(const Queue& queue, const View& q, const View& k, const View& v,
                    const AttentionOptions& options, const View& out, const View* lse);

}  // namespace marey::cuda
