#include "ops/conv/conv3d_plan.h"

#include <algorithm>
#include <limits>
#include <utility>

#include "core/parallel.h"
#include "ops/conv/conv3d_causal.h"

namespace marey {

MAREY_STUB_BF16(select_conv3d_direct, SelectConv)
MAREY_STUB_SPLIT(select_conv3d_direct_split, SelectConv)
MAREY_STUB_NO_BF16(select_conv3d_winograd, SelectConv)
MAREY_STUB_SPLIT(select_conv3d_winograd_split, SelectConv)
MAREY_STUB_NO_BF16(select_conv3d_depthwise, SelectConv)

namespace {

// What the lanes of rows are rounded up to at most: a vector.
constexpr int64_t kLanesOfRows = 16;
// Rows of so many positions at least are lanes of a depthwise convolution.
constexpr int64_t kLeastRow = 10;
// Winograd's transforms pay from so many channels and filters of a group.
constexpr int64_t kFewestForWinograd = 24;
// And as long as their weights, 16 / 9 as many, come from the last-level cache. So must those of
// the direct sum that are split.
constexpr int64_t kSplitBytes = 6;  // of a weight
constexpr int64_t kFewestForTiles = 64;
constexpr int64_t kLeastDepthOfTiles = 128;
constexpr int64_t kStepOfTiles = 32;
constexpr int64_t kMostWeightBytes = int64_t{32} << 20;
// Cost of starting a block, in multiply-adds of a register tile.
constexpr double kBlockCost = 16.0 * 2000;
// Calls that cost less, all threads together, are over before a second thread would have begun.
constexpr double kLeastOfTeam = 4 * kBlockCost;

int64_t divide_up(int64_t a, int64_t b) { return (a + b - 1) / b; }
int64_t round_up(int64_t a, int64_t b) { return divide_up(a, b) * b; }

int64_t chunk_of(const ConvChunks& chunks, int64_t channels, int64_t taps) {
  if (channels * taps <= chunks.whole) return std::max<int64_t>(channels, 1);
  const int64_t chunk = chunks.products / taps / chunks.channels * chunks.channels;
  return std::max(chunk, chunks.least);
}

bool trivial(const ConvTaps& taps, int64_t in, int64_t out) {
  return taps.count == 1 && taps.offset[0] == 0 && taps.step == 1 && in == out;
}

// Two axes as one, the latter, if neither is convolved and every array steps through both with one
// stride.
void merge(int first, int second, ConvProblem& problem, std::array<ConvStrides*, 3> arrays) {
  const auto a = static_cast<std::size_t>(first);
  const auto b = static_cast<std::size_t>(second);
  if (!trivial(problem.taps[a], problem.in[a], problem.out[a]) ||
      !trivial(problem.taps[b], problem.in[b], problem.out[b])) {
    return;
  }
  if (problem.in[a] != 1) {
    for (const ConvStrides* strides : arrays) {
      if (problem.in[b] != 1 && strides->s[a] != strides->s[b] * problem.in[b]) return;
    }
    if (problem.in[b] == 1) {
      for (ConvStrides* strides : arrays) strides->s[b] = strides->s[a];
    }
  }
  problem.in[b] *= problem.in[a];
  problem.out[b] *= problem.out[a];
  problem.in[a] = problem.out[a] = 1;
}

int64_t window_extent(const ConvTaps& taps, int64_t outputs) {
  if (taps.count <= 1) return outputs;
  return (outputs - 1) * taps.step + taps.offset[taps.count - 1] - taps.offset[0] + 1;
}

// Sizes to try along an axis.
std::vector<int64_t> sizes_of(int64_t extent) {
  std::vector<int64_t> sizes;
  for (int64_t parts = 1; parts <= extent; parts = parts < 8 ? parts + 1 : parts * 2) {
    const int64_t size = divide_up(extent, parts);
    if (sizes.empty() || sizes.back() != size) sizes.push_back(size);
  }
  if (sizes.empty() || sizes.back() != 1) sizes.push_back(1);
  return sizes;
}

std::vector<int64_t> widths_of(int64_t extent, int64_t columns) {
  std::vector<int64_t> widths{extent};
  for (int64_t width = columns * 16; width >= columns; width /= 2) {
    if (width < extent) widths.push_back(width);
  }
  return widths;
}

}  // namespace

// How the output of one batch entry and group is cut.
struct Cut {
  Triple size{};  // of a block
  Triple count{};
  int64_t share = 0;   // rows that are cut into blocks by themselves, the last of them smaller
  int64_t panels = 1;  // of a block
  int64_t panel_groups = 1;
  int64_t scratch = 0;
  double cost = std::numeric_limits<double>::infinity();

  int64_t blocks() const { return count[0] * count[1] * count[2] * panel_groups; }
  // Positions along an axis that long, from and to, of one of its `count` blocks.
  std::pair<int64_t, int64_t> range(std::size_t axis, int64_t index, int64_t extent) const {
    const int64_t whole = axis == 1 ? share : extent;
    const int64_t in_share = divide_up(whole, size[axis]);
    const int64_t first = index / in_share * whole;
    // A short last share has fewer blocks than the others: the rest of them are empty.
    const int64_t end = std::min(first + whole, extent);
    const int64_t from = std::min(first + index % in_share * size[axis], end);
    return {from, std::min(from + size[axis], end)};
  }
};

namespace {

ConvBlock first_block(const ConvKernel& kernel, const ConvProblem& problem, const Cut& cut) {
  ConvBlock block;
  block.problem = &problem;
  block.end = cut.size;
  block.last_panel = std::min(cut.panels, divide_up(problem.filters, kernel.panel));
  return block;
}

Cut choose_cut(const ConvKernel& kernel, const ConvProblem& problem, int64_t repeats) {
  if (problem.out[0] * problem.out[1] * problem.out[2] == 0) return {};  // no blocks
  const int64_t panels = std::max<int64_t>(divide_up(problem.filters, kernel.panel), 1);
  const int64_t threads = num_threads();
  const int64_t most_parts = problem.together ? 1 : panels;
  const double taps = static_cast<double>(problem.tap_count());
  const double channels = static_cast<double>(problem.channels);
  const double weights =
      taps * channels * (problem.depthwise ? 1.0 : static_cast<double>(problem.filters));
  const bool of_rows = problem.inputs == ConvInputs::rows;
  const double copy_cost = of_rows ? kernel.copy_cost_of_rows : kernel.copy_cost;
  // Threads are not equally fast: where they have a few turns each, as for one frame of a stream,
  // half a turn is waited for.
  const bool one_frame = problem.depthwise && problem.out[0] == 1;
  const double waited = one_frame && threads > 1 ? 0.5 : 0.0;
  Cut best;
  const auto consider = [&](const Triple& size, int64_t share, int64_t parts) {
    Cut cut;
    cut.size = {size[0], round_up(size[1], problem.tile), round_up(size[2], problem.tile)};
    cut.share = share;
    const int64_t in_share = divide_up(share, cut.size[1]);
    cut.count = {divide_up(problem.out[0], cut.size[0]),
                 divide_up(problem.out[1], share) * in_share,
                 divide_up(problem.out[2], cut.size[2])};
    cut.panels = divide_up(panels, parts);
    cut.panel_groups = divide_up(panels, cut.panels);
    // A thread's turn is a block, or all blocks of its share of the rows.
    const bool shared = share < problem.out[1];
    const int64_t turn = shared ? in_share : 1;
    const int64_t rows = shared ? share : cut.size[1];
    const int64_t read = (turn - 1) * window_extent(problem.taps[1], cut.size[1]) +
                         window_extent(problem.taps[1], rows - (turn - 1) * cut.size[1]);
    double positions = static_cast<double>(cut.size[0] * rows * cut.size[2]);
    if (kernel.positions != nullptr) {
      positions = static_cast<double>(rows) / static_cast<double>(cut.size[1]) *
                  kernel.positions(first_block(kernel, problem, cut));
    }
    const double part = 1.0 / static_cast<double>(cut.panel_groups);
    const double window = channels * (problem.depthwise ? part : 1.0) *
                          static_cast<double>(window_extent(problem.taps[0], cut.size[0]) * read *
                                              window_extent(problem.taps[2], cut.size[2]));
    const double cost =
        positions * weights * part * kernel.product_cost + window * copy_cost +
        static_cast<double>(turn) * (weights * part * kernel.weight_cost + kBlockCost);
    // The longest thread.
    const int64_t turns = divide_up(cut.blocks() / turn * repeats, threads);
    cut.cost = (static_cast<double>(turns) + waited) * cost;
    if (cut.cost >= best.cost) return;
    cut.scratch = kernel.scratch(first_block(kernel, problem, cut));
    const bool least = cut.size[0] == 1 && size[1] == 1 && parts >= most_parts;
    if (cut.scratch > kernel.block_bytes && !(least && best.blocks() == 0)) return;
    best = cut;
  };
  const int64_t columns = of_rows ? kernel.columns_of_rows : kernel.columns;
  const int64_t rows = std::max<int64_t>(problem.out[1], 1);
  const int64_t share = round_up(divide_up(rows, threads), problem.tile);
  for (const int64_t width : widths_of(problem.out[2], columns)) {
    for (const int64_t height : sizes_of(problem.out[1])) {
      for (const int64_t frames : sizes_of(problem.out[0])) {
        for (int64_t parts = 1; parts <= most_parts; parts *= 2) {
          consider({frames, height, width}, rows, parts);
          if (height < share && share < rows) consider({frames, height, width}, share, parts);
        }
      }
    }
  }
  if (best.blocks() == 0) {
    // Nothing is as small as it should be.
    best.size = {1, problem.tile,
                 std::min(divide_up(problem.out[2], problem.tile) * problem.tile, kernel.columns)};
    best.panels = problem.together ? panels : 1;
    best.share = problem.out[1];
    for (std::size_t axis = 0; axis < 3; ++axis) {
      best.count[axis] = divide_up(problem.out[axis], best.size[axis]);
    }
    best.panel_groups = divide_up(panels, best.panels);
    best.scratch = kernel.scratch(first_block(kernel, problem, best));
  }
  return best;
}

}  // namespace

ConvArray conv_array(const View& x) {
  const int64_t item = item_size(x.dtype);
  ConvArray array;
  array.data = x.data;
  array.batch = x.stride(0) / item;
  array.strides.c = x.stride(1) / item;
  for (int axis = 0; axis < 3; ++axis) {
    array.strides.s[static_cast<std::size_t>(axis)] = x.stride(axis + 2) / item;
  }
  return array;
}

bool winograd_fits(DType dtype, const std::array<ConvAxis, 3>& axes) {
  if (dtype != DType::f32 || axes[0].offset.empty()) return false;
  for (std::size_t axis = 1; axis < 3; ++axis) {
    const std::vector<int64_t>& offset = axes[axis].offset;
    if (axes[axis].step != 1 || offset.size() != 3) return false;
    if (offset[1] != offset[0] + 1 || offset[2] != offset[0] + 2) return false;
  }
  return true;
}

// Whether so many items fill steps of tiles, but for a fifth.
static bool fills_steps(int64_t items) {
  return divide_up(items, kStepOfTiles) * kStepOfTiles * 4 <= items * 5;
}

// Whether the direct sum pays by tiles, as measured (docs/conv.md): a sum that is long enough, of
// runs that fill its steps, and enough filters.
static bool tiles_pay(const std::array<ConvAxis, 3>& axes, int64_t channels, int64_t filters) {
  const auto frames = static_cast<int64_t>(axes[0].offset.size());
  const auto columns = static_cast<int64_t>(axes[2].offset.size());
  const int64_t depth = frames * static_cast<int64_t>(axes[1].offset.size()) * columns * channels;
  if (filters < kFewestForTiles || depth < kLeastDepthOfTiles) return false;
  if (depth * filters * kSplitBytes > kMostWeightBytes) return false;
  if (columns == 1) return fills_steps(channels);
  if (channels % kStepOfTiles == 0) return true;
  // Few channels, as of colours, with strides along W and taps along time.
  return frames > 1 && channels * frames <= kStepOfTiles / 2 && axes[2].step > 1 &&
         fills_steps(channels * frames * columns);
}

// The same of Winograd's products.
static bool winograd_tiles_pay(const ConvAxis& time, int64_t channels, int64_t filters) {
  const auto frames = static_cast<int64_t>(time.offset.size());
  if (16 * frames * channels * filters * kSplitBytes > kMostWeightBytes) return false;
  return filters >= kFewestForTiles && fills_steps(channels);
}

ConvAxis forward_axis(int64_t kernel, int64_t stride, int64_t dilation, int64_t before) {
  ConvAxis axis;
  axis.step = stride;
  for (int64_t i = 0; i < kernel; ++i) {
    axis.offset.push_back(i * dilation - before);
    axis.source.push_back(i);
  }
  return axis;
}

Convolution::Convolution(DType dtype, int64_t groups, int64_t channels, int64_t filters,
                         std::array<ConvAxis, 3> axes, const ConvWeights& weights,
                         int64_t group_stride, ConvAlgorithm algorithm, bool by_frames)
    : dtype_(dtype),
      groups_(groups),
      channels_(channels),
      filters_(filters),
      axes_(std::move(axes)),
      algorithm_(algorithm) {
  if (groups > 1 && channels == 1 && filters == 1) {
    depthwise_ = true;
    groups_ = 1;
    channels_ = filters_ = groups;
    kernel_ = select_conv3d_depthwise_stub.get()(dtype);
    ConvWeights all = weights;
    all.filter = group_stride;
    pack(all, 0);
    return;
  }
  if (algorithm_ == ConvAlgorithm::automatic) {
    const auto frames = static_cast<int64_t>(axes_[0].offset.size());
    const int64_t transformed = 16 * frames * channels * filters * item_size(dtype);
    algorithm_ = winograd_fits(dtype, axes_) && channels >= kFewestForWinograd &&
                         filters >= kFewestForWinograd && transformed <= kMostWeightBytes
                     ? ConvAlgorithm::winograd
                     : ConvAlgorithm::direct;
  }
  kernel_ = (algorithm_ == ConvAlgorithm::winograd ? select_conv3d_winograd_stub
                                                   : select_conv3d_direct_stub)
                .get()(dtype);
  if (algorithm_ == ConvAlgorithm::direct) {
    const ConvKernel split = select_conv3d_direct_split_stub.get()(dtype);
    if (split.run != nullptr && tiles_pay(axes_, channels, filters)) kernel_ = split;
  }
  // Blocks by tiles want many frames, to share transforms and weights (docs/conv.md).
  if (algorithm_ == ConvAlgorithm::winograd && !by_frames) {
    const ConvKernel split = select_conv3d_winograd_split_stub.get()(dtype);
    if (split.run != nullptr && winograd_tiles_pay(axes_[0], channels, filters)) kernel_ = split;
  }
  pack(weights, group_stride);
}

ConvProblem Convolution::problem() const {
  ConvProblem problem;
  for (std::size_t axis = 0; axis < 3; ++axis) problem.taps[axis] = axes_[axis].taps();
  problem.depthwise = depthwise_;
  problem.tile = kernel_.tile;
  problem.channels = channels_;
  problem.filters = filters_;
  problem.chunk = chunk_of(kernel_.chunks, channels_, std::max<int64_t>(problem.tap_count(), 1));
  return problem;
}

template <class Fn>
void Convolution::each_panel(std::size_t scratch_bytes, const Fn& fn) const {
  const int64_t panels = divide_up(filters_, kernel_.panel);
  const int64_t items = problem().tap_count() * (depthwise_ ? 1 : channels_) * kernel_.panel;
  constexpr int64_t kGrain = int64_t{1} << 16;
  const int64_t grain = std::max<int64_t>(kGrain / std::max<int64_t>(items, 1), 1);
  parallel_for(groups_ * panels, grain, scratch_bytes,
               [&](int64_t begin, int64_t end, std::byte* scratch) {
                 for (int64_t i = begin; i < end; ++i) fn(i / panels, i % panels, scratch);
               });
}

void Convolution::pack(const ConvWeights& weights, int64_t group_stride) {
  const ConvProblem whole = problem();
  packed_of_group_ = divide_up(kernel_.packed_bytes(whole), 64) * 64;
  packed_ = Buffer(packed_of_group_ * groups_);
  const int64_t item = item_size(dtype_);
  const auto bytes =
      static_cast<std::size_t>(kernel_.pack_scratch != nullptr ? kernel_.pack_scratch(whole) : 0);
  each_panel(bytes, [&](int64_t group, int64_t panel, std::byte* scratch) {
    ConvWeights part = weights;
    part.data = static_cast<const std::byte*>(weights.data) + group * group_stride * item;
    kernel_.pack(whole, part, panel, panel + 1, packed_.data() + group * packed_of_group_, scratch);
  });
}

const std::byte* Convolution::packed_for_rows() const {
  if (kernel_.pack_for_rows == nullptr) return packed_.data();
  std::call_once(for_rows_once_, [&] {
    const ConvProblem whole = problem();
    for_rows_ = Buffer(packed_.bytes());
    each_panel(0, [&](int64_t group, int64_t panel, std::byte*) {
      const int64_t at = group * packed_of_group_;
      kernel_.pack_for_rows(whole, packed_.data() + at, panel, panel + 1, for_rows_.data() + at);
    });
  });
  return for_rows_.data();
}

namespace {

struct Work {
  ConvProblem problem;
  ConvStrides x, past, out;
  Cut cut;
};

// Whether the taps in space are 3 x 3 neighbours, a step apart.
bool reads_planes(const ConvProblem& problem) {
  for (std::size_t axis = 1; axis < 3; ++axis) {
    const ConvTaps& taps = problem.taps[axis];
    if (taps.step != 1 || taps.count != 3) return false;
    if (taps.offset[1] != taps.offset[0] + 1 || taps.offset[2] != taps.offset[0] + 2) return false;
  }
  return true;
}

// Whether one tap along W reads nothing but x, in rows that are long enough for vectors; of a
// depthwise convolution, whether it reads planes and rows are long enough.
ConvInputs inputs_of(const Work& work, int64_t history, int64_t positions) {
  const ConvTaps& width = work.problem.taps[2];
  const bool along_rows = work.x.s[2] == 1 && work.out.s[2] == 1 && width.step == 1 &&
                          (history == 0 || work.past.s[2] == 1);
  if (work.problem.depthwise) {
    const bool rows = along_rows && work.x.c != 1 && reads_planes(work.problem);
    return rows && work.problem.out[2] >= kLeastRow ? ConvInputs::rows : ConvInputs::window;
  }
  if (width.count != 1 || width.offset[0] < 0) return ConvInputs::window;
  if ((positions - 1) * width.step + width.offset[0] >= work.problem.in[2]) {
    return ConvInputs::window;
  }
  const int64_t lanes = divide_up(work.problem.out[2], kLanesOfRows) * kLanesOfRows;
  return along_rows && lanes * 7 <= work.problem.out[2] * 8 ? ConvInputs::rows : ConvInputs::window;
}

}  // namespace

static Work plan_work(const ConvKernel& kernel, ConvProblem problem, DType dtype,
                      const Convolution::Extents& extents, int64_t groups,
                      const Convolution::Arrays* arrays) {
  Work work;
  problem.in = extents.in;
  problem.out = extents.out;
  work.problem = problem;
  const bool whole_rows = extents.first[1] == 0 && extents.first[2] == 0;
  const bool whole = whole_rows && extents.first[0] == 0;
  if (arrays != nullptr) {
    work.x = arrays->x.strides;
    work.past = arrays->history != 0 ? arrays->past.strides : work.x;
    work.out = arrays->out.strides;
    const std::array<ConvStrides*, 3> strides{&work.x, &work.past, &work.out};
    if (whole_rows) merge(1, 2, work.problem, strides);
    if (whole && arrays->history == 0) {
      merge(0, 1, work.problem, strides);
      merge(1, 2, work.problem, strides);
    }
    // Tiles of AMX want the weights as they lie for a window.
    const bool tiles = dtype == DType::bf16 && active_isa() == Isa::avx512_amx;
    if (kernel.takes_rows && (problem.depthwise || !tiles)) {
      work.problem.inputs =
          inputs_of(work, arrays->history, extents.first[2] + work.problem.out[2]);
    }
    const bool of_rows = work.problem.inputs == ConvInputs::rows;
    work.problem.together = work.problem.depthwise && (of_rows || work.x.c == 1);
  }
  work.cut = choose_cut(kernel, work.problem, extents.batch * groups);
  return work;
}

void Convolution::run(const Extents& extents, const Arrays& arrays) const {
  const Work work = plan_work(kernel_, problem(), dtype_, extents, groups_, &arrays);
  const Cut& cut = work.cut;
  const int64_t blocks = cut.blocks();
  const int64_t item = item_size(dtype_);
  const int64_t sum_item = dtype_ == DType::f64 ? 8 : 4;
  const int64_t panels = divide_up(filters_, kernel_.panel);
  ConvBlock all;
  all.problem = &work.problem;
  all.x_strides = work.x;
  all.past_strides = work.past;
  all.history = arrays.history;
  all.out_strides = work.out;
  all.activation = arrays.activation;
  const std::byte* const packed =
      work.problem.inputs == ConvInputs::rows ? packed_for_rows() : packed_.data();
  int64_t before_first = 0;
  for (std::size_t a = 0; a < 3; ++a) before_first += extents.first[a] * work.out.s[a];
  const auto block_at = [&](int64_t i) {
    const int64_t n = i / blocks / groups_;
    const int64_t g = i / blocks % groups_;
    const auto place = [&](const ConvArray& array, int64_t channels) {
      return static_cast<std::byte*>(array.data) +
             (n * array.batch + g * channels * array.strides.c) * item;
    };
    ConvBlock block = all;
    block.x = place(arrays.x, channels_);
    if (arrays.history != 0) block.past = place(arrays.past, channels_);
    block.out = place(arrays.out, filters_) - before_first * item;
    block.packed = packed + g * packed_of_group_;
    if (arrays.bias != nullptr) {
      block.bias = static_cast<const std::byte*>(arrays.bias) + g * filters_ * sum_item;
    }
    int64_t rest = i % blocks;
    block.first_panel = rest % cut.panel_groups * cut.panels;
    block.last_panel = std::min(block.first_panel + cut.panels, panels);
    rest /= cut.panel_groups;
    for (int axis = 2; axis >= 0; --axis) {
      const auto a = static_cast<std::size_t>(axis);
      const auto [from, to] = cut.range(a, rest % cut.count[a], work.problem.out[a]);
      block.begin[a] = extents.first[a] + from;
      block.end[a] = extents.first[a] + to;
      rest /= cut.count[a];
    }
    return block;
  };
  const int64_t count = extents.batch * groups_ * blocks;
  const int64_t pieces = arrays.last != nullptr ? arrays.last->pieces() : 0;
  if (count == 0) {
    if (pieces != 0) arrays.last->copy(0, 1, 1);
    return;
  }
  // The share of a block in the last frames: where it reads x itself, if blocks are in the order of
  // their rows.
  const auto copy_last = [&](int64_t i) {
    const int64_t plane = cut.count[1] * cut.count[2];
    const int64_t at_row = i / cut.panel_groups % plane;
    const int64_t others = i / (plane * cut.panel_groups) * cut.panel_groups + i % cut.panel_groups;
    const int64_t rank = at_row * (count / plane) + others;
    const int64_t first = rank * pieces / count;
    const int64_t behind = (rank + 1) * pieces / count;
    if (first < behind) arrays.last->copy(first, behind, pieces);
  };
  const auto run_blocks = [&](int64_t begin, int64_t end, std::byte* scratch) {
    for (int64_t i = begin; i < end; ++i) {
      ConvBlock block = block_at(i);
      block.scratch = scratch;
      const ConvBlock next = block_at(std::min(i + 1, count - 1));
      if (i + 1 < count) block.next = &next;
      if (pieces != 0) copy_last(i);
      if (block.begin[1] < block.end[1]) kernel_.run(block);
    }
  };
  const auto scratch = static_cast<std::size_t>(cut.scratch);
  const int64_t threads = std::min<int64_t>(num_threads(), count);
  if (cut.cost * static_cast<double>(threads) < kLeastOfTeam) {
    parallel_for(count, count, scratch, run_blocks);
  } else {
    parallel_for_in_spans(count, scratch, run_blocks);
  }
}

int64_t Convolution::workspace(const Extents& extents) const {
  const Work work = plan_work(kernel_, problem(), dtype_, extents, groups_, nullptr);
  const int64_t tasks = extents.batch * groups_ * work.cut.blocks();
  return std::min<int64_t>(num_threads(), tasks) * divide_up(work.cut.scratch, 64) * 64;
}

const char* Convolution::algorithm() const {
  if (depthwise_) return "depthwise";
  return algorithm_ == ConvAlgorithm::winograd ? "winograd" : "direct";
}

}  // namespace marey
