#include "ops/temporal/sosfilt.h"

#include <algorithm>
#include <cstring>

#include "core/buffer.h"
#include "core/denormals.h"
#include "core/parallel.h"
#include "ops/temporal/series.h"

namespace marey {

MAREY_STUB_NO_BF16(select_sosfilt, SelectSosfilt)

namespace {

// A gathered tile.
constexpr int64_t kGatherWidth = 256;
constexpr int64_t kGatherSteps = 64;
// Some hundredths of a second's work.
constexpr int64_t kItemsBetweenChecks = int64_t{1} << 23;

// A state array seen as 2 * sections rows, each with an item for every series.
class State {
 public:
  State(const View& z, int axis) : view_(z), axis_(axis + 1), series_(one_row(z, axis + 1), axis) {}

  // Calls move(r, place) for every row, with the place of series `first`, if all `count` lie next
  // to each other; returns whether they do.
  template <class Move>
  bool adjacent(int64_t first, int64_t count, Move&& move) const {
    const int64_t run = series_.run_length();
    if (first % run + count > run) return false;
    int64_t offset = 0;
    series_.offsets(first, 1, &offset);
    for (int64_t r = 0; r < 2 * view_.shape[0]; ++r) move(r, row(r) + offset);
    return true;
  }
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
  int64_t z_stride;  // in items

  int64_t item() const { return item_size(y.dtype); }
  int64_t rows() const { return 2 * sections; }
};

// A thread's memory: places in a state array, then the state of a tile.
struct Scratch {
  explicit Scratch(const Plan& plan, std::byte* memory)
      : offsets(reinterpret_cast<int64_t*>(memory)), z(memory + plan.z_stride * 8) {}
  static int64_t bytes(const Plan& plan) { return plan.z_stride * (8 + plan.rows() * plan.item()); }
  int64_t* offsets;
  std::byte* z;  // rows of z_stride items
};

void load_state(const Plan& plan, const SeriesTile& tile, const Scratch& scratch) {
  const int64_t row = plan.z_stride * plan.item();
  std::memset(scratch.z, 0, static_cast<std::size_t>(plan.rows() * row));
  if (plan.zi == nullptr) return;
  const State zi(*plan.zi, plan.axis);
  const auto n = static_cast<std::size_t>(tile.count * plan.item());
  if (zi.adjacent(tile.first, tile.count, [&](int64_t r, const std::byte* place) {
        std::memcpy(scratch.z + r * row, place, n);
      })) {
    return;
  }
  zi.series().offsets(tile.first, tile.count, scratch.offsets);
  for (int64_t r = 0; r < plan.rows(); ++r) {
    gather_items(zi.row(r), scratch.offsets, scratch.z + r * row, tile.count, plan.item());
  }
}

void store_state(const Plan& plan, const SeriesTile& tile, const Scratch& scratch) {
  if (plan.zf == nullptr) return;
  const int64_t row = plan.z_stride * plan.item();
  const State zf(*plan.zf, plan.axis);
  const auto n = static_cast<std::size_t>(tile.count * plan.item());
  if (zf.adjacent(tile.first, tile.count, [&](int64_t r, std::byte* place) {
        std::memcpy(place, scratch.z + r * row, n);
      })) {
    return;
  }
  zf.series().offsets(tile.first, tile.count, scratch.offsets);
  for (int64_t r = 0; r < plan.rows(); ++r) {
    scatter_items(zf.row(r), scratch.offsets, scratch.z + r * row, tile.count, plan.item());
  }
}

void filter_tiles(const double* coefficients, int64_t sections, const View& x, int axis,
                  const View& y, const View* zi, const View* zf) {
  TileJob job({&x}, y, axis);
  job.gather_width = kGatherWidth;
  job.gather_steps = kGatherSteps;
  const Plan plan{x,
                  y,
                  zi,
                  zf,
                  axis,
                  sections,
                  coefficients,
                  sosfilt_kernel(x.dtype, y.dtype),
                  widest_tile(job)};
  job.scratch_bytes = Scratch::bytes(plan);
  for_each_tile(job, [&](const SeriesTile& tile) {
    const FlushDenormals flush;
    const Scratch scratch(plan, tile.scratch);
    if (tile.begin == 0) load_state(plan, tile, scratch);
    plan.run({tile.in[0].data, tile.out.data, tile.in[0].stride, tile.out.stride, tile.steps,
              tile.width, plan.sos, plan.sections, scratch.z, plan.z_stride, tile.streaming});
    if (tile.begin + tile.steps == x.shape[axis]) store_state(plan, tile, scratch);
  });
}

// About as many series as a tile has.
int64_t tile_series(const View& x, int axis) {
  const int64_t steps = x.shape[axis];
  const int64_t series = steps == 0 ? 1 : x.shape.count() / steps;
  return std::clamp<int64_t>(series, 1, kGatherWidth);
}

View steps_of(const View& view, int axis, int64_t first, int64_t count) {
  View part = view;
  part.data = view.as<std::byte>() + first * view.stride(axis);
  part.shape[axis] = count;
  return part;
}

}  // namespace

SosfiltFn* sosfilt_kernel(DType x, DType y) { return select_sosfilt_stub.get()(x, y); }

void sosfilt(const View& sos, const View& x, int axis, const View& y, const View* zi,
             const View* zf) {
  const std::vector<double> coefficients = checked_sosfilt(sos, x, axis, y, zi, zf);
  const int64_t sections = sos.shape[0];

  const auto filter = [&](const View& from, const View& to, const View* before, const View* after) {
    filter_tiles(coefficients.data(), sections, from, axis, to, before, after);
  };
  // A tile goes through all steps without a look at the interrupt check: long ones come in parts.
  const int64_t steps = x.shape[axis];
  const int64_t part = std::max(kGatherSteps, kItemsBetweenChecks / tile_series(x, axis));
  if (steps <= part) return filter(x, y, zi, zf);

  const Shape state_shape = sosfilt_state_shape(x.shape, axis, sections);
  const Buffer memory(state_shape.count() * item_size(y.dtype));
  const View state = contiguous_view(memory.data(), y.dtype, state_shape);
  for (int64_t t = 0; t < steps; t += part) {
    check_interrupted();
    const int64_t count = std::min(part, steps - t);
    const bool last = t + count == steps;
    filter(steps_of(x, axis, t, count), steps_of(y, axis, t, count), t == 0 ? zi : &state,
           last ? zf : &state);
  }
}

}  // namespace marey
