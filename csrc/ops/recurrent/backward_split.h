#pragma once
// The gradients of a chunk by tiles of AMX with split operands. A thread's operands stay in its
// second cache, since tiles wait for the third (170 to 190 GFLOP/s, not 330 to 370): some columns
// of gates times all blocks of inputs, and all rows times some blocks, gate by gate.
#include "ops/recurrent/backward_chunk.h"
#include "ops/recurrent/split_kernels.h"

namespace marey {

class SplitGradients : public ChunkGradients {
 public:
  SplitGradients(const BackwardCall& call, const Gates& gates, int threads,
                 const SplitKernels& kernels);

  void prepare(BackwardThread& mine, int64_t begin, int64_t end, const GateRows& rows) override;
  void add(BackwardThread& mine, int64_t begin, int64_t end, const GateRows& rows) override;

 private:
  static constexpr int64_t kColumns = 256, kBlocks = 4;  // of a task

  void pack(BackwardThread& mine) override;
  // Rows of a block, `from` [row][lanes], as a panel.
  void pack_rows(int64_t block, int64_t rows, const std::byte* from, const Buffer& to) const;

  // The gradient of a weight of `count` gates, from gate `first` on, in parts:
  int64_t parts(int count) const { return (count * call_.width + kColumns - 1) / kColumns; }
  // to [block][count * width][lanes] += turned gradients times panels of rows.
  void weight(int64_t part, int first, int count, int64_t rows, const Buffer& panels,
              int64_t blocks, const Buffer& to) const;
  // The gradients of the inputs, in parts of some blocks.
  int64_t input_parts() const { return (call_.input_blocks + kBlocks - 1) / kBlocks; }
  void input(Range blocks, int64_t rows) const;

  // Panels of rows of inputs or states for `blocks` blocks.
  Buffer panels(int64_t blocks) const { return Buffer(blocks * rows_panel()); }
  int64_t rows_panel() const {
    return split_depth(call_.chunk_rows) * call_.products.lanes * kernels_.item_size;
  }

  const SplitKernels& kernels_;
  SharedBlocks tasks_;
  int64_t gate_items_;  // of bfloat16 in a row
  int64_t row_pitch_, column_pitch_;
  int64_t weight_panel_;
  Buffer weight_;          // [block][gate][split_depth(H)][lanes]
  Buffer rows_, columns_;  // the gradients of a chunk's gates, as they are and turned
  Buffer split_x_, split_h_, split_reset_;
};

}  // namespace marey
