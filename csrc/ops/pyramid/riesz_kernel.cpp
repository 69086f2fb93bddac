#include "ops/pyramid/riesz_rows.h"

namespace marey::MAREY_ISA_NS {
namespace {

template <class T>
void run(const RieszRow& row) {
  riesz_vector(static_cast<const T*>(row.above), static_cast<const T*>(row.here),
               static_cast<const T*>(row.below), 0, row.width, row.width, static_cast<T*>(row.x),
               static_cast<T*>(row.y));
}

}  // namespace

RieszRowFn* select_riesz_row(DType band) { return band == DType::f32 ? run<float> : run<double>; }

}  // namespace marey::MAREY_ISA_NS
