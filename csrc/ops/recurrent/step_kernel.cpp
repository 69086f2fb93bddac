// One step from unpacked weights.
//
// Vectorised over the depth: a vector of units of one gate has as many sums in registers, one a
// row of the weight matrix, whose lanes are added up at the end. All sequences of the batch go past
// these rows while the first cache has them. One sequence is bound by reading the weights.
#include "core/transpose.h"
#include "ops/recurrent/panels.h"
#include "ops/recurrent/step.h"

namespace marey::MAREY_ISA_NS {
namespace {

using namespace recurrent;

// Lanes [begin, end) of what lies at p, zeros beside them.
template <class S>
inline VecOf<S> load_between(const S* p, int64_t begin, int64_t end) {
  using V = VecOf<S>;
  constexpr int64_t W = kWidth<S>;
#if defined(__AVX512F__)
  const auto mask = static_cast<uint32_t>((1U << end) - (1U << begin));
  if constexpr (std::is_same_v<S, float>) {
    return V(_mm512_maskz_loadu_ps(static_cast<__mmask16>(mask), p));
  } else if constexpr (std::is_same_v<S, double>) {
    return V(_mm512_maskz_loadu_pd(static_cast<__mmask8>(mask), p));
  }
#endif
  alignas(64) S lanes[W] = {};
  std::memcpy(lanes + begin, p + begin, static_cast<std::size_t>(end - begin) * sizeof(S));
  return load_as<V>(static_cast<const S*>(lanes));
}

// Items at the start of rows before the first whole vector that lies in one line of a cache: arrays
// of NumPy's start anywhere, and to read all weights across lines took 11 us where 8 are enough.
template <class S>
inline int64_t unaligned_items([[maybe_unused]] const S* rows, [[maybe_unused]] int64_t stride) {
#if defined(__AVX512F__)
  if constexpr (!std::is_same_v<S, bfloat16>) {
    constexpr int64_t W = kWidth<S>;
    const auto items = static_cast<int64_t>(reinterpret_cast<uintptr_t>(rows) / sizeof(S));
    return stride % W == 0 ? -items & (W - 1) : 0;
  }
#endif
  return 0;
}

// In lane j the product of row j of a matrix, whose rows lie `stride` apart, with x. A lane of a
// sum takes every W-th item from some item on, and since lanes are added up by halves the result is
// the same wherever that is.
template <class S>
[[gnu::noinline, gnu::flatten]] VecOf<S> rows_times(const S* rows, int64_t stride, const S* x,
                                                    int64_t depth) {
  using V = VecOf<S>;
  constexpr int W = static_cast<int>(kWidth<S>);
  // Of four rows one has its address in a register, and the others' follow from it: sixteen did
  // not fit.
  constexpr int kNear = W < 4 ? W : 4;
  const S* near[W / kNear];
  V sums[W];
#pragma GCC unroll 16
  for (int j = 0; j < W; ++j) sums[j] = V(RealOf<S>(0));
  const int64_t twice = 2 * stride, thrice = 3 * stride;
  const auto add = [&](const auto& load_items) {
    const V item = load_items(x);
#pragma GCC unroll 16
    for (int j = 0; j < W; ++j) {
      const S* row = near[j / kNear];
      const int of = j % kNear;
      const S* at = of == 0 ? row : row + (of == 1 ? stride : of == 2 ? twice : thrice);
      sums[j] += load_items(at) * item;
    }
  };
  // Whole vectors lie from here on.
  const int64_t lead = unaligned_items(rows, stride);
  const int64_t before = lead == 0 ? 0 : W - lead;
  x -= before;
  depth += before;
#pragma GCC unroll 16
  for (int g = 0; g < W / kNear; ++g) near[g] = rows - before + g * kNear * stride;
  int64_t begin = before;
  const auto move = [&] {
    x += W;
    depth -= W;
#pragma GCC unroll 16
    for (int g = 0; g < W / kNear; ++g) {
      near[g] += W;
      // The compiler shall not make a pointer of every row's address.
      asm("" : "+r"(near[g]));
    }
  };
  while (depth > 0) {
    if (begin > 0 || depth < W) {
      const int64_t end = std::min<int64_t>(depth, W);
      add([begin, end](const S* p) { return load_between(p, begin, end); });
      begin = 0;
      move();
    }
    for (; depth >= W; move()) add([](const S* p) { return load_as<V>(p); });
  }
  return sum_of_lanes<RealOf<S>>(sums);
}

// The same of the first `count` rows alone.
template <class S>
[[gnu::noinline]] VecOf<S> some_rows_times(int64_t count, const S* rows, int64_t stride, const S* x,
                                           int64_t depth) {
  using V = VecOf<S>;
  constexpr int64_t W = kWidth<S>;
  V sums[W];
  for (int64_t j = 0; j < W; ++j) {
    sums[j] = V(RealOf<S>(0));
    for (int64_t k = 0; j < count && k < depth; k += W) {
      const int64_t end = std::min(depth - k, W);
      sums[j] += load_between(rows + j * stride + k, 0, end) * load_between(x + k, 0, end);
    }
  }
  return sum_of_lanes<RealOf<S>>(sums);
}

template <class S>
struct Unit {
  using T = RealOf<S>;
  using V = VecOf<S>;
  static constexpr int64_t W = kWidth<S>;

  const CellStepArgs& args;
  int64_t unit, count;

  // One gate's sums for a sequence: of what comes from the input, from the state, or both.
  V gate(int g, const S* x, const S* h) const {
    const int64_t first = g * args.hidden + unit;
    V total(T(0));
    const auto add = [&](const void* weight, int64_t stride, const S* items, int64_t depth,
                         const void* bias) {
      if (items == nullptr) return;
      const S* rows = static_cast<const S*>(weight) + first * stride;
      total += count == W ? rows_times(rows, stride, items, depth)
                          : some_rows_times(count, rows, stride, items, depth);
      if (bias != nullptr) total += lanes<S>(bias, first);
    };
    add(args.ih, args.ih_stride, x, args.input, args.bias_ih);
    add(args.hh, args.hh_stride, h, args.hidden, args.bias_hh);
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
