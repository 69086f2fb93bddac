#pragma once
// Which rows of a batch are at work at which step.
//
// Sequences of different lengths need no sorting by the caller: they are put in order here, longest
// first, so that the rows of a step are the first `active` ones.
#include <string_view>
#include <vector>

#include "core/view.h"

namespace marey {

class Steps {
 public:
  // `lengths`: N of them in [0, T], or null for all T. Reversed, a sequence is taken from its own
  // last step to its first.
  Steps(std::string_view function, int64_t T, int64_t N, const int64_t* lengths, bool reverse);

  int64_t batch() const { return batch_; }
  int64_t count() const { return count_; }  // steps in which any row is active
  int64_t active(int64_t step) const {
    return ragged() ? active_[static_cast<std::size_t>(step)] : batch_;
  }
  // Rows of all steps before this one; of step count(), all there are.
  int64_t offset(int64_t step) const {
    return ragged() ? offset_[static_cast<std::size_t>(step)] : step * batch_;
  }
  int64_t total() const { return offset(count_); }
  bool ragged() const { return !order_.empty(); }

  // The sequence of a row, and its frame at a step.
  int64_t sequence(int64_t row) const {
    return ragged() ? order_[static_cast<std::size_t>(row)] : row;
  }
  int64_t length(int64_t row) const {
    return ragged() ? length_[static_cast<std::size_t>(row)] : count_;
  }
  int64_t frame(int64_t row, int64_t step) const {
    return reverse_ ? length(row) - 1 - step : step;
  }
  // Where a row's item of a step lies in an array (T, N, ...).
  std::byte* at(const View& view, int64_t row, int64_t step) const {
    return view.as<std::byte>() + frame(row, step) * view.stride(0) +
           sequence(row) * view.stride(1);
  }
  // The first step of the next chunk: as many steps as give about `rows` rows, one at least.
  int64_t chunk_end(int64_t begin, int64_t rows) const;
  // The most rows of any chunk.
  int64_t most_rows(int64_t rows) const;

 private:
  int64_t batch_, count_;
  bool reverse_;
  std::vector<int64_t> order_, length_, active_, offset_;
};

}  // namespace marey
