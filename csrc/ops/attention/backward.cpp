#include "ops/attention/backward.h"

#include <algorithm>
#include <cstring>
#include <tuple>

#include "core/buffer.h"
#include "core/error.h"
#include "core/parallel.h"
#include "ops/attention/operands.h"

namespace marey {

MAREY_STUB_BF16(select_attention_backward, SelectAttentionBackward)

namespace {

// Work in a range, in multiply-adds.
constexpr int64_t kGrain = int64_t{1} << 20;
// With fewer tasks than this, each head's queries are split in up to so many parts, whose sums of
// the gradients of keys and values are added at the end. By the shape alone, so that results do not
// depend on the number of threads.
constexpr int64_t kFewTasks = 16;
constexpr int64_t kMostParts = 8;
constexpr int64_t kFewestQueries = 64;  // in a part

int64_t sums_of(const AttentionRows& rows) {
  return rows.keys * (padded_depth(rows.depth) + padded_depth(rows.value_depth));
}

// Rows [first, last) of queries, of each head that shares the key head: calls of the kernel.
void run_queries(const AttentionBackwardKernel& kernel, AttentionBackwardRows& part, int64_t group,
                 int64_t first, int64_t last) {
  const int64_t queries = part.forward.queries;
  const bool all = first == 0 && last == queries;
  const int64_t heads = all ? 1 : group;  // the rows of all heads follow each other
  const int64_t count = all ? group * queries : last - first;
  for (int64_t head = 0; head < heads; ++head) {
    for (int64_t begin = 0; begin < count; begin += kAttentionRows) {
      part.forward.begin = head * queries + first + begin;
      part.forward.end = part.forward.begin + std::min(kAttentionRows, count - begin);
      kernel.rows(part);
    }
  }
}

bool steps(const View& view, int first_axis, int last_axis) {
  for (int axis = first_axis; axis < last_axis; ++axis) {
    if (view.shape[axis] > 1 && view.stride(axis) == 0) return false;
  }
  return true;
}

}  // namespace

std::size_t attention_backward_scratch(const AttentionRows& rows, int64_t count, int64_t item) {
  constexpr int64_t kKeys = 64;
  constexpr int64_t kWidestPanel = 32;
  const int64_t lanes = count + kWidestPanel;
  const int64_t depth = padded_depth(rows.depth) + kDepthLanes;
  const int64_t value_depth = padded_depth(rows.value_depth) + kDepthLanes;
  const int64_t items = kKeys * (12 * kWidestPanel + 2 * depth + value_depth) +
                        lanes * (2 + 3 * depth + 2 * value_depth);
  return static_cast<std::size_t>(items * item + 20 * 64);
}

void attention_backward(const View& grad, const View& q, const View& k, const View& v,
                        const View& out, const View& lse, const View* mask, const View* bias,
                        const AttentionOptions& options, const AttentionGradients& gradients) {
  constexpr std::string_view kName = "marey.attention_backward";
  check_attention(kName, q, k, v, mask, bias, options, out, &lse);
  if (!(grad.shape == out.shape)) {
    throw ValueError(kName, "grad", "the shape of out " + to_string(out.shape),
                     to_string(grad.shape));
  }
  if (grad.dtype != q.dtype) throw TypeError(kName, "grad", name(q.dtype), name(grad.dtype));

  const int axis = q.ndim() - 3;
  AttentionBackwardRows all{};
  AttentionRows& forward = all.forward;
  forward.queries = q.shape[axis + 1];
  forward.keys = k.shape[axis + 1];
  forward.depth = q.shape[axis + 2];
  forward.value_depth = v.shape[axis + 2];
  forward.scale = options.scale;
  forward.softcap = options.softcap;
  forward.left = options.left;
  forward.right = options.right;
  forward.offset =
      options.alignment == Alignment::bottom_right ? forward.keys - forward.queries : 0;
  const int64_t key_heads = k.shape[axis];
  int64_t batches = 1;
  for (int a = 0; a < axis; ++a) batches *= q.shape[a];
  if (batches * key_heads == 0) return;
  const int64_t group = q.shape[axis] / key_heads;

  // What adds to the same gradients of the bias is one task.
  const View* grad_bias = gradients.bias;
  const bool each_batch = grad_bias == nullptr || steps(*grad_bias, 0, axis);
  const bool each_head = grad_bias == nullptr || steps(*grad_bias, axis, axis + 1);
  const bool each_query = grad_bias == nullptr || steps(*grad_bias, axis + 1, axis + 2);
  const int64_t tasks = (each_batch ? batches : 1) * (each_head ? key_heads : 1);
  int64_t parts = 1;
  if (each_query && tasks < kFewTasks) {
    const int64_t most = std::min(kMostParts, forward.queries / kFewestQueries);
    parts = std::clamp<int64_t>(kFewTasks / tasks, 1, std::max<int64_t>(most, 1));
  }
  const int64_t item = item_size(compute_type(q.dtype));
  const int64_t sums = sums_of(forward) * item;
  const AttentionBackwardKernel kernel = select_attention_backward_stub.get()(q.dtype);
  const std::size_t kernel_scratch =
      attention_backward_scratch(forward, std::min(group * forward.queries, kAttentionRows), item);
  const std::size_t offset = (kernel_scratch + 63) / 64 * 64;

  const auto set_problem = [&](AttentionBackwardRows& part, int64_t batch, int64_t head) {
    part.forward.q = operand_of(&q, axis, batch, head * group);
    part.forward.k = operand_of(&k, axis, batch, head);
    part.forward.v = operand_of(&v, axis, batch, head);
    part.forward.mask = operand_of(mask, axis, batch, head * group);
    part.forward.bias = operand_of(bias, axis, batch, head * group);
    part.forward.out = operand_of(&out, axis, batch, head * group);
    part.forward.lse = operand_of(&lse, axis, batch, head * group);
    part.grad = operand_of(&grad, axis, batch, head * group);
    part.grad_q = operand_of(&gradients.q, axis, batch, head * group);
    part.grad_k = operand_of(&gradients.k, axis, batch, head);
    part.grad_v = operand_of(&gradients.v, axis, batch, head);
    part.grad_bias = operand_of(grad_bias, axis, batch, head * group);
  };
  // The sums of a task's problems lie in its own memory, unless there are parts to be added.
  const Buffer shared(parts > 1 ? batches * key_heads * parts * sums : 0);
  const int64_t work = std::max<int64_t>(group * forward.queries, 1) *
                       std::max<int64_t>(forward.keys, 1) * (forward.depth + forward.value_depth) *
                       (batches * key_heads / tasks);
  const int64_t grain =
      parts > 1 ? 1 : std::clamp<int64_t>(kGrain / std::max<int64_t>(work, 1), 1, 1024);
  parallel_for(tasks * parts, grain, offset + static_cast<std::size_t>(parts > 1 ? 0 : sums),
               [&](int64_t begin, int64_t end, std::byte* memory) {
                 AttentionBackwardRows part = all;
                 part.forward.scratch = memory;
                 for (int64_t i = begin; i < end; ++i) {
                   const int64_t task = i / parts;
                   const int64_t head = each_head ? task % key_heads : 0;
                   const int64_t batch = each_batch ? task / (each_head ? key_heads : 1) : 0;
                   const int64_t first = forward.queries * (i % parts) / parts;
                   const int64_t last = forward.queries * (i % parts + 1) / parts;
                   for (int64_t b = batch; b < (each_batch ? batch + 1 : batches); ++b) {
                     for (int64_t h = head; h < (each_head ? head + 1 : key_heads); ++h) {
                       set_problem(part, b, h);
                       part.sums = parts > 1 ? shared.data() +
                                                   ((b * key_heads + h) * parts + i % parts) * sums
                                             : memory + offset;
                       std::memset(part.sums, 0, static_cast<std::size_t>(sums));
                       run_queries(kernel, part, group, first, last);
                       if (parts == 1) kernel.finish(part, 1);
                     }
                   }
                 }
               });
  if (parts == 1) return;
  parallel_for(batches * key_heads, 1, 0, [&](int64_t begin, int64_t end, std::byte*) {
    AttentionBackwardRows part = all;
    for (int64_t i = begin; i < end; ++i) {
      set_problem(part, i / key_heads, i % key_heads);
      part.sums = shared.data() + i * parts * sums;
      kernel.finish(part, parts);
    }
  });
}

void attention_varlen_backward(const View& grad, const View& q, const View& k, const View& v,
                               const View& out, const View& lse, const int64_t* cu_seqlens_q,
                               const int64_t* cu_seqlens_k, int64_t sequences,
                               const AttentionOptions& options,
                               const AttentionGradients& gradients) {
  check_offsets("marey.attention_varlen_backward", q, k, cu_seqlens_q, cu_seqlens_k, sequences,
                options);
  const int64_t key_heads = k.shape[1];
  if (sequences == 0 || key_heads == 0) return;
  const int64_t group = q.shape[1] / key_heads;
  AttentionBackwardRows all{};
  all.forward.depth = q.shape[2];
  all.forward.value_depth = v.shape[2];
  all.forward.scale = options.scale;
  all.forward.softcap = options.softcap;
  all.forward.left = options.left;
  all.forward.right = options.right;
  int64_t longest = 0;
  double work = 0;
  for (int64_t i = 0; i < sequences; ++i) {
    const int64_t rows = group * (cu_seqlens_q[i + 1] - cu_seqlens_q[i]);
    const int64_t keys = cu_seqlens_k[i + 1] - cu_seqlens_k[i];
    longest = std::max(longest, rows);
    all.forward.keys = std::max(all.forward.keys, keys);
    work += static_cast<double>(rows * (all.forward.depth + all.forward.value_depth)) *
            static_cast<double>(std::max<int64_t>(keys, 1));
  }
  const int64_t item = item_size(compute_type(q.dtype));
  const std::size_t kernel_scratch =
      attention_backward_scratch(all.forward, std::min(longest, kAttentionRows), item);
  const std::size_t offset = (kernel_scratch + 63) / 64 * 64;
  const auto sums = static_cast<std::size_t>(sums_of(all.forward) * item);
  const int64_t grain = std::clamp<int64_t>(
      static_cast<int64_t>(static_cast<double>(kGrain * sequences) / std::max(work, 1.0)), 1, 1024);
  const AttentionBackwardKernel kernel = select_attention_backward_stub.get()(q.dtype);
  parallel_for(sequences * key_heads, grain, offset + sums,
               [&](int64_t begin, int64_t end, std::byte* memory) {
                 AttentionBackwardRows part = all;
                 AttentionRows& rows = part.forward;
                 rows.scratch = memory;
                 part.sums = memory + offset;
                 for (int64_t task = begin; task < end; ++task) {
                   const int64_t i = task / key_heads;
                   const int64_t head = task % key_heads;
                   rows.queries = cu_seqlens_q[i + 1] - cu_seqlens_q[i];
                   rows.keys = cu_seqlens_k[i + 1] - cu_seqlens_k[i];
                   rows.offset =
                       options.alignment == Alignment::bottom_right ? rows.keys - rows.queries : 0;
                   for (const auto& [to, view] : {std::tuple{&rows.q, &q},
                                                  {&rows.out, &out},
                                                  {&rows.lse, &lse},
                                                  {&part.grad, &grad},
                                                  {&part.grad_q, &gradients.q}}) {
                     *to = packed_operand(*view, cu_seqlens_q[i], head * group);
                   }
                   for (const auto& [to, view] : {std::tuple{&rows.k, &k},
                                                  {&rows.v, &v},
                                                  {&part.grad_k, &gradients.k},
                                                  {&part.grad_v, &gradients.v}}) {
                     *to = packed_operand(*view, cu_seqlens_k[i], head);
                   }
                   std::memset(part.sums, 0, static_cast<std::size_t>(sums_of(rows) * item));
                   run_queries(kernel, part, group, 0, rows.queries);
                   kernel.finish(part, 1);
                 }
               });
}

}  // namespace marey
