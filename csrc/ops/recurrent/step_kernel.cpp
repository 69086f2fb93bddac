// One step from unpacked weights.
//
// Vectorised over the depth: a vector of units of one gate has as many sums in registers, one a
// row of the weight matrix, which are added up across lanes by one transposition at the end (5
// instructions a row). All sequences of the batch go past these rows while the first cache has
// them. One sequence is bound by reading the weights.
#include "ops/recurrent/panels.h"
#include "ops/recurrent/step.h"

namespace marey::MAREY_ISA_NS {
namespace {

using namespace recurrent;

// sums[j] += row j of a matrix times x, lane by lane.
template <class S>
[[gnu::flatten]] inline void accumulate(const S* const (&rows)[kWidth<S>], const S* x,
                                        int64_t depth, VecOf<S> (&sums)[kWidth<S>]) {
  using V = VecOf<S>;
  constexpr int64_t W = kWidth<S>;
  int64_t k = 0;
  for (; k + W <= depth; k += W) {
    const V item = load_as<V>(x + k);
#pragma GCC unroll 16
    for (int64_t j = 0; j < W; ++j) sums[j] += load_as<V>(rows[j] + k) * item;
  }
  if (k < depth) {
    const V item = load_lanes<V>(x + k, depth - k);
    for (int64_t j = 0; j < W; ++j) sums[j] += load_lanes<V>(rows[j] + k, depth - k) * item;
  }
}

template <class S>
struct Unit {
  using T = RealOf<S>;
  using V = VecOf<S>;
  static constexpr int64_t W = kWidth<S>;

  const CellStepArgs& args;
  int64_t unit, count;

  // One gate's sums for a sequence: of what comes from the input, from the state, or both.
  [[gnu::noinline]] V gate(int g, const S* x, const S* h) const {
    V sums[W];
    for (V& sum : sums) sum = V(T(0));
    const S* rows[W];
    const int64_t first = g * args.hidden + unit;
    if (x != nullptr) {
      const S* weight = static_cast<const S*>(args.ih) + first * args.ih_stride;
      for (int64_t j = 0; j < W; ++j) rows[j] = weight + (j < count ? j : 0) * args.ih_stride;
      accumulate<S>(rows, x, args.input, sums);
    }
    if (h != nullptr) {
      const S* weight = static_cast<const S*>(args.hh) + first * args.hh_stride;
      for (int64_t j = 0; j < W; ++j) rows[j] = weight + (j < count ? j : 0) * args.hh_stride;
      accumulate<S>(rows, h, args.hidden, sums);
    }
    transpose<T>(sums);
#pragma GCC unroll 4
    for (int64_t step = W / 2; step > 0; step /= 2) {
#pragma GCC unroll 8
      for (int64_t j = 0; j < step; ++j) sums[j] += sums[j + step];
    }
    V total = sums[0];
    if (x != nullptr && args.bias_ih != nullptr) total += lanes<S>(args.bias_ih, first);
    if (h != nullptr && args.bias_hh != nullptr) total += lanes<S>(args.bias_hh, first);
    return total;
  }

  template <class U>
  V lanes(const void* from, int64_t at) const {
    return load_lanes<V>(static_cast<const U*>(from) + at, count);
  }
  void put_h(int64_t n, const V& v) const {
    store_lanes<S>(static_cast<S*>(args.h_next) + n * args.h_next_stride + unit, v, count);
  }
  // Weights stay in the first cache while the batch goes past them.
  V& kept(int g, int64_t n) const { return static_cast<V*>(args.gates)[g * args.batch + n]; }
  const S* x(int64_t n) const { return static_cast<const S*>(args.x) + n * args.input; }
  const S* h(int64_t n) const { return static_cast<const S*>(args.h) + n * args.hidden; }

  void lstm() const {
    for (int g = 0; g < 4; ++g) {
      for (int64_t n = 0; n < args.batch; ++n) kept(g, n) = gate(g, x(n), h(n));
    }
    for (int64_t n = 0; n < args.batch; ++n) {
      const V before = lanes<T>(args.c, n * args.c_stride + unit);
      V i = kept(0, n), f = kept(1, n), o = kept(3, n);
      if (args.peephole != nullptr) {
        i += lanes<S>(args.peephole, unit) * before;
        f += lanes<S>(args.peephole, args.hidden + unit) * before;
      }
      const V c = fma(math::sigmoid<T>(i), math::tanh<T>(kept(2, n)), math::sigmoid<T>(f) * before);
      if (args.peephole != nullptr) o += lanes<S>(args.peephole, 2 * args.hidden + unit) * c;
      store_lanes<T>(static_cast<T*>(args.c_next) + n * args.c_next_stride + unit, c, count);
      put_h(n, math::sigmoid<T>(o) * math::tanh<T>(c));
    }
  }

  void gru() const {
    for (int g = 0; g < 2; ++g) {
      for (int64_t n = 0; n < args.batch; ++n) kept(g, n) = gate(g, x(n), h(n));
    }
    for (int64_t n = 0; n < args.batch; ++n) kept(2, n) = gate(2, x(n), nullptr);
    for (int64_t n = 0; n < args.batch; ++n) kept(3, n) = gate(2, nullptr, h(n));
    for (int64_t n = 0; n < args.batch; ++n) {
      const V r = math::sigmoid<T>(kept(0, n));
      const V z = math::sigmoid<T>(kept(1, n));
      update(n, z, math::tanh<T>(fma(r, kept(3, n), kept(2, n))));
    }
  }

  void update(int64_t n, const V& z, const V& candidate) const {
    put_h(n, fma(z, lanes<S>(args.h, n * args.hidden + unit) - candidate, candidate));
  }

  void gru_before() const {
    for (int64_t n = 0; n < args.batch; ++n) {
      const int64_t at = n * args.hidden + unit;
      if (args.phase == 0) {
        const V r = math::sigmoid<T>(gate(0, x(n), h(n)));
        store_lanes<T>(static_cast<T*>(args.update) + at, math::sigmoid<T>(gate(1, x(n), h(n))),
                       count);
        store_lanes<S>(static_cast<S*>(args.reset) + at, r * lanes<S>(args.h, at), count);
      } else {
        const S* reset = static_cast<const S*>(args.reset) + n * args.hidden;
        update(n, lanes<T>(args.update, at), math::tanh<T>(gate(2, x(n), reset)));
      }
    }
  }

  void rnn() const {
    for (int64_t n = 0; n < args.batch; ++n) {
      const V sum = gate(0, x(n), h(n));
      put_h(n, args.cell == Cell::rnn_tanh ? math::tanh<T>(sum)
                                           : math::detail::not_below<T>(sum, T(0)));
    }
  }
};

template <class S>
void cell_step(const CellStepArgs& args) {
  for (int64_t unit = args.unit_begin; unit < args.unit_end; unit += kWidth<S>) {
    const Unit<S> units{args, unit, std::min(kWidth<S>, args.unit_end - unit)};
    switch (args.cell) {
      case Cell::lstm:
        units.lstm();
        break;
      case Cell::gru:
        units.gru();
        break;
      case Cell::gru_before:
        units.gru_before();
        break;
      default:
        units.rnn();
    }
  }
}

}  // namespace

CellStepKernel select_cell_step(DType dtype) {
  switch (dtype) {
    case DType::f64:
      return &cell_step<double>;
    case DType::bf16:
      return &cell_step<bfloat16>;
    default:
      return &cell_step<float>;
  }
}

}  // namespace marey::MAREY_ISA_NS
