#include "ops/recurrent/backward_split.h"

#include <algorithm>

namespace marey {
namespace {

constexpr int64_t kItem = 2;  // bytes of bfloat16

}  // namespace

SplitGradients::SplitGradients(const BackwardCall& call, const Gates& gates, int threads,
                               const SplitKernels& kernels)
    : ChunkGradients(call, gates),
      kernels_(kernels),
      tasks_(threads, parts(gates.ih_count) + parts(gates.hh_count) + input_parts() +
                          (resets() ? parts(1) : 0)),
      gate_items_(3 * split_depth(call.hidden)),
      row_pitch_(gates.all * gate_items_ + 32),
      column_pitch_(split_pitch(call.chunk_rows)),
      weight_panel_(split_depth(call.hidden) * call.products.lanes * kernels.item_size),
      weight_(call.input_blocks * gates.ih_count * weight_panel_),
      rows_((call.chunk_rows + kSplitRest) * row_pitch_ * kItem),
      columns_((gates.all * call.width + kSplitRest) * column_pitch_ * kItem),
      split_x_(panels(call.input_blocks)),
      split_h_(panels(call.state_blocks)) {
  if (resets()) split_reset_ = panels(call.state_blocks);
}

void SplitGradients::pack(BackwardThread& mine) {
  const View& weight = call_.args.weights.ih;
  const int count = gates_.ih_count;
  for (int64_t block = mine.input_blocks.first; block < mine.input_blocks.second; ++block) {
    for (int gate = 0; gate < count; ++gate) {
      const int of_weight = gates_.ih[static_cast<std::size_t>(gate)];
      // Kernels count panels from block 0 on.
      std::byte* to = weight_.data() + (block * count + gate - block) * weight_panel_;
      kernels_.pack({weight.as<std::byte>() + of_weight * call_.hidden * weight.stride(0),
                     weight.stride(1) / call_.storage, weight.stride(0) / call_.storage, 1,
                     call_.input, call_.hidden, block, block + 1, to});
    }
  }
}

void SplitGradients::prepare(BackwardThread& mine, int64_t begin, int64_t end,
                             const GateRows& gates) {
  const auto* numbers = reinterpret_cast<const float*>(gates.gates);
  const auto [row, row_end] = mine.part(gates.rows);
  for (int gate = 0; gate < gates_.all; ++gate) {
    kernels_.split({numbers + row * gates.pitch + gate * call_.width, gates.pitch, 1, row_end - row,
                    call_.hidden, rows_.data() + (row * row_pitch_ + gate * gate_items_) * kItem,
                    row_pitch_});
  }
  const int64_t columns = gates_.all * call_.width;
  const auto [first, last] = mine.part((columns + 15) / 16);
  const int64_t column = 16 * first;
  kernels_.split({numbers + column, 1, gates.pitch, std::min(16 * last, columns) - column,
                  gates.rows, columns_.data() + column * column_pitch_ * kItem, column_pitch_});

  const RowsOfChunk at = rows_of_chunk(mine, begin, end);
  for (int64_t block = mine.input_blocks.first; block < mine.input_blocks.second; ++block) {
    gather_x(at, block, gates.rows);
    pack_rows(block, gates.rows, panel(x_, block, gates.rows), split_x_);
  }
  for (int64_t block = mine.state_blocks.first; block < mine.state_blocks.second; ++block) {
    gather_h(at, block, gates.rows);
    pack_rows(block, gates.rows, panel(h_, block, gates.rows), split_h_);
    if (resets()) {
      pack_rows(block, gates.rows, panel(reset_, block, call_.chunk_rows), split_reset_);
    }
  }
}

void SplitGradients::pack_rows(int64_t block, int64_t rows, const std::byte* from,
                               const Buffer& to) const {
  const int64_t lanes = call_.products.lanes;
  kernels_.pack({from, 1, lanes, 1, lanes, rows, 0, 1, to.data() + block * rows_panel()});
}

void SplitGradients::add(BackwardThread& mine, int64_t begin, int64_t end, const GateRows& gates) {
  const int64_t rows = gates.rows;
  const RowsOfChunk at = rows_of_chunk(mine, begin, end);
  const int64_t ih = parts(gates_.ih_count);
  const int64_t hh = parts(gates_.hh_count);
  const int64_t inputs = input_parts();
  tasks_.each(mine.team, mine.thread, false, [&](int64_t index) {
    if (index < ih) {
      weight(index, gates_.ih_first, gates_.ih_count, rows, split_x_, call_.input_blocks, grad_ih_);
    } else if (index < ih + hh) {
      weight(index - ih, gates_.hh_first, gates_.hh_count, rows, split_h_, call_.state_blocks,
             grad_hh_);
    } else if (index < ih + hh + inputs) {
      const int64_t first = (index - ih - hh) * kBlocks;
      const Range blocks{first, std::min(first + kBlocks, call_.input_blocks)};
      input(blocks, rows);
      scatter_x(at, blocks, rows);
    } else {
      weight(index - ih - hh - inputs, 0, 1, rows, split_reset_, call_.state_blocks, grad_reset_);
    }
  });
}

void SplitGradients::weight(int64_t part, int first, int count, int64_t rows, const Buffer& panels,
                            int64_t blocks, const Buffer& to) const {
  const int64_t columns = count * call_.width;
  const int64_t column = part * kColumns;
  const std::byte* turned =
      columns_.data() + (first * call_.width + column) * column_pitch_ * kItem;
  for (int64_t block = 0; block < blocks; ++block) {
    kernels_.product({turned, column_pitch_, std::min(kColumns, columns - column), rows,
                      panels.data() + block * rows_panel(),
                      to.data() + (block * columns + column) * call_.products.lanes * call_.real,
                      true});
  }
}

void SplitGradients::input(Range blocks, int64_t rows) const {
  const int count = gates_.ih_count;
  for (int gate = 0; gate < count; ++gate) {
    for (int64_t block = blocks.first; block < blocks.second; ++block) {
      kernels_.product({rows_.data() + (gates_.ih_first + gate) * gate_items_ * kItem, row_pitch_,
                        rows, call_.hidden, weight_.data() + (block * count + gate) * weight_panel_,
                        grad_x_.data() + block * rows * call_.products.lanes * call_.real,
                        gate > 0});
    }
  }
}

}  // namespace marey
