#include "ops/temporal/median.h"

#include <algorithm>
#include <string>
#include <vector>

#include "core/error.h"
#include "ops/temporal/series.h"
#include "ops/temporal/sorting_network.h"

namespace marey {

MAREY_STUB_NO_BF16(select_median, SelectMedian)

namespace {

constexpr std::string_view kName = "marey.median";

// Counting takes a pass for each bit, sorting a number of comparators that grows with log^2(steps).
int64_t longest_network(DType dtype) {
  switch (dtype) {
    case DType::u8:
      return 0;
    case DType::f32:
      return 160;
    case DType::f64:
      return 640;
    case DType::bf16:
      break;
  }
  return 0;
}

// The comparators of a sorting network that the middle ranks depend on.
std::vector<MedianComparator> median_network(int64_t steps) {
  std::vector<MedianComparator> all;
  for_each_comparator(steps, [&](int64_t i, int64_t j) {
    all.push_back({static_cast<int32_t>(i), static_cast<int32_t>(j)});
  });
  std::vector<bool> needed(static_cast<std::size_t>(steps), false);
  needed[static_cast<std::size_t>(steps / 2)] = true;
  needed[static_cast<std::size_t>((steps - 1) / 2)] = true;
  std::vector<MedianComparator> kept;
  for (auto c = all.rbegin(); c != all.rend(); ++c) {
    const auto i = static_cast<std::size_t>(c->i);
    const auto j = static_cast<std::size_t>(c->j);
    if (!needed[i] && !needed[j]) continue;
    needed[i] = needed[j] = true;
    kept.push_back(*c);
  }
  std::reverse(kept.begin(), kept.end());
  return kept;
}

// Bytes of an item while it is counted: a count of `steps` must fit in it.
int64_t counted_item(DType dtype, int64_t steps) {
  if (dtype != DType::u8) return item_size(dtype);
  return steps <= 255 ? 1 : steps <= 65535 ? 2 : 4;
}

}  // namespace

void median(const View& x, int axis, const View& y) {
  const int64_t steps = x.shape[axis];
  if (steps == 0) {
    throw ValueError(kName, "x", "at least one step along axis " + std::to_string(axis),
                     to_string(x.shape));
  }
  const bool sorted = steps <= longest_network(x.dtype);
  const std::vector<MedianComparator> network =
      sorted ? median_network(steps) : std::vector<MedianComparator>();

  TileJob job({&x}, y, axis);
  const int64_t counted = counted_item(x.dtype, steps);
  const int64_t bytes = steps * counted;
  job.width = cached_tile_width(bytes, item_size(x.dtype));
  job.scratch_bytes = bytes * round_up(widest_tile(job), kMedianColumnBytes / counted);
  MedianFn* run = select_median_stub.get()(x.dtype, steps);
  for_each_tile(job, [&](const SeriesTile& tile) {
    run({tile.in[0].data, tile.in[0].stride, steps, tile.width, tile.out.data,
         sorted ? network.data() : nullptr, static_cast<int64_t>(network.size()), tile.scratch});
  });
}

}  // namespace marey
