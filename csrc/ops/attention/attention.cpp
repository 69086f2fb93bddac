#include "ops/attention/attention.h"

#include <algorithm>
#include <cmath>
#include <tuple>
#include <vector>

#include "core/buffer.h"
#include "core/error.h"
#include "core/parallel.h"
#include "ops/attention/decode.h"
#include "ops/attention/operands.h"
#include "ops/attention/short.h"

namespace marey {

MAREY_STUB_SPLIT(select_attention_rows, SelectAttentionRows)
MAREY_STUB_NO_BF16(select_decode, SelectDecode)
MAREY_STUB_NO_BF16(select_short_attention, SelectShortAttention)

namespace {

// Work in a range, in multiply-adds: long enough that handing it out costs nothing.
constexpr int64_t kGrain = int64_t{1} << 20;
// With fewer ranges than this a thread, calls take fewer rows, so that all threads end together.
constexpr int64_t kRangesPerThread = 8;
// Rows of a call are a multiple of this, which panels of every width divide, if there are as many.
constexpr int64_t kRowsTogether = 96;

int64_t up_to_multiple(int64_t x, int64_t of) { return (x + of - 1) / of * of; }

bool may_split(DType dtype) { return dtype == DType::f32 && active_isa() == Isa::avx512_amx; }

// With tiles each call packs the keys anew.
int64_t most_rows(DType dtype, bool split) {
  const bool tiles = dtype == DType::bf16 && active_isa() == Isa::avx512_amx;
  return tiles || split ? kAttentionTileRows : kAttentionRows;
}

// Rows of a call, at most so many, for so many problems of so many rows: half as many calls where
// each splits the keys. Results do not depend on it.
int64_t rows_of_call(int64_t problems, int64_t rows, int64_t most, bool split) {
  const int64_t wanted = kRangesPerThread / (split ? 2 : 1) * num_threads();
  int64_t blocks = (rows + most - 1) / most;
  if (problems * blocks < wanted) blocks = (wanted + problems - 1) / problems;
  const int64_t block = (rows + blocks - 1) / blocks;
  return std::min({up_to_multiple(block, block > kRowsTogether ? 32 : kRowsTogether), rows, most});
}

// Results that no cache holds are written past them, where their rows are whole lines: to read
// lines before they were written took a seventh of the time of a video's frames.
bool may_stream(const View& out) {
  constexpr int64_t kStreamBytes = int64_t{8} << 20;
  constexpr int64_t kLine = 64;
  const int64_t item = item_size(out.dtype);
  if (out.dtype != compute_type(out.dtype) || out.shape.count() * item <= kStreamBytes)
    return false;
  const int last = out.ndim() - 1;
  if (out.stride(last) != item || out.shape[last] * item % kLine != 0) return false;
  bool aligned = reinterpret_cast<std::uintptr_t>(out.data) % kLine == 0;
  for (int axis = 0; axis < last; ++axis) {
    aligned = aligned && (out.shape[axis] == 1 || out.stride(axis) % kLine == 0);
  }
  return aligned;
}

// The arrays of a call, and the part of AttentionRows that all its rows have in common.
struct Call {
  const View& q;
  const View& k;
  const View& v;
  const View* mask;
  const View* bias;
  const View& out;
  const View* lse;
  const View* more_k;
  const View* more_v;
  AttentionRows common{};
  int axis = 0;  // of the heads
  int64_t group = 1;
  int64_t key_heads = 1;

  // `part` for a problem: a batch entry and a key head.
  void set_problem(AttentionRows& part, int64_t problem) const {
    const int64_t batch = problem / key_heads;
    const int64_t head = problem % key_heads;
    part.q = operand_of(&q, axis, batch, head * group);
    part.k = operand_of(&k, axis, batch, head);
    part.v = operand_of(&v, axis, batch, head);
    part.mask = operand_of(mask, axis, batch, head * group);
    part.bias = operand_of(bias, axis, batch, head * group);
    part.out = operand_of(&out, axis, batch, head * group);
    part.lse = operand_of(lse, axis, batch, head * group);
    part.more_k = operand_of(more_k, axis, batch, head);
    part.more_v = operand_of(more_v, axis, batch, head);
  }

  // The same where `last` is for the problem before, and `part` was for another one.
  void set_next_problem(AttentionRows& part, const AttentionRows& last, int64_t problem) const {
    if (problem % key_heads == 0) return set_problem(part, problem);  // another batch entry
    const auto move = [&](AttentionOperand AttentionRows::* operand, const View* x, int64_t heads) {
      if (x == nullptr) return;
      (part.*operand).data =
          static_cast<std::byte*>((last.*operand).data) + heads * x->stride(axis);
    };
    move(&AttentionRows::q, &q, group);
    move(&AttentionRows::k, &k, 1);
    move(&AttentionRows::v, &v, 1);
    move(&AttentionRows::mask, mask, group);
    move(&AttentionRows::bias, bias, group);
    move(&AttentionRows::out, &out, group);
    move(&AttentionRows::lse, lse, group);
    move(&AttentionRows::more_k, more_k, 1);
    move(&AttentionRows::more_v, more_v, 1);
  }
};

void attend_short(const Call& call, int64_t problems, int64_t rows) {
  const AttentionRows& common = call.common;
  AttentionRowsFn* const run = select_short_attention_stub.get()(call.q.dtype);
  const std::size_t scratch = short_attention_scratch(common.depth, common.value_depth,
                                                      item_size(compute_type(call.q.dtype)));
  const int64_t work = rows * common.keys * (common.depth + common.value_depth);
  const int64_t grain = std::clamp<int64_t>(kGrain / std::max<int64_t>(work, 1), 1, 1024);
  parallel_for(problems, grain, scratch, [&](int64_t begin, int64_t end, std::byte* memory) {
    AttentionRows parts[2] = {common, common};
    for (AttentionRows& part : parts) {
      part.scratch = memory;
      part.begin = 0;
      part.end = rows;
      call.set_problem(part, begin);
    }
    for (int64_t problem = begin; problem < end; ++problem) {
      AttentionRows& part = parts[problem % 2];
      AttentionRows& next = parts[(problem + 1) % 2];
      part.next = problem + 1 < end ? &next : nullptr;
      if (part.next != nullptr) call.set_next_problem(next, part, problem + 1);
      run(part);
    }
  });
}

// Few queries: threads split the keys.
void attend_few(const Call& call, int64_t problems, int64_t rows) {
  const AttentionRows& common = call.common;
  const int64_t low = std::max<int64_t>(common.offset - common.left, 0) / kDecodeKeys;
  const int64_t high =
      std::clamp<int64_t>(common.queries + common.offset + common.right, 0, common.keys);
  const int64_t parts = std::max<int64_t>((high + kDecodeKeys - 1) / kDecodeKeys - low, 0);
  const int64_t item = item_size(compute_type(call.q.dtype));
  const int64_t stride = rows * decode_pitch(common.value_depth);
  const Buffer partial(problems * parts * stride * item);
  const DecodeKernel kernel = select_decode_stub.get()(call.q.dtype);
  const auto scratch =
      static_cast<std::size_t>(item * (rows * (decode_padded(common.depth) + kDecodeKeys) +
                                       decode_padded(common.value_depth)));
  const int64_t work =
      rows * std::min(kDecodeKeys, common.keys) * (common.depth + common.value_depth);
  const int64_t grain = std::clamp<int64_t>((kGrain / 8) / std::max<int64_t>(work, 1), 1, 1024);
  const int64_t tasks = problems * parts;
  const auto compute = [&](int64_t begin, int64_t end, std::byte* memory) {
    AttentionRows part = common;
    part.scratch = memory;
    part.begin = 0;
    part.end = rows;
    for (int64_t task = begin * grain; task < std::min(end * grain, tasks); ++task) {
      call.set_problem(part, task / parts);
      const int64_t first = (low + task % parts) * kDecodeKeys;
      kernel.part(part, first, std::min(first + kDecodeKeys, high),
                  partial.data() + task * stride * item);
    }
  };
  parallel_for_in_spans((tasks + grain - 1) / grain, scratch, compute);
  parallel_for(problems, 64, scratch, [&](int64_t begin, int64_t end, std::byte* memory) {
    AttentionRows part = common;
    part.scratch = memory;
    part.begin = 0;
    part.end = rows;
    for (int64_t problem = begin; problem < end; ++problem) {
      call.set_problem(part, problem);
      kernel.merge(part, partial.data() + problem * parts * stride * item, parts, stride);
    }
  });
}

}  // namespace

AttentionOperand operand_of(const View* view, int batch_axes, int64_t batch, int64_t first_head) {
  if (view == nullptr) return {};
  const int64_t item = item_size(view->dtype);
  AttentionOperand result;
  result.head = view->stride(batch_axes) / item;
  result.row = view->stride(batch_axes + 1) / item;
  result.item = view->ndim() > batch_axes + 2 ? view->stride(batch_axes + 2) / item : 1;
  result.data = view->as<std::byte>() + offset_at(*view, 0, batch_axes, batch) +
                first_head * view->stride(batch_axes);
  return result;
}

AttentionOperand packed_operand(const View& x, int64_t row, int64_t head) {
  const int64_t size = item_size(x.dtype);
  return {x.as<std::byte>() + row * x.stride(0) + head * x.stride(1), x.stride(1) / size,
          x.stride(0) / size, x.ndim() > 2 ? x.stride(2) / size : 1};
}

std::size_t attention_scratch(const AttentionRows& rows, int64_t count, DType dtype) {
  constexpr int64_t kWidestPanel = 48;
  const int64_t lanes = up_to_multiple(count, 16);
  const int64_t items = kAttentionKeys * (2 * kWidestPanel + rows.depth + 1 + rows.value_depth) +
                        lanes * (2 + rows.depth + 1 + rows.value_depth);
  int64_t bytes = items * item_size(compute_type(dtype));
  if (may_split(dtype)) {
    // Three parts of half the size, and the head sizes up to whole steps.
    const int64_t depth = up_to_multiple(rows.depth, 32);
    const int64_t value_depth = up_to_multiple(rows.value_depth, 16);
    const int64_t split = kAttentionKeys * (32 * (4 + 2 * 6) + 6 * depth + 64) +
                          value_depth * (6 * kAttentionKeys + 64) +
                          lanes * (8 + 6 * depth + 4 * value_depth);
    bytes = std::max(bytes, split);
  } else if (dtype == DType::bf16) {
    // With tiles: scores of two of them, of each row its reference and sums, and the depth of whole
    // ones.
    const int64_t depth = up_to_multiple(rows.depth, 32);
    const int64_t value_depth = up_to_multiple(rows.value_depth, 16);
    const int64_t by_tiles = 32 * (kAttentionTileKeys + 16) +
                             lanes * (1 + 16 + 2 + depth / 2 + value_depth) +
                             kAttentionTileKeys * (depth + value_depth) / 2;
    bytes = std::max(bytes, by_tiles * item_size(compute_type(dtype)));
  }
  return static_cast<std::size_t>(bytes + 16 * 64);
}

std::size_t short_attention_scratch(int64_t depth, int64_t value_depth, int64_t item) {
  constexpr int64_t kMostLanes = 16;
  const int64_t rows = up_to_multiple(depth, kMostLanes);
  const int64_t value_rows = up_to_multiple(value_depth, kMostLanes);
  const int64_t items = kShortKeys * (rows + value_rows + 2 * kMostLanes) + kMostLanes * rows;
  return static_cast<std::size_t>(items * item + 6 * 64);
}

void attention(const View& q, const View& k, const View& v, const View* mask, const View* bias,
               const AttentionOptions& options, const View& out, const View* lse,
               const View* more_k, const View* more_v) {
  check_attention("marey.attention", q, k, v, mask, bias, options, out, lse);
  const int axis = q.ndim() - 3;
  Call call{q, k, v, mask, bias, out, lse, more_k, more_v};
  call.axis = axis;
  call.key_heads = k.shape[axis];
  AttentionRows& all = call.common;
  all.queries = q.shape[axis + 1];
  all.keys = k.shape[axis + 1];
  all.depth = q.shape[axis + 2];
  all.value_depth = v.shape[axis + 2];
  all.streaming = may_stream(out);
  all.scale = options.scale;
  all.softcap = options.softcap;
  all.left = options.left;
  all.right = options.right;
  all.offset = options.alignment == Alignment::bottom_right ? all.keys - all.queries : 0;

  if (more_k != nullptr) {
    const int64_t heads = call.key_heads;
    check_shape("marey.attention", "more_k", *more_k, q, {heads, 1, all.depth}, "h_kv, 1, D");
    check_shape("marey.attention", "more_v", *more_v, q, {heads, 1, all.value_depth},
                "h_kv, 1, Dv");
  }
  int64_t problems = call.key_heads;
  for (int a = 0; a < axis; ++a) problems *= q.shape[a];
  if (problems == 0 || q.shape[axis] == 0 || all.queries == 0) return;
  call.group = q.shape[axis] / call.key_heads;
  const int64_t rows = call.group * all.queries;
  if (is_short(rows, all.keys)) return attend_short(call, problems, rows);
  const auto adjacent = [&](const View& x) {
    return x.shape[axis + 2] <= 1 || x.stride(axis + 2) == item_size(x.dtype);
  };
  if (rows <= kDecodeRows && more_k == nullptr && adjacent(k) && adjacent(v))
    return attend_few(call, problems, rows);

  const bool split = may_split(q.dtype) && keys_for_tiles(all);
  const int64_t block = rows_of_call(problems, rows, most_rows(q.dtype, split), split);
  const int64_t blocks = (rows + block - 1) / block;
  const int64_t task_work = block * std::max<int64_t>(all.keys, 1) * (all.depth + all.value_depth);
  const int64_t grain = std::clamp<int64_t>(kGrain / std::max<int64_t>(task_work, 1), 1, 1024);
  AttentionRowsFn* const run = select_attention_rows_stub.get()(q.dtype);
  const std::size_t scratch = attention_scratch(all, block, q.dtype);
  // In a causal order late rows are long: they come first, so that no thread ends with one.
  // Otherwise the blocks of one head follow each other and find its keys in the cache.
  const bool late_first = options.right != AttentionOptions::kUnlimited;
  parallel_for(problems * blocks, grain, scratch,
               [&](int64_t begin, int64_t end, std::byte* memory) {
                 AttentionRows part = all;
                 part.scratch = memory;
                 for (int64_t task = begin; task < end; ++task) {
                   const int64_t rank = late_first ? blocks - 1 - task / problems : task % blocks;
                   call.set_problem(part, late_first ? task % problems : task / blocks);
                   part.begin = rank * block;
                   part.end = std::min(part.begin + block, rows);
                   run(part);
                 }
               });
}

void check_offsets(std::string_view function, const View& q, const View& k,
                   const int64_t* cu_seqlens_q, const int64_t* cu_seqlens_k, int64_t sequences,
                   const AttentionOptions& options) {
  for (const auto& [argument, cu, total] : {std::tuple{"cu_seqlens_q", cu_seqlens_q, q.shape[0]},
                                            std::tuple{"cu_seqlens_k", cu_seqlens_k, k.shape[0]}}) {
    bool fits = cu[0] == 0 && cu[sequences] == total;
    for (int64_t i = 0; i < sequences; ++i) fits = fits && cu[i] <= cu[i + 1];
    if (!fits) {
      throw ValueError(function, argument, "offsets that rise from 0 to " + std::to_string(total),
                       "others");
    }
  }
  if (!options.limited() || options.alignment != Alignment::square) return;
  for (int64_t i = 0; i < sequences; ++i) {
    if (cu_seqlens_q[i + 1] - cu_seqlens_q[i] != cu_seqlens_k[i + 1] - cu_seqlens_k[i]) {
      throw ValueError(function, "causal",
                       "'top_left' or 'bottom_right', since not every sequence has as many "
                       "queries as keys",
                       "neither");
    }
  }
}

void attention_varlen(const View& q, const View& k, const View& v, const int64_t* cu_seqlens_q,
                      const int64_t* cu_seqlens_k, int64_t sequences,
                      const AttentionOptions& options, const View& out, const View* lse) {
  check_offsets("marey.attention_varlen", q, k, cu_seqlens_q, cu_seqlens_k, sequences, options);
  const int64_t heads = q.shape[1];
  const int64_t key_heads = k.shape[1];
  if (sequences == 0 || heads == 0 || key_heads == 0) return;
  const int64_t group = heads / key_heads;

  // Whole sequences where they are many; no more than a thread's share where they are few.
  const int64_t share =
      q.shape[0] * heads / (kRangesPerThread * num_threads());  // rows of all key heads
  const int64_t most = std::clamp(share, kAttentionRows, most_rows(q.dtype, false));
  // first_task[i]: where the tasks of sequence i begin.
  std::vector<int64_t> first_task(static_cast<std::size_t>(sequences) + 1);
  double work = 0;
  int64_t longest = 0;
  AttentionRows all{};
  all.depth = q.shape[2];
  all.value_depth = v.shape[2];
  for (int64_t i = 0; i < sequences; ++i) {
    const int64_t rows = group * (cu_seqlens_q[i + 1] - cu_seqlens_q[i]);
    const int64_t blocks = (rows + most - 1) / most;
    first_task[static_cast<std::size_t>(i) + 1] =
        first_task[static_cast<std::size_t>(i)] + blocks * key_heads;
    longest = std::max(longest, rows);
    work += static_cast<double>(rows * key_heads) *
            static_cast<double>(cu_seqlens_k[i + 1] - cu_seqlens_k[i]) *
            static_cast<double>(all.depth + all.value_depth);
  }
  const int64_t tasks = first_task.back();
  if (tasks == 0) return;
  all.streaming = may_stream(out);
  all.scale = options.scale;
  all.softcap = options.softcap;
  all.left = options.left;
  all.right = options.right;
  const int64_t grain = std::clamp<int64_t>(
      static_cast<int64_t>(static_cast<double>(kGrain * tasks) / std::max(work, 1.0)), 1, 1024);
  AttentionRowsFn* const run = select_attention_rows_stub.get()(q.dtype);
  AttentionRowsFn* const run_short = select_short_attention_stub.get()(q.dtype);
  const int64_t item = item_size(compute_type(q.dtype));
  const std::size_t scratch = std::max(attention_scratch(all, std::min(longest, most), q.dtype),
                                       short_attention_scratch(all.depth, all.value_depth, item));
  parallel_for(tasks, grain, scratch, [&](int64_t begin, int64_t end, std::byte* memory) {
    AttentionRows part = all;
    part.scratch = memory;
    auto sequence = std::upper_bound(first_task.begin(), first_task.end(), begin) - 1;
    for (int64_t task = begin; task < end; ++task) {
      while (task >= sequence[1]) ++sequence;
      const int64_t i = sequence - first_task.begin();
      const int64_t head = (task - *sequence) % key_heads;
      part.queries = cu_seqlens_q[i + 1] - cu_seqlens_q[i];
      part.keys = cu_seqlens_k[i + 1] - cu_seqlens_k[i];
      part.offset = options.alignment == Alignment::bottom_right ? part.keys - part.queries : 0;
      part.q = packed_operand(q, cu_seqlens_q[i], head * group);
      part.k = packed_operand(k, cu_seqlens_k[i], head);
      part.v = packed_operand(v, cu_seqlens_k[i], head);
      part.out = packed_operand(out, cu_seqlens_q[i], head * group);
      if (lse != nullptr) part.lse = packed_operand(*lse, cu_seqlens_q[i], head * group);
      part.begin = (task - *sequence) / key_heads * most;
      part.end = std::min(part.begin + most, group * part.queries);
      (is_short(group * part.queries, part.keys) ? run_short : run)(part);
    }
  });
}

}  // namespace marey
