#pragma once
// Attention for few queries: the keys are split into parts, a partial softmax of each is stored,
// and the parts are merged. attention() chooses it.
//
// A part of a row is decode_pitch() items: the maximum of its scores (in units of log2), the sum of
// its exponentials, padding, and from kDecodeHeader on the unnormalised output, in an order that is
// the kernel's.
#include "ops/attention/attention.h"

namespace marey {

inline constexpr int64_t kDecodeRows = 4;    // at most
inline constexpr int64_t kDecodeKeys = 512;  // in a part
inline constexpr int64_t kDecodeHeader = 16;
inline constexpr int64_t kDecodeItems = 32;  // what rows are padded to, for every instruction set

constexpr int64_t decode_padded(int64_t depth) {
  return (depth + kDecodeItems - 1) / kDecodeItems * kDecodeItems;
}
constexpr int64_t decode_pitch(int64_t value_depth) {
  return kDecodeHeader + decode_padded(value_depth);
}

// Scratch: rows * (padded D + kDecodeKeys) items. The items of k and v must be adjacent.
using DecodeFn = void(const AttentionRows& rows, int64_t first, int64_t last, void* partial);
// Scratch: padded Dv items. `stride` items from one part to the next.
using DecodeMergeFn = void(const AttentionRows& rows, const void* parts, int64_t count,
                           int64_t stride);
struct DecodeKernel {
  DecodeFn* part = nullptr;
  DecodeMergeFn* merge = nullptr;
};
using SelectDecode = DecodeKernel(DType);
MAREY_DECLARE_KERNEL(select_decode, SelectDecode)

}  // namespace marey
