// Back-propagation through time: what the products do not do.
//
// The cell goes from the gradient of h to those of the gates, vectorised over units: a few reads of
// what the way there kept, bound by memory where that does not fit into the second cache.
// The gradients of the weights are products over all rows of a chunk of steps: the gates'
// gradients, transposed into strips that all threads read, times panels of the inputs or states,
// which lie in the first cache (256 rows of 2 vectors: 32 KiB), a tile of 12 gates at a time.
#include "ops/recurrent/backward_kernels.h"
#include "ops/recurrent/panels.h"

namespace marey::MAREY_ISA_NS {
namespace {

using namespace recurrent;

template <class S>
void gather(const GatherArgs& args) {
  using T = RealOf<S>;
  using V = VecOf<S>;
  constexpr int64_t W = kWidth<S>;
  for (int64_t block = args.block_begin; block < args.block_end; ++block) {
    T* to = static_cast<T*>(args.to) + block * args.count * kBlock<S>;
    const int64_t first = block * kBlock<S>;
    for (int64_t row = 0; row < args.count; ++row, to += kBlock<S>) {
      const auto* from = static_cast<const S*>(args.rows[row]);
      for (int64_t lane = 0; lane < kBlock<S>; lane += W) {
        const int64_t count = std::min(W, args.depth - first - lane);
        if (from == nullptr || count <= 0) {
          store(to + lane, V(T(0)));
        } else if (args.item_stride == 1) {
          store(to + lane, load_lanes<V>(from + first + lane, count));
        } else {
          store(to + lane, V(T(0)));
          for (int64_t j = 0; j < count; ++j) {
            to[lane + j] = convert<T>(from[(first + lane + j) * args.item_stride]);
          }
        }
      }
    }
  }
}

template <class S>
void scatter(const ScatterArgs& args) {
  using T = RealOf<S>;
  using V = VecOf<S>;
  constexpr int64_t W = kWidth<S>;
  for (int64_t block = args.block_begin; block < args.block_end; ++block) {
    const auto* from = static_cast<const T*>(args.from) + block * args.count * kBlock<S>;
    const int64_t first = block * kBlock<S>;
    for (int64_t row = 0; row < args.count; ++row, from += kBlock<S>) {
      auto* to = static_cast<S*>(args.rows[row]);
      if (to == nullptr) continue;
      for (int64_t lane = 0; lane < kBlock<S>; lane += W) {
        store_lanes<S>(to + first + lane, load<V>(from + lane), args.depth - first - lane);
      }
    }
  }
}

// A row and vector of a step.
template <class S>
struct Back {
  using T = RealOf<S>;
  using V = VecOf<S>;

  const CellBackArgs& args;
  int64_t row, unit;
  int64_t count;  // lanes that are units

  V kept(int gate) const {
    return load<V>(static_cast<const T*>(args.kept[row]) + gate * args.kept_pitch + unit);
  }
  V stored(const void* const* rows) const {
    return rows[row] == nullptr ? V(T(0))
                                : load_lanes<V>(static_cast<const S*>(rows[row]) + unit, count);
  }
  T* state(void* states) const { return static_cast<T*>(states) + row * args.state_pitch + unit; }
  void put(int gate, const V& v) const {
    store_lanes<T>(static_cast<T*>(args.gates) + row * args.gates_pitch +
                       gate * gate_width(args.hidden) + unit,
                   v, count);
  }
  static V slope(const V& s) { return s * (V(T(1)) - s); }  // of the sigmoid
  static V tanh_slope(const V& t) { return V(T(1)) - t * t; }

  void lstm(const V& dh) const {
    const V i = kept(0), f = kept(1), g = kept(2), o = kept(3), c = kept(4);
    const V before = args.c_prev[row] == nullptr
                         ? V(T(0))
                         : load<V>(static_cast<const T*>(args.c_prev[row]) + unit);
    const V t = math::tanh<T>(c);
    const V d_o = dh * t * slope(o);
    V dc = load<V>(state(args.dc)) + dh * o * tanh_slope(t);
    const auto* p = static_cast<const T*>(args.peephole);
    if (p != nullptr) dc += load<V>(p + 2 * args.units + unit) * d_o;
    const V d_i = dc * g * slope(i);
    const V d_f = dc * before * slope(f);
    put(0, d_i);
    put(1, d_f);
    put(2, dc * i * tanh_slope(g));
    put(3, d_o);
    V back = dc * f;
    if (p != nullptr) {
      back += load<V>(p + unit) * d_i + load<V>(p + args.units + unit) * d_f;
      auto* sums = static_cast<T*>(args.grad_peephole);
      const auto add = [&](int gate, const V& v) {
        T* sum = sums + gate * args.units + unit;
        store(sum, load<V>(sum) + v);
      };
      add(0, d_i * before);
      add(1, d_f * before);
      add(2, d_o * c);
    }
    store(state(args.dc), back);
    store(state(args.carry), V(T(0)));
  }

  void gru(const V& dh) const {
    const V r = kept(0), z = kept(1), n = kept(2), hidden = kept(3);
    const V before = stored(args.h_prev);
    const V d_n = dh * (V(T(1)) - z) * tanh_slope(n);
    put(0, d_n);
    put(1, d_n * hidden * slope(r));
    put(2, dh * (before - n) * slope(z));
    put(3, d_n * r);
    store(state(args.carry), dh * z);
  }

  void gru_before(const V& dh) const {
    const V z = kept(1), n = kept(2);
    put(0, dh * (V(T(1)) - z) * tanh_slope(n));
    put(2, dh * (stored(args.h_prev) - n) * slope(z));
    store(state(args.carry), dh * z);
  }

  // `d` is the gradient of r * h.
  void gru_reset(const V& d, T* reset) const {
    const V r = kept(0);
    const V before = stored(args.h_prev);
    put(1, d * before * slope(r));
    store(reset, r * before);
    store(state(args.carry), load<V>(state(args.carry)) + d * r);
  }

  void rnn(const V& dh) const {
    V d = dh;
    if (args.cell != Cell::linear) {
      const V y = stored(args.y);
      if (args.cell == Cell::rnn_tanh) {
        d *= tanh_slope(y);
      } else {
        stdx::where(y <= V(T(0)), d) = V(T(0));
      }
    }
    put(0, d);
    store(state(args.carry), V(T(0)));
  }
};

template <class S>
void cell(const CellBackArgs& args) {
  using T = RealOf<S>;
  using V = VecOf<S>;
  constexpr int64_t W = kWidth<S>;
  for (int64_t block = args.block_begin; block < args.block_end; ++block) {
    const auto* product =
        static_cast<const T*>(args.product) + block * args.product_rows * kBlock<S>;
    for (int64_t row = 0; row < args.rows; ++row, product += kBlock<S>) {
      for (int64_t lane = 0; lane < kBlock<S>; lane += W) {
        const int64_t unit = block * kBlock<S> + lane;
        const Back<S> back{args, row, unit, args.hidden - unit};
        V dh = load<V>(product + lane);
        if (args.cell == Cell::gru_before && args.phase == 1) {
          back.gru_reset(
              dh, static_cast<T*>(args.reset) + (block * args.reset_rows + row) * kBlock<S> + lane);
          continue;
        }
        dh += load<V>(back.state(args.carry));
        if (args.grad_y != nullptr) dh += back.stored(args.grad_y);
        switch (args.cell) {
          case Cell::lstm:
            back.lstm(dh);
            break;
          case Cell::gru:
            back.gru(dh);
            break;
          case Cell::gru_before:
            back.gru_before(dh);
            break;
          default:
            back.rnn(dh);
        }
      }
    }
  }
}

template <class S>
void strips(const StripArgs& args) {
  using T = RealOf<S>;
  pack_strips<T>(static_cast<const T*>(args.gates) + args.column_begin, args.gates_pitch, 1,
                 args.rows, args.column_end - args.column_begin,
                 static_cast<T*>(args.strips) + args.column_begin * args.rows);
}

template <class S>
void weight(const WeightGradArgs& args) {
  using T = RealOf<S>;
  const Strips<T> a{static_cast<const T*>(args.strips), kStrip * args.rows};
  for (int64_t block = args.block_begin; block < args.block_end; ++block) {
    panel_product<kVectors, T>(
        args.columns, a, static_cast<const T*>(args.panels) + block * args.rows * kBlock<S>,
        args.rows, static_cast<T*>(args.to) + block * args.columns * kBlock<S>, true);
  }
}

template <class S>
void sums(const SumArgs& args) {
  using T = RealOf<S>;
  using V = VecOf<S>;
  for (int64_t column = args.column_begin; column < args.column_end; column += kWidth<S>) {
    const int64_t count = std::min(kWidth<S>, args.column_end - column);
    T* sum = static_cast<T*>(args.sums) + column;
    V total = load_lanes<V>(static_cast<const T*>(sum), count);
    const auto* from = static_cast<const T*>(args.gates) + column;
    for (int64_t row = 0; row < args.rows; ++row, from += args.gates_pitch) {
      total += load_lanes<V>(from, count);
    }
    store_lanes<T>(sum, total, count);
  }
}

template <class S>
constexpr BackwardKernels kKernels = {&gather<S>, &scatter<S>, &cell<S>,
                                      &strips<S>, &weight<S>,  &sums<S>};

}  // namespace

const BackwardKernels* select_recurrent_backward(DType dtype) {
  switch (dtype) {
    case DType::f64:
      return &kKernels<double>;
    case DType::bf16:
      return &kKernels<bfloat16>;
    default:
      return &kKernels<float>;
  }
}

}  // namespace marey::MAREY_ISA_NS
