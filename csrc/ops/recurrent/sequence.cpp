#include "ops/recurrent/sequence.h"

#include <algorithm>
#include <cstring>
#include <string>

#include "core/bfloat16.h"
#include "core/denormals.h"
#include "core/error.h"
#include "core/parallel.h"
#include "ops/recurrent/team.h"

namespace marey {
namespace {

// Rows whose input product is taken at once: a multiple of every tile's rows. Tiles of AMX are so
// fast that panels from the third cache must serve more (a thread's GFLOP/s, 512 units: 244 with 96
// rows, 317 with 192).
constexpr int64_t kChunkRows = 96, kSplitChunkRows = 192;
// Tasks for each thread from which on they are taken one by one: fewer would not come out more
// even.
constexpr int64_t kSharedTasks = 6;
// Rows of a task of a step, where there are too few blocks of units alone: a tile's. bfloat16 has
// larger tiles, which would be cut.
constexpr int64_t kTaskRows = 12;
// The same of products by tiles of AMX, with the state and with inputs.
constexpr int64_t kSplitStepRows = 32, kSplitTaskRows = 64;

void check(std::string_view function, const CellWeights& weights, const SequenceArgs& args) {
  const View& x = args.x;
  if (x.dtype != weights.dtype()) {
    throw TypeError(function, "x", name(weights.dtype()), name(x.dtype));
  }
  const int64_t T = x.shape[0];
  const int64_t N = x.shape[1];
  const auto check_state = [&](const char* argument, const View& state, DType dtype,
                               int64_t units) {
    if (state.dtype != dtype) throw TypeError(function, argument, name(dtype), name(state.dtype));
    const Shape expected{2, {N, units}};
    if (!(state.shape == expected)) {
      throw ValueError(function, argument, "shape " + to_string(expected), to_string(state.shape));
    }
  };
  if (args.h0 != nullptr) check_state("h0", *args.h0, weights.dtype(), weights.state());
  if (args.c0 != nullptr) check_state("c0", *args.c0, weights.real(), weights.hidden());
  const Shape expected{3, {T, N, weights.state()}};
  if (!(args.y.shape == expected)) {
    throw ValueError(function, "out", "shape " + to_string(expected), to_string(args.y.shape));
  }
}

// Everything that the threads of a call share.
class Sequence {
 public:
  Sequence(const CellWeights& weights, const SequenceArgs& args, const Steps& steps, int threads)
      : weights_(weights),
        kernels_(weights.kernels()),
        args_(args),
        steps_(steps),
        storage_(item_size(weights.dtype())),
        real_(item_size(weights.real())),
        split_(weights.split()),
        // Where sequences end one after another, most steps fill their tiles by a half.
        split_hh_(steps.ragged() ? nullptr : weights.split_hh(steps.batch())),
        wide_hh_(weights.wide_hh(steps.batch(), steps.total())),
        state_item_(wide_hh_ != nullptr ? real_ : storage_),
        x_pitch_(split_ != nullptr ? split_pitch(weights.input()) : padded_pitch(weights.input())),
        h_pitch_(padded_pitch(weights.state_blocks() * weights.kernels().lanes)),
        split_h_pitch_(split_hh_ != nullptr ? split_pitch(weights.state()) : 0),
        output_pitch_(padded_pitch(weights.padded())),
        rows_wanted_(split_ != nullptr ? kSplitChunkRows : kChunkRows),
        chunk_rows_(steps.most_rows(rows_wanted_)),
        wide_ih_(weights.wide_ih(chunk_rows_, steps.total())),
        gates_(panel_gates(weights.cell())),
        task_rows_(split_hh_ != nullptr ? kSplitStepRows : kTaskRows),
        row_tasks_(pairs() ? 1 : row_tasks(weights, steps.batch(), task_rows_, threads)),
        project_row_tasks_(split_ == nullptr
                               ? row_tasks_
                               : row_tasks(weights, chunk_rows_, kSplitTaskRows, threads)),
        shared_(threads > 1 && weights.blocks() * row_tasks_ >= kSharedTasks * threads),
        project_tasks_(threads, weights.blocks() * project_row_tasks_),
        step_tasks_(threads, weights.blocks() * row_tasks_) {
    const bool lstm = weights.cell() == Cell::lstm;
    const int64_t N = steps.batch();
    const int64_t x_bytes = (chunk_rows_ + (split_ != nullptr ? kSplitRest : 0)) * x_row_bytes();
    const int64_t pre_bytes = weights.blocks() * gates_ * gate_stride() * real_;
    const int64_t h_bytes = N * h_pitch_ * state_item_;
    const int64_t split_h_bytes = split_hh_ != nullptr ? (N + kSplitRest) * split_h_row_bytes() : 0;
    const int64_t c_bytes = lstm ? N * weights.padded() * real_ : 0;
    const int64_t reset_bytes = weights.cell() == Cell::gru_before ? h_bytes : 0;
    const int64_t row_bytes = N * weights.kernels().lanes * real_;
    const int64_t output_bytes = weights.projected() ? N * output_pitch_ * storage_ : 0;
    const int64_t sums_bytes = weights.projected() ? weights.state_blocks() * row_bytes : 0;
    const int64_t from_h_bytes = weights.normed() ? weights.blocks() * gates_ * row_bytes : 0;
    const int64_t no_bias_bytes =
        weights.normed() ? weights.blocks() * gates_ * weights.kernels().lanes * real_ : 0;
    for (const int64_t bytes :
         {x_bytes, pre_bytes, h_bytes, h_bytes, split_h_bytes, split_h_bytes, c_bytes, reset_bytes,
          output_bytes, sums_bytes, from_h_bytes, no_bias_bytes}) {
      workspace_.reserve(bytes);
    }
    workspace_.allocate();
    x_ = workspace_.take(x_bytes);
    pre_ = workspace_.take(pre_bytes);
    h_[0] = workspace_.take_zeros(h_bytes);
    h_[1] = workspace_.take_zeros(h_bytes);
    split_h_[0] = workspace_.take(split_h_bytes);
    split_h_[1] = workspace_.take(split_h_bytes);
    c_ = workspace_.take_zeros(c_bytes);
    reset_ = workspace_.take_zeros(reset_bytes);
    output_ = workspace_.take_zeros(output_bytes);
    sums_ = workspace_.take(sums_bytes);
    from_h_ = workspace_.take(from_h_bytes);
    no_bias_ = workspace_.take_zeros(no_bias_bytes);
    if (args.h0 != nullptr && wide_hh_ != nullptr) {
      for (int64_t row = 0; row < N; ++row) {
        widen_row(args.h0->as<std::byte>() + steps_.sequence(row) * args.h0->stride(0),
                  args.h0->stride(1), weights.state(), wide_state(0, row));
      }
    } else if (args.h0 != nullptr) {
      load_state(*args.h0, h_[0], h_pitch_, weights.state());
    }
    if (split_hh_ != nullptr) split_state(0, 0, N, 0, weights.state());
    if (lstm && args.c0 != nullptr) {
      load_state(*args.c0, c_, weights.padded(), weights.hidden());
    }
  }

  void run(Team& team, int thread) {
    const FlushDenormals flush;
    const Grid grid(team.size(), weights_.blocks(), steps_.batch());
    const Grid state_grid(team.size(), weights_.state_blocks(), steps_.batch());
    const int64_t rows_of_thread = steps_.batch();
    std::vector<void*> y(static_cast<std::size_t>(rows_of_thread));
    std::vector<void*> kept(args_.kept != nullptr ? static_cast<std::size_t>(rows_of_thread) : 0);
    clear_after_ends(team.size(), thread);
    for (int64_t begin = 0; begin < steps_.count();) {
      const int64_t end = steps_.chunk_end(begin, rows_wanted_);
      pack_input(begin, end, team.size(), thread);
      if (!team.barrier(thread)) return;
      project(begin, end, grid, team, thread);
      if ((shared_ || grid.row_parts() > 1) && !team.barrier(thread)) return;
      for (int64_t step = begin; step < end; ++step) {
        if (weights_.cell() == Cell::gru_before) {
          take_step(begin, step, 0, grid, team, thread, y.data(), kept.data());
          if (!team.barrier(thread)) return;
        }
        if (weights_.normed()) {
          multiply_state(step, grid, thread);
          if (!team.barrier(thread)) return;
          take_normed_step(begin, step, team.size(), thread, y.data(), kept.data());
        } else {
          take_step(begin, step, 1, grid, team, thread, y.data(), kept.data());
        }
        if (!team.barrier(thread)) return;
        if (weights_.projected()) {
          take_projection(step, state_grid, thread, y.data());
          if (!team.barrier(thread)) return;
        }
      }
      begin = end;
    }
  }

  void store_states() {
    const auto bytes = static_cast<std::size_t>(weights_.state() * storage_);
    for (int64_t row = 0; row < steps_.batch(); ++row) {
      std::byte* to = args_.hn.as<std::byte>() + steps_.sequence(row) * args_.hn.stride(0);
      const int64_t length = steps_.length(row);
      if (wide_hh_ != nullptr) {
        const float* const from = wide_state(length, row);
        for (int64_t unit = 0; unit < weights_.state(); ++unit) {
          const bfloat16 item = narrow(from[unit]);
          std::memcpy(to + unit * storage_, &item, sizeof item);
        }
      } else {
        std::memcpy(to, h_[length % 2] + row * h_pitch_ * storage_, bytes);
      }
      if (weights_.cell() == Cell::lstm) {
        std::memcpy(args_.cn.as<std::byte>() + steps_.sequence(row) * args_.cn.stride(0),
                    c_ + row * weights_.padded() * real_,
                    static_cast<std::size_t>(weights_.hidden() * real_));
      }
    }
  }

 private:
  void load_state(const View& state, std::byte* to, int64_t pitch, int64_t units) {
    const int64_t item = item_size(state.dtype);
    for (int64_t row = 0; row < steps_.batch(); ++row) {
      copy_row(state.as<std::byte>() + steps_.sequence(row) * state.stride(0), state.stride(1),
               units, item, to + row * pitch * item);
    }
  }

  float* wide_state(int64_t step, int64_t row) const {
    return reinterpret_cast<float*>(h_[step % 2]) + row * h_pitch_;
  }
  // Whether states are multiplied as pairs, whose tiles are larger.
  bool pairs() const { return real_ != storage_ && wide_hh_ == nullptr; }

  void clear_after_ends(int threads, int thread) const {
    if (!steps_.ragged()) return;
    const int64_t T = args_.y.shape[0];
    const auto bytes = static_cast<std::size_t>(weights_.state() * storage_);
    for (int64_t row = thread; row < steps_.batch(); row += threads) {
      for (int64_t t = steps_.length(row); t < T; ++t) {
        std::memset(args_.y.as<std::byte>() + t * args_.y.stride(0) +
                        steps_.sequence(row) * args_.y.stride(1),
                    0, bytes);
      }
    }
  }

  void pack_input(int64_t begin, int64_t end, int threads, int thread) const {
    if (wide_ih_ != nullptr) {
      each_row(steps_, begin, end, threads, thread, [&](int64_t k, int64_t step, int64_t row) {
        widen_row(steps_.at(args_.x, row, step), args_.x.stride(2), weights_.input(),
                  reinterpret_cast<float*>(x_) + k * x_pitch_);
      });
      return;
    }
    if (split_ == nullptr) {
      pack_rows(steps_, args_.x, begin, end, threads, thread, x_, x_pitch_);
      return;
    }
    const int64_t item_stride = args_.x.stride(2) / storage_;
    each_row(steps_, begin, end, threads, thread, [&](int64_t k, int64_t step, int64_t row) {
      split_->split({reinterpret_cast<const float*>(steps_.at(args_.x, row, step)), 0, item_stride,
                     1, weights_.input(), x_ + k * x_row_bytes(), x_pitch_});
    });
  }

  void project(int64_t begin, int64_t end, const Grid& grid, const Team& team, int thread) {
    const int64_t rows = steps_.offset(end) - steps_.offset(begin);
    const auto [first, last] = shared_ ? std::pair{int64_t{0}, rows} : grid.rows(thread, rows);
    ProjectArgs args{last - first,
                     x_ + first * x_row_bytes(),
                     x_pitch_,
                     wide_ih_ != nullptr ? wide_ih_ : weights_.ih(),
                     weights_.input(),
                     weights_.normed() ? no_bias_ : weights_.bias(),
                     pre_ + first * kernels_.lanes * real_,
                     gate_stride(),
                     weight_gates(weights_.cell()),
                     gates_,
                     0,
                     0};
    if (shared_) {
      project_tasks_.each(team, thread, false, [&](int64_t task) {
        const auto [begin_row, end_row] =
            rows_of_task(task, rows, project_row_tasks_, split_ ? kSplitTaskRows : kTaskRows);
        ProjectArgs part = args;
        part.rows = end_row - begin_row;
        part.a = x_ + begin_row * x_row_bytes();
        part.to = pre_ + begin_row * kernels_.lanes * real_;
        part.block_begin = task / project_row_tasks_;
        part.block_end = part.block_begin + 1;
        if (part.rows > 0) project_input(part);
      });
      return;
    }
    std::tie(args.block_begin, args.block_end) = grid.blocks(thread);
    if (first == last || args.block_begin == args.block_end) return;
    project_input(args);
  }
  void project_input(const ProjectArgs& args) const {
    if (split_ != nullptr) return split_->project(args);
    (wide_ih_ != nullptr ? weights_.wide_kernels() : kernels_).project(args);
  }
  int64_t x_row_bytes() const {
    if (split_ != nullptr) return x_pitch_ * item_size(DType::bf16);
    return x_pitch_ * (wide_ih_ != nullptr ? real_ : storage_);
  }

  void take_step(int64_t chunk, int64_t step, int phase, const Grid& grid, const Team& team,
                 int thread, void** y, void** kept) {
    StepArgs args{};
    args.phase = phase;
    if (shared_) {
      args.row_end = steps_.active(step);
      set_step(args, chunk, step, y, kept);
      step_tasks_.each(team, thread, args.descending, [&](int64_t task) {
        std::tie(args.row_begin, args.row_end) =
            rows_of_task(task, steps_.active(step), row_tasks_, task_rows_);
        args.block_begin = task / row_tasks_;
        args.block_end = args.block_begin + 1;
        if (args.row_begin < args.row_end) step_blocks(step, args);
      });
      return;
    }
    std::tie(args.row_begin, args.row_end) = grid.rows(thread, steps_.active(step));
    std::tie(args.block_begin, args.block_end) = grid.blocks(thread);
    if (args.row_begin == args.row_end || args.block_begin == args.block_end) return;
    set_step(args, chunk, step, y, kept);
    step_blocks(step, args);
  }

  void step_blocks(int64_t step, const StepArgs& args) const {
    if (wide_hh_ != nullptr) return kernels_.step_widened(args);
    if (split_hh_ == nullptr) return kernels_.step(args);
    // Tiles for a block at a time, whose sums and states stay in the first cache.
    StepArgs block = args;
    block.weights = nullptr;  // the gates will have it
    for (int64_t k = args.block_begin; k < args.block_end; ++k) {
      block.block_begin = args.descending ? args.block_begin + args.block_end - 1 - k : k;
      block.block_end = block.block_begin + 1;
      multiply_split(step, block);
      kernels_.step(block);
      const int64_t unit = block.block_begin * kernels_.lanes;
      split_state(step + 1, args.row_begin, args.row_end, unit,
                  std::min(kernels_.lanes, weights_.state() - unit));
    }
  }

  // The products of a block's gates with the state.
  void multiply_split(int64_t step, const StepArgs& args) const {
    const int gates = weight_gates(args.cell);
    const int64_t depth = weights_.state();
    const int64_t panel = split_depth(depth) * kernels_.lanes * split_->item_size;
    auto* sums =
        static_cast<std::byte*>(args.gates) +
        (args.block_begin * gates_ * args.gate_stride + args.row_begin * kernels_.lanes) * real_;
    for (int gate = 0; gate < gates; ++gate) {
      split_->product({split_h_[step % 2] + args.row_begin * split_h_row_bytes(), split_h_pitch_,
                       args.row_end - args.row_begin, depth,
                       split_hh_ + (args.block_begin * gates + gate) * panel,
                       sums + state_gate(args.cell, gate) * args.gate_stride * real_, true});
    }
  }

  // `count` units of a step's states as the parts that tiles multiply.
  void split_state(int64_t step, int64_t row_begin, int64_t row_end, int64_t unit,
                   int64_t count) const {
    const auto* h = reinterpret_cast<const float*>(h_[step % 2]);
    std::byte* to = split_h_[step % 2] + row_begin * split_h_row_bytes();
    split_->split({h + row_begin * h_pitch_ + unit, h_pitch_, 1, row_end - row_begin, count,
                   to + split_depth(unit) * 3 * item_size(DType::bf16), split_h_pitch_});
  }
  int64_t split_h_row_bytes() const { return split_h_pitch_ * item_size(DType::bf16); }

  static int64_t row_tasks(const CellWeights& weights, int64_t rows, int64_t tile, int threads) {
    if (weights.blocks() >= kSharedTasks * threads) return 1;
    return std::max<int64_t>((rows + tile - 1) / tile, 1);
  }
  // Whole tiles, the last task's rows excepted.
  static std::pair<int64_t, int64_t> rows_of_task(int64_t task, int64_t rows, int64_t row_tasks,
                                                  int64_t tile) {
    const int64_t tiles = (rows + tile - 1) / tile;
    const auto [first, last] = Grid::part(tiles, task % row_tasks, row_tasks);
    return {std::min(first * tile, rows), std::min(last * tile, rows)};
  }

  // from_h_ = the products of the gates with the state, without the bias.
  void multiply_state(int64_t step, const Grid& grid, int thread) const {
    const auto [first, last] = grid.rows(thread, steps_.active(step));
    const auto [block_begin, block_end] = grid.blocks(thread);
    if (first == last || block_begin == block_end) return;
    kernels_.project({last - first, h_[step % 2] + first * h_pitch_ * storage_, h_pitch_,
                      weights_.hh(), weights_.state(), no_bias_,
                      from_h_ + first * kernels_.lanes * real_, steps_.batch() * kernels_.lanes,
                      gates_, gates_, block_begin, block_end});
  }

  // Rows are shared out, whose statistics need all units.
  void take_normed_step(int64_t chunk, int64_t step, int threads, int thread, void** y,
                        void** kept) const {
    NormStepArgs args{};
    std::tie(args.step.row_begin, args.step.row_end) =
        Grid::part(steps_.active(step), thread, threads);
    if (args.step.row_begin == args.step.row_end) return;
    set_step(args.step, chunk, step, y, kept);
    args.blocks = weights_.blocks();
    args.from_h = from_h_;
    args.from_h_stride = steps_.batch() * kernels_.lanes;
    args.bias = weights_.bias();
    args.norms = weights_.norms();
    args.kept = {weights_.projected(), true};
    weights_.norm_kernels().step(args);
  }

  // h of the next step from what the cells put out.
  void take_projection(int64_t step, const Grid& grid, int thread, void** y) const {
    StepArgs args{};
    args.cell = Cell::linear;
    std::tie(args.row_begin, args.row_end) = grid.rows(thread, steps_.active(step));
    std::tie(args.block_begin, args.block_end) = grid.blocks(thread);
    if (args.row_begin == args.row_end || args.block_begin == args.block_end) return;
    args.h = output_;
    args.h_pitch = output_pitch_;
    args.h_next = h_[(step + 1) % 2];
    args.next_pitch = h_pitch_;
    args.weights = weights_.hr();
    args.depth = weights_.hidden();
    args.gates = sums_;
    args.gate_stride = steps_.batch() * kernels_.lanes;
    args.hidden = weights_.state();
    args.y = y;
    for (int64_t row = args.row_begin; row < args.row_end; ++row) {
      y[row] = steps_.at(args_.y, row, step);
    }
    const auto rows = static_cast<std::size_t>(args.row_end - args.row_begin);
    for (int64_t block = args.block_begin; block < args.block_end; ++block) {
      const int64_t first = block * args.gate_stride + args.row_begin * kernels_.lanes;
      std::memset(sums_ + first * real_, 0,
                  rows * static_cast<std::size_t>(kernels_.lanes * real_));
    }
    kernels_.step(args);
  }

  // All but which rows and blocks.
  void set_step(StepArgs& args, int64_t chunk, int64_t step, void** y, void** kept) const {
    args.cell = weights_.cell();
    args.descending = step % 2 != 0;
    args.h = h_[step % 2];
    args.reset = reset_;
    args.h_pitch = h_pitch_;
    args.h_next = weights_.projected() ? output_ : h_[(step + 1) % 2];
    args.next_pitch = weights_.projected() ? output_pitch_ : h_pitch_;
    args.c = c_;
    args.c_pitch = weights_.padded();
    args.weights = wide_hh_ != nullptr ? wide_hh_ : weights_.hh();
    args.depth = weights_.state();
    const int64_t before = steps_.offset(step) - steps_.offset(chunk);
    args.gates = pre_ + before * kernels_.lanes * real_;
    args.gate_stride = gate_stride();
    args.hidden = weights_.hidden();
    args.peephole = weights_.peephole();
    if (!weights_.projected()) {
      args.y = y;
      for (int64_t row = args.row_begin; row < args.row_end; ++row) {
        y[row] = steps_.at(args_.y, row, step);
      }
    }
    if (args_.kept != nullptr && weights_.kept() != 0) {
      args.kept = kept;
      args.keep_output = weights_.projected();
      args.kept_pitch = kept_pitch(weights_.hidden());
      const int64_t bytes = weights_.kept() * args.kept_pitch * real_;
      for (int64_t row = args.row_begin; row < args.row_end; ++row) {
        kept[row] = args_.kept + (steps_.offset(step) + row) * bytes;
      }
    }
  }

  int64_t gate_stride() const { return chunk_rows_ * kernels_.lanes; }

  const CellWeights& weights_;
  const RecurrentKernels& kernels_;
  const SequenceArgs& args_;
  const Steps& steps_;
  int64_t storage_, real_;
  const SplitKernels* split_;  // of the input product, or null
  const std::byte* split_hh_;  // of the product with the state, or null
  const std::byte* wide_hh_;   // the same
  int64_t state_item_;         // bytes
  int64_t x_pitch_, h_pitch_, split_h_pitch_, output_pitch_;
  int64_t rows_wanted_, chunk_rows_;  // of a chunk: about, at most
  const std::byte* wide_ih_;          // of the input product, or null
  int gates_;
  int64_t task_rows_;                      // of a step
  int64_t row_tasks_, project_row_tasks_;  // that the rows of a block make
  bool shared_;                            // tasks are taken one by one
  SharedBlocks project_tasks_, step_tasks_;
  Workspace workspace_;
  std::byte *x_, *pre_, *h_[2], *c_, *reset_;
  std::byte* split_h_[2];
  std::byte *output_, *sums_;     // of a projection: what goes into it, and its sums
  std::byte *from_h_, *no_bias_;  // of layer norm
};

}  // namespace

void run_sequence(std::string_view function, const CellWeights& weights, const SequenceArgs& args) {
  check(function, weights, args);
  const Steps steps(function, args.x.shape[0], args.x.shape[1], args.lengths, args.reverse);
  const int64_t of_step =
      steps.batch() * weight_gates(weights.cell()) * weights.hidden() * weights.hidden();
  const int threads = threads_for(of_step);
  Sequence sequence(weights, args, steps, threads);
  run_team(threads, [&](Team& team, int thread) { sequence.run(team, thread); });
  sequence.store_states();
}

}  // namespace marey
