// Attention on Hopper, bfloat16, head sizes 64, 128 and 256.
//
// A block takes 128 queries of one head through blocks of 128 keys (64 with a head size of 256, so
// that two stages of both fit beside the queries). Its first warpgroup copies: one
// thread asks the copy engine for Q once, and for K and V by turns into two stages each. The other
// two warpgroups compute 64 queries each:
//
//   S = Q K^T   both from shared memory, the sums in registers;
//   P           the softmax of S in units of log2, scale and subtraction in one multiply-add,
//   rounded
//               to bfloat16 in the registers in which S came, which are those of the next operand;
//   O += P V    P from registers, V from shared memory as it lies.
//
// The product S of the next block is issued before the product with V of this one, so that the
// tensor cores work while the exponentials are taken. O is rescaled once both are done.
//
// Barriers. full[stage]: one arrival and the bytes of a tile, by the copying thread; consumers wait
// for it. free[stage]: an arrival by each consumer warp once its products that read the stage are
// done; the copying thread waits for it. Block i uses stage i % 2, for the (i / 2)-th time:
// consumers wait for parity (i / 2) % 2 of full, the producer for the opposite one of free, which a
// new barrier passes at once.
//
// A key that a query does not see has a probability of 0 for it, and takes part in the product all
// the same: if its value is infinite that makes NaN. A thread that finds such numbers at the end,
// and an infinite value among the hidden keys of its blocks, makes its numbers of that row once
// more, slowly, from the keys that the query sees: all of those, also with a weight of 0, so that
// what is NaN does not depend on the keys that it does not see.
#include <string>

#include "cuda/bfloat16.h"
#include "cuda/sm90.h"
#include "ops/attention/attention_cuda.h"
#include "ops/attention/attention_sm90.h"

namespace marey::cuda {
namespace {

constexpr int kRows = 128;
constexpr int kStages = 2;
constexpr int kConsumers = 2;
constexpr int kThreads = 128 * (1 + kConsumers);
constexpr float kLn2 = 0.693147180559945F;
constexpr float kNever = -INFINITY;
constexpr float kLargest = 3.402823466e+38F;

template <int kDepth>
constexpr int kKeysOf = kDepth > 128 ? 64 : 128;

// Tiles are parts of rows, 64 items each.
template <int kDepth>
struct Shared {
  static constexpr int kParts = kDepth / 64;
  static constexpr int kQueryItems = kRows * 64;
  static constexpr int kKeyItems = kKeysOf<kDepth> * 64;
  alignas(1024) bfloat16 q[kParts][kQueryItems];
  alignas(1024) bfloat16 k[kStages][kParts][kKeyItems];
  alignas(1024) bfloat16 v[kStages][kParts][kKeyItems];
  Barrier q_full, k_full[kStages], k_free[kStages], v_full[kStages], v_free[kStages];
};

// Tiles begin at 1024 bytes, and dynamic shared memory need not.
template <int kDepth>
constexpr std::size_t kSharedBytes = sizeof(Shared<kDepth>) + 1024;

// 32 bits for all: there are fewer blocks than 2^31, and so many rows (copyable()).
struct Tile {
  int batch, head, first;  // first query
  int first_key, blocks;   // of keys
};

template <int kKeys>
MAREY_HOST_DEVICE Tile tile_at(const AttentionArguments& a, int64_t block) {
  const int64_t problem = a.row_blocks.quotient(block);
  // Late queries see most in a causal order: they come first.
  const int64_t at = block - problem * a.row_blocks.value();
  const int64_t first = (a.row_blocks.value() - 1 - at) * kRows;
  const int64_t batch = a.heads.quotient(problem);
  const int64_t last = first + kRows < a.queries ? first + kRows - 1 : a.queries - 1;
  const int64_t first_key = a.first_key(first) / kKeys * kKeys;
  const int64_t end = a.end_key(last);
  Tile tile;
  tile.batch = static_cast<int>(batch);
  tile.head = static_cast<int>(problem - batch * a.heads.value());
  tile.first = static_cast<int>(first);
  tile.first_key = static_cast<int>(first_key);
  tile.blocks = end > first_key ? static_cast<int>((end - first_key + kKeys - 1) / kKeys) : 0;
  return tile;
}

// One row of S is spread over four neighbouring lanes.
MAREY_DEVICE float row_max(float x) {
  x = fmaxf(x, shuffle_xor(x, 1));
  return fmaxf(x, shuffle_xor(x, 2));
}
MAREY_DEVICE float row_sum(float x) {
  x += shuffle_xor(x, 1);
  return x + shuffle_xor(x, 2);
}

template <int kDepth>
struct Consumer {
  using Memory = Shared<kDepth>;
  static constexpr int kKeys = kKeysOf<kDepth>;
  static constexpr uint32_t kQueryBytes = Memory::kQueryItems * 2;
  static constexpr uint32_t kKeyBytes = Memory::kKeyItems * 2;

  const AttentionArguments& a;
  Shared<kDepth>& shared;
  const Tile& tile;
  int warpgroup;  // among the consumers
  int thread;     // in it
  float scale;    // of scores, in units of log2

  float scores[kKeys / 2];
  float out[kDepth / 2];
  uint32_t probabilities[kKeys / 4];
  float top[2], sum[2], factor[2];
  // The keys that a query sees, from the tile's first one.
  int low[2], high[2];

  MAREY_DEVICE int query(int half) const {
    return tile.first + 64 * warpgroup + accumulator_row(thread, 2 * half);
  }

  // S = Q K^T, not waited for.
  MAREY_DEVICE void multiply_keys(int stage) {
    const uint32_t q = shared_address(shared.q) + static_cast<uint32_t>(warpgroup) * 64 * 128;
    const uint32_t k = shared_address(shared.k[stage]);
    wgmma_hold(scores);
    wgmma_fence();
#pragma unroll
    for (int d = 0; d < kDepth / 16; ++d) {
      const auto part = static_cast<uint32_t>(d / 4);
      const auto items = static_cast<uint32_t>(d % 4) * 32;
      wgmma_ss(scores, descriptor(q + part * kQueryBytes + items, 16, 1024),
               descriptor(k + part * kKeyBytes + items, 16, 1024), d > 0);
    }
    wgmma_commit();
  }

  // O += P V, not waited for.
  MAREY_DEVICE void multiply_values(int stage) {
    const uint32_t v = shared_address(shared.v[stage]);
    wgmma_hold(out);
    wgmma_hold(probabilities);
    wgmma_fence();
#pragma unroll
    for (int k = 0; k < kKeys / 16; ++k) {
      wgmma_rs(out, probabilities + 4 * k,
               descriptor(v + static_cast<uint32_t>(k) * 16 * 128, kKeyBytes, 1024), true);
    }
    wgmma_commit();
  }

  MAREY_DEVICE void find_keys() {
    const int64_t count = int64_t{tile.blocks} * kKeys;
    const auto inside = [&](int64_t key) {
      return static_cast<int>(key < 0 ? 0 : key > count ? count : key);
    };
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int64_t place = query(half) + a.offset;
      const int64_t past = place + a.right + 1 < a.keys ? place + a.right + 1 : a.keys;
      low[half] = inside(place - a.left - tile.first_key);
      high[half] = inside(past - tile.first_key);
    }
  }

  // Scores of keys that a query does not see; `first`: of the block, from the tile's first one.
  MAREY_DEVICE void hide(int first) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      if (low[half] <= first && first + kKeys <= high[half]) continue;
#pragma unroll
      for (int i = 0; i < kKeys / 2; ++i) {
        if (i / 2 % 2 != half) continue;
        const int key = first + accumulator_column(thread, i);
        if (key < low[half] || key >= high[half]) scores[i] = kNever;
      }
    }
  }

  // Scores become exponentials, in place; `factor` is what O so far is to be multiplied by.
  MAREY_DEVICE void softmax() {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      float highest = top[half];
#pragma unroll
      for (int i = 0; i < kKeys / 2; ++i) {
        if (i / 2 % 2 == half) highest = fmaxf(highest, scores[i]);
      }
      highest = row_max(highest);
      // Nothing seen yet: all differences would be infinity less infinity.
      const float base = highest == kNever ? 0.0F : highest * scale;
      // The difference first: it is nothing where the maximum stays. A fused multiply-add would
      // leave the rounding of `base`, which adds up over the blocks of keys.
      factor[half] = highest == kNever ? 1.0F : exp2_fast((top[half] - highest) * scale);
      top[half] = highest;
      float total = 0.0F;
#pragma unroll
      for (int i = 0; i < kKeys / 2; ++i) {
        if (i / 2 % 2 != half) continue;
        scores[i] = exp2_fast(fmaf(scores[i], scale, -base));
        total += scores[i];
      }
      sum[half] = sum[half] * factor[half] + total;
    }
  }

  MAREY_DEVICE void pack() {
#pragma unroll
    for (int i = 0; i < kKeys / 4; ++i) {
      probabilities[i] = pack_bfloat16(scores[2 * i], scores[2 * i + 1]);
    }
  }

  MAREY_DEVICE void rescale() {
#pragma unroll
    for (int i = 0; i < kDepth / 2; ++i) out[i] *= factor[i / 2 % 2];
  }

  MAREY_DEVICE void run() {
#pragma unroll
    for (int i = 0; i < kDepth / 2; ++i) out[i] = 0.0F;
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      top[half] = kNever;
      sum[half] = 0.0F;
    }
    find_keys();
    if (tile.blocks > 0) {
      barrier_wait(&shared.q_full, 0);
      barrier_wait(&shared.k_full[0], 0);
      multiply_keys(0);
      wgmma_wait<0>();
      wgmma_hold(scores);
      if (thread % 32 == 0) barrier_arrive(&shared.k_free[0]);
      hide(0);
      softmax();
      pack();
      int stage = 0;
      int parity = 0;
      for (int block = 1; block < tile.blocks; ++block) {
        const int next_stage = stage ^ 1;
        const int next_parity = parity ^ stage;
        barrier_wait(&shared.k_full[next_stage], next_parity);
        multiply_keys(next_stage);
        barrier_wait(&shared.v_full[stage], parity);
        multiply_values(stage);
        wgmma_wait<1>();
        wgmma_hold(scores);
        if (thread % 32 == 0) barrier_arrive(&shared.k_free[next_stage]);
        hide(block * kKeys);
        softmax();
        wgmma_wait<0>();
        wgmma_hold(out);
        wgmma_hold(probabilities);
        if (thread % 32 == 0) barrier_arrive(&shared.v_free[stage]);
        rescale();
        pack();
        stage = next_stage;
        parity = next_parity;
      }
      barrier_wait(&shared.v_full[stage], parity);
      multiply_values(stage);
      wgmma_wait<0>();
      wgmma_hold(out);
      wgmma_hold(probabilities);
    }
    store();
  }

  MAREY_DEVICE void store() {
    int64_t offset[kAttentionArrays];
    a.batch.offsets(tile.batch, offset);
    char* to = a.data[kOut] + offset[kOut] + tile.head * a.head[kOut];
    float inverse[2];
    bool finite[2];
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const float total = row_sum(sum[half]);
      inverse[half] = total > 0.0F ? 1.0F / total : (total == 0.0F ? 0.0F : total);
      const int64_t row = query(half);
      finite[half] = true;
      if (row >= a.queries) continue;
#pragma unroll
      for (int i = 2 * half; i < kDepth / 2; i += 4) {
        finite[half] = finite[half] && fabsf(out[i]) <= kLargest && fabsf(out[i + 1]) <= kLargest;
        *reinterpret_cast<uint32_t*>(to + row * a.row[kOut] + 2 * accumulator_column(thread, i)) =
            pack_bfloat16(out[i] * inverse[half], out[i + 1] * inverse[half]);
      }
      if (thread % 4 == 0 && a.data[kLse] != nullptr) {
        *reinterpret_cast<float*>(a.data[kLse] + offset[kLse] + tile.head * a.head[kLse] +
                                  row * a.row[kLse]) =
            total == 0.0F ? kNever : fmaf(top[half], scale, log2f(total)) * kLn2;
      }
    }
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      if (!finite[half]) without_hidden(offset, half, inverse[half]);
    }
  }

  // The results of a row that this thread has, once more, if values of hidden keys spoilt them.
  // What is summed is in registers no longer: a few columns at a time.
  MAREY_DEVICE void without_hidden(const int64_t (&offset)[kAttentionArrays], int half,
                                   float inverse) const {
    constexpr int kPairs = 4;
    const int64_t key_head = a.group.quotient(tile.head);
    const int64_t row = query(half);
    const auto* of_query = reinterpret_cast<const bfloat16*>(
        a.data[kQ] + offset[kQ] + tile.head * a.head[kQ] + row * a.row[kQ]);
    const char* keys = a.data[kK] + offset[kK] + key_head * a.head[kK] + tile.first_key * a.row[kK];
    const char* values =
        a.data[kV] + offset[kV] + key_head * a.head[kV] + tile.first_key * a.row[kV];
    const int64_t left = a.keys - tile.first_key;
    const int count = tile.blocks * kKeys < left ? tile.blocks * kKeys : static_cast<int>(left);
    const int column = accumulator_column(thread, 0);
    bool spoilt = false;
    for (int key = 0; key < count && !spoilt; ++key) {
      if (key >= low[half] && key < high[half]) continue;
      const auto* value = reinterpret_cast<const bfloat16*>(values + key * a.row[kV]) + column;
#pragma unroll 1
      for (int i = 0; i < kDepth; i += 8) {
        spoilt = spoilt || is_infinite(value[i]) || is_infinite(value[i + 1]);
      }
    }
    if (!spoilt) return;

    // Of a row whose scores are all -inf, or that sees nothing, every weight is 0: no products.
    const bool weightless = inverse == 0.0F;
    const float base = top[half] * scale;
#pragma unroll 1
    for (int first = column; first < kDepth; first += 8 * kPairs) {
      float result[2 * kPairs];
#pragma unroll
      for (int i = 0; i < 2 * kPairs; ++i) result[i] = 0.0F;
#pragma unroll 1
      for (int key = low[half]; key < high[half]; ++key) {
        const auto* of_key = reinterpret_cast<const bfloat16*>(keys + key * a.row[kK]);
        const auto* value = reinterpret_cast<const bfloat16*>(values + key * a.row[kV]) + first;
        float score = 0.0F;
#pragma unroll 1
        for (int d = weightless ? kDepth : 0; d < kDepth; ++d) {
          score += to<float>(of_query[d]) * to<float>(of_key[d]);
        }
        // Rounded as the others.
        const float weight =
            weightless ? 0.0F : to<float>(from<bfloat16>(exp2_fast(fmaf(score, scale, -base))));
        bool lost = true;
#pragma unroll
        for (int i = 0; i < 2 * kPairs; ++i) {
          result[i] += weight * to<float>(value[i / 2 * 8 + i % 2]);
          lost = lost && result[i] != result[i];
        }
        // NaN stays. Where training has gone wrong all are, and this must not take seconds.
        if (lost) break;
      }
      auto* to = reinterpret_cast<bfloat16*>(a.data[kOut] + offset[kOut] +
                                             tile.head * a.head[kOut] + row * a.row[kOut]) +
                 first;
#pragma unroll
      for (int i = 0; i < 2 * kPairs; ++i)
        to[i / 2 * 8 + i % 2] = from<bfloat16>(result[i] * inverse);
    }
  }
};

template <int kDepth>
MAREY_KERNEL(kThreads)
attention_sm90_kernel(MAREY_GRID_CONSTANT AttentionArguments a, MAREY_GRID_CONSTANT TensorMap q,
                      MAREY_GRID_CONSTANT TensorMap k, MAREY_GRID_CONSTANT TensorMap v) {
  using Memory = Shared<kDepth>;
  constexpr int kKeys = kKeysOf<kDepth>;
  constexpr int kQueryBytes = Memory::kParts * Memory::kQueryItems * 2;
  constexpr int kKeyBytes = Memory::kParts * Memory::kKeyItems * 2;
  unsigned char* memory = shared_memory<unsigned char>();
  memory += (1024 - shared_address(memory) % 1024) % 1024;
  auto& shared = *reinterpret_cast<Memory*>(memory);
  const int warpgroup = uniform(static_cast<int>(threadIdx.x) / 128);
  const Tile tile = tile_at<kKeys>(a, blockIdx.x);

  if (threadIdx.x == 0) {
    barrier_init(&shared.q_full, 1);
    for (int stage = 0; stage < kStages; ++stage) {
      barrier_init(&shared.k_full[stage], 1);
      barrier_init(&shared.v_full[stage], 1);
      barrier_init(&shared.k_free[stage], 4 * kConsumers);
      barrier_init(&shared.v_free[stage], 4 * kConsumers);
    }
    barrier_init_done();
  }
  sync_block();

  if (warpgroup == 0) {
    fewer_registers<24>();
    if (threadIdx.x == 0 && tile.blocks > 0) {
      // Coordinates: item, row, head, and two batch axes.
      const auto [c3, c4] = batch_coordinates(a, tile.batch);
      const int key_head = static_cast<int>(a.group.quotient(tile.head));
      barrier_expect(&shared.q_full, kQueryBytes);
      for (int part = 0; part < Memory::kParts; ++part) {
        copy_tile(shared.q[part], &q, 64 * part, tile.first, tile.head, c3, c4, &shared.q_full);
      }
      int stage = 0;
      int parity = 0;
      for (int block = 0; block < tile.blocks; ++block) {
        const int key = tile.first_key + block * kKeys;
        barrier_wait(&shared.k_free[stage], parity ^ 1);
        barrier_expect(&shared.k_full[stage], kKeyBytes);
        for (int part = 0; part < Memory::kParts; ++part) {
          copy_tile(shared.k[stage][part], &k, 64 * part, key, key_head, c3, c4,
                    &shared.k_full[stage]);
        }
        barrier_wait(&shared.v_free[stage], parity ^ 1);
        barrier_expect(&shared.v_full[stage], kKeyBytes);
        for (int part = 0; part < Memory::kParts; ++part) {
          copy_tile(shared.v[stage][part], &v, 64 * part, key, key_head, c3, c4,
                    &shared.v_full[stage]);
        }
        parity ^= stage;
        stage ^= 1;
      }
    }
  } else {
    more_registers<240>();
    Consumer<kDepth> consumer{a,
                              shared,
                              tile,
                              warpgroup - 1,
                              static_cast<int>(threadIdx.x) % 128,
                              static_cast<float>(a.scale * 1.4426950408889634)};
    consumer.run();
  }
}

template <int kDepth>
void run(const Queue& queue, const AttentionArguments& a, const View& q, const View& k,
         const View& v) {
  const Grid grid{a.batch.count * a.heads.value() * a.row_blocks.value(), kThreads,
                  kSharedBytes<kDepth>};
  launch(queue, grid, &attention_sm90_kernel<kDepth>, a, tensor_map(a, kQ, q, kRows),
         tensor_map(a, kK, k, kKeysOf<kDepth>), tensor_map(a, kV, v, kKeysOf<kDepth>));
}

// Fewer queries than this leave most of a block idle.
constexpr int64_t kFewestQueries = 16;

}  // namespace

bool fits_sm90(const Queue& queue, const View& q, const View& k, const View& v, const View* mask,
               const View* bias, const AttentionOptions& options, const View& out,
               const View* lse) {
  const int axis = q.ndim() - 3;
  const int64_t depth = q.shape[axis + 2];
  if (q.dtype != DType::bf16 || mask != nullptr || bias != nullptr || options.softcap > 0) {
    return false;
  }
  // As a float32 the scale must not be zero: hidden scores are -inf times it.
  if (depth != 64 && depth != 128 && depth != 256) return false;
  if (v.shape[axis + 2] != depth || options.scale < 1e-30) return false;
  if (q.shape[axis + 1] < kFewestQueries || k.shape[axis + 1] == 0) return false;
  if (!copyable(q) || !copyable(k) || !copyable(v)) return false;
  if (!writable_in_pairs(out)) return false;
  const AttentionArguments a = attention_arguments(q, k, v, mask, bias, options, out, lse, kRows);
  return a.batch.axes <= 2 && is_hopper(queue);
}

void attention_sm90(const Queue& queue, const View& q, const View& k, const View& v,
                    const AttentionOptions& options, const View& out, const View* lse) {
  const AttentionArguments a =
      attention_arguments(q, k, v, nullptr, nullptr, options, out, lse, kRows);
  switch (q.shape[q.ndim() - 1]) {
    case 64:
      return run<64>(queue, a, q, k, v);
    case 128:
      return run<128>(queue, a, q, k, v);
    default:
      return run<256>(queue, a, q, k, v);
  }
}

}  // namespace marey::cuda
