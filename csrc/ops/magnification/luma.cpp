#include "ops/magnification/luma.h"

#include <atomic>

#include "core/error.h"
#include "core/parallel.h"

namespace marey {

MAREY_STUB_NO_BF16(select_luma, SelectLuma)

namespace {

constexpr int64_t kRows = 16;

LumaRow row_of(const View& frame, int64_t y) {
  const bool grey = frame.ndim() == 2;
  return {frame.as<std::byte>() + y * frame.stride(0), frame.stride(1),
          grey ? item_size(frame.dtype) : frame.stride(2), grey ? 1 : frame.shape[2],
          frame.shape[1]};
}

}  // namespace

void take_luma(std::string_view function, const View& frame, float* luma) {
  const LumaKernel kernel = select_luma_stub.get()(frame.dtype);
  std::atomic<bool> within{true};
  parallel_for(frame.shape[0], kRows, 0, [&](int64_t begin, int64_t end, std::byte*) {
    for (int64_t y = begin; y < end; ++y) {
      if (!kernel.take(row_of(frame, y), luma + y * frame.shape[1])) within = false;
    }
  });
  if (!within) {
    throw ValueError(function, "frames", "finite values, of magnitude 1e6 at most",
                     "NaN, infinity or larger ones");
  }
}

void add_to_luma(const View& frame, const float* change, const View& out) {
  const LumaKernel kernel = select_luma_stub.get()(frame.dtype);
  parallel_for(frame.shape[0], kRows, 0, [&](int64_t begin, int64_t end, std::byte*) {
    for (int64_t y = begin; y < end; ++y) {
      kernel.add(row_of(frame, y), change + y * frame.shape[1],
                 out.as<std::byte>() + y * out.stride(0));
    }
  });
}

}  // namespace marey
