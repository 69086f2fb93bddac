#pragma once
// The weights of one layer and direction, packed for the kernels once and used by many calls.
#include <string_view>

#include "core/buffer.h"
#include "ops/recurrent/kernels.h"

namespace marey {

// As torch lays them out: gates i, f, g, o (LSTM), r, z, n (GRU), or the only one, below each
// other.
struct WeightViews {
  View ih;                         // (gates * H, I), any strides
  View hh;                         // (gates * H, H), any strides
  const View* bias_ih = nullptr;   // (gates * H,), or null for zeros
  const View* bias_hh = nullptr;   // the same
  const View* peephole = nullptr;  // LSTM: (3, H), of the gates i, f, o; or null for none
};

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
  int64_t blocks() const { return (hidden_ + kernels_->lanes - 1) / kernels_->lanes; }
  int64_t padded() const { return blocks() * kernels_->lanes; }
  const RecurrentKernels& kernels() const { return *kernels_; }

  const std::byte* ih() const { return ih_.data(); }
  const std::byte* hh() const { return hh_.data(); }
  const std::byte* bias() const { return bias_.data(); }
  const std::byte* peephole() const { return peephole_.data(); }  // null without

 private:
  Cell cell_;
  DType dtype_;
  int64_t input_, hidden_;
  const RecurrentKernels* kernels_;  // of the instruction set that the weights are packed for
  Buffer ih_, hh_, bias_, peephole_;
};

}  // namespace marey
