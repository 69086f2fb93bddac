// Attention on Hopper, bfloat16, head sizes 64 and 128.
//
// A block takes 128 queries of one head through blocks of 128 keys. Its first warpgroup copies: one
// thread asks the copy engine for Q once, and for K and V by turns into two stages each. The other
// two warpgroups compute 64 queries each:
//
//   S = Q K^T   both from shared memory, 64 x 128 sums in registers;
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
#include <string>

#include "cuda/bfloat16.h"
#include "cuda/sm90.h"
#include "ops/attention/attention_cuda.h"

namespace marey::cuda {
namespace {

constexpr int kRows = 128;
constexpr int kKeys = 128;
constexpr int kStages = 2;
constexpr int kConsumers = 2;
constexpr int kThreads = 128 * (1 + kConsumers);
constexpr int kTileItems = 128 * 64;  // rows of one tile, 64 items each
constexpr float kLn2 = 0.693147180559945F;
constexpr float kNever = -INFINITY;

template <int kDepth>
struct Shared {
  static constexpr int kHalves = kDepth / 64;
  alignas(1024) bfloat16 q[kHalves][kTileItems];
  alignas(1024) bfloat16 k[kStages][kHalves][kTileItems];
  alignas(1024) bfloat16 v[kStages][kHalves][kTileItems];
  Barrier q_full, k_full[kStages], k_free[kStages], v_full[kStages], v_free[kStages];
};

// Tiles begin at 1024 bytes, and dynamic shared memory need not.
template <int kDepth>
constexpr std::size_t kSharedBytes = sizeof(Shared<kDepth>) + 1024;

struct Tile {
  int64_t problem, batch, head, first;  // first query
  int64_t first_block, blocks;          // of keys
};

MAREY_HOST_DEVICE Tile tile_at(const AttentionArguments& a, int64_t block) {
  Tile tile;
  tile.problem = a.row_blocks.quotient(block);
  // Late queries see most in a causal order: they come first.
  const int64_t at = block - tile.problem * a.row_blocks.value();
  tile.first = (a.row_blocks.value() - 1 - at) * kRows;
  tile.batch = a.heads.quotient(tile.problem);
  tile.head = tile.problem - tile.batch * a.heads.value();
  const int64_t last = tile.first + kRows < a.queries ? tile.first + kRows - 1 : a.queries - 1;
  const int64_t begin = a.first_key(tile.first);
  const int64_t end = a.end_key(last);
  tile.first_block = begin / kKeys;
  tile.blocks = end > begin ? (end + kKeys - 1) / kKeys - tile.first_block : 0;
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
  static constexpr uint32_t kHalfBytes = kTileItems * 2;

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

  MAREY_DEVICE int64_t query(int half) const {
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
      const uint32_t offset = static_cast<uint32_t>(d / 4) * kHalfBytes + d % 4 * 32;
      wgmma_ss(scores, descriptor(q + offset, 16, 1024), descriptor(k + offset, 16, 1024), d > 0);
    }
    wgmma_commit();
  }

  // O += P V, not waited for.
  MAREY_DEVICE void multiply_values(int stage) {
    const uint32_t v = shared_address(shared.v[stage]);
    wgmma_hold(out);
    wgmma_fence();
#pragma unroll
    for (int k = 0; k < kKeys / 16; ++k) {
      wgmma_rs(out, probabilities + 4 * k,
               descriptor(v + static_cast<uint32_t>(k) * 16 * 128, kHalfBytes, 1024), true);
    }
    wgmma_commit();
  }

  // Scores of keys that a query does not see.
  MAREY_DEVICE void hide(int64_t first_key) {
    const int64_t last_query = tile.first + kRows - 1;
    const bool all = first_key + kKeys <= a.keys && first_key >= last_query + a.offset - a.left &&
                     first_key + kKeys - 1 <= tile.first + a.offset + a.right;
    if (all) return;
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int64_t place = query(half) + a.offset;
      // As columns of this block, so that the loop compares small numbers.
      const int64_t from = place - a.left - first_key;
      const int64_t past =
          place + a.right + 1 < a.keys ? place + a.right + 1 - first_key : a.keys - first_key;
      const int low = from < 0 ? 0 : from > kKeys ? kKeys : static_cast<int>(from);
      const int high = past < 0 ? 0 : past > kKeys ? kKeys : static_cast<int>(past);
#pragma unroll
      for (int i = 0; i < kKeys / 2; ++i) {
        if (i / 2 % 2 != half) continue;
        const int column = accumulator_column(thread, i);
        if (column < low || column >= high) scores[i] = kNever;
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
    if (tile.blocks > 0) {
      barrier_wait(&shared.q_full, 0);
      barrier_wait(&shared.k_full[0], 0);
      multiply_keys(0);
      wgmma_wait<0>();
      wgmma_hold(scores);
      if (thread % 32 == 0) barrier_arrive(&shared.k_free[0]);
      hide(tile.first_block * kKeys);
      softmax();
      pack();
      int stage = 0;
      int parity = 0;
      for (int64_t block = 1; block < tile.blocks; ++block) {
        const int next_stage = stage ^ 1;
        const int next_parity = parity ^ stage;
        barrier_wait(&shared.k_full[next_stage], next_parity);
        multiply_keys(next_stage);
        barrier_wait(&shared.v_full[stage], parity);
        multiply_values(stage);
        wgmma_wait<1>();
        wgmma_hold(scores);
        if (thread % 32 == 0) barrier_arrive(&shared.k_free[next_stage]);
        hide((tile.first_block + block) * kKeys);
        softmax();
        wgmma_wait<0>();
        wgmma_hold(out);
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
    }
    store();
  }

  MAREY_DEVICE void store() {
    int64_t offset[kAttentionArrays];
    a.batch.offsets(tile.batch, offset);
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const float total = row_sum(sum[half]);
      const float inverse = total > 0.0F ? 1.0F / total : (total == 0.0F ? 0.0F : total);
      const int64_t row = query(half);
      if (row >= a.queries) continue;
      char* to = a.data[kOut] + offset[kOut] + tile.head * a.head[kOut] + row * a.row[kOut];
#pragma unroll
      for (int i = 0; i < kDepth / 2; i += 4) {
        const int at = i + 2 * half;
        *reinterpret_cast<uint32_t*>(to + 2 * accumulator_column(thread, at)) =
            pack_bfloat16(out[at] * inverse, out[at + 1] * inverse);
      }
      if (thread % 4 == 0 && a.data[kLse] != nullptr) {
        *reinterpret_cast<float*>(a.data[kLse] + offset[kLse] + tile.head * a.head[kLse] +
                                  row * a.row[kLse]) =
            total == 0.0F ? kNever : fmaf(top[half], scale, log2f(total)) * kLn2;
      }
    }
  }
};

template <int kDepth>
MAREY_KERNEL(kThreads)
attention_sm90_kernel(MAREY_GRID_CONSTANT AttentionArguments a, MAREY_GRID_CONSTANT TensorMap q,
                      MAREY_GRID_CONSTANT TensorMap k, MAREY_GRID_CONSTANT TensorMap v) {
  constexpr int kHalves = kDepth / 64;
  constexpr int kTileBytes = kTileItems * 2;
  unsigned char* memory = shared_memory<unsigned char>();
  memory += (1024 - shared_address(memory) % 1024) % 1024;
  auto& shared = *reinterpret_cast<Shared<kDepth>*>(memory);
  const int warpgroup = static_cast<int>(threadIdx.x) / 128;
  const Tile tile = tile_at(a, blockIdx.x);

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
      const bool two = a.batch.axes == 2;
      const int64_t outer = two ? a.batch.divisor[1].quotient(tile.batch) : 0;
      const int c4 = static_cast<int>(outer);
      const int c3 = static_cast<int>(two ? tile.batch - outer * a.batch.extent[1] : tile.batch);
      const int head = static_cast<int>(tile.head);
      const int key_head = static_cast<int>(a.group.quotient(tile.head));
      barrier_expect(&shared.q_full, kHalves * kTileBytes);
      for (int half = 0; half < kHalves; ++half) {
        copy_tile(shared.q[half], &q, 64 * half, static_cast<int>(tile.first), head, c3, c4,
                  &shared.q_full);
      }
      int stage = 0;
      int parity = 0;
      for (int64_t block = 0; block < tile.blocks; ++block) {
        const int key = static_cast<int>((tile.first_block + block) * kKeys);
        barrier_wait(&shared.k_free[stage], parity ^ 1);
        barrier_expect(&shared.k_full[stage], kHalves * kTileBytes);
        for (int half = 0; half < kHalves; ++half) {
          copy_tile(shared.k[stage][half], &k, 64 * half, key, key_head, c3, c4,
                    &shared.k_full[stage]);
        }
        barrier_wait(&shared.v_free[stage], parity ^ 1);
        barrier_expect(&shared.v_full[stage], kHalves * kTileBytes);
        for (int half = 0; half < kHalves; ++half) {
          copy_tile(shared.v[stage][half], &v, 64 * half, key, key_head, c3, c4,
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

// What the copy engine can read: 16-byte strides that are not zero.
bool copyable(const View& x) {
  const int axis = x.ndim() - 3;
  if (x.stride(axis + 2) != 2 || reinterpret_cast<uintptr_t>(x.data) % 16 != 0) return false;
  for (int a = 0; a < axis + 2; ++a) {
    if (x.shape[a] == 1) continue;
    const int64_t stride = x.stride(a);
    if (stride <= 0 || stride % 16 != 0 || stride >= (int64_t{1} << 40)) return false;
    if (x.shape[a] > 0x7FFFFFFF) return false;
  }
  return true;
}

TensorMap tensor_map(const AttentionArguments& a, AttentionArray which, const View& x) {
  const int axis = x.ndim() - 3;
  TensorShape shape{};
  shape.data = x.data;
  const bool two = a.batch.axes == 2;
  const int inner = two ? 1 : 0;
  shape.extent[0] = static_cast<uint64_t>(x.shape[axis + 2]);
  shape.extent[1] = static_cast<uint64_t>(x.shape[axis + 1]);
  shape.extent[2] = static_cast<uint64_t>(x.shape[axis]);
  shape.extent[3] = static_cast<uint64_t>(a.batch.extent[inner]);
  shape.extent[4] = static_cast<uint64_t>(two ? a.batch.extent[0] : 1);
  const int64_t strides[4] = {a.row[which], a.head[which], a.batch.stride[which][inner],
                              two ? a.batch.stride[which][0] : 0};
  for (int i = 0; i < 4; ++i) {
    // The stride of an axis that is not stepped along must be one all the same.
    shape.stride[i] =
        shape.extent[i + 1] == 1 ? 2 * shape.extent[0] : static_cast<uint64_t>(strides[i]);
  }
  shape.box[0] = 64;
  shape.box[1] = kRows;
  shape.box[2] = shape.box[3] = shape.box[4] = 1;
  return make_tensor_map(shape);
}

template <int kDepth>
void run(const Queue& queue, const AttentionArguments& a, const View& q, const View& k,
         const View& v) {
  const Grid grid{a.batch.count * a.heads.value() * a.row_blocks.value(), kThreads,
                  kSharedBytes<kDepth>};
  launch(queue, grid, &attention_sm90_kernel<kDepth>, a, tensor_map(a, kQ, q), tensor_map(a, kK, k),
         tensor_map(a, kV, v));
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
  if ((depth != 64 && depth != 128) || v.shape[axis + 2] != depth || options.scale < 1e-30) {
    return false;
  }
  if (q.shape[axis + 1] < kFewestQueries || k.shape[axis + 1] == 0) return false;
  if (!copyable(q) || !copyable(k) || !copyable(v)) return false;
  if (out.stride(axis + 2) != 2 || reinterpret_cast<uintptr_t>(out.data) % 4 != 0) return false;
  for (int a = 0; a < axis + 2; ++a) {
    if (out.shape[a] > 1 && out.stride(a) % 4 != 0) return false;
  }
  const AttentionArguments a = attention_arguments(q, k, v, mask, bias, options, out, lse, kRows);
  return a.batch.axes <= 2 && is_hopper(queue);
}

void attention_sm90(const Queue& queue, const View& q, const View& k, const View& v,
                    const AttentionOptions& options, const View& out, const View* lse) {
  const AttentionArguments a =
      attention_arguments(q, k, v, nullptr, nullptr, options, out, lse, kRows);
  if (q.shape[q.ndim() - 1] == 64) return run<64>(queue, a, q, k, v);
  run<128>(queue, a, q, k, v);
}

}  // namespace marey::cuda
