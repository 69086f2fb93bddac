#include "ops/recurrent/backward.h"

#include <algorithm>
#include <array>
#include <cstring>

#include "core/denormals.h"
#include "core/error.h"
#include "ops/recurrent/backward_kernels.h"
#include "ops/recurrent/team.h"

namespace marey {

MAREY_STUB(select_recurrent_backward, SelectBackward)

namespace {

// Rows whose weight gradients are taken at once.
constexpr int64_t kChunkRows = 256;

// Which gates of the gradients' rows belong to which weight, and to which of its gates.
struct Gates {
  int all;                 // in a row
  int ih_first, ih_count;  // those of weight_ih
  std::array<int, 4> ih;   // its gate for each of them
  int hh_first, hh_count;  // those of weight_hh that meet h itself
  std::array<int, 4> hh;
};

Gates gates_of(Cell cell) {
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
  Backward(const BackwardArgs& args, const Steps& steps, const RecurrentKernels& products,
           const BackwardKernels& kernels, const BackwardKernels& real_kernels)
      : args_(args),
        steps_(steps),
        products_(products),
        kernels_(kernels),
        real_kernels_(real_kernels),
        gates_(gates_of(args.cell)),
        storage_(item_size(args.x.dtype)),
        real_(args.x.dtype == DType::f64 ? 8 : 4),
        hidden_(args.weights.hh.shape[1]),
        input_(args.weights.ih.shape[1]),
        width_(gate_width(hidden_)),
        blocks_((hidden_ + products.lanes - 1) / products.lanes),
        input_blocks_((input_ + products.lanes - 1) / products.lanes),
        units_(blocks_ * products.lanes),
        pitch_(padded_pitch(gates_.all * width_)),
        chunk_rows_(std::max<int64_t>(steps.most_rows(kChunkRows), 1)) {
    for (int64_t begin = 0; begin < steps.count();) {
      starts_.push_back(begin);
      begin = steps.chunk_end(begin, kChunkRows);
    }
    const int64_t N = steps.batch();
    const int64_t lanes = products.lanes;
    const auto real = [this](int64_t items) { return zeros(items * real_); };
    hh_t_ = real(blocks_ * gates_.hh_count * width_ * lanes);
    ih_t_ = real(input_blocks_ * gates_.ih_count * width_ * lanes);
    grad_ih_ = real(input_blocks_ * gates_.ih_count * width_ * lanes);
    grad_hh_ = real(blocks_ * gates_.hh_count * width_ * lanes);
    for (Buffer& g : grads_) g = real(chunk_rows_ * pitch_);
    strips_ = real(chunk_rows_ * gates_.all * width_);
    x_ = real(input_blocks_ * chunk_rows_ * lanes);
    grad_x_ = real(input_blocks_ * chunk_rows_ * lanes);
    h_ = real(blocks_ * chunk_rows_ * lanes);
    product_ = real(blocks_ * N * lanes);
    no_bias_ = real(std::max(blocks_, input_blocks_) * lanes);
    carry_ = real(N * units_);
    sums_ = real(gates_.all * width_);
    load_real(args.grad_hn, carry_);
    h0_ = zeros(N * hidden_ * storage_);
    if (args.h0 != nullptr) {
      for (int64_t row = 0; row < N; ++row) {
        copy_row(args.h0->as<std::byte>() + steps.sequence(row) * args.h0->stride(0),
                 args.h0->stride(1), hidden_, storage_, h0_.data() + row * hidden_ * storage_);
      }
    }
    if (args.cell == Cell::lstm) {
      dc_ = real(N * units_);
      c0_ = real(N * units_);
      load_real(args.grad_cn, dc_);
      load_real(args.c0, c0_);
      if (args.weights.peephole != nullptr) {
        peephole_ = real(3 * units_);
        grad_peephole_ = real(3 * units_);
        std::vector<const void*> rows;
        for (int gate = 0; gate < 3; ++gate) {
          rows.push_back(args.weights.peephole->as<std::byte>() +
                         gate * args.weights.peephole->stride(0));
        }
        // Panels of one row are rows.
        for (int gate = 0; gate < 3; ++gate) {
          kernels_.gather({&rows[static_cast<std::size_t>(gate)], 1,
                           args.weights.peephole->stride(1) / storage_, hidden_, 0, blocks_,
                           peephole_.data() + gate * units_ * real_});
        }
      }
    }
    if (args.cell == Cell::gru_before) {
      reset_t_ = real(blocks_ * width_ * lanes);
      grad_reset_ = real(blocks_ * width_ * lanes);
      reset_ = real(blocks_ * chunk_rows_ * lanes);
    }
  }

  void run(Team& team, int thread) {
    const FlushDenormals flush;
    Mine mine{team,
              thread,
              Grid::part(blocks_, thread, team.size()),
              Grid::part(input_blocks_, thread, team.size()),
              {}};
    pack_weights(mine);
    clear_after_ends(team.size(), thread);
    for (std::size_t chunk = starts_.size(); chunk-- > 0;) {
      const int64_t begin = starts_[chunk];
      const int64_t end = chunk + 1 < starts_.size() ? starts_[chunk + 1] : steps_.count();
      for (int64_t step = end - 1; step >= begin; --step) {
        add_next(mine, chunk, step);
        take_step(mine, chunk, step, 0);
        if (!team.barrier(thread)) return;
        if (args_.cell == Cell::gru_before) {
          const int64_t rows = steps_.active(step);
          multiply(mine.blocks, rows, gates_at(chunk, step), 0, 1, reset_t_, product_,
                   steps_.batch());
          take_step(mine, chunk, step, 1);
          if (!team.barrier(thread)) return;
        }
      }
      const int64_t rows = steps_.offset(end) - steps_.offset(begin);
      const auto [first, last] = Grid::part(gates_.all * width_ / 4, thread, team.size());
      std::byte* gates = grads_[chunk % 2].data();
      kernels_.strips({gates, pitch_, rows, 4 * first, 4 * last, strips_.data()});
      kernels_.sums({gates, pitch_, rows, 4 * first, 4 * last, sums_.data()});
      if (!team.barrier(thread)) return;
      weight_gradients(mine, chunk, begin, end);
    }
    add_next(mine, 0, -1);
  }

  void store_results() {
    store_weight(grad_ih_, args_.grad_ih, gates_.ih.data(), gates_.ih_count, input_blocks_, input_);
    store_weight(grad_hh_, args_.grad_hh, gates_.hh.data(), gates_.hh_count, blocks_, hidden_);
    if (args_.cell == Cell::gru_before) {
      const int n = 2;
      store_weight(grad_reset_, args_.grad_hh, &n, 1, blocks_, hidden_);
    }
    store_bias(args_.grad_bias_ih, gates_.ih.data(), gates_.ih_first, gates_.ih_count);
    store_bias(args_.grad_bias_hh, gates_.hh.data(), gates_.hh_first, gates_.hh_count);
    if (args_.cell == Cell::gru_before) {
      const int n = 2;
      store_bias(args_.grad_bias_hh, &n, 0, 1);
    }
    store_states();
    if (peephole_.data() != nullptr) {
      for (int gate = 0; gate < 3; ++gate) {
        std::memcpy(args_.grad_peephole.as<std::byte>() + gate * hidden_ * real_,
                    grad_peephole_.data() + gate * units_ * real_,
                    static_cast<std::size_t>(hidden_ * real_));
      }
    }
  }

 private:
  using Range = std::pair<int64_t, int64_t>;
  struct Mine {
    Team& team;
    int thread;
    Range blocks, input_blocks;
    std::vector<void*> rows[4];

    void** pointers(int list, int64_t count) {
      auto& chosen = rows[list];
      if (static_cast<int64_t>(chosen.size()) < count) {
        chosen.resize(static_cast<std::size_t>(count));
      }
      return chosen.data();
    }
  };

  void load_real(const View* state, Buffer& to) {
    if (state == nullptr) return;
    const bool narrow = item_size(state->dtype) < real_;
    for (int64_t row = 0; row < steps_.batch(); ++row) {
      const void* from = state->as<std::byte>() + steps_.sequence(row) * state->stride(0);
      // Of storage (h) or of the type of the computation (c).
      const BackwardKernels& kernels = narrow ? kernels_ : real_kernels_;
      kernels.gather({&from, 1, state->stride(1) / item_size(state->dtype), hidden_, 0, blocks_,
                      to.data() + row * units_ * real_});
    }
  }

  // Rows of a weight by the order of the gates' gradients, as panels of its columns.
  void pack_weight(Mine& mine, const View& weight, const int* order, int count, Range blocks,
                   Buffer& to) {
    void** rows = mine.pointers(0, count * width_);
    std::fill(rows, rows + count * width_, nullptr);
    for (int gate = 0; gate < count; ++gate) {
      for (int64_t unit = 0; unit < hidden_; ++unit) {
        rows[gate * width_ + unit] =
            weight.as<std::byte>() + (order[gate] * hidden_ + unit) * weight.stride(0);
      }
    }
    kernels_.gather({rows, count * width_, weight.stride(1) / storage_, weight.shape[1],
                     blocks.first, blocks.second, to.data()});
  }

  void pack_weights(Mine& mine) {
    const WeightViews& weights = args_.weights;
    pack_weight(mine, weights.hh, gates_.hh.data(), gates_.hh_count, mine.blocks, hh_t_);
    pack_weight(mine, weights.ih, gates_.ih.data(), gates_.ih_count, mine.input_blocks, ih_t_);
    if (args_.cell == Cell::gru_before) {
      const int n = 2;
      pack_weight(mine, weights.hh, &n, 1, mine.blocks, reset_t_);
    }
  }

  std::byte* gates_at(std::size_t chunk, int64_t step) {
    const int64_t row = steps_.offset(step) - steps_.offset(starts_[chunk]);
    return grads_[chunk % 2].data() + row * pitch_ * real_;
  }

  // to = rows of `count` gates' gradients, from gate `first` on, times packed weights.
  void multiply(Range blocks, int64_t rows, const std::byte* gates, int first, int count,
                const Buffer& weights, Buffer& to, int64_t to_rows) {
    products_.project({rows, gates + first * width_ * real_, pitch_, weights.data(), count * width_,
                       no_bias_.data(), to.data(), to_rows * products_.lanes, 1, 1, blocks.first,
                       blocks.second});
  }

  // What the gates of the step after this one add to the gradient of h.
  void add_next(Mine& mine, std::size_t chunk, int64_t step) {
    const int64_t next = step + 1;
    const int64_t rows = next < steps_.count() ? steps_.active(next) : 0;
    const int64_t all = steps_.batch();
    for (int64_t block = mine.blocks.first; block < mine.blocks.second; ++block) {
      std::memset(product_.data() + (block * all + rows) * products_.lanes * real_, 0,
                  static_cast<std::size_t>((all - rows) * products_.lanes * real_));
    }
    if (rows == 0) return;
    const bool later = chunk + 1 < starts_.size() && next == starts_[chunk + 1];
    multiply(mine.blocks, rows, gates_at(later ? chunk + 1 : chunk, next), gates_.hh_first,
             gates_.hh_count, hh_t_, product_, all);
  }

  void take_step(Mine& mine, std::size_t chunk, int64_t step, int phase) {
    const int64_t rows = steps_.active(step);
    CellBackArgs args{};
    args.cell = args_.cell;
    args.phase = phase;
    args.rows = rows;
    std::tie(args.block_begin, args.block_end) = mine.blocks;
    if (args.block_begin == args.block_end) return;
    args.product = product_.data();
    args.product_rows = steps_.batch();
    args.carry = carry_.data();
    args.dc = dc_.data();
    args.state_pitch = units_;
    args.kept_pitch = kept_pitch(hidden_);
    args.hidden = hidden_;
    args.gates = gates_at(chunk, step);
    args.gates_pitch = pitch_;
    args.peephole = peephole_.data();
    args.grad_peephole = grad_peephole_.data();
    args.units = units_;
    args.reset_rows = chunk_rows_;
    args.reset = reset_.data() +
                 (steps_.offset(step) - steps_.offset(starts_[chunk])) * products_.lanes * real_;
    void** kept = mine.pointers(0, rows);
    void** grad_y = mine.pointers(1, rows);
    void** before = mine.pointers(2, rows);
    void** y = mine.pointers(3, rows);
    const int64_t kept_bytes = kept_gates(args.cell) * args.kept_pitch * real_;
    for (int64_t row = 0; row < rows; ++row) {
      kept[row] = kept_at(step, row);
      if (args_.grad_y != nullptr) grad_y[row] = steps_.at(*args_.grad_y, row, step);
      y[row] = steps_.at(args_.y, row, step);
      if (args.cell == Cell::lstm) {
        before[row] = step == 0 ? c0_.data() + row * units_ * real_
                                : kept_at(step - 1, row) + kept_bytes / 5 * 4;
      } else {
        before[row] = state_before(step, row);
      }
    }
    args.kept = kept;
    args.grad_y = args_.grad_y != nullptr ? grad_y : nullptr;
    args.c_prev = args.h_prev = before;
    args.y = y;
    kernels_.cell(args);
  }

  std::byte* kept_at(int64_t step, int64_t row) const {
    const int64_t bytes = kept_gates(args_.cell) * kept_pitch(hidden_) * real_;
    return const_cast<std::byte*>(args_.kept) + (steps_.offset(step) + row) * bytes;
  }

  std::byte* state_before(int64_t step, int64_t row) {
    return step == 0 ? h0_.data() + row * hidden_ * storage_ : steps_.at(args_.y, row, step - 1);
  }

  // The chunk's part of the gradients of the weights, and the gradients of x.
  void weight_gradients(Mine& mine, std::size_t chunk, int64_t begin, int64_t end) {
    const int64_t rows = steps_.offset(end) - steps_.offset(begin);
    void** x = mine.pointers(0, rows);
    void** grad_x = mine.pointers(1, rows);
    void** before = mine.pointers(2, rows);
    int64_t k = 0;
    for (int64_t step = begin; step < end; ++step) {
      for (int64_t row = 0; row < steps_.active(step); ++row, ++k) {
        x[k] = steps_.at(args_.x, row, step);
        grad_x[k] = steps_.at(args_.grad_x, row, step);
        before[k] = state_before(step, row);
      }
    }
    const auto [first, last] = mine.blocks;
    const auto [input_first, input_last] = mine.input_blocks;
    kernels_.gather(
        {x, rows, args_.x.stride(2) / storage_, input_, input_first, input_last, x_.data()});
    kernels_.weight({strips_of(gates_.ih_first, rows), rows, gates_.ih_count * width_, x_.data(),
                     input_first, input_last, grad_ih_.data()});
    multiply(mine.input_blocks, rows, grads_[chunk % 2].data(), gates_.ih_first, gates_.ih_count,
             ih_t_, grad_x_, rows);
    kernels_.scatter({grad_x_.data(), grad_x, rows, input_, input_first, input_last});

    kernels_.gather({before, rows, 1, hidden_, first, last, h_.data()});
    kernels_.weight({strips_of(gates_.hh_first, rows), rows, gates_.hh_count * width_, h_.data(),
                     first, last, grad_hh_.data()});
    if (args_.cell == Cell::gru_before) {
      // The panels of r * h have room for all rows of a chunk, not for those of this one.
      for (int64_t block = first; block < last && rows < chunk_rows_; ++block) {
        std::memmove(reset_.data() + block * rows * products_.lanes * real_,
                     reset_.data() + block * chunk_rows_ * products_.lanes * real_,
                     static_cast<std::size_t>(rows * products_.lanes * real_));
      }
      kernels_.weight(
          {strips_of(0, rows), rows, width_, reset_.data(), first, last, grad_reset_.data()});
    }
  }

  const std::byte* strips_of(int gate, int64_t rows) const {
    return strips_.data() + gate * width_ * rows * real_;
  }

  void clear_after_ends(int threads, int thread) const {
    if (!steps_.ragged()) return;
    for (int64_t row = thread; row < steps_.batch(); row += threads) {
      for (int64_t t = steps_.length(row); t < args_.grad_x.shape[0]; ++t) {
        std::memset(args_.grad_x.as<std::byte>() + t * args_.grad_x.stride(0) +
                        steps_.sequence(row) * args_.grad_x.stride(1),
                    0, static_cast<std::size_t>(input_ * storage_));
      }
    }
  }

  void store_weight(const Buffer& panels, const View& to, const int* order, int count,
                    int64_t blocks, int64_t depth) {
    std::vector<void*> rows(static_cast<std::size_t>(count * width_), nullptr);
    for (int gate = 0; gate < count; ++gate) {
      for (int64_t unit = 0; unit < hidden_; ++unit) {
        rows[static_cast<std::size_t>(gate * width_ + unit)] =
            to.as<std::byte>() + (order[gate] * hidden_ + unit) * to.stride(0);
      }
    }
    real_kernels_.scatter({panels.data(), rows.data(), count * width_, depth, 0, blocks});
  }

  void store_bias(const View& to, const int* order, int first, int count) {
    for (int gate = 0; gate < count; ++gate) {
      std::memcpy(to.as<std::byte>() + order[gate] * hidden_ * real_,
                  sums_.data() + (first + gate) * width_ * real_,
                  static_cast<std::size_t>(hidden_ * real_));
    }
  }

  void store_states() {
    const int64_t N = steps_.batch();
    std::vector<void*> rows(static_cast<std::size_t>(N));
    for (int64_t row = 0; row < N; ++row) {
      rows[static_cast<std::size_t>(row)] =
          args_.grad_h0.as<std::byte>() + steps_.sequence(row) * args_.grad_h0.stride(0);
    }
    for (int64_t row = 0; row < N; ++row) {
      for (int64_t unit = 0; unit < units_; ++unit) {
        const int64_t lanes = products_.lanes;
        const int64_t at = (unit / lanes * N + row) * lanes + unit % lanes;
        if (real_ == 8) {
          reinterpret_cast<double*>(product_.data())[at] +=
              reinterpret_cast<double*>(carry_.data())[row * units_ + unit];
        } else {
          reinterpret_cast<float*>(product_.data())[at] +=
              reinterpret_cast<float*>(carry_.data())[row * units_ + unit];
        }
      }
      if (args_.cell == Cell::lstm) {
        std::memcpy(args_.grad_c0.as<std::byte>() + steps_.sequence(row) * args_.grad_c0.stride(0),
                    dc_.data() + row * units_ * real_, static_cast<std::size_t>(hidden_ * real_));
      }
    }
    kernels_.scatter({product_.data(), rows.data(), N, hidden_, 0, blocks_});
  }

  const BackwardArgs& args_;
  const Steps& steps_;
  const RecurrentKernels& products_;  // of the type of the computation
  const BackwardKernels& kernels_;    // of the storage
  const BackwardKernels& real_kernels_;
  Gates gates_;
  int64_t storage_, real_;
  int64_t hidden_, input_, width_;
  int64_t blocks_, input_blocks_, units_;
  int64_t pitch_, chunk_rows_;
  std::vector<int64_t> starts_;  // of the chunks
  Buffer hh_t_, ih_t_, reset_t_, grad_ih_, grad_hh_, grad_reset_;
  // Of this chunk and the one before: its first step reads those of the other's first.
  Buffer grads_[2];
  Buffer strips_, x_, grad_x_, h_, reset_, product_, no_bias_, carry_, dc_, sums_;
  Buffer h0_, c0_, peephole_, grad_peephole_;
};

}  // namespace

void run_backward(std::string_view function, const BackwardArgs& args) {
  const Steps steps(function, args.x.shape[0], args.x.shape[1], args.lengths, args.reverse);
  const DType real = args.x.dtype == DType::bf16 ? DType::f32 : args.x.dtype;
  const auto select = select_recurrent_backward_stub.get();
  Backward backward(args, steps, recurrent_kernels(real), *select(args.x.dtype), *select(real));
  const int64_t hidden = args.weights.hh.shape[1];
  const int64_t of_step = steps.batch() * weight_gates(args.cell) * hidden * hidden;
  run_team(threads_for(of_step), [&](Team& team, int thread) { backward.run(team, thread); });
  backward.store_results();
}

}  // namespace marey
