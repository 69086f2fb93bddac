// The cell of an LSTM with layer norm, there and back.
//
// A thread takes whole rows: mean and variance need all units of a product, and rows that lie in
// the second cache (of 512 units: 16 KiB) are read three times sooner than threads could meet three
// times in a step. Variances are sums of squared deviations from the mean, in a second pass.
#include "ops/recurrent/norm_kernels.h"
#include "ops/recurrent/panels.h"

namespace marey::MAREY_ISA_NS {
namespace {

using namespace recurrent;

// `v` with zeros in the lanes that are no units.
template <class V>
V units_only(V v, int64_t count) {
  using T = typename V::value_type;
  if (count < static_cast<int64_t>(V::size())) {
    const V lane([](auto k) { return static_cast<T>(static_cast<int>(k)); });
    stdx::where(lane >= V(static_cast<T>(std::max<int64_t>(count, 0))), v) = V(T(0));
  }
  return v;
}

template <class T>
struct Statistics {
  T mean, factor;  // 1 / sqrt(variance + epsilon)
};

// Of `gates` gates of a row, whose vectors `at(gate, unit)` gives.
template <class S, class At>
Statistics<RealOf<S>> statistics(int gates, int64_t hidden, const At& at) {
  using T = RealOf<S>;
  using V = VecOf<S>;
  constexpr int64_t W = kWidth<S>;
  const T share = T(1) / static_cast<T>(gates * std::max<int64_t>(hidden, 1));
  V sum(T(0));
  for (int gate = 0; gate < gates; ++gate) {
    for (int64_t unit = 0; unit < hidden; unit += W) {
      sum += units_only<V>(at(gate, unit), hidden - unit);
    }
  }
  const T mean = stdx::reduce(sum) * share;
  V squares(T(0));
  for (int gate = 0; gate < gates; ++gate) {
    for (int64_t unit = 0; unit < hidden; unit += W) {
      const V d = units_only<V>(at(gate, unit) - V(mean), hidden - unit);
      squares += d * d;
    }
  }
  return {mean, T(1) / std::sqrt(stdx::reduce(squares) * share + static_cast<T>(kNormEpsilon))};
}

template <class S>
void step_row(const NormStepArgs& args, int64_t row) {
  using T = RealOf<S>;
  using V = VecOf<S>;
  constexpr int64_t W = kWidth<S>;
  const StepArgs& s = args.step;
  const int64_t units = args.blocks * kBlock<S>;
  const auto in_panels = [&](auto* base, int64_t stride, int gate, int64_t unit) {
    const int64_t block = unit / kBlock<S>;
    return base + (block * 4 + gate) * stride + row * kBlock<S> + unit % kBlock<S>;
  };
  const auto from_x = [&](int gate, int64_t unit) {
    return load<V>(in_panels(static_cast<const T*>(s.gates), s.gate_stride, gate, unit));
  };
  const auto from_h = [&](int gate, int64_t unit) {
    return load<V>(in_panels(static_cast<const T*>(args.from_h), args.from_h_stride, gate, unit));
  };
  const auto norm = [&](int k, int64_t unit) {
    return load<V>(static_cast<const T*>(args.norms) + k * units + unit);
  };
  const auto peephole = [&](int gate, int64_t unit) {
    return load<V>(static_cast<const T*>(s.peephole) + gate * units + unit);
  };
  T* kept = s.kept == nullptr ? nullptr : static_cast<T*>(s.kept[row]);
  const auto keep = [&](int k, int64_t unit, const V& v) {
    if (kept != nullptr) store(kept + k * s.kept_pitch + unit, v);
  };
  T* cells = static_cast<T*>(s.c) + row * s.c_pitch;

  const auto x = statistics<S>(4, s.hidden, from_x);
  const auto h = statistics<S>(4, s.hidden, from_h);
  for (int64_t unit = 0; unit < units; unit += W) {
    V gate[4];
    for (int k = 0; k < 4; ++k) {
      const V a = (from_x(k, unit) - V(x.mean)) * V(x.factor);
      const V b = (from_h(k, unit) - V(h.mean)) * V(h.factor);
      keep(args.kept.from_x() + k, unit, a);
      keep(args.kept.from_h() + k, unit, b);
      const int64_t at = (unit / kBlock<S> * 4 + k) * kBlock<S> + unit % kBlock<S>;
      gate[k] = fma(a, norm(k, unit),
                    fma(b, norm(4 + k, unit), load<V>(static_cast<const T*>(args.bias) + at)));
    }
    const V before = load<V>(cells + unit);
    if (s.peephole != nullptr) {
      gate[0] += peephole(0, unit) * before;
      gate[1] += peephole(1, unit) * before;
    }
    const V i = math::sigmoid<T>(gate[0]);
    const V f = math::sigmoid<T>(gate[1]);
    const V g = math::tanh<T>(gate[2]);
    const V c = fma(i, g, f * before);
    if (s.peephole != nullptr) gate[3] += peephole(2, unit) * c;
    const V o = math::sigmoid<T>(gate[3]);
    store(cells + unit, c);
    store(in_panels(static_cast<T*>(s.gates), s.gate_stride, 3, unit), o);
    keep(0, unit, i);
    keep(1, unit, f);
    keep(2, unit, g);
    keep(3, unit, o);
    keep(4, unit, c);
  }

  const auto c =
      statistics<S>(1, s.hidden, [&](int, int64_t unit) { return load<V>(cells + unit); });
  for (int64_t unit = 0; unit < units; unit += W) {
    const V normed = (load<V>(cells + unit) - V(c.mean)) * V(c.factor);
    const V out = from_x(3, unit) * math::tanh<T>(fma(normed, norm(8, unit), norm(9, unit)));
    keep(args.kept.cell(), unit, normed);
    if (s.keep_output) keep(LstmKept::output, unit, out);
    store_as(static_cast<S*>(s.h_next) + row * s.next_pitch + unit, out);
    if (s.y != nullptr) store_lanes<S>(static_cast<S*>(s.y[row]) + unit, out, s.hidden - unit);
  }
  if (kept != nullptr) {
    T* factors = kept + args.kept.factors() * s.kept_pitch;
    factors[0] = x.factor;
    factors[1] = h.factor;
    factors[2] = c.factor;
  }
}

template <class S>
void step(const NormStepArgs& args) {
  for (int64_t row = args.step.row_begin; row < args.step.row_end; ++row) step_row<S>(args, row);
}

// The gradient of a = gain (b - mean) factor towards b, from that of a times the gain:
// factor (d - mean(d) - normed mean(d normed)).
template <class V>
struct Through {
  using T = typename V::value_type;
  V sum = V(T(0)), product = V(T(0));

  void add(const V& d, const V& normed) {
    sum += d;
    product += d * normed;
  }
  void finish(int64_t count) {
    sum = V(stdx::reduce(sum) / static_cast<T>(count));
    product = V(stdx::reduce(product) / static_cast<T>(count));
  }
  V operator()(const V& d, const V& normed, T factor) const {
    return V(factor) * (d - sum - normed * product);
  }
};

template <class S>
void back_row(const NormBackArgs& args, int64_t row) {
  using T = RealOf<S>;
  using V = VecOf<S>;
  using Gates = NormedGates;
  constexpr int64_t W = kWidth<S>;
  const CellBackArgs& b = args.cell;
  const int64_t width = gate_width(b.hidden);
  T* gates = static_cast<T*>(b.gates) + row * b.gates_pitch;
  T* carry = static_cast<T*>(b.carry) + row * b.state_pitch;
  T* state = static_cast<T*>(b.dc) + row * b.state_pitch;
  const auto* kept_row = static_cast<const T*>(b.kept[row]);
  const T* factors = kept_row + args.kept.factors() * b.kept_pitch;
  const auto kept = [&](int k, int64_t unit) {
    return load<V>(kept_row + k * b.kept_pitch + unit);
  };
  const auto norm = [&](int k, int64_t unit) {
    return load<V>(static_cast<const T*>(args.norms) + k * b.units + unit);
  };
  const auto put = [&](int gate, int64_t unit, const V& v) {
    store_lanes<T>(gates + gate * width + unit, v, b.hidden - unit);
  };
  const auto put_back = [&](int gate, int64_t unit) {
    return load_lanes<V>(static_cast<const T*>(gates) + gate * width + unit, b.hidden - unit);
  };
  const auto slope = [](const V& v) { return v * (V(T(1)) - v); };

  Through<V> cell, x, h;
  for (int64_t unit = 0; unit < b.hidden; unit += W) {
    const int64_t count = b.hidden - unit;
    const int64_t block = unit / kBlock<S>;
    V dh = load<V>(static_cast<const T*>(b.product) + (block * b.product_rows + row) * kBlock<S> +
                   unit % kBlock<S>);
    dh += load<V>(carry + unit);
    if (b.grad_y != nullptr && b.grad_y[row] != nullptr) {
      dh += load_lanes<V>(static_cast<const S*>(b.grad_y[row]) + unit, count);
    }
    dh = units_only<V>(dh, count);
    const V normed = kept(args.kept.cell(), unit);
    const V t = math::tanh<T>(fma(normed, norm(8, unit), norm(9, unit)));
    const V o = kept(3, unit);
    const V d = dh * o * (V(T(1)) - t * t);
    put(Gates::gates + 3, unit, dh * t * slope(o));
    put(Gates::cell, unit, d);
    cell.add(d * norm(8, unit), normed);
    store(carry + unit, V(T(0)));
  }
  cell.finish(b.hidden);
  const auto* p = static_cast<const T*>(b.peephole);
  for (int64_t unit = 0; unit < b.hidden; unit += W) {
    const int64_t count = b.hidden - unit;
    const V d_o = put_back(Gates::gates + 3, unit);
    const V i = kept(0, unit), f = kept(1, unit), g = kept(2, unit);
    const V before =
        b.c_prev[row] == nullptr ? V(T(0)) : load<V>(static_cast<const T*>(b.c_prev[row]) + unit);
    V dc = load<V>(state + unit) + cell(put_back(Gates::cell, unit) * norm(8, unit),
                                        kept(args.kept.cell(), unit), factors[2]);
    if (p != nullptr) dc += load<V>(p + 2 * b.units + unit) * d_o;
    dc = units_only<V>(dc, count);
    const V d[4] = {dc * g * slope(i), dc * before * slope(f), dc * i * (V(T(1)) - g * g), d_o};
    V back = dc * f;
    if (p != nullptr) back += load<V>(p + unit) * d[0] + load<V>(p + b.units + unit) * d[1];
    store(state + unit, back);
    for (int k = 0; k < 4; ++k) {
      if (k < 3) put(Gates::gates + k, unit, d[k]);
      x.add(d[k] * norm(k, unit), kept(args.kept.from_x() + k, unit));
      h.add(d[k] * norm(4 + k, unit), kept(args.kept.from_h() + k, unit));
    }
  }
  x.finish(4 * b.hidden);
  h.finish(4 * b.hidden);
  for (int k = 0; k < 4; ++k) {
    for (int64_t unit = 0; unit < b.hidden; unit += W) {
      const V d = put_back(Gates::gates + k, unit);
      put(Gates::from_x + k, unit,
          x(d * norm(k, unit), kept(args.kept.from_x() + k, unit), factors[0]));
      put(Gates::from_h + k, unit,
          h(d * norm(4 + k, unit), kept(args.kept.from_h() + k, unit), factors[1]));
    }
  }
}

template <class S>
void back(const NormBackArgs& args) {
  for (int64_t row = args.row_begin; row < args.row_end; ++row) back_row<S>(args, row);
}

template <class S>
void sums(const NormSumArgs& args) {
  using T = RealOf<S>;
  using V = VecOf<S>;
  for (int64_t column = args.column_begin; column < args.column_end; column += kWidth<S>) {
    const int64_t count = std::min(kWidth<S>, args.column_end - column);
    T* sum = static_cast<T*>(args.sums) + column;
    V total = load_lanes<V>(static_cast<const T*>(sum), count);
    const auto* from = static_cast<const T*>(args.gates) + column;
    for (int64_t row = 0; row < args.rows; ++row, from += args.gates_pitch) {
      const auto* other = static_cast<const T*>(args.others[row]) + args.others_offset + column;
      total += load_lanes<V>(from, count) * load_lanes<V>(other, count);
    }
    store_lanes<T>(sum, total, count);
  }
}

template <class S>
constexpr NormKernels kKernels = {&step<S>, &back<S>, &sums<S>};

}  // namespace

const NormKernels* select_recurrent_norm(DType dtype) {
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
