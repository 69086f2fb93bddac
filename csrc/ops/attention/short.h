#pragma once
// Attention of short sequences: a frame's neighbours in time, the windows of an image. A problem is
// one call, whose keys and values, copied side by side, stay in the first-level cache.
// attention() and attention_varlen() choose it by the shape alone.
#include "ops/attention/attention.h"

namespace marey {

inline constexpr int64_t kShortRows = 16;
inline constexpr int64_t kShortKeys = 32;

// `rows`: all queries that share the key head. Room is left for one more key.
constexpr bool is_short(int64_t rows, int64_t keys) {
  return rows <= kShortRows && keys >= 1 && keys < kShortKeys;
}

// Bytes of scratch for the longest.
std::size_t short_attention_scratch(int64_t depth, int64_t value_depth, int64_t item);

// For all rows of a problem.
using SelectShortAttention = AttentionRowsFn*(DType);
MAREY_DECLARE_KERNEL(select_short_attention, SelectShortAttention)

}  // namespace marey
