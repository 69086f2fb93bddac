#pragma once
// What the parts of one call of run_backward share: its sizes, its kernels, and where things lie.
#include <algorithm>
#include <cstring>
#include <utility>
#include <vector>

#include "ops/recurrent/backward.h"
#include "ops/recurrent/backward_kernels.h"
#include "ops/recurrent/team.h"

namespace marey {

struct BackwardCall {
  // Rows whose weight gradients are taken at once.
  static constexpr int64_t kChunkRows = 256;

  BackwardCall(const BackwardArgs& call_args, const Steps& call_steps,
               const RecurrentKernels& real_products, const BackwardKernels& storage_kernels,
               const BackwardKernels& kernels_of_real, const NormKernels& norms)
      : args(call_args),
        steps(call_steps),
        products(real_products),
        kernels(storage_kernels),
        real_kernels(kernels_of_real),
        norm_kernels(norms),
        storage(item_size(args.x.dtype)),
        real(args.x.dtype == DType::f64 ? 8 : 4),
        hidden(args.weights.hidden()),
        state(args.weights.state()),
        input(args.weights.ih.shape[1]),
        width(gate_width(hidden)),
        state_width(gate_width(state)),
        blocks((hidden + products.lanes - 1) / products.lanes),
        state_blocks((state + products.lanes - 1) / products.lanes),
        input_blocks((input + products.lanes - 1) / products.lanes),
        units(blocks * products.lanes),
        state_units(state_blocks * products.lanes),
        chunk_rows(std::max<int64_t>(steps.most_rows(kChunkRows), 1)) {
    for (int64_t begin = 0; begin < steps.count();) {
      starts.push_back(begin);
      begin = steps.chunk_end(begin, kChunkRows);
    }
    h0_ = zeros(steps.batch() * state * storage);
    for (int64_t row = 0; args.h0 != nullptr && row < steps.batch(); ++row) {
      copy_row(args.h0->as<std::byte>() + steps.sequence(row) * args.h0->stride(0),
               args.h0->stride(1), state, storage, h0_.data() + row * state * storage);
    }
  }

  const BackwardArgs& args;
  const Steps& steps;
  const RecurrentKernels& products;  // of the type of the computation
  const BackwardKernels& kernels;    // of the storage
  const BackwardKernels& real_kernels;
  const NormKernels& norm_kernels;
  int64_t storage, real;  // bytes of a number
  int64_t hidden, state, input, width, state_width;
  int64_t blocks, state_blocks, input_blocks, units, state_units;
  int64_t chunk_rows;           // the most of any chunk
  std::vector<int64_t> starts;  // of the chunks

  Buffer zero_numbers(int64_t items) const { return zeros(items * real); }
  // The rows of a chunk before this step.
  int64_t row_in_chunk(std::size_t chunk, int64_t step) const {
    return steps.offset(step) - steps.offset(starts[chunk]);
  }
  std::byte* kept_at(int64_t step, int64_t row) const {
    const int64_t bytes = args.weights.kept(args.cell) * kept_pitch(hidden) * real;
    return const_cast<std::byte*>(args.kept) + (steps.offset(step) + row) * bytes;
  }
  std::byte* state_before(int64_t step, int64_t row) const {
    return step == 0 ? h0_.data() + row * state * storage : steps.at(args.y, row, step - 1);
  }

 private:
  Buffer h0_;
};

// What one thread of the team has for itself.
struct BackwardThread {
  using Range = std::pair<int64_t, int64_t>;

  BackwardThread(Team& of, int index, const BackwardCall& call)
      : team(of),
        thread(index),
        blocks(Grid::part(call.blocks, index, of.size())),
        state_blocks(Grid::part(call.state_blocks, index, of.size())),
        input_blocks(Grid::part(call.input_blocks, index, of.size())) {}

  Team& team;
  int thread;
  Range blocks, state_blocks, input_blocks;
  std::vector<void*> rows[4];

  void** pointers(int list, int64_t count) {
    auto& chosen = rows[list];
    if (static_cast<int64_t>(chosen.size()) < count) {
      chosen.resize(static_cast<std::size_t>(count));
    }
    return chosen.data();
  }
  Range part(int64_t count) const { return Grid::part(count, thread, team.size()); }
};

// Rows of a weight by the `order` of the gates' gradients, as panels of its columns.
inline void pack_columns(const BackwardCall& call, BackwardThread& mine, const View& weight,
                         const int* order, int count, BackwardThread::Range blocks,
                         const Buffer& to) {
  void** rows = mine.pointers(0, count * call.width);
  std::fill(rows, rows + count * call.width, nullptr);
  for (int gate = 0; gate < count; ++gate) {
    for (int64_t unit = 0; unit < call.hidden; ++unit) {
      rows[gate * call.width + unit] =
          weight.as<std::byte>() + (order[gate] * call.hidden + unit) * weight.stride(0);
    }
  }
  call.kernels.gather({rows, count * call.width, weight.stride(1) / call.storage, weight.shape[1],
                       blocks.first, blocks.second, to.data()});
}

// Gradients of the gates of some rows, and their products with packed columns.
struct GateRows {
  const std::byte* gates;
  int64_t pitch;  // numbers
  int64_t rows;

  // to [block][to_rows][lanes] = `count` gates from `first` on times the columns of some blocks;
  // `no_bias`: zeros for each of those.
  void multiply(const BackwardCall& call, BackwardThread::Range blocks, int first, int count,
                const Buffer& columns, const Buffer& no_bias, const Buffer& to,
                int64_t to_rows) const {
    call.products.project({rows, gates + first * call.width * call.real, pitch, columns.data(),
                           count * call.width, no_bias.data(), to.data(),
                           to_rows * call.products.lanes, 1, 1, blocks.first, blocks.second});
  }
};

}  // namespace marey
