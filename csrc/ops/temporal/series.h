#pragma once
// The one way in which the temporal family goes through an array: in tiles of neighbouring series.
//
// A series is what an array holds along the time axis at one position of all other axes (a pixel's
// values over time). Kernels take a tile: rows of adjacent items, one row a step. Where series lie
// next to each other in memory a tile is a pointer into the arrays themselves; any other layout is
// gathered into scratch, worked on there, and scattered.
#include <array>
#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <memory>
#include <type_traits>

#include "core/view.h"

namespace marey {

// The series of an array along `axis`, numbered in C order over all other axes.
class Series {
 public:
  Series() = default;
  Series(const View& view, int axis);

  int64_t count() const { return shape_.count(); }
  // Series lie next to each other in memory in runs of this many.
  int64_t run_length() const;
  // The offsets in bytes of series [first, first + count).
  void offsets(int64_t first, int64_t count, int64_t* result) const;

 private:
  int64_t stride(int a) const { return strides_[static_cast<std::size_t>(a)]; }

  int64_t item_ = 1;
  Shape shape_;
  std::array<int64_t, kMaxDims> strides_{};
};

// Copies `count` items of `item` bytes between a row of adjacent ones and `offsets` from
// `scattered`.
void gather_items(const std::byte* scattered, const int64_t* offsets, std::byte* row, int64_t count,
                  int64_t item);
void scatter_items(std::byte* scattered, const int64_t* offsets, const std::byte* row,
                   int64_t count, int64_t item);

// Item k of step t is at data + t * stride + k * item.
struct Rows {
  std::byte* data = nullptr;
  int64_t stride = 0;  // in bytes

  std::byte* row(int64_t t) const { return data + t * stride; }
};

inline constexpr int64_t kMaxInputs = 2;

struct SeriesTile {
  std::array<Rows, kMaxInputs> in;
  Rows out;
  int64_t first;  // series [first, first + count)
  int64_t count;
  int64_t
      width;  // items to work on: `count`, or in gathered tiles a few more, which are thrown away
  int64_t begin;  // the first step, and how many: all of in[0]'s, but for a stepwise job's gathered
                  // tiles
  int64_t steps;
  bool streaming;      // write past the caches: every row of `out` is aligned to the widest vector
  std::byte* scratch;  // this thread's, `scratch_bytes` of the job
};

struct TileJob {
  TileJob(std::initializer_list<const View*> in, const View& out, int axis);

  std::array<const View*, kMaxInputs> inputs{};  // null or of equal shape but for `axis`
  const View* output;
  int axis;
  // Four KiB a row of float32, a page, so that neither the prefetcher nor the translation of
  // addresses is disturbed more often than by a plain copy.
  int64_t width = 1024;
  // Of gathered tiles; the constructor takes less where there are fewer series, in multiples of 16.
  int64_t gather_width = 64;
  // 0: a gathered tile holds whole series. Else it is handed over this many steps at a time, in
  // order; the input and the output must then have the same number of steps.
  int64_t gather_steps = 0;
  int64_t scratch_bytes = 0;
};

constexpr int64_t round_up(int64_t value, int64_t multiple) {
  return (value + multiple - 1) / multiple * multiple;
}

// The widest tile, of either kind, that a job hands over: a multiple of 16 series.
int64_t widest_tile(const TileJob& job);

// A width for tiles that keep `bytes_per_series` in scratch, so that all of it stays in the
// second-level cache: at most a page of items of `item` bytes, at least 64.
int64_t cached_tile_width(int64_t bytes_per_series, int64_t item);

namespace detail {
using TileFn = void (*)(const void* body, const SeriesTile& tile);
void for_each_tile(const TileJob& job, TileFn fn, const void* body);
}  // namespace detail

// Calls body(tile) for tiles that together cover all series, on many threads. The body must not
// throw.
template <class Body>
void for_each_tile(const TileJob& job, const Body& body) {
  detail::for_each_tile(
      job, [](const void* b, const SeriesTile& tile) { (*static_cast<const Body*>(b))(tile); },
      static_cast<const void*>(std::addressof(body)));
}

}  // namespace marey
