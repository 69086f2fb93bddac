#pragma once
// sosfiltfilt: a cascade of second-order sections forward and then backward along one axis, as
// scipy.signal.sosfiltfilt: no phase shift, and the gain squared (Gustafsson, Determining the
// initial states in forward-backward filtering, IEEE Transactions on Signal Processing 44(4), 1996,
// calls it the padding method).
//
// The signal is extended by `padlen` values at each end; both passes start in the steady state of
// their first value. The forward result of a tile stays in the cache, and the backward pass runs
// from there: every item is read from memory once and written once.
#include <string_view>
#include <vector>

#include "core/view.h"

namespace marey {

// How a signal a b c .. x y z goes on beyond its ends: odd 2a-c 2a-b | a, even c b | a, constant a
// a | a.
enum class Extension : int { odd, even, constant };
Extension extension_of(std::string_view padtype);

// The state of each section in which a step of height one is steady: (sections, 2), as
// scipy.signal.sosfilt_zi. `sos` as checked_sections returns it; a ValueError where a section has a
// pole at frequency 0, and so no such state.
std::vector<double> steady_state(std::string_view function, const std::vector<double>& sos);

// The arguments of sosfiltfilt, checked.
struct SteadySections {
  std::vector<double> sos;  // (sections, 6)
  std::vector<double> zi;   // (sections, 2)
};
SteadySections checked_sosfiltfilt(const View& sos, const View& x, int axis, int64_t padlen,
                                   const View& zi);

// sos: as for sosfilt. zi: (sections, 2) float64, the state in which a step of height one is steady
// (scipy.signal.sosfilt_zi). x: uint8, float32 or float64; more than padlen steps along `axis`. y:
// x's shape, float32 for uint8 and else x's type; the same memory as x or none of it. `axis` is not
// negative. Each thread's scratch is (steps + 2 * padlen) items for each of 64 to 1024 series, at
// most 160 KiB unless 64 series need more.
void sosfiltfilt(const View& sos, const View& x, int axis, const View& y, Extension extension,
                 int64_t padlen, const View& zi);

}  // namespace marey
