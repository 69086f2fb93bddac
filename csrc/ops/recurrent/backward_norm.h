#pragma once
// The part of back-propagation through time that an LSTM with layer norm adds.
#include "ops/recurrent/backward_call.h"

namespace marey {

class NormGradients {
 public:
  explicit NormGradients(const BackwardCall& call);

  // As BackwardKernels::cell, for this thread's rows of a step.
  void take_step(const BackwardThread& mine, const CellBackArgs& step) const;

  // The part of steps [begin, end) in the gradients of gains and peepholes, of this thread's units.
  // `gates`: the gradients of those steps; `c_before`(step, row): where c before a step lies.
  template <class Before>
  void sum(BackwardThread& mine, int64_t begin, int64_t end, const std::byte* gates,
           int64_t gates_pitch, const Before& c_before) const {
    const int64_t rows = call_.steps.offset(end) - call_.steps.offset(begin);
    void** kept = mine.pointers(0, rows);
    void** before = mine.pointers(1, rows);
    int64_t k = 0;
    for (int64_t step = begin; step < end; ++step) {
      for (int64_t row = 0; row < call_.steps.active(step); ++row, ++k) {
        kept[k] = call_.kept_at(step, row);
        before[k] = c_before(step, row);
      }
    }
    sum_rows(mine, rows, gates, gates_pitch, kept, before);
  }

  // `sums`: those of the gates, of NormedGates::cell the bias of c. The gradients of peepholes go
  // to `grad_peephole`, three rows of units.
  void store(const std::byte* sums, std::byte* grad_peephole) const;

 private:
  static constexpr int kSums = 12;  // norm_ih, norm_hh, the gain of c, peepholes

  void sum_rows(const BackwardThread& mine, int64_t rows, const std::byte* gates,
                int64_t gates_pitch, void** kept, void** before) const;

  const BackwardCall& call_;
  LstmKept kept_;
  Buffer norms_, sums_;
};

}  // namespace marey
