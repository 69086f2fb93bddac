#include "ops/temporal/ideal_bandpass.h"

#include <algorithm>
#include <cmath>
#include <numbers>
#include <string>
#include <vector>

#include "core/error.h"
#include "ops/temporal/series.h"

namespace marey {

MAREY_STUB_NO_BF16(select_ideal_bandpass, SelectIdealBandpass)

namespace {

constexpr std::string_view kName = "marey.ideal_bandpass";
constexpr int64_t kVectorBytes = 64;

int64_t in_groups(int64_t count) { return (count + kIdealGroup - 1) / kIdealGroup * kIdealGroup; }

// The bins to project onto.
struct Projection {
  std::vector<int64_t> bins;
  bool complement;
};

bool projects_complement(int64_t steps, int64_t kept) { return 2 * kept > steps / 2 + 1; }

Projection projection(int64_t steps, int64_t first, int64_t last) {
  Projection p{{}, projects_complement(steps, last - first + 1)};
  for (int64_t k = 0; k <= steps / 2; ++k) {
    if ((k >= first && k <= last) != p.complement) p.bins.push_back(k);
  }
  return p;
}

struct Tables {
  std::vector<double> forward;
  std::vector<double> backward;
};

Tables make_tables(const std::vector<int64_t>& bins, int64_t steps) {
  const int64_t pairs = steps / 2 + 1;
  const auto count = static_cast<int64_t>(bins.size());
  const auto angle = [&](int64_t k, int64_t p) {
    return 2 * std::numbers::pi * static_cast<double>(k * p % steps) / static_cast<double>(steps);
  };
  Tables tables;
  tables.forward.assign(static_cast<std::size_t>(2 * in_groups(count) * (pairs - 1)), 0.0);
  tables.backward.assign(static_cast<std::size_t>(2 * in_groups(pairs) * count), 0.0);
  // Where the cosine and, behind it, the sine stand.
  const auto place = [](std::vector<double>& table, int64_t grouped, int64_t inner,
                        int64_t inner_count) {
    const int64_t group = grouped / kIdealGroup;
    return &table[static_cast<std::size_t>(((group * inner_count + inner) * 2) * kIdealGroup +
                                           grouped % kIdealGroup)];
  };
  for (int64_t b = 0; b < count; ++b) {
    const int64_t k = bins[static_cast<std::size_t>(b)];
    const double gain = (k == 0 || 2 * k == steps ? 1.0 : 2.0) / static_cast<double>(steps);
    for (int64_t p = 0; p < pairs; ++p) {
      const bool single = p == 0 || 2 * p == steps;
      const double cosine = std::cos(angle(k, p));
      const double sine = single ? 0.0 : std::sin(angle(k, p));
      if (p > 0) {
        double* forward = place(tables.forward, b, p - 1, pairs - 1);
        forward[0] = gain * cosine * (single ? 0.5 : 1.0);
        forward[kIdealGroup] = gain * sine;
      }
      double* backward = place(tables.backward, p, b, count);
      backward[0] = cosine;
      backward[kIdealGroup] = sine;
    }
  }
  return tables;
}

}  // namespace

int64_t ideal_bandpass_cost(int64_t steps, int64_t first, int64_t last) {
  const int64_t kept = std::max<int64_t>(0, last - first + 1);
  return projects_complement(steps, kept) ? steps / 2 + 1 - kept : kept;
}

void ideal_bandpass(const View& x, int axis, int64_t first, int64_t last, const View& y) {
  const int64_t steps = x.shape[axis];
  if (first < 0 || last > steps / 2) {
    throw ValueError(kName, "band",
                     "bins between 0 and " + std::to_string(steps / 2) + " for " +
                         std::to_string(steps) + " steps",
                     std::to_string(first) + " to " + std::to_string(last));
  }
  if (steps == 0) return;
  last = std::max(last, first - 1);
  const auto [bins, complement] = projection(steps, first, last);
  const auto count = static_cast<int64_t>(bins.size());
  const Tables tables = make_tables(bins, steps);
  const bool wide = y.dtype == DType::f64;
  const std::vector<float> forward(tables.forward.begin(), tables.forward.end());
  const std::vector<float> backward(tables.backward.begin(), tables.backward.end());

  TileJob job({&x}, y, axis);
  const int64_t item = item_size(y.dtype);
  const int64_t folded = 2 * in_groups(steps / 2 + 1) * item;
  job.width = cached_tile_width(folded, item);
  job.scratch_bytes = folded * round_up(widest_tile(job), 2 * kVectorBytes / item) +
                      4 * in_groups(count) * kVectorBytes;
  IdealBandpassFn* run = select_ideal_bandpass_stub.get()(x.dtype, y.dtype);
  for_each_tile(job, [&](const SeriesTile& tile) {
    run({tile.in[0].data, tile.in[0].stride, tile.out.data, tile.out.stride, steps, tile.width,
         count, wide ? static_cast<const void*>(tables.forward.data()) : forward.data(),
         wide ? static_cast<const void*>(tables.backward.data()) : backward.data(), complement,
         first == 0 && last >= 0, tile.scratch, tile.streaming});
  });
}

}  // namespace marey
