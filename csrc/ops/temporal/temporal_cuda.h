#pragma once
// The temporal family on a CUDA device: the contracts of sosfilt.h, sosfiltfilt.h, convolve.h,
// median_filter.h and median.h, with these differences. Views hold device pointers. Work is put on
// `queue` and not waited for. Denormal numbers are computed with.
#include <string_view>

#include "core/view.h"
#include "cuda/kernel.h"
#include "ops/temporal/sosfiltfilt.h"
#include "ops/temporal/window.h"

namespace marey::cuda {

void sosfilt(const Queue& queue, const View& sos, const View& x, int axis, const View& y,
             const View* zi, const View* zf);

// Bytes of workspace: the extended signal, and of cascades beyond four sections their coefficients
// and state.
int64_t sosfiltfilt_workspace(const View& x, int axis, int64_t padlen, int64_t sections);
void sosfiltfilt(const Queue& queue, const View& sos, const View& x, int axis, const View& y,
                 Extension extension, int64_t padlen, const View& zi, void* workspace);

void convolve(const Queue& queue, std::string_view function, const View& x, int axis,
              const View& taps, const Window& window, const View& y);

void median_filter(const Queue& queue, std::string_view function, const View& x, int axis,
                   const Window& window, const View& y);

void median(const Queue& queue, const View& x, int axis, const View& y);

}  // namespace marey::cuda
