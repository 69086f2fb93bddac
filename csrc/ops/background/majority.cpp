#include "ops/background/majority.h"

#include <algorithm>
#include <cstring>
#include <string>

#include "core/error.h"
#include "core/parallel.h"

namespace marey {

MAREY_STUB_NO_BF16(majority_row, MajorityRow)
MAREY_STUB_NO_BF16(slide_rows, SlideRows)

namespace {

constexpr std::string_view kName = "marey.background.majority";
// Rows in a band: its first row sums the window anew.
constexpr int64_t kBandRows = 64;
constexpr int64_t kSerialPixels = int64_t{1} << 16;

}  // namespace

void majority(const View& mask, int64_t size, const View& out) {
  if (mask.ndim() != 3 || mask.dtype != DType::u8 ||
      (mask.shape.count() != 0 && !is_contiguous(mask, 0, 3))) {
    throw ValueError(kName, "mask", "a C-contiguous (T, H, W) array of uint8",
                     to_string(mask.shape));
  }
  if (size < 1 || size > kMajorityLargest || size % 2 == 0) {
    throw ValueError(kName, "size", "an odd number from 1 to " + std::to_string(kMajorityLargest),
                     std::to_string(size));
  }
  const int64_t height = mask.shape[1];
  const int64_t width = mask.shape[2];
  const int64_t radius = size / 2;
  const int64_t bands = (height + kBandRows - 1) / kBandRows;
  const auto padded = static_cast<std::size_t>(width + 2 * radius);
  MajorityRow* const finish = majority_row_stub.get();
  SlideRows* const slide = slide_rows_stub.get();
  if (mask.shape.count() == 0) return;
  const int64_t grain = std::max<int64_t>(1, kSerialPixels / (std::min(height, kBandRows) * width));
  parallel_for(mask.shape[0] * bands, grain, padded + static_cast<std::size_t>(width),
               [&](int64_t begin, int64_t end, std::byte* scratch) {
                 auto* padded_sums = reinterpret_cast<uint8_t*>(scratch);
                 uint8_t* sums = padded_sums + radius;
                 uint8_t* limits = padded_sums + padded;
                 for (int64_t band = begin; band < end; ++band) {
                   const int64_t frame = band / bands * height * width;
                   const auto* source = mask.as<const uint8_t>() + frame;
                   const int64_t first = band % bands * kBandRows;
                   const int64_t last = std::min(first + kBandRows, height);
                   std::memset(padded_sums, 0, padded);
                   for (int64_t y = std::max<int64_t>(0, first - radius);
                        y < std::min(first + radius, height); ++y) {
                     slide(sums, source + y * width, nullptr, width);
                   }
                   int64_t limits_rows = 0;
                   for (int64_t y = first; y < last; ++y) {
                     const int64_t entering = y + radius;
                     const int64_t leaving = y - radius - 1;
                     slide(sums, entering < height ? source + entering * width : nullptr,
                           y > first && leaving >= 0 ? source + leaving * width : nullptr, width);
                     const int64_t rows =
                         std::min(y + radius, height - 1) - std::max<int64_t>(y - radius, 0) + 1;
                     if (rows != limits_rows) {
                       limits_rows = rows;
                       for (int64_t x = 0; x < width; ++x) {
                         const int64_t columns =
                             std::min(x + radius, width - 1) - std::max<int64_t>(x - radius, 0) + 1;
                         limits[x] = static_cast<uint8_t>(rows * columns / 2);
                       }
                     }
                     finish(padded_sums, limits, radius, width,
                            out.as<uint8_t>() + frame + y * width);
                   }
                 }
               });
}

}  // namespace marey
