// Steps of recurrent networks: the product with the state, and the cell.
//
// Vectorised over hidden units, two vectors of them in a block. A tile of rows goes through all
// panels of a block before the next one: 12 rows of 2 vectors in registers, the panel (depth x 2
// vectors: 64 KiB for 512 numbers of float32) from the second cache, where a thread's blocks stay
// from step to step as far as they fit. The sums pass through the first cache to the cell, which
// costs 4 loads and stores for 4 x depth multiply-adds.
//
// With one row a step is bound by reading the weights. If a thread's blocks do not fit into its
// cache, the last ones of a step are still there when the next one starts, so every other step
// takes the blocks backwards.
//
// Tried, in races of two threads, without gain: multiply-adds that read every item of A from memory
// and not each third (0.96 to 0.97); lines of the next panel fetched into the second cache by the
// way (128 rows, 1024 units: 1.01 to 1.04; else 0.97 to 1.00); the depth in blocks of a panel that
// stay in the first cache; weights of 1 MiB on huge pages (1.00); reciprocals by approximation for
// the cell's divisions, beside which the rest runs anyhow.
#include "core/select.h"
#include "ops/recurrent/panels.h"

namespace marey::MAREY_ISA_NS {
namespace {

using namespace recurrent;

// Rows that go through the panels of a block together: their gates stay in the first cache.
constexpr int64_t kRowTile = 48;

template <class S>
[[gnu::flatten]] void pack(const PackArgs& args) {
  using Item = ItemOf<S>;
  constexpr int64_t W = kWidth<S>;
  const auto* weight = static_cast<const S*>(args.weight);
  const int64_t items = items_of<S>(args.depth);
  const auto block = static_cast<int>(kBlock<S>);
  auto* to = static_cast<Item*>(args.to) + args.block_begin * args.gates * items * block;
  const int64_t end = std::min(args.block_end * block, args.hidden);
  for (int64_t unit = args.block_begin * block; unit < end; unit += block) {
    const int lanes = static_cast<int>(std::min<int64_t>(block, args.hidden - unit));
    for (int gate = 0; gate < args.gates; ++gate, to += items * block) {
      const S* first = weight + (gate * args.hidden + unit) * args.row_stride;
      const auto source = [&](int lane) { return first + lane * args.row_stride; };
      if constexpr (std::is_same_v<S, bfloat16>) {
        pack_pair_lanes<kVectors>(source, args.item_stride, lanes, args.depth, to);
      } else {
        pack_lanes<S, kVectors>(source, args.item_stride, lanes, args.depth, S(1), to);
      }
      // The lanes that are no units repeat one that is: make them zeros.
      for (int lane = lanes; lane < block && lane % W != 0; ++lane) {
        for (int64_t k = 0; k < items; ++k) to[k * block + lane] = Item{};
      }
    }
  }
}

template <class S>
void project(const ProjectArgs& args) {
  using T = RealOf<S>;
  using V = VecOf<S>;
  constexpr int64_t W = kWidth<S>;
  constexpr int64_t kLanes = kBlock<S>;
  const int64_t depth = items_of<S>(args.depth);
  const int64_t panel = depth * kLanes;
  const RowsOf<S> a{static_cast<const S*>(args.a), args.a_pitch};
  for (int64_t block = args.block_begin; block < args.block_end; ++block) {
    const auto* weights =
        static_cast<const ItemOf<S>*>(args.weights) + block * args.weight_gates * panel;
    auto* first = static_cast<T*>(args.to) + block * args.gates * args.gate_stride;
    const auto* bias = static_cast<const T*>(args.bias) + block * args.gates * kLanes;
    for (int gate = 0; gate < args.gates; ++gate) {
      T* to = first + gate * args.gate_stride;
      if (args.bias != nullptr) {
        const V low = load<V>(bias + gate * kLanes);
        const V high = load<V>(bias + gate * kLanes + W);
        for (int64_t row = 0; row < args.rows; ++row) {
          store(to + row * kLanes, low);
          store(to + row * kLanes + W, high);
        }
      }
      if (gate < args.weight_gates) {
        panel_product<kVectors, ItemOf<S>>(args.rows, a, weights + gate * panel, depth, to, true);
      }
    }
  }
}

// One block of rows [begin, end) of a step. R: what rows of states are of.
template <class S, class R>
struct Cells {
  using T = RealOf<S>;
  using V = VecOf<S>;
  static constexpr int64_t W = kWidth<S>;

  const StepArgs& args;
  int64_t unit;  // the block's first
  T* gates;      // the block's

  const T* gate(int g, int64_t row, int64_t lane) const {
    return gates + g * args.gate_stride + row * kBlock<S> + lane;
  }
  const R* h(int64_t row, int64_t lane) const {
    return static_cast<const R*>(args.h) + row * args.h_pitch + unit + lane;
  }
  // A state: as S has it.
  static void put(R* to, const V& v) {
    if constexpr (std::is_same_v<R, S>) {
      store_as(to, v);
    } else {
      store(to, std::bit_cast<V>(narrow_bits(v) << 16));
    }
  }
  void keep(int64_t row, int64_t lane, int g, const V& v) const {
    store(static_cast<T*>(args.kept[row]) + g * args.kept_pitch + unit + lane, v);
  }
  void put_h(int64_t row, int64_t lane, const V& v) const {
    put(static_cast<R*>(args.h_next) + row * args.next_pitch + unit + lane, v);
    if (args.y != nullptr && args.y[row] != nullptr) {
      store_lanes<S>(static_cast<S*>(args.y[row]) + unit + lane, v, args.hidden - unit - lane);
    }
  }

  void lstm(int64_t begin, int64_t end) const {
    const int64_t units = args.c_pitch;
    const auto* peephole = static_cast<const T*>(args.peephole);
    for (int64_t row = begin; row < end; ++row) {
      T* cells = static_cast<T*>(args.c) + row * args.c_pitch + unit;
      for (int64_t lane = 0; lane < kBlock<S>; lane += W) {
        const V before = load<V>(cells + lane);
        V i = load<V>(gate(0, row, lane));
        V f = load<V>(gate(1, row, lane));
        V o = load<V>(gate(3, row, lane));
        if (peephole != nullptr) {
          i += load<V>(peephole + unit + lane) * before;
          f += load<V>(peephole + units + unit + lane) * before;
        }
        i = math::sigmoid<T>(i);
        f = math::sigmoid<T>(f);
        const V g = math::tanh<T>(load<V>(gate(2, row, lane)));
        const V c = fma(i, g, f * before);
        if (peephole != nullptr) o += load<V>(peephole + 2 * units + unit + lane) * c;
        o = math::sigmoid<T>(o);
        store(cells + lane, c);
        const V h = o * math::tanh<T>(c);
        put_h(row, lane, h);
        if (args.kept != nullptr) {
          keep(row, lane, 0, i);
          keep(row, lane, 1, f);
          keep(row, lane, 2, g);
          keep(row, lane, 3, o);
          keep(row, lane, 4, c);
          if (args.keep_output) keep(row, lane, LstmKept::output, h);
        }
      }
    }
  }

  void gru(int64_t begin, int64_t end) const {
    for (int64_t row = begin; row < end; ++row) {
      for (int64_t lane = 0; lane < kBlock<S>; lane += W) {
        const V r = math::sigmoid<T>(load<V>(gate(0, row, lane)));
        const V z = math::sigmoid<T>(load<V>(gate(1, row, lane)));
        const V hidden = load<V>(gate(3, row, lane));
        const V n = math::tanh<T>(fma(r, hidden, load<V>(gate(2, row, lane))));
        const V before = load_as<V>(h(row, lane));
        put_h(row, lane, fma(z, before - n, n));
        if (args.kept != nullptr) {
          keep(row, lane, 0, r);
          keep(row, lane, 1, z);
          keep(row, lane, 2, n);
          keep(row, lane, 3, hidden);
        }
      }
    }
  }

  void gru_reset(int64_t begin, int64_t end) const {
    for (int64_t row = begin; row < end; ++row) {
      for (int64_t lane = 0; lane < kBlock<S>; lane += W) {
        T* at = gates + row * kBlock<S> + lane;
        const V r = math::sigmoid<T>(load<V>(at));
        const V z = math::sigmoid<T>(load<V>(at + args.gate_stride));
        store(at + args.gate_stride, z);
        put(static_cast<R*>(args.reset) + row * args.h_pitch + unit + lane,
            r * load_as<V>(h(row, lane)));
        if (args.kept != nullptr) {
          keep(row, lane, 0, r);
          keep(row, lane, 1, z);
        }
      }
    }
  }

  void gru_update(int64_t begin, int64_t end) const {
    for (int64_t row = begin; row < end; ++row) {
      for (int64_t lane = 0; lane < kBlock<S>; lane += W) {
        const V z = load<V>(gate(1, row, lane));
        const V n = math::tanh<T>(load<V>(gate(2, row, lane)));
        const V before = load_as<V>(h(row, lane));
        put_h(row, lane, fma(z, before - n, n));
        if (args.kept != nullptr) keep(row, lane, 2, n);
      }
    }
  }

  void rnn(int64_t begin, int64_t end) const {
    for (int64_t row = begin; row < end; ++row) {
      for (int64_t lane = 0; lane < kBlock<S>; lane += W) {
        const V x = load<V>(gate(0, row, lane));
        put_h(row, lane,
              args.cell == Cell::linear     ? x
              : args.cell == Cell::rnn_tanh ? math::tanh<T>(x)
                                            : relu(x));
      }
    }
  }

  // NaN stays NaN.
  static V relu(const V& x) { return math::detail::not_below<T>(x, T(0)); }

  void run(int64_t begin, int64_t end) const {
    switch (args.cell) {
      case Cell::lstm:
        return lstm(begin, end);
      case Cell::gru:
        return gru(begin, end);
      case Cell::gru_before:
        return args.phase == 0 ? gru_reset(begin, end) : gru_update(begin, end);
      case Cell::rnn_tanh:
      case Cell::rnn_relu:
      case Cell::linear:
        return rnn(begin, end);
    }
  }
};

// The sums that each panel of weights goes to.
template <class R>
void multiply(const StepArgs& args, int64_t begin, int64_t rows, const ItemOf<R>* weights,
              RealOf<R>* gates) {
  const int64_t depth = items_of<R>(args.depth);
  const int64_t panel = depth * kBlock<R>;
  const bool second = args.cell == Cell::gru_before && args.phase == 1;
  const auto* states = static_cast<const R*>(second ? args.reset : args.h);
  const RowsOf<R> a{states + begin * args.h_pitch, args.h_pitch};
  const int64_t offset = begin * kBlock<R>;
  const auto sums = [&](int gate) {
    return gates + state_gate(args.cell, gate) * args.gate_stride + offset;
  };
  RealOf<R>* const c[4] = {sums(0), sums(1), sums(2), sums(3)};
  switch (args.cell) {
    case Cell::lstm:
      return panels_product<4, ItemOf<R>>(rows, a, weights, panel, depth, c);
    case Cell::gru:
      return panels_product<3, ItemOf<R>>(rows, a, weights, panel, depth, c);
    case Cell::gru_before:
      if (second)
        return panels_product<1, ItemOf<R>>(rows, a, weights + 2 * panel, panel, depth, c + 2);
      panels_product<1, ItemOf<R>>(rows, a, weights, panel, depth, c);
      return panels_product<1, ItemOf<R>>(rows, a, weights + panel, panel, depth, c + 1);
    case Cell::rnn_tanh:
    case Cell::rnn_relu:
    case Cell::linear:
      return panels_product<1, ItemOf<R>>(rows, a, weights, panel, depth, c);
  }
}

template <class S, class R = S>
void step(const StepArgs& args) {
  using T = RealOf<S>;
  const int64_t panel = items_of<R>(args.depth) * kBlock<S>;
  const int64_t of_block = weight_gates(args.cell) * panel;
  const int64_t blocks = args.block_end - args.block_begin;
  for (int64_t k = 0; k < blocks; ++k) {
    const int64_t block = args.descending ? args.block_end - 1 - k : args.block_begin + k;
    T* gates = static_cast<T*>(args.gates) + block * panel_gates(args.cell) * args.gate_stride;
    const Cells<S, R> cells{args, block * kBlock<S>, gates};
    for (int64_t row = args.row_begin; row < args.row_end; row += kRowTile) {
      const int64_t end = std::min(row + kRowTile, args.row_end);
      if (args.weights != nullptr) {
        multiply<R>(args, row, end - row,
                    static_cast<const ItemOf<R>*>(args.weights) + block * of_block, gates);
      }
      cells.run(row, end);
    }
  }
}

#if !defined(__AVX512BF16__)
void widen_panel(const void* panel, int64_t depth, void* to) {
  using V = Vec<float>;
  using Bits = Step<Pair>::Bits;
  constexpr int64_t W = kWidth<float>;
  const auto* from = static_cast<const Pair*>(panel);
  auto* row = static_cast<float*>(to);
  for (int64_t k = 0; k < depth; ++k, row += kBlock<float>) {
    for (int64_t lane = 0; lane < kBlock<float>; lane += W) {
      const Bits pairs = Step<Pair>::row(from + k / 2 * kBlock<float> + lane);
      store(row + lane, std::bit_cast<V>(k % 2 == 0 ? pairs << 16 : pairs & Bits(0xFFFF0000U)));
    }
  }
}
#endif

template <class S>
constexpr RecurrentKernels make() {
  RecurrentKernels kernels{.lanes = kBlock<S>,
                           .item_size = sizeof(ItemOf<S>),
                           .pack = &pack<S>,
                           .project = &project<S>,
                           .step = &step<S>};
#if !defined(__AVX512BF16__)
  if constexpr (std::is_same_v<S, bfloat16>) {
    kernels.widen = &widen_panel;
    kernels.step_widened = &step<bfloat16, float>;
  }
#endif
  return kernels;
}

template <class S>
constexpr RecurrentKernels kKernels = make<S>();

}  // namespace

const RecurrentKernels* select_recurrent(DType dtype) {
  return of_type(dtype, []<class S>() -> const RecurrentKernels* { return &kKernels<S>; });
}

}  // namespace marey::MAREY_ISA_NS
