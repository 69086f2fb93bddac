#include "ops/temporal/median_filter.h"

#include <string>

#include "core/error.h"

namespace marey {

MAREY_STUB_NO_BF16(select_median_filter, SelectMedianFilter)

namespace {

constexpr int64_t kVectorBytes = 64;

}  // namespace

void median_filter(std::string_view function, const View& x, int axis, const Window& window,
                   const View& y) {
  if (window.size < 1) throw ValueError(function, "size", "1 or more", std::to_string(window.size));
  check_window(function, window, x, axis);

  TileJob job({&x, window.history}, y, axis);
  const WindowRows rows(window, job);
  job.scratch_bytes = (rows.scratch_bytes() + kVectorBytes - 1) / kVectorBytes * kVectorBytes;
  const int64_t sorted = job.scratch_bytes;
  job.scratch_bytes += kMedianFilterVectors * window.size * kVectorBytes;
  MedianFilterFn* run = select_median_filter_stub.get()(x.dtype, window.size);
  for_each_tile(job, [&](const SeriesTile& tile) {
    run({rows.of(tile), window.size, tile.out.data, tile.out.stride, tile.steps, tile.width,
         tile.scratch + sorted, tile.streaming});
  });
}

}  // namespace marey
