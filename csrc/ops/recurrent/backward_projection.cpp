#include "ops/recurrent/backward_projection.h"

namespace marey {

ProjectionGradients::ProjectionGradients(const BackwardCall& call)
    : call_(call), pitch_(padded_pitch(call.state_width)) {
  const int64_t lanes = call.products.lanes;
  const int64_t N = call.steps.batch();
  transposed_ = call.zero_numbers(call.blocks * call.state_width * lanes);
  grad_ = call.zero_numbers(call.blocks * call.state_width * lanes);
  states_ = call.zero_numbers(call.chunk_rows * pitch_);
  strips_ = call.zero_numbers(call.chunk_rows * call.state_width);
  output_ = call.zero_numbers(call.blocks * call.chunk_rows * lanes);
  product_ = call.zero_numbers(call.blocks * N * lanes);
  no_bias_ = call.zero_numbers(call.units);
  no_carry_ = call.zero_numbers(N * call.units);
}

void ProjectionGradients::pack(BackwardThread& mine) const {
  const View& weight = *call_.args.weights.hr;
  void** rows = mine.pointers(0, call_.state_width);
  std::fill(rows, rows + call_.state_width, nullptr);
  for (int64_t unit = 0; unit < call_.state; ++unit) {
    rows[unit] = weight.as<std::byte>() + unit * weight.stride(0);
  }
  call_.kernels.gather({rows, call_.state_width, weight.stride(1) / call_.storage, call_.hidden,
                        mine.blocks.first, mine.blocks.second, transposed_.data()});
}

void ProjectionGradients::take_states(const BackwardThread& mine, std::size_t chunk, int64_t step,
                                      void** grad_y, const std::byte* product,
                                      std::byte* carry) const {
  CellBackArgs args{};
  args.cell = Cell::linear;
  args.rows = call_.steps.active(step);
  std::tie(args.block_begin, args.block_end) = mine.state_blocks;
  if (args.block_begin == args.block_end) return;
  args.product = product;
  args.product_rows = call_.steps.batch();
  args.carry = carry;
  args.state_pitch = call_.state_units;
  args.hidden = call_.state;
  args.gates = states_at(chunk, step);
  args.gates_pitch = pitch_;
  args.grad_y = grad_y;
  call_.kernels.cell(args);
}

void ProjectionGradients::back(const BackwardThread& mine, std::size_t chunk, int64_t step) const {
  call_.products.project({call_.steps.active(step), states_at(chunk, step), pitch_,
                          transposed_.data(), call_.state_width, no_bias_.data(), product_.data(),
                          call_.steps.batch() * call_.products.lanes, 1, 1, mine.blocks.first,
                          mine.blocks.second});
}

void ProjectionGradients::pack_states(const BackwardThread& mine, int64_t rows) const {
  const auto [first, last] = mine.part(call_.state_width / 4);
  call_.kernels.strips({states_.data(), pitch_, rows, 4 * first, 4 * last, strips_.data()});
}

void ProjectionGradients::weight(BackwardThread& mine, int64_t begin, int64_t end) const {
  const int64_t rows = call_.steps.offset(end) - call_.steps.offset(begin);
  void** outputs = mine.pointers(2, rows);
  int64_t k = 0;
  for (int64_t step = begin; step < end; ++step) {
    for (int64_t row = 0; row < call_.steps.active(step); ++row, ++k) {
      outputs[k] =
          call_.kept_at(step, row) + LstmKept::output * kept_pitch(call_.hidden) * call_.real;
    }
  }
  const auto [first, last] = mine.blocks;
  call_.real_kernels.gather({outputs, rows, 1, call_.hidden, first, last, output_.data()});
  call_.kernels.weight(
      {strips_.data(), rows, call_.state_width, output_.data(), first, last, grad_.data()});
}

void ProjectionGradients::store() const {
  const View& to = call_.args.grad_hr;
  std::vector<void*> rows(static_cast<std::size_t>(call_.state_width), nullptr);
  for (int64_t unit = 0; unit < call_.state; ++unit) {
    rows[static_cast<std::size_t>(unit)] = to.as<std::byte>() + unit * to.stride(0);
  }
  call_.real_kernels.scatter(
      {grad_.data(), rows.data(), call_.state_width, call_.hidden, 0, call_.blocks});
}

}  // namespace marey
