#pragma once
// What a block of attention_backward_sm90.cu has: its shared memory, its own rows, and the others
// that these meet.
#include "cuda/sm90.h"
#include "ops/attention/attention_cuda.h"

namespace marey::cuda::backward_sm90 {

inline constexpr int kOther = 64;
inline constexpr int kStages = 2;
inline constexpr int kConsumers = 2;
// Warpgroups among which the columns of a sum are divided.
template <int kDepth>
inline constexpr int kSharing = kDepth > 128 ? 2 : 1;
template <int kDepth>
inline constexpr int kOwn = 64 * kConsumers / kSharing<kDepth>;
inline constexpr int kThreads = 128 * (1 + kConsumers);
inline constexpr float kLog2E = 1.44269504088896341F;

// Tiles are parts of rows, 64 items each. Of two arrays: q or k, and the gradient or v.
template <int kDepth>
struct Shared {
  static constexpr int kParts = kDepth / 64;
  static constexpr int kOwnItems = kOwn<kDepth> * 64;
  static constexpr int kOtherItems = kOther * 64;
  alignas(1024) bfloat16 own[2][kParts][kOwnItems];
  alignas(1024) bfloat16 other[kStages][2][kParts][kOtherItems];
  // Of the queries of a stage: the logarithm to base 2 of the sum of exponentials, and delta.
  float top[kStages][kOther], delta[kStages][kOther];
  // P and dS of each thread, packed, for the one that has the other columns.
  using Four = Pack<uint32_t, 4>;
  Four weights[2][kOther / 16][kSharing<kDepth> > 1 ? 128 : 1];
  Barrier own_full, full[kStages], free[kStages], given[2];
};

// Tiles begin at 1024 bytes, and dynamic shared memory need not.
template <int kDepth>
inline constexpr std::size_t kSharedBytes = sizeof(Shared<kDepth>) + 1024;
static_assert(kSharedBytes<256> <= 227 * 1024);

// Own row r meets the others r + shift - before to r + shift + after, of `count`.
struct Reach {
  int64_t own, shift, before, after, count;
};
template <bool kOfKeys>
MAREY_HOST_DEVICE Reach reach_of(const AttentionRange& range) {
  if constexpr (kOfKeys) {
    return {range.keys, -range.offset, range.right, range.left, range.queries};
  } else {
    return {range.queries, range.offset, range.left, range.right, range.keys};
  }
}

// 32 bits for all: there are fewer blocks than 2^31, and so many rows (copyable()).
struct Tile {
  int batch, key_head;
  int head, heads;    // first query head, and how many
  int first;          // of the own rows
  int begin, blocks;  // of the others
};

template <int kRows, bool kOfKeys>
MAREY_HOST_DEVICE Tile tile_at(const BackwardArguments& a, const Reach& reach, int64_t block) {
  const AttentionArguments& f = a.forward;
  const Divisor& blocks = kOfKeys ? a.key_blocks : f.row_blocks;
  Tile tile;
  const int64_t problem = blocks.quotient(block);
  const int64_t at = block - problem * blocks.value();
  int64_t first;
  if constexpr (kOfKeys) {
    const int64_t key_heads = f.group.quotient(f.heads.value());
    const int64_t batch = problem / key_heads;
    tile.batch = static_cast<int>(batch);
    tile.key_head = static_cast<int>(problem - batch * key_heads);
    tile.heads = static_cast<int>(f.group.value());
    tile.head = tile.key_head * tile.heads;
    // In a causal order early keys are seen most, and late queries see most: they come first.
    first = at * kRows;
  } else {
    const int64_t batch = f.heads.quotient(problem);
    tile.batch = static_cast<int>(batch);
    tile.head = static_cast<int>(problem - batch * f.heads.value());
    tile.key_head = static_cast<int>(f.group.quotient(tile.head));
    tile.heads = 1;
    first = (blocks.value() - 1 - at) * kRows;
  }
  const int64_t last = first + kRows < reach.own ? first + kRows - 1 : reach.own - 1;
  const int64_t from = first + reach.shift - reach.before;
  const int64_t past = last + reach.shift + reach.after + 1;
  const int64_t begin = from < 0 ? 0 : from > reach.count ? reach.count : from;
  const int64_t end = past < reach.count ? past : reach.count;
  tile.first = static_cast<int>(first);
  tile.begin = static_cast<int>(begin);
  tile.blocks = end > begin ? static_cast<int>((end - begin + kOther - 1) / kOther) : 0;
  return tile;
}

// What a query has beside its row.
struct Query {
  float top, delta;
};
// A query with no key to attend to, or that is not there, has kNoKey. So has one whose logarithm is
// +inf, which attention() never returns: a score of +inf makes its logarithm NaN.
inline constexpr float kNoKey = INFINITY;
MAREY_DEVICE Query query_of(const BackwardArguments& a, const int64_t (&offset)[kAttentionArrays],
                            int64_t batch, int64_t head, int64_t row) {
  const AttentionArguments& f = a.forward;
  if (row >= f.queries) return {kNoKey, 0.0F};
  const float lse = *reinterpret_cast<const float*>(f.at(offset, kLse, head, row, 0));
  const int64_t problem = batch * f.heads.value() + head;
  const float delta = reinterpret_cast<const float*>(a.delta)[problem * f.queries + row];
  return {lse == -INFINITY ? kNoKey : lse * kLog2E, delta};
}

}  // namespace marey::cuda::backward_sm90
