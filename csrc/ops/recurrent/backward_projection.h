#pragma once
// The part of back-propagation through time that an LSTM with a projection adds: from the gradient
// of h = V (o tanh(c)) to that of o tanh(c), and that of V.
#include "ops/recurrent/backward_call.h"

namespace marey {

class ProjectionGradients {
 public:
  explicit ProjectionGradients(const BackwardCall& call);

  // This thread's part of V.
  void pack(BackwardThread& mine) const;
  // The gradient of h of a step, in rows: `grad_y`, and what the step after it added, `product` in
  // panels and `carry` in rows. Whoever calls `back` waits for all threads first.
  void take_states(const BackwardThread& mine, std::size_t chunk, int64_t step, void** grad_y,
                   const std::byte* product, std::byte* carry) const;
  // The gradient of what goes into the projection.
  void back(const BackwardThread& mine, std::size_t chunk, int64_t step) const;
  const std::byte* gradient() const { return product_.data(); }  // panels
  std::byte* no_carry() const { return no_carry_.data(); }

  // The chunk's part of the gradient of V: first all threads pack.
  void pack_states(const BackwardThread& mine, int64_t rows) const;
  void weight(BackwardThread& mine, int64_t begin, int64_t end) const;
  void store() const;

 private:
  std::byte* states_at(std::size_t chunk, int64_t step) const {
    return states_.data() + call_.row_in_chunk(chunk, step) * pitch_ * call_.real;
  }

  const BackwardCall& call_;
  int64_t pitch_;
  Buffer transposed_, grad_;
  Buffer states_, strips_;  // the gradients of h of a chunk
  Buffer output_;           // what goes into the projection, of a chunk
  Buffer product_, no_bias_, no_carry_;
};

}  // namespace marey
