// Convolution on Hopper: bfloat16, channels next to each other and a multiple of eight in a group.
//
// The implicit matrix product of conv3d_cuda.cu, for its arguments, with the weights packed to rows
// of the depth before. A block makes 128 positions times 128 filters, two warpgroups 64 positions
// each; 64 depths of both operands are a stage of shared memory, in the swizzled tiles that wgmma
// reads. A thread copies half of a row of each operand, 16 bytes at a time, without waiting, zeros
// for what is outside of x: eight channels are of one tap, so that they lie side by side. It steps
// from one tap to the next, and divides only for the first.
//
// Four stages. At the start of round i stage i is waited for (two were asked for ahead), then the
// block's barrier says two things: stage i is there for everybody, and everybody's product i - 2 is
// done, for each thread waited for it in round i - 1. So stage (i + 2) % 4, which is that of i - 2,
// may be overwritten. The product is issued after that, and the one before it waited for.
#include "cuda/async_copy.h"
#include "cuda/bfloat16.h"
#include "cuda/sm90.h"
#include "ops/conv/conv3d_arguments_cuda.h"

namespace marey::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kRows = 128;
constexpr int kColumns = 128;
constexpr int kDepth = 64;
constexpr int kStages = 4;
constexpr int kAhead = 2;
constexpr int kChunk = 8;  // items of 16 bytes
constexpr int kTileItems = 128 * kDepth;

struct Shared {
  alignas(1024) bfloat16 a[kStages][kTileItems];
  alignas(1024) bfloat16 b[kStages][kTileItems];
};
// Tiles begin at 1024 bytes, and dynamic shared memory need not.
constexpr std::size_t kSharedBytes = sizeof(Shared) + 1024;

struct PackArguments {
  ConvArguments conv;
  bfloat16* packed;  // (groups * filters, depth)
  int64_t count;
};

MAREY_KERNEL(kThreads)
conv3d_pack_kernel(MAREY_GRID_CONSTANT PackArguments a) {
  const int64_t at = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (at >= a.count) return;
  const int64_t row = at / a.conv.depth;
  const ConvTap tap = conv_tap(a.conv, at - row * a.conv.depth);
  const int64_t group = row / a.conv.filters;
  const char* item = a.conv.weight + group * a.conv.weight_group +
                     (row - group * a.conv.filters) * a.conv.weight_stride[0] +
                     tap.channel * a.conv.weight_stride[1];
#pragma unroll
  for (int axis = 0; axis < 3; ++axis) item += tap.at[axis] * a.conv.weight_stride[axis + 2];
  a.packed[at] = *reinterpret_cast<const bfloat16*>(item);
}

MAREY_KERNEL(kThreads)
conv3d_sm90_kernel(MAREY_GRID_CONSTANT ConvArguments a, const bfloat16* packed, bool pairs) {
  unsigned char* memory = shared_memory<unsigned char>();
  memory += (1024 - shared_address(memory) % 1024) % 1024;
  auto& shared = *reinterpret_cast<Shared*>(memory);
  const int64_t line = a.column_blocks.quotient(blockIdx.x);
  const int64_t first_filter = (blockIdx.x - line * a.column_blocks.value()) * kColumns;
  const int64_t group = a.row_blocks.quotient(line);
  const int64_t first_position = (line - group * a.row_blocks.value()) * kRows;
  const int thread = static_cast<int>(threadIdx.x);
  const int warpgroup = thread / 128;

  // The row of each operand, and the half of it, that this thread copies.
  const int row = thread / 2;
  const int first_chunk = thread % 2 * 4;
  const int64_t position = first_position + row;
  const bool row_inside = position < a.positions;
  const ConvPosition p = conv_position(a.out_extent, row_inside ? position : 0);
  int64_t start[3];
#pragma unroll
  for (int axis = 0; axis < 3; ++axis) start[axis] = p.at[axis] * a.step[axis] - a.before[axis];
  const int64_t first_channel = group * a.channels.value();
  const int64_t filter = first_filter + row;
  const bool filter_inside = filter < a.filters;
  const bfloat16* weights = packed + (group * a.filters + (filter_inside ? filter : 0)) * a.depth;

  // Of the next eight channels: their depth, their tap, and where its first channel lies.
  const int channels = static_cast<int>(a.channels.value());
  int depth = first_chunk * kChunk;
  const ConvTap first_tap = conv_tap(a, depth < a.depth ? depth : 0);
  int channel = static_cast<int>(first_tap.channel);
  int tap[3];
#pragma unroll
  for (int axis = 0; axis < 3; ++axis) tap[axis] = static_cast<int>(first_tap.at[axis]);
  const char* source = a.x;
  bool inside = false;
  const auto find_tap = [&] {
    inside = row_inside;
    int64_t at[3];
#pragma unroll
    for (int axis = 0; axis < 3; ++axis) {
      at[axis] = start[axis] + tap[axis] * a.dilation[axis];
      inside = inside && at[axis] >= 0 && at[axis] < a.extent[axis];
    }
    const bool old = at[0] < a.history;
    const int64_t* stride = old ? a.past_stride : a.x_stride;
    source = (old ? a.past : a.x) + p.n * stride[0] + first_channel * stride[1] +
             (old ? at[0] : at[0] - a.history) * stride[2] + at[1] * stride[3] + at[2] * stride[4];
  };
  find_tap();
  const auto step_on = [&](int items) {
    depth += items;
    channel += items;
    if (channel < channels) return;
    do {
      channel -= channels;
      if (++tap[2] < a.kernel[2].value()) continue;
      tap[2] = 0;
      if (++tap[1] < a.kernel[1].value()) continue;
      tap[1] = 0;
      ++tap[0];
    } while (channel >= channels);
    find_tap();
  };

  const auto copy_stage = [&](int round) {
    const int stage = round % kStages;
    if (round * kDepth < a.depth) {
#pragma unroll
      for (int u = 0; u < 4; ++u) {
        const int to = row * kDepth + ((first_chunk + u) ^ (row % 8)) * kChunk;
        const bool deep = depth < a.depth;
        const bool reads = inside && deep;
        copy_async(shared.a[stage] + to, reads ? source + channel * int64_t{2} : a.x, reads);
        const bool weighs = filter_inside && deep;
        copy_async(shared.b[stage] + to, weights + (weighs ? depth : 0), weighs);
        // The other half of the row is another thread's.
        step_on(u < 3 ? kChunk : kDepth - 3 * kChunk);
      }
    }
    copy_commit();
  };

  float sums[kColumns / 2];
#pragma unroll
  for (int i = 0; i < kColumns / 2; ++i) sums[i] = 0.0F;
  wgmma_hold(sums);  // and not again while products are under way
  const int rounds = (a.depth + kDepth - 1) / kDepth;
  for (int round = 0; round < kAhead; ++round) copy_stage(round);
  for (int round = 0; round < rounds; ++round) {
    copy_wait<kAhead - 1>();
    fence_async_proxy();
    sync_block();
    copy_stage(round + kAhead);
    const int stage = round % kStages;
    const uint32_t left =
        shared_address(shared.a[stage]) + static_cast<uint32_t>(warpgroup) * 64 * 128;
    const uint32_t right = shared_address(shared.b[stage]);
    wgmma_fence();
#pragma unroll
    for (int d = 0; d < kDepth / 16; ++d) {
      wgmma_ss(sums, descriptor(left + static_cast<uint32_t>(d) * 32, 16, 1024),
               descriptor(right + static_cast<uint32_t>(d) * 32, 16, 1024), true);
    }
    wgmma_commit();
    wgmma_wait<1>();
  }
  wgmma_wait<0>();
  wgmma_hold(sums);
  copy_wait<0>();

#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const int64_t at = first_position + 64 * warpgroup + accumulator_row(thread, 2 * half);
    if (at >= a.positions) continue;
    const ConvPosition q = conv_position(a.out_extent, at);
    char* to_row = a.out + q.n * a.out_stride[0] + q.at[0] * a.out_stride[2] +
                   q.at[1] * a.out_stride[3] + q.at[2] * a.out_stride[4];
#pragma unroll
    for (int i = 2 * half; i < kColumns / 2; i += 4) {
      const int64_t column = first_filter + accumulator_column(thread, i);
      if (column >= a.filters) continue;
      const int64_t k = group * a.filters + column;
      float v[2] = {sums[i], sums[i + 1]};
      const bool second = column + 1 < a.filters;
#pragma unroll
      for (int j = 0; j < 2; ++j) {
        if (a.bias != nullptr && (j == 0 || second)) v[j] += conv_bias<bfloat16, float>(a, k + j);
        v[j] = activated(v[j], a.activation);
      }
      char* to = to_row + k * a.out_stride[1];
      if (pairs && second) {
        *reinterpret_cast<uint32_t*>(to) = pack_bfloat16(v[0], v[1]);
        continue;
      }
      *reinterpret_cast<bfloat16*>(to) = from<bfloat16>(v[0]);
      if (second) *reinterpret_cast<bfloat16*>(to + a.out_stride[1]) = from<bfloat16>(v[1]);
    }
  }
}

// Eight channels of every position are 16 aligned bytes.
bool copyable(const char* data, const int64_t (&stride)[5]) {
  if (stride[1] != 2 || reinterpret_cast<uintptr_t>(data) % 16 != 0) return false;
  return stride[0] % 16 == 0 && stride[2] % 16 == 0 && stride[3] % 16 == 0 && stride[4] % 16 == 0;
}

}  // namespace

bool conv3d_fits_sm90(const Queue& queue, const ConvArguments& a) {
  if (a.channels.value() % kChunk != 0 || a.depth == 0 || !copyable(a.x, a.x_stride)) return false;
  if (a.past != nullptr && !copyable(a.past, a.past_stride)) return false;
  return is_hopper(queue);
}

void conv3d_sm90(const Queue& queue, const ConvArguments& given, int64_t groups, void* workspace) {
  ConvArguments a = given;
  a.column_blocks = Divisor(blocks_for(a.filters, kColumns));
  a.row_blocks = Divisor(blocks_for(a.positions, kRows));
  const PackArguments pack{a, static_cast<bfloat16*>(workspace), groups * a.filters * a.depth};
  launch(queue, {blocks_for(pack.count, kThreads), kThreads, 0}, &conv3d_pack_kernel, pack);
  // Two results at once: neighbours at four bytes. Columns are even, and so must be a group's
  // first.
  const bool even = groups == 1 || a.filters % 2 == 0;
  const bool pairs = even && a.out_stride[1] == 2 && reinterpret_cast<uintptr_t>(a.out) % 4 == 0 &&
                     a.out_stride[0] % 4 == 0 && a.out_stride[2] % 4 == 0 &&
                     a.out_stride[3] % 4 == 0 && a.out_stride[4] % 4 == 0;
  const Grid grid{groups * a.row_blocks.value() * a.column_blocks.value(), kThreads, kSharedBytes};
  launch(queue, grid, &conv3d_sm90_kernel, a, pack.packed, pairs);
}

}  // namespace marey::cuda
