#include "ops/temporal/series.h"

#include <algorithm>
#include <cstring>

#include "core/parallel.h"

namespace marey {
namespace {

// Results larger than this are written past the caches.
constexpr int64_t kStreamBytes = int64_t{8} << 20;
constexpr int64_t kSerialItems = int64_t{1} << 15;
constexpr int64_t kWidestVector = 64;  // bytes
// Shorter runs of adjacent series are gathered.
constexpr int64_t kShortestRun = 64;
// Gathered rows are worked on in whole vectors: their tails cost more than idle lanes.
constexpr int64_t kGatheredMultiple = 16;
// What a tile may take of a second-level cache, most of which have 512 KiB and more.
constexpr int64_t kCachedBytes = int64_t{160} << 10;
constexpr int64_t kNarrowestTile = 64;
constexpr int64_t kPage = 4096;

template <class T, bool kGather>
void move_items(std::byte* scattered, const int64_t* offsets, std::byte* adjacent, int64_t count) {
  T* row = reinterpret_cast<T*>(adjacent);
  for (int64_t k = 0; k < count; ++k) {
    T* place = reinterpret_cast<T*>(scattered + offsets[k]);
    if constexpr (kGather) {
      row[k] = *place;
    } else {
      *place = row[k];
    }
  }
}

template <bool kGather>
void move_items(std::byte* scattered, const int64_t* offsets, std::byte* adjacent, int64_t count,
                int64_t item) {
  if (item == 8) return move_items<double, kGather>(scattered, offsets, adjacent, count);
  if (item == 4) return move_items<float, kGather>(scattered, offsets, adjacent, count);
  move_items<uint8_t, kGather>(scattered, offsets, adjacent, count);
}

// All series of a job, in whole vectors.
int64_t most_lanes(const TileJob& job) {
  const int64_t series = Series(*job.output, job.axis).count();
  return round_up(std::max<int64_t>(1, series), kGatheredMultiple);
}

// A job with what all of its tiles have in common.
class Walk {
 public:
  Walk(const TileJob& job, detail::TileFn fn, const void* body)
      : job_(job), fn_(fn), body_(body), y_(*job.output), y_series_(y_, job.axis) {
    int64_t run = y_series_.run_length();
    for (const View* x : job.inputs) {
      if (x == nullptr) continue;
      x_series_[inputs_] = Series(*x, job.axis);
      run = std::min(run, x_series_[inputs_].run_length());
      ++inputs_;
    }
    const int64_t series = y_series_.count();
    gathered_ = run < kShortestRun;
    run_series_ = gathered_ ? series : run;
    runs_ = series == 0 ? 0 : series / run_series_;
    tile_width_ = gathered_ ? job.gather_width : job.width;
    // The first tile is cut short so that the others start at an aligned address of the output.
    const int64_t item = item_size(y_.dtype);
    const auto address = static_cast<int64_t>(reinterpret_cast<uintptr_t>(y_.data) % kWidestVector);
    const int64_t lead = (kWidestVector - address) % kWidestVector / item;
    shift_ = gathered_ || lead == 0 ? 0 : tile_width_ - lead % tile_width_;
    tiles_per_run_ = (run_series_ + shift_ + tile_width_ - 1) / tile_width_;
    streaming_ = y_.data != x(0).data && y_.shape.count() * item > kStreamBytes;
    offsets_bytes_ = round_up(tile_width_ * 8, kWidestVector);
  }

  void run() {
    const int64_t steps =
        std::max<int64_t>(1, std::max(x(0).shape[job_.axis], y_.shape[job_.axis]));
    const int64_t tile_items = std::min(tile_width_, run_series_) * steps;
    const int64_t grain = std::max<int64_t>(1, kSerialItems / std::max<int64_t>(1, tile_items));
    parallel_for(runs_ * tiles_per_run_, grain, static_cast<std::size_t>(scratch_bytes()),
                 [this](int64_t begin, int64_t end, std::byte* memory) {
                   for (int64_t tile = begin; tile < end; ++tile) {
                     const int64_t nominal = tile % tiles_per_run_ * tile_width_ - shift_;
                     const int64_t within = std::max<int64_t>(0, nominal);
                     const int64_t count = std::min(nominal + tile_width_, run_series_) - within;
                     const int64_t first = tile / tiles_per_run_ * run_series_ + within;
                     if (count <= 0) continue;
                     gathered_ ? gathered(first, count, memory) : in_place(first, count, memory);
                   }
                 });
  }

 private:
  const View& x(std::size_t i) const { return *job_.inputs[i]; }

  int64_t gathered_steps(const View& view) const {
    return job_.gather_steps != 0 ? job_.gather_steps : view.shape[job_.axis];
  }
  int64_t gathered_row(const View& view) const { return job_.gather_width * item_size(view.dtype); }

  int64_t scratch_bytes() const {
    int64_t bytes = round_up(job_.scratch_bytes, kWidestVector);
    if (!gathered_) return bytes;
    bytes += offsets_bytes_ + gathered_steps(y_) * gathered_row(y_);
    for (std::size_t i = 0; i < inputs_; ++i) bytes += gathered_steps(x(i)) * gathered_row(x(i));
    return bytes;
  }

  // Series next to each other in all arrays: worked on where they lie.
  void in_place(int64_t first, int64_t count, std::byte* memory) const {
    SeriesTile tile{};
    int64_t offset = 0;
    for (std::size_t i = 0; i < inputs_; ++i) {
      x_series_[i].offsets(first, 1, &offset);
      tile.in[i] = {x(i).as<std::byte>() + offset, x(i).stride(job_.axis)};
    }
    y_series_.offsets(first, 1, &offset);
    tile.out = {y_.as<std::byte>() + offset, y_.stride(job_.axis)};
    tile.first = first;
    tile.count = tile.width = count;
    tile.steps = x(0).shape[job_.axis];
    tile.streaming = streaming_ &&
                     reinterpret_cast<uintptr_t>(tile.out.data) % kWidestVector == 0 &&
                     tile.out.stride % kWidestVector == 0;
    tile.scratch = memory;
    fn_(body_, tile);
  }

  // Any other layout.
  void gathered(int64_t first, int64_t count, std::byte* memory) const {
    SeriesTile tile{};
    tile.scratch = memory;
    memory += round_up(job_.scratch_bytes, kWidestVector);
    auto* offsets = reinterpret_cast<int64_t*>(memory);
    memory += offsets_bytes_;
    tile.out = {memory, gathered_row(y_)};
    memory += gathered_steps(y_) * gathered_row(y_);
    for (std::size_t i = 0; i < inputs_; ++i) {
      tile.in[i] = {memory, gathered_row(x(i))};
      memory += gathered_steps(x(i)) * gathered_row(x(i));
    }
    tile.first = first;
    tile.count = count;
    tile.width = std::min(job_.gather_width, round_up(count, kGatheredMultiple));

    const int64_t steps = x(0).shape[job_.axis];
    const int64_t block = job_.gather_steps != 0 ? job_.gather_steps : std::max<int64_t>(1, steps);
    // A call without steps is a call too: states are still to be written.
    for (int64_t t = 0; t == 0 || t < steps; t += block) {
      tile.begin = t;
      tile.steps = std::min(block, steps - t);
      for (std::size_t i = 0; i < inputs_; ++i) gather(i, tile, offsets);
      fn_(body_, tile);
      y_series_.offsets(first, count, offsets);
      const int64_t out_steps = job_.gather_steps != 0 ? tile.steps : y_.shape[job_.axis];
      for (int64_t k = 0; k < out_steps; ++k) {
        scatter_items(y_.as<std::byte>() + (t + k) * y_.stride(job_.axis), offsets, tile.out.row(k),
                      count, item_size(y_.dtype));
      }
    }
  }

  void gather(std::size_t i, const SeriesTile& tile, int64_t* offsets) const {
    const View& source = x(i);
    const int64_t item = item_size(source.dtype);
    const int64_t steps = job_.gather_steps != 0 ? tile.steps : source.shape[job_.axis];
    x_series_[i].offsets(tile.first, tile.count, offsets);
    for (int64_t k = 0; k < steps; ++k) {
      std::byte* row = tile.in[i].row(k);
      gather_items(source.as<std::byte>() + (tile.begin + k) * source.stride(job_.axis), offsets,
                   row, tile.count, item);
      // The lanes beyond are worked on too: they must not hold denormals.
      std::memset(row + tile.count * item, 0,
                  static_cast<std::size_t>((tile.width - tile.count) * item));
    }
  }

  const TileJob& job_;
  detail::TileFn fn_;
  const void* body_;
  const View& y_;
  Series y_series_;
  std::array<Series, kMaxInputs> x_series_;
  std::size_t inputs_ = 0;
  bool gathered_ = false;
  int64_t run_series_ = 0;
  int64_t runs_ = 0;
  int64_t tile_width_ = 0;
  int64_t shift_ = 0;
  int64_t tiles_per_run_ = 0;
  int64_t offsets_bytes_ = 0;
  bool streaming_ = false;
};

}  // namespace

Series::Series(const View& view, int axis) : item_(item_size(view.dtype)) {
  for (int a = 0; a < view.ndim(); ++a) {
    if (a == axis) continue;
    strides_[static_cast<std::size_t>(shape_.ndim)] = view.stride(a);
    shape_.push_back(view.shape[a]);
  }
}

int64_t Series::run_length() const {
  int64_t run = 1;
  for (int a = shape_.ndim - 1; a >= 0; --a) {
    if (shape_[a] != 1 && stride(a) != run * item_) break;
    run *= shape_[a];
  }
  return run;
}

void Series::offsets(int64_t first, int64_t count, int64_t* result) const {
  Shape at = shape_;
  int64_t offset = 0;
  for (int a = shape_.ndim - 1; a >= 0; --a) {
    at[a] = first % shape_[a];
    first /= shape_[a];
    offset += at[a] * stride(a);
  }
  for (int64_t k = 0; k < count; ++k) {
    result[k] = offset;
    for (int a = shape_.ndim - 1; a >= 0; --a) {
      offset += stride(a);
      if (++at[a] < shape_[a]) break;
      offset -= at[a] * stride(a);
      at[a] = 0;
    }
  }
}

void gather_items(const std::byte* scattered, const int64_t* offsets, std::byte* row, int64_t count,
                  int64_t item) {
  move_items<true>(const_cast<std::byte*>(scattered), offsets, row, count, item);
}

void scatter_items(std::byte* scattered, const int64_t* offsets, const std::byte* row,
                   int64_t count, int64_t item) {
  move_items<false>(scattered, offsets, const_cast<std::byte*>(row), count, item);
}

TileJob::TileJob(std::initializer_list<const View*> in, const View& out, int a)
    : output(&out), axis(a) {
  std::copy(in.begin(), in.end(), inputs.begin());
  gather_width = std::min(gather_width, most_lanes(*this));
}

int64_t widest_tile(const TileJob& job) {
  return std::min(std::max(job.width, job.gather_width), most_lanes(job));
}

int64_t cached_tile_width(int64_t bytes_per_series, int64_t item) {
  const int64_t width = kCachedBytes / std::max<int64_t>(1, bytes_per_series);
  return std::clamp(width / kNarrowestTile * kNarrowestTile, kNarrowestTile, kPage / item);
}

namespace detail {

void for_each_tile(const TileJob& job, TileFn fn, const void* body) { Walk(job, fn, body).run(); }

}  // namespace detail
}  // namespace marey
