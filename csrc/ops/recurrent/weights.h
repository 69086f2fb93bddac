#pragma once
// The weights of one layer and direction, packed for the kernels once and used by many calls.
#include <atomic>
#include <mutex>
#include <string_view>

#include "core/buffer.h"
#include "ops/recurrent/kernels.h"
#include "ops/recurrent/norm_kernels.h"
#include "ops/recurrent/split_kernels.h"

namespace marey {

// As torch lays them out: gates i, f, g, o (LSTM), r, z, n (GRU), or the only one, below each
// other.
struct WeightViews {
  View ih;                         // (gates * H, I), any strides
  View hh;                         // (gates * H, H), any strides; (gates * H, P) with a projection
  const View* bias_ih = nullptr;   // (gates * H,), or null for zeros
  const View* bias_hh = nullptr;   // the same
  const View* peephole = nullptr;  // LSTM: (3, H), of the gates i, f, o; or null for none
  const View* hr = nullptr;        // LSTM: (P, H), any strides, or null: h is not projected
  // LSTM with layer norm: gains (4 * H,) of the products with x and with h, and gain and bias of
  // the cell state, (2, H). All of them or none.
  const View* norm_ih = nullptr;
  const View* norm_hh = nullptr;
  const View* norm_c = nullptr;

  int64_t hidden() const { return hr != nullptr ? hr->shape[1] : hh.shape[1]; }
  int64_t state() const { return hh.shape[1]; }  // units of h
  int kept(Cell cell) const {
    return cell == Cell::lstm ? LstmKept{hr != nullptr, norm_c != nullptr}.count()
                              : kept_gates(cell);
  }
};

// Throws ValueError and TypeError in the name of `function` unless shapes and types fit each other.
void check_weights(std::string_view function, Cell cell, const WeightViews& views);

// The kernels that would run now.
const RecurrentKernels& recurrent_kernels(DType dtype);
const NormKernels& norm_kernels(DType dtype);
// For products with a depth of so many numbers, or null: then those of recurrent_kernels.
const SplitKernels* split_kernels(DType dtype, int64_t depth);

class CellWeights {
 public:
  // All of one dtype: float32, float64 or bfloat16. Copies what it needs. Throws ValueError and
  // TypeError in the name of `function`.
  CellWeights(std::string_view function, Cell cell, const WeightViews& views);

  Cell cell() const { return cell_; }
  DType dtype() const { return dtype_; }
  DType real() const { return dtype_ == DType::bf16 ? DType::f32 : dtype_; }
  int64_t input() const { return input_; }
  int64_t hidden() const { return hidden_; }
  int64_t state() const { return state_; }  // units of h: H, or P
  int64_t blocks() const { return (hidden_ + kernels_->lanes - 1) / kernels_->lanes; }
  int64_t padded() const { return blocks() * kernels_->lanes; }
  int64_t state_blocks() const { return (state_ + kernels_->lanes - 1) / kernels_->lanes; }
  int kept() const {
    return cell_ == Cell::lstm ? LstmKept{projected(), normed()}.count() : kept_gates(cell_);
  }
  const RecurrentKernels& kernels() const { return *kernels_; }
  const NormKernels& norm_kernels() const { return *norm_kernels_; }
  const SplitKernels* split() const { return split_; }  // that weight_ih is packed for, or null

  const std::byte* ih() const { return ih_.data(); }
  const std::byte* hh() const { return hh_.data(); }
  // weight_hh for the products of `batch` rows of states by split(), or null: then those of hh().
  // Packed when it is first asked for. Of a batch nothing but its size chooses, so that a result
  // does not depend on what else is in it.
  const std::byte* split_hh(int64_t batch) const;
  // The panels of weight_ih and of weight_hh as float32, for products of so many rows at once and
  // so many in all; or null: then those of ih() and hh() (RecurrentKernels::widen). Made when they
  // pay.
  const std::byte* wide_ih(int64_t rows, int64_t total) const {
    return split_ == nullptr ? wide(wide_ih_, ih_, input_, rows, total) : nullptr;
  }
  const std::byte* wide_hh(int64_t batch, int64_t total) const {
    return projected_ || normed_ ? nullptr : wide(wide_hh_, hh_, state_, batch, total);
  }
  const RecurrentKernels& wide_kernels() const { return *wide_kernels_; }  // those of float32
  const std::byte* bias() const { return bias_.data(); }
  const std::byte* peephole() const { return peephole_.data(); }  // null without
  bool projected() const { return projected_; }
  const std::byte* hr() const { return hr_.data(); }  // panels of one gate
  bool normed() const { return normed_; }
  const std::byte* norms() const { return norms_.data(); }  // norm_kernels.h

 private:
  Cell cell_;
  DType dtype_;
  bool projected_, normed_;
  int64_t input_, hidden_, state_;
  const RecurrentKernels* kernels_;  // of the instruction set that the weights are packed for
  const NormKernels* norm_kernels_;  // of the same
  const RecurrentKernels* wide_kernels_;
  const SplitKernels* split_;
  Buffer ih_, hh_, bias_, peephole_, hr_, norms_;
  // Panels that follow from others.
  struct Derived {
    std::once_flag once;
    Buffer panels;
    std::atomic<int64_t> rows = 0;  // that they were asked for
  };
  const std::byte* wide(Derived& to, const Buffer& pairs, int64_t depth, int64_t rows,
                        int64_t total) const;

  mutable Derived split_hh_, wide_ih_, wide_hh_;
};

}  // namespace marey
