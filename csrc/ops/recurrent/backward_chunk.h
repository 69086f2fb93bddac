#pragma once
// The products of back-propagation through time over all rows of a chunk of steps: what it adds to
// the gradients of weight_ih and weight_hh, and the gradients of its inputs.
#include <array>
#include <memory>

#include "ops/recurrent/backward_call.h"

namespace marey {

// Which gates of the gradients' rows belong to which weight, and to which of its gates.
struct Gates {
  int all;                 // in a row
  int ih_first, ih_count;  // those of weight_ih
  std::array<int, 4> ih;   // its gate for each of them
  int hh_first, hh_count;  // those of weight_hh that meet h itself
  std::array<int, 4> hh;
};

class ChunkGradients {
 public:
  ChunkGradients(const BackwardCall& call, const Gates& gates);
  virtual ~ChunkGradients() = default;
  ChunkGradients(const ChunkGradients&) = delete;
  ChunkGradients& operator=(const ChunkGradients&) = delete;

  // All threads of the team call these, one after another. Before the first chunk: packs weight_ih,
  // and clears.
  void start(BackwardThread& mine);
  // Steps [begin, end), whose gates' gradients are `rows`: what the products read,
  virtual void prepare(BackwardThread& mine, int64_t begin, int64_t end, const GateRows& rows) = 0;
  // and behind a barrier the products.
  virtual void add(BackwardThread& mine, int64_t begin, int64_t end, const GateRows& rows) = 0;
  // Behind another one, at the end: to the arrays of the caller.
  void store(BackwardThread& mine);

  // Where r * h of a row of a chunk is to be put, for a GRU that resets before:
  // [block][row][lanes], room for all rows of the largest chunk in each block.
  std::byte* reset(int64_t row) const {
    return reset_.data() + row * call_.products.lanes * call_.real;
  }

 protected:
  using Range = BackwardThread::Range;

  virtual void pack(BackwardThread& mine) = 0;

  bool resets() const { return call_.args.cell == Cell::gru_before; }
  // Room for a gradient of so many gates: [block][gate * width][lanes].
  int64_t items(int64_t blocks, int gates) const {
    return blocks * gates * call_.width * call_.products.lanes;
  }
  // The threads write it before it is read.
  Buffer unset(int64_t numbers) const { return Buffer(numbers * call_.real); }
  const std::byte* panel(const Buffer& panels, int64_t block, int64_t rows) const {
    return panels.data() + block * rows * call_.products.lanes * call_.real;
  }

  // Where a chunk's rows lie: those of x, of its gradient, and of h before them.
  struct RowsOfChunk {
    void **x, **grad_x, **before;
  };
  RowsOfChunk rows_of_chunk(BackwardThread& mine, int64_t begin, int64_t end) const;
  void gather_x(const RowsOfChunk& at, int64_t block, int64_t rows) const;
  void gather_h(const RowsOfChunk& at, int64_t block, int64_t rows) const;
  // The gradients of x to the caller's.
  void scatter_x(const RowsOfChunk& at, Range blocks, int64_t rows) const;

  const BackwardCall& call_;
  const Gates& gates_;
  Buffer grad_ih_, grad_hh_, grad_reset_;
  Buffer x_, h_, reset_, grad_x_;  // of a chunk: [block][row][lanes]

 private:
  void store_weight(BackwardThread& mine, const Buffer& panels, const View& to, const int* order,
                    int count, Range blocks, int64_t depth) const;
};

// By tiles of AMX with split operands where there are some and the type is float32
// (backward_split.h), else by multiply-adds.
std::unique_ptr<ChunkGradients> chunk_gradients(const BackwardCall& call, const Gates& gates,
                                                int threads);

}  // namespace marey
