// All steps in one launch: a grid whose blocks run at once and wait for each other after each step.
//
// A block has some hidden units with all gates of theirs, four times as many columns of the weights
// of the state, and keeps those in shared memory from the first step to the last. For each step it
// reads the states of all rows, 16 at a time, multiplies them with the weights
// (resident_cuda.h), and the cell is applied by one thread for each row and unit.
//
// Every state is read by every block, so that blocks wait for each other once a step: that, and
// reading the states through the second cache, is what a step costs beside the product. Eight units
// of a block spread the weights over as many multiprocessors as there are; where they do not fit,
// or are too many, 16.
#include "cuda/limits.h"
#include "ops/recurrent/cell_cuda.h"
#include "ops/recurrent/recurrent_cuda.h"
#include "ops/recurrent/resident_cuda.h"

namespace marey::cuda {
namespace {

constexpr int kThreads = kResidentThreads;
constexpr int kRows = kResidentRows;

template <class S, class T, int kUnits>
struct Layout {
  static constexpr int kColumns = kMostGates * kUnits;
  using Product = Resident<S, T, kColumns>;
  static constexpr std::size_t kSums = resident_sums_bytes<S, T, kColumns>();

  static std::size_t bytes(int64_t hidden) {
    const int depth = Product::depth(hidden);
    return kSums + sizeof(S) * static_cast<std::size_t>(kRows * Product::pitch(depth) +
                                                        Product::weights(depth));
  }
};

template <class S, class T, int kUnits>
MAREY_KERNEL(kThreads)
recurrent_sequence_kernel(MAREY_GRID_CONSTANT StepArguments a, char* first, char* second,
                          unsigned* counter) {
  using L = Layout<S, T, kUnits>;
  using Product = typename L::Product;
  static_assert(kThreads >= kRows * kUnits);
  const int thread = static_cast<int>(threadIdx.x);
  const int hidden = static_cast<int>(a.hidden);
  const int depth = Product::depth(hidden);
  const int pitch = Product::pitch(depth);
  auto* memory = shared_memory<unsigned char>();
  T* sums = reinterpret_cast<T*>(memory);
  S* h = reinterpret_cast<S*>(memory + L::kSums);
  S* weights = h + kRows * pitch;
  const int64_t first_unit = int64_t{blockIdx.x} * kUnits;

  for (int column = 0; column < L::kColumns; ++column) {
    const int gate = column / kUnits;
    const int64_t unit = first_unit + column % kUnits;
    const bool inside = gate < a.gate_count && unit < a.hidden;
    const char* row = a.weight + (inside ? gate * a.hidden + unit : 0) * a.weight_row;
    for (int d = thread; d < depth; d += kThreads) {
      weights[Product::weight(depth, column, d)] =
          inside && d < hidden ? *reinterpret_cast<const S*>(row + d * a.weight_item) : S{};
    }
  }

  const bool packs = in_packs<S>(first, hidden) && in_packs<S>(second, hidden);
  for (int64_t step = 0; step < a.steps; ++step) {
    const char* state = step % 2 == 0 ? first : second;
    char* next = step % 2 == 0 ? second : first;
    char* kept = nullptr;
    if (a.kept != nullptr) {
      kept = a.kept + step * a.rows * kept_gates(a.cell) * a.hidden * int64_t{sizeof(T)};
    }
    for (int64_t row = 0; row < a.rows; row += kRows) {
      ask_for_rows(h, pitch, depth, reinterpret_cast<const S*>(state) + row * a.hidden, a.hidden,
                   a.rows - row, hidden, packs);
      copy_commit();
      copy_wait<0>();
      sync_block();  // h is written, and the weights; the sums have been read
      Product product;
      product.clear();
      product.add(depth, h, weights);
      product.store(sums);
      sync_block();  // the sums are written, and h has been read
      if (thread < kRows * kUnits) {
        const int local_row = thread / kUnits;
        const int local_unit = thread % kUnits;
        const int64_t r = row + local_row;
        const int64_t u = first_unit + local_unit;
        if (r < a.rows && u < a.hidden) {
          finish_cell<S, T>(a, step, state, next, kept, r, u, [&](int gate) {
            return resident_sum<L::kColumns, Product::kParts>(sums, local_row,
                                                              gate * kUnits + local_unit);
          });
        }
      }
    }
    // Nobody waits after the last step.
    if (step + 1 < a.steps) sync_grid(counter, static_cast<unsigned>(step + 1) * gridDim.x);
  }
}

constexpr int64_t kMostRows = 128;  // beyond, blocks for rows too are better than one launch

template <class S, class T, int kUnits>
bool run_if_it_fits(const Queue& queue, const StepArguments& a, const DeviceLimits& limits,
                    void* const (&state)[2], void* counter) {
  const Grid grid{blocks_for(a.hidden, kUnits), kThreads, Layout<S, T, kUnits>::bytes(a.hidden)};
  if (grid.blocks > limits.multiprocessors || grid.shared_bytes > limits.shared_bytes) return false;
  return launch_together(queue, grid, &recurrent_sequence_kernel<S, T, kUnits>, a,
                         static_cast<char*>(state[0]), static_cast<char*>(state[1]),
                         static_cast<unsigned*>(counter));
}

template <class S, class T>
bool run(const Queue& queue, const StepArguments& a, void* const (&state)[2], void* counter) {
  const DeviceLimits limits = device_limits(queue);
  if (!limits.cooperative) return false;
  return run_if_it_fits<S, T, 8>(queue, a, limits, state, counter) ||
         run_if_it_fits<S, T, 16>(queue, a, limits, state, counter);
}

}  // namespace

bool run_whole_sequence(const Queue& queue, const StepArguments& a, DType dtype,
                        void* const (&state)[2], void* counter) {
  // The barriers are counted in 32 bits.
  if (a.steps < 2 || a.rows > kMostRows || a.steps * blocks_for(a.hidden, 8) >= int64_t{1} << 31) {
    return false;
  }
  if (dtype == DType::f64) return run<double, double>(queue, a, state, counter);
  if (dtype == DType::bf16) return run<bfloat16, float>(queue, a, state, counter);
  return run<float, float>(queue, a, state, counter);
}

}  // namespace marey::cuda
