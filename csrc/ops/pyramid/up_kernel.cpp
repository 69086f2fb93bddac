#include "ops/pyramid/up.h"
#include "ops/pyramid/up_rows.h"

namespace marey::MAREY_ISA_NS {
namespace {

// S: source and doubled row's input; A: sums; D: result (and `other`).
template <class S, class A, class D, UpMode kMode>
struct Up {
  static void run(const UpArgs& args, int64_t begin, int64_t end, std::byte* scratch) {
    Arena arena(scratch);
    RowReader<S> read(args.source, arena);
    RowReader<D> other(args.other, arena);
    UpRows<S, A> up(args.source.height, args.source.width, args.out.width, args.out.channels,
                    arena);
    const int64_t n = args.out.row_items();
    for (int64_t y = begin; y < end; ++y) {
      D* out = reinterpret_cast<D*>(args.out.data + y * args.out.row_stride);
      up(y, read, [&](auto u) {
        if constexpr (kMode == UpMode::plain) {
          write(out, u, n, args.streaming);
        } else {
          write_sum(args, out, other(y), u, n);
        }
      });
    }
    if (args.streaming) stream_fence();
  }

  static int64_t scratch_bytes(const Plane& source, const Plane& out) {
    return RowReader<S>::scratch_bytes(source) + RowReader<D>::scratch_bytes(out) +
           UpRows<S, A>::scratch_bytes(source.width, out.channels);
  }

  static constexpr UpKernel kernel{run, scratch_bytes};

 private:
  template <class F>
  static void write(D* out, F u, int64_t n, bool streaming) {
    if constexpr (std::is_same_v<A, D>) {
      write_row<D>(out, n, streaming, u);
    } else {
      constexpr int64_t kLanes = static_cast<int64_t>(Vec<A>::size());
      if (n < kLanes) return store_partial(out, u(0), n);
      for_each_vector<Vec<A>>(n, [&](int64_t k) { store_narrow(out + k, u(k)); });
    }
  }

  template <class F>
  static void write_sum(const UpArgs& args, D* out, const D* x, F u, int64_t n) {
    using V = Vec<A>;
    constexpr int64_t kLanes = static_cast<int64_t>(V::size());
    const A wx = static_cast<A>(args.other_weight);
    const A wu = static_cast<A>(args.up_weight);
    const auto sum = [&](int64_t k) {
      const V own = n < kLanes ? load_partial<V>(x, n) : load<V>(x + k);
      V r = fma(V(wx), own, V(wu) * u(k));
      if constexpr (kMode == UpMode::add_clipped) r = stdx::min(stdx::max(r, V(A{0})), V(A{1}));
      return r;
    };
    if constexpr (std::is_same_v<A, D>) {
      write_row<D>(out, n, args.streaming, sum);
    } else {
      if (n < kLanes) {
        D lanes[kLanes];
        store_saturated(lanes, sum(0));
        std::copy_n(lanes, n, out);
        return;
      }
      for_each_vector<V>(n, [&](int64_t k) { store_saturated(out + k, sum(k)); });
    }
  }
};

}  // namespace

UpKernel select_up(DType source, DType out, UpMode mode) {
  if (source == DType::u8) return Up<uint8_t, uint16_t, uint8_t, UpMode::plain>::kernel;
  if (source == DType::f64) {
    return mode == UpMode::plain ? Up<double, double, double, UpMode::plain>::kernel
                                 : Up<double, double, double, UpMode::add>::kernel;
  }
  if (out == DType::u8) return Up<float, float, uint8_t, UpMode::add>::kernel;
  switch (mode) {
    case UpMode::plain:
      return Up<float, float, float, UpMode::plain>::kernel;
    case UpMode::add:
      return Up<float, float, float, UpMode::add>::kernel;
    case UpMode::add_clipped:
      return Up<float, float, float, UpMode::add_clipped>::kernel;
  }
  return {};
}

}  // namespace marey::MAREY_ISA_NS
