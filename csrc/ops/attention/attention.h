#pragma once
// Exact softmax attention that never stores the score matrix (Dao et al. 2022, "FlashAttention";
// the running softmax is Milakov and Gimelshein 2018, "Online normalizer calculation for softmax"):
//
//   x[l, s]   = softcap(scale * q[l] . k[s]) + bias[l, s],   -inf where the mask, the causal order
//   or
//                                                            the window forbid it
//   lse[l]    = log sum_s exp(x[l, s])
//   out[l]    = sum_s exp(x[l, s] - lse[l]) v[s]
//
// with softcap(x) = c tanh(x / c). A query with nothing to attend to gives zeros and lse = -inf.
#include <limits>

#include "core/dispatch.h"
#include "core/view.h"

namespace marey {

// Which key the diagonal of a causal order or a window goes through: query l stands at key l
// (top_left), or at key l + S - L (bottom_right). `square` is either, and demands L == S.
enum class Alignment : int { square, top_left, bottom_right };

struct AttentionOptions {
  static constexpr int64_t kUnlimited = std::numeric_limits<int64_t>::max() / 4;
  double scale = 1.0;
  double softcap = 0.0;  // 0: none
  // A query at key p attends keys p - left to p + right.
  int64_t left = kUnlimited;
  int64_t right = kUnlimited;
  Alignment alignment = Alignment::square;

  bool limited() const { return left != kUnlimited || right != kUnlimited; }
};

// q (..., h, L, D), k (..., h_kv, S, D), v (..., h_kv, S, Dv), out (..., h, L, Dv), all of one
// type: float32, float64 or bfloat16; h a multiple of h_kv: query head i reads key head i / (h /
// h_kv). mask: null or uint8 (..., h, L, S), nonzero where attention is allowed. bias: null or
// (..., h, L, S) of the type of the computation, which is float32 for bfloat16. lse: null or (...,
// h, L) of the type of the computation. Any strides, zero ones too (broadcasting). out and lse
// overlap no input. Each thread's scratch is at most 256 rows of q and out, and 128 keys and
// values, in the type of the computation; with tiles of AMX 1024 rows: of bfloat16 with 256 keys
// and values, of float32, split in parts, half as large again.
void attention(const View& q, const View& k, const View& v, const View* mask, const View* bias,
               const AttentionOptions& options, const View& out, const View* lse,
               const View* more_k = nullptr, const View* more_v = nullptr);

// Sequences of different lengths, packed one after the other: q (total_q, h, D), k (total_k, h_kv,
// D), v (total_k, h_kv, Dv), out (total_q, h, Dv), lse null or (total_q, h). Queries
// cu_seqlens_q[i] to cu_seqlens_q[i + 1] attend keys cu_seqlens_k[i] to cu_seqlens_k[i + 1]. The
// caller has checked the shapes and types of the views; the offsets are checked here.
void attention_varlen(const View& q, const View& k, const View& v, const int64_t* cu_seqlens_q,
                      const int64_t* cu_seqlens_k, int64_t sequences,
                      const AttentionOptions& options, const View& out, const View* lse);

// The strides are in items.
struct AttentionOperand {
  void* data = nullptr;
  int64_t head = 0;
  int64_t row = 0;
  int64_t item = 0;
};

// Rows [begin, end) of one batch entry and key head: the queries of all heads that share the key
// head, one head after the other.
struct AttentionRows {
  AttentionOperand q, k, v, mask, bias, out, lse;
  // One more key that every query sees, whatever the mask and the limits: null or a row each.
  AttentionOperand more_k, more_v;
  int64_t queries, keys, depth, value_depth;
  int64_t begin, end;
  double scale, softcap;
  int64_t left, right, offset;  // query l stands at key l + offset
  [[gnu::always_inline]] bool limited() const {
    return left < keys + queries || right < keys + queries;
  }
  bool streaming = false;  // write past the caches: rows of `out` are aligned to the widest vector
  std::byte* scratch;
  const AttentionRows* next = nullptr;  // what the thread computes next, to fetch its operands
};

inline constexpr int64_t kAttentionRows = 256;  // at most in a call
// Float32 goes by the tiles of AMX (core/tile_split.h) from so many keys on, from twice as many
// where queries see some of them; by multiply-adds, which are as fast there, below
// (docs/attention.md). Inlined always, because kernel files call it (see core/dispatch.h).
inline constexpr int64_t kFewestSplitKeys = 1024;
[[gnu::always_inline]] inline bool keys_for_tiles(const AttentionRows& rows) {
  return rows.keys >= (rows.limited() ? 2 : 1) * kFewestSplitKeys;
}
inline constexpr int64_t kAttentionKeys = 128;  // in a block
// Rows of a call with tiles: keys are packed in each, and to split one for float32 takes as long as
// to attend it from thirty queries.
inline constexpr int64_t kAttentionTileRows = 1024;
inline constexpr int64_t kAttentionTileKeys = 256;  // in a block of bfloat16
// Bytes of scratch for rows of a call.
std::size_t attention_scratch(const AttentionRows& rows, int64_t count, DType dtype);

using AttentionRowsFn = void(const AttentionRows&);
using SelectAttentionRows = AttentionRowsFn*(DType);
MAREY_DECLARE_KERNEL(select_attention_rows, SelectAttentionRows)

}  // namespace marey
