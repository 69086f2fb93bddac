// The gradient of attention's bias, for every type, stride, mask and head size: a block takes a
// tile of the bias through all that it is broadcast along. The rest of the way back is in
// attention_backward_cuda.cu.
#include "ops/attention/attention_backward_cuda.h"

namespace marey::cuda {
namespace {

using namespace backward;

struct BiasArguments {
  BackwardArguments backward;
  // Problems (batch entry times heads, and head), and where their bias lies: those that have a bias
  // of their own, and those that share one.
  SeriesMap<2> own;
  SeriesMap<1> shared;
  char* grad_bias;
  int64_t row, item;            // of grad_bias, in bytes
  bool share_rows, share_keys;  // the bias is broadcast along queries, along keys
  Divisor row_tiles, key_tiles;
};

constexpr int kBiasRowsPerWarp = 2;
constexpr int kBiasRows = kWarps * kBiasRowsPerWarp;

template <class S, class T>
MAREY_KERNEL(kThreads)
attention_grad_bias_kernel(MAREY_GRID_CONSTANT BiasArguments b) {
  const BackwardArguments& a = b.backward;
  const AttentionArguments& f = a.forward;
  const Shared<T, kBiasRowsPerWarp> shared(f);
  const int warp = static_cast<int>(threadIdx.x) / kLanes;
  const int lane = static_cast<int>(threadIdx.x) % kLanes;
  const int64_t line = b.key_tiles.quotient(blockIdx.x);
  const int64_t key_tile = blockIdx.x - line * b.key_tiles.value();
  const int64_t own = b.row_tiles.quotient(line);
  const int64_t row_tile = line - own * b.row_tiles.value();
  int64_t of_own[2];
  b.own.offsets(own, of_own);

  const int64_t first_row = b.share_rows ? 0 : row_tile * kBiasRows;
  const int64_t end_row =
      b.share_rows || first_row + kBiasRows > f.queries ? f.queries : first_row + kBiasRows;
  const int64_t first_key = b.share_keys ? 0 : key_tile * kLanes;
  const int64_t end_key = b.share_keys || first_key + kLanes > f.keys ? f.keys : first_key + kLanes;
  T sums[kBiasRowsPerWarp];
#pragma unroll
  for (int r = 0; r < kBiasRowsPerWarp; ++r) sums[r] = T{0};
  for (int64_t k = 0; k < b.shared.count; ++k) {
    int64_t of_shared[1];
    b.shared.offsets(k, of_shared);
    const int64_t problem = of_own[0] + of_shared[0];
    const int64_t batch = f.heads.quotient(problem);
    Places p(a, batch);
    p.head = problem - batch * f.heads.value();
    p.key_head = f.group.quotient(p.head);
    for (int64_t rows = first_row; rows < end_row; rows += kBiasRows) {
      sync_block();  // what was there has been read
      shared.template load_own<S>(p, Side::queries, rows, f.queries);
      const int64_t mine = rows + warp * kBiasRowsPerWarp;
      for (int64_t keys = first_key; keys < end_key; keys += kLanes) {
        shared.template load_other<S>(p, Side::keys, keys, f.keys);
        T product[kBiasRowsPerWarp], of_value[kBiasRowsPerWarp];
        shared.multiply(product, of_value);
#pragma unroll
        for (int r = 0; r < kBiasRowsPerWarp; ++r) {
          const int64_t row = mine + r;
          const bool inside = row < f.queries;
          const Query<T> query = query_of<T>(p, problem, row, inside);
          sums[r] +=
              pair_of<T>(p, f, query, row, keys + lane, inside, product[r], of_value[r]).gradient;
        }
      }
    }
  }

  // Sums over what the tile's rows or keys share; the first row, the first key have them.
  if (b.share_keys) {
#pragma unroll
    for (int r = 0; r < kBiasRowsPerWarp; ++r) sums[r] = warp_sum(sums[r]);
  }
  if (b.share_rows) {
    sync_block();
    T sum{0};
#pragma unroll
    for (int r = 0; r < kBiasRowsPerWarp; ++r) sum += sums[r];
    shared.weights[warp * kLanes + lane] = sum;
    sync_block();
    sums[0] = T{0};
    for (int w = 0; w < kWarps; ++w) sums[0] += shared.weights[w * kLanes + lane];
  }
#pragma unroll
  for (int r = 0; r < kBiasRowsPerWarp; ++r) {
    const int64_t row = b.share_rows ? 0 : first_row + warp * kBiasRowsPerWarp + r;
    const int64_t key = b.share_keys ? 0 : first_key + lane;
    const bool one_row = !b.share_rows || (warp == 0 && r == 0);
    const bool one_key = !b.share_keys || lane == 0;
    if (one_row && one_key && row < f.queries && key < f.keys) {
      *reinterpret_cast<T*>(b.grad_bias + of_own[1] + row * b.row + key * b.item) = sums[r];
    }
  }
}

template <int N>
void add_axis(SeriesMap<N>& map, int64_t extent, const int64_t (&stride)[N]) {
  if (extent == 1) return;
  map.extent[map.axes] = Divisor(extent > 0 ? extent : 1);
  for (int o = 0; o < N; ++o) map.stride[o][map.axes] = stride[o];
  map.count *= extent;
  ++map.axes;
}

template <int N>
SeriesMap<N> empty_map() {
  SeriesMap<N> map{};
  map.count = 1;
  for (auto& stride : map.stride) stride[0] = 0;
  return map;
}

// Axes of stride zero are those that the bias is broadcast along.
BiasArguments bias_arguments(const View& grad_bias) {
  BiasArguments b{};
  const int axis = grad_bias.ndim() - 3;
  b.own = empty_map<2>();
  b.shared = empty_map<1>();
  int64_t step = 1;
  int64_t steps[kMaxDims];
  for (int k = axis; k >= 0; --k) {
    steps[k] = step;
    step *= grad_bias.shape[k];
  }
  for (int k = 0; k <= axis; ++k) {
    const int64_t stride = grad_bias.stride(k);
    if (stride == 0) {
      add_axis<1>(b.shared, grad_bias.shape[k], {steps[k]});
    } else {
      add_axis<2>(b.own, grad_bias.shape[k], {steps[k], stride});
    }
  }
  b.grad_bias = grad_bias.as<char>();
  b.row = grad_bias.stride(axis + 1);
  b.item = grad_bias.stride(axis + 2);
  b.share_rows = b.row == 0;
  b.share_keys = b.item == 0;
  b.row_tiles = Divisor(b.share_rows ? 1 : blocks_for(grad_bias.shape[axis + 1], kBiasRows));
  b.key_tiles = Divisor(b.share_keys ? 1 : blocks_for(grad_bias.shape[axis + 2], kLanes));
  return b;
}

template <class S, class T>
void run(const Queue& queue, const BiasArguments& b) {
  const AttentionArguments& f = b.backward.forward;
  launch(queue,
         {b.own.count * b.row_tiles.value() * b.key_tiles.value(), kThreads,
          Shared<T, kBiasRowsPerWarp>::bytes(f.depth, f.value_depth)},
         &attention_grad_bias_kernel<S, T>, b);
}

}  // namespace

void attention_grad_bias(const Queue& queue, const AttentionBackward& call,
                         const BackwardArguments& a) {
  BiasArguments b = bias_arguments(*call.grad_bias);
  b.backward = a;
  if (call.q.dtype == DType::f64) return run<double, double>(queue, b);
  if (call.q.dtype == DType::bf16) return run<bfloat16, float>(queue, b);
  run<float, float>(queue, b);
}

}  // namespace marey::cuda
