#include "ops/pyramid/down_rows.h"
#include "ops/pyramid/laplacian.h"
#include "ops/pyramid/up_rows.h"

namespace marey::MAREY_ISA_NS {
namespace {

// S: source; T: coarse image and band.
template <class S, class T>
struct Laplacian {
  static void run(const LaplacianArgs& args, int64_t begin, int64_t end, std::byte* scratch) {
    Arena arena(scratch);
    RowReader<S> read(args.source, arena);
    DownRows<S, T, T> down(args.source, read, arena);
    UpRows<T, T> up(args.coarse.height, args.coarse.width, args.band.width, args.band.channels,
                    arena);
    // A neighbour's row, which is computed here too.
    T* seam = arena.take<T>(args.coarse.row_items());
    const auto coarse = [&](int64_t i) {
      const bool own = i >= begin && i < end;
      T* row = own ? reinterpret_cast<T*>(args.coarse.data + i * args.coarse.row_stride) : seam;
      down(i, row);
      return row;
    };
    for (int64_t y = 2 * begin; y < std::min(2 * end, args.band.height); ++y) {
      up(y, coarse, [&](auto u) { write_band(args, y, read(y), u); });
    }
    if (args.streaming) stream_fence();
  }

  static int64_t scratch_bytes(const Plane& source) {
    return RowReader<S>::scratch_bytes(source) + DownRows<S, T, T>::scratch_bytes(source) +
           UpRows<T, T>::scratch_bytes(half(source.width), source.channels) +
           Arena::bytes<T>(half(source.width) * source.channels);
  }

  static constexpr LaplacianKernel kernel{run, scratch_bytes};

 private:
  template <class F>
  static void write_band(const LaplacianArgs& args, int64_t y, const S* x, F u) {
    using V = Vec<T>;
    const int64_t n = args.band.row_items();
    T* band = reinterpret_cast<T*>(args.band.data + y * args.band.row_stride);
    write_row<T>(band, n, args.streaming, [&](int64_t k) {
      const V own = n < static_cast<int64_t>(V::size()) ? load_partial<V>(x, n) : load<V>(x + k);
      return own - u(k);
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
