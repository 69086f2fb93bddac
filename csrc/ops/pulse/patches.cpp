#include "ops/pulse/patches.h"

#include <algorithm>
#include <cstring>
#include <limits>
#include <string>

#include "core/error.h"
#include "core/parallel.h"
#include "core/rows.h"

namespace marey {

MAREY_STUB_NO_BF16(select_add_rows, SelectAddRows)

namespace {

constexpr std::string_view kName = "marey.pulse.patch_means";
constexpr int64_t kChannels = 3;
// Rows of bytes that a sum of 16 bits can take.
constexpr int64_t kFlushRows = 256;
constexpr int64_t kSerialItems = int64_t{1} << 16;

void check_edges(const char* argument, const std::vector<int64_t>& edges, int64_t extent) {
  bool fits = edges.size() >= 2 && edges.front() >= 0 && edges.back() <= extent;
  for (std::size_t k = 1; k < edges.size(); ++k) fits = fits && edges[k - 1] < edges[k];
  if (fits) return;
  std::string found;
  for (const int64_t edge : edges) found += (found.empty() ? "" : ", ") + std::to_string(edge);
  throw ValueError(kName, argument,
                   "rising from 0 or more to " + std::to_string(extent) + " or less", found);
}

// Sums over the columns of each patch: totals[3 * patch + channel] += sums[3 * x + channel].
template <class S, class Total>
void add_columns(const S* sums, const std::vector<int64_t>& edges, Total* totals) {
  const int64_t origin = edges.front();
  for (std::size_t patch = 0; patch + 1 < edges.size(); ++patch) {
    Total total[kChannels] = {};
    for (int64_t x = edges[patch] - origin; x < edges[patch + 1] - origin; ++x) {
      for (int64_t c = 0; c < kChannels; ++c) total[c] += sums[kChannels * x + c];
    }
    for (int64_t c = 0; c < kChannels; ++c) {
      totals[kChannels * static_cast<int64_t>(patch) + c] += total[c];
    }
  }
}

// How many pixels of the mask each patch has.
std::vector<int64_t> count_pixels(const std::vector<int64_t>& row_edges,
                                  const std::vector<int64_t>& column_edges, const View* mask) {
  std::vector<int64_t> counts;
  for (std::size_t i = 0; i + 1 < row_edges.size(); ++i) {
    for (std::size_t j = 0; j + 1 < column_edges.size(); ++j) {
      int64_t count = 0;
      for (int64_t y = row_edges[i]; y < row_edges[i + 1]; ++y) {
        if (mask == nullptr) {
          count += column_edges[j + 1] - column_edges[j];
          continue;
        }
        const auto* row = mask->as<const uint8_t>() + y * mask->stride(0);
        for (int64_t x = column_edges[j]; x < column_edges[j + 1]; ++x) count += row[x] != 0;
      }
      counts.push_back(count);
    }
  }
  return counts;
}

}  // namespace

void patch_means(const View& frames, const std::vector<int64_t>& row_edges,
                 const std::vector<int64_t>& column_edges, const View* mask, const View& means) {
  if (frames.ndim() != 4 || frames.shape[3] != kChannels) {
    throw ValueError(kName, "frames", "shape (T, H, W, 3)", to_string(frames.shape));
  }
  if (frames.dtype == DType::f64) {
    throw TypeError(kName, "frames", "uint8 or float32", name(frames.dtype));
  }
  const int64_t height = frames.shape[1];
  const int64_t width = frames.shape[2];
  check_edges("row_edges", row_edges, height);
  check_edges("column_edges", column_edges, width);
  if (mask != nullptr) {
    Shape expected;
    expected.push_back(height);
    expected.push_back(width);
    if (!(mask->shape == expected)) {
      throw ValueError(kName, "mask", "shape " + to_string(expected), to_string(mask->shape));
    }
  }

  const bool bytes = frames.dtype == DType::u8;
  const auto rows = static_cast<int64_t>(row_edges.size()) - 1;
  const auto columns = static_cast<int64_t>(column_edges.size()) - 1;
  const int64_t first = column_edges.front();
  const int64_t pixels = column_edges.back() - first;
  const int64_t items = kChannels * pixels;
  const std::vector<int64_t> counts = count_pixels(row_edges, column_edges, mask);
  AddRows* const add = select_add_rows_stub.get()(frames.dtype);
  const FrameRows source(frames);
  const int64_t sum_bytes = (items * (bytes ? 2 : 8) + 63) / 64 * 64;
  const int64_t select_bytes = mask == nullptr ? 0 : (items + 63) / 64 * 64;
  const int64_t band_items =
      std::max<int64_t>(1, (row_edges.back() - row_edges.front()) / rows * items);

  parallel_for(frames.shape[0] * rows, std::max<int64_t>(1, kSerialItems / band_items),
               static_cast<std::size_t>(sum_bytes + select_bytes + 8 * kChannels * columns) +
                   source.scratch_bytes(pixels),
               [&](int64_t begin, int64_t end, std::byte* scratch) {
                 std::byte* const sums = scratch;
                 auto* const select = reinterpret_cast<uint8_t*>(sums + sum_bytes);
                 std::byte* const totals = sums + sum_bytes + select_bytes;
                 std::byte* const gathered = totals + 8 * kChannels * columns;
                 for (int64_t band = begin; band < end; ++band) {
                   const int64_t t = band / rows;
                   const int64_t i = band % rows;
                   std::memset(totals, 0, static_cast<std::size_t>(8 * kChannels * columns));
                   const int64_t last = row_edges[static_cast<std::size_t>(i) + 1];
                   for (int64_t y = row_edges[static_cast<std::size_t>(i)]; y < last;) {
                     const int64_t stop = std::min(y + kFlushRows, last);
                     std::memset(sums, 0, static_cast<std::size_t>(sum_bytes));
                     for (; y < stop; ++y) {
                       if (mask != nullptr) {
                         const auto* row = mask->as<const uint8_t>() + y * mask->stride(0) + first;
                         for (int64_t k = 0; k < items; ++k) {
                           select[k] = row[k / kChannels] != 0 ? (bytes ? uint8_t{255} : uint8_t{1})
                                                               : uint8_t{0};
                         }
                       }
                       add(sums, source.pixels(t, y, first, pixels, gathered),
                           mask == nullptr ? nullptr : select, items);
                     }
                     if (bytes) {
                       add_columns(reinterpret_cast<const uint16_t*>(sums), column_edges,
                                   reinterpret_cast<uint64_t*>(totals));
                     } else {
                       add_columns(reinterpret_cast<const double*>(sums), column_edges,
                                   reinterpret_cast<double*>(totals));
                     }
                   }
                   double* to = means.as<double>() + band * columns * kChannels;
                   for (int64_t j = 0; j < columns; ++j) {
                     const int64_t count = counts[static_cast<std::size_t>(i * columns + j)];
                     for (int64_t k = kChannels * j; k < kChannels * (j + 1); ++k) {
                       const double total =
                           bytes ? static_cast<double>(reinterpret_cast<const uint64_t*>(totals)[k])
                                 : reinterpret_cast<const double*>(totals)[k];
                       to[k] = count > 0 ? total / static_cast<double>(count)
                                         : std::numeric_limits<double>::quiet_NaN();
                     }
                   }
                 }
               });
}

}  // namespace marey
