// Gradients of attention on Hopper, bfloat16, head sizes 64, 128 and 256: two launches of one
// kernel, for queries and for keys, after that of `delta` (attention_backward_cuda.cu). Every
// number is summed by one thread in one order; the price is that scores are computed in both.
//
// A block has 128 rows of its own (64 with a head size of 256), of one head, and goes through the
// others that these meet, 64 rows a stage. Of queries the rows are those of q and of the gradient,
// of keys those of k and v; a block of keys goes through the queries of all heads that share them.
// The first warp copies: all of its own rows once, the others by turns into two stages, beside them
// the logarithms and `delta` of queries. Two warpgroups compute 64 rows each:
//
//   S  = own q or k times the others' k or q, transposed: both from shared memory;
//   dP = own gradient or v times the others' v or gradient, the same;
//   P  = exp2(S - top), rounded to bfloat16, and dS = P (dP - delta), the same, in the registers in
//        which S and dP came, which are those of the next operand;
//   grad_q += dS k, or grad_k += dS q and grad_v += P gradient: from registers, and from shared
//        memory as it lies.
//
// With a head size of 256 the sums of 64 rows of keys would take 256 registers of a thread. There
// the two warpgroups have the same 64 rows, and each sums half of the columns. One computes S and
// gives P to the other, which computes dP and gives dS back: by way of shared memory, thread by
// thread, since both hold these numbers alike. Of keys the first is at P gradient meanwhile; of
// queries there is no such product, and it waits.
//
// Barriers. full[stage]: one arrival and the bytes of its tiles, by the first lane of the copying
// warp, once the warp's lanes have written what is beside them. free[stage]: an arrival by each
// consumer warp once its products that read the stage are done. Round i uses stage i % 2 for the
// (i / 2)-th time: consumers wait for parity (i / 2) % 2 of full, the copying warp for the opposite
// one of free, which a new barrier passes at once. given[0] and given[1]: an arrival by each warp
// of the giver once its lanes have written P or dS; round i is phase i, so that the taker waits for
// parity i % 2. Nobody hands these back: P is written anew by those who have taken dS, which was
// given by those who had taken P, and dS by those who have taken the next P.
//
// Pairs that do not see each other have P = dS = 0 and take part in the products all the same:
// infinite items of theirs are dealt with at the end, as in attention_sm90.cu. A query with nothing
// to attend to (its logarithm is -inf) sees no key.
//
// Pairs that do see each other go through the arithmetic whatever their P is, so that an infinite
// item makes NaN beside a P of 0 whether or not a hidden one stands near. What tells the two kinds
// of 0 apart is their sign: P of a hidden pair is -0.
#include "cuda/bfloat16.h"
#include "cuda/sm90.h"
#include "ops/attention/attention_backward_sm90.h"
#include "ops/attention/attention_cuda.h"
#include "ops/attention/attention_sm90.h"

namespace marey::cuda {
namespace {

using namespace backward_sm90;

constexpr float kLargest = 3.402823466e+38F;
constexpr uint16_t kHidden = 0x8000;  // -0, as P of a pair that does not see each other

template <int kDepth, bool kOfKeys>
struct Consumer {
  using Memory = Shared<kDepth>;
  static constexpr uint32_t kOwnBytes = Memory::kOwnItems * 2;
  static constexpr uint32_t kOtherBytes = Memory::kOtherItems * 2;
  static constexpr bool kDivided = kSharing<kDepth> > 1;
  static constexpr int kColumns = kDepth / kSharing<kDepth>;

  const BackwardArguments& a;
  const Reach& reach;
  Memory& shared;
  const Tile& tile;
  int warpgroup;  // among the consumers
  int thread;     // in it

  float probability[kOther / 2], gradient[kOther / 2];
  uint32_t packed[2][kOther / 4];
  float out[kColumns / 2];                   // grad_q or grad_k
  float value[kOfKeys ? kColumns / 2 : 32];  // grad_v
  Query query[2];                            // of own queries
  // The others that an own row meets, from the tile's first one.
  int low[2], high[2];

  MAREY_DEVICE int own_row(int half) const {
    return tile.first + first_row() + accumulator_row(thread, 2 * half);
  }
  MAREY_DEVICE int first_row() const { return kDivided ? 0 : 64 * warpgroup; }
  MAREY_DEVICE int first_column() const { return kDivided ? kColumns * warpgroup : 0; }

  // Own rows of one array times the others', not waited for.
  MAREY_DEVICE void multiply(float (&product)[kOther / 2], int array, int stage) {
    const uint32_t own =
        shared_address(shared.own[array]) + static_cast<uint32_t>(first_row()) * 128;
    const uint32_t other = shared_address(shared.other[stage][array]);
    wgmma_hold(product);
    wgmma_fence();
#pragma unroll
    for (int d = 0; d < kDepth / 16; ++d) {
      const auto part = static_cast<uint32_t>(d / 4);
      const auto items = static_cast<uint32_t>(d % 4) * 32;
      wgmma_ss(product, descriptor(own + part * kOwnBytes + items, 16, 1024),
               descriptor(other + part * kOtherBytes + items, 16, 1024), d > 0);
    }
    wgmma_commit();
  }

  // Weights times the others' rows of one array, not waited for.
  MAREY_DEVICE void add(float (&sums)[kColumns / 2], uint32_t (&weights)[kOther / 4], int array,
                        int stage) {
    const uint32_t other = shared_address(shared.other[stage][array]) +
                           static_cast<uint32_t>(first_column()) / 64 * kOtherBytes;
    wgmma_hold(sums);
    wgmma_hold(weights);
    wgmma_fence();
#pragma unroll
    for (int k = 0; k < kOther / 16; ++k) {
      wgmma_rs(sums, weights + 4 * k,
               descriptor(other + static_cast<uint32_t>(k) * 16 * 128, kOtherBytes, 1024), true);
    }
    wgmma_commit();
  }

  MAREY_DEVICE void find_others() {
    const int64_t count = int64_t{tile.blocks} * kOther;
    const auto inside = [&](int64_t row) {
      return static_cast<int>(row < 0 ? 0 : row > count ? count : row);
    };
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int64_t place = own_row(half) + reach.shift;
      const int64_t past =
          place + reach.after + 1 < reach.count ? place + reach.after + 1 : reach.count;
      low[half] = inside(place - reach.before - tile.begin);
      high[half] = inside(past - tile.begin);
      if (!kOfKeys && query[half].top == kNoKey) high[half] = low[half];
    }
  }

  // Scores become P in place, -0 where a pair does not see each other; `first`: of the block, from
  // the tile's first one.
  MAREY_DEVICE void exponentials(int stage, int first, float scale) {
#pragma unroll
    for (int i = 0; i < kOther / 2; ++i) {
      const int half = i / 2 % 2;
      const int column = accumulator_column(thread, i);
      const float top = kOfKeys ? shared.top[stage][column] : query[half].top;
      const float p = exp2_fast(fmaf(probability[i], scale, -top));
      const bool seen =
          first + column >= low[half] && first + column < high[half] && (!kOfKeys || top != kNoKey);
      probability[i] = seen ? p : -0.0F;
    }
  }

  MAREY_DEVICE void pack_probabilities() {
#pragma unroll
    for (int i = 0; i < kOther / 4; ++i) {
      packed[0][i] = pack_bfloat16(probability[2 * i], probability[2 * i + 1]);
    }
  }

  // dP becomes dS, packed, with P as it is packed. Of a hidden pair dP may be anything.
  MAREY_DEVICE void gradients(int stage) {
#pragma unroll
    for (int i = 0; i < kOther / 4; ++i) {
      float two[2];
#pragma unroll
      for (int j = 0; j < 2; ++j) {
        const float delta = kOfKeys ? shared.delta[stage][accumulator_column(thread, 2 * i + j)]
                                    : query[i % 2].delta;
        const bfloat16 p{static_cast<uint16_t>(packed[0][i] >> (j == 0 ? 0 : 16))};
        two[j] = p.bits == kHidden ? 0.0F : to<float>(p) * (gradient[2 * i + j] - delta);
      }
      packed[1][i] = pack_bfloat16(two[0], two[1]);
    }
  }

  // P and dS of a stage, packed, and what P adds, not waited for.
  MAREY_DEVICE void find_weights(int stage, int first, float scale) {
    multiply(probability, 0, stage);
    // Of keys there are two sums that stay, and no registers for S and dP beside them at once.
    if constexpr (!kOfKeys) multiply(gradient, 1, stage);
    wgmma_wait<kOfKeys ? 0 : 1>();
    wgmma_hold(probability);
    exponentials(stage, first, scale);
    pack_probabilities();
    if constexpr (kOfKeys) multiply(gradient, 1, stage);
    wgmma_wait<0>();
    wgmma_hold(gradient);
    gradients(stage);
    if constexpr (kOfKeys) add(value, packed[0], 1, stage);
  }

  // The same, one half of it by each of two warpgroups. The parity of a round is its stage.
  MAREY_DEVICE void share_weights(int stage, int first, float scale) {
    static_assert(kStages == 2);
    if (warpgroup == 0) {
      multiply(probability, 0, stage);
      wgmma_wait<0>();
      wgmma_hold(probability);
      exponentials(stage, first, scale);
      pack_probabilities();
      give(0);
    } else {
      multiply(gradient, 1, stage);
      wgmma_wait<0>();
      wgmma_hold(gradient);
      take(0, stage);
      gradients(stage);
      give(1);
    }
    if constexpr (kOfKeys) add(value, packed[0], 1, stage);
    if (warpgroup == 0) take(1, stage);
  }
  // P (0) or dS (1).
  MAREY_DEVICE void give(int which) {
#pragma unroll
    for (int i = 0; i < kOther / 16; ++i) {
      const uint32_t* four = packed[which] + 4 * i;
      shared.weights[which][i][thread] = {{four[0], four[1], four[2], four[3]}};
    }
    sync_warp();
    if (thread % 32 == 0) barrier_arrive(&shared.given[which]);
  }
  MAREY_DEVICE void take(int which, int parity) {
    barrier_wait(&shared.given[which], parity);
#pragma unroll
    for (int i = 0; i < kOther / 16; ++i) {
      const typename Memory::Four four = shared.weights[which][i][thread];
#pragma unroll
      for (int j = 0; j < 4; ++j) packed[which][4 * i + j] = four.v[j];
    }
  }

  MAREY_DEVICE void run() {
#pragma unroll
    for (int i = 0; i < kColumns / 2; ++i) {
      out[i] = 0.0F;
      if constexpr (kOfKeys) value[i] = 0.0F;
    }
    if constexpr (!kOfKeys) {
      int64_t offset[kAttentionArrays];
      a.forward.batch.offsets(tile.batch, offset);
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        query[half] = query_of(a, offset, tile.batch, tile.head, own_row(half));
      }
    }
    find_others();
    const float scale = static_cast<float>(a.forward.scale) * kLog2E;
    if (tile.blocks > 0) barrier_wait(&shared.own_full, 0);
    int stage = 0;
    int parity = 0;
    for (int head = 0; head < tile.heads; ++head) {
      for (int block = 0; block < tile.blocks; ++block) {
        barrier_wait(&shared.full[stage], parity);
        if constexpr (kDivided) {
          share_weights(stage, block * kOther, scale);
        } else {
          find_weights(stage, block * kOther, scale);
        }
        add(out, packed[1], 0, stage);
        wgmma_wait<0>();
        if constexpr (kOfKeys) {
          wgmma_hold(value);
          wgmma_hold(packed[0]);
        }
        wgmma_hold(out);
        wgmma_hold(packed[1]);
        // All lanes have read what is beside the queries.
        if constexpr (kOfKeys) sync_warp();
        if (thread % 32 == 0) barrier_arrive(&shared.free[stage]);
        parity ^= stage;
        stage ^= 1;
      }
    }
    store();
  }

  MAREY_DEVICE void store() {
    int64_t offset[kGradientArrays];
    a.gradients.batch.offsets(tile.batch, offset);
    const auto scale = static_cast<float>(a.forward.scale);
    const int64_t head = kOfKeys ? tile.key_head : tile.head;
    bool finite[2];
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int64_t row = own_row(half);
      finite[half] = true;
      if (row >= reach.own) continue;
      char* to = a.gradients.at(offset, kOfKeys ? kGradK : kGradQ, head, row, 0);
      char* to_value = kOfKeys ? a.gradients.at(offset, kGradV, head, row, 0) : nullptr;
#pragma unroll
      for (int i = 2 * half; i < kColumns / 2; i += 4) {
        const int column = first_column() + accumulator_column(thread, i);
        finite[half] = finite[half] && fabsf(out[i]) <= kLargest && fabsf(out[i + 1]) <= kLargest;
        *reinterpret_cast<uint32_t*>(to + 2 * column) =
            pack_bfloat16(out[i] * scale, out[i + 1] * scale);
        if constexpr (kOfKeys) {
          finite[half] =
              finite[half] && fabsf(value[i]) <= kLargest && fabsf(value[i + 1]) <= kLargest;
          *reinterpret_cast<uint32_t*>(to_value + 2 * column) =
              pack_bfloat16(value[i], value[i + 1]);
        }
      }
    }
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      if (!finite[half]) without_hidden(half);
    }
  }

  // The numbers of a row that this thread has, once more, if infinite items of rows that it does
  // not see spoilt them. What is summed is in registers no longer: a few columns at a time.
  MAREY_DEVICE void without_hidden(int half) const {
    constexpr int kPairs = 2;
    const AttentionArguments& f = a.forward;
    int64_t of_forward[kAttentionArrays], of_gradient[kGradientArrays];
    f.batch.offsets(tile.batch, of_forward);
    a.gradients.batch.offsets(tile.batch, of_gradient);
    const int row = own_row(half);
    const int64_t left = reach.count - tile.begin;
    const int count = tile.blocks * kOther < left ? tile.blocks * kOther : static_cast<int>(left);
    // A row of either side, of an array: q or k, and the gradient or v.
    const auto row_of = [&](bool keys, int array, int head, int64_t at) {
      const char* p = keys         ? f.at(of_forward, array == 0 ? kK : kV, tile.key_head, at, 0)
                      : array == 0 ? f.at(of_forward, kQ, head, at, 0)
                                   : a.gradients.at(of_gradient, kGrad, head, at, 0);
      return reinterpret_cast<const bfloat16*>(p);
    };
    // As exponentials() has it, of the other row `at`.
    const auto sees = [&](int at, const Query& of) {
      return at >= low[half] && at < high[half] && of.top != kNoKey;
    };
    const auto query_at = [&](int head, int at) {
      return query_of(a, of_forward, tile.batch, head, kOfKeys ? tile.begin + at : row);
    };
    bool spoilt = false;
    for (int head = tile.head; head < tile.head + tile.heads; ++head) {
      for (int at = 0; at < count && !spoilt; ++at) {
        if (sees(at, query_at(head, at))) continue;
#pragma unroll 1
        for (int array = 0; array < (kOfKeys ? 2 : 1); ++array) {
          const bfloat16* item = row_of(!kOfKeys, array, head, tile.begin + at);
#pragma unroll 1
          for (int i = 0; i < kDepth; ++i) spoilt = spoilt || is_infinite(item[i]);
        }
      }
    }
    if (!spoilt) return;

    const float scale = static_cast<float>(f.scale) * kLog2E;
#pragma unroll 1
    for (int first = first_column() + accumulator_column(thread, 0);
         first < first_column() + kColumns; first += 8 * kPairs) {
      float of_out[2 * kPairs], of_value[2 * kPairs];
#pragma unroll
      for (int i = 0; i < 2 * kPairs; ++i) of_out[i] = of_value[i] = 0.0F;
      // All are NaN, and stay so. Where training has gone wrong this must not take seconds.
      bool lost = false;
#pragma unroll 1
      for (int head = tile.head; head < tile.head + tile.heads && !lost; ++head) {
#pragma unroll 1
        for (int at = low[half]; at < high[half] && !lost; ++at) {
          const Query of = query_at(head, at);
          if (!sees(at, of)) continue;
          float product[2] = {0.0F, 0.0F};
#pragma unroll
          for (int array = 0; array < 2; ++array) {
            const bfloat16* own = row_of(kOfKeys, array, head, row);
            const bfloat16* other = row_of(!kOfKeys, array, head, tile.begin + at);
#pragma unroll 1
            for (int d = 0; d < kDepth; ++d)
              product[array] += to<float>(own[d]) * to<float>(other[d]);
          }
          // Rounded as the others.
          const float p = to<float>(from<bfloat16>(exp2_fast(fmaf(product[0], scale, -of.top))));
          const float of_score = to<float>(from<bfloat16>(p * (product[1] - of.delta)));
          const bfloat16* other = row_of(!kOfKeys, 0, head, tile.begin + at) + first;
          const bfloat16* other_value = row_of(!kOfKeys, 1, head, tile.begin + at) + first;
          lost = true;
#pragma unroll
          for (int i = 0; i < 2 * kPairs; ++i) {
            const int item = i / 2 * 8 + i % 2;
            of_out[i] += of_score * to<float>(other[item]);
            if constexpr (kOfKeys) of_value[i] += p * to<float>(other_value[item]);
            lost = lost && of_out[i] != of_out[i] && (!kOfKeys || of_value[i] != of_value[i]);
          }
        }
      }
      const int own_head = kOfKeys ? tile.key_head : tile.head;
      auto* to_out = reinterpret_cast<bfloat16*>(
          a.gradients.at(of_gradient, kOfKeys ? kGradK : kGradQ, own_head, row, first));
#pragma unroll
      for (int i = 0; i < 2 * kPairs; ++i) {
        to_out[i / 2 * 8 + i % 2] = from<bfloat16>(of_out[i] * static_cast<float>(f.scale));
      }
      if constexpr (kOfKeys) {
        auto* to_value =
            reinterpret_cast<bfloat16*>(a.gradients.at(of_gradient, kGradV, own_head, row, first));
#pragma unroll
        for (int i = 0; i < 2 * kPairs; ++i) {
          to_value[i / 2 * 8 + i % 2] = from<bfloat16>(of_value[i]);
        }
      }
    }
  }
};

template <int kDepth, bool kOfKeys>
MAREY_KERNEL(kThreads)
attention_backward_sm90_kernel(MAREY_GRID_CONSTANT BackwardArguments a,
                               MAREY_GRID_CONSTANT TensorMap own,
                               MAREY_GRID_CONSTANT TensorMap own2,
                               MAREY_GRID_CONSTANT TensorMap other,
                               MAREY_GRID_CONSTANT TensorMap other2) {
  using Memory = Shared<kDepth>;
  constexpr int kOwnBytes = 2 * Memory::kParts * Memory::kOwnItems * 2;
  constexpr int kOtherBytes = 2 * Memory::kParts * Memory::kOtherItems * 2;
  unsigned char* memory = shared_memory<unsigned char>();
  memory += (1024 - shared_address(memory) % 1024) % 1024;
  auto& shared = *reinterpret_cast<Memory*>(memory);
  const int warpgroup = uniform(static_cast<int>(threadIdx.x) / 128);
  const Reach reach = reach_of<kOfKeys>(a.forward);
  const Tile tile = tile_at<kOwn<kDepth>, kOfKeys>(a, reach, blockIdx.x);

  if (threadIdx.x == 0) {
    barrier_init(&shared.own_full, 1);
    for (int stage = 0; stage < kStages; ++stage) {
      barrier_init(&shared.full[stage], 1);
      barrier_init(&shared.free[stage], 4 * kConsumers);
    }
    for (Barrier& given : shared.given) barrier_init(&given, 4);
    barrier_init_done();
  }
  sync_block();

  if (warpgroup == 0) {
    fewer_registers<40>();
    if (threadIdx.x < 32 && tile.blocks > 0) {
      const int lane = static_cast<int>(threadIdx.x);
      // q, k and v lie in other arrays than the gradient, whose batch axes may merge otherwise.
      const BatchCoordinates c = batch_coordinates(a.forward, tile.batch);
      const BatchCoordinates c2 = batch_coordinates(a.gradients, tile.batch);
      const BatchCoordinates own_c2 = kOfKeys ? c : c2;
      const BatchCoordinates other_c2 = kOfKeys ? c2 : c;
      const int own_head = kOfKeys ? tile.key_head : tile.head;
      if (lane == 0) {
        const int row = tile.first;
        barrier_expect(&shared.own_full, kOwnBytes);
        for (int part = 0; part < Memory::kParts; ++part) {
          copy_tile(shared.own[0][part], &own, 64 * part, row, own_head, c.inner, c.outer,
                    &shared.own_full);
          copy_tile(shared.own[1][part], &own2, 64 * part, row, own_head, own_c2.inner,
                    own_c2.outer, &shared.own_full);
        }
      }
      int64_t offset[kAttentionArrays];
      if (kOfKeys) a.forward.batch.offsets(tile.batch, offset);
      int stage = 0;
      int parity = 0;
      for (int head = tile.head; head < tile.head + tile.heads; ++head) {
        for (int block = 0; block < tile.blocks; ++block) {
          const int first = tile.begin + block * kOther;
          barrier_wait(&shared.free[stage], parity ^ 1);
          if constexpr (kOfKeys) {
            for (int r = lane; r < kOther; r += 32) {
              const Query query = query_of(a, offset, tile.batch, head, int64_t{first} + r);
              shared.top[stage][r] = query.top;
              shared.delta[stage][r] = query.delta;
            }
          }
          sync_warp();
          if (lane == 0) {
            const int of_head = kOfKeys ? head : tile.key_head;
            barrier_expect(&shared.full[stage], kOtherBytes);
            for (int part = 0; part < Memory::kParts; ++part) {
              copy_tile(shared.other[stage][0][part], &other, 64 * part, first, of_head, c.inner,
                        c.outer, &shared.full[stage]);
              copy_tile(shared.other[stage][1][part], &other2, 64 * part, first, of_head,
                        other_c2.inner, other_c2.outer, &shared.full[stage]);
            }
          }
          parity ^= stage;
          stage ^= 1;
        }
      }
    }
  } else {
    more_registers<232>();
    Consumer<kDepth, kOfKeys> consumer{a,    reach,         shared,
                                       tile, warpgroup - 1, static_cast<int>(threadIdx.x) % 128};
    consumer.run();
  }
}

template <int kDepth>
void run(const Queue& queue, const AttentionBackward& call, const BackwardArguments& arguments) {
  BackwardArguments a = arguments;
  AttentionArguments& f = a.forward;
  constexpr int kRows = kOwn<kDepth>;
  const int64_t query_blocks = blocks_for(f.queries, kRows);
  const int64_t key_blocks = blocks_for(f.keys, kRows);
  f.row_blocks = Divisor(query_blocks);
  a.key_blocks = Divisor(key_blocks);
  const auto map_q = [&](int rows) { return tensor_map(f, kQ, call.q, rows); };
  const auto map_k = [&](int rows) { return tensor_map(f, kK, call.k, rows); };
  const auto map_v = [&](int rows) { return tensor_map(f, kV, call.v, rows); };
  const auto map_grad = [&](int rows) { return tensor_map(a.gradients, kGrad, call.grad, rows); };
  launch(queue, {a.problems * query_blocks, kThreads, kSharedBytes<kDepth>},
         &attention_backward_sm90_kernel<kDepth, false>, a, map_q(kRows), map_grad(kRows),
         map_k(kOther), map_v(kOther));
  launch(queue, {a.problems / f.group.value() * key_blocks, kThreads, kSharedBytes<kDepth>},
         &attention_backward_sm90_kernel<kDepth, true>, a, map_k(kRows), map_v(kRows),
         map_q(kOther), map_grad(kOther));
}

}  // namespace

bool fits_backward_sm90(const Queue& queue, const AttentionBackward& call,
                        const AttentionOptions& options, const BackwardArguments& a) {
  const AttentionArguments& f = a.forward;
  if (call.mask != nullptr || call.bias != nullptr || options.softcap > 0) return false;
  if (f.sequences.count > 0 || f.queries == 0 || f.keys == 0) return false;
  if (f.depth != 64 && f.depth != 128 && f.depth != 256) return false;
  if (f.value_depth != f.depth) return false;
  for (const View* view : {&call.q, &call.k, &call.v, &call.grad}) {
    if (!copyable(*view)) return false;
  }
  for (const View* view : {&call.grad_q, &call.grad_k, &call.grad_v}) {
    if (!writable_in_pairs(*view)) return false;
  }
  return f.batch.axes <= 2 && a.gradients.batch.axes <= 2 && is_hopper(queue);
}

void attention_backward_sm90(const Queue& queue, const AttentionBackward& call,
                             const BackwardArguments& a) {
  if (a.forward.depth == 64) return run<64>(queue, call, a);
  if (a.forward.depth == 128) return run<128>(queue, call, a);
  run<256>(queue, call, a);
}

}  // namespace marey::cuda
