#include "ops/recurrent/backward_split.h"

namespace marey {
namespace {

constexpr int64_t kItem = 2;  // bytes of bfloat16

}  // namespace

SplitGradients::SplitGradients(const BackwardCall& call, const SplitKernels& kernels, int gates,
                               int first, int count, const int* order)
    : call_(call),
      kernels_(kernels),
      gates_(gates),
      first_(first),
      count_(count),
      order_(order),
      gate_items_(3 * split_depth(call.hidden)),
      row_pitch_(gates * gate_items_ + 32),
      column_pitch_(split_pitch(call.chunk_rows)),
      weight_panel_(split_depth(call.hidden) * call.products.lanes * kernels.item_size),
      weight_(call.input_blocks * count * weight_panel_),
      rows_((call.chunk_rows + kSplitRest) * row_pitch_ * kItem),
      columns_((gates * call.width + kSplitRest) * column_pitch_ * kItem) {}

void SplitGradients::pack(const BackwardThread& mine) const {
  const View& weight = call_.args.weights.ih;
  for (int64_t block = mine.input_blocks.first; block < mine.input_blocks.second; ++block) {
    for (int gate = 0; gate < count_; ++gate) {
      // Kernels count panels from block 0 on.
      std::byte* to = weight_.data() + (block * count_ + gate - block) * weight_panel_;
      kernels_.pack({weight.as<std::byte>() + order_[gate] * call_.hidden * weight.stride(0),
                     weight.stride(1) / call_.storage, weight.stride(0) / call_.storage, 1,
                     call_.input, call_.hidden, block, block + 1, to});
    }
  }
}

void SplitGradients::split(const BackwardThread& mine, const std::byte* gates, int64_t pitch,
                           int64_t rows) const {
  const auto* numbers = reinterpret_cast<const float*>(gates);
  const auto [row, row_end] = mine.part(rows);
  for (int gate = 0; gate < gates_; ++gate) {
    kernels_.split({numbers + row * pitch + gate * call_.width, pitch, 1, row_end - row,
                    call_.hidden, rows_.data() + (row * row_pitch_ + gate * gate_items_) * kItem,
                    row_pitch_});
  }
  const int64_t columns = gates_ * call_.width;
  const auto [first, last] = mine.part((columns + 15) / 16);
  const int64_t column = 16 * first;
  kernels_.split({numbers + column, 1, pitch, std::min(16 * last, columns) - column, rows,
                  columns_.data() + column * column_pitch_ * kItem, column_pitch_});
}

void SplitGradients::pack_rows(int64_t block, int64_t rows, const std::byte* from,
                               const Buffer& to) const {
  const int64_t lanes = call_.products.lanes;
  kernels_.pack({from, 1, lanes, 1, lanes, rows, 0, 1, to.data() + block * rows_panel()});
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

void SplitGradients::input(int64_t part, int64_t rows, const Buffer& to) const {
  const auto [begin, end] = input_blocks(part);
  for (int gate = 0; gate < count_; ++gate) {
    for (int64_t block = begin; block < end; ++block) {
      kernels_.product({rows_.data() + (first_ + gate) * gate_items_ * kItem, row_pitch_, rows,
                        call_.hidden, weight_.data() + (block * count_ + gate) * weight_panel_,
                        to.data() + block * rows * call_.products.lanes * call_.real, gate > 0});
    }
  }
}

}  // namespace marey
