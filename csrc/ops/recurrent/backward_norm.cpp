#include "ops/recurrent/backward_norm.h"

#include <cstring>

namespace marey {

NormGradients::NormGradients(const BackwardCall& call)
    : call_(call),
      kept_{call.args.weights.hr != nullptr, true},
      norms_(call.zero_numbers(10 * call.units)),
      sums_(call.zero_numbers(kSums * call.units)) {
  const WeightViews& weights = call.args.weights;
  const auto put = [&](const View& view, int64_t offset, int64_t stride, int to) {
    const void* row = view.as<std::byte>() + offset;
    call.kernels.gather({&row, 1, stride / call.storage, call.hidden, 0, call.blocks,
                         norms_.data() + to * call.units * call.real});
  };
  for (int gate = 0; gate < 4; ++gate) {
    const int64_t stride = weights.norm_ih->stride(0);
    put(*weights.norm_ih, gate * call.hidden * stride, stride, gate);
    const int64_t hh_stride = weights.norm_hh->stride(0);
    put(*weights.norm_hh, gate * call.hidden * hh_stride, hh_stride, 4 + gate);
  }
  for (int row = 0; row < 2; ++row) {
    put(*weights.norm_c, row * weights.norm_c->stride(0), weights.norm_c->stride(1), 8 + row);
  }
}

void NormGradients::take_step(const BackwardThread& mine, const CellBackArgs& step) const {
  const auto [first, last] = mine.part(step.rows);
  call_.norm_kernels.back({step, first, last, norms_.data(), kept_});
}

void NormGradients::sum_rows(const BackwardThread& mine, int64_t rows, const std::byte* gates,
                             int64_t gates_pitch, void** kept, void** before) const {
  const auto [first, last] = mine.part(call_.hidden);
  const auto sum = [&](int gate, void** others, int slot, int to) {
    call_.norm_kernels.sums({gates + gate * call_.width * call_.real, gates_pitch, rows, others,
                             slot * kept_pitch(call_.hidden), first, last,
                             sums_.data() + to * call_.units * call_.real});
  };
  for (int gate = 0; gate < 4; ++gate) {
    sum(NormedGates::gates + gate, kept, kept_.from_x() + gate, gate);
    sum(NormedGates::gates + gate, kept, kept_.from_h() + gate, 4 + gate);
  }
  sum(NormedGates::cell, kept, kept_.cell(), 8);
  if (call_.args.weights.peephole == nullptr) return;
  sum(NormedGates::gates, before, 0, 9);
  sum(NormedGates::gates + 1, before, 0, 10);
  sum(NormedGates::gates + 3, kept, 4, 11);
}

void NormGradients::store(const std::byte* sums, std::byte* grad_peephole) const {
  const auto bytes = static_cast<std::size_t>(call_.hidden * call_.real);
  const auto put = [&](const View& to, int64_t row, const std::byte* from) {
    std::memcpy(to.as<std::byte>() + row * call_.hidden * call_.real, from, bytes);
  };
  const auto mine = [&](int row) { return sums_.data() + row * call_.units * call_.real; };
  for (int gate = 0; gate < 4; ++gate) {
    put(call_.args.grad_norm_ih, gate, mine(gate));
    put(call_.args.grad_norm_hh, gate, mine(4 + gate));
  }
  put(call_.args.grad_norm_c, 0, mine(8));
  put(call_.args.grad_norm_c, 1, sums + NormedGates::cell * call_.width * call_.real);
  for (int gate = 0; gate < 3 && call_.args.weights.peephole != nullptr; ++gate) {
    std::memcpy(grad_peephole + gate * call_.units * call_.real, mine(9 + gate), bytes);
  }
}

}  // namespace marey
