#include "ops/temporal/sosfilt.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <vector>

#include "core/error.h"
#include "core/parallel.h"

namespace marey {

MAREY_STUB(select_sosfilt, SelectSosfilt)

namespace {

constexpr std::string_view kName = "marey.sosfilt";
// Series side by side in a tile: four KiB a row, a page, so that neither the prefetcher nor the
// translation of addresses is disturbed more often than by a plain copy.
constexpr int64_t kTileWidth = 1024;
// Steps in a tile that is gathered from series not adjacent in memory.
constexpr int64_t kTileSteps = 64;
constexpr int64_t kGatherWidth = 256;
// Results larger than this are written past the caches.
constexpr int64_t kStreamBytes = int64_t{8} << 20;
constexpr int64_t kSerialItems = int64_t{1} << 15;
constexpr int64_t kWidestVector = 64;  // bytes
// Shorter runs of adjacent series are gathered.
constexpr int64_t kShortestRun = 64;

std::vector<double> checked_coefficients(const View& sos) {
  if (sos.ndim() != 2 || sos.shape[0] < 1 || sos.shape[1] != 6) {
    throw ValueError(kName, "sos", "shape (sections, 6) with at least one section",
                     to_string(sos.shape));
  }
  if (sos.dtype != DType::f64) throw TypeError(kName, "sos", "float64", name(sos.dtype));
  std::vector<double> rows(static_cast<std::size_t>(sos.shape.count()));
  for (int64_t s = 0; s < sos.shape[0]; ++s) {
    for (int64_t k = 0; k < 6; ++k) {
      double value = 0;
      std::memcpy(&value, sos.as<std::byte>() + s * sos.stride(0) + k * sos.stride(1),
                  sizeof value);
      if (!std::isfinite(value)) {
        throw ValueError(kName, "sos", "finite coefficients", std::to_string(value));
      }
      if (k == 3 && value != 1.0) {
        throw ValueError(kName, "sos", "a0 (the fourth column) to be 1", std::to_string(value));
      }
      rows[static_cast<std::size_t>(6 * s + k)] = value;
    }
  }
  return rows;
}

void check_state(const char* argument, const View& z, const View& x, const View& y, int axis,
                 int64_t sections) {
  const Shape expected = sosfilt_state_shape(x.shape, axis, sections);
  if (!(z.shape == expected)) {
    throw ValueError(kName, argument,
                     "shape " + to_string(expected) + " for x of shape " + to_string(x.shape) +
                         " and " + std::to_string(sections) + " section(s)",
                     to_string(z.shape));
  }
  if (z.dtype != y.dtype) throw TypeError(kName, argument, name(y.dtype), name(z.dtype));
}

// The series of an array along `axis`, numbered in C order over all other axes.
class Series {
 public:
  Series(const View& view, int axis) : item_(item_size(view.dtype)) {
    for (int a = 0; a < view.ndim(); ++a) {
      if (a == axis) continue;
      strides_[static_cast<std::size_t>(shape_.ndim)] = view.stride(a);
      shape_.push_back(view.shape[a]);
    }
  }

  // Series lie next to each other in memory in runs of this many.
  int64_t run_length() const {
    int64_t run = 1;
    for (int a = shape_.ndim - 1; a >= 0; --a) {
      if (shape_[a] != 1 && stride(a) != run * item_) break;
      run *= shape_[a];
    }
    return run;
  }

  // The offsets in bytes of series [first, first + count).
  void offsets(int64_t first, int64_t count, int64_t* result) const {
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

 private:
  int64_t stride(int a) const { return strides_[static_cast<std::size_t>(a)]; }

  int64_t item_;
  Shape shape_;
  std::array<int64_t, kMaxDims> strides_{};
};

// A state array seen as 2 * sections rows, each with an item for every series.
class State {
 public:
  State(const View& z, int axis) : view_(z), axis_(axis + 1), series_(one_row(z, axis + 1), axis) {}

  std::byte* row(int64_t r) const {
    return view_.as<std::byte>() + r / 2 * view_.stride(0) + r % 2 * view_.stride(axis_);
  }
  const Series& series() const { return series_; }

 private:
  static View one_row(const View& z, int axis) {
    View row = z;
    row.shape.ndim = 0;
    for (int a = 1; a < z.ndim(); ++a) {
      row.stride(row.shape.ndim) = z.stride(a);
      row.shape.push_back(a == axis ? 1 : z.shape[a]);
    }
    return row;
  }

  const View& view_;
  int axis_;
  Series series_;
};

// Copies between a row of adjacent items and items at given offsets.
template <bool kGather>
void move_items(std::byte* scattered, const int64_t* offsets, std::byte* adjacent, int64_t count,
                int64_t item) {
  const auto move = [&]<class T>(T) {
    T* row = reinterpret_cast<T*>(adjacent);
    for (int64_t k = 0; k < count; ++k) {
      T* place = reinterpret_cast<T*>(scattered + offsets[k]);
      if constexpr (kGather) {
        row[k] = *place;
      } else {
        *place = row[k];
      }
    }
  };
  if (item == 8) return move(double{});
  if (item == 4) return move(float{});
  move(uint8_t{});
}

// What all tiles of a call have in common.
struct Plan {
  const View& x;
  const View& y;
  const View* zi;
  const View* zf;
  int axis;
  int64_t sections;
  const double* sos;
  SosfiltFn* run;
  bool streaming;

  int64_t steps() const { return x.shape[axis]; }
  int64_t x_item() const { return item_size(x.dtype); }
  int64_t y_item() const { return item_size(y.dtype); }
};

// A thread's memory for one tile.
struct TileScratch {
  TileScratch(const Plan& plan, std::byte* memory, bool gathered) {
    offsets = reinterpret_cast<int64_t*>(memory);
    z = memory + kTileWidth * 8;
    x = z + 2 * plan.sections * kTileWidth * plan.y_item();
    y = x + (gathered ? kTileSteps * kGatherWidth * plan.x_item() : 0);
  }
  static std::size_t bytes(const Plan& plan, bool gathered) {
    const int64_t state = 2 * plan.sections * kTileWidth * plan.y_item();
    const int64_t tile = gathered ? kTileSteps * kGatherWidth * (plan.x_item() + plan.y_item()) : 0;
    return static_cast<std::size_t>(kTileWidth * 8 + state + tile);
  }
  int64_t* offsets;
  std::byte* z;  // rows of kTileWidth items
  std::byte* x;
  std::byte* y;
};

void load_state(const Plan& plan, int64_t first, int64_t width, const TileScratch& scratch) {
  const int64_t item = plan.y_item();
  std::memset(scratch.z, 0, static_cast<std::size_t>(2 * plan.sections * kTileWidth * item));
  if (plan.zi == nullptr) return;
  const State zi(*plan.zi, plan.axis);
  zi.series().offsets(first, width, scratch.offsets);
  for (int64_t r = 0; r < 2 * plan.sections; ++r) {
    move_items<true>(zi.row(r), scratch.offsets, scratch.z + r * kTileWidth * item, width, item);
  }
}

void store_state(const Plan& plan, int64_t first, int64_t width, const TileScratch& scratch) {
  if (plan.zf == nullptr) return;
  const int64_t item = plan.y_item();
  const State zf(*plan.zf, plan.axis);
  zf.series().offsets(first, width, scratch.offsets);
  for (int64_t r = 0; r < 2 * plan.sections; ++r) {
    move_items<false>(zf.row(r), scratch.offsets, scratch.z + r * kTileWidth * item, width, item);
  }
}

// Series next to each other in x and y: filtered where they lie.
void filter_in_place(const Plan& plan, int64_t first, int64_t width, const TileScratch& scratch) {
  load_state(plan, first, width, scratch);
  int64_t x_offset = 0;
  int64_t y_offset = 0;
  Series(plan.x, plan.axis).offsets(first, 1, &x_offset);
  Series(plan.y, plan.axis).offsets(first, 1, &y_offset);
  std::byte* y = plan.y.as<std::byte>() + y_offset;
  const bool aligned = reinterpret_cast<uintptr_t>(y) % kWidestVector == 0 &&
                       plan.y.stride(plan.axis) % kWidestVector == 0;
  plan.run({plan.x.as<std::byte>() + x_offset, y, plan.x.stride(plan.axis),
            plan.y.stride(plan.axis), plan.steps(), width, plan.sos, plan.sections, scratch.z,
            kTileWidth, plan.streaming && aligned});
  store_state(plan, first, width, scratch);
}

// Any other layout: gathered a block of steps at a time, filtered, and scattered.
void filter_gathered(const Plan& plan, int64_t first, int64_t width, const TileScratch& scratch) {
  load_state(plan, first, width, scratch);
  const Series x_series(plan.x, plan.axis);
  const Series y_series(plan.y, plan.axis);
  // The lanes beyond `width` are filtered too and thrown away: they must not hold denormals.
  std::memset(scratch.x, 0, static_cast<std::size_t>(kTileSteps * kGatherWidth * plan.x_item()));
  for (int64_t t = 0; t < plan.steps(); t += kTileSteps) {
    const int64_t steps = std::min(kTileSteps, plan.steps() - t);
    x_series.offsets(first, width, scratch.offsets);
    for (int64_t k = 0; k < steps; ++k) {
      move_items<true>(plan.x.as<std::byte>() + (t + k) * plan.x.stride(plan.axis), scratch.offsets,
                       scratch.x + k * kGatherWidth * plan.x_item(), width, plan.x_item());
    }
    // Whole rows, beyond `width` too: the tails of vectors cost more than idle lanes.
    plan.run({scratch.x, scratch.y, kGatherWidth * plan.x_item(), kGatherWidth * plan.y_item(),
              steps, std::min(kGatherWidth, (width + 15) / 16 * 16), plan.sos, plan.sections,
              scratch.z, kTileWidth, false});
    y_series.offsets(first, width, scratch.offsets);
    for (int64_t k = 0; k < steps; ++k) {
      move_items<false>(plan.y.as<std::byte>() + (t + k) * plan.y.stride(plan.axis),
                        scratch.offsets, scratch.y + k * kGatherWidth * plan.y_item(), width,
                        plan.y_item());
    }
  }
  store_state(plan, first, width, scratch);
}

}  // namespace

Shape sosfilt_state_shape(const Shape& x, int axis, int64_t sections) {
  Shape shape;
  shape.push_back(sections);
  for (int a = 0; a < x.ndim; ++a) shape.push_back(a == axis ? 2 : x[a]);
  return shape;
}

void sosfilt(const View& sos, const View& x, int axis, const View& y, const View* zi,
             const View* zf) {
  const std::vector<double> coefficients = checked_coefficients(sos);
  const int64_t sections = sos.shape[0];
  if (zi != nullptr) check_state("zi", *zi, x, y, axis, sections);
  if (zf != nullptr) check_state("zf", *zf, x, y, axis, sections);

  const Plan plan{x,
                  y,
                  zi,
                  zf,
                  axis,
                  sections,
                  coefficients.data(),
                  select_sosfilt_stub.get()(x.dtype, y.dtype, sections),
                  x.data != y.data && y.shape.count() * item_size(y.dtype) > kStreamBytes};
  int64_t series = 1;  // 0 steps is not 0 series: zf is still to be written
  for (int a = 0; a < x.ndim(); ++a) series *= a == axis ? 1 : x.shape[a];

  const int64_t run = std::min(Series(x, axis).run_length(), Series(y, axis).run_length());
  const bool gathered = run < kShortestRun;
  const int64_t tile_width = gathered ? kGatherWidth : kTileWidth;
  const int64_t runs = gathered ? 1 : series / run;
  const int64_t run_series = gathered ? series : run;
  // The first tile is cut short so that the others start at an aligned address of y.
  const int64_t item = plan.y_item();
  const auto address = static_cast<int64_t>(reinterpret_cast<uintptr_t>(y.data) % kWidestVector);
  const int64_t lead = (kWidestVector - address) % kWidestVector / item;
  const int64_t shift = gathered || lead == 0 ? 0 : tile_width - lead;
  const int64_t tiles_per_run = (run_series + shift + tile_width - 1) / tile_width;
  const int64_t tile_items = std::min(tile_width, run_series) * std::max<int64_t>(1, plan.steps());
  const int64_t grain = std::max<int64_t>(1, kSerialItems / std::max<int64_t>(1, tile_items));
  parallel_for(runs * tiles_per_run, grain, TileScratch::bytes(plan, gathered),
               [&](int64_t begin, int64_t end, std::byte* memory) {
                 const TileScratch scratch(plan, memory, gathered);
                 for (int64_t tile = begin; tile < end; ++tile) {
                   const int64_t nominal = tile % tiles_per_run * tile_width - shift;
                   const int64_t within = std::max<int64_t>(0, nominal);
                   const int64_t width = std::min(nominal + tile_width, run_series) - within;
                   const int64_t first = tile / tiles_per_run * run_series + within;
                   if (width > 0) {
                     (gathered ? filter_gathered : filter_in_place)(plan, first, width, scratch);
                   }
                 }
               });
}

}  // namespace marey
