#include <algorithm>

#include "ops/attention/attention_cuda.h"

namespace marey::cuda {

template <int N>
AttentionArrays<N> attention_arrays(const View& q, const View* const (&views)[N]) {
  AttentionArrays<N> a{};
  const int axis = q.ndim() - 3;
  a.batch.count = 1;
  for (int b = 0; b < axis; ++b) {
    const int64_t extent = q.shape[b];
    a.batch.count *= extent;
    if (extent == 1) continue;
    int64_t stride[N];
    bool merges = a.batch.axes > 0;
    for (int o = 0; o < N; ++o) {
      stride[o] = views[o] == nullptr ? 0 : views[o]->stride(b);
      merges = merges && a.batch.stride[o][a.batch.axes - 1] == extent * stride[o];
    }
    const int at = merges ? a.batch.axes - 1 : a.batch.axes++;
    const int64_t merged = merges ? a.batch.extent[at].value() * extent : extent;
    a.batch.extent[at] = Divisor(merged > 0 ? merged : 1);
    for (int o = 0; o < N; ++o) a.batch.stride[o][at] = stride[o];
  }
  if (a.batch.axes == 0) {
    a.batch.axes = 1;
    for (auto& stride : a.batch.stride) stride[0] = 0;
  }
  for (int o = 0; o < N; ++o) {
    if (views[o] == nullptr) continue;
    a.data[o] = views[o]->template as<char>();
    a.head[o] = views[o]->stride(axis);
    a.row[o] = views[o]->stride(axis + 1);
    a.item[o] = views[o]->ndim() == axis + 2 ? 0 : views[o]->stride(axis + 2);
  }
  return a;
}

template AttentionArrays<4> attention_arrays(const View& q, const View* const (&views)[4]);

AttentionArguments attention_arguments(const View& q, const View& k, const View& v,
                                       const View* mask, const View* bias,
                                       const AttentionOptions& options, const View& out,
                                       const View* lse, int rows_per_block) {
  const View* const views[kAttentionArrays] = {&q, &k, &v, mask, bias, &out, lse};
  AttentionArguments a{};
  static_cast<AttentionArrays<kAttentionArrays>&>(a) = attention_arrays(q, views);
  const int axis = q.ndim() - 3;
  a.queries = q.shape[axis + 1];
  a.keys = k.shape[axis + 1];
  a.heads = Divisor(q.shape[axis] > 0 ? q.shape[axis] : 1);
  const int64_t key_heads = k.shape[axis] > 0 ? k.shape[axis] : 1;
  a.group = Divisor(q.shape[axis] > key_heads ? q.shape[axis] / key_heads : 1);
  const int64_t blocks = blocks_for(a.queries, rows_per_block);
  a.row_blocks = Divisor(blocks > 0 ? blocks : 1);
  a.depth = static_cast<int>(q.shape[axis + 2]);
  a.value_depth = static_cast<int>(v.shape[axis + 2]);
  // Places of keys are added to these.
  a.left = std::min(options.left, AttentionOptions::kUnlimited);
  a.right = std::min(options.right, AttentionOptions::kUnlimited);
  a.offset = options.alignment == Alignment::bottom_right ? a.keys - a.queries : 0;
  a.scale = options.scale;
  a.softcap = options.softcap;
  return a;
}

}  // namespace marey::cuda
