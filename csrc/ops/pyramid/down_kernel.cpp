#include "ops/pyramid/down.h"
#include "ops/pyramid/down_rows.h"

namespace marey::MAREY_ISA_NS {
namespace {

template <class S, class A, class D>
struct Down {
  static void run(const DownArgs& args, int64_t begin, int64_t end, std::byte* scratch) {
    Arena arena(scratch);
    RowReader<S> read(args.source, arena);
    DownRows<S, A, D> down(args.source, read, arena);
    for (int64_t i = begin; i < end; ++i) {
      down(i, reinterpret_cast<D*>(args.out + i * args.out_row_stride));
    }
  }
  static int64_t scratch_bytes(const Plane& source) {
    return RowReader<S>::scratch_bytes(source) + DownRows<S, A, D>::scratch_bytes(source);
  }
  static constexpr DownKernel kernel{run, scratch_bytes};
};

}  // namespace

DownKernel select_down(DType source, DType out) {
  switch (source) {
    case DType::u8:
      return out == DType::u8 ? Down<uint8_t, uint16_t, uint8_t>::kernel
                              : Down<uint8_t, uint16_t, float>::kernel;
    case DType::f32:
      return Down<float, float, float>::kernel;
    case DType::f64:
      return Down<double, double, double>::kernel;
    case DType::bf16:
      break;
  }
  return {};
}

}  // namespace marey::MAREY_ISA_NS
