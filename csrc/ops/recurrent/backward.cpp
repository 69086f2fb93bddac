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
  Backward(const BackwardArgs& args, const Steps& steps, const RecurrentKernels& products,
           const BackwardKernels& kernels, const BackwardKernels& real_kernels,
           const NormKernels& norm_kernels)
      : args_(args),
        steps_(steps),
        products_(products),
        kernels_(kernels),
        real_kernels_(real_kernels),
        norm_kernels_(norm_kernels),
        projected_(args.weights.hr != nullptr),
        normed_(args.weights.norm_c != nullptr),
        kept_{projected_, normed_},
        gates_(gates_of(args.cell, normed_)),
        storage_(item_size(args.x.dtype)),
        real_(args.x.dtype == DType::f64 ? 8 : 4),
        hidden_(args.weights.hidden()),
        state_(args.weights.state()),
        input_(args.weights.ih.shape[1]),
        width_(gate_width(hidden_)),
        state_width_(gate_width(state_)),
        blocks_((hidden_ + products.lanes - 1) / products.lanes),
        state_blocks_((state_ + products.lanes - 1) / products.lanes),
        input_blocks_((input_ + products.lanes - 1) / products.lanes),
        units_(blocks_ * products.lanes),
        state_units_(state_blocks_ * products.lanes),
        pitch_(padded_pitch(gates_.all * width_)),
        state_pitch_(padded_pitch(state_width_)),
        chunk_rows_(std::max<int64_t>(steps.most_rows(kChunkRows), 1)) {
    for (int64_t begin = 0; begin < steps.count();) {
      starts_.push_back(begin);
      begin = steps.chunk_end(begin, kChunkRows);
    }
    const int64_t N = steps.batch();
    const int64_t lanes = products.lanes;
    const auto real = [this](int64_t items) { return zeros(items * real_); };
    hh_t_ = real(state_blocks_ * gates_.hh_count * width_ * lanes);
    ih_t_ = real(input_blocks_ * gates_.ih_count * width_ * lanes);
    grad_ih_ = real(input_blocks_ * gates_.ih_count * width_ * lanes);
    grad_hh_ = real(state_blocks_ * gates_.hh_count * width_ * lanes);
    for (Buffer& g : grads_) g = real(chunk_rows_ * pitch_);
    strips_ = real(chunk_rows_ * gates_.all * width_);
    x_ = real(input_blocks_ * chunk_rows_ * lanes);
    grad_x_ = real(input_blocks_ * chunk_rows_ * lanes);
    h_ = real(state_blocks_ * chunk_rows_ * lanes);
    product_ = real(state_blocks_ * N * lanes);
    no_bias_ = real(std::max({blocks_, state_blocks_, input_blocks_}) * lanes);
    carry_ = real(N * state_units_);
    sums_ = real(gates_.all * width_);
    load_real(args.grad_hn, state_, state_blocks_, carry_);
    h0_ = zeros(N * state_ * storage_);
    if (args.h0 != nullptr) {
      for (int64_t row = 0; row < N; ++row) {
        copy_row(args.h0->as<std::byte>() + steps.sequence(row) * args.h0->stride(0),
                 args.h0->stride(1), state_, storage_, h0_.data() + row * state_ * storage_);
      }
    }
    if (args.cell == Cell::lstm) {
      dc_ = real(N * units_);
      c0_ = real(N * units_);
      load_real(args.grad_cn, hidden_, blocks_, dc_);
      load_real(args.c0, hidden_, blocks_, c0_);
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
    if (projected_) {
      hr_t_ = real(blocks_ * state_width_ * lanes);
      grad_hr_ = real(blocks_ * state_width_ * lanes);
      grad_states_ = real(chunk_rows_ * state_pitch_);
      state_strips_ = real(chunk_rows_ * state_width_);
      output_ = real(blocks_ * chunk_rows_ * lanes);
      output_product_ = real(blocks_ * N * lanes);
      no_carry_ = real(N * units_);
    }
    if (normed_) set_norms();
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
              Grid::part(state_blocks_, thread, team.size()),
              Grid::part(input_blocks_, thread, team.size()),
              {}};
    pack_weights(mine);
    clear_after_ends(team.size(), thread);
    for (std::size_t chunk = starts_.size(); chunk-- > 0;) {
      const int64_t begin = starts_[chunk];
      const int64_t end = chunk + 1 < starts_.size() ? starts_[chunk + 1] : steps_.count();
      for (int64_t step = end - 1; step >= begin; --step) {
        add_next(mine, chunk, step);
        if (projected_) {
          take_projection(mine, chunk, step);
          if (!team.barrier(thread)) return;
          project_back(mine.blocks, steps_.active(step), states_at(chunk, step));
        }
        // With layer norm a thread takes whole rows.
        if (normed_ && !team.barrier(thread)) return;
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
      if (projected_) {
        const auto [from, to] = Grid::part(state_width_ / 4, thread, team.size());
        kernels_.strips(
            {grad_states_.data(), state_pitch_, rows, 4 * from, 4 * to, state_strips_.data()});
      }
      if (normed_) sum_norms(mine, chunk, begin, end);
      if (!team.barrier(thread)) return;
      weight_gradients(mine, chunk, begin, end);
    }
    add_next(mine, 0, -1);
  }

  void store_results() {
    store_weight(grad_ih_, args_.grad_ih, gates_.ih.data(), gates_.ih_count, input_blocks_, input_);
    store_weight(grad_hh_, args_.grad_hh, gates_.hh.data(), gates_.hh_count, state_blocks_, state_);
    if (projected_) store_rows(grad_hr_, args_.grad_hr, state_, blocks_, hidden_);
    if (args_.cell == Cell::gru_before) {
      const int n = 2;
      store_weight(grad_reset_, args_.grad_hh, &n, 1, blocks_, hidden_);
    }
    // The biases come after the norms.
    const int ih_first = normed_ ? NormedGates::gates : gates_.ih_first;
    const int hh_first = normed_ ? NormedGates::gates : gates_.hh_first;
    store_bias(args_.grad_bias_ih, gates_.ih.data(), ih_first, gates_.ih_count);
    store_bias(args_.grad_bias_hh, gates_.hh.data(), hh_first, gates_.hh_count);
    if (normed_) store_norms();
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
    Range blocks, state_blocks, input_blocks;
    std::vector<void*> rows[4];

    void** pointers(int list, int64_t count) {
      auto& chosen = rows[list];
      if (static_cast<int64_t>(chosen.size()) < count) {
        chosen.resize(static_cast<std::size_t>(count));
      }
      return chosen.data();
    }
  };

  void load_real(const View* state, int64_t count, int64_t blocks, Buffer& to) {
    if (state == nullptr) return;
    const bool narrow = item_size(state->dtype) < real_;
    for (int64_t row = 0; row < steps_.batch(); ++row) {
      const void* from = state->as<std::byte>() + steps_.sequence(row) * state->stride(0);
      // Of storage (h) or of the type of the computation (c).
      const BackwardKernels& kernels = narrow ? kernels_ : real_kernels_;
      kernels.gather({&from, 1, state->stride(1) / item_size(state->dtype), count, 0, blocks,
                      to.data() + row * blocks * products_.lanes * real_});
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

  void pack_projection(Mine& mine, const View& weight) {
    void** rows = mine.pointers(0, state_width_);
    std::fill(rows, rows + state_width_, nullptr);
    for (int64_t unit = 0; unit < state_; ++unit) {
      rows[unit] = weight.as<std::byte>() + unit * weight.stride(0);
    }
    kernels_.gather({rows, state_width_, weight.stride(1) / storage_, hidden_, mine.blocks.first,
                     mine.blocks.second, hr_t_.data()});
  }

  void pack_weights(Mine& mine) {
    const WeightViews& weights = args_.weights;
    pack_weight(mine, weights.hh, gates_.hh.data(), gates_.hh_count, mine.state_blocks, hh_t_);
    if (projected_) pack_projection(mine, *weights.hr);
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
    for (int64_t block = mine.state_blocks.first; block < mine.state_blocks.second; ++block) {
      std::memset(product_.data() + (block * all + rows) * products_.lanes * real_, 0,
                  static_cast<std::size_t>((all - rows) * products_.lanes * real_));
    }
    if (rows == 0) return;
    const bool later = chunk + 1 < starts_.size() && next == starts_[chunk + 1];
    multiply(mine.state_blocks, rows, gates_at(later ? chunk + 1 : chunk, next), gates_.hh_first,
             gates_.hh_count, hh_t_, product_, all);
  }

  std::byte* states_at(std::size_t chunk, int64_t step) {
    const int64_t row = steps_.offset(step) - steps_.offset(starts_[chunk]);
    return grad_states_.data() + row * state_pitch_ * real_;
  }

  // The gradient of h, in rows.
  void take_projection(Mine& mine, std::size_t chunk, int64_t step) {
    CellBackArgs args{};
    args.cell = Cell::linear;
    args.rows = steps_.active(step);
    std::tie(args.block_begin, args.block_end) = mine.state_blocks;
    if (args.block_begin == args.block_end) return;
    args.product = product_.data();
    args.product_rows = steps_.batch();
    args.carry = carry_.data();
    args.state_pitch = state_units_;
    args.hidden = state_;
    args.gates = states_at(chunk, step);
    args.gates_pitch = state_pitch_;
    args.grad_y = grads_of_step(mine, step);
    kernels_.cell(args);
  }

  // The gradient of what goes into the projection.
  void project_back(Range blocks, int64_t rows, const std::byte* states) {
    products_.project({rows, states, state_pitch_, hr_t_.data(), state_width_, no_bias_.data(),
                       output_product_.data(), steps_.batch() * products_.lanes, 1, 1, blocks.first,
                       blocks.second});
  }

  void** grads_of_step(Mine& mine, int64_t step) {
    if (args_.grad_y == nullptr) return nullptr;
    void** grad_y = mine.pointers(1, steps_.active(step));
    for (int64_t row = 0; row < steps_.active(step); ++row) {
      grad_y[row] = steps_.at(*args_.grad_y, row, step);
    }
    return grad_y;
  }

  // c before a step, or h for what is no LSTM.
  std::byte* cell_before(int64_t step, int64_t row) {
    return step == 0 ? c0_.data() + row * units_ * real_
                     : kept_at(step - 1, row) + 4 * kept_pitch(hidden_) * real_;
  }

  void take_step(Mine& mine, std::size_t chunk, int64_t step, int phase) {
    const int64_t rows = steps_.active(step);
    CellBackArgs args{};
    args.cell = args_.cell;
    args.phase = phase;
    args.rows = rows;
    std::tie(args.block_begin, args.block_end) = mine.blocks;
    if (args.block_begin == args.block_end && !normed_) return;
    args.product = projected_ ? output_product_.data() : product_.data();
    args.product_rows = steps_.batch();
    args.carry = projected_ ? no_carry_.data() : carry_.data();
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
    void** before = mine.pointers(2, rows);
    void** y = mine.pointers(3, rows);
    const bool lstm = args.cell == Cell::lstm;
    for (int64_t row = 0; row < rows; ++row) {
      kept[row] = kept_at(step, row);
      y[row] = steps_.at(args_.y, row, step);
      before[row] = lstm ? cell_before(step, row) : state_before(step, row);
    }
    args.kept = kept;
    args.grad_y = projected_ ? nullptr : grads_of_step(mine, step);
    args.c_prev = args.h_prev = before;
    args.y = y;
    if (!normed_) return kernels_.cell(args);
    const auto [first, last] = Grid::part(rows, mine.thread, mine.team.size());
    norm_kernels_.back({args, first, last, norms_.data(), kept_});
  }

  void set_norms() {
    norms_ = zeros(10 * units_ * real_);
    norm_sums_ = zeros(kNormSums * units_ * real_);
    const WeightViews& weights = args_.weights;
    const auto put = [&](const View& view, int64_t offset, int64_t stride, int to) {
      const void* row = view.as<std::byte>() + offset;
      kernels_.gather(
          {&row, 1, stride / storage_, hidden_, 0, blocks_, norms_.data() + to * units_ * real_});
    };
    for (int gate = 0; gate < 4; ++gate) {
      const int64_t stride = weights.norm_ih->stride(0);
      put(*weights.norm_ih, gate * hidden_ * stride, stride, gate);
      const int64_t hh_stride = weights.norm_hh->stride(0);
      put(*weights.norm_hh, gate * hidden_ * hh_stride, hh_stride, 4 + gate);
    }
    for (int row = 0; row < 2; ++row) {
      put(*weights.norm_c, row * weights.norm_c->stride(0), weights.norm_c->stride(1), 8 + row);
    }
  }

  // The chunk's part of the gradients of gains and peepholes, of this thread's units.
  void sum_norms(Mine& mine, std::size_t chunk, int64_t begin, int64_t end) {
    const int64_t rows = steps_.offset(end) - steps_.offset(begin);
    void** kept = mine.pointers(0, rows);
    void** before = mine.pointers(1, rows);
    int64_t k = 0;
    for (int64_t step = begin; step < end; ++step) {
      for (int64_t row = 0; row < steps_.active(step); ++row, ++k) {
        kept[k] = kept_at(step, row);
        before[k] = cell_before(step, row);
      }
    }
    const auto [first, last] = Grid::part(hidden_, mine.thread, mine.team.size());
    const auto sum = [&](int gate, void** others, int slot, int to) {
      norm_kernels_.sums({grads_[chunk % 2].data() + gate * width_ * real_, pitch_, rows, others,
                          slot * kept_pitch(hidden_), first, last,
                          norm_sums_.data() + to * units_ * real_});
    };
    for (int gate = 0; gate < 4; ++gate) {
      sum(NormedGates::gates + gate, kept, kept_.from_x() + gate, gate);
      sum(NormedGates::gates + gate, kept, kept_.from_h() + gate, 4 + gate);
    }
    sum(NormedGates::cell, kept, kept_.cell(), 8);
    if (args_.weights.peephole == nullptr) return;
    sum(NormedGates::gates, before, 0, 9);
    sum(NormedGates::gates + 1, before, 0, 10);
    sum(NormedGates::gates + 3, kept, 4, 11);
  }

  void store_norms() {
    const auto bytes = static_cast<std::size_t>(hidden_ * real_);
    const auto put = [&](const View& to, int64_t row, const std::byte* from) {
      std::memcpy(to.as<std::byte>() + row * hidden_ * real_, from, bytes);
    };
    const auto sums = [&](int row) { return norm_sums_.data() + row * units_ * real_; };
    for (int gate = 0; gate < 4; ++gate) {
      put(args_.grad_norm_ih, gate, sums(gate));
      put(args_.grad_norm_hh, gate, sums(4 + gate));
    }
    put(args_.grad_norm_c, 0, sums(8));
    put(args_.grad_norm_c, 1, sums_.data() + NormedGates::cell * width_ * real_);
    for (int gate = 0; gate < 3 && args_.weights.peephole != nullptr; ++gate) {
      std::memcpy(grad_peephole_.data() + gate * units_ * real_, sums(9 + gate), bytes);
    }
  }

  std::byte* kept_at(int64_t step, int64_t row) const {
    const int64_t bytes = args_.weights.kept(args_.cell) * kept_pitch(hidden_) * real_;
    return const_cast<std::byte*>(args_.kept) + (steps_.offset(step) + row) * bytes;
  }

  std::byte* state_before(int64_t step, int64_t row) {
    return step == 0 ? h0_.data() + row * state_ * storage_ : steps_.at(args_.y, row, step - 1);
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
    const auto [first, last] = mine.state_blocks;
    const auto [input_first, input_last] = mine.input_blocks;
    kernels_.gather(
        {x, rows, args_.x.stride(2) / storage_, input_, input_first, input_last, x_.data()});
    kernels_.weight({strips_of(gates_.ih_first, rows), rows, gates_.ih_count * width_, x_.data(),
                     input_first, input_last, grad_ih_.data()});
    multiply(mine.input_blocks, rows, grads_[chunk % 2].data(), gates_.ih_first, gates_.ih_count,
             ih_t_, grad_x_, rows);
    kernels_.scatter({grad_x_.data(), grad_x, rows, input_, input_first, input_last});

    kernels_.gather({before, rows, 1, state_, first, last, h_.data()});
    kernels_.weight({strips_of(gates_.hh_first, rows), rows, gates_.hh_count * width_, h_.data(),
                     first, last, grad_hh_.data()});
    if (projected_) {
      void** outputs = mine.pointers(2, rows);
      k = 0;
      for (int64_t step = begin; step < end; ++step) {
        for (int64_t row = 0; row < steps_.active(step); ++row, ++k) {
          outputs[k] = kept_at(step, row) + LstmKept::output * kept_pitch(hidden_) * real_;
        }
      }
      real_kernels_.gather(
          {outputs, rows, 1, hidden_, mine.blocks.first, mine.blocks.second, output_.data()});
      kernels_.weight({state_strips_.data(), rows, state_width_, output_.data(), mine.blocks.first,
                       mine.blocks.second, grad_hr_.data()});
    }
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

  // Panels [block][row][lanes] of any rows.
  void store_rows(const Buffer& panels, const View& to, int64_t count, int64_t blocks,
                  int64_t depth) {
    std::vector<void*> rows(static_cast<std::size_t>(gate_width(count)), nullptr);
    for (int64_t row = 0; row < count; ++row) {
      rows[static_cast<std::size_t>(row)] = to.as<std::byte>() + row * to.stride(0);
    }
    real_kernels_.scatter({panels.data(), rows.data(), gate_width(count), depth, 0, blocks});
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
      for (int64_t unit = 0; unit < state_units_; ++unit) {
        const int64_t lanes = products_.lanes;
        const int64_t at = (unit / lanes * N + row) * lanes + unit % lanes;
        if (real_ == 8) {
          reinterpret_cast<double*>(product_.data())[at] +=
              reinterpret_cast<double*>(carry_.data())[row * state_units_ + unit];
        } else {
          reinterpret_cast<float*>(product_.data())[at] +=
              reinterpret_cast<float*>(carry_.data())[row * state_units_ + unit];
        }
      }
      if (args_.cell == Cell::lstm) {
        std::memcpy(args_.grad_c0.as<std::byte>() + steps_.sequence(row) * args_.grad_c0.stride(0),
                    dc_.data() + row * units_ * real_, static_cast<std::size_t>(hidden_ * real_));
      }
    }
    kernels_.scatter({product_.data(), rows.data(), N, state_, 0, state_blocks_});
  }

  const BackwardArgs& args_;
  const Steps& steps_;
  const RecurrentKernels& products_;  // of the type of the computation
  const BackwardKernels& kernels_;    // of the storage
  const BackwardKernels& real_kernels_;
  const NormKernels& norm_kernels_;
  bool projected_, normed_;
  LstmKept kept_;
  Gates gates_;
  int64_t storage_, real_;
  int64_t hidden_, state_, input_, width_, state_width_;
  int64_t blocks_, state_blocks_, input_blocks_, units_, state_units_;
  int64_t pitch_, state_pitch_, chunk_rows_;
  std::vector<int64_t> starts_;  // of the chunks
  Buffer hh_t_, ih_t_, reset_t_, grad_ih_, grad_hh_, grad_reset_;
  // Of this chunk and the one before: its first step reads those of the other's first.
  Buffer grads_[2];
  Buffer strips_, x_, grad_x_, h_, reset_, product_, no_bias_, carry_, dc_, sums_;
  Buffer h0_, c0_, peephole_, grad_peephole_;
  // Of a projection: its weight, and the gradients of h and of what goes into it.
  Buffer hr_t_, grad_hr_, grad_states_, state_strips_, output_, output_product_, no_carry_;
  static constexpr int kNormSums = 12;  // norm_ih, norm_hh, the gain of c, peepholes
  Buffer norms_, norm_sums_;
};

}  // namespace

void run_backward(std::string_view function, const BackwardArgs& args) {
  const Steps steps(function, args.x.shape[0], args.x.shape[1], args.lengths, args.reverse);
  const DType real = args.x.dtype == DType::bf16 ? DType::f32 : args.x.dtype;
  const auto select = select_recurrent_backward_stub.get();
  Backward backward(args, steps, recurrent_kernels(real), *select(args.x.dtype), *select(real),
                    norm_kernels(args.x.dtype));
  const int64_t hidden = args.weights.hidden();
  const int64_t of_step = steps.batch() * weight_gates(args.cell) * hidden * hidden;
  run_team(threads_for(of_step), [&](Team& team, int thread) { backward.run(team, thread); });
  backward.store_results();
}

}  // namespace marey
