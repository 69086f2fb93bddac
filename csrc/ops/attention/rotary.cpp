#include "ops/attention/rotary.h"

#include <algorithm>

#include "core/error.h"
#include "core/parallel.h"

namespace marey {

MAREY_STUB_NO_BF16(select_rotary, SelectRotary)

namespace {

constexpr std::string_view kName = "marey.rotary";
constexpr int64_t kGrain = 1 << 15;  // items in a range

void* row_of(const View& view, int64_t row) {
  return view.as<std::byte>() + offset_at(view, 0, view.ndim() - 1, row);
}

int64_t item_stride(const View& view) {
  return view.stride(view.ndim() - 1) / item_size(view.dtype);
}

}  // namespace

void rotary(const View& x, const View& cosine, const View& sine,
            const std::vector<int64_t>& sections, bool interleaved, const View& y) {
  if (x.ndim() < 2) throw ValueError(kName, "x", "shape (..., L, D)", to_string(x.shape));
  if (x.dtype == DType::u8) {
    throw TypeError(kName, "x", "float32, float64 or bfloat16", name(x.dtype));
  }
  const int64_t length = x.shape[x.ndim() - 2];
  const int64_t depth = x.shape[x.ndim() - 1];
  int64_t total = 0;
  bool even = true;
  for (int64_t section : sections) {
    total += section;
    even = even && section >= 0 && section % 2 == 0;
  }
  if (!even || total != depth) {
    throw ValueError(kName, "sections", "even sizes that add up to " + std::to_string(depth),
                     "others");
  }
  const DType computed = x.dtype == DType::bf16 ? DType::f32 : x.dtype;
  for (const View* table : {&cosine, &sine}) {
    if (table->ndim() != 2 || table->shape[0] != length || table->shape[1] != depth / 2) {
      throw ValueError(kName, "positions", std::to_string(length) + " positions",
                       to_string(table->shape));
    }
    if (table->dtype != computed || !is_contiguous(*table, 0, 2)) {
      throw TypeError(kName, "positions", name(computed), name(table->dtype));
    }
  }
  if (x.shape.count() == 0) return;
  RotaryFn* const turn = select_rotary_stub.get()(x.dtype);
  const int64_t pitch = depth / 2 * item_size(computed);
  parallel_for(x.shape.count() / depth, std::max<int64_t>(kGrain / depth, 1), 0,
               [&](int64_t begin, int64_t end, std::byte*) {
                 RotaryRow row{};
                 row.x_item = item_stride(x);
                 row.y_item = item_stride(y);
                 row.sections = sections.data();
                 row.count = static_cast<int64_t>(sections.size());
                 row.interleaved = interleaved;
                 for (int64_t i = begin; i < end; ++i) {
                   row.x = row_of(x, i);
                   row.y = row_of(y, i);
                   row.cosine = cosine.as<std::byte>() + i % length * pitch;
                   row.sine = sine.as<std::byte>() + i % length * pitch;
                   turn(row);
                 }
               });
}

}  // namespace marey
