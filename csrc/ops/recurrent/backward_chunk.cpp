#include "ops/recurrent/backward_chunk.h"

#include <algorithm>
#include <cstring>

#include "ops/recurrent/backward_split.h"

namespace marey {
namespace {

// Of a GRU that resets before: the gate of weight_hh that meets r * h.
constexpr int kResetGate = 2;

class PlainGradients : public ChunkGradients {
 public:
  PlainGradients(const BackwardCall& call, const Gates& gates, int threads)
      : ChunkGradients(call, gates),
        tasks_(threads, 2 * call.input_blocks + call.state_blocks),
        ih_t_(unset(items(call.input_blocks, gates.ih_count))),
        strips_(unset(call.chunk_rows * gates.all * call.width)),
        no_bias_(call.zero_numbers(call.input_blocks * call.products.lanes)) {}

  void prepare(BackwardThread& mine, int64_t, int64_t, const GateRows& rows) override {
    const auto [first, last] = mine.part(gates_.all * call_.width / 4);
    call_.kernels.strips({rows.gates, rows.pitch, rows.rows, 4 * first, 4 * last, strips_.data()});
  }

  void add(BackwardThread& mine, int64_t begin, int64_t end, const GateRows& gates) override {
    const int64_t rows = gates.rows;
    const RowsOfChunk at = rows_of_chunk(mine, begin, end);
    tasks_.each(mine.team, mine.thread, false, [&](int64_t index) {
      const int64_t inputs = call_.input_blocks;
      if (index < inputs) {
        gather_x(at, index, rows);
        weight(gates_.ih_first, gates_.ih_count, rows, x_.data(), index, grad_ih_);
      } else if (index < 2 * inputs) {
        const Range block{index - inputs, index - inputs + 1};
        gates.multiply(call_, block, gates_.ih_first, gates_.ih_count, ih_t_, no_bias_, grad_x_,
                       rows);
        scatter_x(at, block, rows);
      } else {
        const int64_t block = index - 2 * inputs;
        gather_h(at, block, rows);
        weight(gates_.hh_first, gates_.hh_count, rows, h_.data(), block, grad_hh_);
        if (!resets()) return;
        // The panels of r * h have room for all rows of a chunk, not for those of this one.
        call_.kernels.weight(
            {strips(0, rows), rows, call_.width, panel(reset_, block, call_.chunk_rows), 0, 1,
             grad_reset_.data() + block * call_.width * call_.products.lanes * call_.real});
      }
    });
  }

 private:
  void pack(BackwardThread& mine) override {
    pack_columns(call_, mine, call_.args.weights.ih, gates_.ih.data(), gates_.ih_count,
                 mine.input_blocks, ih_t_);
  }

  const std::byte* strips(int gate, int64_t rows) const {
    return strips_.data() + gate * call_.width * rows * call_.real;
  }
  void weight(int first, int count, int64_t rows, const std::byte* panels, int64_t block,
              const Buffer& to) const {
    call_.kernels.weight(
        {strips(first, rows), rows, count * call_.width, panels, block, block + 1, to.data()});
  }

  SharedBlocks tasks_;
  Buffer ih_t_, strips_, no_bias_;
};

}  // namespace

ChunkGradients::ChunkGradients(const BackwardCall& call, const Gates& gates)
    : call_(call), gates_(gates) {
  const int64_t lanes = call.products.lanes;
  grad_ih_ = unset(items(call.input_blocks, gates.ih_count));
  grad_hh_ = unset(items(call.state_blocks, gates.hh_count));
  x_ = unset(call.input_blocks * call.chunk_rows * lanes);
  grad_x_ = unset(call.input_blocks * call.chunk_rows * lanes);
  h_ = unset(call.state_blocks * call.chunk_rows * lanes);
  if (resets()) {
    grad_reset_ = unset(items(call.blocks, 1));
    reset_ = call.zero_numbers(call.blocks * call.chunk_rows * lanes);
  }
}

void ChunkGradients::start(BackwardThread& mine) {
  pack(mine);
  const auto clear = [this](const Buffer& panels, int count, Range blocks) {
    const int64_t bytes = items(1, count) * call_.real;
    std::memset(panels.data() + blocks.first * bytes, 0,
                static_cast<std::size_t>((blocks.second - blocks.first) * bytes));
  };
  clear(grad_ih_, gates_.ih_count, mine.input_blocks);
  clear(grad_hh_, gates_.hh_count, mine.state_blocks);
  if (resets()) clear(grad_reset_, 1, mine.state_blocks);
}

void ChunkGradients::store(BackwardThread& mine) {
  store_weight(mine, grad_ih_, call_.args.grad_ih, gates_.ih.data(), gates_.ih_count,
               mine.input_blocks, call_.input);
  store_weight(mine, grad_hh_, call_.args.grad_hh, gates_.hh.data(), gates_.hh_count,
               mine.state_blocks, call_.state);
  if (resets()) {
    store_weight(mine, grad_reset_, call_.args.grad_hh, &kResetGate, 1, mine.state_blocks,
                 call_.hidden);
  }
}

void ChunkGradients::store_weight(BackwardThread& mine, const Buffer& panels, const View& to,
                                  const int* order, int count, Range blocks, int64_t depth) const {
  void** rows = mine.pointers(0, count * call_.width);
  std::fill(rows, rows + count * call_.width, nullptr);
  for (int gate = 0; gate < count; ++gate) {
    for (int64_t unit = 0; unit < call_.hidden; ++unit) {
      rows[gate * call_.width + unit] =
          to.as<std::byte>() + (order[gate] * call_.hidden + unit) * to.stride(0);
    }
  }
  call_.real_kernels.scatter(
      {panels.data(), rows, count * call_.width, depth, blocks.first, blocks.second});
}

ChunkGradients::RowsOfChunk ChunkGradients::rows_of_chunk(BackwardThread& mine, int64_t begin,
                                                          int64_t end) const {
  const int64_t rows = call_.steps.offset(end) - call_.steps.offset(begin);
  const RowsOfChunk at{mine.pointers(0, rows), mine.pointers(1, rows), mine.pointers(2, rows)};
  int64_t k = 0;
  for (int64_t step = begin; step < end; ++step) {
    for (int64_t row = 0; row < call_.steps.active(step); ++row, ++k) {
      at.x[k] = call_.steps.at(call_.args.x, row, step);
      at.grad_x[k] = call_.steps.at(call_.args.grad_x, row, step);
      at.before[k] = call_.state_before(step, row);
    }
  }
  return at;
}

void ChunkGradients::gather_x(const RowsOfChunk& at, int64_t block, int64_t rows) const {
  call_.kernels.gather({at.x, rows, call_.args.x.stride(2) / call_.storage, call_.input, block,
                        block + 1, x_.data()});
}

void ChunkGradients::gather_h(const RowsOfChunk& at, int64_t block, int64_t rows) const {
  call_.kernels.gather({at.before, rows, 1, call_.state, block, block + 1, h_.data()});
}

void ChunkGradients::scatter_x(const RowsOfChunk& at, Range blocks, int64_t rows) const {
  call_.kernels.scatter(
      {grad_x_.data(), at.grad_x, rows, call_.input, blocks.first, blocks.second});
}

std::unique_ptr<ChunkGradients> chunk_gradients(const BackwardCall& call, const Gates& gates,
                                                int threads) {
  if (const SplitKernels* kernels = split_kernels(call.args.x.dtype, call.hidden)) {
    return std::make_unique<SplitGradients>(call, gates, threads, *kernels);
  }
  return std::make_unique<PlainGradients>(call, gates, threads);
}

}  // namespace marey
