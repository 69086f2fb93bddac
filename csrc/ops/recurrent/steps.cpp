#include "ops/recurrent/steps.h"

#include <algorithm>
#include <numeric>
#include <string>

#include "core/error.h"

namespace marey {

Steps::Steps(std::string_view function, int64_t T, int64_t N, const int64_t* lengths, bool reverse)
    : batch_(N), count_(N == 0 ? 0 : T), reverse_(reverse) {
  if (lengths == nullptr) return;
  for (int64_t n = 0; n < N; ++n) {
    if (lengths[n] < 0 || lengths[n] > T) {
      throw ValueError(function, "lengths", "0 to " + std::to_string(T),
                       std::to_string(lengths[n]));
    }
  }
  if (N == 0) return;
  const auto size = static_cast<std::size_t>(N);
  order_.resize(size);
  std::iota(order_.begin(), order_.end(), int64_t{0});
  std::stable_sort(order_.begin(), order_.end(),
                   [&](int64_t a, int64_t b) { return lengths[a] > lengths[b]; });
  length_.resize(size);
  std::transform(order_.begin(), order_.end(), length_.begin(),
                 [&](int64_t n) { return lengths[n]; });
  count_ = length_[0];
  active_.resize(static_cast<std::size_t>(count_));
  offset_.resize(static_cast<std::size_t>(count_) + 1);
  int64_t rows = N;
  for (int64_t step = 0; step < count_; ++step) {
    while (length_[static_cast<std::size_t>(rows - 1)] <= step) --rows;
    active_[static_cast<std::size_t>(step)] = rows;
    offset_[static_cast<std::size_t>(step) + 1] = offset_[static_cast<std::size_t>(step)] + rows;
  }
}

int64_t Steps::chunk_end(int64_t begin, int64_t rows) const {
  int64_t end = begin + 1;
  if (!ragged()) {
    end = begin + std::max<int64_t>(rows / std::max<int64_t>(batch_, 1), 1);
  } else {
    while (end < count_ && offset(end + 1) - offset(begin) <= rows) ++end;
  }
  return std::min(end, count_);
}

int64_t Steps::most_rows(int64_t rows) const { return std::min(std::max(rows, batch_), total()); }

}  // namespace marey
