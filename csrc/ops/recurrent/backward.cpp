#include "ops/recurrent/backward.h"

#include <algorithm>
#include <cstring>
#include <memory>
#include <optional>

#include "core/denormals.h"
#include "core/error.h"
#include "ops/recurrent/backward_chunk.h"
#include "ops/recurrent/backward_norm.h"
#include "ops/recurrent/backward_projection.h"

namespace marey {

MAREY_STUB_NO_BF16(select_recurrent_backward, SelectBackward)

namespace {

Gates gates_of(Cell cell, bool normed) {
  if (normed) {
    return {NormedGates::count, NormedGates::from_x, 4, {0, 1, 2, 3}, NormedGates::from_h, 4,
            {0, 1, 2, 3}};
  }
  switch (cell) {
    case Cell::lstm:
      return {4, 0, 4, {0, 1, 2, 3}, 0, 4, {0, 1, 2, 3}};
    case Cell::gru:
      return {4, 0, 3, {2, 0, 1, 0}, 1, 3, {0, 1, 2, 0}};
    case Cell::gru_before:
      return {3, 0, 3, {2, 0, 1, 0}, 1, 2, {0, 1, 0, 0}};
    default:
      return {1, 0, 1, {0, 0, 0, 0}, 0, 1, {0, 0, 0, 0}};
  }
}

class Backward {
 public:
  Backward(const BackwardCall& call, int threads)
      : call_(call),
        normed_(call.args.weights.norm_c != nullptr),
        gates_(gates_of(call.args.cell, normed_)),
        pitch_(padded_pitch(gates_.all * call.width)),
        step_blocks_(threads, call.blocks),
        chunks_(chunk_gradients(call, gates_, threads)) {
    const BackwardArgs& args = call.args;
    const Steps& steps = call.steps;
    const int64_t N = steps.batch();
    const int64_t lanes = call.products.lanes;
    const auto real = [&call](int64_t items) { return call.zero_numbers(items); };
    // The large ones, which the threads write before they are read.
    const auto unset = [&call](int64_t items) { return Buffer(items * call.real); };
    hh_t_ = unset(call_.state_blocks * gates_.hh_count * call_.width * lanes);
    // What stands between the units of two gates is never written.
    const bool whole = call_.width == call_.hidden;
    for (Buffer& g : grads_)
      g = whole ? unset(call_.chunk_rows * pitch_) : real(call_.chunk_rows * pitch_);
    product_ = real(call_.state_blocks * N * lanes);
    no_bias_ = real(std::max(call_.blocks, call_.state_blocks) * lanes);
    carry_ = real(N * call_.state_units);
    sums_ = real(gates_.all * call_.width);
    load_real(args.grad_hn, call_.state, call_.state_blocks, carry_);
    if (args.cell == Cell::lstm) {
      dc_ = real(N * call_.units);
      c0_ = real(N * call_.units);
      load_real(args.grad_cn, call_.hidden, call_.blocks, dc_);
      load_real(args.c0, call_.hidden, call_.blocks, c0_);
      if (args.weights.peephole != nullptr) {
        peephole_ = real(3 * call_.units);
        grad_peephole_ = real(3 * call_.units);
        std::vector<const void*> rows;
        for (int gate = 0; gate < 3; ++gate) {
          rows.push_back(args.weights.peephole->as<std::byte>() +
                         gate * args.weights.peephole->stride(0));
        }
        // Panels of one row are rows.
        for (int gate = 0; gate < 3; ++gate) {
          call_.kernels.gather({&rows[static_cast<std::size_t>(gate)], 1,
                                args.weights.peephole->stride(1) / call_.storage, call_.hidden, 0,
                                call_.blocks, peephole_.data() + gate * call_.units * call_.real});
        }
      }
    }
    if (args.weights.hr != nullptr) projection_.emplace(call);
    if (normed_) norms_.emplace(call);
    if (args.cell == Cell::gru_before) reset_t_ = unset(call_.blocks * call_.width * lanes);
  }

  void run(Team& team, int thread) {
    const FlushDenormals flush;
    BackwardThread mine(team, thread, call_);
    pack_weights(mine);
    chunks_->start(mine);
    clear_after_ends(team.size(), thread);
    for (std::size_t chunk = call_.starts.size(); chunk-- > 0;) {
      const int64_t begin = call_.starts[chunk];
      const int64_t end =
          chunk + 1 < call_.starts.size() ? call_.starts[chunk + 1] : call_.steps.count();
      for (int64_t step = end - 1; step >= begin; --step) {
        if (whole_steps()) {
          take_whole_step(mine, chunk, step);
          if (!team.barrier(thread)) return;
          continue;
        }
        add_next(mine.state_blocks, chunk, step);
        if (projection_) {
          projection_->take_states(mine, chunk, step, grads_of_step(mine, step), product_.data(),
                                   carry_.data());
          if (!team.barrier(thread)) return;
          projection_->back(mine, chunk, step);
        }
        // With layer norm a thread takes whole rows.
        if (normed_ && !team.barrier(thread)) return;
        take_step(mine, chunk, step, 0);
        if (!team.barrier(thread)) return;
        if (call_.args.cell == Cell::gru_before) {
          rows_of_gates(chunk, step, call_.steps.offset(step + 1))
              .multiply(call_, mine.blocks, 0, 1, reset_t_, no_bias_, product_,
                        call_.steps.batch());
          take_step(mine, chunk, step, 1);
          if (!team.barrier(thread)) return;
        }
      }
      const GateRows gates = rows_of_gates(chunk, begin, call_.steps.offset(end));
      chunks_->prepare(mine, begin, end, gates);
      const auto [first, last] = mine.part(gates_.all * call_.width / 4);
      call_.kernels.sums({gates.gates, pitch_, gates.rows, 4 * first, 4 * last, sums_.data()});
      if (projection_) projection_->pack_states(mine, gates.rows);
      if (norms_) {
        norms_->sum(mine, begin, end, gates.gates, pitch_,
                    [this](int64_t step, int64_t row) { return cell_before(step, row); });
      }
      if (!team.barrier(thread)) return;
      chunks_->add(mine, begin, end, gates);
      if (projection_) projection_->weight(mine, begin, end);
    }
    add_next(mine.state_blocks, 0, -1);
    if (!team.barrier(thread)) return;
    chunks_->store(mine);
  }

  void store_results() {
    if (projection_) projection_->store();
    // The biases come after the norms.
    const int ih_first = normed_ ? NormedGates::gates : gates_.ih_first;
    const int hh_first = normed_ ? NormedGates::gates : gates_.hh_first;
    store_bias(call_.args.grad_bias_ih, gates_.ih.data(), ih_first, gates_.ih_count);
    store_bias(call_.args.grad_bias_hh, gates_.hh.data(), hh_first, gates_.hh_count);
    if (norms_) norms_->store(sums_.data(), grad_peephole_.data());
    if (call_.args.cell == Cell::gru_before) {
      const int n = 2;
      store_bias(call_.args.grad_bias_hh, &n, 0, 1);
    }
    store_states();
    if (peephole_.data() != nullptr) {
      for (int gate = 0; gate < 3; ++gate) {
        std::memcpy(call_.args.grad_peephole.as<std::byte>() + gate * call_.hidden * call_.real,
                    grad_peephole_.data() + gate * call_.units * call_.real,
                    static_cast<std::size_t>(call_.hidden * call_.real));
      }
    }
  }

 private:
  using Range = BackwardThread::Range;

  void load_real(const View* state, int64_t count, int64_t blocks, Buffer& to) {
    if (state == nullptr) return;
    const bool narrow = item_size(state->dtype) < call_.real;
    for (int64_t row = 0; row < call_.steps.batch(); ++row) {
      const void* from = state->as<std::byte>() + call_.steps.sequence(row) * state->stride(0);
      // Of storage (h) or of the type of the computation (c).
      const BackwardKernels& kernels = narrow ? call_.kernels : call_.real_kernels;
      kernels.gather({&from, 1, state->stride(1) / item_size(state->dtype), count, 0, blocks,
                      to.data() + row * blocks * call_.products.lanes * call_.real});
    }
  }

  void pack_weights(BackwardThread& mine) {
    const WeightViews& weights = call_.args.weights;
    pack_columns(call_, mine, weights.hh, gates_.hh.data(), gates_.hh_count, mine.state_blocks,
                 hh_t_);
    if (projection_) projection_->pack(mine);
    if (call_.args.cell == Cell::gru_before) {
      const int n = 2;
      pack_columns(call_, mine, weights.hh, &n, 1, mine.blocks, reset_t_);
    }
  }

  std::byte* gates_at(std::size_t chunk, int64_t step) {
    return grads_[chunk % 2].data() + call_.row_in_chunk(chunk, step) * pitch_ * call_.real;
  }

  // The gradients of the gates of a chunk from a step on, up to the row `end` of all.
  GateRows rows_of_gates(std::size_t chunk, int64_t step, int64_t end) {
    return {gates_at(chunk, step), pitch_, end - call_.steps.offset(step)};
  }

  // What the gates of the step after this one add to the gradient of h.
  void add_next(Range blocks, std::size_t chunk, int64_t step) {
    const int64_t next = step + 1;
    const int64_t rows = next < call_.steps.count() ? call_.steps.active(next) : 0;
    const int64_t all = call_.steps.batch();
    for (int64_t block = blocks.first; block < blocks.second; ++block) {
      std::memset(product_.data() + (block * all + rows) * call_.products.lanes * call_.real, 0,
                  static_cast<std::size_t>((all - rows) * call_.products.lanes * call_.real));
    }
    if (rows == 0) return;
    const bool later = chunk + 1 < call_.starts.size() && next == call_.starts[chunk + 1];
    rows_of_gates(later ? chunk + 1 : chunk, next, call_.steps.offset(next + 1))
        .multiply(call_, blocks, gates_.hh_first, gates_.hh_count, hh_t_, no_bias_, product_, all);
  }

  void** grads_of_step(BackwardThread& mine, int64_t step) {
    if (call_.args.grad_y == nullptr) return nullptr;
    void** grad_y = mine.pointers(1, call_.steps.active(step));
    for (int64_t row = 0; row < call_.steps.active(step); ++row) {
      grad_y[row] = call_.steps.at(*call_.args.grad_y, row, step);
    }
    return grad_y;
  }

  // c before a step, or h for what is no LSTM.
  std::byte* cell_before(int64_t step, int64_t row) {
    return step == 0 ? c0_.data() + row * call_.units * call_.real
                     : call_.kept_at(step - 1, row) + 4 * kept_pitch(call_.hidden) * call_.real;
  }

  // Whether a block's part of a step needs the others' parts of the step after it alone.
  bool whole_steps() const {
    return !projection_ && !norms_ && call_.args.cell != Cell::gru_before;
  }
  void take_whole_step(BackwardThread& mine, std::size_t chunk, int64_t step) {
    CellBackArgs args = step_args(mine, chunk, step, 0);
    step_blocks_.each(mine.team, mine.thread, false, [&](int64_t block) {
      fetch(args, block);
      add_next({block, block + 1}, chunk, step);
      args.block_begin = block;
      args.block_end = block + 1;
      call_.kernels.cell(args);
    });
  }

  // Into the second cache while the product runs: what the cell reads and writes in memory, short
  // pieces far apart.
  void fetch(const CellBackArgs& args, int64_t block) const {
    const auto fetch_piece = [&](const void* row, int64_t item) {
      const int64_t bytes = call_.products.lanes * item;
      const auto* piece = static_cast<const std::byte*>(row) + block * bytes;
      for (int64_t byte = 0; byte < bytes; byte += 64) __builtin_prefetch(piece + byte, 0, 2);
      // GCC drops calls of functions that do nothing but this.
      asm volatile("");
    };
    const int kept = call_.args.weights.kept(args.cell);
    const int64_t item_before = args.cell == Cell::lstm ? call_.real : call_.storage;
    for (int64_t row = 0; row < args.rows; ++row) {
      for (int gate = 0; gate < kept; ++gate) {
        fetch_piece(
            static_cast<const std::byte*>(args.kept[row]) + gate * args.kept_pitch * call_.real,
            call_.real);
      }
      fetch_piece(args.c_prev[row], item_before);
      if (args.grad_y != nullptr) fetch_piece(args.grad_y[row], call_.storage);
      for (int gate = 0; gate < gates_.all; ++gate) {
        fetch_piece(static_cast<const std::byte*>(args.gates) +
                        (row * pitch_ + gate * call_.width) * call_.real,
                    call_.real);
      }
    }
  }

  void take_step(BackwardThread& mine, std::size_t chunk, int64_t step, int phase) {
    if (mine.blocks.first == mine.blocks.second && !normed_) return;
    CellBackArgs args = step_args(mine, chunk, step, phase);
    std::tie(args.block_begin, args.block_end) = mine.blocks;
    if (norms_) {
      norms_->take_step(mine, args);
    } else {
      call_.kernels.cell(args);
    }
  }

  // All but which blocks.
  CellBackArgs step_args(BackwardThread& mine, std::size_t chunk, int64_t step, int phase) {
    const int64_t rows = call_.steps.active(step);
    CellBackArgs args{};
    args.cell = call_.args.cell;
    args.phase = phase;
    args.rows = rows;
    args.product = projection_ ? projection_->gradient() : product_.data();
    args.product_rows = call_.steps.batch();
    args.carry = projection_ ? projection_->no_carry() : carry_.data();
    args.dc = dc_.data();
    args.state_pitch = call_.units;
    args.kept_pitch = kept_pitch(call_.hidden);
    args.hidden = call_.hidden;
    args.gates = gates_at(chunk, step);
    args.gates_pitch = pitch_;
    args.peephole = peephole_.data();
    args.grad_peephole = grad_peephole_.data();
    args.units = call_.units;
    args.reset_rows = call_.chunk_rows;
    if (args.cell == Cell::gru_before) {
      args.reset = chunks_->reset(call_.row_in_chunk(chunk, step));
    }
    void** kept = mine.pointers(0, rows);
    void** before = mine.pointers(2, rows);
    void** y = mine.pointers(3, rows);
    const bool lstm = args.cell == Cell::lstm;
    for (int64_t row = 0; row < rows; ++row) {
      kept[row] = call_.kept_at(step, row);
      y[row] = call_.steps.at(call_.args.y, row, step);
      before[row] = lstm ? cell_before(step, row) : call_.state_before(step, row);
    }
    args.kept = kept;
    args.grad_y = projection_ ? nullptr : grads_of_step(mine, step);
    args.c_prev = args.h_prev = before;
    args.y = y;
    return args;
  }

  void clear_after_ends(int threads, int thread) const {
    if (!call_.steps.ragged()) return;
    for (int64_t row = thread; row < call_.steps.batch(); row += threads) {
      for (int64_t t = call_.steps.length(row); t < call_.args.grad_x.shape[0]; ++t) {
        std::memset(call_.args.grad_x.as<std::byte>() + t * call_.args.grad_x.stride(0) +
                        call_.steps.sequence(row) * call_.args.grad_x.stride(1),
                    0, static_cast<std::size_t>(call_.input * call_.storage));
      }
    }
  }

  void store_bias(const View& to, const int* order, int first, int count) {
    for (int gate = 0; gate < count; ++gate) {
      std::memcpy(to.as<std::byte>() + order[gate] * call_.hidden * call_.real,
                  sums_.data() + (first + gate) * call_.width * call_.real,
                  static_cast<std::size_t>(call_.hidden * call_.real));
    }
  }

  void store_states() {
    const int64_t N = call_.steps.batch();
    std::vector<void*> rows(static_cast<std::size_t>(N));
    for (int64_t row = 0; row < N; ++row) {
      rows[static_cast<std::size_t>(row)] =
          call_.args.grad_h0.as<std::byte>() +
          call_.steps.sequence(row) * call_.args.grad_h0.stride(0);
    }
    for (int64_t row = 0; row < N; ++row) {
      for (int64_t unit = 0; unit < call_.state_units; ++unit) {
        const int64_t lanes = call_.products.lanes;
        const int64_t at = (unit / lanes * N + row) * lanes + unit % lanes;
        if (call_.real == 8) {
          reinterpret_cast<double*>(product_.data())[at] +=
              reinterpret_cast<double*>(carry_.data())[row * call_.state_units + unit];
        } else {
          reinterpret_cast<float*>(product_.data())[at] +=
              reinterpret_cast<float*>(carry_.data())[row * call_.state_units + unit];
        }
      }
      if (call_.args.cell == Cell::lstm) {
        std::memcpy(call_.args.grad_c0.as<std::byte>() +
                        call_.steps.sequence(row) * call_.args.grad_c0.stride(0),
                    dc_.data() + row * call_.units * call_.real,
                    static_cast<std::size_t>(call_.hidden * call_.real));
      }
    }
    call_.kernels.scatter({product_.data(), rows.data(), N, call_.state, 0, call_.state_blocks});
  }

  const BackwardCall& call_;
  bool normed_;
  Gates gates_;
  int64_t pitch_;
  SharedBlocks step_blocks_;  // of a step
  std::optional<ProjectionGradients> projection_;
  std::optional<NormGradients> norms_;
  std::unique_ptr<ChunkGradients> chunks_;
  Buffer hh_t_, reset_t_;  // columns of weight_hh
  // Of this chunk and the one before: its first step reads those of the other's first.
  Buffer grads_[2];
  Buffer product_, no_bias_, carry_, dc_, sums_;
  Buffer c0_, peephole_, grad_peephole_;
};

}  // namespace

void run_backward(std::string_view function, const BackwardArgs& args) {
  const Steps steps(function, args.x.shape[0], args.x.shape[1], args.lengths, args.reverse);
  const DType real = args.x.dtype == DType::bf16 ? DType::f32 : args.x.dtype;
  const auto select = select_recurrent_backward_stub.get();
  const BackwardCall call(args, steps, recurrent_kernels(real), *select(args.x.dtype),
                          *select(real), norm_kernels(args.x.dtype));
  const int64_t of_step = steps.batch() * weight_gates(args.cell) * call.hidden * call.hidden;
  const int threads = threads_for(of_step);
  Backward backward(call, threads);
  run_team(threads, [&](Team& team, int thread) { backward.run(team, thread); });
  backward.store_results();
}

}  // namespace marey
