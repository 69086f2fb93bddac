#pragma once
// The products of back-propagation through time over all rows of a chunk, by tiles of AMX with
// split operands: the gradients of the weights, and those of the inputs. A thread's operands stay
// in its second cache, since tiles wait for the third (170 to 190 GFLOP/s, not 330 to 370): some
// columns of gates times all blocks of inputs, and all rows times some blocks, gate by gate.
#include "ops/recurrent/backward_call.h"
#include "ops/recurrent/split_kernels.h"

namespace marey {

class SplitGradients {
 public:
  // Rows of gradients have so many gates; those from `first` on are the `order`ed ones of
  // weight_ih.
  SplitGradients(const BackwardCall& call, const SplitKernels& kernels, int gates, int first,
                 int count, const int* order);

  // Panels of rows of inputs or states for `blocks` blocks.
  Buffer panels(int64_t blocks) const { return Buffer(blocks * rows_panel()); }

  // Before the products, by all threads: this thread's part of weight_ih, once,
  void pack(const BackwardThread& mine) const;
  // that of the gradients of a chunk's gates, as rows and turned,
  void split(const BackwardThread& mine, const std::byte* gates, int64_t pitch, int64_t rows) const;
  // and rows of a block, `from` [row][lanes].
  void pack_rows(int64_t block, int64_t rows, const std::byte* from, const Buffer& to) const;

  // The gradient of a weight of `count` gates, from gate `first` on, in parts.
  int64_t parts(int count) const { return (count * call_.width + kColumns - 1) / kColumns; }
  // to [block][count * width][lanes] += turned gradients times panels of rows.
  void weight(int64_t part, int first, int count, int64_t rows, const Buffer& panels,
              int64_t blocks, const Buffer& to) const;

  // The gradients of the inputs, in parts: panels of `rows` rows.
  int64_t input_parts() const { return (call_.input_blocks + kBlocks - 1) / kBlocks; }
  BackwardThread::Range input_blocks(int64_t part) const {
    return {part * kBlocks, std::min((part + 1) * kBlocks, call_.input_blocks)};
  }
  void input(int64_t part, int64_t rows, const Buffer& to) const;

 private:
  static constexpr int64_t kColumns = 256, kBlocks = 4;

  int64_t rows_panel() const {
    return split_depth(call_.chunk_rows) * call_.products.lanes * kernels_.item_size;
  }

  const BackwardCall& call_;
  const SplitKernels& kernels_;
  int gates_, first_, count_;
  const int* order_;
  int64_t gate_items_;  // of bfloat16 in a row
  int64_t row_pitch_, column_pitch_;
  int64_t weight_panel_;
  Buffer weight_;  // [block][gate][split_depth(H)][lanes]
  Buffer rows_, columns_;
};

}  // namespace marey
