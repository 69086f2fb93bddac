#include "ops/pyramid/laplacian.h"
#include "ops/pyramid/rows.h"

namespace marey::MAREY_ISA_NS {
namespace {

// S: source; T: coarse image and band.
template <class S, class T>
struct Laplacian {
  // Coarse rows i - 1, i and i + 1 stand in a ring, because the doubled rows over i need all three.
  static constexpr int64_t kRing = 4;

  static void run(const LaplacianArgs& args, int64_t begin, int64_t end, std::byte* scratch) {
    Arena arena(scratch);
    RowReader<S> read(args.source, arena);
    DownRows<S, T, T> down(args.source, read, arena);
    UpRows<T, T> up(args.coarse.height, args.coarse.width, args.band.width, args.band.channels,
                    arena);
    const int64_t coarse_items = args.coarse.row_items();
    T* ring = arena.take<T>(kRing * ring_stride(args.source));
    const auto ring_row = [&](int64_t i) { return ring + i % kRing * ring_stride(args.source); };
    const auto produce = [&](int64_t i) {
      down(i, ring_row(i));
      if (i >= begin && i < end) {
        std::copy_n(ring_row(i), coarse_items,
                    reinterpret_cast<T*>(args.coarse.data + i * args.coarse.row_stride));
      }
    };
    // At the upper border row -1 is row 1, which the first step produces anyway.
    if (begin > 0) produce(begin - 1);
    produce(begin);
    for (int64_t i = begin; i < end; ++i) {
      if (i + 1 < args.coarse.height) produce(i + 1);
      for (int64_t y = 2 * i; y < std::min(2 * i + 2, args.band.height); ++y) {
        const T* u = up(y, ring_row);
        write_band(args, y, read(y), u);
      }
    }
    if (args.streaming) stream_fence();
  }

  static int64_t scratch_bytes(const Plane& source) {
    return RowReader<S>::scratch_bytes(source) + DownRows<S, T, T>::scratch_bytes(source) +
           UpRows<T, T>::scratch_bytes(half(source.width), source.channels) +
           Arena::bytes<T>(kRing * ring_stride(source));
  }

  static constexpr LaplacianKernel kernel{run, scratch_bytes};

 private:
  static int64_t ring_stride(const Plane& source) {
    return buffer_items<T>(half(source.width), source.channels);
  }

  static void write_band(const LaplacianArgs& args, int64_t y, const S* x, const T* u) {
    using V = Vec<T>;
    const int64_t n = args.band.row_items();
    T* band = reinterpret_cast<T*>(args.band.data + y * args.band.row_stride);
    write_row<T>(band, n, args.streaming, [&](int64_t k) {
      const V own = n < static_cast<int64_t>(V::size()) ? load_partial<V>(x, n) : load<V>(x + k);
      return own - load<V>(u + k);
    });
  }
};

}  // namespace

LaplacianKernel select_laplacian(DType source) {
  switch (source) {
    case DType::u8:
      return Laplacian<uint8_t, float>::kernel;
    case DType::f32:
      return Laplacian<float, float>::kernel;
    case DType::f64:
      return Laplacian<double, double>::kernel;
    case DType::bf16:
      break;
  }
  return {};
}

}  // namespace marey::MAREY_ISA_NS
