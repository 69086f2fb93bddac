#include "ops/recurrent/step.h"

#include "core/denormals.h"
#include "ops/recurrent/team.h"

namespace marey {

MAREY_STUB_NO_BF16(select_cell_step, SelectCellStep)

void run_cell_step(std::string_view, const CellStep& step) {
  const int64_t N = step.x.shape[0];
  const int64_t input = step.x.shape[1];
  const int64_t hidden = step.h.shape[1];
  const int64_t storage = item_size(step.x.dtype);
  const int64_t real = step.x.dtype == DType::f64 ? 8 : 4;
  const int64_t units = (hidden + kStepUnits - 1) / kStepUnits;
  const int64_t of_step = N * weight_gates(step.cell) * hidden * (hidden + input);
  // A region of threads costs 2.3 us, in which one thread reads 200 KiB of weights.
  constexpr int64_t kOfThread = 98304;
  const int threads = static_cast<int>(std::clamp<int64_t>(std::min(of_step / kOfThread, units), 1,
                                                           static_cast<int64_t>(num_threads())));

  Workspace workspace;
  const int64_t gates_bytes = 4 * N * kStepUnits * real;
  const bool two_phases = step.cell == Cell::gru_before;
  const int64_t state_items = two_phases ? N * hidden : 0;
  for (const int64_t bytes : {N * input * storage, N * hidden * storage, state_items * storage,
                              state_items * real, threads * gates_bytes}) {
    workspace.reserve(bytes);
  }
  workspace.allocate();
  CellStepArgs args{};
  std::byte* x = workspace.take(N * input * storage);
  std::byte* h = workspace.take(N * hidden * storage);
  args.reset = workspace.take(state_items * storage);
  args.update = workspace.take(state_items * real);
  std::byte* gates = workspace.take(threads * gates_bytes);
  for (int64_t n = 0; n < N; ++n) {
    copy_row(step.x.as<std::byte>() + n * step.x.stride(0), step.x.stride(1), input, storage,
             x + n * input * storage);
    copy_row(step.h.as<std::byte>() + n * step.h.stride(0), step.h.stride(1), hidden, storage,
             h + n * hidden * storage);
  }
  const auto data = [](const View* view) -> const void* {
    return view == nullptr ? nullptr : view->data;
  };
  args.cell = step.cell;
  args.ih = step.weights.ih.data;
  args.hh = step.weights.hh.data;
  args.bias_ih = data(step.weights.bias_ih);
  args.bias_hh = data(step.weights.bias_hh);
  args.peephole = data(step.weights.peephole);
  args.ih_stride = step.weights.ih.stride(0) / storage;
  args.hh_stride = step.weights.hh.stride(0) / storage;
  args.input = input;
  args.hidden = hidden;
  args.batch = N;
  args.x = x;
  args.h = h;
  args.h_next = step.h_next.data;
  args.h_next_stride = step.h_next.stride(0) / storage;
  if (step.c != nullptr) {
    args.c = step.c->data;
    args.c_stride = step.c->stride(0) / real;
    args.c_next = step.c_next->data;
    args.c_next_stride = step.c_next->stride(0) / real;
  }
  const CellStepKernel kernel = select_cell_step_stub.get()(step.x.dtype);
  const auto body = [&](Team* team, int thread, int size) {
    const FlushDenormals flush;
    CellStepArgs mine = args;
    const auto [first, last] = Grid::part(units, thread, size);
    mine.unit_begin = first * kStepUnits;
    mine.unit_end = std::min(last * kStepUnits, hidden);
    mine.gates = gates + thread * gates_bytes;
    for (mine.phase = two_phases ? 0 : 1; mine.phase < 2; ++mine.phase) {
      if (first < last) kernel(mine);
      if (mine.phase == 0 && team != nullptr && !team->barrier(thread)) return;
    }
  };
  if (threads == 1) {
    body(nullptr, 0, 1);
  } else {
    run_team(threads, [&](Team& team, int thread) { body(&team, thread, team.size()); });
  }
}

}  // namespace marey
