// All steps of the way back in one launch: recurrent_sequence_cuda.cu, in the other direction.
//
// A block has some hidden units, and keeps their columns of the weights of the state, of all gates,
// in shared memory. For each step it reads the gradients of the gates of all rows, 16 at a time,
// multiplies them with the weights (resident_cuda.h), and goes through the cell for its units, one
// thread for each row and unit. Those gradients are what the other blocks read next, so that blocks
// wait for each other once a step.
//
// The depth of the product is four times that of the way there, and there are a fourth as many
// columns: what a step reads through the second cache is more than its product. All gates of a row
// are asked for at once where they fit beside the weights; else they come one after the other.
#include "cuda/limits.h"
#include "ops/recurrent/cell_backward_cuda.h"
#include "ops/recurrent/resident_cuda.h"

namespace marey::cuda {
namespace {

constexpr int kThreads = kResidentThreads;
constexpr int kRows = kResidentRows;

template <class S, class T, int kUnits>
struct Layout {
  using Product = Resident<S, T, kUnits>;
  static constexpr std::size_t kSums = resident_sums_bytes<S, T, kUnits>();

  // `asked`: gates whose gradients are in shared memory at once.
  static std::size_t bytes(int64_t hidden, int gates, int asked) {
    const int depth = Product::depth(hidden);
    return kSums + sizeof(S) * (static_cast<std::size_t>(asked) * kRows * Product::pitch(depth) +
                                static_cast<std::size_t>(gates) * Product::weights(depth));
  }
};

template <class S, class T, int kUnits>
MAREY_KERNEL(kThreads)
recurrent_back_sequence_kernel(MAREY_GRID_CONSTANT BackArguments a, int asked, unsigned* counter) {
  using L = Layout<S, T, kUnits>;
  using Product = typename L::Product;
  static_assert(kThreads >= kRows * kUnits);
  const int thread = static_cast<int>(threadIdx.x);
  const int hidden = static_cast<int>(a.gates.hidden);
  const int gates = static_cast<int>(a.gates.columns) / hidden;
  const int depth = Product::depth(hidden);
  const int pitch = Product::pitch(depth);
  auto* memory = shared_memory<unsigned char>();
  T* sums = reinterpret_cast<T*>(memory);
  S* rows = reinterpret_cast<S*>(memory + L::kSums);  // [gate][row]
  S* weights = rows + asked * kRows * pitch;          // [gate]
  const int64_t first_unit = int64_t{blockIdx.x} * kUnits;

  for (int i = thread; i < gates * depth * kUnits; i += kThreads) {
    const int column = i % kUnits;
    const int d = i / kUnits % depth;
    const int gate = i / kUnits / depth;
    const int64_t unit = first_unit + column;
    const bool inside = unit < hidden && d < hidden;
    weights[gate * Product::weights(depth) + Product::weight(depth, column, d)] =
        inside
            ? *reinterpret_cast<const S*>(
                  a.weight.data + (gate * a.gates.hidden + d) * a.weight.row + unit * a.weight.item)
            : S{};
  }

  // Of one gate of the rows from `place`, towards the state.
  const auto gradients = [&](int64_t place, int gate, int64_t* from_row) {
    const bool other = a.gates.extra != nullptr && gate == 2;
    *from_row = other ? a.gates.hidden : a.gates.columns;
    return reinterpret_cast<const S*>(other ? a.gates.extra : a.gates.rows) + place * *from_row +
           (other ? 0 : gate * a.gates.hidden);
  };
  const bool packs = in_packs<S>(a.gates.rows, hidden) && in_packs<S>(a.gates.extra, hidden);

  for (int64_t step = a.times.steps - 1; step >= -1; --step) {
    const bool last = step + 1 == a.times.steps;
    for (int64_t row = 0; row < a.rows; row += kRows) {
      Product product;
      product.clear();
      for (int first = 0; first < gates && !last; first += asked) {
        const int past = first + asked < gates ? first + asked : gates;
        sync_block();  // what is there has been read
        for (int gate = first; gate < past; ++gate) {
          int64_t from_row = 0;
          const S* from = gradients((step + 1) * a.rows + row, gate, &from_row);
          ask_for_rows(rows + (gate - first) * kRows * pitch, pitch, depth, from, from_row,
                       a.rows - row, hidden, packs);
        }
        copy_commit();
        copy_wait<0>();
        sync_block();  // the gradients are there, and the weights
        for (int gate = first; gate < past; ++gate) {
          product.add(depth, rows + (gate - first) * kRows * pitch,
                      weights + gate * Product::weights(depth));
        }
      }
      sync_block();  // the sums have been read
      product.store(sums);
      sync_block();
      if (thread < kRows * kUnits) {
        const int local_row = thread / kUnits;
        const int local_unit = thread % kUnits;
        const int64_t r = row + local_row;
        const int64_t u = first_unit + local_unit;
        if (r < a.rows && u < hidden) {
          finish_back<S, T>(a, step, r, u,
                            resident_sum<kUnits, Product::kParts>(sums, local_row, local_unit));
        }
      }
    }
    // Nobody waits after the last step.
    if (step >= 0) {
      sync_grid(counter, static_cast<unsigned>(a.times.steps - step) * gridDim.x);
    }
  }
}

constexpr int64_t kMostRows = 128;  // beyond, blocks for rows too are better than one launch

template <class S, class T, int kUnits>
bool run_if_it_fits(const Queue& queue, const BackArguments& a, const DeviceLimits& limits,
                    unsigned* counter) {
  const int64_t hidden = a.gates.hidden;
  const int gates = static_cast<int>(a.gates.columns / hidden);
  if (blocks_for(hidden, kUnits) > limits.multiprocessors) return false;
  using L = Layout<S, T, kUnits>;
  const int asked = L::bytes(hidden, gates, gates) <= limits.shared_bytes ? gates : 1;
  const std::size_t bytes = L::bytes(hidden, gates, asked);
  if (bytes > limits.shared_bytes) return false;
  return launch_together(queue, {blocks_for(hidden, kUnits), kThreads, bytes},
                         &recurrent_back_sequence_kernel<S, T, kUnits>, a, asked, counter);
}

template <class S, class T>
bool run(const Queue& queue, const BackArguments& a, unsigned* counter) {
  const DeviceLimits limits = device_limits(queue);
  if (!limits.cooperative) return false;
  return run_if_it_fits<S, T, 8>(queue, a, limits, counter) ||
         run_if_it_fits<S, T, 16>(queue, a, limits, counter);
}

}  // namespace

bool run_whole_sequence_back(const Queue& queue, const BackArguments& a, DType dtype,
                             void* counter) {
  // The barriers are counted in 32 bits.
  const int64_t steps = a.times.steps;
  if (steps < 2 || a.rows == 0 || a.rows > kMostRows ||
      (steps + 1) * blocks_for(a.gates.hidden, 8) >= int64_t{1} << 31) {
    return false;
  }
  auto* zero = static_cast<unsigned*>(counter);
  if (dtype == DType::f64) return run<double, double>(queue, a, zero);
  if (dtype == DType::bf16) return run<bfloat16, float>(queue, a, zero);
  return run<float, float>(queue, a, zero);
}

}  // namespace marey::cuda
