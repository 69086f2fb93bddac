// All steps in one launch: a grid whose blocks run at once and wait for each other after each step.
//
// A block has some hidden units with all gates of theirs, four times as many columns of the weights
// of the state, and keeps those in shared memory from the first step to the last. For each step it
// reads the states of all rows, 16 at a time; a thread has one column and a part of the depth, for
// which it makes the sums of all 16 rows, reading each weight once and the states by broadcast. The
// parts are added up in a fixed order, and the cell is applied by one thread for each row and unit.
//
// Every state is read by every block, so that blocks wait for each other once a step: that, and
// reading the states through the second cache, is what a step costs beside the product. Eight units
// of a block spread the weights over as many multiprocessors as there are; where they do not fit,
// or are too many, 16.
#include "cuda/limits.h"
#include "ops/recurrent/cell_cuda.h"
#include "ops/recurrent/recurrent_cuda.h"

namespace marey::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kRows = 16;
constexpr int kFour = 4;  // depths that are read at once

template <class S, class T, int kUnits>
struct Layout {
  static constexpr int kColumns = kMostGates * kUnits;
  static constexpr int kParts = kThreads / kColumns;
  // Depths of a part: whole fours.
  static MAREY_HOST_DEVICE int share(int64_t hidden) {
    return static_cast<int>((hidden + kParts * kFour - 1) / (kParts * kFour)) * kFour;
  }
  static MAREY_HOST_DEVICE int depth(int64_t hidden) { return share(hidden) * kParts; }
  static std::size_t bytes(int64_t hidden) {
    return sizeof(S) * static_cast<std::size_t>(depth(hidden)) * (kColumns + kRows) +
           sizeof(T) * kParts * kRows * (kColumns + 1);
  }
};

template <class S, class T, int kUnits>
MAREY_KERNEL(kThreads)
recurrent_sequence_kernel(MAREY_GRID_CONSTANT StepArguments a, char* first, char* second,
                          unsigned* counter) {
  using L = Layout<S, T, kUnits>;
  using Four = Pack<S, kFour>;
  const int thread = static_cast<int>(threadIdx.x);
  const int depth = L::depth(a.hidden);
  const int share = L::share(a.hidden);
  T* sums = shared_memory<T>();                                               // [part][row][column]
  S* h = reinterpret_cast<S*>(sums + L::kParts * kRows * (L::kColumns + 1));  // [row][depth]
  S* weights = h + kRows * depth;                                             // [depth][column]
  const int64_t first_unit = int64_t{blockIdx.x} * kUnits;

  for (int i = thread; i < depth * L::kColumns; i += kThreads) {
    const int column = i % L::kColumns;
    const int d = i / L::kColumns;
    const int gate = column / kUnits;
    const int64_t unit = first_unit + column % kUnits;
    const bool inside = gate < a.gate_count && unit < a.hidden && d < a.hidden;
    weights[i] = inside
                     ? *reinterpret_cast<const S*>(
                           a.weight + (gate * a.hidden + unit) * a.weight_row + d * a.weight_item)
                     : from<S>(T{0});
  }

  const int column = thread % L::kColumns;
  const int part = thread / L::kColumns;
  for (int64_t step = 0; step < a.steps; ++step) {
    const char* state = step % 2 == 0 ? first : second;
    char* next = step % 2 == 0 ? second : first;
    char* kept = nullptr;
    if (a.kept != nullptr) {
      kept = a.kept + step * a.rows * kept_gates(a.cell) * a.hidden * int64_t{sizeof(T)};
    }
    for (int64_t row = 0; row < a.rows; row += kRows) {
      for (int i = thread; i < kRows * depth; i += kThreads) {
        const int r = i / depth;
        const int d = i - r * depth;
        const bool inside = row + r < a.rows && d < a.hidden;
        h[i] = inside ? load_of_grid(reinterpret_cast<const S*>(state) + (row + r) * a.hidden + d)
                      : from<S>(T{0});
      }
      sync_block();  // h is written, and the weights; the sums have been read
      T sum[kRows];
#pragma unroll
      for (int r = 0; r < kRows; ++r) sum[r] = T{0};
      for (int d = part * share; d < (part + 1) * share; d += kFour) {
        T w[kFour];
#pragma unroll
        for (int k = 0; k < kFour; ++k) w[k] = to<T>(weights[(d + k) * L::kColumns + column]);
#pragma unroll
        for (int r = 0; r < kRows; ++r) {
          const Four four = *reinterpret_cast<const Four*>(h + r * depth + d);
#pragma unroll
          for (int k = 0; k < kFour; ++k) sum[r] += to<T>(four.v[k]) * w[k];
        }
      }
#pragma unroll
      for (int r = 0; r < kRows; ++r) {
        sums[(part * kRows + r) * (L::kColumns + 1) + column] = sum[r];
      }
      sync_block();  // the sums are written, and h has been read
      if (thread < kRows * kUnits) {
        const int local_row = thread / kUnits;
        const int local_unit = thread % kUnits;
        const int64_t r = row + local_row;
        const int64_t u = first_unit + local_unit;
        if (r < a.rows && u < a.hidden) {
          finish_cell<S, T>(a, step, state, next, kept, r, u, [&](int gate) {
            T total{0};
            for (int p = 0; p < L::kParts; ++p) {
              total +=
                  sums[(p * kRows + local_row) * (L::kColumns + 1) + gate * kUnits + local_unit];
            }
            return total;
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
bool fits(const StepArguments& a, const DeviceLimits& limits) {
  return blocks_for(a.hidden, kUnits) <= limits.multiprocessors &&
         Layout<S, T, kUnits>::bytes(a.hidden) <= limits.shared_bytes;
}

template <class S, class T, int kUnits>
void run(const Queue& queue, const StepArguments& a, void* const (&state)[2], void* counter) {
  Grid grid{blocks_for(a.hidden, kUnits), kThreads, Layout<S, T, kUnits>::bytes(a.hidden)};
  grid.cooperative = true;
  launch(queue, grid, &recurrent_sequence_kernel<S, T, kUnits>, a, static_cast<char*>(state[0]),
         static_cast<char*>(state[1]), static_cast<unsigned*>(counter));
}

template <class S, class T>
bool run_if_it_fits(const Queue& queue, const StepArguments& a, void* const (&state)[2],
                    void* counter) {
  const DeviceLimits limits = device_limits(queue);
  if (!limits.cooperative) return false;
  if (fits<S, T, 8>(a, limits)) {
    run<S, T, 8>(queue, a, state, counter);
  } else if (fits<S, T, 16>(a, limits)) {
    run<S, T, 16>(queue, a, state, counter);
  } else {
    return false;
  }
  return true;
}

}  // namespace

bool run_whole_sequence(const Queue& queue, const StepArguments& a, DType dtype,
                        void* const (&state)[2], void* counter) {
  // The barriers are counted in 32 bits.
  if (a.steps < 2 || a.rows > kMostRows || a.steps * blocks_for(a.hidden, 8) >= int64_t{1} << 31) {
    return false;
  }
  if (dtype == DType::f64) return run_if_it_fits<double, double>(queue, a, state, counter);
  if (dtype == DType::bf16) return run_if_it_fits<bfloat16, float>(queue, a, state, counter);
  return run_if_it_fits<float, float>(queue, a, state, counter);
}

}  // namespace marey::cuda
